//! HTTP/1.1 on one connection: the driver that polls hyper, keeps the time, and takes the
//! connection out of hyper between two requests.

pub(super) mod linger;
pub(super) mod times;
pub(super) mod unread;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use self::linger::linger;
use self::times::{Due, Times};
use crate::worker::connection::{Connection, Served};
use crate::worker::context::Worker;
use crate::worker::exchange::Exchange;
use crate::worker::gate::Gate;
use crate::worker::gated::Gated;
use crate::worker::order::{Order, Word};
use crate::worker::stream::Peer;

/// Not hyper's upgradeable one. That one hands its socket to the application at the end of every
/// connection on which an upgrade was ever asked for, also when every answer was an ordinary one:
/// nobody waits for the socket then, and it is closed under the client.
type Http = http1::Connection<TokioIo<Gated>, Exchange>;

/// hyper's buffers; bounds what travels with a connection.
const BUFFER_MAX: usize = 64 * 1024;

const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How hyper is set up.
pub(super) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(BUFFER_MAX)
        // `times` keeps the time.
        .header_read_timeout(None)
        // `Gate::hold_eof` is kinder to both sides.
        .half_close(false);
    builder
}

/// Serves requests. `heard` is what has been asked of the connection so far. `None`: it has ended,
/// or the application has it (an upgrade).
pub(super) async fn serve(
    connection: Connection,
    worker: &Worker,
    heard: Word,
) -> Option<Connection> {
    let mut driver = Driver::new(connection, worker, heard);
    let end = poll_fn(|cx| driver.poll(cx)).await;
    if let End::Switches = end {
        driver.switch().await;
        return None;
    }
    driver.end(end).await
}

struct Driver<'a> {
    worker: &'a Worker,
    http: Http,
    gate: Arc<Gate>,
    served: Arc<Served>,
    peer: Peer,
    /// Requests before this hyper connection.
    before: u64,
    /// The gate's number then.
    start: u32,
    /// What was asked at the beginning. It has been heard: who is here nevertheless answers one
    /// request first.
    heard: Word,
    /// Whose permit has been given back.
    returned: Option<Word>,
    times: Times,
}

enum End {
    /// Out of hyper, to wait or to go elsewhere.
    Leave,
    /// hyper is through with it.
    Done,
    /// No whole head came in time.
    TimedOut,
    /// The answer switches protocols: hyper gives the socket to the application.
    Switches,
    /// hyper has refused a head, and said so.
    Refused,
    /// Within a request or an answer.
    Failed,
    /// Broken, or nobody there.
    Broken,
}

impl<'a> Driver<'a> {
    fn new(connection: Connection, worker: &'a Worker, heard: Word) -> Self {
        let Connection {
            stream,
            leftover,
            gate,
            live,
            served,
            peer,
            requests,
            idle_since,
            head_since,
            handshake_due: _,
            proxy_header_due: _,
            http2: _,
        } = connection;
        gate.restart();
        let exchange = Exchange::new(worker, &served, peer, &gate, stream.tls(), false);
        let io = TokioIo::new(Gated {
            stream,
            before: leftover,
            gate: Arc::clone(&gate),
            live,
            web_socket: None,
        });
        Self {
            http: worker.http1.serve_connection(io, exchange),
            before: requests,
            start: gate.requests(),
            times: Times::new(&gate, idle_since, head_since, Instant::now()),
            worker,
            gate,
            served,
            peer,
            heard,
            returned: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.gate.register(cx.waker());
        let mut flush_asked = false;
        loop {
            let word = self.gate.orders.word();
            let leaves_now = word.order() == Order::Leave && self.leaves(word);
            if leaves_now {
                self.gate.freeze();
            }
            self.gate.poll_unread(cx);
            if leaves_now && self.gate.quiet() {
                if let Some(end) = self.let_go() {
                    return Poll::Ready(end);
                }
            }
            if let Poll::Ready(result) = Pin::new(&mut self.http).poll(cx) {
                return Poll::Ready(match result {
                    Ok(()) => End::Done,
                    Err(e) if e.is_parse() => End::Refused,
                    Err(_) => End::Failed,
                });
            }
            if self.gate.switches() {
                return Poll::Ready(End::Switches);
            }
            let now = Instant::now();
            self.times.look(&self.gate, now);
            if self.leaves(word) {
                if self.gate.quiet() {
                    if let Some(end) = self.let_go() {
                        return Poll::Ready(end);
                    }
                } else if self.gate.wants_flush() && !flush_asked {
                    // hyper 1.10 and 1.11 could end a body without a flush in the same round, and
                    // a frozen connection would never be woken for it.
                    flush_asked = true;
                    continue;
                }
            }
            // Not now: it goes with its answer, and does not hold up the others.
            if self.returned != Some(word) {
                self.returned = Some(word);
                drop(self.gate.orders.permit());
            }
            let http = &self.worker.http;
            let Some(due) = self.times.poll(cx, &self.gate, http, now) else {
                return Poll::Pending;
            };
            if let Some(end) = self.expire(due) {
                return Poll::Ready(end);
            }
        }
    }

    /// Whether the connection is to leave hyper at the next boundary.
    fn leaves(&self, word: Word) -> bool {
        word.order() != Order::Serve
            && !self.gate.sticky()
            && (word != self.heard || self.gate.requests() != self.start)
    }

    /// Asks hyper whether it agrees that it is idle, where it can tell. `None`: it does not, and the
    /// connection ends classically after its answer.
    fn let_go(&mut self) -> Option<End> {
        self.gate.freeze();
        #[cfg(test)]
        if !crate::worker::mutants::asks_the_oracle() {
            return Some(End::Leave);
        }
        if self.gate.requests() == self.start {
            // Nothing served yet: hyper has no idle state, and nothing to disagree about.
            return Some(End::Leave);
        }
        self.gate.consult(true);
        Pin::new(&mut self.http).graceful_shutdown();
        let answer = Pin::new(&mut self.http).poll(&mut Context::from_waker(Waker::noop()));
        self.gate.consult(false);
        if let Poll::Ready(Ok(())) = answer {
            return Some(End::Leave);
        }
        self.worker
            .connections
            .figures
            .disagreements
            .fetch_add(1, Ordering::Relaxed);
        tracing::warn!("a connection that looked idle was not; it ends after its answer");
        self.gate.stick();
        self.gate.thaw();
        answer.is_ready().then_some(End::Broken)
    }

    fn expire(&mut self, due: Due) -> Option<End> {
        match due {
            Due::HalfClosed => self.gate.release_eof(),
            Due::IgnoredBody => self.gate.give_up_body(),
            Due::Head => return Some(End::TimedOut),
            Due::Stuck => return Some(End::Broken),
            Due::Park => return self.let_go(),
        }
        None
    }

    /// Sends the answer that was held back until now, and gives the socket to the application. Orders
    /// are none of that one's business, and what it reads is no request.
    async fn switch(self) {
        self.gate.grant_switch();
        let sent = self.http.with_upgrades();
        // A client that does not even take this head gets no other protocol.
        let _ = timeout(self.worker.http.send_timeout, sent).await;
    }

    async fn end(self, end: End) -> Option<Connection> {
        let requests = self.before + u64::from(self.gate.requests().wrapping_sub(self.start));
        let parts = self.http.into_parts();
        let Gated {
            mut stream,
            before,
            gate,
            live,
            web_socket: _,
        } = parts.io.into_inner();
        if !matches!(end, End::Leave) {
            let may_still_send = match end {
                End::TimedOut => {
                    stream.say_last(TIMED_OUT);
                    true
                }
                End::Refused => {
                    let figures = &self.worker.connections.figures;
                    figures.unparsed.fetch_add(1, Ordering::Relaxed);
                    true
                }
                End::Done | End::Failed => gate.closing(),
                End::Leave | End::Switches | End::Broken => false,
            };
            if may_still_send {
                linger(stream, &gate, self.worker.http.send_timeout).await;
            }
            return None;
        }
        let leftover = join(&parts.read_buf, &before);
        #[cfg(test)]
        let leftover = crate::worker::mutants::remembered(leftover);
        let head_since =
            (!leftover.is_empty()).then(|| self.times.head_since.unwrap_or_else(Instant::now));
        Some(Connection {
            stream,
            leftover,
            gate,
            live,
            served: self.served,
            peer: self.peer,
            requests,
            idle_since: self.times.idle_since,
            head_since,
            handshake_due: false,
            proxy_header_due: false,
            http2: None,
        })
    }
}

/// Both in one, without the buffers they were cut from.
fn join(first: &Bytes, second: &Bytes) -> Bytes {
    let mut whole = BytesMut::with_capacity(first.len() + second.len());
    whole.extend_from_slice(first);
    whole.extend_from_slice(second);
    whole.freeze()
}
