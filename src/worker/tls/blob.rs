//! A TLS connection as bytes, on its way from a worker to another one, perhaps of another build.
//!
//! Whoever holds the keys may seal, so there is one holder at any time: making a blob consumes the
//! connection, a connection is made of a blob by consuming it, a blob cannot be copied, and what is
//! dropped is wiped. A blob that was sent is never used again, whatever becomes of the receiver: two
//! that go on from one number would seal two records with one nonce.
//!
//! To review: `into_blob` and `from_blob` side by side; each field is written and read once, in one
//! order. Then `pack`, `deliver` and `unpack` in `worker/handoff/mod.rs`, which alone call them.
//!
//! It goes only over the private socket pair between workers, and is believed: who may send there is
//! who may read the keys. The layout is fixed for each version ([`TLS_WRITES`]); `HandoffAnswer::tls`
//! says which are read.

use std::sync::Arc;

use bytes::BytesMut;
use zeroize::Zeroizing;

use super::info::TlsInfo;
use super::keys::{Secret, Suite};
use super::records::{Direction, Memory, Output, Records, SEQ_MAX};
use super::sealed::Sealed;
use crate::machine::link::TLS_WRITES;

/// A connection on its way. Neither `Clone` nor `Debug`, on purpose.
pub(in crate::worker) struct Blob(Zeroizing<Vec<u8>>);

/// Why a blob is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::worker) enum BlobError {
    #[error("a TLS connection came in a form of version {0}, which this build cannot read")]
    Version(u32),
    #[error("a TLS connection came with the cipher suite {0:#06x}, which this build has not")]
    Suite(u16),
    #[error("a TLS connection came in a form that cannot be read")]
    Malformed,
}

const MAGIC: &[u8; 4] = b"hTLS";

const REPLY_OWED: u8 = 1;
const UPDATE_ASKED: u8 = 2;

impl Blob {
    /// What was received.
    pub(in crate::worker) fn received(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// For the message to the next worker, and for nothing else.
    pub(in crate::worker) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Sealed {
    /// About how long its blob would be.
    pub(in crate::worker) fn weight(&self) -> usize {
        let output: usize = self.output.iter().map(Vec::len).sum();
        let info = &self.info;
        let certificates: usize = info.client_certificates.iter().map(Vec::len).sum();
        let name = |name: &Option<String>| name.as_ref().map_or(0, String::len);
        let names = name(&info.server_name) + name(&info.alpn);
        512 + self.input.len() + self.opened.len() + output + certificates + names
    }

    /// The end of this connection here. It comes back when it cannot move.
    pub(in crate::worker) fn into_blob(self) -> Result<Blob, Box<Self>> {
        if !self.can_move() {
            return Err(Box::new(self));
        }
        // Never grown, so that no copy of a secret stays behind in a smaller buffer.
        let lengths = 4 * self.info.client_certificates.len();
        let room = self.weight() + lengths + 512;
        let mut out = Writer(Zeroizing::new(Vec::with_capacity(room)));
        let Self {
            records,
            input,
            opened,
            output,
            info,
        } = self;
        let memory = &records.memory;
        out.put(MAGIC);
        out.put(&TLS_WRITES.to_be_bytes());
        out.put(&records.suite.number().to_be_bytes());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.put(&[
            flag(memory.reply_owed, REPLY_OWED) | flag(memory.update_asked, UPDATE_ASKED),
            memory.updates,
            memory.empty,
            memory.warnings,
            memory.renegotiations,
        ]);
        out.put(&memory.skip.to_be_bytes());
        out.list(&memory.message);
        for direction in [&records.tx, &records.rx] {
            out.put(&direction.seq.to_be_bytes());
            out.list(direction.secret.bytes());
        }
        out.list(&opened);
        out.list(&input);
        out.list(&output.into_iter().flatten().collect::<Vec<u8>>());
        out.list(info.server_name.as_deref().unwrap_or_default().as_bytes());
        out.list(info.alpn.as_deref().unwrap_or_default().as_bytes());
        for certificate in &info.client_certificates {
            out.list(certificate);
        }
        Ok(Blob(out.0))
    }

    /// Goes on with a connection that came from another worker.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a blob is used once: who has made a connection of it has none left"
    )]
    pub(in crate::worker) fn from_blob(blob: Blob) -> Result<Self, BlobError> {
        let mut bytes = Reader(&blob.0);
        if bytes.array()? != *MAGIC {
            return Err(BlobError::Malformed);
        }
        match u32::from_be_bytes(bytes.array()?) {
            1 => {}
            other => return Err(BlobError::Version(other)),
        }
        let number = u16::from_be_bytes(bytes.array()?);
        let suite = Suite::by_number(number).ok_or(BlobError::Suite(number))?;
        let [flags, updates, empty, warnings, renegotiations] = bytes.array()?;
        if flags & !(REPLY_OWED | UPDATE_ASKED) != 0 {
            return Err(BlobError::Malformed);
        }
        let skip = u32::from_be_bytes(bytes.array()?);
        let message = bytes.list()?.to_vec();
        let memory = Memory {
            reply_owed: flags & REPLY_OWED != 0,
            update_asked: flags & UPDATE_ASKED != 0,
            updates,
            empty,
            warnings,
            renegotiations,
            message,
            skip,
            ..Memory::default()
        };
        let tx = bytes.direction(suite)?;
        let rx = bytes.direction(suite)?;
        if !memory.is_sane(suite) {
            return Err(BlobError::Malformed);
        }
        let records = Records::new(suite, tx, rx, memory).ok_or(BlobError::Suite(number))?;
        let opened = BytesMut::from(bytes.list()?);
        let input = BytesMut::from(bytes.list()?);
        let output = match bytes.list()? {
            [] => Output::new(),
            unwritten => Output::from([unwritten.to_vec()]),
        };
        let mut info = TlsInfo {
            server_name: bytes.text()?,
            alpn: bytes.text()?,
            ..TlsInfo::of(suite)
        };
        while !bytes.0.is_empty() {
            info.client_certificates.push(bytes.list()?.to_vec());
        }
        let info = Arc::new(info);
        Ok(Self {
            records,
            input,
            opened,
            output,
            info,
        })
    }
}

impl Memory {
    /// What no record layer of this kind can have seen is not believed.
    fn is_sane(&self, suite: Suite) -> bool {
        if suite.is_13() {
            self.skip == 0 && self.message.len() < 5
        } else {
            self.message.is_empty() && !self.reply_owed && !self.update_asked && self.skip <= 0xffff
        }
    }
}

/// Writes fields; a list is its length and its bytes.
struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        debug_assert!(self.0.len() + bytes.len() <= self.0.capacity());
        self.0.extend_from_slice(bytes);
    }

    fn list(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.put(&len.to_be_bytes());
        self.put(bytes);
    }
}

/// Reads them, and never past the end.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BlobError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(BlobError::Malformed)?;
        self.0 = rest;
        Ok(*array)
    }

    fn list(&mut self) -> Result<&'b [u8], BlobError> {
        let len = u32::from_be_bytes(self.array()?);
        let len = usize::try_from(len).map_err(|_| BlobError::Malformed)?;
        let (list, rest) = self.0.split_at_checked(len).ok_or(BlobError::Malformed)?;
        self.0 = rest;
        Ok(list)
    }

    fn text(&mut self) -> Result<Option<String>, BlobError> {
        let text = self.list()?.to_vec();
        let text = String::from_utf8(text).map_err(|_| BlobError::Malformed)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    fn direction(&mut self, suite: Suite) -> Result<Direction, BlobError> {
        let seq = u64::from_be_bytes(self.array()?);
        let secret = self.list()?;
        if seq >= SEQ_MAX || secret.len() != suite.secret_len() {
            return Err(BlobError::Malformed);
        }
        let secret = Secret::new(secret);
        Ok(Direction { seq, secret })
    }
}
