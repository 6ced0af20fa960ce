//! Bodies on their way through the front: streamed, with nothing kept but what one read gives. What
//! stands still is timed, and who is to blame for it is known.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Method, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::fields;
use super::front::Front;
use super::link::Link;
use super::pool::Turn;
use super::refusal::Cause;
use crate::config::Upstream;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How far a request's body is.
#[derive(Debug)]
pub(super) struct Progress {
    /// All of it was taken, or there is none.
    done: AtomicBool,
    /// An application that answers has read it.
    is_read: bool,
    /// The client has to send more.
    client_is_slow: AtomicBool,
    /// The client sends no more of it.
    broke: AtomicBool,
    /// When a part of it was last taken.
    last: Mutex<Instant>,
}

impl Progress {
    /// `done`: there is no body. `is_read`: an application that answers has read it.
    pub(super) fn new(done: bool, is_read: bool) -> Arc<Self> {
        Arc::new(Self {
            done: AtomicBool::new(done),
            is_read,
            client_is_slow: AtomicBool::new(false),
            broke: AtomicBool::new(false),
            last: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Since when the application is the one who has to do something.
    pub(super) fn waits_since(&self) -> Instant {
        if self.client_is_slow.load(Ordering::Relaxed) && !self.is_done() {
            return Instant::now();
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// The body of a request to the application.
#[derive(Debug)]
pub(super) struct Upload {
    body: Body,
    /// `None`: there is no body.
    progress: Option<Arc<Progress>>,
}

impl Upload {
    pub(super) fn new(body: Body, progress: &Arc<Progress>) -> Self {
        Self {
            body,
            progress: Some(Arc::clone(progress)),
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            body: Body::empty(),
            progress: None,
        }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut polled {
            if let Some(trailers) = frame.trailers_mut() {
                fields::trailers_to_application(trailers);
            }
        }
        if let Some(progress) = &self.progress {
            let slow = polled.is_pending();
            progress.client_is_slow.store(slow, Ordering::Relaxed);
            if !slow {
                progress.moved();
                let ended = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
                progress.done.fetch_or(ended, Ordering::Relaxed);
                let broke = matches!(polled, Poll::Ready(Some(Err(_))));
                progress.broke.fetch_or(broke, Ordering::Relaxed);
            }
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whose answer it is.
pub(super) struct About {
    pub(super) front: Arc<Front>,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) upstream: Upstream,
}

impl About {
    fn complain(&self, cause: Cause, what: &str) {
        let (method, path, upstream) = (&self.method, self.uri.path(), &self.upstream);
        let what = format!("{method} {path}: {what} ({upstream})");
        self.front.complaints.say(cause, &what);
    }
}

/// The body of the application's answer.
pub(super) struct Download {
    body: Incoming,
    /// With whom the request is; given up at the end.
    with: Option<(Link, Turn)>,
    request: Arc<Progress>,
    about: About,
    /// Runs while the application gives nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    stalls: bool,
    broke_off: Option<String>,
}

impl Download {
    pub(super) fn new(
        body: Incoming,
        link: Link,
        turn: Turn,
        request: Arc<Progress>,
        about: About,
    ) -> Self {
        let mut this = Self {
            body,
            with: Some((link, turn)),
            request,
            about,
            stalled: None,
            stalls: false,
            broke_off: None,
        };
        if this.body.is_end_stream() {
            this.finish();
        }
        this
    }

    /// The connection can be used again, unless the request is still on its way.
    fn finish(&mut self) {
        if let Some((link, turn)) = self.with.take() {
            if self.request.is_done() && self.request.is_read {
                turn.give_back(link);
            }
        }
    }

    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut nobody = Context::from_waker(Waker::noop());
        // This task is awake: what drives the connection is not to wake it once more.
        let polled = Pin::new(&mut self.body).poll_frame(&mut nobody);
        let (true, Some((link, _))) = (polled.is_pending(), &mut self.with) else {
            return polled;
        };
        link.drive(cx);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    /// The client gets what came before: hyper sends nothing more of an answer from the moment that it
    /// has an error, so it learns of that at its next question.
    fn breaks_off<T>(&mut self, cx: &mut Context<'_>, cause: Cause, why: String) -> Poll<T> {
        self.about.complain(cause, &why);
        self.with = None;
        self.broke_off = Some(why);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether neither side has done anything for so long.
    fn is_overdue(&mut self, cx: &mut Context<'_>, limit: Duration) -> bool {
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !std::mem::replace(&mut self.stalls, true) {
            timer.as_mut().reset(Instant::now() + limit);
        }
        while timer.as_mut().poll(cx).is_ready() {
            // An application may begin its answer before it has the whole request.
            let due = self.request.waits_since() + limit;
            if due <= Instant::now() {
                return true;
            }
            timer.as_mut().reset(due);
        }
        false
    }
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(why) = this.broke_off.take() {
            return Poll::Ready(Some(Err(why.into())));
        }
        let polled = this.poll_body(cx);
        if polled.is_pending() {
            let limit = this.about.front.limits.stall;
            if this.is_overdue(cx, limit) {
                let limit = humantime::format_duration(limit);
                let why =
                    format!("the application's answer stood still for {limit} (stall_timeout)");
                return this.breaks_off(cx, Cause::Cut, why);
            }
            return Poll::Pending;
        }
        this.stalls = false;
        match ready!(polled) {
            Some(Err(e)) => {
                let why = super::front::cause(&e);
                let (cause, what) = if this.request.broke.load(Ordering::Relaxed) {
                    (Cause::Request, "request")
                } else {
                    (Cause::Cut, "application's answer")
                };
                this.breaks_off(cx, cause, format!("the {what} broke off: {why}"))
            }
            frame => {
                if frame.is_none() || this.body.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
