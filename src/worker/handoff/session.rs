//! A session of an application on its way: its name, what the application said about it, and the
//! memfd that both parts travel in, since a message has no room for them.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;

use crate::sys::secrets;
use crate::worker::Worker;
use crate::worker::connection::Connection;
use crate::worker::order::Word;
use crate::worker::ws;

/// What an application may say about a session.
pub(in crate::worker) const BLOB_MAX: usize = 64 * 1024;

/// What can have been read and not been given to the application.
const UNREAD_MAX: usize = 1024 * 1024;

/// A session that is not in its application's hands.
#[derive(Default)]
pub(in crate::worker) struct Session {
    pub(in crate::worker) name: String,
    pub(in crate::worker) blob: Vec<u8>,
    /// The order that it left for. When nobody takes it, it goes on here and does not leave for the
    /// same order again.
    #[cfg_attr(not(feature = "ws"), expect(dead_code, reason = "nobody sends one"))]
    pub(in crate::worker) heard: Option<Word>,
}

/// Not what the application said.
impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.name)
            .field("blob", &self.blob.len())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Gives it to the application of this worker.
    pub(in crate::worker) fn resume(self, connection: Connection, worker: &Arc<Worker>) {
        ws::resume(self, connection, worker);
    }
}

/// A connection's unread bytes, then its blob, in a file that is nowhere but in memory.
pub(super) fn pack(leftover: &[u8], blob: &[u8]) -> io::Result<OwnedFd> {
    secrets::memory(&[leftover, blob])
}

/// Both parts of the other side's [`pack`].
pub(super) fn unpack(
    state: &OwnedFd,
    (leftover, blob): (usize, usize),
) -> io::Result<(Bytes, Vec<u8>)> {
    if leftover > UNREAD_MAX || blob > BLOB_MAX {
        return Err(io::Error::other(
            "its state is larger than anybody may send",
        ));
    }
    let mut file = File::from(state.try_clone()?);
    file.rewind()?;
    let mut parts = (vec![0; leftover], vec![0; blob]);
    file.read_exact(&mut parts.0)?;
    file.read_exact(&mut parts.1)?;
    Ok((parts.0.into(), parts.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_arrive_and_a_lie_about_their_length_is_an_error() {
        let sent = vec![7; BLOB_MAX];
        let state = pack(b"unread", &sent).unwrap();
        let (leftover, blob) = unpack(&state, (6, BLOB_MAX)).unwrap();
        assert_eq!((&leftover[..], &blob), (&b"unread"[..], &sent));
        assert!(unpack(&state, (7, BLOB_MAX)).is_err());
        assert!(unpack(&state, (0, BLOB_MAX + 1)).is_err());
    }
}
