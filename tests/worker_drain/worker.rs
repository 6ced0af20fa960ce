//! A worker in a thread of this process, and its master's side of the channel.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::StreamExt as _;
use handover::config::Config;
use handover::machine::link::{
    FromWorker, HTTP2_READS, Reads, Report, Start, TLS_READS, ToWorker, WorkerListener,
};
use handover::site::{self, SiteContext};
use handover::sys::channel::Channel;
use handover::sys::handoff::{self, Targets};
use handover::{DrainReason, UnixPeer, worker};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};
use tokio_seqpacket::UnixSeqpacketListener;
use tower_http::set_header::SetResponseHeaderLayer;

/// Nothing that is waited for takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running worker.
#[derive(Debug)]
pub struct TestWorker {
    pub channel: Option<Channel>,
    pub address: SocketAddr,
    pub listener: OwnedFd,
    /// What it said that it takes over.
    pub reads: Reads,
    /// Where it asks who takes its connections.
    handoff: PathBuf,
    _directory: TempDir,
    thread: Option<JoinHandle<ExitCode>>,
}

fn start(config: Config, generation: u64) -> Start {
    Start {
        name: "test".into(),
        generation,
        slot: 0,
        version: "1".into(),
        config,
        listeners: 1,
        handoff: None,
        board: false,
        typed: Vec::new(),
        hosted: None,
        tls: false,
    }
}

/// The configuration most tests use.
pub fn config() -> Config {
    Config::default()
}

impl TestWorker {
    /// Starts one that accepts.
    pub async fn start() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: Config) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut worker = Self::beside(config, listener, 1).await;
        worker.accept().await;
        worker
    }

    /// Starts one over an existing listener; it does not accept yet.
    pub async fn beside(config: Config, listener: impl Into<OwnedFd>, generation: u64) -> Self {
        Self::begin(config, listener, generation, None, None).await
    }

    /// The whole beginning: `handoff` is where it asks as an orphan, `receives` its receiving end.
    pub async fn begin(
        config: Config,
        listener: impl Into<OwnedFd>,
        generation: u64,
        handoff: Option<PathBuf>,
        receives: Option<OwnedFd>,
    ) -> Self {
        let mut start = start(config, generation);
        start.handoff = handoff;
        let worker = Self::from_start(start, listener.into(), None, "http").await;
        worker.receive_from(receives).await;
        worker
    }

    /// One that calls its only listener so, and takes connections over from `receives`.
    pub async fn named(name: &str, listener: impl Into<OwnedFd>, receives: OwnedFd) -> Self {
        let start = start(config(), 2);
        let worker = Self::from_start(start, listener.into(), None, name).await;
        worker.receive_from(Some(receives)).await;
        worker
    }

    /// One of several on a listener, told apart by the slot.
    pub async fn sharing(listener: OwnedFd, slot: u16, board: OwnedFd) -> Self {
        let start = Start {
            slot,
            board: true,
            ..start(config(), 1)
        };
        Self::from_start(start, listener, Some(board), "http").await
    }

    async fn from_start(
        mut start: Start,
        listener: OwnedFd,
        beside: Option<OwnedFd>,
        listener_name: &str,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let asks = start.handoff.take();
        let handoff = asks.unwrap_or_else(|| directory.path().join("handoff.sock"));
        start.handoff = Some(handoff.clone());
        let (channel, theirs) = Channel::pair().unwrap();
        let name = listener_name.to_owned();
        let thread = std::thread::spawn(move || {
            worker::run(theirs, move |start| {
                Box::pin(async move {
                    let router = application(start.generation());
                    Ok(HashMap::from([(name, router)]))
                })
            })
        });
        let shared = start.board;
        let beside: Vec<_> = beside.iter().map(|fd| fd.as_fd()).collect();
        channel
            .send(&ToWorker::Start(Box::new(start)), &beside)
            .await
            .unwrap();
        let name = WorkerListener {
            id: 1,
            name: listener_name.into(),
            address: "x".into(),
            shared,
        };
        let listeners = ToWorker::Listeners {
            listeners: vec![name],
        };
        channel.send(&listeners, &[listener.as_fd()]).await.unwrap();
        let mut worker = Self {
            channel: Some(channel),
            reads: Reads::default(),
            handoff,
            _directory: directory,
            address: std::net::TcpListener::from(listener.try_clone().unwrap())
                .local_addr()
                .unwrap_or(SocketAddr::from(([0; 4], 0))),
            listener,
            thread: Some(thread),
        };
        match worker.hear().await {
            FromWorker::Ready { reads } => worker.reads = reads,
            other => panic!("{other:?}"),
        }
        worker
    }

    async fn receive_from(&self, end: Option<OwnedFd>) {
        if let Some(end) = end {
            self.tell(&ToWorker::ReceiveFrom, &[&end]).await;
        }
    }

    /// Ends it, whatever it holds.
    pub async fn end(&self) {
        let now = ToWorker::Drain {
            timeout_ms: Some(0),
            pass: false,
            reason: DrainReason::Stop,
        };
        self.tell(&now, &[]).await;
    }

    pub async fn tell(&self, message: &ToWorker, fds: &[&OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let channel = self.channel.as_ref().unwrap();
        channel.send(message, &fds).await.unwrap();
    }

    pub async fn hear(&self) -> FromWorker {
        loop {
            match self.hear_anything().await {
                FromWorker::Full { .. } | FromWorker::Closed => {}
                said => return said,
            }
        }
    }

    async fn hear_anything(&self) -> FromWorker {
        let channel = self.channel.as_ref().unwrap();
        let received = channel.recv().await.unwrap();
        received.expect("the worker speaks").decode().unwrap()
    }

    /// Returns when it accepts.
    pub async fn accept(&mut self) {
        self.tell(&ToWorker::Accept, &[]).await;
        self.report().await;
    }

    /// Its figures; also proves that it has heard everything before.
    pub async fn report(&self) -> Report {
        self.tell(&ToWorker::Report, &[]).await;
        match self.hear().await {
            FromWorker::Report(report) => report,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until its figures are as wanted.
    pub async fn until(&self, wanted: impl Fn(&Report) -> bool) -> Report {
        let begun = Instant::now();
        loop {
            let report = self.report().await;
            if wanted(&report) {
                return report;
            }
            assert!(begun.elapsed() < PATIENCE, "{report:?}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Orders it to drain; these take its connections, as it hears when it asks.
    pub async fn pass_to(&self, targets: &[&OwnedFd]) {
        self.pass_to_those(targets, READS).await;
    }

    /// The same with workers that read these.
    pub async fn pass_to_those(&self, targets: &[&OwnedFd], reads: Reads) {
        let answer = self.owner(targets, reads);
        self.drain_and(true, Some(Duration::from_secs(30))).await;
        answer.await.unwrap();
    }

    /// The owner of the service, who answers one question with these. Who asks again finds nobody.
    pub fn owner(&self, targets: &[&OwnedFd], reads: Reads) -> tokio::task::JoinHandle<()> {
        let ends = targets.iter().map(|end| end.try_clone().unwrap());
        let targets = Targets {
            ends: ends.collect(),
            reads,
            ..Targets::default()
        };
        let mut owner = UnixSeqpacketListener::bind(&self.handoff).unwrap();
        tokio::spawn(async move {
            loop {
                let accepted = owner.accept().await.unwrap();
                // Who has waited for a second asks again.
                if handoff::answer(accepted, &targets).await.is_ok() {
                    return;
                }
            }
        })
    }

    /// Orders the drain and waits until it has begun.
    pub async fn drain(&self, limit: Option<Duration>) {
        self.drain_and(false, limit).await;
        while self.hear_anything().await != FromWorker::Closed {}
    }

    /// `pass`: somebody else serves on.
    pub async fn drain_and(&self, pass: bool, limit: Option<Duration>) {
        let order = ToWorker::Drain {
            timeout_ms: limit.map(|l| u64::try_from(l.as_millis()).unwrap()),
            pass,
            reason: DrainReason::Upgrade,
        };
        self.tell(&order, &[]).await;
    }

    /// Waits for its last word and its end.
    pub async fn drained(&mut self) -> Report {
        let report = loop {
            match self.hear().await {
                FromWorker::Drained(report) => break report,
                FromWorker::Report(_) => {}
                other => panic!("{other:?}"),
            }
        };
        self.gone().await;
        report
    }

    /// Waits until its thread has ended.
    pub async fn gone(&mut self) {
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap())
            .await
            .unwrap();
    }
}

/// What each of these workers reads, if its configuration does not say otherwise.
pub const READS: Reads = Reads {
    tls: TLS_READS,
    http2: HTTP2_READS,
};

/// What the workers serve. Every answer names the generation.
pub fn application(generation: u64) -> Router {
    let hello = move || async move { format!("hello from g{generation}") };
    Router::new()
        .route("/hello", get(hello))
        .route("/block/{ms}", get(block))
        .route(
            "/echo/{id}",
            get(|Path(id): Path<String>| async move { id }),
        )
        .route("/slow/{ms}", get(slow))
        .route(
            "/upload",
            post(|body: Bytes| async move { checksum(&body) }),
        )
        .route("/ignore", post(|| async { "ignored" }))
        .route("/promised", post(promised))
        .route("/trailers", get(trailers))
        .route(
            "/download/{len}",
            get(|Path(len): Path<usize>| async move { pattern(len) }),
        )
        .route("/stream/{count}/{ms}", get(stream))
        .route("/late-end/{ms}", get(late_end))
        .route("/upgrade", get(upgrade))
        .route("/late-upgrade/{ms}", get(late_upgrade))
        .route(
            "/last",
            get(|| async { ([("connection", "close")], "last") }),
        )
        .route("/peer", get(peer))
        .route("/background", post(background))
        .route("/panic", get(panic).post(panic))
        .route("/panic-later", get(panic_later))
        .fallback_service(site())
        .layer(SetResponseHeaderLayer::overriding(
            HeaderName::from_static("x-generation"),
            HeaderValue::from(generation),
        ))
}

/// What the test application serves where it has no route.
pub fn directory() -> &'static std::path::Path {
    static DIRECTORY: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    DIRECTORY.path()
}

fn site() -> Router {
    site::router(&SiteContext {
        root: Some(directory().to_owned()),
        at: String::new(),
        release: None,
        name: "test".into(),
        version: "1".into(),
        generation: 1,
        server_header: false,
    })
}

async fn slow(Path(ms): Path<u64>) -> String {
    sleep(Duration::from_millis(ms)).await;
    format!("after {ms}")
}

/// Holds up the whole worker.
#[expect(
    clippy::disallowed_methods,
    reason = "a slow application is what is tested"
)]
async fn block(Path(ms): Path<u64>) -> &'static str {
    std::thread::sleep(Duration::from_millis(ms));
    "blocked"
}

/// Bytes whose every position can be told, near enough.
pub fn pattern(len: usize) -> Vec<u8> {
    let block: Vec<u8> = (0..1009)
        .flat_map(|n: u32| format!("{n};").into_bytes())
        .collect();
    let mut bytes = block.repeat(len / block.len() + 1);
    bytes.truncate(len);
    bytes
}

/// Length and content in a few characters.
pub fn checksum(bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(5381u64, |h, b| h.wrapping_mul(33) ^ u64::from(*b));
    format!("{}:{sum:x}", bytes.len())
}

/// Reads what was promised, and does not wait for the end of it.
async fn promised(body: Body) -> &'static str {
    let mut body = std::pin::pin!(body);
    while body.size_hint().exact() != Some(0) {
        body.frame().await.unwrap().unwrap();
    }
    "read"
}

/// As gRPC answers.
async fn trailers() -> Body {
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let frames = [
        Frame::data(Bytes::from_static(b"message")),
        Frame::trailers(trailers),
    ];
    let frames = futures_util::stream::iter(frames.map(Ok::<_, Infallible>));
    Body::new(http_body_util::StreamBody::new(frames))
}

/// So many chunks, one every so often.
async fn stream(Path((count, ms)): Path<(u32, u64)>) -> Body {
    Body::from_stream(futures_util::stream::unfold(0, move |n| async move {
        if n == count {
            return None;
        }
        sleep(Duration::from_millis(ms)).await;
        Some((Ok::<_, Infallible>(format!("chunk {n};")), n + 1))
    }))
}

/// A body of known length whose end comes later than its last byte.
async fn late_end(Path(ms): Path<u64>) -> Response<Body> {
    let frames = futures_util::stream::unfold(true, move |first| async move {
        if first {
            return Some((Ok::<_, Infallible>("whole"), false));
        }
        sleep(Duration::from_millis(ms)).await;
        None
    });
    let mut response = Response::new(Body::from_stream(frames));
    response
        .headers_mut()
        .insert("content-length", HeaderValue::from_static("5"));
    response
}

/// A protocol of our own: everything comes back in capitals.
async fn upgrade(mut request: Request<Body>) -> Response<Body> {
    let on_upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(on_upgrade.await.unwrap());
        let mut bytes = [0; 1024];
        while let Ok(n @ 1..) = io.read(&mut bytes).await {
            let answer = bytes[..n].to_ascii_uppercase();
            if io.write_all(&answer).await.is_err() {
                break;
            }
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("upgrade", HeaderValue::from_static("shout"));
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    response
}

async fn panic(request: Request<Body>) -> &'static str {
    sleep(Duration::from_millis(1)).await;
    panic!("{} is too much", request.uri());
}

/// Panics when a part of the answer has been sent.
async fn panic_later() -> Body {
    Body::from_stream(futures_util::stream::unfold(0, |n| async move {
        sleep(Duration::from_millis(20)).await;
        assert!(n < 2, "the third chunk is too much");
        Some((Ok::<_, Infallible>(format!("chunk {n};")), n + 1))
    }))
}

/// The same, after a while.
async fn late_upgrade(Path(ms): Path<u64>, request: Request<Body>) -> Response<Body> {
    sleep(Duration::from_millis(ms)).await;
    upgrade(request).await
}

async fn peer(request: Request<Body>) -> String {
    let extensions = request.extensions();
    if let Some(ConnectInfo(address)) = extensions.get::<ConnectInfo<SocketAddr>>() {
        return address.to_string();
    }
    let peer = extensions.get::<UnixPeer>().unwrap();
    format!("uid {}", peer.uid)
}

/// Answers at once; the body is read, or dropped half-way, by another task later.
async fn background(body: Body) -> &'static str {
    tokio::spawn(async move {
        let mut body = body.into_data_stream();
        let _ = body.next().await;
        sleep(Duration::from_millis(20)).await;
    });
    "later"
}
