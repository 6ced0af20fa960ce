//! One request and its answer on their way through the application: the service that hyper calls,
//! and wrappers of both bodies that leave their marks in the [`Gate`].

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::future::RouteFuture;
use bytes::{Buf as _, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Worker;
use super::access::{AccessLog, Entry};
use super::connection::Served;
use super::connections::Connections;
use super::fault::is_faulty;
use super::gate::Gate;
use super::guarded::{Panicked, Subject};
use super::http2::streams::Stream;
use super::rooms::{Own, Room};
use super::sendfile::{Chunk, Sent};
use super::stream::Peer;
use super::streaming::Events;
use super::tls::TlsInfo;
use super::ws::Farewell;
use crate::config::Network;
use crate::context::{Context, Hop};

/// The application as one connection's service.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) router: Router,
    pub(super) context: Context,
    pub(super) peer: Peer,
    /// Who is believed when it says that somebody else asks.
    pub(super) proxies: Arc<[Network]>,
    pub(super) gate: Arc<Gate>,
    pub(super) connections: Arc<Connections>,
    /// HTTP/2: many at a time.
    pub(super) multiplexed: bool,
    /// Of its connection.
    pub(super) own: Own,
    pub(super) body_timeout: Duration,
    pub(super) send_timeout: Duration,
    pub(super) access: Option<Arc<AccessLog>>,
    /// Of the connection, where it is TLS.
    pub(super) tls: Option<Arc<TlsInfo>>,
}

impl hyper::service::Service<Request<Incoming>> for Exchange {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        self.connections
            .figures
            .requests
            .fetch_add(1, Ordering::Relaxed);
        let hop = self.context.hop();
        let asks_for = hop.asks_for(request.headers_mut(), &self.proxies);
        let (client, context) = match asks_for.map(Peer::Tcp) {
            Some(client) => (client, self.context.from(client)),
            None => (self.peer, self.context.clone()),
        };
        let entry = self.access.as_ref().map(|log| log.begin(&request, client));
        match client {
            Peer::Tcp(address) => {
                request.extensions_mut().insert(ConnectInfo(address));
            }
            Peer::Unix(peer) => {
                request.extensions_mut().insert(peer);
            }
        }
        request.extensions_mut().insert(context);
        if let Some(tls) = &self.tls {
            request.extensions_mut().insert(Arc::clone(tls));
        }
        let faulty = is_faulty(&request);
        let subject = Subject::of(&request);
        let (of, request) = self.enter(request, faulty);
        // A router is always ready, and cloning one is cloning an `Arc`.
        let mut router = self.router.clone();
        let room = self.connections.rooms.take(&self.own);
        let stage = if faulty {
            Stage::Fails(StatusCode::BAD_REQUEST)
        } else if room.is_some() {
            Stage::begin(&subject, &mut router, request)
        } else {
            let room = self.wait_for_room();
            Stage::Waits(Box::pin(room), Some(Box::new((router, request))))
        };
        Answering {
            stage,
            record: Some(Box::new(Record {
                subject,
                context: self.context.clone(),
                entry,
                of,
                room,
                sealed: self.tls.is_some(),
                events: None,
                rest: Bytes::new(),
                whole: false,
                no_length: false,
            })),
        }
    }
}

impl Exchange {
    /// Of a connection that hyper serves from now on; `tls` is its TLS.
    pub(super) fn new(
        worker: &Worker,
        served: &Served,
        peer: Peer,
        gate: &Arc<Gate>,
        tls: Option<Arc<TlsInfo>>,
        multiplexed: bool,
    ) -> Self {
        Self {
            router: served.router.clone(),
            context: worker
                .application
                .through(&served.name, peer, Hop::of(peer, &worker.proxies)),
            peer,
            proxies: Arc::clone(&worker.proxies),
            gate: Arc::clone(gate),
            connections: Arc::clone(&worker.connections),
            multiplexed,
            own: Own::new(multiplexed),
            body_timeout: worker.http.body_timeout,
            send_timeout: worker.http.send_timeout,
            access: worker.access.clone(),
            tls: tls.map(|info| worker.shown(info)),
        }
    }

    /// In `send_timeout` every answer that its client does not take gives its room back. Those that are still
    /// there then may have no end.
    fn wait_for_room(&self) -> impl Future<Output = Option<Room>> + Send + use<> {
        let connections = Arc::clone(&self.connections);
        let (own, most) = (self.own.clone(), self.send_timeout);
        async move { connections.rooms.wait(&own, most).await }
    }

    fn enter(&self, request: Request<Incoming>, faulty: bool) -> (Of, Request<Body>) {
        let has_body = !request.is_end_stream();
        let (of, number) = if self.multiplexed {
            (Of::Stream(Stream::begin(&self.gate)), 0)
        } else {
            let last = !keeps_alive(request.version(), request.headers());
            let number = self.gate.begin(has_body, last);
            if faulty {
                // Nothing is certain of what follows.
                self.gate.end();
            }
            (Of::Connection(Arc::clone(&self.gate)), number)
        };
        if !has_body {
            return (of, request.map(|_| Body::empty()));
        }
        let waits = request.version() > Version::HTTP_10
            && request
                .headers()
                .get(EXPECT)
                .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let upload = |body| Upload {
            body: Some(body),
            number,
            asked: !waits && !faulty,
            of: of.clone(),
            timeout: self.body_timeout,
            silent: None,
        };
        let request = request.map(|body| Body::new(upload(body)));
        (of, request)
    }
}

/// What a request and its answer belong to.
#[derive(Debug, Clone)]
enum Of {
    /// HTTP/1.1: there is one at a time.
    Connection(Arc<Gate>),
    /// HTTP/2.
    Stream(Arc<Stream>),
}

impl Of {
    fn is_body_late(&self) -> bool {
        match self {
            Self::Connection(gate) => gate.is_body_late(),
            Self::Stream(stream) => stream.is_body_late(),
        }
    }
}

/// Whether the client wants to go on after this request.
fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |token: &str| {
        headers.get_all(CONNECTION).iter().any(|v| {
            v.to_str()
                .is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
        })
    };
    if version == Version::HTTP_10 {
        says("keep-alive") && !says("close")
    } else {
        !headers.contains_key(CONNECTION) || !says("close")
    }
}

/// An answer being made.
pub(super) struct Answering {
    stage: Stage,
    /// Until it is made.
    record: Option<Box<Record>>,
}

/// What is known of one request until its answer has ended. hyper moves an answer several times, so
/// that this is on the heap.
#[derive(Debug)]
struct Record {
    subject: Subject,
    context: Context,
    /// Its line of the access log.
    entry: Option<Entry>,
    of: Of,
    /// Back when the answer's files are closed.
    room: Option<Room>,
    /// Over TLS: the kernel cannot seal what it sends.
    sealed: bool,
    /// Of a stream of events, where it may end.
    events: Option<Box<Events>>,
    /// HTTP/2: of a long frame, what hyper has not been given.
    rest: Bytes,
    /// All of the answer was given to hyper.
    whole: bool,
    /// It says how long something else is, or nothing.
    no_length: bool,
}

/// How far an answer is.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every answer runs, and nothing is allocated for it"
)]
enum Stage {
    /// There are no files left for it to open: those of other answers come free first.
    Waits(
        Pin<Box<dyn Future<Output = Option<Room>> + Send>>,
        Option<Box<(Router, Request<Body>)>>,
    ),
    /// The application makes it.
    Runs(RouteFuture<Infallible>),
    /// It is an error of ours.
    Fails(StatusCode),
    /// It switches protocols, which the driver must know before.
    Switches(Option<Box<Response<Body>>>),
}

impl Stage {
    fn begin(subject: &Subject, router: &mut Router, request: Request<Body>) -> Self {
        match subject.guard(|| tower::Service::call(router, request)) {
            Ok(answer) => Self::Runs(answer),
            Err(Panicked) => Self::Fails(PANICKED),
        }
    }
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(record) = &mut this.record else {
            return Poll::Pending;
        };
        let response = loop {
            match &mut this.stage {
                Stage::Waits(room, waiting) => {
                    record.room = ready!(room.as_mut().poll(cx));
                    this.stage = match waiting.take() {
                        Some(waiting) if record.room.is_some() => {
                            let (mut router, request) = *waiting;
                            Stage::begin(&record.subject, &mut router, request)
                        }
                        _ => Stage::Fails(StatusCode::SERVICE_UNAVAILABLE),
                    };
                }
                Stage::Runs(answer) => match record.subject.guard(|| Pin::new(answer).poll(cx)) {
                    Ok(polled) => {
                        let Ok(response) = ready!(polled);
                        if !record.switches(&response) {
                            break response;
                        }
                        this.stage = Stage::Switches(Some(Box::new(response)));
                    }
                    Err(Panicked) => this.stage = Stage::Fails(PANICKED),
                },
                Stage::Fails(status) => break error(*status),
                Stage::Switches(held) => {
                    let granted = match &record.of {
                        Of::Connection(gate) => gate.switch(),
                        Of::Stream(_) => true,
                    };
                    match held.take_if(|_| granted) {
                        Some(response) => break *response,
                        // The driver polls again.
                        None => return Poll::Pending,
                    }
                }
            }
        };
        match this.record.take() {
            Some(record) => Poll::Ready(Ok(record.answer(response))),
            None => Poll::Pending,
        }
    }
}

/// What a client is told that has not been told anything yet.
const PANICKED: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;

/// An answer of ours.
fn error(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{status}\n")));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

impl Record {
    /// Whether the application has the connection after this answer.
    fn switches(&self, response: &Response<Body>) -> bool {
        let status = response.status();
        matches!(self.of, Of::Connection(_))
            && (status == StatusCode::SWITCHING_PROTOCOLS
                || (status.is_success() && self.subject.connects()))
    }

    /// The application's answer, as hyper gets it.
    fn answer(mut self: Box<Self>, mut response: Response<Body>) -> Response<Answer> {
        let status = response.status();
        if (status.is_client_error() || status.is_server_error()) && self.of.is_body_late() {
            // The application failed for want of the body: the client is told what was missing.
            response = error(StatusCode::REQUEST_TIMEOUT);
        }
        if let Of::Connection(gate) = &self.of {
            say_whether_it_closes(gate, &mut response);
            if gate.switches() && is_web_socket(&response) {
                gate.web_socket(Farewell::new(self.context.ending()));
            }
        }
        if let Some(entry) = &mut self.entry {
            entry.status = response.status().as_u16();
        }
        self.whole = response.body().is_end_stream();
        self.no_length = self.whole && response.status() == StatusCode::NOT_MODIFIED;
        if self.no_length {
            // RFC 9110, 8.6: it would be the length of what was not sent. axum says that of this answer.
            let headers = response.headers_mut();
            if headers
                .get(CONTENT_LENGTH)
                .is_some_and(|length| length == "0")
            {
                headers.remove(CONTENT_LENGTH);
            }
        }
        self.events = Events::of(&response, &self.context);
        let content = response.extensions_mut().remove();
        response.map(|body| Answer {
            body: match &self.of {
                Of::Connection(gate) if !self.sealed => Sent::new(body, content, gate),
                _ => Sent::Read(body),
            },
            record: self,
        })
    }
}

/// Marks the end of the answer, whoever drops it.
impl Drop for Record {
    fn drop(&mut self) {
        // Its line is written before anybody hears of the end.
        self.entry = None;
        match &self.of {
            Of::Stream(stream) => stream.end(self.whole),
            Of::Connection(gate) => gate.answered(),
        }
    }
}

fn is_web_socket(response: &Response<Body>) -> bool {
    let upgrade = response.headers().get(UPGRADE);
    upgrade.is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn say_whether_it_closes(gate: &Gate, response: &mut Response<Body>) {
    if gate.switches() {
        return;
    }
    if !keeps_alive(Version::HTTP_11, response.headers()) {
        gate.closes();
    } else if gate.says_close() {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The body of an answer. Its end is the end of the answer, whoever drops it.
#[derive(Debug)]
pub(super) struct Answer {
    body: Sent,
    record: Box<Record>,
}

/// What a stream gets at a time. HTTP/2 frames are no longer, and a stream's progress is counted in
/// these ([`super::http2::streams`]).
const PIECE: usize = 16 * 1024;

impl HttpBody for Answer {
    type Data = Chunk;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, axum::Error>>> {
        let this = &mut *self;
        let ends_here = this.record.events.as_mut().is_some_and(|e| e.end_here(cx));
        let polled = if ends_here {
            Poll::Ready(None)
        } else {
            this.poll_piece(cx)
        };
        if let Of::Stream(stream) = &this.record.of {
            stream.is_offered(polled.is_ready());
        }
        let frame = ready!(polled);
        let record = &mut *this.record;
        if let Some(Ok(frame)) = &frame {
            if let (Some(events), Some(Chunk::Bytes(bytes))) =
                (&mut record.events, frame.data_ref())
            {
                events.sent(bytes);
            }
            if let Some(entry) = &record.entry {
                entry.sent(frame.data_ref().map_or(0, Chunk::remaining));
            }
        }
        let ends = match &frame {
            None => true,
            // Nobody asks for what follows trailers.
            Some(Ok(frame)) => frame.is_trailers() || this.is_end_stream(),
            Some(Err(_)) => false,
        };
        this.record.whole |= ends;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.record.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.record.no_length {
            return SizeHint::default();
        }
        self.body.size_hint()
    }
}

impl Answer {
    /// The next frame; for a stream, a piece of it.
    fn poll_piece(
        &mut self,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, axum::Error>>> {
        let record = &mut *self.record;
        if record.rest.is_empty() {
            let body = &mut self.body;
            let frame = match record.subject.guard(|| body.poll(cx)) {
                Ok(frame) => ready!(frame),
                Err(panicked) => {
                    self.body = Sent::Read(Body::empty());
                    Some(Err(axum::Error::new(panicked)))
                }
            };
            if matches!(record.of, Of::Connection(_)) {
                return Poll::Ready(frame);
            }
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(Chunk::Bytes(bytes)))) => record.rest = bytes,
                Some(Ok(Ok(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                None => return Poll::Ready(None),
            }
        }
        let piece = record.rest.split_to(record.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(Chunk::Bytes(piece)))))
    }
}

/// The body of a request.
#[derive(Debug)]
struct Upload {
    body: Option<Incoming>,
    number: u32,
    /// The client does not wait for `100 Continue`, or has been sent it.
    asked: bool,
    of: Of,
    /// `[http] body_timeout`.
    timeout: Duration,
    /// Since the application waits for more: until when.
    silent: Option<Pin<Box<Sleep>>>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.asked = true;
        // Only what hyper had read by then counts.
        let held = matches!(&self.of, Of::Connection(gate) if gate.eof_held());
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            if let Of::Connection(gate) = &self.of {
                gate.body_waits(cx.waker(), held);
            }
            ready!(self.poll_silence(cx));
            self.body = None;
            match &self.of {
                Of::Connection(gate) => gate.body_late(self.number),
                Of::Stream(stream) => stream.body_late(),
            }
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
        };
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => body.is_end_stream(),
            // hyper ends such a connection.
            Some(Err(_)) => {
                if let Of::Connection(gate) = &self.of {
                    gate.end();
                }
                true
            }
        };
        self.silent = None;
        if ended {
            self.body = None;
            if let Of::Connection(gate) = &self.of {
                gate.body_read(self.number);
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Upload {
    /// Ready when nothing has come for too long.
    fn poll_silence(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let timeout = self.timeout;
        self.silent
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + timeout)))
            .as_mut()
            .poll(cx)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else {
            return;
        };
        match &self.of {
            Of::Connection(gate) => gate.body_dropped(self.number, body, self.asked),
            Of::Stream(_) => wait_for_end(body),
        }
    }
}

/// For the frame that ends a stream, from a client that has sent all it had promised.
const LAST_FRAME: Duration = Duration::from_secs(5);

/// HTTP/2: when every byte that was promised has been read and only the frame that ends the stream is
/// missing, it is waited for. `h2` resets a stream that is answered before, and some clients take that
/// for a failed request.
fn wait_for_end(mut body: Incoming) {
    if body.is_end_stream() || body.size_hint().exact() != Some(0) {
        return;
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    runtime.spawn(async move {
        let end = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let _ = tokio::time::timeout(LAST_FRAME, end).await;
    });
}
