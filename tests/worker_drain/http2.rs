//! HTTP/2: what a client can hold, and for how long.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use handover::config::Config;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::worker::{TestWorker, config, pattern};

const SOON: Duration = Duration::from_secs(20);

type Client = SendRequest<Empty<Bytes>>;

/// A client whose streams have this window, and which reads nothing that it is not asked to.
async fn connect(worker: &TestWorker, window: u32) -> (Client, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(worker.address).await.unwrap();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window);
    let (client, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    (client, tokio::spawn(connection))
}

fn request(path: &str) -> http::Request<Empty<Bytes>> {
    http::Request::get(format!("http://t{path}"))
        .body(Empty::new())
        .unwrap()
}

fn impatient() -> Config {
    let mut config = config();
    config.http.send_timeout = Duration::from_millis(500);
    config
}

/// Its first frames, by hand.
async fn first_frames(worker: &TestWorker, bytes: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(worker.address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut frames = vec![0; bytes];
    let read = timeout(SOON, stream.read_exact(&mut frames)).await;
    read.expect("frames").unwrap();
    frames
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_its_streams_for_the_send_timeout() {
    let mut worker = TestWorker::with(impatient()).await;
    let (mut client, connection) = connect(&worker, 0).await;
    client.ready().await.unwrap();
    let streams = (0..50).map(|_| client.send_request(request("/download/1000000")));
    let answers = join_all(streams).await;
    let begun = Instant::now();
    // While they are held the worker is told to go.
    worker.drain(Some(Duration::from_secs(60))).await;
    for answer in answers {
        let body = answer.unwrap().into_body().collect();
        let error = timeout(SOON, body).await.expect("an end").unwrap_err();
        assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    drop(client);
    timeout(SOON, connection)
        .await
        .expect("an end")
        .unwrap()
        .unwrap();
    let report = worker.drained().await;
    assert_eq!((report.finished, report.cut), (1, 0));
}

#[tokio::test]
async fn a_client_that_takes_its_time_gets_everything() {
    let mut config = impatient();
    config.http.keepalive_timeout = Duration::from_millis(100);
    let worker = TestWorker::with(config).await;
    let (mut client, _connection) = connect(&worker, 65_535).await;
    let answer = client.send_request(request("/download/400000")).await;
    let mut body = answer.unwrap().into_body();
    let mut got = Vec::new();
    while let Some(frame) = body.frame().await {
        got.extend_from_slice(frame.unwrap().data_ref().unwrap());
        sleep(Duration::from_millis(50)).await;
    }
    assert!(got == pattern(400_000));
    // The application's own time is not the client's.
    let slow = client.send_request(request("/stream/3/900")).await.unwrap();
    let slow = slow.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(slow, "chunk 0;chunk 1;chunk 2;");
}

#[tokio::test]
async fn the_limit_of_streams_is_the_configured_one() {
    let mut config = config();
    config.http.max_streams = 7;
    let worker = TestWorker::with(config).await;
    let frames = first_frames(&worker, 9 + 6 * 4).await;
    assert_eq!(frames[3], 4, "SETTINGS");
    let limit = frames[9..].chunks(6).find(|s| s[..2] == [0, 3]);
    assert_eq!(
        limit.map(|s| &s[2..]),
        Some(&[0, 0, 0, 7][..]),
        "{frames:?}"
    );
}

#[tokio::test]
async fn a_client_is_told_where_http2_is_off() {
    let mut config = config();
    config.http.http2 = false;
    let worker = TestWorker::with(config).await;
    let frames = first_frames(&worker, 9 + 17).await;
    assert_eq!((frames[3], frames[9 + 3], frames[9 + 16]), (4, 7, 0xd));
}

#[tokio::test]
async fn a_client_that_resets_everything_is_sent_away() {
    let worker = TestWorker::start().await;
    let (mut client, connection) = connect(&worker, 65_535).await;
    for _ in 0..60 {
        if client.ready().await.is_err() {
            break;
        }
        let requests: Vec<_> = (0..50)
            .map(|_| tokio::spawn(client.send_request(request("/slow/60000"))))
            .collect();
        // The worker has begun them all: h2's own limit counts only those it has not.
        let seen = worker.report().await.requests;
        let begun = Instant::now();
        while worker.report().await.requests < seen + 50 && begun.elapsed() < SOON {
            if connection.is_finished() {
                break;
            }
        }
        requests.iter().for_each(JoinHandle::abort);
        if connection.is_finished() {
            break;
        }
    }
    assert!(client.ready().await.is_err(), "it may go on for ever");
    timeout(SOON, connection)
        .await
        .expect("an end")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_body_that_stops_coming_is_answered_with_408() {
    let mut config = config();
    config.http.body_timeout = Duration::from_millis(300);
    let worker = TestWorker::with(config).await;
    let stream = TcpStream::connect(worker.address).await.unwrap();
    let (mut client, connection) = Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let _connection = tokio::spawn(connection);
    let never = futures_util::stream::pending::<Result<_, std::convert::Infallible>>();
    let body: http_body_util::StreamBody<_> = http_body_util::StreamBody::new(never);
    let upload = http::Request::post("http://t/upload")
        .body(http_body_util::BodyExt::map_frame(
            body,
            |frame: http_body::Frame<Bytes>| frame,
        ))
        .unwrap();
    let answer = timeout(SOON, client.send_request(upload)).await.unwrap();
    assert_eq!(answer.unwrap().status(), 408);
}
