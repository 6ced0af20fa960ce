//! Nobody takes the connections: every one gets one more answer, or a grace time.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use crate::client::Client;
use crate::worker::{TestWorker, checksum, config, pattern};

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

async fn pause(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

/// The worker ends, and nothing was cut.
async fn ends_well(mut worker: TestWorker, connections: u64) {
    let report = worker.drained().await;
    assert_eq!(
        (report.finished, report.cut, report.passed),
        (connections, 0, 0)
    );
    assert_eq!(report.disagreements, 0);
}

#[tokio::test]
async fn an_idle_connection_gets_exactly_one_more_answer_and_it_says_so() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    for _ in 0..3 {
        assert!(!client.get("/hello").await.says_close());
    }
    worker.drain(MINUTE).await;
    let answer = client.get("/hello").await;
    assert!(answer.says_close());
    assert!(client.at_eof().await);
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn an_idle_connection_without_a_request_is_closed_after_the_grace_time_and_not_before() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    client.get("/hello").await;
    let begun = Instant::now();
    worker.drain(Some(Duration::from_secs(8))).await;
    assert!(client.at_eof().await);
    // An eighth of the limit.
    assert!(begun.elapsed() >= Duration::from_secs(1));
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn a_connection_accepted_but_never_read_is_served() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    worker.drain(MINUTE).await;
    assert!(client.is_silent(Duration::from_millis(300)).await);
    assert!(client.get("/hello").await.says_close());
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn a_request_that_comes_with_the_order_is_served() {
    for _ in 0..20 {
        let worker = TestWorker::start().await;
        let mut client = Client::accepted(&worker).await;
        let (_, answer) = tokio::join!(worker.drain(MINUTE), client.get("/hello"));
        assert_eq!(answer.status, 200);
        drop(client);
        ends_well(worker, 1).await;
    }
}

#[tokio::test]
async fn half_a_head_is_waited_for() {
    let worker = TestWorker::start().await;
    let mut fresh = Client::accepted(&worker).await;
    let mut used = Client::accepted(&worker).await;
    used.get("/hello").await;
    fresh.send("GET /hello HT").await;
    used.send("GET /hel").await;
    pause(50).await;
    worker.drain(MINUTE).await;
    pause(1500).await;
    fresh.send("TP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(fresh.answer().await.text(), "hello from g1");
    used.send("lo HTTP/1.1\r\nHost: ").await;
    pause(20).await;
    used.send("t\r\n\r\n").await;
    assert!(used.answer().await.says_close());
    drop((fresh, used));
    ends_well(worker, 2).await;
}

#[tokio::test]
async fn a_client_that_sends_bodies_is_told_with_its_last_answer() {
    for (path, head, body) in [
        ("/upload", "Content-Length: 5", "hello"),
        (
            "/upload",
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        ("/ignore", "Content-Length: 5", "hello"),
        (
            "/ignore",
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        for together in [true, false] {
            let worker = TestWorker::start().await;
            let mut client = Client::accepted(&worker).await;
            let head = format!("POST {path} HTTP/1.1\r\nHost: t\r\n{head}\r\n\r\n");
            client.send(format!("{head}{body}")).await;
            assert!(!client.answer().await.says_close());
            worker.drain(MINUTE).await;
            if together {
                client.send(format!("{head}{body}")).await;
            } else {
                client.send(&head).await;
                pause(30).await;
                client.send(body).await;
            }
            let answer = client.answer().await;
            assert!(
                answer.status == 200 && answer.says_close(),
                "{path} {answer:?}"
            );
            assert!(client.at_eof().await);
            drop(client);
            ends_well(worker, 1).await;
        }
    }
}

#[tokio::test]
async fn what_is_pipelined_behind_a_body_is_answered() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    client.get("/hello").await;
    worker.drain(MINUTE).await;
    client
        .send(
            "POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello\
             GET /echo/7 HTTP/1.1\r\nHost: t\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.text(), checksum(b"hello"));
    let last = client.answer().await;
    assert!(last.text() == "7" && last.says_close(), "{last:?}");
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn a_slow_upload_finishes() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    let body = pattern(100_000);
    client
        .send("POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n")
        .await;
    client.send(&body[..10]).await;
    worker.drain(MINUTE).await;
    for part in body[10..].chunks(20_000) {
        pause(300).await;
        client.send(part).await;
    }
    assert_eq!(client.answer().await.text(), checksum(&body));
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn a_slow_download_finishes() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    let len = 20_000_000;
    client
        .send(format!("GET /download/{len} HTTP/1.1\r\nHost: t\r\n\r\n"))
        .await;
    let head = client.head().await;
    assert!(head.contains("content-length: 20000000\r\n"));
    worker.drain(MINUTE).await;
    let mut body = Vec::new();
    for _ in 0..4 {
        pause(400).await;
        body.extend(client.exactly(len / 4).await);
    }
    assert!(body == pattern(len));
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn a_chunked_stream_finishes() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    client
        .send("GET /stream/8/200 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    client.head().await;
    worker.drain(MINUTE).await;
    let whole: String = (0..8).map(|n| format!("chunk {n};")).collect();
    assert_eq!(client.chunks().await, whole.as_bytes());
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn everything_pipelined_is_answered_in_order() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    let mut all = String::from("GET /slow/200 HTTP/1.1\r\nHost: t\r\n\r\n");
    for n in 0..10 {
        all += &format!("GET /echo/{n} HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    client.send(all).await;
    pause(50).await;
    worker.drain(MINUTE).await;
    assert_eq!(client.answer().await.text(), "after 200");
    for n in 0..10 {
        assert_eq!(client.answer().await.text(), n.to_string());
    }
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    client
        .send(
            "POST /upload HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status, 100);
    worker.drain(MINUTE).await;
    pause(1300).await;
    client.send("hello").await;
    assert_eq!(client.answer().await.text(), checksum(b"hello"));
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn a_client_that_has_closed_its_half_gets_its_answer() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    client
        .send("GET /slow/700 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    client.stream.shutdown().await.unwrap();
    pause(50).await;
    worker.drain(MINUTE).await;
    assert_eq!(client.answer().await.text(), "after 700");
    assert!(client.at_eof().await);
    drop(client);
    ends_well(worker, 1).await;
}

/// Whether hyper has the whole body when it meets the end, or has still to hand on a part of it.
#[tokio::test]
async fn a_client_that_has_closed_its_half_behind_a_body_gets_its_answer() {
    let worker = TestWorker::start().await;
    let (sized, chunked) = ("Content-Length: 5", "Transfer-Encoding: chunked");
    let (close, sized_close) = (
        "Connection: close",
        "Connection: close\r\nContent-Length: 5",
    );
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    for (line, fields, body) in [
        ("GET /hello HTTP/1.0", "", ""),
        ("GET /hello HTTP/1.1", close, ""),
        ("GET /slow/20 HTTP/1.0", "", ""),
        ("POST /upload HTTP/1.1", sized, "hello"),
        ("POST /upload HTTP/1.1", chunked, chunks),
        ("POST /upload HTTP/1.1", sized_close, "hello"),
        ("POST /upload HTTP/1.0", sized, "hello"),
        ("POST /ignore HTTP/1.1", sized, "hello"),
        ("POST /ignore HTTP/1.1", chunked, chunks),
        ("POST /ignore HTTP/1.0", sized, "hello"),
    ] {
        for _ in 0..20 {
            let mut client = Client::accepted(&worker).await;
            let fields = format!("Host: t\r\n{fields}");
            let request = format!("{line}\r\n{}\r\n\r\n{body}", fields.trim_end());
            client.send(request).await;
            client.stream.shutdown().await.unwrap();
            assert_eq!(client.answer().await.status, 200, "{line} {fields}");
            assert!(client.at_eof().await);
        }
    }
}

#[tokio::test]
async fn a_client_that_has_closed_its_half_within_a_body_is_not_waited_for() {
    let worker = TestWorker::start().await;
    for path in ["/upload", "/ignore"] {
        for pause_ms in [0, 50] {
            let mut client = Client::accepted(&worker).await;
            let head = format!("POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n");
            client.send(head + "hello").await;
            pause(pause_ms).await;
            client.stream.shutdown().await.unwrap();
            // Else it would be ten seconds.
            let mut rest = Vec::new();
            let end = client.stream.read_to_end(&mut rest);
            let end = timeout(Duration::from_secs(8), end).await;
            let _ = end.unwrap_or_else(|_| panic!("{path}: no end"));
        }
    }
}

#[tokio::test]
async fn an_ignored_body_is_read_over_and_the_next_request_answered() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    client
        .send("POST /ignore HTTP/1.1\r\nHost: t\r\nContent-Length: 30\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "ignored");
    client.send("0123456789").await;
    worker.drain(MINUTE).await;
    client.send("0123456789").await;
    pause(1200).await;
    client.send("0123456789").await;
    assert_eq!(client.get("/hello").await.text(), "hello from g1");
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn an_upgraded_connection_lives_to_its_end() {
    let worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    let upgrade =
        "GET /upgrade HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n";
    client.send(upgrade).await;
    assert_eq!(client.answer().await.status, 101);
    worker.drain(MINUTE).await;
    for _ in 0..3 {
        pause(500).await;
        assert_eq!(worker.report().await.connections, 1);
        client.send("hear me").await;
        assert_eq!(client.exactly(7).await, b"HEAR ME");
    }
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn http2_streams_finish_and_the_client_is_told_to_go() {
    let worker = TestWorker::start().await;
    let stream = tokio::net::TcpStream::connect(worker.address)
        .await
        .unwrap();
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = |path| {
        http::Request::get(path)
            .body(Empty::<bytes::Bytes>::new())
            .unwrap()
    };
    let first = client.send_request(request("http://t/hello")).await;
    assert_eq!(first.unwrap().status(), 200);
    let slow = client.send_request(request("http://t/stream/6/200"));
    let slow = tokio::spawn(async move {
        let answer = slow.await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    });
    pause(300).await;
    worker.drain(MINUTE).await;
    assert_eq!(slow.await.unwrap().len(), 6 * "chunk 0;".len());
    // GOAWAY: no error, and no new stream.
    connection.await.unwrap().unwrap();
    assert!(
        client
            .send_request(request("http://t/hello"))
            .await
            .is_err()
    );
    drop(client);
    ends_well(worker, 1).await;
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_cut_and_counted() {
    let mut worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    let mut other = Client::accepted(&worker).await;
    client
        .send("GET /stream/100/200 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    client.head().await;
    other.get("/hello").await;
    let begun = Instant::now();
    worker.drain(Some(Duration::from_secs(2))).await;
    let report = worker.drained().await;
    assert_eq!((report.finished, report.cut), (1, 1));
    let took = begun.elapsed().as_millis();
    assert!((2000..10_000).contains(&took), "{took}; all of it is 20 s");
}

#[tokio::test]
async fn a_second_order_only_shortens_the_drain() {
    let mut worker = TestWorker::start().await;
    let mut client = Client::accepted(&worker).await;
    client
        .send("GET /stream/100/200 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    client.head().await;
    worker.drain(MINUTE).await;
    worker.drain(Some(Duration::from_millis(500))).await;
    worker.drain(MINUTE).await;
    let begun = Instant::now();
    assert_eq!(worker.drained().await.cut, 1);
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "{took:?}; all of it is 20 s"
    );
}

#[tokio::test]
async fn an_orphan_answers_what_is_in_flight_and_closes_idle_connections_within_a_second() {
    let mut config = config();
    config.drain.stop_timeout = Duration::from_secs(60);
    let mut worker = TestWorker::with(config).await;
    let mut idle = Client::accepted(&worker).await;
    let mut busy = Client::accepted(&worker).await;
    idle.get("/hello").await;
    busy.send("GET /slow/1500 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    worker.until(|report| report.requests == 2).await;
    let begun = Instant::now();
    worker.channel = None;
    assert!(idle.at_eof().await);
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(4),
        "{took:?}; by an order it is 5 s"
    );
    assert_eq!(busy.answer().await.text(), "after 1500");
    drop(busy);
    worker.gone().await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "the limit is 60 s"
    );
}
