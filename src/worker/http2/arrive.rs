//! A connection that came from another worker: what a new `h2` is told, as if the client had said it,
//! and what of its answers the client has heard before.
//!
//! It is told the client's settings, that ours are acknowledged, how much we may send, and one header
//! block, on the newest stream that the client has opened: [`super::mirror`]'s. That block is no request
//! (RFC 9113, 8.1.1): `h2` decodes it, as it must (4.3), and resets the stream. After that it has the
//! client's header table and knows how far the streams are. Not before it has answered all this does it
//! see a byte of the client's.

use zeroize::Zeroizing;

use super::frames;
use super::inward::Inward;
use super::ledger::{Ledger, WINDOW};
use super::outward::{Expected, Outward};
use crate::worker::preface::PREFACE;

const HEADER_TABLE_SIZE: u16 = 1;

/// Every HTTP/2 implementation takes frames as long as this (RFC 9113, 4.2).
const FRAME: usize = 16_384;

/// What is fed beside the header block: SETTINGS twice, ours acknowledged, and a window of four bytes, for
/// which a head is counted.
const FRAMES: usize = 5;

/// Both directions of a connection as `ledger` says; `leftover` was read and not given to any `h2`.
pub(super) fn arrive(ledger: &mut Ledger, leftover: &[u8]) -> (Inward, Outward) {
    let reset = (ledger.highest > 0).then_some(ledger.highest);
    let block = reset.map(|_| ledger.mirror.priming());
    // Never grown: no copy of the header block stays behind in a smaller buffer.
    let block_len = block.as_ref().map_or(0, |block| block.len());
    let room = PREFACE.len()
        + 6 * (ledger.client_settings.len() + 1)
        + (FRAMES + block_len / FRAME + 1) * frames::HEAD
        + block_len;
    let mut fed = Zeroizing::new(Vec::with_capacity(room));
    fed.extend_from_slice(PREFACE);
    let last_table = ledger
        .client_settings
        .iter()
        .find(|(id, _)| *id == HEADER_TABLE_SIZE)
        .map(|(_, value)| *value);
    let mut acks = 0;
    let mut settings = |all: &[(u16, u32)]| {
        let payload: Vec<u8> = all
            .iter()
            .flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes()))
            .collect();
        frames::write(&mut *fed, frames::SETTINGS, 0, 0, &payload);
        acks += 1;
    };
    // The smallest one must be told to the client in between (RFC 7541, 4.2), and of two values in one
    // frame `h2` knows the last.
    if let Some(smallest) = ledger
        .smallest_table
        .filter(|_| ledger.smallest_table != last_table)
    {
        settings(&[(HEADER_TABLE_SIZE, smallest)]);
    }
    settings(&ledger.client_settings);
    frames::write(&mut *fed, frames::SETTINGS, frames::ACK, 0, &[]);
    let more = u32::try_from(ledger.send - WINDOW).unwrap_or(0);
    if more > 0 {
        frames::write(&mut *fed, frames::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
    }
    if let (Some(id), Some(block)) = (reset, block) {
        let mut parts = block.chunks(FRAME).peekable();
        let mut kind = frames::HEADERS;
        while let Some(part) = parts.next() {
            let ends_stream = if kind == frames::HEADERS {
                frames::END_STREAM
            } else {
                0
            };
            let ends_block = if parts.peek().is_none() {
                frames::END_HEADERS
            } else {
                0
            };
            frames::write(&mut *fed, kind, ends_stream | ends_block, id, part);
            kind = frames::CONTINUATION;
        }
    }
    debug_assert!(fed.len() <= room);
    let mut inward = Inward::new(fed, leftover);
    inward.swallow_settings = ledger.unacknowledged;
    inward.swallow_pings = ledger.unanswered;
    inward.owed = u32::try_from(WINDOW - ledger.send).unwrap_or(0);
    let expected = Expected {
        settings: ledger.our_settings.clone(),
        acks,
        reset,
    };
    let ahead = ledger.receive - WINDOW;
    let mut outward = Outward::after_a_move(expected, u32::try_from(ahead).unwrap_or(0));
    if let Ok(behind @ 1..) = u32::try_from(-ahead) {
        // `h2` believes that the client may send so much.
        outward.insert(frames::WINDOW_UPDATE, 0, &behind.to_be_bytes(), ledger);
    }
    (inward, outward)
}
