//! HTTP/2: what a client can hold, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use handover::config::Config;
use handover::machine::link::Reads;
use handover::sys::handoff::{self, Targets};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_seqpacket::UnixSeqpacketListener;

use crate::worker::{READS, TestWorker, config, pattern};

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
    config.http.keepalive_timeout = Duration::from_millis(500);
    let worker = TestWorker::with(config).await;
    let (mut client, _connection) = connect(&worker, 65_535).await;
    // The application's own time is not the client's. (It also keeps the connection from being idle.)
    let slow = client.send_request(request("/stream/3/900"));
    let slow = tokio::spawn(async { slow.await.unwrap().into_body().collect().await });
    let answer = client.send_request(request("/download/400000")).await;
    let mut body = answer.unwrap().into_body();
    let mut got = Vec::new();
    while let Some(frame) = body.frame().await {
        got.extend_from_slice(frame.unwrap().data_ref().unwrap());
        sleep(Duration::from_millis(50)).await;
    }
    assert!(got == pattern(400_000));
    let slow = slow.await.unwrap().unwrap().to_bytes();
    assert_eq!(slow, "chunk 0;chunk 1;chunk 2;");
}

/// Neither its PINGs nor ours are a use of the connection.
#[tokio::test]
async fn an_idle_client_is_sent_away_however_often_it_says_ping() {
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    const GOAWAY: u8 = 7;
    let mut config = config();
    config.http.keepalive_timeout = Duration::from_secs(2);
    let worker = TestWorker::with(config).await;
    let stream = TcpStream::connect(worker.address).await.unwrap();
    let (mut reads, mut writes) = stream.into_split();
    let begins = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    writes.write_all(begins).await.unwrap();
    let pings = tokio::spawn(async move {
        while writes.write_all(&PING).await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let is_sent_away = async {
        let mut head = [0; 9];
        loop {
            reads.read_exact(&mut head).await.unwrap();
            if head[3] == GOAWAY {
                return;
            }
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            reads.read_exact(&mut vec![0; length]).await.unwrap();
        }
    };
    timeout(SOON, is_sent_away).await.expect("a GOAWAY");
    pings.abort();
}

/// RFC 9110, 8.6: it would be that of the file.
#[tokio::test]
async fn what_was_not_modified_has_no_length() {
    let worker = TestWorker::start().await;
    std::fs::write(crate::worker::directory().join("unmodified"), "text").unwrap();
    for method in ["GET", "HEAD"] {
        let (mut client, _) = connect(&worker, 65_535).await;
        let ask = http::Request::builder()
            .method(method)
            .uri("http://t/unmodified")
            .header("if-none-match", "*");
        let answer = client.send_request(ask.body(Empty::new()).unwrap());
        let answer = timeout(SOON, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 304);
        assert_eq!(answer.headers().get("content-length"), None, "{method}");
        let mut client = crate::client::Client::connect(&worker).await;
        let ask = format!("{method} /unmodified HTTP/1.1\r\nHost: t\r\nIf-None-Match: *\r\n\r\n");
        client.send(ask).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 304);
        assert_eq!(answer.header("content-length"), None, "{method}");
        assert_eq!(client.get("/hello").await.status, 200);
    }
    worker.end().await;
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

/// Answers that end with trailers are whole answers: the client resets nothing, and is not sent away as
/// one that does.
#[tokio::test]
async fn a_client_gets_any_number_of_answers_with_trailers() {
    let worker = TestWorker::start().await;
    let (mut client, _connection) = connect(&worker, 65_535).await;
    for n in 0..1_100 {
        let answer = client.send_request(request("/trailers")).await;
        let answer = answer.unwrap_or_else(|e| panic!("answer {n}: {e:?}"));
        let whole = answer.into_body().collect().await.unwrap();
        assert!(whole.trailers().unwrap().contains_key("grpc-status"));
        assert_eq!(whole.to_bytes(), "message");
    }
}

/// Some clients end a request with a frame of its own, and take a stream that was reset before it for a
/// failed request.
#[tokio::test]
async fn a_stream_whose_body_was_read_is_not_reset_before_it_ends() {
    let worker = TestWorker::start().await;
    let mut stream = TcpStream::connect(worker.address).await.unwrap();
    let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // POST, http, the path, the host, and `content-length: 5`.
    let block = b"\x83\x86\x04\x09/promised\x01\x01t\x0f\x0d\x015";
    begin.extend(written(1, 4, 1, block));
    begin.extend(written(0, 0, 1, b"hello"));
    stream.write_all(&begin).await.unwrap();
    wait_for_answer(&mut stream, 1).await;
    let mut end = written(0, 1, 1, b"");
    end.extend(headers(3, "/hello"));
    stream.write_all(&end).await.unwrap();
    wait_for_answer(&mut stream, 3).await;
}

/// Until this stream has been answered whole. None is reset.
async fn wait_for_answer(stream: &mut TcpStream, wanted: u32) {
    loop {
        let (kind, flags, id, payload) = frame(stream).await.expect("an answer");
        assert_ne!(kind, 3, "stream {id} was reset: {payload:?}");
        if (kind, flags & 1, id) == (0, 1, wanted) {
            return;
        }
    }
}

/// A frame.
fn written(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A request for this path, as frames write it (RFC 7541, C.3: names from the static table).
fn headers(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x01t");
    written(1, 5, stream, &block)
}

/// The next frame: type, flags, stream, payload. `None`: the end.
async fn frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    let read = timeout(SOON, stream.read_exact(&mut head)).await;
    read.expect("a frame or the end").ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.unwrap();
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], id, payload))
}

/// The first GOAWAY only announces the end: until the client has seen it, which its answer to a PING
/// says, whatever it asks for is answered. The second names the last of these.
#[tokio::test]
async fn no_request_is_lost_between_the_two_phases_of_goaway() {
    let worker = TestWorker::start().await;
    let mut stream = TcpStream::connect(worker.address).await.unwrap();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    hello.extend(headers(1, "/slow/600"));
    stream.write_all(&hello).await.unwrap();
    while worker.report().await.requests < 1 {}
    worker.drain(Some(Duration::from_secs(60))).await;

    let (mut whole, mut last_ids) = (Vec::new(), Vec::new());
    while let Some((kind, flags, id, payload)) = frame(&mut stream).await {
        match kind {
            // DATA with END_STREAM.
            0 if flags & 1 == 1 => whole.push(id),
            // PING, not an answer to ours.
            6 if flags & 1 == 0 => {
                // As one that was in the air when the first GOAWAY came.
                stream.write_all(&headers(3, "/slow/100")).await.unwrap();
                sleep(Duration::from_millis(50)).await;
                stream.write_all(&headers(5, "/hello")).await.unwrap();
                stream.write_all(&pong(&payload)).await.unwrap();
            }
            7 => last_ids.push(u32::from_be_bytes(payload[..4].try_into().unwrap())),
            3 => panic!("stream {id} was reset"),
            _ => {}
        }
    }
    whole.sort_unstable();
    assert_eq!(whole, [1, 3, 5]);
    assert_eq!(last_ids, [(1 << 31) - 1, 5]);
}

/// A client that gives back the windows which it reads from still does so when our last byte is in the
/// kernel. To close over that would reset the connection, and the end of the answer would be lost.
#[tokio::test]
async fn a_slow_client_gets_the_whole_answer_behind_a_goaway() {
    let mut worker = TestWorker::start().await;
    let mut stream = reads_slowly(&worker, &[8_000_000]).await;
    worker.drain(Some(Duration::from_secs(60))).await;
    assert!(answers(&mut stream).await[&1] == pattern(8_000_000));
    // One that has gone is not waited for.
    drop(stream);
    let gone = Instant::now();
    let report = worker.drained().await;
    assert_eq!((report.finished, report.cut), (1, 0));
    assert!(gone.elapsed() < Duration::from_secs(3));
}

/// A client that takes little at a time: its buffer is small, and its windows are no limit. It asks for so
/// many bytes on each stream; the answers have begun.
async fn reads_slowly(worker: &TestWorker, streams: &[u32]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut stream = socket.connect(worker.address).await.unwrap();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(written(4, 0, 0, b"\0\x04\x7f\xff\xff\xff"));
    hello.extend(written(8, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
    for (id, bytes) in (1..).step_by(2).zip(streams) {
        hello.extend(headers(id, &format!("/download/{bytes}")));
    }
    stream.write_all(&hello).await.unwrap();
    while frame(&mut stream).await.expect("an answer").0 != 1 {}
    stream
}

/// The bodies to the end of the connection, by stream. What is read of them is given back frame by frame.
async fn answers(stream: &mut TcpStream) -> BTreeMap<u32, Vec<u8>> {
    let mut bodies: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    while let Some((kind, flags, id, payload)) = frame(stream).await {
        match kind {
            0 if !payload.is_empty() => {
                let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
                stream.write_all(&written(8, 0, 0, &len)).await.unwrap();
                bodies.entry(id).or_default().extend(payload);
            }
            6 if flags & 1 == 0 => stream.write_all(&pong(&payload)).await.unwrap(),
            3 => panic!("reset"),
            _ => {}
        }
    }
    bodies
}

/// A pause longer than an idle client's may be behind a GOAWAY.
const PAUSE: Duration = Duration::from_secs(7);

/// The application is through with the answer, and what is left of it waits for room in the client's
/// windows. A GOAWAY does not shorten the time that the client has for that.
#[tokio::test]
async fn a_client_that_pauses_within_its_windows_gets_the_whole_answer_behind_a_goaway() {
    let mut worker = TestWorker::start().await;
    let mut stream = TcpStream::connect(worker.address).await.unwrap();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(written(4, 0, 0, b"\0\x04\0\0\x03\xe8"));
    hello.extend(headers(1, "/download/10000"));
    stream.write_all(&hello).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 1_000 {
        let (kind, _, _, payload) = frame(&mut stream).await.expect("an answer");
        if kind == 0 {
            got.extend(payload);
        }
    }
    worker.drain(Some(Duration::from_secs(60))).await;
    loop {
        let (kind, flags, _, payload) = frame(&mut stream).await.expect("a PING");
        if (kind, flags & 1) == (6, 0) {
            stream.write_all(&pong(&payload)).await.unwrap();
            break;
        }
    }
    sleep(PAUSE).await;
    let window = written(8, 0, 1, &9_000_u32.to_be_bytes());
    stream.write_all(&window).await.unwrap();
    got.extend(answers(&mut stream).await.remove(&1).unwrap_or_default());
    assert!(got == pattern(10_000), "{} bytes", got.len());
    drop(stream);
    assert_eq!(worker.drained().await.finished, 1);
}

/// The same with room in the socket's buffers.
#[tokio::test]
async fn a_client_that_stops_reading_for_a_while_gets_the_whole_answer_behind_a_goaway() {
    let mut worker = TestWorker::start().await;
    // More than the socket takes, and of each no more than h2 does.
    let mut stream = reads_slowly(&worker, &[300_000; 30]).await;
    worker.drain(Some(Duration::from_secs(60))).await;
    sleep(PAUSE).await;
    let answers = answers(&mut stream).await;
    assert_eq!(answers.len(), 30);
    assert!(answers.values().all(|body| *body == pattern(300_000)));
    drop(stream);
    assert_eq!(worker.drained().await.finished, 1);
}

/// All is in the socket's buffer, and the client has not read as far as the GOAWAY: that it speaks shows
/// that it goes on reading.
#[tokio::test]
async fn a_client_that_is_far_from_the_goaway_gets_the_whole_answer_before_it() {
    let mut worker = TestWorker::start().await;
    let mut stream = reads_slowly(&worker, &[300_000]).await;
    worker.drain(Some(Duration::from_secs(60))).await;
    for _ in 0..14 {
        sleep(PAUSE / 14).await;
        let window = written(8, 0, 0, &1_u32.to_be_bytes());
        stream.write_all(&window).await.unwrap();
    }
    assert!(answers(&mut stream).await[&1] == pattern(300_000));
    drop(stream);
    assert_eq!(worker.drained().await.finished, 1);
}

/// The same with a client that says nothing for a while, and then gives back what it reads.
#[tokio::test]
async fn what_the_kernel_holds_for_a_silent_client_is_not_lost() {
    let mut worker = TestWorker::start().await;
    let mut stream = reads_slowly(&worker, &[300_000]).await;
    worker.drain(Some(Duration::from_secs(60))).await;
    // Longer than the connection and its lingering wait for somebody who has everything.
    sleep(2 * PAUSE).await;
    assert!(answers(&mut stream).await[&1] == pattern(300_000));
    drop(stream);
    assert_eq!(worker.drained().await.finished, 1);
}

/// It has all that was said, and acknowledges no PING of ours. What it says brings nobody nearer to the end:
/// not even what is answered.
#[tokio::test]
async fn a_client_that_talks_and_does_not_go_is_not_waited_for() {
    let mut config = config();
    config.http.send_timeout = Duration::from_secs(6);
    let mut worker = TestWorker::with(config).await;
    let (mut reads, mut writes) = asked_once(&worker).await.into_split();
    worker.drain(Some(Duration::from_secs(60))).await;
    let talk = tokio::spawn(async move {
        loop {
            let mut words = written(8, 0, 0, &1_u32.to_be_bytes());
            words.extend(written(6, 0, 0, b"are you?"));
            if writes.write_all(&words).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    });
    let mut said = Vec::new();
    let end = timeout(SOON, reads.read_to_end(&mut said)).await;
    assert_eq!(end.expect("an end").unwrap(), said.len());
    talk.abort();
    let _ = talk.await;
    drop(reads);
    assert_eq!(worker.drained().await.finished, 1);
}

/// A connection that has been moved, and that nobody takes next, is told so like any other: first the
/// announcement, and what the client asked for before it had heard is answered.
#[tokio::test]
async fn a_connection_that_was_moved_ends_in_two_phases_too() {
    let mut old = TestWorker::start().await;
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let new = TestWorker::begin(config(), listener, 2, None, Some(receiving)).await;
    let mut stream = asked_once(&old).await;
    old.pass_to(&[&sending]).await;
    assert_eq!(old.drained().await.passed, 1);
    while new.report().await.received < 1 {}
    new.drain(Some(Duration::from_secs(60))).await;

    assert_eq!(
        told_to_go(&mut stream).await,
        (vec![3], vec![(1 << 31) - 1, 3])
    );
}

/// See `Driver::end`.
#[tokio::test]
async fn a_connection_moves_although_h2_holds_a_stream_that_has_ended() {
    let mut old = TestWorker::start().await;
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let _new = TestWorker::begin(config(), listener, 2, None, Some(receiving)).await;
    let mut stream = TcpStream::connect(old.address).await.unwrap();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // Windows of one byte.
    hello.extend(written(4, 0, 0, b"\0\x04\0\0\0\x01"));
    hello.extend(written(4, 1, 0, b""));
    // A POST whose end does not come.
    hello.extend(written(1, 4, 1, b"\x83\x86\x04\x07/ignore\x01\x01t"));
    stream.write_all(&hello).await.unwrap();
    while frame(&mut stream).await.expect("an answer").0 != 0 {}
    let mut ends = written(3, 0, 1, &8_u32.to_be_bytes());
    ends.extend(written(4, 0, 0, b"\0\x04\0\0\xff\xff"));
    stream.write_all(&ends).await.unwrap();
    assert_eq!(asked_again(&mut stream, 3).await, "hello from g1");
    old.pass_to(&[&sending]).await;
    assert_eq!(old.drained().await.passed, 1);
    assert_eq!(asked_again(&mut stream, 5).await, "hello from g2");
}

#[tokio::test]
async fn a_client_that_has_closed_its_half_gets_its_answers() {
    let mut old = TestWorker::start().await;
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let new = TestWorker::begin(config(), listener, 2, None, Some(receiving)).await;
    let mut moved = asked_once(&old).await;
    let mut stays = asked_once(&old).await;
    let mut asks = headers(3, "/slow/300");
    asks.extend(headers(5, "/hello"));
    asks.extend(headers(7, "/download/40000"));
    for stream in [&mut stays, &mut moved] {
        stream.write_all(&asks).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(whole(stream).await, [3, 5, 7]);
        if new.report().await.received == 0 {
            old.pass_to(&[&sending]).await;
            assert_eq!(old.drained().await.passed, 1);
        }
    }
}

/// Neither who has not said all of its request, nor who does not take its answer.
#[tokio::test]
async fn a_client_that_has_closed_its_half_is_not_waited_for_for_ever() {
    let worker = TestWorker::start().await;
    let upload = written(1, 4, 3, b"\x83\x86\x04\x07/upload\x01\x01t");
    for (asks, least) in [(upload, 0), (headers(3, "/slow/60000"), 9)] {
        let mut stream = asked_once(&worker).await;
        stream.write_all(&asks).await.unwrap();
        stream.shutdown().await.unwrap();
        let begun = Instant::now();
        assert!(whole(&mut stream).await.is_empty());
        let took = begun.elapsed().as_secs();
        assert!(took >= least && took < least + 6, "{took} s");
        drop(stream);
        worker.until(|report| report.connections == 0).await;
    }
}

/// To the end of the connection: the streams that were answered whole, in order.
async fn whole(stream: &mut TcpStream) -> Vec<u32> {
    let mut whole = Vec::new();
    while let Some((kind, flags, id, _)) = frame(stream).await {
        if kind == 0 && flags & 1 == 1 {
            whole.push(id);
        }
    }
    whole.sort_unstable();
    whole
}

/// An owner that has nobody who takes connections will have somebody soon: it takes the service back.
#[tokio::test]
async fn a_connection_waits_for_an_owner_whose_workers_are_late() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("handoff.sock");
    let mut socket = UnixSeqpacketListener::bind(&path).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut orphan = TestWorker::begin(config(), listener, 1, Some(path), None).await;
    orphan.accept().await;
    let mut stream = asked_once(&orphan).await;
    orphan.channel = None;
    for _ in 0..2 {
        let accepted = socket.accept().await.unwrap();
        let nobody = Targets::default();
        handoff::answer(accepted, &nobody).await.unwrap();
    }
    // Whoever is not told to go asks here meanwhile.
    assert_eq!(asked_again(&mut stream, 3).await, "hello from g1");
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = orphan.listener.try_clone().unwrap();
    let _new = TestWorker::begin(config(), listener, 2, None, Some(receiving)).await;
    let accepted = socket.accept().await.unwrap();
    let ends = vec![sending];
    let offered = Targets {
        ends,
        reads: READS,
        ..Targets::default()
    };
    handoff::answer(accepted, &offered).await.unwrap();
    orphan.gone().await;
    assert_eq!(asked_again(&mut stream, 5).await, "hello from g2");
}

/// One more answer, and no GOAWAY before it.
async fn asked_again(stream: &mut TcpStream, id: u32) -> String {
    stream.write_all(&headers(id, "/hello")).await.unwrap();
    let mut body = Vec::new();
    while let Some((kind, flags, of, payload)) = frame(stream).await {
        match kind {
            0 if of == id => {
                body.extend(payload);
                if flags & 1 == 1 {
                    return String::from_utf8(body).unwrap();
                }
            }
            6 if flags & 1 == 0 => stream.write_all(&pong(&payload)).await.unwrap(),
            7 => panic!("it was told to go"),
            _ => {}
        }
    }
    panic!("it has ended");
}

/// A client that has one answer and has acknowledged our SETTINGS.
async fn asked_once(worker: &TestWorker) -> TcpStream {
    let mut stream = TcpStream::connect(worker.address).await.unwrap();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    hello.extend(b"\0\0\0\x04\x01\0\0\0\0");
    hello.extend(headers(1, "/hello"));
    stream.write_all(&hello).await.unwrap();
    loop {
        let (kind, flags, _, _) = frame(&mut stream).await.unwrap();
        if kind == 0 && flags & 1 == 1 {
            return stream;
        }
    }
}

/// Asks once more when the end is announced: the streams answered whole, and those that GOAWAYs name.
async fn told_to_go(stream: &mut TcpStream) -> (Vec<u32>, Vec<u32>) {
    let (mut whole, mut last_ids) = (Vec::new(), Vec::new());
    while let Some((kind, flags, id, payload)) = frame(stream).await {
        match kind {
            0 if flags & 1 == 1 => whole.push(id),
            6 if flags & 1 == 0 => {
                stream.write_all(&headers(3, "/hello")).await.unwrap();
                stream.write_all(&pong(&payload)).await.unwrap();
            }
            7 => last_ids.push(u32::from_be_bytes(payload[..4].try_into().unwrap())),
            3 => panic!("stream {id} was reset"),
            _ => {}
        }
    }
    (whole, last_ids)
}

fn without_http2() -> Config {
    let mut config = config();
    config.http.http2 = false;
    config
}

/// It is asked, not supposed.
#[tokio::test]
async fn a_worker_says_which_connections_it_takes_over() {
    assert_eq!(TestWorker::start().await.reads, READS);
    let reads = TestWorker::with(without_http2()).await.reads;
    assert_eq!(reads, Reads { http2: 0, ..READS });
}

/// A connection stays where nobody takes it, and ends there in two phases.
#[tokio::test]
async fn a_connection_that_no_worker_reads_ends_where_it_is() {
    let mut old = TestWorker::start().await;
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let new = TestWorker::begin(without_http2(), listener, 2, None, Some(receiving)).await;
    let mut stream = asked_once(&old).await;
    old.pass_to_those(&[&sending], new.reads).await;
    let (whole, last_ids) = told_to_go(&mut stream).await;
    assert_eq!((whole, last_ids), (vec![3], vec![(1 << 31) - 1, 3]));
    let report = old.drained().await;
    assert_eq!((report.passed, report.finished), (0, 1));
}

/// One that lay in the queue of a worker which speaks HTTP/2 comes to one that does not any longer.
#[tokio::test]
async fn a_connection_that_comes_to_a_worker_without_http2_is_answered_and_ends() {
    let mut old = TestWorker::start().await;
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let _new = TestWorker::begin(without_http2(), listener, 2, None, Some(receiving)).await;
    let mut stream = asked_once(&old).await;
    old.pass_to(&[&sending]).await;
    assert_eq!(old.drained().await.passed, 1);
    let (whole, last_ids) = told_to_go(&mut stream).await;
    assert_eq!((whole, last_ids), (vec![3], vec![(1 << 31) - 1, 3]));
}

fn pong(payload: &[u8]) -> Vec<u8> {
    let mut ack = b"\0\0\x08\x06\x01\0\0\0\0".to_vec();
    ack.extend_from_slice(payload);
    ack
}
