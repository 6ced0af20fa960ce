//! What an HTTP/2 connection has come to, by the frames that crossed the wire in either direction:
//! facts of the protocol (RFC 9113), and nothing of the implementation that speaks it. So another
//! process, with another implementation even, can go on from it.
//!
//! It looks at every byte a stranger sends, and changes none of them. What it does not understand makes
//! it refuse ([`Ledger::refusal`]): such a connection is served as ever, and does not move.

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::frames::{self, Head};
use super::mirror::{Mirror, TABLE};

/// The facts.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The newest stream of the client's; 0: none yet.
    pub(super) highest: u32,
    /// Streams that are not at their end, the oldest first.
    open: Vec<Stream>,
    /// The client's settings, the last value of each, in the order of their first.
    pub(super) client_settings: Vec<(u16, u32)>,
    /// The smallest table that the client has ever set for our encoder.
    pub(super) smallest_table: Option<u32>,
    /// What we have told the client, once.
    pub(super) our_settings: Option<Box<[u8]>>,
    /// Settings of ours that the client has not acknowledged.
    pub(super) unacknowledged: u32,
    /// PINGs of ours that the client has not answered.
    pub(super) unanswered: u32,
    /// So much DATA the client may send.
    pub(super) receive: i64,
    /// So much DATA we may send.
    pub(super) send: i64,
    /// Frames of answers so far (wraps).
    pub(super) answered: u32,
    /// The client's header table.
    pub(super) mirror: Mirror,
    /// We have reset a stream, and what the client sent before it knew may still come.
    pub(super) late: bool,
    /// A header block of the client's that is not whole.
    block: Option<Block>,
    /// A header block of ours that is not whole.
    our_block: bool,
    refusal: Option<Refusal>,
}

/// Why a connection cannot move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// One side has said that it ends.
    GoAway,
    /// Something is pushed.
    Push,
    /// A header block is not understood, or too long.
    Block,
    /// So many settings, or settings again.
    Settings,
    /// No more streams for a long life.
    Streams,
    /// A frame is not as it must be.
    Frame,
}

#[derive(Debug)]
struct Stream {
    id: u32,
    since: Instant,
    client_ended: bool,
    we_ended: bool,
}

struct Block {
    stream: u32,
    bytes: Zeroizing<Vec<u8>>,
}

/// No bytes: they are a request's fields.
impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let len = self.bytes.len();
        write!(f, "Block({} bytes of stream {})", len, self.stream)
    }
}

/// What either side may send at first (RFC 9113, 6.9.2).
pub(super) const WINDOW: i64 = 65_535;

/// PINGs with this in them are the shim's, not `h2`'s.
pub(super) const BARRIER: &[u8; 8] = b"handover";

const HEADER_TABLE_SIZE: u16 = 1;

/// A block may be in so many frames.
const BLOCK_MAX: usize = 256 * 1024;

/// Settings that are remembered.
pub(super) const SETTINGS_MAX: usize = 16;

/// Streams that are followed at a time; `h2` allows fewer, and resets the others at once.
const OPEN_MAX: usize = 4096;

/// Room for so many is kept between two of them.
const OPEN_KEPT: usize = 4;

/// A connection that has had so many streams (of 2^31) ends soon.
const HIGHEST: u32 = 0x7fff_0000;

const WINDOW_MAX: i64 = 0x7fff_ffff;

impl Ledger {
    /// Of a new connection.
    pub(super) fn new() -> Self {
        Self {
            highest: 0,
            open: Vec::new(),
            client_settings: Vec::new(),
            smallest_table: None,
            our_settings: None,
            unacknowledged: 0,
            unanswered: 0,
            receive: WINDOW,
            send: WINDOW,
            answered: 0,
            mirror: Mirror::new(TABLE),
            late: false,
            block: None,
            our_block: false,
            refusal: None,
        }
    }

    /// Why it cannot move, if it cannot.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// It cannot move. Behind a GOAWAY its streams go on, and are followed to their end; otherwise
    /// nothing more is known of it.
    pub(super) fn refuse(&mut self, why: Refusal) {
        if why == Refusal::GoAway {
            self.refusal.get_or_insert(why);
        } else if self.is_followed() {
            self.refusal = Some(why);
            self.open = Vec::new();
            self.block = None;
        }
    }

    fn is_followed(&self) -> bool {
        matches!(self.refusal, None | Some(Refusal::GoAway))
    }

    /// Whether the client has sent the whole request of each open stream.
    pub(super) fn has_all_requests(&self) -> bool {
        self.open.iter().all(|stream| stream.client_ended)
    }

    /// Since when the oldest open stream is open, as far as they are followed.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.open.iter().map(|stream| stream.since).min()
    }

    /// In the middle of a header block of the client's.
    pub(super) fn in_block(&self) -> bool {
        self.block.is_some()
    }

    /// In the middle of a header block of ours.
    pub(super) fn in_our_block(&self) -> bool {
        self.our_block
    }

    /// No stream is open and nothing is half done, so all there is to know is in the fields.
    pub(super) fn is_complete(&self) -> bool {
        self.refusal.is_none()
            && self.open.is_empty()
            && self.block.is_none()
            && !self.our_block
            && self.our_settings.is_some()
    }

    fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        let found = self.open.binary_search_by_key(&id, |stream| stream.id);
        found.ok().map(|n| &mut self.open[n])
    }

    fn remove_ended(&mut self, id: u32) {
        if let Ok(n) = self.open.binary_search_by_key(&id, |stream| stream.id) {
            if self.open[n].client_ended && self.open[n].we_ended {
                self.remove(n);
            }
        }
    }

    fn remove(&mut self, n: usize) -> Stream {
        let stream = self.open.remove(n);
        if self.open.is_empty() {
            // One that is idle does not remember how busy it was.
            self.open.shrink_to(OPEN_KEPT);
        }
        stream
    }

    /// A stream was reset. Whether the client might still be sending on it.
    fn reset(&mut self, id: u32) -> bool {
        match self.open.binary_search_by_key(&id, |stream| stream.id) {
            Ok(n) => !self.remove(n).client_ended,
            Err(_) => false,
        }
    }

    // --- what the client sends ---

    /// A frame of the client's, on its way to `h2`.
    pub(super) fn client_frame(&mut self, head: Head, payload: &[u8], now: Instant) {
        // What we may send must be known for as long as the shim has something that waits for it.
        let window = match head.kind {
            frames::WINDOW_UPDATE if head.stream == 0 => self.grow(payload),
            _ => Ok(()),
        };
        if !self.is_followed() {
            return;
        }
        let done = match (head.kind, &self.block) {
            (frames::CONTINUATION, _) => self.continuation(head, payload),
            (_, Some(_)) => Err(Refusal::Frame),
            (frames::DATA, _) => self.data(head),
            (frames::HEADERS, _) => self.headers(head, payload, now),
            (frames::RST_STREAM, _) => {
                self.reset(head.stream);
                Ok(())
            }
            (frames::SETTINGS, _) => self.settings(head, payload),
            (frames::PUSH_PROMISE, _) => Err(Refusal::Push),
            (frames::PING, _) => {
                if head.has(frames::ACK) && payload != BARRIER {
                    self.unanswered = self.unanswered.saturating_sub(1);
                }
                Ok(())
            }
            (frames::GOAWAY, _) => Err(Refusal::GoAway),
            // PRIORITY, and what nobody knows: no state.
            _ => window,
        };
        if let Err(why) = done {
            self.refuse(why);
        }
    }

    fn grow(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        self.send += increment(payload)?;
        if self.send > WINDOW_MAX {
            return Err(Refusal::Frame);
        }
        Ok(())
    }

    fn data(&mut self, head: Head) -> Result<(), Refusal> {
        // Padding counts, too (RFC 9113, 6.9.1).
        self.receive -= i64::from(head.len);
        if head.stream == 0 || head.stream > self.highest || self.receive < 0 {
            return Err(Refusal::Frame);
        }
        if head.has(frames::END_STREAM) {
            self.client_ends(head.stream);
        }
        Ok(())
    }

    fn client_ends(&mut self, id: u32) {
        if let Some(stream) = self.stream(id) {
            stream.client_ended = true;
            self.remove_ended(id);
        }
    }

    fn headers(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<(), Refusal> {
        let id = head.stream;
        if id % 2 == 0 {
            return Err(Refusal::Frame);
        }
        let fragment = fragment(head, payload)?;
        if id > self.highest {
            if id > HIGHEST || self.open.len() >= OPEN_MAX {
                return Err(Refusal::Streams);
            }
            self.highest = id;
            self.open.push(Stream {
                id,
                since: now,
                client_ended: false,
                we_ended: false,
            });
        }
        if head.has(frames::END_STREAM) {
            self.client_ends(id);
        }
        if head.has(frames::END_HEADERS) {
            return self.mirror.walk(fragment).map_err(|_| Refusal::Block);
        }
        self.block = Some(Block {
            stream: id,
            bytes: Zeroizing::new(fragment.to_vec()),
        });
        Ok(())
    }

    fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Refusal> {
        let block = self.block.as_mut().ok_or(Refusal::Frame)?;
        if block.stream != head.stream || payload.len() != head.payload() {
            return Err(Refusal::Frame);
        }
        if block.bytes.len() + payload.len() > BLOCK_MAX {
            return Err(Refusal::Block);
        }
        frames::append(&mut block.bytes, payload);
        if !head.has(frames::END_HEADERS) {
            return Ok(());
        }
        let block = self.block.take().ok_or(Refusal::Frame)?;
        let walked = self.mirror.walk(&block.bytes);
        walked.map_err(|_| Refusal::Block)
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Refusal> {
        if head.has(frames::ACK) {
            self.unacknowledged = self.unacknowledged.checked_sub(1).ok_or(Refusal::Frame)?;
            return Ok(());
        }
        if payload.len() != head.payload() || head.stream != 0 {
            return Err(Refusal::Frame);
        }
        for (id, value) in settings(payload).ok_or(Refusal::Frame)? {
            if id == HEADER_TABLE_SIZE {
                let smallest = self.smallest_table.get_or_insert(value);
                *smallest = value.min(*smallest);
            }
            let known = &mut self.client_settings;
            if let Some((_, last)) = known.iter_mut().find(|(known, _)| *known == id) {
                *last = value;
            } else if known.len() < SETTINGS_MAX {
                known.push((id, value));
            } else {
                return Err(Refusal::Settings);
            }
        }
        Ok(())
    }

    // --- what we send ---

    /// A frame of ours, on its way to the client.
    pub(super) fn our_frame(&mut self, head: Head, payload: &[u8]) {
        if matches!(head.kind, frames::DATA | frames::HEADERS) {
            self.answered = self.answered.wrapping_add(1);
        }
        match head.kind {
            frames::DATA => {
                self.send -= i64::from(head.len);
                debug_assert!(self.send >= 0, "more was sent than the client allows");
            }
            frames::HEADERS | frames::CONTINUATION => {
                self.our_block = !head.has(frames::END_HEADERS);
            }
            _ => {}
        }
        if !self.is_followed() {
            return;
        }
        let done = match head.kind {
            frames::DATA | frames::HEADERS => {
                self.we_may_end(head);
                Ok(())
            }
            frames::RST_STREAM => {
                self.late |= self.reset(head.stream);
                Ok(())
            }
            frames::SETTINGS if head.has(frames::ACK) => Ok(()),
            frames::SETTINGS => self.tell(payload),
            frames::PUSH_PROMISE => Err(Refusal::Push),
            frames::PING if !head.has(frames::ACK) && payload != BARRIER => {
                self.unanswered = self.unanswered.saturating_add(1);
                Ok(())
            }
            frames::GOAWAY => Err(Refusal::GoAway),
            frames::WINDOW_UPDATE if head.stream == 0 => {
                increment(payload).map(|n| self.receive += n)
            }
            _ => Ok(()),
        };
        if let Err(why) = done {
            self.refuse(why);
        }
    }

    fn we_may_end(&mut self, head: Head) {
        if head.has(frames::END_STREAM) {
            if let Some(stream) = self.stream(head.stream) {
                stream.we_ended = true;
                self.remove_ended(head.stream);
            }
        }
    }

    fn tell(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        if self.our_settings.is_some() {
            return Err(Refusal::Settings);
        }
        self.unacknowledged += 1;
        for (id, value) in settings(payload).ok_or(Refusal::Frame)? {
            if id == HEADER_TABLE_SIZE {
                self.mirror
                    .set_limit(usize::try_from(value).unwrap_or(TABLE));
            }
        }
        self.our_settings = Some(payload.into());
        Ok(())
    }
}

/// The settings of a payload; `None`: it has not whole ones.
pub(super) fn settings(payload: &[u8]) -> Option<impl Iterator<Item = (u16, u32)>> {
    let whole = payload.len() % 6 == 0;
    let each = payload.chunks_exact(6).map(|setting| {
        let (id, value) = setting.split_at(2);
        let id = id.try_into().map_or(0, u16::from_be_bytes);
        (id, value.try_into().map_or(0, u32::from_be_bytes))
    });
    whole.then_some(each)
}

/// Of the connection's window.
fn increment(payload: &[u8]) -> Result<i64, Refusal> {
    let bytes: [u8; 4] = payload.try_into().map_err(|_| Refusal::Frame)?;
    match u32::from_be_bytes(bytes) & 0x7fff_ffff {
        0 => Err(Refusal::Frame),
        n => Ok(i64::from(n)),
    }
}

/// A HEADERS frame's part of its block, without padding and priority (RFC 9113, 6.2).
fn fragment(head: Head, mut payload: &[u8]) -> Result<&[u8], Refusal> {
    if payload.len() != head.payload() {
        return Err(Refusal::Frame);
    }
    let mut padding = 0;
    if head.has(frames::PADDED) {
        let (&first, rest) = payload.split_first().ok_or(Refusal::Frame)?;
        padding = usize::from(first);
        payload = rest;
    }
    if head.has(frames::WITH_PRIORITY) {
        let (priority, rest) = payload.split_first_chunk::<5>().ok_or(Refusal::Frame)?;
        let [a, b, c, d, _] = *priority;
        // `h2` does not decode the block of a stream that depends on itself.
        if u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff == head.stream {
            return Err(Refusal::Block);
        }
        payload = rest;
    }
    let len = payload.len().checked_sub(padding).ok_or(Refusal::Frame)?;
    Ok(&payload[..len])
}

/// Which payloads of the client's frames are needed.
pub(super) fn wants_of_client(head: &Head) -> bool {
    matches!(
        head.kind,
        frames::HEADERS
            | frames::CONTINUATION
            | frames::SETTINGS
            | frames::PING
            | frames::WINDOW_UPDATE
    )
}

/// Which of ours.
pub(super) fn wants_of_ours(head: &Head) -> bool {
    matches!(
        head.kind,
        frames::SETTINGS | frames::PING | frames::WINDOW_UPDATE
    )
}

#[cfg(test)]
mod tests;
