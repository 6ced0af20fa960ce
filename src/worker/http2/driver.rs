//! One HTTP/2 connection in hyper: the driver that polls it, keeps the time, and takes the connection
//! out of hyper between two streams.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep, sleep_until};

use super::blob::Blob;
use super::frames;
use super::leave::{Leaving, Step, View};
use super::settings::{CONNECTION_WINDOW, for_life};
use super::shim::Shim;
use super::streams::Tasks;
use super::wire::Wire;
use super::{GOODBYE, RESETS_MAX};
use crate::machine::link::{HTTP2_WRITES, Reads};
use crate::worker::connection::{Connection, Served};
use crate::worker::connections::Live;
use crate::worker::exchange::Exchange;
use crate::worker::gate::Gate;
use crate::worker::http1::linger::linger;
use crate::worker::http1::times::{HALF_CLOSED, without_progress};
use crate::worker::order::{Order, Word};
use crate::worker::stream::{Peer, Stream};
use crate::worker::{Worker, lock};

type Http = http2::Connection<TokioIo<Wire<Stream>>, Exchange, Tasks>;

/// How long `h2` may take to answer what it is fed after a move.
const ARRIVAL: Duration = Duration::from_secs(1);

/// Where a drain has no limit, GOAWAY is said after so long to a connection that never stands between two
/// streams: its streams may stay, new requests go to the generation that serves.
const UNLIMITED: Duration = Duration::from_secs(600);

/// Serves requests. `heard` is what has been asked of the connection so far. `None`: it has ended.
pub(in crate::worker) async fn serve(
    connection: Connection,
    worker: &Worker,
    heard: Word,
) -> Option<Connection> {
    // hyper's connection is large: there is one place for it in this future, not one for each step.
    let ended = {
        let mut driver = Driver::new(connection, worker, heard)?;
        let end = poll_fn(|cx| driver.poll(cx)).await;
        driver.end(end)
    };
    match ended {
        Ended::Left(connection) => Some(connection),
        Ended::Lingers(stream, gate, _live) => {
            linger(stream, &gate, worker.http.send_timeout).await;
            None
        }
        Ended::Over => None,
    }
}

struct Driver<'a> {
    worker: &'a Worker,
    http: Http,
    wire: Wire<Stream>,
    gate: Arc<Gate>,
    live: Live,
    served: Arc<Served>,
    peer: Peer,
    /// Requests before this hyper connection.
    before: u64,
    /// The gate's number then.
    start: u32,
    /// What was asked at the beginning: the connection did not leave for that.
    heard: Word,
    /// Whose permit has been given back.
    returned: Option<Word>,
    leaving: Leaving,
    /// GOAWAY has been said, or is about to be.
    said_goodbye: bool,
    /// It is to be said when `h2` is where it should be after a move: before that it would be taken for
    /// an answer to what `h2` was fed, and what came with the connection would not be heard.
    goodbye_due: bool,
    /// Since when the client has closed its half and takes nothing of its answers, and the writes then.
    half_closed: Option<(Instant, u32)>,
    /// Since when `h2` has not answered all it was fed after a move.
    arriving: Option<Instant>,
    /// Requests, parts of answers, and writes while something of an answer was left, at the last look.
    seen: (u32, u32, u32),
    /// Since when nothing of an answer goes to the client and nothing of a request comes.
    idle_since: Instant,
    /// Reads at the last look, and when one brought something last.
    reads: u32,
    heard_at: Instant,
    /// So much of what was said the client's kernel did not have at a look since `idle_since`.
    unacknowledged: Option<usize>,
    /// When to see whether it has been idle for too long. Not sooner when it becomes idle: the client
    /// may still be reading.
    look_again: Instant,
    timer: Pin<Box<Sleep>>,
}

/// What comes behind that.
enum Ended {
    Left(Connection),
    /// The client is to see the end of what was said; so long it is open.
    Lingers(Stream, Arc<Gate>, Live),
    Over,
}

enum End {
    /// Out of hyper, to wait or to go elsewhere.
    Leave(Stream, Blob, BytesMut),
    /// hyper is through with it: it has written all there was.
    Done,
    /// Broken, or nobody there.
    Over,
    /// `h2` does not go on where another one was.
    Failed,
}

/// What is to be done next.
enum Next {
    /// `h2` is polled once more.
    Again,
    Fails,
    /// Nothing before that.
    At(Option<Instant>),
}

impl<'a> Driver<'a> {
    fn new(connection: Connection, worker: &'a Worker, heard: Word) -> Option<Self> {
        let Connection {
            stream,
            leftover,
            gate,
            mut live,
            served,
            peer,
            requests,
            idle_since,
            head_since: _,
            handshake_due: _,
            proxy_header_due: _,
            http2,
        } = connection;
        gate.restart();
        live.is_http2();
        let now = Instant::now();
        let moved = http2.is_some();
        let (shim, own) = match http2.as_deref() {
            None => (Shim::new(&leftover, CONNECTION_WINDOW), None),
            Some(blob) => match Shim::from_blob(blob, &leftover) {
                Ok(shim) => {
                    let (told, window) = shim.told();
                    let own = for_life(&worker.http2, told, window);
                    (shim, Some(own))
                }
                Err(e) => {
                    tracing::error!("a connection was lost: {e}");
                    return None;
                }
            },
        };
        let builder = match &own {
            None => &worker.http2,
            Some(Some(own)) => own,
            Some(None) => {
                tracing::error!("a connection was lost: its client was told unknown settings");
                return None;
            }
        };
        let exchange = Exchange::new(worker, &served, peer, &gate, stream.tls(), true);
        let wire = Wire::new(stream, shim);
        let http = builder.serve_connection(TokioIo::new(wire.handle()), exchange);
        let mut driver = Self {
            worker,
            http,
            wire,
            live,
            served,
            peer,
            before: requests,
            start: gate.requests(),
            heard,
            returned: None,
            leaving: Leaving::default(),
            said_goodbye: false,
            goodbye_due: false,
            half_closed: None,
            arriving: moved.then_some(now),
            seen: (gate.requests(), 0, 0),
            gate,
            idle_since,
            reads: 0,
            heard_at: now,
            unacknowledged: None,
            look_again: idle_since + worker.http.keepalive_timeout,
            timer: Box::pin(sleep_until(now + ARRIVAL)),
        };
        if moved && leftover.is_empty() && driver.idle_due(now) <= now {
            driver.say_goodbye();
        }
        Some(driver)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.gate.register(cx.waker());
        loop {
            let word = self.gate.orders.word();
            let leaves = self.leaves(word);
            let must_end = word.order() == Order::Last
                || leaves && !self.can_move()
                || self.gate.resets_exceed(RESETS_MAX);
            if must_end {
                self.say_goodbye();
            }
            if !leaves && self.wire.lock().shim.is_frozen() {
                // The drain was turned round.
                self.leaving = Leaving::default();
                self.wire.lock().thaw();
            }
            if let Poll::Ready(done) = self.wire.poll_h2(Pin::new(&mut self.http), cx) {
                return Poll::Ready(done.map_or(End::Over, |()| End::Done));
            }
            let now = Instant::now();
            let mut due = match self.check(word, now) {
                Next::Again => continue,
                Next::Fails => return Poll::Ready(End::Failed),
                Next::At(due) => due,
            };
            self.look(now);
            if leaves && !self.said_goodbye {
                match self.leave() {
                    Poll::Ready(Some(end)) => return Poll::Ready(end),
                    Poll::Ready(None) => continue,
                    Poll::Pending => {}
                }
                due = due.into_iter().chain(self.next_step(now)).min();
                if self.wire.lock().is_woken() || self.said_goodbye {
                    continue;
                }
            }
            // Not now: it does not hold up the others.
            if word.order() != Order::Serve && self.returned != Some(word) {
                self.returned = Some(word);
                drop(self.gate.orders.permit());
            }
            if self.look_again <= now {
                let idle_due = self.idle_due(now);
                self.look_again = if self.gate.streams() > 0 || self.goodbye_due {
                    now + GOODBYE
                } else if self.said_goodbye {
                    // What it has not taken yet is its, and no longer time.
                    idle_due.min(now + GOODBYE)
                } else {
                    idle_due
                };
                if self.look_again <= now {
                    if self.said_goodbye {
                        let taken = self.unacknowledged == Some(0) && !self.wire.lock().owes();
                        return Poll::Ready(if taken { End::Done } else { End::Over });
                    }
                    self.say_goodbye();
                    continue;
                }
            }
            let due = due.map_or(self.look_again, |due| due.min(self.look_again));
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// What may be due whenever `h2` has been polled.
    fn check(&mut self, word: Word, now: Instant) -> Next {
        let mut core = self.wire.lock();
        if core.is_woken() {
            return Next::Again;
        }
        let holds_end = core.holds_end();
        self.half_closed = without_progress(self.half_closed, holds_end, core.writes, now);
        let half_closed = self.half_closed.map(|(since, _)| since + HALF_CLOSED);
        if half_closed.is_some_and(|due| due <= now) {
            core.tell_end();
            return Next::Again;
        }
        if !core.shim.is_arriving() {
            self.arriving = None;
        }
        let send_timeout = self.worker.http.send_timeout;
        let arrived = self
            .arriving
            .map(|since| arrived_by(since, core.has_unwritten(), send_timeout));
        if arrived.is_some_and(|due| due <= now) || core.shim.has_failed() {
            return Next::Fails;
        }
        let worn_out = core.stream.as_ref().is_some_and(Stream::wears_out);
        drop(core);
        if self.arriving.is_none() && std::mem::take(&mut self.goodbye_due) {
            self.say_goodbye();
            return Next::Again;
        }
        if worn_out && word.order() == Order::Serve {
            self.gate.tell(Order::Last, None);
            return Next::Again;
        }
        Next::At(half_closed.into_iter().chain(arrived).min())
    }

    /// Whether the connection is to leave hyper as soon as it can.
    fn leaves(&self, word: Word) -> bool {
        word.order() == Order::Leave && (word != self.heard || self.gate.requests() != self.start)
    }

    /// Whether it can move at all.
    fn can_move(&self) -> bool {
        let core = self.wire.lock();
        let stream = core.stream.as_ref();
        core.shim.refusal().is_none()
            && stream.is_some_and(|stream| self.worker.takes_http2(stream))
    }

    /// Sees whether anything has gone on.
    fn look(&mut self, now: Instant) {
        let mut core = self.wire.lock();
        // A PING and its answer are no use of the connection, and bring nobody nearer to the end. Taking
        // what is left of an answer is.
        let mut seen = (self.gate.requests(), core.shim.answered(), self.seen.2);
        if !self.said_goodbye && core.owes() {
            seen.2 = core.writes;
        }
        if self.gate.streams() > 0 || seen != self.seen {
            self.seen = seen;
            self.idle_since = now;
            self.unacknowledged = None;
        }
        if core.reads != self.reads {
            self.reads = core.reads;
            self.heard_at = now;
        }
    }

    /// Until when it may be idle: without a stream, or with the end of an answer that its client does not
    /// take.
    fn idle_due(&mut self, now: Instant) -> Instant {
        let http = &self.worker.http;
        let mut core = self.wire.lock();
        let owes = core.owes();
        if !self.said_goodbye {
            let least = if owes {
                http.send_timeout
            } else {
                Duration::ZERO
            };
            return self.idle_since + http.keepalive_timeout.max(least);
        }
        let left = core.stream.as_ref().map_or(0, Stream::unacknowledged);
        let before = self.unacknowledged.unwrap_or(left);
        if left < before {
            self.idle_since = now;
        }
        self.unacknowledged = Some(left.min(before));
        let (soon, late) = (GOODBYE, http.send_timeout);
        if owes {
            self.idle_since + late
        } else if left > 0 {
            self.idle_since + late.max(soon)
        } else {
            // Who speaks may still be reading what is before the GOAWAY, but not for ever.
            let most = self.idle_since + late.max(soon);
            (self.idle_since.max(self.heard_at) + soon).min(most)
        }
    }

    /// Leaves, if it stands between two streams. `Ready(None)`: there is something to write first.
    fn leave(&mut self) -> Poll<Option<End>> {
        let mut core = self.wire.lock();
        if !core.is_quiet() || self.gate.streams() > 0 {
            return Poll::Pending;
        }
        if core.shim.is_late() {
            core.shim.ask();
            return Poll::Ready(None);
        }
        if let Some((stream, blob, leftover)) = core.leave() {
            return Poll::Ready(Some(End::Leave(stream, blob, leftover)));
        }
        drop(core);
        self.say_goodbye();
        Poll::Ready(None)
    }

    /// It does not stand between two streams: when to look again.
    fn next_step(&mut self, now: Instant) -> Option<Instant> {
        let drain = self.worker.application.drain();
        let drain = drain.map(|drain| {
            let until = drain.until().unwrap_or(drain.since() + UNLIMITED);
            (drain.since().into(), until.into())
        });
        loop {
            let mut core = self.wire.lock();
            let view = View {
                frozen: core.shim.is_frozen(),
                oldest: core.shim.oldest(),
                drain,
            };
            match self.leaving.step(view, now) {
                Step::Freeze => core.shim.freeze(),
                Step::Thaw => core.thaw(),
                Step::GiveUp => {
                    drop(core);
                    self.say_goodbye();
                    return None;
                }
                Step::Wait(until) => return until,
            }
        }
    }

    /// The connection ends, and loses nothing (RFC 9113, 6.8).
    fn say_goodbye(&mut self) {
        if self.said_goodbye {
            return;
        }
        if self.wire.lock().shim.is_arriving() {
            self.goodbye_due = true;
            return;
        }
        self.said_goodbye = true;
        self.idle_since = Instant::now();
        self.look_again = self.idle_since + GOODBYE;
        self.wire.lock().thaw();
        Pin::new(&mut self.http).graceful_shutdown();
    }

    fn end(self, end: End) -> Ended {
        let requests = self.before + u64::from(self.gate.requests().wrapping_sub(self.start));
        // `h2` 0.4.20 counts a stream as open for ever when its client resets it in this case: the request had
        // not ended, the answer had, so that a reset of ours was due behind it, and what was left of the answer
        // waited for the client's window, so that nothing of the stream was in the queue to be sent
        // (`State::recv_reset` then leaves the state alone, and `Counts::transition_after` does not count what
        // has a reset due). On the wire it has ended. A debug build panics when it is dropped with it. What
        // goes on elsewhere is in our hands by now.
        let http = self.http;
        let _ = catch_unwind(AssertUnwindSafe(move || drop(http)));
        match end {
            End::Leave(stream, blob, leftover) => Ended::Left(Connection {
                stream,
                leftover: leftover.freeze(),
                gate: self.gate,
                live: self.live,
                served: self.served,
                peer: self.peer,
                requests,
                idle_since: self.idle_since,
                head_since: None,
                handshake_due: false,
                proxy_header_due: false,
                http2: Some(Box::new(blob)),
            }),
            End::Done => match self.wire.lock().stream.take() {
                Some(stream) => Ended::Lingers(stream, self.gate, self.live),
                None => Ended::Over,
            },
            End::Over => Ended::Over,
            End::Failed => {
                tracing::warn!("an HTTP/2 connection that was passed on could not go on");
                let mut core = self.wire.lock();
                let last = core.shim.highest();
                match core.stream.take() {
                    Some(mut stream) if !core.has_unwritten() => {
                        stream.say_last(&goaway(last));
                        Ended::Lingers(stream, self.gate, self.live)
                    }
                    _ => Ended::Over,
                }
            }
        }
    }
}

/// When `h2` must have answered all it was fed. As long as something waits for the socket it is the client
/// that takes nothing.
fn arrived_by(since: Instant, unwritten: bool, send_timeout: Duration) -> Instant {
    since
        + if unwritten {
            ARRIVAL.max(send_timeout)
        } else {
            ARRIVAL
        }
}

/// Nothing behind stream `last` was looked at.
fn goaway(last: u32) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend([0; 4]);
    let mut frame = Vec::new();
    frames::write(&mut frame, frames::GOAWAY, 0, 0, &payload);
    frame
}

impl Worker {
    /// Whether an HTTP/2 connection over this stream can be passed on, as far as is known.
    fn takes_http2(&self, stream: &Stream) -> bool {
        let outbox = lock(&self.outbox);
        let reads = outbox.as_ref().map(|outbox| outbox.reads);
        let taken = |r: Reads| r.http2 >= HTTP2_WRITES && stream.can_move_to(r.tls);
        self.passes_http2.load(Ordering::Relaxed) && reads.is_none_or(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_nothing_is_not_taken_for_an_h2_that_is_lost() {
        let since = Instant::now();
        let minute = Duration::from_secs(60);
        assert_eq!(arrived_by(since, false, minute), since + ARRIVAL);
        assert_eq!(arrived_by(since, true, minute), since + minute);
        // It is never less.
        let short = ARRIVAL / 2;
        assert_eq!(arrived_by(since, true, short), since + ARRIVAL);
    }

    /// Without calling it.
    fn size_of_future<'w, F>(_: impl FnOnce(Connection, &'w Worker, Word) -> F) -> usize {
        size_of::<F>()
    }

    /// It held hyper's connection four times.
    #[test]
    fn a_connection_weighs_little_more_than_in_bare_hyper() {
        let (ours, hypers) = (size_of_future(serve), size_of::<Http>());
        assert!(
            ours <= hypers + 768,
            "{ours} bytes, {hypers} of them hyper's"
        );
    }
}
