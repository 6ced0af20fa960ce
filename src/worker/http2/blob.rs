//! An HTTP/2 connection as bytes, on its way from a worker to another one, perhaps of another build:
//! the facts of its [`Ledger`], between two streams.
//!
//! The header table holds what the client has sent: cookies, authorizations. So a blob goes only over
//! the private socket pair between workers, is never logged, and is wiped when it is dropped. The
//! layout is fixed for each version ([`HTTP2_WRITES`]); `Reads` says which are read.
//!
//! ```text
//! "hH2C" | version | newest stream | what the client may send | what we may send
//!        | settings not acknowledged | PINGs not answered | our connection window
//!        | smallest table, and whether one was set | client's settings | our settings | header block
//! ```
//!
//! Numbers have four bytes, most significant first; each of the last three has its length in front.

use zeroize::Zeroizing;

use super::ledger::{Ledger, SETTINGS_MAX, settings};
use super::mirror::TABLE;
use crate::machine::link::HTTP2_WRITES;

/// A connection on its way. No `Debug` that shows it.
pub(in crate::worker) struct Blob(Zeroizing<Vec<u8>>);

/// Why a blob is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::worker) enum BlobError {
    #[error("an HTTP/2 connection came in a form of version {0}, which this build cannot read")]
    Version(u32),
    #[error("an HTTP/2 connection came in a form that cannot be read")]
    Malformed,
}

const MAGIC: &[u8; 4] = b"hH2C";

/// No blob is longer: a table of 4,096 bytes is at most 15 KiB in its longest form.
const BLOB_MAX: usize = 32 * 1024;

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Blob").field(&self.0.len()).finish()
    }
}

impl Blob {
    /// What was received.
    pub(in crate::worker) fn received(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// For the message to the next worker, and for nothing else.
    pub(in crate::worker) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The facts of `ledger`; `None`: something is half done, or there is more than anybody takes.
    /// `window`: what our connection window is raised to.
    pub(super) fn of(ledger: &Ledger, window: u32) -> Option<Self> {
        if !ledger.is_complete() || ledger.late {
            return None;
        }
        let ours = ledger.our_settings.as_deref()?;
        let priming = match ledger.highest {
            // No stream, no block.
            0 => Zeroizing::default(),
            _ => ledger.mirror.priming(),
        };
        let clients: Vec<u8> = ledger
            .client_settings
            .iter()
            .flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes()))
            .collect();
        let len = 4 + 9 * 4 + 3 * 4 + clients.len() + ours.len() + priming.len();
        if len > BLOB_MAX {
            return None;
        }
        // Never grown, so that no copy of a secret stays behind in a smaller buffer.
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.extend_from_slice(MAGIC);
        let numbers = [
            HTTP2_WRITES,
            ledger.highest,
            u32::try_from(ledger.receive).ok()?,
            u32::try_from(ledger.send).ok()?,
            ledger.unacknowledged,
            ledger.unanswered,
            window,
            u32::from(ledger.smallest_table.is_some()),
            ledger.smallest_table.unwrap_or_default(),
        ];
        for number in numbers {
            out.extend_from_slice(&number.to_be_bytes());
        }
        for list in [&clients[..], ours, &priming] {
            let len = u32::try_from(list.len()).ok()?;
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(list);
        }
        debug_assert_eq!(out.len(), len);
        Some(Self(out))
    }

    /// The facts, and what our connection window is raised to.
    pub(super) fn read(&self) -> Result<(Ledger, u32), BlobError> {
        let mut bytes = Reader(&self.0);
        if bytes.array()? != *MAGIC {
            return Err(BlobError::Malformed);
        }
        match bytes.number()? {
            1 => {}
            other => return Err(BlobError::Version(other)),
        }
        let mut ledger = Ledger::new();
        ledger.highest = bytes.number()?;
        ledger.receive = bytes.number()?.into();
        ledger.send = bytes.number()?.into();
        ledger.unacknowledged = bytes.number()?;
        ledger.unanswered = bytes.number()?;
        let window = bytes.number()?;
        let is_set = bytes.number()? != 0;
        let smallest = bytes.number()?;
        ledger.smallest_table = is_set.then_some(smallest);
        let clients = settings(bytes.list()?).ok_or(BlobError::Malformed)?;
        ledger.client_settings = clients.take(SETTINGS_MAX + 1).collect();
        let ours = bytes.list()?;
        for (id, value) in settings(ours).ok_or(BlobError::Malformed)? {
            if id == 1 {
                let limit = usize::try_from(value).unwrap_or(TABLE);
                ledger.mirror.set_limit(limit);
            }
        }
        ledger.our_settings = Some(ours.into());
        let priming = bytes.list()?;
        let walked = ledger.mirror.walk(priming);
        let is_sane = bytes.0.is_empty()
            && walked.is_ok()
            && priming.is_empty() == (ledger.highest == 0)
            && (ledger.highest == 0 || ledger.highest % 2 == 1)
            && ledger.client_settings.len() <= SETTINGS_MAX
            && [ledger.highest, window].iter().all(|&n| n <= MOST)
            && [ledger.receive, ledger.send]
                .iter()
                .all(|&n| n <= MOST.into());
        if is_sane {
            Ok((ledger, window))
        } else {
            Err(BlobError::Malformed)
        }
    }
}

/// Stream ids and windows have 31 bits.
const MOST: u32 = 0x7fff_ffff;

/// Reads fields, and never past the end.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BlobError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(BlobError::Malformed)?;
        self.0 = rest;
        Ok(*array)
    }

    fn number(&mut self) -> Result<u32, BlobError> {
        self.array().map(u32::from_be_bytes)
    }

    fn list(&mut self) -> Result<&'b [u8], BlobError> {
        let len = usize::try_from(self.number()?).map_err(|_| BlobError::Malformed)?;
        let (list, rest) = self.0.split_at_checked(len).ok_or(BlobError::Malformed)?;
        self.0 = rest;
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new();
        ledger.highest = 0x0102_0305;
        ledger.receive = 70_000;
        ledger.send = 60_000;
        ledger.unacknowledged = 1;
        ledger.unanswered = 2;
        ledger.smallest_table = Some(100);
        ledger.client_settings = vec![(1, 4096), (4, 0x0001_0000)];
        ledger.our_settings = Some(Box::new([0, 4, 0, 0x10, 0, 0]));
        // `a: b` and `:path: /c`, in a table of 1,024 bytes.
        let block = b"\x3f\xe1\x07\x40\x01a\x01b\x44\x02/c";
        ledger.mirror.walk(block).unwrap();
        ledger
    }

    /// What builds that were released have written, and every later one reads.
    const GOLDEN: &[u8] = b"hH2C\
        \0\0\0\x01\
        \x01\x02\x03\x05\
        \0\x01\x11\x70\
        \0\0\xea\x60\
        \0\0\0\x01\
        \0\0\0\x02\
        \0\x10\0\0\
        \0\0\0\x01\0\0\0\x64\
        \0\0\0\x0c\0\x01\0\0\x10\0\0\x04\0\x01\0\0\
        \0\0\0\x06\0\x04\0\x10\0\0\
        \0\0\0\x1a\x3f\xe1\x07\x40\x01a\x01b\x44\x02/c\0\x0aconnection\x01x";

    #[test]
    fn a_blob_is_as_it_was_written_for_ever() {
        let blob = Blob::of(&ledger(), 0x0010_0000).unwrap();
        assert_eq!(blob.bytes(), GOLDEN);
        let (read, window) = Blob::received(GOLDEN).read().unwrap();
        assert_eq!(window, 0x0010_0000);
        // All facts are in it: a second one is the same.
        assert_eq!(Blob::of(&read, window).unwrap().bytes(), GOLDEN);
    }

    #[test]
    fn a_connection_without_streams_has_no_header_block() {
        let mut ledger = Ledger::new();
        ledger.our_settings = Some(Box::new([]));
        let blob = Blob::of(&ledger, 65_535).unwrap();
        let (read, _) = blob.read().unwrap();
        assert_eq!((read.highest, read.smallest_table), (0, None));
        assert!(blob.bytes().len() < 64);
    }

    #[test]
    fn what_cannot_be_right_is_no_connection() {
        let error = |bytes: &[u8]| Blob::received(bytes).read().err();
        for len in 0..GOLDEN.len() {
            assert_eq!(error(&GOLDEN[..len]), Some(BlobError::Malformed), "{len}");
        }
        assert_eq!(error(&[GOLDEN, b"x"].concat()), Some(BlobError::Malformed));
        let changed = |at: usize, byte: u8| {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] = byte;
            error(&bytes)
        };
        assert_eq!(changed(0, b'x'), Some(BlobError::Malformed));
        assert_eq!(changed(7, 2), Some(BlobError::Version(2)));
        assert_eq!(changed(11, 4), Some(BlobError::Malformed), "an even stream");
        assert_eq!(changed(8, 0x80), Some(BlobError::Malformed));
        assert_eq!(changed(12, 0x80), Some(BlobError::Malformed));
        // Anything else is read or refused, and never a panic.
        for at in 0..GOLDEN.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let _ = changed(at, byte);
            }
        }
    }

    #[test]
    fn what_is_half_done_is_not_written_down() {
        let mut late = ledger();
        late.late = true;
        assert!(Blob::of(&late, 0).is_none());
        let mut open = ledger();
        let head = super::super::frames::Head {
            len: 1,
            kind: super::super::frames::HEADERS,
            flags: super::super::frames::END_HEADERS,
            stream: open.highest + 2,
        };
        open.client_frame(head, &[0x82], tokio::time::Instant::now());
        assert!(Blob::of(&open, 0).is_none());
        let mut refused = ledger();
        refused.refuse(super::super::ledger::Refusal::GoAway);
        assert!(Blob::of(&refused, 0).is_none());
    }
}
