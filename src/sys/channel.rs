//! Datagrams with descriptors between our own processes: a `SOCK_SEQPACKET` socketpair carrying
//! one JSON message a datagram. EOF means the other process is gone (or let go on purpose).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage};

/// The kernel takes at most this many descriptors in one message (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// The longest message; must stay below the socket's send buffer.
pub const MAX_MESSAGE: usize = 160 * 1024;

/// One end of a conversation. Needs a tokio runtime.
#[derive(Debug)]
pub struct Channel {
    socket: UnixSeqpacket,
}

/// A received message: its bytes, and the descriptors that came with it (close-on-exec).
#[derive(Debug)]
pub struct Received {
    bytes: Vec<u8>,
    /// Descriptors in the order they were sent.
    pub fds: Vec<OwnedFd>,
}

/// Why a message could not be received or understood.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket failed.
    #[error("cannot use the channel: {0}")]
    Io(#[from] io::Error),
    /// Not JSON, or not a message we know.
    #[error("cannot understand a message of {len} bytes: {source}")]
    Decode {
        /// How long it was.
        len: usize,
        /// What serde says.
        source: serde_json::Error,
    },
    /// The kernel dropped bytes or descriptors.
    #[error("a message or its descriptors were truncated; is the limit of open files reached?")]
    Truncated,
}

impl Received {
    /// Decodes the JSON.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ChannelError> {
        serde_json::from_slice(&self.bytes).map_err(|source| ChannelError::Decode {
            len: self.bytes.len(),
            source,
        })
    }
}

impl Channel {
    /// A pair: one end for us, the other for a process to be started. Both are close-on-exec.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixSeqpacket::pair()?;
        Ok((Self { socket: ours }, theirs.into()))
    }

    /// Takes over an inherited end.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            socket: UnixSeqpacket::try_from(fd)?,
        })
    }

    /// Wraps a connected seqpacket socket (`handoff.sock`).
    #[must_use]
    pub fn from_socket(socket: UnixSeqpacket) -> Self {
        Self { socket }
    }

    /// The other end's credentials. For a socketpair: those of the process that made it.
    pub fn peer_cred(&self) -> io::Result<tokio_seqpacket::UCred> {
        self.socket.peer_cred()
    }

    /// Sends one message; waits while the buffer is full or too many descriptors are in flight.
    pub async fn send<T: Serialize + Sync>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message of {} bytes and {} descriptors is too large",
                    bytes.len(),
                    fds.len()
                ),
            ));
        }
        let mut space = vec![0; rights_space(fds.len())];
        loop {
            let mut ancillary = AncillaryMessageWriter::new(&mut space);
            if !fds.is_empty() {
                ancillary
                    .add_fds(fds)
                    .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            }
            match self
                .socket
                .send_vectored_with_ancillary(&[IoSlice::new(&bytes)], &mut ancillary)
                .await
            {
                Ok(_) => return Ok(()),
                // Back-pressure: the receiver has not yet taken what is in flight (unix(7)).
                Err(e) if e.raw_os_error() == Some(nix::libc::ETOOMANYREFS) => {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The next message; `None` is EOF.
    pub async fn recv(&self) -> Result<Option<Received>, ChannelError> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = vec![0; rights_space(MAX_FDS)];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let (info, ancillary) = match self
            .socket
            .recv_vectored_with_ancillary(&mut slices, &mut space)
            .await
        {
            Ok(got) => got,
            // Our peer died with something of ours unread: that is its EOF.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let mut fds = Vec::new();
        let truncated = info.truncated() || info.ancillary_truncated();
        for message in ancillary.into_messages() {
            if let OwnedAncillaryMessage::FileDescriptors(list) = message {
                fds.extend(list);
            }
        }
        if truncated {
            return Err(ChannelError::Truncated);
        }
        if info.bytes_read() == 0 && fds.is_empty() {
            return Ok(None);
        }
        bytes.truncate(info.bytes_read());
        Ok(Some(Received { bytes, fds }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Room for one `SCM_RIGHTS` of `count` descriptors, with slack for the header's alignment.
fn rights_space(count: usize) -> usize {
    64 + count * size_of::<i32>()
}
