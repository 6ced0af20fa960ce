//! WebSockets that take part: they live through upgrades and rollbacks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use futures_util::{SinkExt as _, StreamExt as _};
use handover::testing::Running;
use handover::ws::{Event, Message, Resumed, Upgrade, WebSocket};
use handover::{BoxError, Context, Service};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;

use crate::client::soon;

/// Numbers what each client says; the number travels with the session.
fn service(knows: bool, moved: &Arc<AtomicBool>) -> Service {
    let moved = Arc::clone(moved);
    Service::new("test")
        .http("http", "[::]:80", move |cx: Context| {
            if knows {
                let moved = Arc::clone(&moved);
                cx.resume("count", move |session: Resumed| {
                    moved.store(true, Ordering::Relaxed);
                    go_on(session)
                });
            }
            async { Ok::<_, BoxError>(Router::new().route("/", get(begin))) }
        })
        .defaults(|settings| settings.drain.timeout = Duration::from_secs(20))
}

async fn begin(upgrade: Upgrade) -> Response {
    upgrade.accept(|socket| talk(0, socket))
}

async fn go_on(session: Resumed) {
    if let Ok(count) = session.blob.try_into() {
        talk(u32::from_be_bytes(count), session.socket).await;
    }
}

async fn talk(mut count: u32, mut socket: WebSocket) {
    loop {
        match socket.next().await {
            Event::Message(Message::Text(text)) => {
                count += 1;
                let generation = socket.context().generation();
                let answer = format!("g{generation} {count} {}", text.len());
                if text == "wrong state" {
                    return socket.pass_on("count", "no number").await;
                }
                if socket.send(answer).await.is_err() {
                    return;
                }
            }
            Event::Message(Message::Binary(_)) => return socket.close(4001, "bytes").await,
            Event::Drain => return socket.pass_on("count", count.to_be_bytes()).await,
            _ => return,
        }
    }
}

type Client = WebSocketStream<TcpStream>;

async fn connect(address: SocketAddr) -> Client {
    let stream = TcpStream::connect(address).await.unwrap();
    let url = format!("ws://{address}/");
    tokio_tungstenite::client_async(url, stream)
        .await
        .unwrap()
        .0
}

async fn hear(client: &mut Client) -> String {
    match soon(client.next()).await.unwrap().unwrap() {
        tungstenite::Message::Text(text) => text.as_str().into(),
        other => panic!("{other:?}"),
    }
}

async fn is_closed(client: &mut Client, code: u16) {
    match soon(client.next()).await.unwrap().unwrap() {
        tungstenite::Message::Close(Some(why)) => assert_eq!(u16::from(why.code), code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_lives_through_a_hundred_moves_and_no_message_is_lost_doubled_or_out_of_order() {
    const MOVES: usize = 100;
    let moved = Arc::new(AtomicBool::new(false));
    let mut running = Running::start(service(true, &moved)).await.unwrap();
    let address = running.address("http").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (1..=4_usize)
        .map(|size| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut client = connect(address).await;
                let (mut said, mut heard, mut generations) = (0, 0, 0);
                let mut last = String::new();
                while !stop.load(Ordering::Relaxed) || heard < said {
                    // Several on their way, so that a move meets them anywhere: in one piece of many
                    // frames, and in the middle of a long one.
                    if !stop.load(Ordering::Relaxed) {
                        for _ in 0..3 {
                            let text = "x".repeat(size * size * 2000);
                            client.feed(tungstenite::Message::text(text)).await.unwrap();
                            said += 1;
                        }
                        client.flush().await.unwrap();
                    }
                    while heard + 2 < said || (stop.load(Ordering::Relaxed) && heard < said) {
                        heard += 1;
                        let answer = hear(&mut client).await;
                        let (generation, rest) = answer.split_once(' ').unwrap();
                        assert_eq!(rest, format!("{heard} {}", size * size * 2000));
                        if generation != last {
                            generations += 1;
                            last = generation.into();
                        }
                    }
                }
                client.close(None).await.unwrap();
                (heard, generations)
            })
        })
        .collect();
    for n in 0..MOVES / 2 {
        running.upgrade(service(true, &moved)).await.unwrap();
        if n % 2 == 0 {
            soon(running.drained()).await;
            running.rollback().await.unwrap();
        } else {
            // The generation before may not have passed on everything.
            running.upgrade(service(true, &moved)).await.unwrap();
        }
        soon(running.drained()).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let (heard, generations) = soon(client).await.unwrap();
        assert!(heard > 100 && generations > 20, "{heard} {generations}");
    }
    let ended = soon(running.stop()).await;
    assert_eq!(ended.cut, 0);
    assert!(ended.passed > 100, "{ended:?}");
}

#[tokio::test]
async fn an_idle_session_moves_before_its_client_says_anything() {
    let moved = Arc::new(AtomicBool::new(false));
    let mut running = Running::start(service(true, &moved)).await.unwrap();
    let mut client = connect(running.address("http").unwrap()).await;
    client
        .send(tungstenite::Message::text("one"))
        .await
        .unwrap();
    assert_eq!(hear(&mut client).await, "g1 1 3");
    running.upgrade(service(true, &moved)).await.unwrap();
    // The whole generation ends, and the client has not said a word.
    assert_eq!(soon(running.drained()).await.passed, 1);
    client
        .send(tungstenite::Message::text("two!"))
        .await
        .unwrap();
    assert_eq!(hear(&mut client).await, "g2 2 4");
    client
        .send(tungstenite::Message::binary("x"))
        .await
        .unwrap();
    is_closed(&mut client, 4001).await;
}

#[tokio::test]
async fn a_client_is_told_to_come_again_when_nobody_can_go_on_with_its_session() {
    let moved = Arc::new(AtomicBool::new(false));
    // The new program does not know the name.
    let mut running = Running::start(service(true, &moved)).await.unwrap();
    let mut client = connect(running.address("http").unwrap()).await;
    client
        .send(tungstenite::Message::text("one"))
        .await
        .unwrap();
    hear(&mut client).await;
    running.upgrade(service(false, &moved)).await.unwrap();
    is_closed(&mut client, 1012).await;
    assert!(!moved.load(Ordering::Relaxed));
    // It knows the name, and not this state: whoever goes on drops the socket.
    running.upgrade(service(true, &moved)).await.unwrap();
    // Both accept for a moment.
    let mut client = loop {
        let mut client = connect(running.address("http").unwrap()).await;
        client
            .send(tungstenite::Message::text("one"))
            .await
            .unwrap();
        if hear(&mut client).await.starts_with("g3 ") {
            break client;
        }
    };
    client
        .send(tungstenite::Message::text("wrong state"))
        .await
        .unwrap();
    is_closed(&mut client, 1012).await;
    assert!(moved.load(Ordering::Relaxed));
}
