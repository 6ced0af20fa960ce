//! What must be known about a connection besides what hyper tells: whether it stands exactly
//! between two requests, so that it can be taken out of hyper without losing or doubling a byte.
//!
//! The marks are set by the IO wrapper ([`super::io`]), the service and the body wrappers
//! ([`super::exchange`]) and looked at by the driver ([`super::http1`]), the one task that polls
//! hyper. A connection is *quiet* when no answer is under way, no request body is unread, nothing
//! written is unflushed and it is not bound to end. The reasons are in hyper's source: its own idle
//! state is private, so it serves as the oracle that checks ours.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::http1::unread::Unread;
use super::lock;
use super::order::{Order, Orders};
use super::sendfile::Queue;
use super::ws::Farewell;

/// The marks of one connection.
#[derive(Debug, Default)]
pub(super) struct Gate {
    marks: AtomicU32,
    /// The number of the request whose body is not read to its end; 0: none.
    body: AtomicU32,
    /// Requests so far; also the number of the newest one.
    requests: AtomicU32,
    /// Successful writes, to see progress.
    writes: AtomicU32,
    /// HTTP/2 streams that are being answered.
    streams: AtomicU32,
    /// Of them, those that ended without a whole answer.
    resets: AtomicU32,
    /// What is asked of it.
    pub(super) orders: Orders,
    /// Files that hyper believes to have the bytes of.
    pub(super) files: Queue,
    /// A request body that the application dropped before its end.
    unread: Mutex<Option<Unread>>,
    /// See [`WEB_SOCKET`].
    farewell: Mutex<Option<Box<Farewell>>>,
    driver: AtomicWaker,
    /// Who reads the request's body.
    reader: AtomicWaker,
}

/// No further request is read (one that is under way is).
const FROZEN: u32 = 1;
/// A request was given to the application, its answer is not wholly in hyper's buffer.
pub(super) const IN_FLIGHT: u32 = 1 << 1;
/// Something was written, or is about to be, and not flushed since.
pub(super) const DIRTY: u32 = 1 << 2;
/// hyper will end this connection (`Connection: close`, upgraded, a body nobody reads).
pub(super) const STICKY: u32 = 1 << 3;
/// Swallow `poll_shutdown`: hyper is only being asked whether it is idle.
const ORACLE: u32 = 1 << 4;
/// The first bytes of a next request were read while the connection was quiet.
const HEAD: u32 = 1 << 5;
/// A request is under way, and hyper has no byte left of what it has read.
const DRY: u32 = 1 << 6;
/// The client closed its half while its answer is under way; hyper has not been told.
const EOF_HELD: u32 = 1 << 7;
/// hyper may be told.
const EOF_DUE: u32 = 1 << 8;
/// A request body waits in the slot to be read by the driver.
const UNREAD: u32 = 1 << 9;
/// The next answer says `Connection: close`.
const CLOSE: u32 = 1 << 10;
/// The application has been given a WebSocket; how it ends waits in the slot for the IO wrapper.
const WEB_SOCKET: u32 = 1 << 15;
/// Never set: stands for a request body that is not read to its end.
pub(super) const BODY_PENDING: u32 = 1 << 11;
/// An answer that switches protocols waits to be sent.
const SWITCHES: u32 = 1 << 12;
/// It may be sent: the driver has given the connection away.
const SWITCH_GRANTED: u32 = 1 << 13;
/// The request's body stopped coming ([`crate::config::Http::body_timeout`]).
const BODY_LATE: u32 = 1 << 14;

/// Which marks do not count: all do, but for the tests that prove that each is needed.
#[cfg(not(test))]
const fn left_out() -> u32 {
    0
}
#[cfg(test)]
use super::mutants::left_out;

impl Gate {
    fn marks(&self) -> u32 {
        self.marks.load(Ordering::Acquire)
    }

    fn has(&self, mark: u32) -> bool {
        self.marks() & mark != 0
    }

    fn set(&self, mark: u32) {
        self.change(0, mark);
    }

    fn clear(&self, mark: u32) {
        self.change(mark, 0);
    }

    /// Clears some and sets others, at once. Most often there is nothing to change, and looking is
    /// cheaper.
    fn change(&self, clear: u32, set: u32) {
        let change = |marks: u32| {
            let changed = marks & !clear | set;
            (changed != marks).then_some(changed)
        };
        let _ = self
            .marks
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }

    // --- the driver ---

    /// A new hyper connection over the same socket starts: nothing of the old one counts.
    pub(super) fn restart(&self) {
        self.marks.store(0, Ordering::Release);
        self.body.store(0, Ordering::Release);
        *lock(&self.unread) = None;
    }

    /// Whose task to wake.
    pub(super) fn register(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// Between two requests, everything flushed, not bound to end.
    pub(super) fn quiet(&self) -> bool {
        let bars = (IN_FLIGHT | DIRTY | STICKY | BODY_PENDING) & !left_out();
        let body = if self.body_pending() { BODY_PENDING } else { 0 };
        (self.marks() | body) & bars == 0
    }

    /// Quiet but for a flush that hyper has not asked for yet.
    pub(super) fn wants_flush(&self) -> bool {
        self.marks() & (IN_FLIGHT | DIRTY | STICKY) == DIRTY && !self.body_pending()
    }

    /// Something is written that the socket has not taken yet.
    pub(super) fn blocked(&self) -> bool {
        self.has(DIRTY)
    }

    /// A request body that the application dropped is being read over.
    pub(super) fn unread(&self) -> bool {
        self.has(UNREAD)
    }

    /// An answer is under way.
    pub(super) fn in_flight(&self) -> bool {
        self.has(IN_FLIGHT)
    }

    /// A request body is not read to its end.
    pub(super) fn body_pending(&self) -> bool {
        self.body.load(Ordering::Acquire) != 0
    }

    /// hyper will end this connection.
    pub(super) fn sticky(&self) -> bool {
        self.has(STICKY & !left_out())
    }

    /// See [`STICKY`].
    pub(super) fn stick(&self) {
        self.set(STICKY);
    }

    /// The answer that is being made is the last one, by our will.
    pub(super) fn end(&self) {
        self.set(STICKY | CLOSE);
    }

    /// An answer waits that switches protocols.
    pub(super) fn switches(&self) -> bool {
        self.has(SWITCHES)
    }

    /// The application has the connection from now on: the gate stays open.
    pub(super) fn grant_switch(&self) {
        self.change(FROZEN, STICKY | SWITCH_GRANTED);
    }

    /// The connection ends by our will: the client may still be sending.
    pub(super) fn closing(&self) -> bool {
        self.has(CLOSE)
    }

    /// Bytes of an unfinished head have been seen.
    pub(super) fn head_begun(&self) -> bool {
        self.has(HEAD)
    }

    /// No further request is read from the socket.
    pub(super) fn freeze(&self) {
        self.set(FROZEN);
    }

    /// Reads go on; the driver must poll hyper afterwards (a frozen read left no waker).
    pub(super) fn thaw(&self) {
        self.clear(FROZEN);
    }

    /// While hyper is asked whether it is idle, `shutdown` must not reach the socket.
    pub(super) fn consult(&self, on: bool) {
        if on {
            self.set(ORACLE);
        } else {
            self.clear(ORACLE);
        }
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Acquire)
    }

    /// Successful writes so far (wraps).
    pub(super) fn writes(&self) -> u32 {
        self.writes.load(Ordering::Acquire)
    }

    /// The client has closed its half and waits for its answer.
    pub(super) fn eof_held(&self) -> bool {
        self.marks() & (EOF_HELD | EOF_DUE) == EOF_HELD
    }

    /// hyper learns of the client's EOF now.
    pub(super) fn release_eof(&self) {
        self.set(EOF_DUE);
    }

    /// Reads on the body that the application dropped; hyper reads the next request behind it.
    pub(super) fn poll_unread(&self, cx: &mut Context<'_>) {
        if !self.has(UNREAD) {
            return;
        }
        let mut slot = lock(&self.unread);
        let Some(unread) = slot.as_mut() else {
            return;
        };
        let number = unread.number;
        let Poll::Ready(read_whole) = unread.poll(cx) else {
            // hyper runs in this very task.
            self.body_waits(cx.waker(), self.eof_held());
            return;
        };
        *slot = None;
        drop(slot);
        self.clear(UNREAD);
        if !read_whole {
            self.set(STICKY | CLOSE);
        }
        self.body_read(number);
    }

    /// Nobody waits for the rest of an ignored body any longer: hyper closes.
    pub(super) fn give_up_body(&self) {
        let dropped = lock(&self.unread).take();
        self.clear(UNREAD);
        if let Some(unread) = dropped {
            self.set(STICKY | CLOSE);
            self.body_read(unread.number);
        }
    }

    // --- the IO wrapper ---

    /// No byte may be read now.
    pub(super) fn read_closed(&self) -> bool {
        let marks = self.marks();
        (marks & (FROZEN | IN_FLIGHT) == FROZEN && !self.body_pending())
            || marks & (EOF_HELD | EOF_DUE | IN_FLIGHT) == EOF_HELD | IN_FLIGHT
    }

    /// Bytes were given to hyper.
    pub(super) fn was_read(&self) {
        if self.has(IN_FLIGHT) || self.body_pending() {
            self.clear(DRY);
        } else {
            self.set(HEAD);
        }
    }

    /// hyper wants to read, and there is nothing. With a request under way it never asks before it
    /// has used up what it had read.
    pub(super) fn nothing_to_read(&self) {
        if self.has(IN_FLIGHT) {
            self.set(DRY);
        }
    }

    /// The client closed its half. True: hyper must not know yet, an answer is under way (hyper
    /// would abort it; a client that only has nothing more to say waits for it). Whether hyper has the
    /// whole body of the request, its reader finds out.
    pub(super) fn hold_eof(&self) -> bool {
        let hold = self.marks() & (IN_FLIGHT | SWITCH_GRANTED | EOF_DUE) == IN_FLIGHT;
        if hold {
            self.set(EOF_HELD);
            self.driver.wake();
            self.reader.wake();
        }
        hold
    }

    /// The request's body has not ended, and nothing of it is left to read: its reader is woken when the
    /// client closes its half. When hyper had not been told of that before the look (`held`), it waits for
    /// just that: it asks for more only when it has handed on all it had.
    pub(super) fn body_waits(&self, reader: &Waker, held: bool) {
        self.reader.register(reader);
        if held {
            self.release_eof();
            self.driver.wake();
        } else if self.eof_held() {
            reader.wake_by_ref();
        }
    }

    /// hyper is about to write.
    pub(super) fn will_write(&self) {
        self.set(DIRTY);
    }

    /// The socket took something. One task at a time writes.
    pub(super) fn has_written(&self) {
        let writes = self.writes.load(Ordering::Acquire).wrapping_add(1);
        self.writes.store(writes, Ordering::Release);
    }

    /// hyper's write buffer is empty (it flushes the IO only then).
    pub(super) fn was_flushed(&self) {
        self.clear(DIRTY);
    }

    /// Once: what was written and flushed so far was HTTP, what follows is a WebSocket.
    pub(super) fn becomes_web_socket(&self) -> Option<Box<Farewell>> {
        if !self.has(WEB_SOCKET) {
            return None;
        }
        self.clear(WEB_SOCKET);
        lock(&self.farewell).take()
    }

    /// See [`Self::consult`].
    pub(super) fn swallows_shutdown(&self) -> bool {
        self.has(ORACLE)
    }

    // --- the service and body wrappers ---

    /// A request begins. Returns its number.
    pub(super) fn begin(&self, has_body: bool, last: bool) -> u32 {
        let number = self.requests.load(Ordering::Acquire).wrapping_add(1).max(1);
        self.requests.store(number, Ordering::Release);
        self.body
            .store(if has_body { number } else { 0 }, Ordering::Release);
        let ends = if last { STICKY } else { 0 };
        self.change(HEAD | DRY | BODY_LATE | EOF_HELD, IN_FLIGHT | ends);
        number
    }

    /// An answer that switches protocols is ready. True: it may be sent. Otherwise the driver gives
    /// the connection away first, so that nothing of ours stands between the client and the
    /// application afterwards.
    pub(super) fn switch(&self) -> bool {
        if self.has(SWITCH_GRANTED) {
            return true;
        }
        self.set(SWITCHES);
        false
    }

    /// The answer's body has ended or was dropped: it is in hyper's buffer as far as it goes.
    /// In one step: at no instant is the connection quiet with the answer unflushed.
    pub(super) fn answered(&self) {
        self.change(IN_FLIGHT, DIRTY);
    }

    /// The body of request `number` was read to its end.
    pub(super) fn body_read(&self, number: u32) {
        let was = self
            .body
            .compare_exchange(number, 0, Ordering::AcqRel, Ordering::Acquire);
        if was.is_ok() && !self.has(IN_FLIGHT) {
            self.driver.wake();
        }
    }

    /// The application dropped the body of request `number` before its end. `asked`: the client
    /// sends it (it does not wait for `100 Continue`).
    pub(super) fn body_dropped(&self, number: u32, body: Incoming, asked: bool) {
        if self.body.load(Ordering::Acquire) != number {
            return;
        }
        if body.is_end_stream() {
            self.body_read(number);
            return;
        }
        if let Some(unread) = asked.then(|| Unread::new(body, number)).flatten() {
            *lock(&self.unread) = Some(unread);
            self.set(UNREAD);
            self.driver.wake();
        } else {
            // As hyper wants it: it stops reading and closes after the answer.
            self.set(STICKY | CLOSE);
            self.body_read(number);
        }
    }

    /// The body of request `number` stopped coming: the connection ends after the answer.
    pub(super) fn body_late(&self, number: u32) {
        self.set(STICKY | CLOSE | BODY_LATE);
        self.body_read(number);
    }

    /// See [`Self::body_late`].
    pub(super) fn is_body_late(&self) -> bool {
        self.has(BODY_LATE)
    }

    /// The answer says `Connection: close` by the application's will. The client does not know yet,
    /// and may be sending its next request.
    pub(super) fn closes(&self) {
        if !self.has(STICKY) {
            self.set(STICKY | CLOSE);
        }
    }

    /// Whether the answer that is about to be sent must say `Connection: close`: hyper is going to
    /// close, or this is a [`Order::Last`] connection and no further request has been read. (While
    /// the body is still being sent nobody knows what follows it; RFC 9112, 9.3.2 asks clients to
    /// send nothing then before they have seen this answer's head.)
    pub(super) fn says_close(&self) -> bool {
        if self.has(CLOSE) {
            return true;
        }
        let last = self.order() == Order::Last && (self.has(DRY) || self.body_pending());
        if last {
            self.set(STICKY | CLOSE);
        }
        last
    }

    /// The answer that is about to be sent makes a WebSocket of the connection.
    pub(super) fn web_socket(&self, farewell: Farewell) {
        *lock(&self.farewell) = Some(Box::new(farewell));
        self.set(WEB_SOCKET);
    }

    // --- HTTP/2 ---

    /// One more stream is being answered.
    pub(super) fn stream_begins(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.streams.fetch_add(1, Ordering::AcqRel);
    }

    /// It is not any longer. `whole`: its answer was complete.
    pub(super) fn stream_ends(&self, whole: bool) {
        if !whole {
            self.resets.fetch_add(1, Ordering::AcqRel);
        }
        let before = self.streams.fetch_sub(1, Ordering::AcqRel);
        if before == 1 && self.order() != Order::Serve {
            // It may leave now.
            self.driver.wake();
        }
    }

    /// Whether at least `least` streams, and more than half of all, ended without a whole answer.
    #[cfg(feature = "http2")]
    pub(super) fn resets_exceed(&self, least: u32) -> bool {
        let resets = self.resets.load(Ordering::Acquire);
        resets >= least && resets > self.requests() / 2
    }

    /// Streams that are being answered.
    #[cfg(feature = "http2")]
    pub(super) fn streams(&self) -> u32 {
        self.streams.load(Ordering::Acquire)
    }

    // --- orders ---

    /// What is asked of it.
    pub(super) fn order(&self) -> Order {
        self.orders.word().order()
    }

    /// Asks it, and wakes its task.
    pub(super) fn tell(&self, order: Order, permit: Option<OwnedSemaphorePermit>) {
        self.orders.tell(order, permit);
        self.driver.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_no_instant_between_the_request_and_the_flush_is_a_connection_quiet() {
        let gate = Gate::default();
        assert!(gate.quiet());
        gate.was_read();
        assert!(gate.quiet() && gate.head_begun());
        let number = gate.begin(true, false);
        assert!(!gate.quiet() && !gate.head_begun());
        gate.will_write();
        gate.was_flushed();
        assert!(!gate.quiet());
        gate.answered();
        assert!(!gate.quiet() && !gate.wants_flush());
        gate.was_flushed();
        assert!(!gate.quiet(), "the request body is unread");
        gate.body_read(number.wrapping_add(1));
        assert!(!gate.quiet(), "another request's body");
        gate.body_read(number);
        assert!(gate.quiet());
    }

    #[test]
    fn a_frozen_connection_reads_only_what_belongs_to_the_request_under_way() {
        let gate = Gate::default();
        gate.freeze();
        assert!(gate.read_closed());
        let number = gate.begin(true, false);
        assert!(!gate.read_closed());
        gate.answered();
        assert!(!gate.read_closed());
        gate.body_read(number);
        assert!(gate.read_closed());
        gate.thaw();
        assert!(!gate.read_closed());
    }
}
