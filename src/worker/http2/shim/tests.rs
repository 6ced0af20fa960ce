//! A real client (`h2`'s, which repeats nothing) on one connection that is moved from one hyper to the next,
//! in memory, whenever it stands between two streams; and what happens when a part of it is left out.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::{sleep_until, timeout};

use super::*;
use crate::config::Http;
use crate::worker::http2::mirror::Mirror;
use crate::worker::http2::settings::{CONNECTION_WINDOW, builder, for_life};
use crate::worker::http2::wire::Wire;

/// What is left out of a move.
type Mutation = fn(&mut Ledger);

struct Mover {
    mutation: Mutation,
    asks: bool,
    window: u32,
    stream_window: u32,
    seed: u64,
    moves: Arc<AtomicU64>,
}

impl Mover {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        Self {
            mutation: |_| {},
            asks: true,
            window: *random.choice(&[65_535, 80_000, 200_000, 1 << 20]).unwrap(),
            stream_window: *random.choice(&[1_000, 65_535, 1 << 20]).unwrap(),
            seed,
            moves: Arc::default(),
        }
    }

    /// Serves a connection to its end.
    async fn serve(self, mut stream: DuplexStream) {
        let mut random = Rng::with_seed(self.seed);
        let mut builder = builder(&Http::default());
        builder
            .initial_connection_window_size(self.window)
            .initial_stream_window_size(self.stream_window);
        let mut preface = [0; PREFACE.len()];
        if stream.read_exact(&mut preface).await.is_err() {
            return;
        }
        let mut shim = Shim::new(&preface, self.window);
        loop {
            let (told, window) = shim.told();
            let own = match told {
                [] => builder.clone(),
                told => for_life(&builder, told, window).unwrap(),
            };
            let wire = Wire::new(stream, shim);
            let service = service_fn(answer);
            let mut http = pin!(own.serve_connection(TokioIo::new(wire.handle()), service));
            let mut timer = pin!(sleep_until(Instant::now() + Duration::from_millis(5)));
            let mut looks_away = random.u32(..4);
            let left = poll_fn(|cx| {
                loop {
                    if wire.poll_h2(http.as_mut(), cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    let mut core = wire.lock();
                    if core.is_woken() {
                        continue;
                    }
                    if core.shim.has_failed() {
                        return Poll::Ready(None);
                    }
                    if core.is_quiet() && looks_away == 0 {
                        if core.shim.is_late() && self.asks {
                            core.shim.ask();
                            continue;
                        }
                        core.shim.ledger.late = false;
                        if let Some(left) = core.leave() {
                            return Poll::Ready(Some(left));
                        }
                    }
                    looks_away = looks_away.saturating_sub(1);
                    if timer.as_mut().poll(cx).is_ready() {
                        let most = if core.shim.is_frozen() { 3 } else { 20 };
                        if core.shim.is_frozen() {
                            core.thaw();
                        } else {
                            core.shim.freeze();
                        }
                        let pause = Duration::from_millis(random.u64(1..=most));
                        timer.as_mut().reset(Instant::now() + pause);
                        continue;
                    }
                    return Poll::Pending;
                }
            })
            .await;
            let Some((socket, blob, leftover)) = left else {
                return;
            };
            self.moves.fetch_add(1, Relaxed);
            let (mut ledger, window) = Blob::received(blob.bytes()).read().unwrap();
            (self.mutation)(&mut ledger);
            stream = socket;
            shim = Shim::of(ledger, window, &leftover);
        }
    }
}

/// Says what was asked, and how much it was told to say.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let mut response = Response::builder();
    for (name, value) in &parts.headers {
        if name.as_str().starts_with("x-") {
            response = response.header(name, value);
        }
    }
    let path = parts.uri.path();
    let body = if let Some(len) = path.strip_prefix("/big/") {
        Bytes::from(vec![b'b'; len.parse().unwrap()])
    } else if path == "/early" {
        Bytes::from_static(b"enough")
    } else {
        tokio::time::sleep(Duration::from_micros(500)).await;
        match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::from_static(b"cut"),
        }
    };
    Ok(response.body(Full::new(body)).unwrap())
}

type Asks = h2::client::SendRequest<Bytes>;

/// What a client has seen otherwise than it should.
type Wrong = String;

/// Asks one thing after the other.
async fn ask(asks: Asks, seed: u64, count: usize) -> Result<(), Wrong> {
    let mut random = Rng::with_seed(seed);
    for n in 0..count {
        let mut ready = asks.clone().ready().await.map_err(|e| e.to_string())?;
        let kind = random.u32(..10);
        let (path, sent) = match kind {
            0..4 => (String::from("/echo"), 0),
            4..6 => (String::from("/echo"), random.usize(..40_000)),
            6 | 7 => (format!("/big/{}", random.usize(..60_000)), 0),
            8 => (String::from("/early"), 20_000),
            _ => (String::from("/echo"), 5_000),
        };
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("http://a{path}"));
        let mut fields = Vec::new();
        for _ in 0..random.usize(1..5) {
            let name = format!("x-{}", random.u32(..12));
            let len = match random.u32(..20) {
                0 => 5000,
                1..8 => random.usize(..300),
                _ => 3,
            };
            let repeated = random.bool();
            let value: String = (0..len)
                .map(|_| if repeated { 'r' } else { random.alphanumeric() })
                .collect();
            let mut field = HeaderValue::try_from(value).unwrap();
            field.set_sensitive(random.u32(..5) == 0);
            let name = HeaderName::try_from(name).unwrap();
            request = request.header(&name, field.clone());
            fields.push((name, field));
        }
        let request = request.body(()).unwrap();
        let (response, mut body) = ready
            .send_request(request, sent == 0)
            .map_err(|e| format!("{n}: {e}"))?;
        if kind == 9 {
            // It changes its mind.
            let _ = body.send_data(Bytes::from_static(b"part"), false);
            tokio::task::yield_now().await;
            body.send_reset(h2::Reason::CANCEL);
            continue;
        }
        let wrong = |what: &str, e: &dyn std::fmt::Display| format!("{n}: {what}: {e}");
        let upload = async {
            let mut left = sent;
            while left > 0 {
                body.reserve_capacity(left);
                match poll_fn(|cx| body.poll_capacity(cx)).await {
                    Some(Ok(room)) => {
                        let now = room.min(left);
                        left -= now;
                        body.send_data(Bytes::from(vec![b'u'; now]), left == 0)
                            .map_err(|e| wrong("upload", &e))?;
                    }
                    Some(Err(e)) => return Err(wrong("upload", &e)),
                    None => return Err(wrong("upload", &"it was reset")),
                }
            }
            Ok(())
        };
        let download = async {
            let response = response.await.map_err(|e| wrong("answer", &e))?;
            if response.status() != StatusCode::OK {
                return Err(wrong("status", &response.status()));
            }
            for (name, _) in &fields {
                let all = response.headers().get_all(name).iter();
                if !all.eq(fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v)) {
                    return Err(wrong("field", name));
                }
            }
            let mut body = response.into_body();
            let mut len = 0;
            while let Some(data) = body.data().await {
                let data = data.map_err(|e| wrong("body", &e))?;
                len += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            Ok(len)
        };
        let (uploaded, downloaded) = tokio::join!(upload, download);
        let len = downloaded?;
        let expected = match path.strip_prefix("/big/") {
            Some(len) => len.parse().unwrap(),
            None if kind == 8 => 6,
            None => {
                uploaded?;
                sent
            }
        };
        if len != expected {
            return Err(format!("{n}: {len} bytes instead of {expected}"));
        }
    }
    Ok(())
}

/// A client with many streams on one connection.
async fn client(stream: DuplexStream, seed: u64, streams: u64, count: usize) -> Result<(), Wrong> {
    let mut random = Rng::with_seed(seed);
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(*random.choice(&[500, 65_535, 1 << 20]).unwrap())
        .initial_connection_window_size(*random.choice(&[65_535, 70_000, 1 << 20]).unwrap())
        .header_table_size(*random.choice(&[0, 100, 4_096, 65_536]).unwrap())
        .max_frame_size(*random.choice(&[16_384, 100_000]).unwrap());
    let (asks, connection) = builder.handshake(stream).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..streams {
        tasks.spawn(ask(asks.clone(), seed ^ n << 32, count));
    }
    drop(asks);
    while let Some(done) = tasks.join_next().await {
        done.unwrap()?;
    }
    let _ = connection.await;
    Ok(())
}

/// How often one connection was moved, and what its client has seen.
async fn run(server: Mover, streams: u64, count: usize) -> (u64, Result<(), Wrong>) {
    let (counted, seed) = (Arc::clone(&server.moves), server.seed);
    let room = Rng::with_seed(seed).usize(100..100_000);
    let (ours, theirs) = duplex(room);
    let task = tokio::spawn(server.serve(ours));
    let answers = timeout(
        Duration::from_secs(20),
        client(theirs, seed, streams, count),
    )
    .await;
    task.abort();
    let answers = answers.unwrap_or_else(|_| Err("nothing comes any more".into()));
    (counted.load(Relaxed), answers)
}

#[tokio::test]
async fn a_client_does_not_notice_that_its_connection_is_moved_hundreds_of_times() {
    let mut moves = 0;
    for seed in 0..24 {
        let streams = 1 + seed % 5;
        let (count, seen) = run(Mover::new(seed), streams, 60).await;
        assert_eq!(seen, Ok(()), "seed {seed}, after {count} moves");
        moves += count;
    }
    println!("{moves} moves");
    assert!(moves > 500, "{moves} moves");
}

/// Some client notices that this part is left out.
async fn bites(what: &str, mutation: Mutation, asks: bool) {
    for seed in 0..200 {
        let mut mover = Mover::new(seed);
        mover.mutation = mutation;
        mover.asks = asks;
        if seed % 2 == 0 {
            mover.window = 65_535;
        }
        if run(mover, 1 + seed % 5, 60).await.1.is_err() {
            return;
        }
    }
    panic!("nobody notices: {what}");
}

#[tokio::test]
async fn without_the_header_table_it_would() {
    bites("mirror", |ledger| ledger.mirror = Mirror::new(4096), true).await;
}

#[tokio::test]
async fn without_the_number_of_streams_it_would() {
    bites("ids", |ledger| ledger.highest = 1, true).await;
}

#[tokio::test]
async fn without_what_we_may_send_it_would() {
    bites("send", |ledger| ledger.send = ledger.send.max(65_535), true).await;
}

#[tokio::test]
async fn without_what_it_may_send_it_would() {
    bites("receive", |ledger| ledger.receive = 65_535, true).await;
}

#[tokio::test]
async fn without_its_settings_it_would() {
    bites("settings", |ledger| ledger.client_settings.clear(), true).await;
}

#[tokio::test]
async fn without_what_is_not_acknowledged_it_would() {
    bites("acks", |ledger| ledger.unacknowledged = 0, true).await;
}

/// A server that moves once, and what a client says and hears byte by byte.
struct Raw {
    client: DuplexStream,
    moves: Arc<AtomicU64>,
    /// So many of them were waited for.
    seen: u64,
}

impl Raw {
    fn connect(asks: bool) -> Self {
        let (ours, client) = duplex(100_000);
        let mut server = Mover::new(1);
        server.asks = asks;
        (server.window, server.stream_window) = (1 << 20, 1 << 20);
        let moves = Arc::clone(&server.moves);
        tokio::spawn(server.serve(ours));
        Self {
            client,
            moves,
            seen: 0,
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
    }

    /// Says it in small pieces.
    async fn stammer(&mut self, bytes: &[u8], random: &mut Rng) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(random.usize(1..=rest.len().min(20)));
            self.say(now).await;
            tokio::task::yield_now().await;
            rest = later;
        }
    }

    /// Waits until it is moved once more than at the last time.
    async fn moved(&mut self) {
        self.seen += 1;
        let moved = async {
            while self.moves.load(Relaxed) < self.seen {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(5), moved)
            .await
            .expect("a move");
    }

    /// The next frame of this kind.
    async fn frame(&mut self, kind: u8) -> (frames::Head, Vec<u8>) {
        let frame = async {
            loop {
                let mut head = [0; frames::HEAD];
                self.client.read_exact(&mut head).await.unwrap();
                let head = frames::Head::parse(&head);
                let mut payload = vec![0; head.payload()];
                self.client.read_exact(&mut payload).await.unwrap();
                assert!(
                    kind == frames::GOAWAY || head.kind != frames::GOAWAY,
                    "GOAWAY {payload:?}"
                );
                if head.kind == kind {
                    return (head, payload);
                }
            }
        };
        timeout(Duration::from_secs(5), frame)
            .await
            .expect("a frame")
    }
}

use super::super::frames;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames::write(&mut bytes, kind, flags, stream, payload);
    bytes
}

const ALL: u8 = frames::END_HEADERS | frames::END_STREAM;

fn hello() -> Vec<u8> {
    let settings = frame(frames::SETTINGS, 0, 0, &[]);
    let ack = frame(frames::SETTINGS, frames::ACK, 0, &[]);
    [PREFACE, &settings, &ack].concat()
}

/// POST `/echo` with `x-0: abc` put into the table, and the same by the table alone.
const FIRST: &[u8] = b"\x83\x86\x44\x05/echo\x41\x01a\x40\x03x-0\x03abc";
const AGAIN: &[u8] = b"\x83\x86\xc0\xbf\xbe";

/// GET `/`, without the table.
const GET: &[u8] = b"\x82\x86\x84\x01\x01a";

#[tokio::test]
async fn padding_priorities_and_blocks_in_many_frames_are_followed() {
    for seed in 0..40 {
        let mut random = Rng::with_seed(seed);
        let mut raw = Raw::connect(true);
        raw.stammer(&hello(), &mut random).await;
        for (n, stream) in (1..).step_by(2).take(12).enumerate() {
            let block = if n == 0 { FIRST } else { AGAIN };
            let cut = random.usize(..block.len());
            let pad = random.u8(..50);
            let mut first = vec![pad];
            first.extend([0, 0, 0, 0, 16]);
            first.extend(&block[..cut]);
            first.extend(vec![0; usize::from(pad)]);
            let flags = frames::PADDED | frames::WITH_PRIORITY | frames::END_STREAM;
            let mut said = frame(frames::PRIORITY, 0, stream + 100, &[0, 0, 0, 0, 9]);
            said.extend(frame(frames::HEADERS, flags, stream, &first));
            let parts: Vec<_> = block[cut..].chunks(random.usize(6..20)).collect();
            for (n, part) in parts.iter().enumerate() {
                let last = if n + 1 == parts.len() {
                    frames::END_HEADERS
                } else {
                    0
                };
                said.extend(frame(frames::CONTINUATION, last, stream, part));
            }
            raw.stammer(&said, &mut random).await;
            let (head, answer) = raw.frame(frames::HEADERS).await;
            assert_eq!(head.stream, stream);
            // `:status: 200`, perhaps behind the size of the table.
            assert!(answer.contains(&0x88), "{answer:?}");
        }
        assert!(raw.moves.load(Relaxed) > 2, "seed {seed}");
    }
}

#[tokio::test]
async fn what_comes_late_on_a_stream_that_was_reset_is_waited_for() {
    // It was answered and reset before its body was sent.
    let early = b"\x83\x86\x44\x06/early\x41\x01a\x40\x03x-0\x03abc";
    for asks in [true, false] {
        let mut raw = Raw::connect(asks);
        raw.say(&hello()).await;
        raw.say(&frame(frames::HEADERS, frames::END_HEADERS, 1, early))
            .await;
        raw.frame(frames::RST_STREAM).await;
        if asks {
            let (_, barrier) = raw.frame(frames::PING).await;
            let before = raw.moves.load(Relaxed);
            // Trailers, and then the answer.
            raw.say(&frame(frames::HEADERS, ALL, 1, b"\0\x01t\x01t"))
                .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(raw.moves.load(Relaxed), before);
            raw.say(&frame(frames::PING, frames::ACK, 0, &barrier))
                .await;
            raw.moved().await;
            raw.say(&frame(
                frames::HEADERS,
                ALL,
                3,
                b"\x83\x86\x44\x05/echo\xc0\xbf",
            ))
            .await;
            let (head, _) = raw.frame(frames::HEADERS).await;
            assert_eq!(head.stream, 3);
        } else {
            for stream in [3, 5, 7] {
                raw.moved().await;
                raw.say(&frame(frames::HEADERS, ALL, stream, GET)).await;
                let (head, _) = raw.frame(frames::HEADERS).await;
                assert_eq!(head.stream, stream);
            }
            raw.say(&frame(frames::HEADERS, ALL, 1, b"\0\x01t\x01t"))
                .await;
            // Without the question the next `h2` takes them for a mistake.
            raw.frame(frames::GOAWAY).await;
        }
    }
}

#[tokio::test]
async fn an_answer_waits_for_the_window_and_others_overtake_it() {
    let mut raw = Raw::connect(true);
    raw.say(&hello()).await;
    // All but 1,000 bytes of the window are used, and the stream is over.
    raw.say(&frame(frames::WINDOW_UPDATE, 0, 0, &1000_u32.to_be_bytes()))
        .await;
    let big = b"\x83\x86\x44\x0a/big/65535\x41\x01a";
    raw.say(&frame(frames::HEADERS, ALL, 1, big)).await;
    let mut len = 0;
    while len < 65_535 {
        len += raw.frame(frames::DATA).await.0.payload();
    }
    raw.moved().await;
    let big = b"\x83\x86\x44\x09/big/5000\xbf";
    raw.say(&frame(frames::HEADERS, ALL, 3, big)).await;
    let (head, _) = raw.frame(frames::DATA).await;
    assert_eq!(
        (head.stream, head.payload()),
        (3, 1000),
        "no more than is allowed"
    );
    // One without a body goes on.
    raw.say(&frame(
        frames::HEADERS,
        ALL,
        5,
        b"\x83\x86\x44\x05/echo\xc0",
    ))
    .await;
    let (head, _) = raw.frame(frames::HEADERS).await;
    assert_eq!(head.stream, 5);
    for part in [500_u32, 3500] {
        raw.say(&frame(frames::WINDOW_UPDATE, 0, 0, &part.to_be_bytes()))
            .await;
        let (head, payload) = raw.frame(frames::DATA).await;
        let last = part == 3500;
        assert_eq!(
            (head.stream, payload.len()),
            (3, usize::try_from(part).unwrap())
        );
        assert_eq!(head.has(frames::END_STREAM), last);
    }
    raw.moved().await;
}

/// `h2` has written all of it and closes, because the client begins nothing more.
#[tokio::test]
async fn an_answer_that_waits_for_the_window_outlives_the_h2_that_wrote_it() {
    let mut raw = Raw::connect(true);
    raw.say(&hello()).await;
    let big = b"\x83\x86\x44\x0a/big/65535\x41\x01a";
    raw.say(&frame(frames::HEADERS, ALL, 1, big)).await;
    let mut len = 0;
    while len < 65_535 {
        len += raw.frame(frames::DATA).await.0.payload();
    }
    raw.moved().await;
    let big = b"\x83\x86\x44\x09/big/5000\xbf";
    raw.say(&frame(frames::HEADERS, ALL, 3, big)).await;
    raw.frame(frames::HEADERS).await;
    raw.say(&frame(frames::GOAWAY, 0, 0, &[0; 8])).await;
    // Time for it to close, were there nothing to wait for.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let _ = raw
        .client
        .write_all(&frame(frames::WINDOW_UPDATE, 0, 0, &5000_u32.to_be_bytes()))
        .await;
    let mut got = Vec::new();
    let read = raw.client.read_to_end(&mut got);
    timeout(Duration::from_secs(5), read)
        .await
        .expect("the end")
        .unwrap();
    let (mut len, mut ended) = (0, false);
    while let Some((head, whole)) = frames::Head::of_whole(&got) {
        if head.kind == frames::DATA {
            len += head.payload();
            ended = head.has(frames::END_STREAM);
        }
        got.drain(..whole);
    }
    assert_eq!((len, ended), (5000, true));
}

/// What `h2` reads when its client says this to a frozen connection with stream 3 open, and it is thawed
/// after each frame if `thaws`.
fn heard_frozen(said: &[Vec<u8>], thaws: bool) -> Vec<u8> {
    let now = Instant::now();
    let mut shim = Shim::new(PREFACE, CONNECTION_WINDOW);
    let mut heard = Vec::new();
    let mut hear = |shim: &mut Shim| {
        while shim.give(|bytes| {
            heard.extend_from_slice(bytes);
            bytes.len()
        }) {}
    };
    let post = frame(frames::HEADERS, frames::END_HEADERS, 3, b"\x83");
    for (n, frame) in [post.clone()].iter().chain(said).enumerate() {
        shim.inbox().extend_from_slice(frame);
        shim.pump(now);
        hear(&mut shim);
        if n == 0 {
            shim.freeze();
        } else if thaws {
            shim.thaw(now);
            hear(&mut shim);
            shim.freeze();
        }
    }
    shim.thaw(now);
    hear(&mut shim);
    heard.split_off(PREFACE.len() + post.len())
}

#[test]
fn no_header_block_overtakes_one_that_is_held() {
    // A new stream's, and one of a stream that no client may begin.
    let said = [
        frame(frames::HEADERS, frames::END_HEADERS, 5, b"\x82"),
        frame(frames::HEADERS, frames::END_HEADERS, 2, b"\x84"),
    ];
    assert_eq!(heard_frozen(&said, false), said.concat());
}

#[test]
fn nothing_that_was_held_comes_between_the_frames_of_a_block() {
    let said = [
        frame(frames::PRIORITY, 0, 7, &[0; 5]),
        frame(frames::HEADERS, frames::END_STREAM, 3, b"\x40\x01"),
        frame(frames::CONTINUATION, frames::END_HEADERS, 3, b"a\x01b"),
    ];
    for thaws in [false, true] {
        assert_eq!(heard_frozen(&said, thaws), said.concat());
    }
}

#[test]
fn what_comes_between_the_frames_of_a_block_is_left_to_h2() {
    let said = [
        frame(frames::HEADERS, 0, 5, b"\x82"),
        frame(frames::CONTINUATION, frames::END_HEADERS, 0, b"\x84"),
        frame(frames::PING, 0, 0, &[0; 8]),
    ];
    assert_eq!(heard_frozen(&said, false), said.concat());
}
