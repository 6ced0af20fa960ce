//! HTTP/1.1 on one connection: the driver that polls hyper, keeps the time, and takes the
//! connection out of hyper between two requests.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::Worker;
use super::connection::{Connection, Served};
use super::connections::Connections;
use super::exchange::Exchange;
use super::gate::{Gate, Order, Word};
use super::gated::Gated;
use super::stream::{Peer, Stream};

type Http = http1::UpgradeableConnection<TokioIo<Gated>, Exchange>;

/// An idle connection leaves hyper (and its 8 KiB buffer) after this.
const PARK_AFTER: Duration = Duration::from_secs(3);

/// How long a client that has closed its half gets for an answer that makes no progress. hyper
/// would abort at once; nobody at all would leave a vanished client's handler running for ever.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// How long we read on after our last answer, so that the kernel does not answer what the client
/// still sends with a reset, which would destroy that answer on its way (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// The most that is read then.
const LINGER_MAX: usize = 1024 * 1024;

/// hyper's buffers; bounds what travels with a connection.
const BUFFER_MAX: usize = 64 * 1024;

const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How hyper is set up. Its own timer is not used: the driver keeps the time, because deadlines
/// travel with a connection.
pub(super) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(BUFFER_MAX)
        .header_read_timeout(None)
        .half_close(false);
    builder
}

/// Serves requests. `None`: the connection has ended, or the application has it (an upgrade).
pub(super) async fn serve(
    connection: Connection,
    worker: &Worker,
    heard: Word,
) -> Option<Connection> {
    let mut driver = Driver::new(connection, worker, heard);
    let end = poll_fn(|cx| driver.poll(cx)).await;
    driver.end(end).await
}

struct Driver<'a> {
    worker: &'a Worker,
    http: Http,
    gate: Arc<Gate>,
    served: Arc<Served>,
    peer: Peer,
    connections: Arc<Connections>,
    /// Requests before this hyper connection.
    before: u64,
    /// The gate's number then.
    start: u32,
    /// What was asked at the beginning. It has been heard: who is here nevertheless answers one
    /// request first.
    heard: Word,
    /// As of the last look.
    seen: u32,
    idle_since: Instant,
    head_since: Option<Instant>,
    /// Since when the client has closed its half, and the writes then.
    half_closed: Option<(Instant, u32)>,
    timer: Pin<Box<Sleep>>,
}

enum End {
    /// Out of hyper, to wait or to go elsewhere.
    Leave,
    /// hyper is through with it.
    Done,
    /// No whole head came in time.
    TimedOut,
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
        } = connection;
        gate.restart();
        let connections = Arc::clone(&worker.connections);
        let exchange = Exchange {
            router: served.router.clone(),
            peer,
            gate: Arc::clone(&gate),
            connections: Arc::clone(&connections),
            multiplexed: false,
        };
        let io = TokioIo::new(Gated {
            stream,
            before: leftover,
            gate: Arc::clone(&gate),
            live,
        });
        let now = Instant::now();
        Self {
            http: worker.http1.serve_connection(io, exchange).with_upgrades(),
            start: gate.requests(),
            seen: gate.requests(),
            worker,
            gate,
            served,
            peer,
            connections,
            before: requests,
            heard,
            idle_since,
            head_since,
            half_closed: None,
            timer: Box::pin(sleep_until(now + PARK_AFTER)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.gate.register(cx.waker());
        let mut flush_asked = false;
        loop {
            let word = self.gate.word();
            let leaves_now = word.order() == Order::Leave && self.leaves(word);
            if leaves_now {
                self.gate.freeze();
            }
            self.gate.poll_unread(cx);
            if leaves_now && self.gate.quiet() && self.let_go() {
                return Poll::Ready(End::Leave);
            }
            if let Poll::Ready(result) = Pin::new(&mut self.http).poll(cx) {
                return Poll::Ready(if result.is_ok() {
                    End::Done
                } else {
                    End::Broken
                });
            }
            let now = Instant::now();
            self.look(now);
            if self.leaves(word) {
                if self.gate.quiet() && self.let_go() {
                    return Poll::Ready(End::Leave);
                }
                if self.gate.wants_flush() && !flush_asked {
                    // hyper may end a body without asking for a flush in the same round.
                    flush_asked = true;
                    continue;
                }
            }
            // Not now: it goes with its answer, and does not hold up the others.
            drop(self.gate.permit());
            match self.keep_time(cx, now) {
                Time::Fine => return Poll::Pending,
                Time::Again => {}
                Time::Up(end) => return Poll::Ready(end),
            }
        }
    }

    /// Whether the connection is to leave hyper at the next boundary.
    fn leaves(&self, word: Word) -> bool {
        word.order() != Order::Serve
            && !self.gate.sticky()
            && (word != self.heard || self.gate.requests() != self.start)
    }

    /// Notes what has happened since the last look.
    fn look(&mut self, now: Instant) {
        let requests = self.gate.requests();
        if requests != self.seen {
            self.seen = requests;
            self.head_since = None;
            self.idle_since = now;
        } else if self.gate.in_flight() || self.gate.body_pending() {
            self.idle_since = now;
        }
        if self.gate.head_begun() {
            self.head_since.get_or_insert(now);
        }
        self.half_closed = match self.half_closed {
            _ if !self.gate.eof_held() => None,
            Some((_, writes)) if writes != self.gate.writes() => Some((now, self.gate.writes())),
            None => Some((now, self.gate.writes())),
            same => same,
        };
    }

    /// Asks hyper whether it agrees that it is idle, where it can tell. On true the connection may
    /// be taken apart; on false it ends classically.
    fn let_go(&mut self) -> bool {
        self.gate.freeze();
        if self.gate.requests() == self.start {
            // Nothing served yet: hyper has no idle state, and nothing to disagree about.
            return true;
        }
        self.gate.consult(true);
        Pin::new(&mut self.http).graceful_shutdown();
        let idle = matches!(
            Pin::new(&mut self.http).poll(&mut Context::from_waker(Waker::noop())),
            Poll::Ready(Ok(()))
        );
        self.gate.consult(false);
        if !idle {
            self.connections
                .figures
                .disagreements
                .fetch_add(1, Ordering::Relaxed);
            tracing::warn!("a connection that looked idle was not; it ends after its answer");
            self.gate.stick();
            self.gate.thaw();
        }
        idle
    }

    /// The next instant at which something must happen without the client, and what.
    fn due(&self) -> Option<(Instant, Due)> {
        let http = &self.worker.http;
        if let Some((since, _)) = self.half_closed {
            return Some((since + HALF_CLOSED, Due::HalfClosed));
        }
        if self.gate.in_flight() {
            return None;
        }
        if self.gate.body_pending() {
            return Some((self.idle_since + http.header_timeout, Due::IgnoredBody));
        }
        if let Some(since) = self.head_since {
            return Some((since + http.header_timeout, Due::Head));
        }
        if self.gate.quiet() {
            return Some((
                self.idle_since + PARK_AFTER.min(http.keepalive_timeout),
                Due::Park,
            ));
        }
        Some((self.idle_since + http.keepalive_timeout, Due::Stuck))
    }

    /// Keeps one timer; it is only moved forward when it fires, not with every request.
    fn keep_time(&mut self, cx: &mut Context<'_>, now: Instant) -> Time {
        let due = self.due();
        if let Some((at, _)) = due {
            if at < self.timer.deadline() {
                self.timer.as_mut().reset(at);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            match due {
                Some((at, what)) if at <= now => return self.expire(what, now),
                Some((at, _)) => self.timer.as_mut().reset(at),
                None => self.timer.as_mut().reset(now + HALF_CLOSED),
            }
        }
        Time::Fine
    }

    fn expire(&mut self, what: Due, now: Instant) -> Time {
        // Polled again at once; whatever is due then sets the timer anew.
        self.timer.as_mut().reset(now + HALF_CLOSED);
        match what {
            Due::HalfClosed => self.gate.release_eof(),
            Due::IgnoredBody => self.gate.give_up_body(),
            Due::Head => return Time::Up(End::TimedOut),
            Due::Stuck => return Time::Up(End::Broken),
            Due::Park => {
                if self.let_go() {
                    return Time::Up(End::Leave);
                }
            }
        }
        Time::Again
    }

    async fn end(self, end: End) -> Option<Connection> {
        let requests = self.before + u64::from(self.gate.requests().wrapping_sub(self.start));
        // `None`: upgraded, the application has it.
        let parts = self.http.into_parts()?;
        let Gated {
            stream,
            before,
            gate,
            live,
        } = parts.io.into_inner();
        match end {
            End::Leave => {}
            End::TimedOut => {
                let _ = stream.try_write(TIMED_OUT);
                linger(stream).await;
                return None;
            }
            End::Done if gate.closing() => {
                linger(stream).await;
                return None;
            }
            End::Done | End::Broken => return None,
        }
        let leftover = join(&parts.read_buf, &before);
        let head_since =
            (!leftover.is_empty()).then(|| self.head_since.unwrap_or_else(Instant::now));
        Some(Connection {
            stream,
            leftover,
            gate,
            live,
            served: self.served,
            peer: self.peer,
            requests,
            idle_since: self.idle_since,
            head_since,
        })
    }
}

/// What to do about the time.
enum Time {
    /// Wait.
    Fine,
    /// Poll hyper again.
    Again,
    /// The connection is over here.
    Up(End),
}

#[derive(Clone, Copy)]
enum Due {
    HalfClosed,
    IgnoredBody,
    Head,
    Stuck,
    Park,
}

/// Both in one, without the buffers they were cut from.
fn join(first: &Bytes, second: &Bytes) -> Bytes {
    let mut whole = BytesMut::with_capacity(first.len() + second.len());
    whole.extend_from_slice(first);
    whole.extend_from_slice(second);
    whole.freeze()
}

/// Reads and forgets what the client still sends, until it has seen our end.
async fn linger(mut stream: Stream) {
    let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Write);
    let mut rest = vec![0; 4096];
    let mut left = LINGER_MAX;
    let _ = timeout(LINGER, async {
        while let Ok(n @ 1..) = stream.read(&mut rest).await {
            left = left.saturating_sub(n);
            if left == 0 {
                break;
            }
        }
    })
    .await;
}
