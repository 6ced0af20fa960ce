//! The accept loop of the control socket: who is there, how many, and for how long they may say
//! nothing.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::{Access, Denied, Peer};
use crate::sys::once::Once;
use crate::sys::runtime;

/// What a client may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// So many more are kept for those who may order, whatever everybody else does.
    pub reserved: usize,
    /// From the connect to the end of a request's head.
    pub head: Duration,
    /// From there to the end of an order's body.
    pub body: Duration,
    /// The longest order.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 48,
            reserved: 16,
            head: Duration::from_secs(5),
            body: Duration::from_secs(5),
            body_bytes: 64 * 1024,
        }
    }
}

/// What the handlers know about the connection a request came by.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    pub(super) may_order: Result<(), Denied>,
    pub(super) limits: Limits,
    /// The connection, to see whether the client is still there.
    pub(super) line: Arc<OwnedFd>,
    /// True (or its sender gone) once this master no longer answers for the service.
    pub(super) closing: watch::Receiver<bool>,
}

impl Caller {
    /// Whether another master answers by now.
    pub(super) fn is_closing(&self) -> bool {
        *self.closing.borrow() || self.closing.has_changed().is_err()
    }

    /// Whether the client has closed its end (and not only said all it has to say).
    ///
    /// What a client asked of an owner that hung stays in the socket's queue when the client has
    /// given up, and the next owner finds it there. Nobody means it any more: the operator who
    /// typed `rollback` has woken the parked master otherwise, and a second rollback would go one
    /// version further back.
    pub(super) fn has_left(&self) -> bool {
        hung_up(self.line.as_fd())
    }
}

/// Serves the control socket until `closing` says true or its sender is dropped.
///
/// From that moment nothing is accepted here (another master accepts on the same socket; this
/// process's copy of it is closed), a request that comes on a connection accepted before is
/// answered "ask again" (503), followers of the events are let go. An order that was
/// taken is still answered to its end: the future is ready when the last such answer has been
/// written, so a master that leaves awaits it, with a deadline of its own. To answer again after a
/// reclaim, call this again with another copy of the socket.
///
/// Dropping the future closes every connection at once.
pub async fn serve(
    listener: UnixListener,
    router: Router,
    access: Arc<Access>,
    limits: Limits,
    mut closing: watch::Receiver<bool>,
) {
    let places = Places::new(limits);
    let mut connections = JoinSet::new();
    let (mut refused, mut full) = (Once::default(), Once::default());
    loop {
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                refused.over(CANNOT);
                let Some(caller) = Caller::of(&stream, &access, limits, &closing) else {
                    continue;
                };
                let Some(place) = places.take(caller.may_order.is_ok()) else {
                    if full.again() {
                        tracing::warn!("{FULL}: {} is turned away", caller.peer);
                    }
                    // Fits into an empty socket buffer; who does not read it sees the end of file.
                    let _ = stream.try_write(TURNED_AWAY);
                    continue;
                };
                full.over(FULL);
                let connection = connection(stream, router.clone(), caller, place);
                connections.spawn(runtime::task(connection));
            }
            // Out of descriptors or memory: the client stays in the queue. A connection of ours
            // that ends may free one, and so may the rest of the process.
            Err(error) => {
                refused.failed(CANNOT, &error);
                let pause = tokio::time::timeout(PAUSE, async {
                    if connections.join_next().await.is_none() {
                        std::future::pending::<()>().await;
                    }
                });
                tokio::select! {
                    _ = closing.wait_for(|closing| *closing) => break,
                    _ = pause => {}
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Room for connections: everybody's, and what only those who may order get.
struct Places {
    everybody: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
}

impl Places {
    fn new(limits: Limits) -> Self {
        Self {
            everybody: Arc::new(Semaphore::new(limits.connections)),
            reserved: Arc::new(Semaphore::new(limits.reserved)),
        }
    }

    fn take(&self, may_order: bool) -> Option<OwnedSemaphorePermit> {
        let everybody = self.everybody.clone().try_acquire_owned().ok();
        match everybody {
            None if may_order => self.reserved.clone().try_acquire_owned().ok(),
            place => place,
        }
    }
}

impl Caller {
    fn of(
        stream: &UnixStream,
        access: &Access,
        limits: Limits,
        closing: &watch::Receiver<bool>,
    ) -> Option<Self> {
        let peer = Peer::of(stream)
            .inspect_err(|e| tracing::warn!("control socket: cannot tell who connected: {e}"))
            .ok()?;
        let line = stream.as_fd().try_clone_to_owned();
        let line = line.inspect_err(|error| tracing::warn!("control socket: {error}"));
        Some(Self {
            may_order: access.decide(&peer),
            peer,
            limits,
            line: Arc::new(line.ok()?),
            closing: closing.clone(),
        })
    }
}

/// unix(7) reports a hang-up when the peer has closed, not when it has only shut down writing.
fn hung_up(line: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(line, PollFlags::empty())];
    let now = Timespec::default();
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// One request, one answer. No keep-alive: the next request may belong to another master.
async fn connection(
    stream: UnixStream,
    router: Router,
    caller: Caller,
    _place: OwnedSemaphorePermit,
) {
    let peer = caller.peer.clone();
    let head = caller.limits.head;
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller.clone());
        let answer = router.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("control socket: {peer}: {error}");
    }
}

const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\n\
    content-length: 71\r\n\
    connection: close\r\n\r\n\
    {\"exit\":75,\"message\":\"too many clients are connected: try again later\"}";
/// What is said of it.
const CANNOT: &str = "control socket: cannot accept";
const FULL: &str = "control socket: too many connections";
/// Between two tries to accept when the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
