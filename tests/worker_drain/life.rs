//! A worker before it drains: orders, limits and times.

use std::os::fd::AsFd as _;
use std::time::Duration;

use handover::config::Config;
use handover::machine::link::ToWorker;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::worker::{TestWorker, checksum, config, pattern};

async fn pause(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

#[tokio::test]
async fn it_accepts_only_when_told_and_again_after_a_pause() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut worker = TestWorker::beside(config(), listener, 1).await;
    let mut early = Client::connect(&worker).await;
    early.send("GET /hello HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert!(early.is_silent(Duration::from_millis(100)).await);
    worker.accept().await;
    assert_eq!(early.answer().await.status, 200);
    worker.tell(&ToWorker::Quiesce, &[]).await;
    worker.report().await;
    let mut late = Client::connect(&worker).await;
    late.send("GET /hello HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert!(late.is_silent(Duration::from_millis(100)).await);
    assert_eq!(early.get("/hello").await.status, 200);
    worker.accept().await;
    assert_eq!(late.answer().await.status, 200);
    worker.end().await;
    worker.gone().await;
}

#[tokio::test]
async fn a_draining_worker_leaves_the_queue_to_the_next_one() {
    let mut first = TestWorker::start().await;
    let mut second = TestWorker::beside(config(), first.listener.try_clone().unwrap(), 2).await;
    first.drain(Some(Duration::from_secs(5))).await;
    let mut client = Client::connect(&first).await;
    client.send("GET /hello HTTP/1.1\r\nHost: t\r\n\r\n").await;
    first.drained().await;
    assert!(client.is_silent(Duration::from_millis(50)).await);
    second.accept().await;
    assert_eq!(client.answer().await.text(), "hello from g2");
}

#[tokio::test]
async fn a_threaded_worker_serves_as_well() {
    let worker = TestWorker::with(Config {
        threads: 2,
        ..config()
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(&worker).await);
    }
    for client in &mut clients {
        assert_eq!(client.get("/hello").await.status, 200);
    }
    let mut worker = worker;
    worker.drain(Some(Duration::from_secs(8))).await;
    for client in &mut clients {
        assert!(client.get("/hello").await.says_close());
    }
    drop(clients);
    assert_eq!(worker.drained().await.finished, 20);
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_until_another_ends() {
    let mut config = config();
    config.http.max_connections = 2;
    let worker = TestWorker::with(config).await;
    let mut first = Client::connect(&worker).await;
    let mut second = Client::connect(&worker).await;
    first.get("/hello").await;
    second.get("/hello").await;
    let mut third = Client::connect(&worker).await;
    third.send("GET /hello HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert!(third.is_silent(Duration::from_millis(200)).await);
    drop(first);
    assert_eq!(third.answer().await.status, 200);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_answered_with_408() {
    let mut config = config();
    config.http.header_timeout = Duration::from_secs(1);
    let worker = TestWorker::with(config).await;
    let mut fresh = Client::connect(&worker).await;
    let mut used = Client::connect(&worker).await;
    let mut mute = Client::connect(&worker).await;
    used.get("/hello").await;
    let begun = Instant::now();
    for client in [&mut fresh, &mut used] {
        client.send("GET /hello HTTP/1.1\r\nX: ").await;
    }
    for _ in 0..6 {
        // Trickling does not help.
        pause(50).await;
        fresh.send("x").await;
    }
    assert_eq!(fresh.answer().await.status, 408);
    assert_eq!(used.answer().await.status, 408);
    assert!(mute.at_eof().await);
    let took = begun.elapsed().as_millis();
    assert!((1000..6000).contains(&took), "{took}; idle it is 75 s");
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_the_keep_alive_time_and_no_longer() {
    for keepalive in [500, 4000] {
        let mut config = config();
        config.http.keepalive_timeout = Duration::from_millis(keepalive);
        let worker = TestWorker::with(config).await;
        let mut client = Client::connect(&worker).await;
        client.get("/hello").await;
        let begun = Instant::now();
        assert!(client.at_eof().await);
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
        let right = keepalive - 100..keepalive + 5000;
        assert!(right.contains(&took), "{took}; the default is 75 s");
    }
}

#[tokio::test]
async fn a_parked_connection_is_served_as_if_nothing_had_been() {
    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    client.get("/hello").await;
    for _ in 0..2 {
        pause(3300).await;
        assert_eq!(client.get("/hello").await.text(), "hello from g1");
        client
            .send("POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 9000\r\n\r\n")
            .await;
        client.send(pattern(9000)).await;
        assert_eq!(client.answer().await.text(), checksum(&pattern(9000)));
    }
    let report = worker.report().await;
    assert_eq!((report.connections, report.requests), (1, 5));
    assert_eq!(report.disagreements, 0);
}

#[tokio::test]
async fn the_application_knows_who_asks() {
    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    let ours = client.stream.local_addr().unwrap();
    assert_eq!(client.get("/peer").await.text(), ours.to_string());
}

#[tokio::test]
async fn an_oversized_ignored_body_ends_the_connection_after_a_whole_answer() {
    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    client
        .send("POST /ignore HTTP/1.1\r\nHost: t\r\nContent-Length: 5000000\r\n\r\n")
        .await;
    let (mut read, mut write) = client.stream.into_split();
    let writing = tokio::spawn(async move {
        // Until the worker has had enough.
        for _ in 0..50 {
            if write.write_all(&[b'x'; 100_000]).await.is_err() {
                break;
            }
        }
        write
    });
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut read, &mut answer)
        .await
        .unwrap();
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(
        answer.contains("connection: close") && answer.ends_with("ignored"),
        "{answer}"
    );
    writing.await.unwrap();
    worker.until(|report| report.connections == 0).await;
}

/// In chunks: when the answer begins nobody knows how much will come. So the connection goes on.
#[tokio::test]
async fn a_long_ignored_body_of_unknown_length_is_read_over() {
    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    client
        .send("POST /ignore HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert!(answer.text() == "ignored" && !answer.says_close());
    let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
    for _ in 0..30 {
        client.send(&chunk).await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.get("/hello").await.text(), "hello from g1");
}

#[tokio::test]
async fn a_slow_reader_is_served_and_one_that_takes_nothing_is_not() {
    let mut config = config();
    config.http.send_timeout = Duration::from_secs(2);
    // Only for idle connections.
    config.http.keepalive_timeout = Duration::from_millis(100);
    let worker = TestWorker::with(config).await;
    let mut slow = Client::accepted(&worker).await;
    let mut mute = Client::accepted(&worker).await;
    for client in [&mut slow, &mut mute] {
        client
            .send("GET /download/60000000 HTTP/1.1\r\nHost: t\r\n\r\n")
            .await;
    }
    slow.head().await;
    for step in 0..10 {
        pause(300).await;
        slow.exactly(6_000_000).await;
        if step == 6 {
            worker.until(|report| report.connections == 1).await;
        }
    }
}

#[tokio::test]
async fn the_request_of_a_client_that_has_vanished_is_not_worked_on_for_ever() {
    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    client
        .send("GET /slow/60000 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    worker.until(|report| report.requests == 1).await;
    drop(client);
    let begun = Instant::now();
    worker.until(|report| report.connections == 0).await;
    assert!(begun.elapsed() > Duration::from_secs(9));
}

#[tokio::test]
async fn an_ignored_body_that_trickles_is_not_read_for_ever() {
    let mut config = config();
    config.http.header_timeout = Duration::from_millis(500);
    let worker = TestWorker::with(config).await;
    for (field, piece) in [
        ("Content-Length: 100", "x"),
        ("Transfer-Encoding: chunked", "1\r\nx\r\n"),
    ] {
        let mut client = Client::connect(&worker).await;
        client
            .send(format!(
                "POST /ignore HTTP/1.1\r\nHost: t\r\n{field}\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer().await.text(), "ignored");
        let begun = Instant::now();
        let (mut read, mut write) = client.stream.into_split();
        let trickling = tokio::spawn(async move {
            while write.write_all(piece.as_bytes()).await.is_ok() {
                pause(100).await;
            }
        });
        let mut rest = Vec::new();
        let ended = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut rest);
        let ended = tokio::time::timeout(Duration::from_secs(8), ended).await;
        let took = begun.elapsed();
        assert!(
            matches!(ended, Ok(Ok(_))) && took > Duration::from_millis(400),
            "{field}: {ended:?} after {took:?}; all of it is 10 s, or has no end"
        );
        trickling.abort();
    }
}

#[tokio::test]
async fn an_application_that_cannot_load_says_why() {
    use handover::machine::link::{FromWorker, Start};
    use handover::sys::channel::Channel;
    for (names, expected) in [
        (vec![], "no application for the listener \"http\""),
        (vec!["bad"], "broken"),
    ] {
        let (channel, theirs) = Channel::pair().unwrap();
        let fails = !names.is_empty();
        let thread = std::thread::spawn(move || {
            handover::worker::run(theirs, move |_| {
                Box::pin(async move {
                    if fails {
                        Err("broken".into())
                    } else {
                        Ok(std::collections::HashMap::new())
                    }
                })
            })
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let start = Start {
            name: "t".into(),
            generation: 1,
            slot: 0,
            version: "1".into(),
            config: config(),
            listeners: 1,
            handoff: None,
            board: false,
            typed: Vec::new(),
            hosted: None,
            tls: false,
        };
        channel
            .send(&ToWorker::Start(Box::new(start)), &[])
            .await
            .unwrap();
        let one = handover::machine::link::WorkerListener {
            id: 1,
            name: "http".into(),
            address: String::new(),
            shared: false,
        };
        channel
            .send(
                &ToWorker::Listeners {
                    listeners: vec![one],
                },
                &[listener.as_fd()],
            )
            .await
            .unwrap();
        let word: FromWorker = channel.recv().await.unwrap().unwrap().decode().unwrap();
        let FromWorker::Failed { reason } = word else {
            panic!("{word:?}")
        };
        assert!(reason.contains(expected), "{reason}");
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn http1_and_http2_share_a_listener_whatever_the_first_packet_holds() {
    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    for byte in "PUT /hello HTTP/1.1\r\nHost: t\r\n\r\n".bytes() {
        client.send([byte]).await;
        pause(1).await;
    }
    assert_eq!(client.answer().await.status, 405);
    let mut h2 = TcpStream::connect(worker.address).await.unwrap();
    for part in [
        "PRI * HTTP/2.0\r\n",
        "\r\nSM\r\n\r",
        "\n\0\0\0\x04\0\0\0\0\0",
    ] {
        h2.write_all(part.as_bytes()).await.unwrap();
        pause(20).await;
    }
    let mut frame = [0; 9];
    tokio::io::AsyncReadExt::read_exact(&mut h2, &mut frame)
        .await
        .unwrap();
    assert_eq!(frame[3], 4, "SETTINGS");
}
