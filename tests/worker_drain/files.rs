//! Files that the kernel sends: no byte is missing, doubled or another's, whatever happens meanwhile.

use std::os::fd::OwnedFd;
use std::time::Duration;

use handover::machine::link::ToWorker;
use handover::sys::handoff;
use tokio::io::AsyncReadExt as _;

use crate::client::Client;
use crate::worker::{TestWorker, checksum, config, directory, pattern};

/// More than any socket takes at once, and no multiple of anything.
const LARGE: usize = 9_876_543;

fn write(name: &str, len: usize) -> Vec<u8> {
    let bytes = pattern(len);
    std::fs::write(directory().join(name), &bytes).unwrap();
    bytes
}

fn get(path: &str, headers: &str) -> String {
    format!("GET /{path} HTTP/1.1\r\nHost: t\r\n{headers}\r\n")
}

#[tokio::test]
async fn every_byte_comes_once_and_in_its_order_on_a_connection_that_goes_on() {
    let large = write("large", LARGE);
    let small = write("small", 1234);
    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    // All at once: heads and bodies of both kinds lie behind each other in hyper's buffer.
    let ranges = "Range: bytes=5-4000004,9000000-,7-7\r\n";
    let all = [
        get("small", ""),
        get("large", ""),
        "HEAD /large HTTP/1.1\r\nHost: t\r\n\r\n".into(),
        get("large", "Range: bytes=1000001-8000000\r\n"),
        get("hello", ""),
        get("large", ranges),
        get("large", "Range: bytes=0-70000\r\n"),
        get("small", ""),
        get("large", ""),
    ];
    for _ in 0..3 {
        client.send(all.concat()).await;
        assert!(client.answer().await.body == small);
        assert!(client.answer().await.body == large);
        let head = client.head().await;
        assert!(
            head.contains(&format!("content-length: {LARGE}\r\n")),
            "{head}"
        );
        let part = client.answer().await;
        assert_eq!(part.status, 206);
        assert!(part.body == large[1_000_001..=8_000_000]);
        assert_eq!(client.answer().await.text(), "hello from g1");
        let parts = client.answer().await;
        assert_eq!(parts.status, 206);
        for part in [&large[5..=4_000_004], &large[9_000_000..], &large[7..=7]] {
            let whole = [b"\r\n\r\n", part, b"\r\n--"].concat();
            assert!(memchr::memmem::find(&parts.body, &whole).is_some());
        }
        assert!(client.answer().await.body == large[..=70_000]);
        assert!(client.answer().await.body == small);
        assert!(client.answer().await.body == large);
    }
}

#[tokio::test]
async fn several_slow_clients_of_several_threads_get_each_their_own() {
    let files: Vec<_> = (0..4_usize)
        .map(|n| {
            (
                format!("slow{n}"),
                write(&format!("slow{n}"), 3_000_000 + n * 70_001),
            )
        })
        .collect();
    let mut config = config();
    config.threads = 2;
    let worker = TestWorker::with(config).await;
    let mut clients = Vec::new();
    for (name, bytes) in files.iter().cycle().take(16) {
        let mut client = Client::connect(&worker).await;
        client.send(get(name, "")).await;
        clients.push((client, bytes));
    }
    let mut heads = Vec::new();
    for (client, _) in &mut clients {
        heads.push(client.head().await);
    }
    // In turns of a part each, so that every connection stalls again and again.
    for (first, last) in [(0, 2), (1, 2)] {
        for (client, bytes) in &mut clients {
            let half = bytes.len() / last;
            let len = if first == 0 { half } else { bytes.len() - half };
            let got = client.exactly(len).await;
            assert!(got == bytes[first * half..first * half + len]);
        }
    }
    for (client, _) in &mut clients {
        assert_eq!(client.get("/hello").await.status, 200);
    }
}

#[tokio::test]
async fn a_file_that_becomes_shorter_ends_the_connection_and_nothing_takes_its_place() {
    let bytes = write("shrinks", LARGE);
    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    client.send(get("shrinks", "") + &get("hello", "")).await;
    client.head().await;
    let mut got = client.exactly(1000).await;
    let file = std::fs::File::options()
        .write(true)
        .open(directory().join("shrinks"));
    file.unwrap().set_len(LARGE as u64 - 100).unwrap();
    let mut rest = Vec::new();
    let _ = client.stream.read_to_end(&mut rest).await;
    // What the client had read before belongs to it, too.
    got.extend_from_slice(&client.exactly_buffered());
    got.extend_from_slice(&rest);
    assert!(got.len() <= LARGE - 100, "{} bytes", got.len());
    assert!(bytes.starts_with(&got));
}

#[tokio::test]
async fn a_download_is_finished_where_it_began_and_its_connection_goes_on_elsewhere() {
    let bytes = write("moves", LARGE);
    let mut old = TestWorker::start().await;
    let mut client = Client::connect(&old).await;
    client.send(get("moves", "")).await;
    client.head().await;
    let first = client.exactly(100_000).await;
    let (sending, receiving): (OwnedFd, OwnedFd) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let mut new = TestWorker::begin(config(), listener, 2, None, Some(receiving)).await;
    new.accept().await;
    old.pass_to(&[&sending]).await;
    old.tell(&ToWorker::Report, &[]).await;
    let rest = client.exactly(LARGE - 100_000).await;
    assert!(first[..] == bytes[..100_000] && rest[..] == bytes[100_000..]);
    assert_eq!(client.get("/hello").await.text(), "hello from g2");
    assert!(client.get("/moves").await.body == bytes);
    let report = old.drained().await;
    assert_eq!((report.passed, report.cut, report.disagreements), (1, 0, 0));
}

#[tokio::test]
async fn over_http2_it_is_read_and_the_same() {
    let bytes = write("http2", LARGE);
    let worker = TestWorker::start().await;
    let stream = tokio::net::TcpStream::connect(worker.address)
        .await
        .unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://t/http2").body(axum::body::Body::empty());
    let answer = client.send_request(request.unwrap()).await.unwrap();
    let body = axum::body::Body::new(answer.into_body());
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    assert_eq!(checksum(&body), checksum(&bytes));
}

#[tokio::test]
async fn the_access_log_counts_what_was_sent() {
    write("counted", LARGE);
    let log = directory().join("access.log");
    let mut config = config();
    config.log.access = log.to_str().unwrap().into();
    let mut worker = TestWorker::with(config).await;
    let mut client = Client::connect(&worker).await;
    assert_eq!(client.get("/counted").await.body.len(), LARGE);
    client
        .send(get("counted", "Range: bytes=-2000000\r\n"))
        .await;
    assert_eq!(client.answer().await.body.len(), 2_000_000);
    // This one goes away: not all of it is counted.
    client.send(get("counted", "")).await;
    client.head().await;
    drop(client);
    worker.drain(Some(Duration::from_secs(5))).await;
    worker.drained().await;
    let log = std::fs::read_to_string(log).unwrap();
    let counts: Vec<usize> = log
        .lines()
        .map(|line| line.split(' ').nth(9).unwrap().parse().unwrap())
        .collect();
    assert_eq!(counts[..2], [LARGE, 2_000_000]);
    assert!(counts[2] < LARGE, "{counts:?}");
}
