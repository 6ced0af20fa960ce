//! What fuzz targets call (`fuzz/`): the decoders of what strangers send.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::blob::Blob;
use super::frames;
use super::mirror::{Mirror, TABLE};
use super::shim::Shim;
use crate::worker::preface::PREFACE;

/// A blob of any bytes is a connection or an error, and a connection can be written down again. A header
/// block of any bytes is understood or not, and another `h2` would be given the same table.
pub fn blob(bytes: &[u8]) {
    if let Ok((ledger, window)) = Blob::received(bytes).read() {
        if let Some(blob) = Blob::of(&ledger, window) {
            let (again, window) = blob.read().expect("our own");
            let again = Blob::of(&again, window).expect("as before");
            assert_eq!(again.bytes(), blob.bytes());
        }
        drop(Shim::from_blob(&Blob::received(bytes), b"").expect("it was read"));
    }
    let mut mirror = Mirror::new(TABLE);
    if mirror.walk(bytes).is_ok() {
        let mut primed = Mirror::new(TABLE);
        primed.walk(&mirror.priming()).expect("our own");
        assert_eq!(*primed.priming(), *mirror.priming());
    }
}

/// A client sends what it likes in pieces, `h2` answers a little, the connection is frozen and thawed and
/// moves when it can. Until it has moved `h2` reads what the client sent: in its order if nothing was ever
/// held, else each stream in its order, and all header blocks in theirs (RFC 9113, 4.3).
pub fn shim(bytes: &[u8]) {
    let now = Instant::from_std(std::time::Instant::now());
    let mut shim = Shim::new(PREFACE, 1 << 20);
    let mut settings = Vec::new();
    frames::write(&mut settings, frames::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 128]);
    shim.write(&settings);
    let sent = shim.out().len();
    shim.sent(sent);
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    let (mut frozen, mut moved) = (false, false);
    let mut script = bytes;
    while let [op, len, rest @ ..] = script {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        script = rest;
        match op % 8 {
            0 => {
                shim.freeze();
                frozen = true;
            }
            1 => shim.thaw(now),
            2 => {
                if let Some((blob, leftover)) = shim.leave() {
                    let held = leftover.to_vec();
                    shim = Shim::from_blob(&blob, &held).expect("our own");
                    answer(&mut shim);
                    moved = true;
                }
            }
            3 => {
                let mut ping = Vec::new();
                frames::write(&mut ping, frames::PING, frames::ACK, 0, b"01234567");
                shim.write(&ping);
            }
            _ => {
                said.extend_from_slice(piece);
                shim.inbox().extend_from_slice(piece);
                shim.pump(now);
            }
        }
        while shim.give(|bytes| {
            heard.extend_from_slice(bytes);
            bytes.len()
        }) {}
        let sent = shim.out().len();
        shim.sent(sent);
    }
    if !moved {
        // With what was held at the end.
        shim.thaw(now);
        while shim.give(|bytes| {
            heard.extend_from_slice(bytes);
            bytes.len()
        }) {}
        assert_eq!(heard[..PREFACE.len()], *PREFACE);
        let heard = &heard[PREFACE.len()..];
        assert_eq!(heard.len(), said.len(), "as many bytes as were said");
        if frozen {
            assert!(Orders::of(heard) == Orders::of(&said), "in another order");
        } else {
            assert!(*heard == *said, "other bytes than were said");
        }
    }
}

/// What no frame may overtake.
#[derive(Default, PartialEq)]
struct Orders<'b> {
    streams: BTreeMap<u32, Vec<&'b [u8]>>,
    blocks: Vec<&'b [u8]>,
    /// A frame that is not whole.
    rest: &'b [u8],
}

impl<'b> Orders<'b> {
    fn of(mut bytes: &'b [u8]) -> Self {
        let mut orders = Self::default();
        while let Some((head, len)) = frames::Head::of_whole(bytes) {
            let (frame, rest) = bytes.split_at(len);
            bytes = rest;
            orders.streams.entry(head.stream).or_default().push(frame);
            if head.kind == frames::HEADERS {
                orders.blocks.push(frame);
            }
        }
        orders.rest = bytes;
        orders
    }
}

/// What `h2` says to what it is fed after a move.
fn answer(shim: &mut Shim) {
    let mut fed = Vec::new();
    while shim.give(|bytes| {
        fed.extend_from_slice(bytes);
        bytes.len()
    }) {}
    let mut out = Vec::new();
    let told = shim.told().0.to_vec();
    frames::write(&mut out, frames::SETTINGS, 0, 0, &told);
    let mut at = &fed[PREFACE.len()..];
    while let Some((head, len)) = frames::Head::of_whole(at) {
        at = &at[len..];
        if head.kind == frames::SETTINGS && !head.has(frames::ACK) {
            frames::write(&mut out, frames::SETTINGS, frames::ACK, 0, &[]);
        }
        if head.kind == frames::HEADERS {
            frames::write(
                &mut out,
                frames::RST_STREAM,
                0,
                head.stream,
                &1_u32.to_be_bytes(),
            );
        }
    }
    shim.write(&out);
    let sent = shim.out().len();
    shim.sent(sent);
    assert!(!shim.has_failed(), "as h2 answers");
    assert!(shim.flushed());
}
