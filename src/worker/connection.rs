//! One connection from its accept to its end: waiting without hyper, served by hyper, waiting
//! again; and what becomes of it when its worker drains.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep_until};

use super::Worker;
use super::connections::Live;
use super::gate::Gate;
use super::order::{Order, Word};
use super::preface::{self, PREFACE};
use super::raw::Handler;
use super::stream::{Peer, Stream};
use super::{handshake, http1, http2, proxied};
use crate::machine::link::{HTTP2_WRITES, Reads};

/// A connection outside hyper, at a boundary between two requests.
pub(super) struct Connection {
    pub(super) stream: Stream,
    /// Read from the socket, not yet given to hyper.
    pub(super) leftover: Bytes,
    pub(super) gate: Arc<Gate>,
    pub(super) live: Live,
    pub(super) served: Arc<Served>,
    pub(super) peer: Peer,
    /// Requests before this, in other workers too.
    pub(super) requests: u64,
    /// Since when it waits for a request: its accept or its last answer.
    pub(super) idle_since: Instant,
    /// Since when the unfinished head in `leftover` is there.
    pub(super) head_since: Option<Instant>,
    /// It came to a listener that speaks TLS, and no byte has been answered: it can go to another
    /// worker as it is.
    pub(super) handshake_due: bool,
    /// The PROXY protocol's header comes first.
    pub(super) proxy_header_due: bool,
    /// It is HTTP/2 and stands between two streams.
    pub(super) http2: Option<Box<http2::Blob>>,
}

/// No bytes of the client's.
impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("stream", &self.stream)
            .field("leftover", &self.leftover.len())
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}

/// A listener's name and its application.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) name: String,
    pub(super) router: Router,
    /// It speaks a protocol of its own instead.
    pub(super) raw: Option<Handler>,
    /// Whether its listener speaks TLS.
    pub(super) tls: bool,
    /// Whether trusted proxies say first who the client is.
    pub(super) proxy_protocol: bool,
}

/// How a wait for bytes ended.
enum Woken {
    /// They are in the leftover.
    Bytes,
    /// There is an order.
    Told,
    /// Its time is up.
    Late,
    /// The client has gone.
    Over,
}

/// So often a connection may be too heavy to be passed on when it stands between two requests.
const REFUSALS: u8 = 16;

/// What is read before hyper takes over.
const FIRST_READ: usize = 4096;

/// Serves `connection` to its end, here or elsewhere.
pub(super) async fn run(mut connection: Connection, worker: Arc<Worker>) {
    let _manned = Manned::new(&connection.gate);
    let mut refused = 0_u8;
    loop {
        let heard = connection.gate.orders.word();
        let permit = connection.gate.orders.permit();
        if heard.order() == Order::Leave {
            match worker.give(connection, permit) {
                Ok(()) => return,
                Err(kept) => {
                    connection = *kept;
                    refused = refused.saturating_add(1);
                    // One that always has too much read is kept by its client, not by us.
                    if worker.keeps(&connection) || refused > REFUSALS && worker.passes_on() {
                        refused = 0;
                        connection.idle_since = Instant::now();
                        worker.be_polite_for_one(&connection.gate);
                        continue;
                    }
                }
            }
        } else {
            drop(permit);
        }
        if connection.proxy_header_due && !connection.leftover.is_empty() {
            match connection.take_proxy_header() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(e) => return proxied::refuse(&connection, &e),
            }
        }
        if connection.waits(heard.order()) {
            match wait(&mut connection, &worker, heard).await {
                Woken::Bytes | Woken::Told => continue,
                // It is told so.
                Woken::Late if connection.http2.is_some() => {}
                Woken::Late | Woken::Over => return connection.stream.say_close(),
            }
        }
        if connection.http2.is_some() {
            match Box::pin(http2::serve(connection, &worker, heard)).await {
                Some(left) => connection = left,
                None => return,
            }
            continue;
        }
        if connection.handshake_due {
            match Box::pin(handshake::shake_hands(connection, &worker)).await {
                Some(done) => connection = done,
                None => return,
            }
            continue;
        }
        if connection.leftover.starts_with(PREFACE) || connection.agreed_on_http2() {
            if !worker.http.http2 {
                return Box::pin(preface::refuse(connection, &worker)).await;
            }
            match Box::pin(http2::serve(connection, &worker, heard)).await {
                Some(left) => connection = left,
                None => return,
            }
            continue;
        }
        match Box::pin(http1::serve(connection, &worker, heard)).await {
            Some(left) => connection = left,
            None => return,
        }
    }
}

/// Says that a task of ours has the connection.
struct Manned(Arc<Gate>);

impl Manned {
    fn new(gate: &Arc<Gate>) -> Self {
        gate.orders.man(true);
        Self(Arc::clone(gate))
    }
}

impl Drop for Manned {
    fn drop(&mut self) {
        self.0.orders.man(false);
    }
}

/// Whether more bytes are needed to know how to go on.
fn undecided(leftover: &[u8]) -> bool {
    leftover.len() < PREFACE.len() && PREFACE.starts_with(leftover)
}

/// Waits for bytes without hyper and its buffers: 1.2 KB a connection instead of 10.
async fn wait(connection: &mut Connection, worker: &Worker, heard: Word) -> Woken {
    let mut timer = pin!(sleep_until(connection.deadline(worker, heard.order())));
    poll_fn(|cx| {
        connection.gate.register(cx.waker());
        if connection.gate.orders.word() != heard {
            return Poll::Ready(Woken::Told);
        }
        while let Poll::Ready(readable) = connection.stream.poll_readable(cx) {
            if readable.is_err() {
                return Poll::Ready(Woken::Over);
            }
            let mut bytes = BytesMut::with_capacity(FIRST_READ);
            bytes.extend_from_slice(&connection.leftover);
            match connection.stream.poll_read_some(cx, &mut bytes) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Woken::Over),
                Poll::Ready(Ok(_)) => {
                    connection.leftover = bytes.freeze();
                    connection.head_since.get_or_insert_with(Instant::now);
                    return Poll::Ready(Woken::Bytes);
                }
                Poll::Pending => {}
            }
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if connection.brings_nothing(worker.http.header_timeout, now) {
                return Poll::Ready(Woken::Late);
            }
            timer.as_mut().reset(now + RECHECK);
        }
        Poll::Pending
    })
    .await
}

impl Connection {
    /// Whether its client must speak HTTP/2, having agreed on it (RFC 9113, 3.2). One that does not is told
    /// so in HTTP/2.
    fn agreed_on_http2(&self) -> bool {
        let tls = self.stream.tls();
        tls.is_some_and(|tls| tls.alpn.as_deref() == Some("h2"))
    }

    /// Whether there is nothing to do but to wait for the client.
    fn waits(&self, heard: Order) -> bool {
        if self.http2.is_some() {
            // One that is to end is told so.
            self.leftover.is_empty() && heard != Order::Last
        } else {
            self.proxy_header_due || undecided(&self.leftover)
        }
    }

    /// Its time is up: whether nothing of a request is here. The kernel has the last word; a record that has
    /// begun gets the time of a head.
    pub(super) fn brings_nothing(&mut self, header_timeout: Duration, now: Instant) -> bool {
        if self.stream.has_unread() {
            return false;
        }
        !self.stream.has_begun() || *self.head_since.get_or_insert(now) + header_timeout <= now
    }

    /// Whether a worker can go on with it that reads these. One that reads no TLS connections shakes no
    /// hands.
    pub(super) fn can_move_to(&self, reads: Reads) -> bool {
        // Who agreed on it in the handshake speaks it, though nobody has served it yet.
        let http2 = self.http2.is_some() || self.agreed_on_http2();
        if http2 && reads.http2 < HTTP2_WRITES {
            return false;
        }
        if self.handshake_due {
            reads.tls > 0
        } else {
            self.stream.can_move_to(reads.tls)
        }
    }

    /// When waiting ends.
    fn deadline(&self, worker: &Worker, heard: Order) -> Instant {
        match (self.head_since, heard) {
            (Some(since), _) => since + worker.http.header_timeout,
            (None, Order::Last) => worker.polite_until(self.idle_since),
            (None, _) if self.requests == 0 && self.http2.is_none() => {
                self.idle_since + worker.http.header_timeout
            }
            (None, _) => self.idle_since + worker.http.keepalive_timeout,
        }
    }
}

/// Bytes are there that the runtime has not told of yet.
const RECHECK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    /// Without calling it.
    fn size_of_future<F>(_: impl FnOnce(Connection, Arc<Worker>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_waits_is_small() {
        let size = size_of_future(run);
        assert!(size <= 656, "{size} bytes");
    }

    #[test]
    fn http2_is_told_by_its_first_24_bytes_and_not_before() {
        for len in 0..PREFACE.len() {
            assert!(undecided(&PREFACE[..len]));
        }
        assert!(!undecided(PREFACE));
        assert!(!undecided(b"PRI / HTTP/1.1"));
        assert!(!undecided(b"G"));
    }
}
