//! Accepting: one task a listener. It stops at once when told, and the listener is out of this
//! worker's epoll then; the master keeps it open, so what is queued is never lost.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::net::{AddressFamily, sockopt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::Worker;
use super::connection::{self, Connection, Served};
use super::stream::{Peer, Stream};

/// A listening socket and what it serves.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) served: Arc<Served>,
}

/// The listeners of a worker.
#[derive(Debug)]
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    tasks: Vec<JoinHandle<()>>,
}

/// How long to wait when the process is out of descriptors and none of our connections ends.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

impl Acceptor {
    pub(super) fn new(listeners: Vec<Listener>) -> Self {
        Self {
            listeners,
            tasks: Vec::new(),
        }
    }

    /// Accepts from now on. Does nothing when it does already.
    pub(super) fn start(&mut self, worker: &Arc<Worker>) -> io::Result<()> {
        if !self.tasks.is_empty() {
            return Ok(());
        }
        let mut opened = Vec::new();
        for listener in &self.listeners {
            opened.push((Socket::open(listener.fd.as_fd())?, &listener.served));
        }
        for (socket, served) in opened {
            let (served, worker) = (Arc::clone(served), Arc::clone(worker));
            self.tasks
                .push(tokio::spawn(accept(socket, served, worker)));
        }
        Ok(())
    }

    /// Accepts no more. When this returns, every accepted connection has been registered and no
    /// listener is in our epoll.
    pub(super) async fn stop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
    }

    /// [`Self::stop`] for good: closes our copies of the listeners.
    pub(super) async fn close(&mut self) {
        self.stop().await;
        self.listeners.clear();
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    /// A copy of `fd` in the runtime's epoll, until it is dropped.
    fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(fd, true)?;
        let copy = fd.try_clone_to_owned()?;
        if sockopt::socket_domain(&copy)? == AddressFamily::UNIX {
            UnixListener::from_std(copy.into()).map(Self::Unix)
        } else {
            TcpListener::from_std(copy.into()).map(Self::Tcp)
        }
    }

    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Fails only when the client has gone.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), Peer::Tcp(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let stream = Stream::Unix(stream);
                let peer = stream.peer()?;
                Ok((stream, peer))
            }
        }
    }
}

async fn accept(socket: Socket, served: Arc<Served>, worker: Arc<Worker>) {
    let connections = &worker.connections;
    loop {
        connections.at_most(worker.max_connections - 1).await;
        match socket.accept().await {
            Ok((stream, peer)) => {
                connections.figures.accepted.fetch_add(1, Ordering::Relaxed);
                let (gate, live) = connections.enter();
                let connection = Connection {
                    stream,
                    leftover: bytes::Bytes::new(),
                    gate,
                    live,
                    served: Arc::clone(&served),
                    peer,
                    requests: 0,
                    idle_since: Instant::now(),
                    head_since: None,
                };
                tokio::spawn(connection::run(connection, Arc::clone(&worker)));
            }
            Err(e) if is_exhaustion(&e) => {
                tracing::warn!(listener = served.name, "cannot accept for now: {e}");
                let _ = timeout(OUT_OF_DESCRIPTORS, connections.one_ended()).await;
            }
            // The client has gone before we came to it: accept(2) says which errors mean that.
            Err(e) => tracing::debug!(listener = served.name, "a connection was lost: {e}"),
        }
    }
}

/// Out of descriptors or memory: trying again at once would only burn the processor.
fn is_exhaustion(e: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(e.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
