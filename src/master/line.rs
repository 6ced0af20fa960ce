//! A line to another process of ours: a reader task and a writer task around one channel, so that
//! the driver never waits for anybody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::api::{self, Connections};
use crate::machine::message::{Hello, Message};
use crate::machine::{Event, FromPredecessor, FromSuccessor};
use crate::sys::channel::{Channel, ChannelError, Received};
use crate::sys::runtime;

/// What arrived.
#[derive(Debug)]
pub enum Heard {
    /// A message.
    Message(Received),
    /// The other end is gone or let go.
    Closed,
    /// The other end broke the protocol.
    Broken(ChannelError),
}

/// What came of something that another master said.
#[derive(Debug)]
pub(super) enum Said {
    /// Nothing, or nothing that anybody here must know.
    Nothing,
    /// For the machine.
    Event(Event),
    /// A successor has introduced itself.
    Hello(Hello),
    /// A predecessor serves again, and we are sent away: why, and what it could not do to the program
    /// on disk.
    Retire(String, Option<String>),
    /// A predecessor's last worker has gone.
    Drained(u64, Connections),
    /// It wants to give the service back: whether we could take it.
    Wakes,
    /// It could take the service back; or why it cannot.
    Awake(Option<String>),
    /// The ring of TLS ticket keys has changed.
    TicketKeys(Option<OwnedFd>),
    /// It asks how we are.
    Asks,
    /// It says how it is.
    Answers(api::Master),
}

/// Which of the masters beside us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The predecessor.
    Before,
    /// The successor.
    After,
}

impl Said {
    /// What a message means. One that is not for that side to say means nothing.
    pub(super) fn of(side: Side, received: Received) -> Result<Self, ChannelError> {
        use Side::{After, Before};
        let before = |word| Self::Event(Event::Predecessor(word));
        let after = |word| Self::Event(Event::Successor(word));
        let message = received.decode::<Message>()?;
        Ok(match (side, message) {
            (_, Message::Status { master: None }) => Self::Asks,
            (_, Message::Status { master: Some(m) }) => Self::Answers(*m),
            (_, Message::TicketKeys) => Self::TicketKeys(received.fds.into_iter().next()),
            (Before, Message::Takeover) => before(FromPredecessor::Takeover),
            (Before, Message::Ready) => before(FromPredecessor::Ready),
            (Before, Message::Commit) => before(FromPredecessor::Commit),
            (Before, Message::Release) => before(FromPredecessor::Release),
            (Before, Message::Retire { reason, disk }) => Self::Retire(reason, disk),
            (Before, Message::Drained { ms, connections }) => Self::Drained(ms, connections),
            (Before, Message::Awake { reason }) => Self::Awake(reason),
            (After, Message::Hello(hello)) => Self::Hello(hello),
            (After, Message::Ready) => after(FromSuccessor::Ready),
            (After, Message::Heartbeat) => after(FromSuccessor::Heartbeat),
            (After, Message::Commit) => after(FromSuccessor::Commit),
            (After, Message::Release) => after(FromSuccessor::Release),
            (After, Message::Yield { leaving: true, .. }) => after(FromSuccessor::Leaving),
            (
                After,
                Message::Yield {
                    reason,
                    retire,
                    then,
                    ..
                },
            ) => after(FromSuccessor::Yield {
                reason,
                retire,
                then,
            }),
            (After, Message::Wake) => Self::Wakes,
            (
                Before,
                Message::Hello(_) | Message::Heartbeat | Message::Yield { .. } | Message::Wake,
            )
            | (
                After,
                Message::Takeover
                | Message::Retire { .. }
                | Message::Drained { .. }
                | Message::Awake { .. },
            )
            | (_, Message::Inheritance(_) | Message::Fds { .. } | Message::Unknown) => {
                Self::Nothing
            }
        })
    }
}

/// Our end. Dropping it sends what is queued, then closes it: the other side sees EOF.
#[derive(Debug)]
pub struct Line<T> {
    outbox: mpsc::UnboundedSender<(T, Vec<Arc<OwnedFd>>)>,
    /// Ends when this is dropped.
    reader: JoinSet<()>,
    writer: JoinHandle<()>,
}

impl<T: Serialize + Send + Sync + 'static> Line<T> {
    /// Takes the channel over; `hear` is called for everything that arrives and waits while the
    /// listener is busy, which is the back-pressure.
    pub fn new<F, Fut>(channel: Channel, mut hear: F) -> Self
    where
        F: FnMut(Heard) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let channel = Arc::new(channel);
        let (outbox, mut queue) = mpsc::unbounded_channel::<(T, Vec<Arc<OwnedFd>>)>();
        let ours = Arc::clone(&channel);
        let writer = runtime::spawn(async move {
            while let Some((message, fds)) = queue.recv().await {
                let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                if let Err(e) = ours.send(&message, &borrowed).await {
                    // Of an end the reader sees more, and tells.
                    if e.kind() == std::io::ErrorKind::BrokenPipe {
                        tracing::debug!("cannot send a message: {e}");
                    } else {
                        tracing::error!("cannot send a message to another process of ours: {e}");
                    }
                    break;
                }
            }
        });
        let mut reader = JoinSet::new();
        reader.spawn(runtime::task(async move {
            loop {
                let heard = match channel.recv().await {
                    Ok(Some(received)) => Heard::Message(received),
                    Ok(None) => Heard::Closed,
                    Err(e) => Heard::Broken(e),
                };
                let over = !matches!(heard, Heard::Message(_));
                hear(heard).await;
                if over {
                    break;
                }
            }
        }));
        Self {
            outbox,
            reader,
            writer,
        }
    }

    /// Queues a message; one to a process that has gone is lost, as it would be in its buffer.
    pub fn say(&self, message: T, fds: Vec<OwnedFd>) {
        self.send(message, fds.into_iter().map(Arc::new).collect());
    }

    /// The same, of descriptors that we keep: a message that waits takes none of its own.
    pub fn send(&self, message: T, fds: Vec<Arc<OwnedFd>>) {
        let _ = self.outbox.send((message, fds));
    }

    /// Closes it and waits, at most so long, until what was queued is sent.
    pub async fn close(self, limit: Duration) {
        let Self {
            outbox,
            reader,
            writer,
        } = self;
        drop((outbox, reader));
        let _ = tokio::time::timeout(limit, writer).await;
    }
}
