//! `handoff.sock` and the socket pairs behind it: how a draining worker finds the workers of the
//! owning generation.
//!
//! The owner's master makes one [`pair`] a receiving worker: the worker gets the receiving end, and
//! everybody who drains gets a copy of the sending end, by the drain order or by [`ask`]ing here.
//! The master keeps a copy of each receiving end until the drain is over, so that what is queued for
//! a worker that dies goes to its replacement.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::time::timeout;
use tokio_seqpacket::UnixSeqpacket;

use super::channel::{Channel, ChannelError, MAX_FDS};
use crate::config::Upstream;
use crate::machine::link::{HANDOFF_VERSION, HandoffAnswer, HandoffRequest, News, Reads};

/// A small queue: what waits in it is served by nobody (facts: 10,000 connections handed over at
/// once raised the others' p99 to 240 ms, through a small queue to 17 ms). The kernel doubles it.
const QUEUE: usize = 16 * 1024;

/// How long the other side may take for its part of the conversation.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why nobody can be given connections.
#[derive(Debug, thiserror::Error)]
pub enum HandoffError {
    /// Nobody is there, or the socket failed.
    #[error("cannot use the hand-off socket: {0}")]
    Io(#[from] io::Error),
    /// The message made no sense.
    #[error("cannot use the hand-off socket: {0}")]
    Channel(#[from] ChannelError),
    /// Nothing was said in time.
    #[error("nobody answered on the hand-off socket within a second")]
    Silent,
    /// The other side went away without a word.
    #[error("the other side of the hand-off socket went away")]
    Closed,
    /// It runs as another user.
    #[error("the other side of the hand-off socket is user {0}, not ours")]
    Stranger(u32),
    /// Not as many descriptors as announced.
    #[error("expected {announced} sending ends, got {got}")]
    Descriptors {
        /// By the message.
        announced: usize,
        /// Beside it.
        got: usize,
    },
}

/// A sending and a receiving end for connections, in this order. Both are close-on-exec and
/// non-blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (sending, receiving) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    sockopt::set_socket_send_buffer_size(&sending, QUEUE)?;
    Ok((sending, receiving))
}

/// Sending ends, one a worker that takes connections.
#[derive(Debug, Default)]
pub struct Targets {
    /// The ends.
    pub ends: Vec<OwnedFd>,
    /// What all of these workers read.
    pub reads: Reads,
    /// Where the application listens that these workers are in front of, if there is one.
    pub upstreams: Vec<Upstream>,
}

impl Targets {
    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// These as well: only what all of them read counts.
    pub fn extend(&mut self, more: Self) {
        self.reads = if self.is_empty() {
            more.reads
        } else {
            self.reads.least(more.reads)
        };
        self.ends.extend(more.ends);
        self.upstreams.extend(more.upstreams);
    }
}

/// Asks whoever owns the service for sending ends, for at most a second. None means that it has no
/// worker that receives.
pub async fn ask(path: &Path, generation: u64) -> Result<Targets, HandoffError> {
    converse(path, request(generation)).await
}

/// Asks it where the owner's application listens, for at most a second.
pub async fn ask_for_application(
    path: &Path,
    generation: u64,
) -> Result<Vec<Upstream>, HandoffError> {
    let request = HandoffRequest {
        application: true,
        ..request(generation)
    };
    Ok(converse(path, request).await?.upstreams)
}

/// Tells whoever owns the service, for at most a second. Returns when it has heard.
pub async fn tell(path: &Path, generation: u64, news: News) -> Result<(), HandoffError> {
    let request = HandoffRequest {
        news: Some(Box::new(news)),
        ..request(generation)
    };
    converse(path, request).await.map(drop)
}

/// Whether somebody has the socket, even one that does not answer. For who has no event loop that turns;
/// in doubt somebody has.
#[must_use]
pub fn is_held(path: &Path) -> bool {
    let connect = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket = rustix::net::socket_with(unix, packets, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    !matches!(connect(), Err(Errno::CONNREFUSED | Errno::NOENT))
}

fn request(generation: u64) -> HandoffRequest {
    HandoffRequest {
        version: HANDOFF_VERSION,
        generation,
        news: None,
        application: false,
    }
}

async fn converse(path: &Path, request: HandoffRequest) -> Result<Targets, HandoffError> {
    let conversation = async {
        let channel = Channel::from_socket(UnixSeqpacket::connect(path).await?);
        check_peer(&channel)?;
        channel.send(&request, &[]).await?;
        let received = channel.recv().await?.ok_or(HandoffError::Closed)?;
        let answer: HandoffAnswer = received.decode()?;
        if answer.targets != received.fds.len() {
            return Err(HandoffError::Descriptors {
                announced: answer.targets,
                got: received.fds.len(),
            });
        }
        Ok(Targets {
            ends: received.fds,
            reads: answer.reads,
            upstreams: answer.upstreams,
        })
    };
    timeout(PATIENCE, conversation)
        .await
        .unwrap_or(Err(HandoffError::Silent))
}

/// Somebody who asks on an accepted connection, and waits for the answer.
#[derive(Debug)]
pub struct Asker {
    channel: Channel,
    /// What is asked.
    pub request: HandoffRequest,
}

/// The owner's side of one conversation, first half: what is asked. Takes at most a second.
pub async fn hear(accepted: UnixSeqpacket) -> Result<Asker, HandoffError> {
    let conversation = async {
        let channel = Channel::from_socket(accepted);
        check_peer(&channel)?;
        let received = channel.recv().await?.ok_or(HandoffError::Closed)?;
        let request = received.decode()?;
        Ok(Asker { channel, request })
    };
    timeout(PATIENCE, conversation)
        .await
        .unwrap_or(Err(HandoffError::Silent))
}

impl Asker {
    /// Its process, as the kernel saw it connect; 0 when it cannot be known.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let cred = sockopt::socket_peercred(self.channel.as_fd());
        cred.map_or(0, |cred| cred.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Second half: hands out copies of `targets`. Takes at most a second.
    pub async fn answer(self, targets: &Targets) -> Result<HandoffRequest, HandoffError> {
        let ends: Vec<BorrowedFd<'_>> = targets.ends.iter().map(AsFd::as_fd).collect();
        let ends = &ends[..ends.len().min(MAX_FDS)];
        let answer = HandoffAnswer {
            version: HANDOFF_VERSION,
            targets: ends.len(),
            reads: targets.reads,
            upstreams: targets.upstreams.clone(),
        };
        timeout(PATIENCE, self.channel.send(&answer, ends))
            .await
            .map_err(|_| HandoffError::Silent)??;
        Ok(self.request)
    }
}

/// Both halves, for who knows the answer beforehand.
pub async fn answer(
    accepted: UnixSeqpacket,
    targets: &Targets,
) -> Result<HandoffRequest, HandoffError> {
    hear(accepted).await?.answer(targets).await
}

/// Root and our own user.
fn check_peer(channel: &Channel) -> Result<(), HandoffError> {
    let uid = sockopt::socket_peercred(channel.as_fd())
        .map_err(io::Error::from)?
        .uid
        .as_raw();
    let ours = rustix::process::geteuid().as_raw();
    if uid == ours || uid == 0 {
        Ok(())
    } else {
        Err(HandoffError::Stranger(uid))
    }
}

#[cfg(test)]
mod tests {
    use tokio_seqpacket::UnixSeqpacketListener;

    use super::*;

    #[tokio::test]
    async fn a_draining_worker_gets_a_sending_end_for_every_receiving_worker() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handoff.sock");
        let mut listener = UnixSeqpacketListener::bind(&path).unwrap();
        let (sending, receiving) = pair().unwrap();
        let reads = Reads { tls: 1, http2: 0 };
        let upstreams = vec![Upstream::Port(1)];
        let offered = Targets {
            ends: vec![sending],
            reads,
            upstreams: upstreams.clone(),
        };
        let owner = async {
            let accepted = listener.accept().await.unwrap();
            answer(accepted, &offered).await.unwrap()
        };
        let (request, ends) = tokio::join!(owner, ask(&path, 6));
        assert_eq!(request, super::request(6));
        let targets = ends.unwrap();
        let ends = targets.ends;
        assert_eq!((ends.len(), targets.reads), (1, reads));
        assert_eq!(targets.upstreams, upstreams);
        rustix::net::send(&ends[0], b"x", rustix::net::SendFlags::empty()).unwrap();
        let mut byte = [0; 2];
        let got = rustix::net::recv(&receiving, &mut byte, rustix::net::RecvFlags::empty());
        assert_eq!(got.unwrap().0, 1);
    }

    #[tokio::test]
    async fn an_owner_that_does_not_answer_is_given_up_after_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handoff.sock");
        let _listener = UnixSeqpacketListener::bind(&path).unwrap();
        let begun = tokio::time::Instant::now();
        assert!(matches!(ask(&path, 6).await, Err(HandoffError::Silent)));
        assert_eq!(begun.elapsed().as_secs(), 1);
    }
}
