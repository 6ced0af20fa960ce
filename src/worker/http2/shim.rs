//! The two directions of one connection and what is known of it: what stands between the socket and
//! `h2`, as a pure thing of buffers. [`super::wire`] moves the bytes.

use std::io::IoSlice;

use bytes::{Buf as _, BytesMut};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::arrive::arrive;
use super::blob::{Blob, BlobError};
use super::inward::Inward;
use super::ledger::{Ledger, Refusal};
use super::outward::Outward;
use crate::worker::preface::PREFACE;

/// The state machine.
#[derive(Debug)]
pub(super) struct Shim {
    ledger: Ledger,
    inward: Inward,
    outward: Outward,
    /// What our connection window is raised to.
    window: u32,
}

/// So much of `h2`'s is taken before the socket has taken it.
const OUT_MAX: usize = 64 * 1024;

impl Shim {
    /// A connection that begins here. `read` begins with the preface.
    pub(super) fn new(read: &[u8], window: u32) -> Self {
        let (preface, rest) = read.split_at(PREFACE.len().min(read.len()));
        let mut shim = Self {
            ledger: Ledger::new(),
            inward: Inward::new(Zeroizing::new(preface.to_vec()), rest),
            outward: Outward::default(),
            window,
        };
        if preface != PREFACE {
            shim.ledger.refuse(Refusal::Frame);
        }
        shim
    }

    /// One that came from another worker.
    pub(super) fn from_blob(blob: &Blob, leftover: &[u8]) -> Result<Self, BlobError> {
        let (ledger, window) = blob.read()?;
        Ok(Self::of(ledger, window, leftover))
    }

    fn of(mut ledger: Ledger, window: u32, leftover: &[u8]) -> Self {
        let (inward, outward) = arrive(&mut ledger, leftover);
        Self {
            ledger,
            inward,
            outward,
            window,
        }
    }

    // --- the wire ---

    /// No byte of the client's goes to `h2` before its answers to what it was fed are known.
    pub(super) fn is_gated(&self) -> bool {
        self.outward.is_expecting() && !self.inward.has_for_h2()
    }

    /// Whether `h2` may read from the socket itself.
    pub(super) fn reads_directly(&self) -> bool {
        self.inward.is_direct() && !self.outward.is_expecting()
    }

    /// `h2` read this from the socket.
    pub(super) fn read(&mut self, bytes: &[u8], now: Instant) {
        self.inward.read(bytes, &mut self.ledger, now);
    }

    /// For what is read from the socket; then [`Self::pump`].
    pub(super) fn inbox(&mut self) -> &mut BytesMut {
        self.inward.inbox()
    }

    /// The socket had nothing: room that was made for it is given back.
    pub(super) fn read_nothing(&mut self) {
        let inbox = self.inward.inbox();
        if inbox.is_empty() {
            *inbox = BytesMut::new();
        }
    }

    /// Looks at what was read from the socket.
    pub(super) fn pump(&mut self, now: Instant) {
        if !self.outward.is_expecting() {
            self.inward.pump(&mut self.ledger, &mut self.outward, now);
        }
    }

    pub(super) fn has_for_h2(&self) -> bool {
        self.inward.has_for_h2()
    }

    /// Gives `h2` what it reads next, as much as `to` takes. False: it is not here.
    pub(super) fn give(&mut self, mut to: impl FnMut(&[u8]) -> usize) -> bool {
        self.inward.give(&mut to)
    }

    /// Whether `h2` may write to the socket itself.
    pub(super) fn writes_directly(&self) -> bool {
        self.outward.is_direct() && self.inward.owed == 0
    }

    /// The socket took the first `len` bytes of this from `h2`.
    pub(super) fn written(&mut self, bufs: &[IoSlice<'_>], mut len: usize) {
        for buf in bufs {
            let n = buf.len().min(len);
            self.outward.written(&buf[..n], &mut self.ledger);
            len -= n;
            if len == 0 {
                return;
            }
        }
    }

    /// Whether `h2` must wait for the socket.
    pub(super) fn is_full(&mut self) -> bool {
        self.outward.out().len() > OUT_MAX
    }

    /// Takes this from `h2`.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.outward.write(bytes, &mut self.ledger);
    }

    /// What the socket is to take.
    pub(super) fn out(&mut self) -> &[u8] {
        self.outward.out()
    }

    /// It has taken so much of it.
    pub(super) fn sent(&mut self, len: usize) {
        let out = self.outward.out();
        out.advance(len);
        if out.is_empty() {
            *out = BytesMut::new();
        }
    }

    /// Whether something of `h2`'s waits for the client's window.
    pub(super) fn is_waiting(&self) -> bool {
        self.outward.is_waiting()
    }

    /// `h2` has flushed. True: it is where it should be, and reads what the client says from now on.
    pub(super) fn flushed(&mut self) -> bool {
        self.outward.flushed()
    }

    // --- the driver ---

    /// `h2` is not where it should be, or must not go on.
    pub(super) fn has_failed(&self) -> bool {
        self.outward.failed
    }

    /// It was moved, and `h2` is not there yet.
    pub(super) fn is_arriving(&self) -> bool {
        self.outward.is_expecting()
    }

    /// Why it cannot move, if it cannot.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.ledger.refusal()
    }

    /// See [`Ledger::has_all_requests`].
    pub(super) fn has_all_requests(&self) -> bool {
        self.ledger.has_all_requests()
    }

    /// Since when the oldest open stream is open.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.ledger.oldest()
    }

    /// Parts of answers so far (wraps).
    pub(super) fn answered(&self) -> u32 {
        self.ledger.answered
    }

    /// The newest stream of the client's.
    pub(super) fn highest(&self) -> u32 {
        self.ledger.highest
    }

    /// What the client was told: settings, and our connection window.
    pub(super) fn told(&self) -> (&[u8], u32) {
        let settings = self.ledger.our_settings.as_deref().unwrap_or_default();
        (settings, self.window)
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.inward.is_frozen()
    }

    /// From now on nothing of a new stream goes to `h2`.
    pub(super) fn freeze(&mut self) {
        self.inward.freeze();
    }

    /// What was held goes to `h2`.
    pub(super) fn thaw(&mut self, now: Instant) {
        self.inward.thaw();
        self.pump(now);
    }

    /// Nothing is under way in either direction, as far as can be seen from here.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.ledger.is_complete()
            && !self.outward.is_expecting()
            && !self.inward.barrier
            && self.inward.at_boundary()
            && self.outward.at_boundary()
            && self.outward.out().is_empty()
    }

    /// Whether something of a stream that we have reset may still come.
    pub(super) fn is_late(&self) -> bool {
        self.ledger.late
    }

    /// Asks the client whether it has seen everything so far; it is not quiet before the answer.
    pub(super) fn ask(&mut self) {
        debug_assert!(!self.inward.barrier);
        self.ledger.late = false;
        self.inward.barrier = true;
        self.outward.insert_barrier(&mut self.ledger);
    }

    /// The connection as it leaves, and what was read and did not go to `h2`.
    pub(super) fn leave(&mut self) -> Option<(Blob, BytesMut)> {
        if !self.is_quiet() {
            return None;
        }
        let blob = Blob::of(&self.ledger, self.window)?;
        Some((blob, self.inward.leftover()))
    }
}

#[cfg(test)]
mod tests;
