//! Requests that ask for another protocol: answered otherwise they are requests like any other; once
//! answered with 101 the connection is the application's.

use std::time::Duration;

use handover::sys::handoff;
use tokio::time::sleep;

use crate::client::Client;
use crate::worker::{TestWorker, config};

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

/// As curl's `--http2` and Java's HttpClient send it by default.
const H2C: &str = "GET /hello HTTP/1.1\r\nHost: t\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n";
const CONNECT: &str = "CONNECT t:80 HTTP/1.1\r\nHost: t:80\r\n\r\n";
const LATE: &str = "GET /late-upgrade/400 HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\n\
                    Upgrade: shout\r\n\r\n";

async fn pause(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

/// A worker, one that takes its connections, and the sending end to it.
async fn pair() -> (TestWorker, TestWorker, std::os::fd::OwnedFd) {
    let old = TestWorker::start().await;
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let new = TestWorker::begin(config(), listener, 2, None, Some(receiving)).await;
    (old, new, sending)
}

#[tokio::test]
async fn a_connection_that_asked_for_another_protocol_in_vain_goes_on_and_can_be_passed_on() {
    let (mut old, new, sending) = pair().await;
    let mut clients = Vec::new();
    for request in [H2C, CONNECT] {
        let mut client = Client::accepted(&old).await;
        for _ in 0..3 {
            client.send(request).await;
            let status = client.answer().await.status;
            assert!(status == 200 || request == CONNECT, "{status}");
            // Long enough to be taken out of hyper.
            assert!(client.is_silent(Duration::from_millis(100)).await);
        }
        assert_eq!(client.get("/hello").await.text(), "hello from g1");
        client.send(request).await;
        client.answer().await;
        clients.push(client);
    }
    old.pass_to(&[&sending]).await;
    let report = old.drained().await;
    assert_eq!((report.passed, report.disagreements), (2, 0));
    for client in &mut clients {
        assert_eq!(client.get("/hello").await.text(), "hello from g2");
    }
    assert_eq!(new.report().await.received, 2);
}

#[tokio::test]
async fn in_the_fallback_it_gets_its_last_answer_like_any_other() {
    let mut worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    client.send(H2C).await;
    client.answer().await;
    worker.drain(MINUTE).await;
    client.send(H2C).await;
    let answer = client.answer().await;
    assert!(answer.says_close() && answer.status == 200, "{answer:?}");
    assert!(client.at_eof().await);
    drop(client);
    assert_eq!(worker.drained().await.finished, 1);
}

#[tokio::test]
async fn a_handshake_in_flight_when_the_drain_begins_is_heard_afterwards() {
    for passes in [false, true] {
        let (mut old, _new, sending) = pair().await;
        let mut client = Client::accepted(&old).await;
        // A request before: the connection has once been idle.
        client.get("/hello").await;
        client.send(LATE).await;
        pause(100).await;
        if passes {
            old.pass_to(&[&sending]).await;
        } else {
            old.drain(MINUTE).await;
        }
        assert_eq!(client.answer().await.status, 101);
        for _ in 0..3 {
            client.send("hear me").await;
            assert_eq!(client.exactly(7).await, b"HEAR ME");
            pause(50).await;
        }
        drop(client);
        let report = old.drained().await;
        assert_eq!((report.finished, report.cut), (1, 0), "passes: {passes}");
    }
}

#[tokio::test]
async fn what_follows_a_handshake_at_once_is_the_applications() {
    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    client.send(format!("{LATE}first words")).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(client.exactly(11).await, b"FIRST WORDS");
}
