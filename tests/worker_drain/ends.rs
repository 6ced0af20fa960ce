//! An answer that ends its connection arrives, although the client still sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::worker::{TestWorker, config};

/// Sends `head`, then goes on sending for a second, and only then reads: everything to the end.
async fn talk_on(worker: &TestWorker, head: &[u8]) -> String {
    let mut stream = TcpStream::connect(worker.address).await.unwrap();
    stream.write_all(head).await.unwrap();
    for _ in 0..20 {
        sleep(Duration::from_millis(50)).await;
        stream
            .write_all(&[b'x'; 1000])
            .await
            .expect("it still listens");
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("no reset");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn the_refusal_of_a_bad_head_arrives() {
    let worker = TestWorker::start().await;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(200_000));
    for (head, status) in [("BAD\r\n\r\n".as_bytes(), "400"), (long.as_bytes(), "431")] {
        let answer = talk_on(&worker, head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn the_408_for_a_slow_head_arrives() {
    let mut config = config();
    config.http.header_timeout = Duration::from_millis(200);
    let worker = TestWorker::with(config).await;
    let answer = talk_on(&worker, b"GET / HTTP/1.1\r\nX: ").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn the_last_answer_arrives_at_a_client_that_has_not_read_it_yet() {
    let worker = TestWorker::start().await;
    let answer = talk_on(&worker, b"GET /last HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("last"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_that_stops_coming_is_answered_with_408() {
    let mut config = config();
    config.http.body_timeout = Duration::from_secs(2);
    config.http.header_timeout = Duration::from_millis(500);
    let worker = TestWorker::with(config).await;
    let mut client = Client::connect(&worker).await;
    client
        .send("POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n")
        .await;
    let begun = Instant::now();
    for _ in 0..4 {
        // Each piece in time, all together not.
        sleep(Duration::from_millis(700)).await;
        client.send("x").await;
    }
    let answer = client.answer().await;
    assert!(begun.elapsed() > Duration::from_millis(4700));
    assert!(answer.status == 408 && answer.says_close(), "{answer:?}");
    assert!(client.at_eof().await);
}

#[tokio::test]
async fn a_body_that_comes_slowly_is_waited_for() {
    let mut config = config();
    config.http.body_timeout = Duration::from_secs(2);
    config.http.keepalive_timeout = Duration::from_millis(500);
    config.http.header_timeout = Duration::from_millis(500);
    config.http.send_timeout = Duration::from_millis(500);
    let worker = TestWorker::with(config).await;
    let mut client = Client::connect(&worker).await;
    client
        .send("POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\n")
        .await;
    for _ in 0..4 {
        sleep(Duration::from_millis(700)).await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_listener_that_cannot_accept_costs_next_to_nothing() {
    // It was never told to listen: accept(2) says EINVAL, for ever.
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    let mut worker = TestWorker::beside(config(), socket, 1).await;
    worker.accept().await;
    sleep(Duration::from_secs(1)).await;
    let errors = worker.report().await.accept_errors;
    assert!((17..200).contains(&errors), "{errors} tries in a second");
}
