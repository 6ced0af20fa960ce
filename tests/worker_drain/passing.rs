//! Connections are passed on: the client keeps its connection and notices nothing.

use std::os::fd::OwnedFd;
use std::time::Duration;

use handover::machine::link::{Report, ToWorker};
use handover::sys::handoff::{self, Targets};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tokio_seqpacket::UnixSeqpacketListener;

use crate::client::Client;
use crate::worker::{READS, TestWorker, checksum, config, pattern};

async fn pause(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

fn offered(sending: OwnedFd) -> Targets {
    let (ends, reads) = (vec![sending], READS);
    Targets {
        ends,
        reads,
        ..Targets::default()
    }
}

/// The next generation of `old`, accepting, and the sending end to it.
async fn successor(old: &TestWorker, generation: u64) -> (TestWorker, OwnedFd) {
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let mut new = TestWorker::begin(config(), listener, generation, None, Some(receiving)).await;
    new.accept().await;
    (new, sending)
}

/// Waits until `worker` has taken over so many.
async fn received(worker: &TestWorker, count: u64) {
    worker.until(|report| report.received == count).await;
}

fn passed(report: &Report) -> (u64, u64, u64, u64) {
    (
        report.passed,
        report.finished,
        report.cut,
        report.disagreements,
    )
}

#[tokio::test]
async fn an_idle_connection_goes_on_in_the_next_generation() {
    let mut old = TestWorker::start().await;
    let mut used = Client::accepted(&old).await;
    let mut fresh = Client::accepted(&old).await;
    assert_eq!(used.get("/hello").await.text(), "hello from g1");
    let (new, sending) = successor(&old, 2).await;
    let begun = Instant::now();
    old.pass_to(&[&sending]).await;
    assert_eq!(passed(&old.drained().await), (2, 0, 0, 0));
    // Who finds nobody has waited so long before it ends them.
    assert!(begun.elapsed() < Duration::from_secs(5));
    for _ in 0..3 {
        for client in [&mut used, &mut fresh] {
            let answer = client.get("/hello").await;
            assert_eq!(answer.text(), "hello from g2");
            assert!(!answer.says_close());
        }
    }
    let report = new.report().await;
    assert_eq!((report.received, report.accepted), (2, 0));
}

#[tokio::test]
async fn half_a_head_travels_along_through_three_generations() {
    let mut worker = TestWorker::start().await;
    let mut fresh = Client::accepted(&worker).await;
    let mut used = Client::accepted(&worker).await;
    used.get("/hello").await;
    for (generation, part) in [(2, "GET /hel"), (3, "lo HTTP/1.1\r\nHo"), (4, "st: t\r\n")] {
        fresh.send(part).await;
        used.send(part).await;
        pause(50).await;
        let (new, sending) = successor(&worker, generation).await;
        worker.pass_to(&[&sending]).await;
        assert_eq!(passed(&worker.drained().await), (2, 0, 0, 0));
        worker = new;
    }
    for client in [&mut fresh, &mut used] {
        client.send("\r\n").await;
        assert_eq!(client.answer().await.text(), "hello from g4");
    }
}

#[tokio::test]
async fn what_is_in_flight_is_answered_here_and_the_next_request_there() {
    let mut old = TestWorker::start().await;
    let body = pattern(50_000);
    let mut clients = Vec::new();
    for _ in 0..9 {
        clients.push(Client::accepted(&old).await);
    }
    let [
        slow,
        upload,
        download,
        stream,
        late,
        ignored,
        expect,
        background,
        piped,
    ] = &mut clients[..]
    else {
        unreachable!()
    };
    slow.send("GET /slow/3000 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    upload
        .send("POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 50000\r\n\r\n")
        .await;
    upload.send(&body[..20_000]).await;
    download
        .send("GET /download/20000000 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    stream
        .send("GET /stream/5/600 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    late.send("GET /late-end/700 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    ignored
        .send("POST /ignore HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    expect
        .send(
            "POST /upload HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        )
        .await;
    background
        .send("POST /background HTTP/1.1\r\nHost: t\r\nContent-Length: 20\r\n\r\n0123456789")
        .await;
    piped
        .send("GET /slow/3000 HTTP/1.1\r\nHost: t\r\n\r\nGET /echo/a HTTP/1.1\r\nHost: t\r\n\r\nGET /echo/b HT")
        .await;
    old.until(|report| report.requests == 9).await;
    let (new, sending) = successor(&old, 2).await;
    old.pass_to(&[&sending]).await;
    // hyper ends an answer of known length with its last byte; the others are busy.
    old.until(|report| report.connections == 8).await;

    assert_eq!(slow.answer().await.text(), "after 3000");
    upload.send(&body[20_000..]).await;
    assert_eq!(upload.answer().await.text(), checksum(&body));
    assert!(download.answer().await.body == pattern(20_000_000));
    assert_eq!(stream.answer().await.body.len(), 5 * "chunk 0;".len());
    assert_eq!(late.answer().await.text(), "whole");
    assert_eq!(ignored.answer().await.text(), "ignored");
    ignored.send("3\r\nabc\r\n").await;
    pause(50).await;
    ignored.send("0\r\n\r\n").await;
    assert_eq!(expect.answer().await.status, 100);
    expect.send("hello").await;
    assert_eq!(expect.answer().await.text(), checksum(b"hello"));
    assert_eq!(background.answer().await.text(), "later");
    background.send("0123456789").await;
    assert_eq!(piped.answer().await.text(), "after 3000");
    assert_eq!(piped.answer().await.text(), "a");
    piped.send("TP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(piped.answer().await.text(), "b");

    assert_eq!(passed(&old.drained().await), (9, 0, 0, 0));
    for client in &mut clients {
        assert_eq!(client.get("/hello").await.text(), "hello from g2");
    }
    assert_eq!(new.report().await.received, 9);
}

#[tokio::test]
async fn a_connection_that_was_to_end_ends() {
    let mut old = TestWorker::start().await;
    let mut close = Client::accepted(&old).await;
    let mut ancient = Client::accepted(&old).await;
    let mut gone = Client::accepted(&old).await;
    gone.get("/hello").await;
    close
        .send("GET /slow/2000 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        .await;
    ancient.send("GET /slow/2000 HTTP/1.0\r\n\r\n").await;
    old.until(|report| report.requests == 3).await;
    gone.stream.shutdown().await.unwrap();
    assert!(gone.at_eof().await);
    let (new, sending) = successor(&old, 2).await;
    old.pass_to(&[&sending]).await;
    assert_eq!(close.answer().await.text(), "after 2000");
    assert_eq!(ancient.answer().await.text(), "after 2000");
    assert!(close.at_eof().await && ancient.at_eof().await);
    assert_eq!(passed(&old.drained().await), (0, 2, 0, 0));
    assert_eq!(new.report().await.connections, 0);
}

#[tokio::test]
async fn an_upgraded_connection_stays_to_its_end() {
    let mut old = TestWorker::start().await;
    // More than there are permits: they must not hold up the others.
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = Client::accepted(&old).await;
        client
            .send(
                "GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n",
            )
            .await;
        assert_eq!(client.answer().await.status, 101);
        clients.push(client);
    }
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(Client::accepted(&old).await);
    }
    let (new, sending) = successor(&old, 2).await;
    old.pass_to(&[&sending]).await;
    received(&new, 40).await;
    for client in &mut clients {
        client.send("hear me").await;
        assert_eq!(client.exactly(7).await, b"HEAR ME");
    }
    drop(clients);
    assert_eq!(passed(&old.drained().await), (40, 40, 0, 0));
}

#[tokio::test]
async fn they_are_dealt_evenly() {
    let mut old = TestWorker::start().await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(Client::accepted(&old).await);
    }
    let (first, to_first) = successor(&old, 2).await;
    let (second, to_second) = successor(&old, 2).await;
    old.pass_to(&[&to_first, &to_second]).await;
    old.drained().await;
    received(&first, 32).await;
    received(&second, 32).await;
}

#[tokio::test]
async fn a_receiver_that_dies_is_replaced_by_the_others() {
    let mut old = TestWorker::start().await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(Client::accepted(&old).await);
    }
    let (new, alive) = successor(&old, 2).await;
    let (dead, receiving) = handoff::pair().unwrap();
    drop(receiving);
    old.pass_to(&[&dead, &alive]).await;
    assert_eq!(passed(&old.drained().await), (50, 0, 0, 0));
    for client in &mut clients {
        assert_eq!(client.get("/hello").await.text(), "hello from g2");
    }
    assert_eq!(new.report().await.received, 50);
}

#[tokio::test]
async fn a_receiver_that_hangs_is_given_up() {
    let mut old = TestWorker::start().await;
    let mut clients = Vec::new();
    for _ in 0..600 {
        clients.push(Client::connect(&old).await);
    }
    old.until(|report| report.accepted == 600).await;
    let (new, alive) = successor(&old, 2).await;
    let (hung, receiving) = handoff::pair().unwrap();
    old.pass_to(&[&hung, &alive]).await;
    assert_eq!(passed(&old.drained().await), (600, 0, 0, 0));
    // It got a queue full of its half, and no more.
    new.until(|report| report.received > 300).await;
    // What is in its queue is served when somebody takes it: here a late replacement.
    new.tell(&ToWorker::ReceiveFrom, &[&receiving]).await;
    for client in &mut clients {
        assert_eq!(client.get("/hello").await.text(), "hello from g2");
    }
}

#[tokio::test]
async fn without_a_living_receiver_they_are_served_to_their_end_here() {
    let mut old = TestWorker::start().await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(Client::accepted(&old).await);
    }
    clients[0].send("GET /hello HTTP").await;
    pause(50).await;
    let (dead, receiving) = handoff::pair().unwrap();
    drop(receiving);
    old.pass_to(&[&dead]).await;
    pause(200).await;
    clients[0].send("/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(clients[0].answer().await.text(), "hello from g1");
    for client in &mut clients[1..] {
        assert!(client.get("/hello").await.says_close());
    }
    clients.clear();
    assert_eq!(passed(&old.drained().await), (0, 50, 0, 0));
}

#[tokio::test]
async fn targets_that_come_late_are_used() {
    let mut old = TestWorker::start().await;
    let mut client = Client::accepted(&old).await;
    client.get("/hello").await;
    old.drain_and(true, Some(Duration::from_secs(30))).await;
    // Nobody is there when it asks first.
    pause(300).await;
    let (_new, sending) = successor(&old, 2).await;
    old.owner(&[&sending], READS).await.unwrap();
    assert_eq!(passed(&old.drained().await), (1, 0, 0, 0));
    assert_eq!(client.get("/hello").await.text(), "hello from g2");
}

#[tokio::test]
async fn a_worker_that_drains_itself_passes_on_what_is_still_in_its_queue() {
    let mut first = TestWorker::start().await;
    let mut clients = Vec::new();
    for _ in 0..80 {
        clients.push(Client::accepted(&first).await);
    }
    let (to_second, receiving) = handoff::pair().unwrap();
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut second = TestWorker::begin(config(), elsewhere, 2, None, Some(receiving)).await;
    second.accept().await;
    let (third, to_third) = successor(&first, 3).await;

    // The second one cannot look at its queue before it is told to drain.
    let mut blocker = Client::accepted(&second).await;
    blocker
        .send("GET /block/600 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    pause(100).await;
    first.pass_to(&[&to_second]).await;
    assert_eq!(passed(&first.drained().await), (80, 0, 0, 0));
    second.pass_to(&[&to_third]).await;
    assert_eq!(blocker.answer().await.text(), "blocked");
    assert_eq!(passed(&second.drained().await), (81, 0, 0, 0));
    for client in &mut clients {
        assert_eq!(client.get("/hello").await.text(), "hello from g3");
    }
    received(&third, 81).await;
    // And who still has a sending end to it, learns that it takes nothing any more.
    let sent = rustix::net::send(&to_second, b"x", rustix::net::SendFlags::NOSIGNAL);
    assert_eq!(sent.unwrap_err(), rustix::io::Errno::PIPE);
}

#[tokio::test]
async fn an_orphan_asks_the_owner_and_passes_its_connections_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("handoff.sock");
    let mut socket = UnixSeqpacketListener::bind(&path).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut orphan = TestWorker::begin(config(), listener, 1, Some(path), None).await;
    orphan.accept().await;
    let mut idle = Client::accepted(&orphan).await;
    let mut busy = Client::accepted(&orphan).await;
    busy.send("GET /slow/9000 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    orphan.until(|report| report.requests == 1).await;
    let (new, sending) = successor(&orphan, 2).await;
    orphan.channel = None;
    let accepted = socket.accept().await.unwrap();
    let request = handoff::answer(accepted, &offered(sending)).await.unwrap();
    assert_eq!(request.generation, 1);
    received(&new, 1).await;
    assert_eq!(idle.get("/hello").await.text(), "hello from g2");
    // Somebody serves on: nobody hurries, not even beyond the stop timeout of 8 s.
    assert_eq!(busy.answer().await.text(), "after 9000");
    orphan.gone().await;
    assert_eq!(busy.get("/hello").await.text(), "hello from g2");
}

#[tokio::test]
async fn an_orphan_that_nobody_could_answer_leaves_quickly() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("handoff.sock");
    drop(UnixSeqpacketListener::bind(&path).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut orphan = TestWorker::begin(config(), listener, 1, Some(path), None).await;
    orphan.accept().await;
    let mut idle = Client::accepted(&orphan).await;
    let begun = Instant::now();
    orphan.channel = None;
    assert!(idle.at_eof().await);
    orphan.gone().await;
    // It may take the stop timeout of 8 s for what is in flight.
    assert!(begun.elapsed() < Duration::from_secs(6));
}

/// A parked master has the socket; its workers need a while on a busy machine.
#[tokio::test]
async fn an_orphan_waits_for_an_answer_that_is_late() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("handoff.sock");
    let mut socket = UnixSeqpacketListener::bind(&path).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut orphan = TestWorker::begin(config(), listener, 1, Some(path), None).await;
    orphan.accept().await;
    let mut idle = Client::accepted(&orphan).await;
    idle.get("/hello").await;
    let (_new, sending) = successor(&orphan, 2).await;
    orphan.channel = None;
    let unanswered = socket.accept().await.unwrap();
    // The first question is given up, the next one answered.
    let accepted = socket.accept().await.unwrap();
    handoff::answer(accepted, &offered(sending)).await.unwrap();
    drop(unanswered);
    orphan.gone().await;
    assert_eq!(idle.get("/hello").await.text(), "hello from g2");
}

#[tokio::test]
async fn connections_of_a_unix_socket_are_passed_on_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut old = TestWorker::beside(config(), listener, 1).await;
    old.accept().await;
    let mut client = Client::new(UnixStream::connect(&path).await.unwrap());
    let us = format!("uid {}", rustix::process::geteuid().as_raw());
    assert_eq!(client.get("/peer").await.text(), us);
    let (_new, sending) = successor(&old, 2).await;
    old.pass_to(&[&sending]).await;
    assert_eq!(passed(&old.drained().await), (1, 0, 0, 0));
    assert_eq!(client.get("/hello").await.text(), "hello from g2");
    assert_eq!(client.get("/peer").await.text(), us);
}

#[tokio::test]
async fn a_receiver_takes_more_than_it_would_accept() {
    let mut old = TestWorker::start().await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(Client::accepted(&old).await);
    }
    let (sending, receiving) = handoff::pair().unwrap();
    let mut small = config();
    small.http.max_connections = 32;
    let listener = old.listener.try_clone().unwrap();
    let new = TestWorker::begin(small, listener, 2, None, Some(receiving)).await;
    old.pass_to(&[&sending]).await;
    assert_eq!(passed(&old.drained().await), (60, 0, 0, 0));
    received(&new, 60).await;
    for mut client in clients {
        assert_eq!(client.get("/hello").await.text(), "hello from g2");
    }
}

#[tokio::test]
async fn the_time_a_head_may_take_goes_on_in_the_next_generation() {
    let mut config = config();
    let limit = Duration::from_secs(5);
    config.http.header_timeout = limit;
    let mut worker = TestWorker::with(config.clone()).await;
    let mut client = Client::accepted(&worker).await;
    client.send("GET /hello HTTP/1.1\r\nX: ").await;
    let begun = Instant::now();
    let mut passed_on = begun;
    for generation in 2..6 {
        pause(500).await;
        client.send("x").await;
        let (sending, receiving) = handoff::pair().unwrap();
        let listener = worker.listener.try_clone().unwrap();
        let config = config.clone();
        let new = TestWorker::begin(config, listener, generation, None, Some(receiving)).await;
        passed_on = Instant::now();
        worker.pass_to(&[&sending]).await;
        assert_eq!(passed(&worker.drained().await), (1, 0, 0, 0));
        worker = new;
    }
    assert_eq!(client.answer().await.status, 408);
    assert!(begun.elapsed() > limit - Duration::from_millis(10));
    let last = passed_on.elapsed();
    assert!(last < limit, "it began anew: {last:?}");
}

#[tokio::test]
async fn a_thousand_idle_connections_are_passed_on_without_anybody_noticing() {
    let mut old = TestWorker::start().await;
    let mut clients = Vec::new();
    for _ in 0..1000 {
        clients.push(Client::connect(&old).await);
    }
    old.until(|report| report.accepted == 1000).await;
    let (new, sending) = successor(&old, 2).await;
    let begun = Instant::now();
    old.pass_to(&[&sending]).await;
    assert_eq!(passed(&old.drained().await), (1000, 0, 0, 0));
    println!("1000 connections in {:?}", begun.elapsed());
    received(&new, 1000).await;
    for client in &mut clients {
        assert_eq!(client.get("/hello").await.text(), "hello from g2");
    }
}

#[tokio::test]
async fn a_listener_that_is_called_otherwise_now_serves_the_connections_of_its_address() {
    let mut old = TestWorker::start().await;
    let mut client = Client::accepted(&old).await;
    client.get("/hello").await;
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let new = TestWorker::named("www", listener, receiving).await;
    old.pass_to(&[&sending]).await;
    assert_eq!(old.drained().await.passed, 1);
    assert_eq!(client.get("/hello").await.text(), "hello from g2");
    assert_eq!(new.report().await.received, 1);
}
