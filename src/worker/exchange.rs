//! One request and its answer on their way through the application: the service that hyper calls,
//! and wrappers of both bodies that leave their marks in the [`Gate`].

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::routing::future::RouteFuture;
use bytes::{Buf as _, Bytes};
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::access::{AccessLog, Entry};
use super::connections::Connections;
use super::fault::is_faulty;
use super::gate::Gate;
use super::guarded::Subject;
use super::sendfile::{Chunk, Sent};
use super::stream::Peer;

/// The application as one connection's service.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) router: Router,
    pub(super) peer: Peer,
    pub(super) gate: Arc<Gate>,
    pub(super) connections: Arc<Connections>,
    /// HTTP/2: many at a time; only their number is tracked.
    pub(super) multiplexed: bool,
    pub(super) access: Option<Arc<AccessLog>>,
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
        let entry = self
            .access
            .as_ref()
            .map(|log| log.begin(&request, self.peer));
        match self.peer {
            Peer::Tcp(address) => {
                request.extensions_mut().insert(ConnectInfo(address));
            }
            Peer::Unix(peer) => {
                request.extensions_mut().insert(peer);
            }
        }
        let connect = request.method() == Method::CONNECT;
        let faulty = is_faulty(&request);
        let subject = Subject::of(&request);
        let request = if self.multiplexed {
            self.gate.stream(true);
            request.map(Body::new)
        } else {
            self.enter(request, faulty)
        };
        Answering {
            inner: if faulty {
                Err(StatusCode::BAD_REQUEST)
            } else {
                // A router is always ready, and cloning one is cloning an `Arc`.
                let call = || tower::Service::call(&mut self.router.clone(), request);
                subject.guard(call).map_err(|_| PANICKED)
            },
            subject,
            connect,
            entry,
            done: Some(Done {
                gate: Arc::clone(&self.gate),
                multiplexed: self.multiplexed,
            }),
        }
    }
}

impl Exchange {
    fn enter(&self, request: Request<Incoming>, faulty: bool) -> Request<Body> {
        let has_body = !request.is_end_stream();
        let last = !keeps_alive(request.version(), request.headers());
        let number = self.gate.begin(has_body, last);
        if faulty {
            // Nothing is certain of what follows.
            self.gate.end();
        }
        if !has_body {
            return request.map(|_| Body::empty());
        }
        let waits = request.version() > Version::HTTP_10
            && request
                .headers()
                .get(EXPECT)
                .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let gate = Arc::clone(&self.gate);
        request.map(|body| {
            Body::new(Upload {
                body: Some(body),
                number,
                asked: !waits && !faulty,
                gate,
            })
        })
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
    /// The application's, or an error of ours.
    inner: Result<RouteFuture<Infallible>, StatusCode>,
    subject: Subject,
    connect: bool,
    entry: Option<Entry>,
    done: Option<Done>,
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut response = match &mut this.inner {
            Ok(inner) => match this.subject.guard(|| Pin::new(inner).poll(cx)) {
                Ok(polled) => {
                    let Ok(response) = ready!(polled);
                    response
                }
                Err(_) => error(PANICKED),
            },
            Err(status) => error(*status),
        };
        let done = self.done.take();
        if let Some(Done {
            gate,
            multiplexed: false,
        }) = &done
        {
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS
                || (self.connect && response.status().is_success());
            if switches || !keeps_alive(Version::HTTP_11, response.headers()) {
                gate.stick();
            } else if gate.says_close() {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
        let mut entry = self.entry.take();
        if let Some(entry) = &mut entry {
            entry.status = response.status().as_u16();
        }
        let content = response.extensions_mut().remove();
        Poll::Ready(Ok(response.map(|body| Answer {
            body: match &done {
                Some(done) if !done.multiplexed => Sent::new(body, content, &done.gate),
                _ => Sent::Read(body),
            },
            subject: self.subject.clone(),
            entry,
            _done: done,
        })))
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

/// The body of an answer. Its end is the end of the answer, whoever drops it.
#[derive(Debug)]
pub(super) struct Answer {
    body: Sent,
    subject: Subject,
    entry: Option<Entry>,
    _done: Option<Done>,
}

impl HttpBody for Answer {
    type Data = Chunk;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, axum::Error>>> {
        let this = &mut *self;
        let body = &mut this.body;
        let frame = match this.subject.guard(|| body.poll(cx)) {
            Ok(frame) => ready!(frame),
            Err(panicked) => {
                this.body = Sent::Read(Body::empty());
                Some(Err(axum::Error::new(panicked)))
            }
        };
        if let (Some(entry), Some(Ok(frame))) = (&self.entry, &frame) {
            entry.sent(frame.data_ref().map_or(0, Chunk::remaining));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Marks the end of an answer when dropped.
#[derive(Debug)]
struct Done {
    gate: Arc<Gate>,
    multiplexed: bool,
}

impl Drop for Done {
    fn drop(&mut self) {
        if self.multiplexed {
            self.gate.stream(false);
        } else {
            self.gate.answered();
        }
    }
}

/// The body of a request.
#[derive(Debug)]
struct Upload {
    body: Option<Incoming>,
    number: u32,
    /// The client does not wait for `100 Continue`, or has been sent it.
    asked: bool,
    gate: Arc<Gate>,
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.asked = true;
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => body.is_end_stream(),
            // hyper ends such a connection.
            Some(Err(_)) => {
                self.gate.stick();
                true
            }
        };
        if ended {
            self.body = None;
            self.gate.body_read(self.number);
        }
        Poll::Ready(frame)
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

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.gate.body_dropped(self.number, body, self.asked);
        }
    }
}
