//! An established TLS connection without its socket: the records, and the bytes that wait on either
//! side of them. This is what moves from one process to another (as a [`super::blob::Blob`]).

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustls::crypto::cipher::OutboundChunks;

use super::info::TlsInfo;
use super::records::{Failure, HEAD, Opened, Output, Records};

/// The connection.
pub(in crate::worker) struct Sealed {
    pub(super) records: Records,
    /// Read from the socket, not opened yet.
    pub(super) input: BytesMut,
    /// Opened, not yet taken by the application.
    pub(super) opened: BytesMut,
    /// Sealed, not yet written to the socket.
    pub(super) output: Output,
    /// What was agreed on.
    pub(super) info: Arc<TlsInfo>,
}

/// What there is to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plain {
    /// Plain text waits in [`Sealed::opened`].
    Some,
    /// The socket must be read first.
    None,
    /// The peer has said that nothing more comes.
    End,
}

impl Sealed {
    /// A connection whose handshake is over. `input`: what was read behind its end.
    pub(super) fn new(records: Records, input: BytesMut, info: Arc<TlsInfo>) -> Self {
        Self {
            records,
            input,
            opened: BytesMut::new(),
            output: Output::new(),
            info,
        }
    }

    /// Opens what is there until there is plain text to take.
    pub(super) fn open(&mut self) -> Result<Plain, Failure> {
        loop {
            if !self.opened.is_empty() {
                return Ok(Plain::Some);
            }
            if self.records.memory.close_seen {
                return Ok(Plain::End);
            }
            let Some(len) = self.records.whole(&self.input, &mut self.output)? else {
                self.give_back();
                return Ok(Plain::None);
            };
            let mut record = self.input.split_to(len);
            match self.records.open(&mut record, &mut self.output)? {
                Opened::Data(range) => {
                    record.truncate(range.end);
                    record.advance(range.start);
                    self.opened = record;
                }
                Opened::Nothing => {}
                Opened::Close => return Ok(Plain::End),
            }
        }
    }

    /// Whether plain text, or at least a whole record, is here.
    pub(super) fn has_plain(&self) -> bool {
        let whole = match *self.input {
            [_, _, _, high, low, ..] => HEAD + usize::from(u16::from_be_bytes([high, low])),
            _ => HEAD,
        };
        !self.opened.is_empty() || self.input.len() >= whole
    }

    /// The socket had nothing: room that was made for it is given back.
    pub(super) fn read_nothing(&mut self) {
        self.give_back();
    }

    /// An idle connection holds no buffers.
    fn give_back(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Takes opened plain text, at most so much.
    pub(super) fn take(&mut self, most: usize) -> BytesMut {
        let most = most.min(self.opened.len());
        let taken = self.opened.split_to(most);
        if self.opened.is_empty() {
            self.opened = BytesMut::new();
            self.give_back();
        }
        taken
    }

    /// How much to read from the socket: the rest of the record that has begun, or a first record.
    pub(super) fn wanted(&self) -> usize {
        let whole = match *self.input {
            [_, _, _, high, low, ..] => HEAD + usize::from(u16::from_be_bytes([high, low])),
            _ => READ,
        };
        whole.saturating_sub(self.input.len()).max(READ)
    }

    /// Seals the beginning of `data`: how much of it.
    pub(super) fn seal(&mut self, data: &[IoSlice<'_>]) -> Result<usize, Failure> {
        let slices: Vec<&[u8]> = data.iter().map(|slice| &**slice).collect();
        let all = OutboundChunks::new(&slices);
        let len = all.len().min(WRITE_MAX);
        let (now, _) = all.split_at(len);
        self.records.seal(now, &mut self.output)?;
        Ok(len)
    }

    /// Says that no more data follows.
    pub(super) fn close(&mut self) {
        self.records.close(&mut self.output);
    }

    /// Whether sealed bytes wait for the socket.
    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// What the socket shall be given next.
    pub(super) fn output(&self) -> Vec<IoSlice<'_>> {
        let records = self.output.iter().take(SLICES);
        records.map(|record| IoSlice::new(record)).collect()
    }

    /// The socket has taken so much.
    pub(super) fn written(&mut self, mut len: usize) {
        while let Some(first) = self.output.front_mut() {
            if len < first.len() {
                first.drain(..len);
                return;
            }
            len -= first.len();
            self.output.pop_front();
        }
        self.output = Output::new();
    }

    /// Whether it can go to another process now.
    pub(super) fn can_move(&self) -> bool {
        let memory = &self.records.memory;
        !(memory.failed || memory.close_sent || memory.close_seen)
    }
}

/// How much waits, and nothing of what it says.
impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed")
            .field("records", &self.records)
            .field("input", &self.input.len())
            .field("opened", &self.opened.len())
            .field("output", &self.output.len())
            .finish_non_exhaustive()
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(io::ErrorKind::InvalidData, failure)
    }
}

/// One read of the socket.
const READ: usize = 4096;

/// So much plain text is sealed before the socket has taken it (as in rustls).
const WRITE_MAX: usize = 64 * 1024;

/// Records in one system call.
const SLICES: usize = 16;
