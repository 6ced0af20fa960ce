//! Streams of applications that know nothing of drains: they end between two messages, and not all
//! at once.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::WebSocketUpgrade;
use axum::extract::ws::Message;
use axum::response::IntoResponse as _;
use axum::routing::get;
use futures_util::{SinkExt as _, StreamExt as _};
use handover::Service;
use handover::testing::Running;
use http::header::CONTENT_TYPE;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;

use crate::client::{Client, soon, text};

fn service(drain: Duration) -> Service {
    let echo = async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.next().await {
                if let Message::Text(_) = message {
                    socket.send(message).await.unwrap();
                }
            }
        })
    };
    // An event in two pieces, again and again.
    let events = async || {
        let pieces = futures_util::stream::unfold(0_u32, async |n| {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let piece = if n % 2 == 0 {
                format!("data: {n}\n")
            } else {
                "\n".into()
            };
            Some((Ok::<_, Infallible>(piece), n + 1))
        });
        (
            [(CONTENT_TYPE, "text/event-stream")],
            Body::from_stream(pieces),
        )
            .into_response()
    };
    let app = Router::new()
        .route("/echo", get(echo))
        .route("/events", get(events))
        .route(
            "/",
            get(async |cx: handover::Context| cx.generation().to_string()),
        );
    Service::new("test")
        .http("http", "[::]:80", app)
        .defaults(|settings| settings.drain.timeout = drain)
}

#[tokio::test]
async fn web_sockets_are_ended_with_1012_one_after_the_other() {
    const DRAIN: Duration = Duration::from_secs(8);
    let mut running = Running::start(service(DRAIN)).await.unwrap();
    let address = running.address("http").unwrap();
    let mut sockets = Vec::new();
    for n in 0..20 {
        let stream = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}/echo");
        let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        socket
            .send(tungstenite::Message::text(n.to_string()))
            .await
            .unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap().to_text().unwrap(),
            n.to_string()
        );
        sockets.push(socket);
    }
    running.upgrade(service(DRAIN)).await.unwrap();
    let begun = Instant::now();
    let ends = sockets.into_iter().map(|mut socket| async move {
        // It is served on until then.
        loop {
            socket.send(tungstenite::Message::text("on")).await.unwrap();
            match soon(socket.next()).await.unwrap().unwrap() {
                tungstenite::Message::Text(text) => assert_eq!(text.as_str(), "on"),
                tungstenite::Message::Close(why) => {
                    assert_eq!(u16::from(why.unwrap().code), 1012);
                    break;
                }
                other => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ended = begun.elapsed();
        // The other side closes first, and without an error.
        assert!(soon(socket.next()).await.is_none());
        ended
    });
    let mut ends = futures_util::future::join_all(ends).await;
    ends.sort();
    assert!(*ends.last().unwrap() < DRAIN, "{ends:?}");
    for quarter in 1..3 {
        let within = |end: &&Duration| end.as_secs() / 2 == quarter;
        let count = ends.iter().filter(within).count();
        assert!((2..=10).contains(&count), "{ends:?}");
    }
    let ended = soon(running.drained()).await;
    assert_eq!((ended.finished, ended.cut), (20, 0));
}

#[tokio::test]
async fn a_stream_of_events_ends_after_an_event_and_its_connection_is_passed_on() {
    const DRAIN: Duration = Duration::from_secs(2);
    let mut running = Running::start(service(DRAIN)).await.unwrap();
    let mut client = Client::connect(running.address("http").unwrap()).await;
    let events = client.ask("GET", "/events").await;
    running.upgrade(service(DRAIN)).await.unwrap();
    let events = text(events).await;
    assert!(
        events.starts_with("data: 0\n\n") && events.ends_with("\n\n"),
        "{events}"
    );
    assert_eq!(client.get("/").await, "2");
    assert_eq!(soon(running.drained()).await.passed, 1);
}
