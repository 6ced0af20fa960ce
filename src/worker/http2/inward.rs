//! What the client sends, on its way to `h2`. Mostly it is only looked at. A connection that is to leave
//! is *frozen*: frames of the streams that are open, and those of the connection itself, go on to
//! `h2`, which ends its streams; everything of a new stream is held. After a move some frames
//! are kept from `h2` (see [`super::arrive`]).

use bytes::{Buf as _, BytesMut};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::frames::{self, HEAD, Head, Scanner, Watch};
use super::ledger::{BARRIER, Ledger, Refusal, wants_of_client};
use super::outward::Outward;

/// This direction.
#[derive(Default)]
pub(super) struct Inward {
    /// Where `h2` is.
    scanner: Scanner,
    /// From the socket, and not looked at.
    inbox: BytesMut,
    /// For `h2` before anything else, so far as it has not been taken.
    begin: Zeroizing<Vec<u8>>,
    begin_taken: usize,
    /// For `h2`.
    to_h2: BytesMut,
    /// Of new streams.
    held: BytesMut,
    frozen: bool,
    /// Whose header block, of which a part is held, goes on with the next frame.
    held_block: Option<u32>,
    /// Acknowledgements of what another worker has sent.
    pub(super) swallow_settings: u32,
    pub(super) swallow_pings: u32,
    /// `h2` believes that it may send so much more than it may.
    pub(super) owed: u32,
    /// A barrier's answer is awaited.
    pub(super) barrier: bool,
}

/// So much is held; then all of it goes to `h2`.
const HELD_MAX: usize = 160 * 1024;

/// Nobody may send us longer frames; `h2` says so to whoever does.
const FRAME_MAX: usize = 64 * 1024;

/// Lengths only: what a client asks is nobody else's.
impl std::fmt::Debug for Inward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inward")
            .field("scanner", &self.scanner)
            .field("begin", &(self.begin.len() - self.begin_taken))
            .field("inbox", &self.inbox.len())
            .field("to_h2", &self.to_h2.len())
            .field("held", &self.held.len())
            .field("frozen", &self.frozen)
            .finish_non_exhaustive()
    }
}

struct Read<'l>(&'l mut Ledger, Instant);

impl Watch for Read<'_> {
    fn wants(&self, head: &Head) -> bool {
        wants_of_client(head)
    }

    fn frame(&mut self, head: Head, payload: &[u8]) {
        self.0.client_frame(head, payload, self.1);
    }
}

/// What becomes of a frame while the connection is frozen.
enum Route {
    Pass,
    Hold,
    /// It may neither overtake what is held nor wait.
    Thaw,
}

impl Inward {
    /// `begin` is for `h2` and no frames; what follows is from the socket.
    pub(super) fn new(begin: Zeroizing<Vec<u8>>, read: &[u8]) -> Self {
        Self {
            inbox: read.into(),
            begin,
            ..Self::default()
        }
    }

    /// Whether frames are changed, held or kept.
    fn is_filtered(&self) -> bool {
        self.frozen
            || self.barrier
            || self.owed > 0
            || self.swallow_settings > 0
            || self.swallow_pings > 0
    }

    /// Whether `h2` may read from the socket itself.
    pub(super) fn is_direct(&self) -> bool {
        !self.is_filtered() && self.inbox.is_empty() && !self.has_for_h2()
    }

    /// `h2` read this from the socket.
    pub(super) fn read(&mut self, bytes: &[u8], ledger: &mut Ledger, now: Instant) {
        self.scanner.walk(bytes, &mut Read(ledger, now));
    }

    /// For what is read from the socket.
    pub(super) fn inbox(&mut self) -> &mut BytesMut {
        &mut self.inbox
    }

    pub(super) fn has_for_h2(&self) -> bool {
        !self.begin.is_empty() || !self.to_h2.is_empty()
    }

    /// Gives `h2` the next bytes, as many as `to` takes. Whether there were any.
    pub(super) fn give(&mut self, to: &mut impl FnMut(&[u8]) -> usize) -> bool {
        if !self.begin.is_empty() {
            self.begin_taken += to(&self.begin[self.begin_taken..]);
            if self.begin_taken == self.begin.len() {
                (self.begin, self.begin_taken) = (Zeroizing::default(), 0);
            }
            return true;
        }
        if self.to_h2.is_empty() {
            return false;
        }
        let taken = to(&self.to_h2);
        self.to_h2.advance(taken);
        if self.to_h2.is_empty() {
            self.to_h2 = BytesMut::new();
        }
        true
    }

    /// `h2` has read whole frames, and all there are for it.
    pub(super) fn at_boundary(&self) -> bool {
        self.scanner.at_boundary() && !self.has_for_h2()
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// From now on nothing of a new stream goes to `h2`.
    pub(super) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// `h2` gets what was held, in its order, before everything else.
    pub(super) fn thaw(&mut self) {
        self.frozen = false;
        self.held_block = None;
        if !self.held.is_empty() {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(&self.inbox);
            self.inbox = held;
        }
    }

    /// What was read from the socket and did not go to `h2`, in its order.
    pub(super) fn leftover(&mut self) -> BytesMut {
        let mut leftover = std::mem::take(&mut self.held);
        leftover.extend_from_slice(&self.inbox);
        self.inbox = BytesMut::new();
        leftover
    }

    /// Looks at what was read.
    pub(super) fn pump(&mut self, ledger: &mut Ledger, outward: &mut Outward, now: Instant) {
        loop {
            if ledger.refusal().is_some() && self.frozen {
                self.thaw();
            }
            if !self.is_filtered() {
                let inbox = std::mem::take(&mut self.inbox);
                self.pass(&inbox, ledger, now);
                return;
            }
            if !self.scanner.at_boundary() {
                let n = self.scanner.needed().min(self.inbox.len());
                if n == 0 {
                    return;
                }
                let rest = self.inbox.split_to(n);
                self.pass(&rest, ledger, now);
                continue;
            }
            let Some((head, len)) = Head::of_whole(&self.inbox) else {
                let too_long = self
                    .inbox
                    .first_chunk()
                    .is_some_and(|head| Head::parse(head).payload() > FRAME_MAX);
                if too_long {
                    // What `h2` says to this ends the connection.
                    ledger.refuse(Refusal::Frame);
                    self.barrier = false;
                    (self.owed, self.swallow_settings, self.swallow_pings) = (0, 0, 0);
                    self.thaw();
                    continue;
                }
                return;
            };
            match self.route(head, ledger) {
                Route::Pass => {
                    let frame = self.inbox.split_to(len);
                    self.read(&frame, ledger, now);
                    self.forward(head, &frame);
                    if head.kind == frames::WINDOW_UPDATE && head.stream == 0 {
                        outward.release(ledger);
                    }
                }
                Route::Hold => {
                    let frame = self.inbox.split_to(len);
                    self.held.extend_from_slice(&frame);
                    if self.held.len() > HELD_MAX {
                        self.thaw();
                    }
                }
                Route::Thaw => self.thaw(),
            }
        }
    }

    fn pass(&mut self, bytes: &[u8], ledger: &mut Ledger, now: Instant) {
        self.read(bytes, ledger, now);
        self.to_h2.extend_from_slice(bytes);
    }

    fn route(&mut self, head: Head, ledger: &Ledger) -> Route {
        // A block that has begun on its way to `h2`: nothing is held.
        if !self.frozen || ledger.in_block() {
            return Route::Pass;
        }
        if let Some(stream) = self.held_block {
            if head.kind != frames::CONTINUATION || head.stream != stream {
                return Route::Thaw;
            }
        } else if head.stream % 2 == 0 || head.stream <= ledger.highest {
            // Header blocks keep their order (RFC 9113, 4.3), and nothing may come between the frames of
            // one, be it only what was held.
            let begins_block = head.kind == frames::HEADERS;
            return if begins_block && !self.held.is_empty() {
                Route::Thaw
            } else {
                Route::Pass
            };
        }
        let of_block = matches!(head.kind, frames::HEADERS | frames::CONTINUATION);
        let goes_on = of_block && !head.has(frames::END_HEADERS);
        self.held_block = goes_on.then_some(head.stream);
        Route::Hold
    }

    /// Gives a frame to `h2`, or what it needs to know of it.
    fn forward(&mut self, head: Head, frame: &[u8]) {
        let payload = &frame[HEAD..];
        match head.kind {
            frames::SETTINGS if head.has(frames::ACK) && self.swallow_settings > 0 => {
                self.swallow_settings -= 1;
            }
            frames::PING if head.has(frames::ACK) && self.barrier && payload == BARRIER => {
                self.barrier = false;
            }
            frames::PING if head.has(frames::ACK) && self.swallow_pings > 0 => {
                self.swallow_pings -= 1;
            }
            frames::WINDOW_UPDATE if head.stream == 0 && self.owed > 0 && payload.len() == 4 => {
                let increment: [u8; 4] = payload.try_into().unwrap_or_default();
                let increment = u32::from_be_bytes(increment) & 0x7fff_ffff;
                let paid = increment.min(self.owed);
                self.owed -= paid;
                if increment > paid || increment == 0 {
                    let rest = (increment - paid).to_be_bytes();
                    frames::write(&mut self.to_h2, head.kind, 0, 0, &rest);
                }
            }
            _ => self.to_h2.extend_from_slice(frame),
        }
    }
}
