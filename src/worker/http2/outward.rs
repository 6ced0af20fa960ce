//! What `h2` writes, on its way to the client. Mostly it is only looked at. After a move some frames are
//! kept from the wire, because the client knows what they say (see [`super::arrive`]), and DATA that the
//! client has not allowed waits.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::frames::{self, HEAD, Head, Scanner, Watch};
use super::ledger::{BARRIER, Ledger, Refusal, settings, wants_of_ours};

/// This direction.
#[derive(Default)]
pub(super) struct Outward {
    /// Where `h2` is that writes straight to the socket.
    scanner: Scanner,
    /// Of `h2`'s, and not a whole frame yet.
    raw: BytesMut,
    /// What the socket is to take next.
    out: BytesMut,
    /// What the client's window has no room for, and what may not overtake it.
    waiting: VecDeque<(Head, Bytes)>,
    waiting_len: usize,
    /// What `h2` is expected to say to what it was fed.
    expected: Option<Expected>,
    /// So much of what `h2` adds to the connection's window the client has already.
    keep_window: u32,
    /// `h2` has answered otherwise than it should.
    pub(super) failed: bool,
}

/// What the client does not hear, having heard it from the worker before.
#[derive(Debug)]
pub(super) struct Expected {
    /// Once, and in other order perhaps.
    pub(super) settings: Option<Box<[u8]>>,
    /// Acknowledgements of SETTINGS that were fed.
    pub(super) acks: u32,
    /// The stream of the header block that was fed.
    pub(super) reset: Option<u32>,
}

/// So much may wait for the client's window: an `h2` that believed in 65,535 bytes too many, and heads
/// and ends of answers.
const WAITING_MAX: usize = 1024 * 1024;
const FRAMES_MAX: usize = 16 * 1024;

/// Lengths only: what is answered is nobody else's.
impl std::fmt::Debug for Outward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outward")
            .field("scanner", &self.scanner)
            .field("raw", &self.raw.len())
            .field("out", &self.out.len())
            .field("waiting", &self.waiting_len)
            .field("expected", &self.expected)
            .field("keep_window", &self.keep_window)
            .field("failed", &self.failed)
            .finish()
    }
}

struct Written<'l>(&'l mut Ledger);

impl Watch for Written<'_> {
    fn wants(&self, head: &Head) -> bool {
        wants_of_ours(head)
    }

    fn frame(&mut self, head: Head, payload: &[u8]) {
        self.0.our_frame(head, payload);
    }
}

impl Outward {
    /// Of a connection that came from another worker.
    pub(super) fn after_a_move(expected: Expected, keep_window: u32) -> Self {
        Self {
            expected: Some(expected),
            keep_window,
            ..Self::default()
        }
    }

    /// Whether `h2` may write to the socket itself. Once it may, it always may, but for the instants
    /// in which something of ours goes first.
    pub(super) fn is_direct(&self) -> bool {
        self.expected.is_none()
            && self.keep_window == 0
            && self.waiting.is_empty()
            && self.raw.is_empty()
            && self.out.is_empty()
    }

    /// Whether something waits for the client's window.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Between two frames, and nothing of `h2`'s here.
    pub(super) fn at_boundary(&self) -> bool {
        self.scanner.at_boundary() && self.raw.is_empty() && self.waiting.is_empty()
    }

    /// Whether answers are awaited that tell that `h2` is where it should be.
    pub(super) fn is_expecting(&self) -> bool {
        self.expected.is_some()
    }

    /// All that `h2` had to say has been written. Whether that was what was awaited.
    pub(super) fn flushed(&mut self) -> bool {
        let over = self.expected.as_ref().is_some_and(|expected| {
            expected.settings.is_none() && expected.acks == 0 && expected.reset.is_none()
        });
        if over {
            self.expected = None;
        }
        over
    }

    /// The socket took this from `h2`.
    pub(super) fn written(&mut self, bytes: &[u8], ledger: &mut Ledger) {
        self.scanner.walk(bytes, &mut Written(ledger));
    }

    /// Takes this from `h2` for the socket.
    pub(super) fn write(&mut self, bytes: &[u8], ledger: &mut Ledger) {
        self.raw.extend_from_slice(bytes);
        while let Some((head, len)) = Head::of_whole(&self.raw) {
            let frame = self.raw.split_to(len).freeze();
            self.route(head, frame, ledger);
        }
        if self.raw.is_empty() {
            // An idle connection holds no buffers.
            self.raw = BytesMut::new();
        }
    }

    /// For the socket.
    pub(super) fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// A frame of ours.
    pub(super) fn insert(&mut self, kind: u8, stream: u32, payload: &[u8], ledger: &mut Ledger) {
        debug_assert!(self.scanner.at_boundary() && !ledger.in_our_block());
        let mut frame = Vec::with_capacity(HEAD + payload.len());
        frames::write(&mut frame, kind, 0, stream, payload);
        if let Some((head, _)) = Head::of_whole(&frame) {
            self.emit(head, &frame, ledger);
        }
    }

    /// Asks the client whether it has seen everything so far.
    pub(super) fn insert_barrier(&mut self, ledger: &mut Ledger) {
        self.insert(frames::PING, 0, BARRIER, ledger);
    }

    fn route(&mut self, head: Head, frame: Bytes, ledger: &mut Ledger) {
        if self.is_awaited(head, &frame[HEAD..]) {
            return;
        }
        if head.kind == frames::WINDOW_UPDATE && head.stream == 0 && self.keep_window > 0 {
            if let Some(increment) = frame[HEAD..].first_chunk() {
                let increment = u32::from_be_bytes(*increment);
                let kept = increment.min(self.keep_window);
                self.keep_window -= kept;
                if increment > kept {
                    let rest = (increment - kept).to_be_bytes();
                    let mut frame = BytesMut::new();
                    frames::write(&mut frame, head.kind, 0, 0, &rest);
                    self.emit(head, &frame, ledger);
                }
                return;
            }
        }
        if self.must_wait(head, ledger) {
            self.wait(head, frame, ledger);
        } else {
            self.emit(head, &frame, ledger);
        }
        if !self.waiting.is_empty() {
            self.release(ledger);
        }
    }

    /// Whether this is an answer to what was fed.
    fn is_awaited(&mut self, head: Head, payload: &[u8]) -> bool {
        let Some(expected) = &mut self.expected else {
            return false;
        };
        match head.kind {
            frames::SETTINGS if head.has(frames::ACK) => {
                let awaited = expected.acks > 0;
                expected.acks = expected.acks.saturating_sub(1);
                awaited
            }
            frames::SETTINGS => {
                match expected.settings.take() {
                    Some(told) if say_the_same(&told, payload) => {}
                    _ => self.failed = true,
                }
                true
            }
            frames::RST_STREAM if expected.reset == Some(head.stream) => {
                expected.reset = None;
                true
            }
            frames::GOAWAY => {
                self.failed = true;
                true
            }
            _ => false,
        }
    }

    /// Whether a frame has to wait for the client's window, or behind one that waits: DATA keep their
    /// order, a stream's frames keep theirs, and header blocks keep theirs (RFC 9113, 4.3).
    fn must_wait(&self, head: Head, ledger: &Ledger) -> bool {
        let behind = |of: &dyn Fn(&Head) -> bool| self.waiting.iter().any(|(head, _)| of(head));
        match head.kind {
            frames::DATA if head.len > 0 => {
                !self.waiting.is_empty() || i64::from(head.len) > ledger.send
            }
            frames::DATA | frames::RST_STREAM => behind(&|first| first.stream == head.stream),
            frames::HEADERS | frames::CONTINUATION => behind(&|first| {
                first.stream == head.stream
                    || matches!(first.kind, frames::HEADERS | frames::CONTINUATION)
            }),
            _ => false,
        }
    }

    fn wait(&mut self, head: Head, frame: Bytes, ledger: &mut Ledger) {
        self.waiting_len += frame.len();
        self.waiting.push_back((head, frame));
        if self.waiting_len > WAITING_MAX || self.waiting.len() > FRAMES_MAX {
            // A client that never takes an answer and always asks for more.
            self.failed = true;
            ledger.refuse(Refusal::Frame);
        }
    }

    /// The client's window may have grown.
    pub(super) fn release(&mut self, ledger: &mut Ledger) {
        if ledger.in_our_block() {
            return;
        }
        while let Some((head, frame)) = self.waiting.pop_front() {
            self.waiting_len -= frame.len();
            let room = ledger.send;
            if head.kind != frames::DATA || i64::from(head.len) <= room {
                self.emit(head, &frame, ledger);
                continue;
            }
            let room = usize::try_from(room).unwrap_or(0);
            if room == 0 || head.has(frames::PADDED) {
                self.waiting_len += frame.len();
                self.waiting.push_front((head, frame));
                return;
            }
            let (now, later) = frame[HEAD..].split_at(room);
            let part = |flags: u8, payload: &[u8]| {
                let mut frame = BytesMut::with_capacity(HEAD + payload.len());
                frames::write(&mut frame, frames::DATA, flags, head.stream, payload);
                Head::of_whole(&frame).map(|(head, _)| (head, frame.freeze()))
            };
            let parts = part(head.flags & !frames::END_STREAM, now).zip(part(head.flags, later));
            if let Some(((head, first), rest)) = parts {
                self.emit(head, &first, ledger);
                self.waiting_len += rest.1.len();
                self.waiting.push_front(rest);
            }
            return;
        }
        self.waiting = VecDeque::new();
    }

    fn emit(&mut self, head: Head, frame: &[u8], ledger: &mut Ledger) {
        ledger.our_frame(head, frame.get(HEAD..).unwrap_or_default());
        self.out.extend_from_slice(frame);
    }
}

/// The same settings, in whatever order.
fn say_the_same(one: &[u8], other: &[u8]) -> bool {
    let sorted = |payload: &[u8]| {
        let mut all: Vec<_> = settings(payload)?.collect();
        all.sort_unstable();
        Some(all)
    };
    sorted(one) == sorted(other)
}
