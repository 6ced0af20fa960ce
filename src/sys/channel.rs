//! Datagrams with descriptors between our own processes: a `SOCK_SEQPACKET` socketpair carrying
//! one JSON message a datagram. EOF means the other process is gone (or let go on purpose).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage};

/// The kernel takes at most this many descriptors in one message (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// The longest message that travels in the socket; must stay below its send buffer. A longer one is
/// put into a file in memory, whose descriptor travels before the others.
pub const MAX_MESSAGE: usize = 160 * 1024;

/// The longest message there can be.
pub const LONGEST: usize = 64 * 1024 * 1024;

/// In the place of a message that is in a file. No JSON begins so.
const IN_A_FILE: &[u8] = b"\0in the first descriptor";
/// Between two tries to send while too many descriptors are in flight: poll(2) does not tell the end of that.
const IN_FLIGHT: std::time::Duration = std::time::Duration::from_millis(1);

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
        let long = bytes.len() > MAX_MESSAGE;
        if bytes.len() > LONGEST || fds.len() + usize::from(long) > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message of {} bytes and {} descriptors is too large: {LONGEST} bytes and \
                     {MAX_FDS} descriptors are the most",
                    bytes.len(),
                    fds.len()
                ),
            ));
        }
        if !long {
            return self.send_bytes(&bytes, fds).await;
        }
        let file = in_a_file(&bytes)?;
        let mut all = vec![file.as_fd()];
        all.extend(fds);
        self.send_bytes(IN_A_FILE, &all).await
    }

    async fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
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
                .send_vectored_with_ancillary(&[IoSlice::new(bytes)], &mut ancillary)
                .await
            {
                Ok(_) => return Ok(()),
                // Back-pressure: the receiver has not yet taken what is in flight (unix(7)).
                Err(e) if e.raw_os_error() == Some(nix::libc::ETOOMANYREFS) => {
                    tokio::time::sleep(IN_FLIGHT).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The next message; `None` is EOF. Cancel-safe. After [`ChannelError::Truncated`] and
    /// [`ChannelError::Decode`] that message is lost, the channel is not.
    pub async fn recv(&self) -> Result<Option<Received>, ChannelError> {
        loop {
            match self.recv_once().await {
                // Our peer left something of ours unread. The kernel says so once, before it hands
                // out what the peer had sent (its last report, its reason to yield) and then EOF.
                Err(ChannelError::Io(e)) if e.kind() == io::ErrorKind::ConnectionReset => {}
                other => return other,
            }
        }
    }

    async fn recv_once(&self) -> Result<Option<Received>, ChannelError> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = vec![0; rights_space(MAX_FDS)];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let (info, ancillary) = self
            .socket
            .recv_vectored_with_ancillary(&mut slices, &mut space)
            .await?;
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
        if bytes == IN_A_FILE {
            if fds.is_empty() {
                return Err(ChannelError::Truncated);
            }
            bytes = out_of_a_file(fds.remove(0))?;
        }
        Ok(Some(Received { bytes, fds }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn in_a_file(bytes: &[u8]) -> io::Result<File> {
    let file = rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    Ok(file)
}

/// Nothing but a file with an end is read: a pipe would be waited for.
fn out_of_a_file(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(fd);
    let about = file.metadata()?;
    let length = usize::try_from(about.len()).unwrap_or(usize::MAX);
    if !about.is_file() || length > LONGEST {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Room for one `SCM_RIGHTS` of `count` descriptors, with slack for the header's alignment.
fn rights_space(count: usize) -> usize {
    64 + count * size_of::<i32>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use nix::sys::resource::{Resource, setrlimit};

    use super::*;
    use crate::sys::helper;

    type Message = BTreeMap<String, u32>;

    fn message(n: u32) -> Message {
        BTreeMap::from([("n".to_owned(), n)])
    }

    fn pair() -> (Channel, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        (ours, Channel::from_fd(theirs).unwrap())
    }

    async fn next(channel: &Channel) -> Option<Received> {
        tokio::time::timeout(Duration::from_secs(10), channel.recv())
            .await
            .unwrap()
            .unwrap()
    }

    fn open_fds() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[tokio::test]
    async fn messages_keep_their_boundaries_and_order_both_ways() {
        let (a, b) = pair();
        for n in 0..3 {
            a.send(&message(n), &[]).await.unwrap();
            b.send(&message(n + 10), &[]).await.unwrap();
        }
        for n in 0..3 {
            let got = next(&b).await.unwrap();
            assert_eq!(got.decode::<Message>().unwrap(), message(n));
            assert!(got.fds.is_empty());
            let got = next(&a).await.unwrap();
            assert_eq!(got.decode::<Message>().unwrap(), message(n + 10));
        }
        assert_eq!(
            a.peer_cred().unwrap().pid(),
            Some(std::process::id().try_into().unwrap())
        );
    }

    #[tokio::test]
    async fn as_many_descriptors_as_the_kernel_takes_arrive_in_order_and_close_on_exec() {
        let (a, b) = pair();
        let (null, zero) = (
            File::open("/dev/null").unwrap(),
            File::open("/dev/zero").unwrap(),
        );
        let mut sent = vec![null.as_fd(); MAX_FDS];
        sent[252] = zero.as_fd();
        a.send(&message(1), &sent).await.unwrap();
        let got = next(&b).await.unwrap();
        assert_eq!(got.fds.len(), MAX_FDS);
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        for (got, sent) in got.fds.iter().zip(&sent) {
            assert_eq!(inode(got.as_fd()), inode(*sent));
            let flags = rustix::io::fcntl_getfd(got).unwrap();
            assert_eq!(flags, rustix::io::FdFlags::CLOEXEC);
        }
        sent.push(zero.as_fd());
        let error = a.send(&message(1), &sent).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn both_ends_are_close_on_exec() {
        let (ours, theirs) = Channel::pair().unwrap();
        for fd in [ours.as_fd(), theirs.as_fd()] {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert_eq!(flags, rustix::io::FdFlags::CLOEXEC);
        }
    }

    #[tokio::test]
    async fn the_end_comes_after_what_was_sent_even_when_something_was_left_unread() {
        for unread in [false, true] {
            let (a, b) = pair();
            b.send(&message(1), &[]).await.unwrap();
            b.send(&message(2), &[]).await.unwrap();
            if unread {
                a.send(&message(9), &[]).await.unwrap();
            }
            drop(b);
            for n in [1, 2] {
                let got = next(&a).await.expect("lost at the end");
                assert_eq!(got.decode::<Message>().unwrap(), message(n));
            }
            assert!(next(&a).await.is_none());
            assert!(next(&a).await.is_none());
            let error = a.send(&message(3), &[]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[tokio::test]
    async fn the_end_wakes_who_waits() {
        let (a, b) = pair();
        let wait = async { assert!(next(&a).await.is_none()) };
        tokio::join!(wait, async move {
            tokio::task::yield_now().await;
            drop(b);
        });
    }

    #[tokio::test]
    async fn a_message_of_any_length_arrives_with_its_descriptors() {
        let (a, b) = pair();
        let null = File::open("/dev/null").unwrap();
        for length in [MAX_MESSAGE - 2, MAX_MESSAGE - 1, 40 * MAX_MESSAGE] {
            for fds in [vec![], vec![null.as_fd(); MAX_FDS - 1]] {
                let text = "x".repeat(length);
                a.send(&text, &fds).await.unwrap();
                let got = next(&b).await.unwrap();
                assert_eq!(got.fds.len(), fds.len());
                assert!(got.decode::<String>().unwrap() == text, "{length}");
            }
        }
        let text = "x".repeat(MAX_MESSAGE);
        let error = a.send(&text, &[null.as_fd(); MAX_FDS]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        // Whatever else comes as such a file, the next message is read.
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        for fds in [vec![], vec![pipe.as_fd()], vec![null.as_fd()]] {
            a.send_bytes(IN_A_FILE, &fds).await.unwrap();
            b.recv().await.unwrap_err();
        }
        a.send(&message(1), &[]).await.unwrap();
        assert!(next(&b).await.is_some());
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused_here_and_noticed_there() {
        let (a, b) = pair();
        let error = a.send(&"x".repeat(LONGEST), &[]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        // Somebody with other limits.
        a.socket.send(&vec![b' '; MAX_MESSAGE + 1]).await.unwrap();
        let error = b.recv().await.unwrap_err();
        assert!(matches!(error, ChannelError::Truncated), "{error}");
        a.send(&message(1), &[]).await.unwrap();
        assert!(next(&b).await.is_some());
    }

    #[tokio::test]
    async fn nonsense_is_an_error_of_that_message_alone() {
        let (a, b) = pair();
        a.socket.send(b"nonsense").await.unwrap();
        let error = next(&b).await.unwrap().decode::<Message>().unwrap_err();
        assert!(error.to_string().contains("8 bytes"), "{error}");
        a.send(&message(1), &[]).await.unwrap();
        assert!(next(&b).await.is_some());
    }

    #[tokio::test]
    async fn a_full_buffer_makes_the_sender_wait() {
        let (a, b) = pair();
        let long = "x".repeat(100_000);
        let send = async {
            for _ in 0..20 {
                a.send(&long, &[]).await.unwrap();
            }
        };
        tokio::pin!(send);
        // Not all of it fits.
        tokio::select! {
            biased;
            () = &mut send => panic!("2 MB fit into the buffer"),
            () = tokio::task::yield_now() => {}
        }
        let receive = async {
            for _ in 0..20 {
                assert_eq!(next(&b).await.unwrap().decode::<String>().unwrap(), long);
            }
        };
        tokio::join!(send, receive);
    }

    /// In a process of its own, which has no descriptors left.
    #[test]
    #[ignore = "run by the next test"]
    fn receives_too_many() {
        if !helper::is_helper() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (a, b) = pair();
            let file = File::open("/dev/null").unwrap();
            let before = open_fds();
            let limit = u64::try_from(before).unwrap() + 10;
            setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
            a.send(&message(1), &[file.as_fd(); 30]).await.unwrap();
            let error = b.recv().await.unwrap_err();
            assert!(matches!(error, ChannelError::Truncated), "{error}");
            assert_eq!(open_fds(), before, "those that did arrive are closed");
            a.send(&message(1), &[file.as_fd(); 3]).await.unwrap();
            assert_eq!(next(&b).await.unwrap().fds.len(), 3);
        });
        helper::say("noticed");
    }

    #[test]
    fn descriptors_that_find_no_place_are_noticed() {
        let test = "sys::channel::tests::receives_too_many";
        assert_eq!(helper::run(&mut helper::command("", test)), ["noticed"]);
    }
}
