//! Accepting: one task a listener. It stops at once when told, and the listener is out of this
//! worker's epoll then; the master keeps it open, so what is queued is never lost.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rustix::net::{AddressFamily, SocketFlags, acceptfrom_with, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::connection::{self, Connection, Served};
use super::context::Worker;
use super::stream::{Peer, Stream};
use super::turns::Turns;

/// A listening socket and what it serves.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) fd: OwnedFd,
    pub(super) served: Arc<Served>,
    /// Other workers accept on it, too.
    pub(super) shared: bool,
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
        let sockets: Vec<Socket> = self
            .listeners
            .iter()
            .map(Socket::open)
            .collect::<io::Result<_>>()?;
        worker.connections.accepting(true);
        for socket in sockets {
            self.tasks
                .push(tokio::spawn(accept(socket, Arc::clone(worker))));
        }
        Ok(())
    }

    /// Accepts no more. When this returns, every accepted connection has been registered and no
    /// listener is in our epoll.
    pub(super) async fn stop(&mut self, worker: &Worker) {
        worker.connections.accepting(false);
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
    }

    /// [`Self::stop`] for good: closes our copies of the listeners.
    pub(super) async fn close(&mut self, worker: &Worker) {
        self.stop(worker).await;
        self.listeners.clear();
    }
}

/// A copy of a listening socket in the runtime's epoll, until it is dropped.
struct Socket {
    fd: AsyncFd<OwnedFd>,
    unix: bool,
    shared: bool,
    served: Arc<Served>,
}

impl Socket {
    fn open(listener: &Listener) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener.fd, true)?;
        let copy = listener.fd.try_clone()?;
        #[expect(
            deprecated,
            reason = "unsound only for types that may change their descriptor; an `OwnedFd` cannot"
        )]
        let fd = AsyncFd::with_interest(copy, Interest::READABLE)?;
        Ok(Self {
            unix: sockopt::socket_domain(&fd)? == AddressFamily::UNIX,
            fd,
            shared: listener.shared,
            served: Arc::clone(&listener.served),
        })
    }

    /// One connection; `WouldBlock` when another worker has it.
    fn accept(&self) -> io::Result<(Stream, Peer)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, address) = acceptfrom_with(self.fd.get_ref(), flags)?;
        if self.unix {
            let stream = Stream::Unix(UnixStream::from_std(fd.into())?);
            let peer = stream.peer()?;
            return Ok((stream, peer));
        }
        let stream = TcpStream::from_std(fd.into())?;
        // Fails only when the client has gone.
        let _ = stream.set_nodelay(true);
        let peer = match address.map(TryInto::try_into) {
            Some(Ok(address)) => address,
            _ => stream.peer_addr()?,
        };
        Ok((Stream::Tcp(stream), Peer::Tcp(peer)))
    }
}

async fn accept(socket: Socket, worker: Arc<Worker>) {
    let connections = &worker.connections;
    let mut turns = Turns::new(socket.shared);
    loop {
        connections.at_most(worker.max_connections - 1).await;
        let mut ready = match socket.fd.readable().await {
            Ok(ready) => ready,
            Err(e) => {
                tracing::error!(listener = socket.served.name, "cannot accept any more: {e}");
                return;
            }
        };
        let waited = turns.come(connections).await;
        match socket.accept() {
            Ok((stream, peer)) => {
                turns.took_one(waited);
                begin(stream, peer, &socket.served, &worker);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(e) if is_exhaustion(&e) => {
                tracing::warn!(listener = socket.served.name, "cannot accept for now: {e}");
                let _ = timeout(OUT_OF_DESCRIPTORS, connections.one_ended()).await;
            }
            // The client has gone before we came to it: accept(2) says which errors mean that.
            Err(e) => {
                tracing::debug!(listener = socket.served.name, "a connection was lost: {e}");
            }
        }
        // Those that are here get their turn in a long queue, too.
        tokio::task::coop::consume_budget().await;
    }
}

fn begin(stream: Stream, peer: Peer, served: &Arc<Served>, worker: &Arc<Worker>) {
    let connections = &worker.connections;
    connections.figures.accepted.fetch_add(1, Ordering::Relaxed);
    let (gate, live) = connections.enter();
    let connection = Connection {
        stream,
        leftover: Bytes::new(),
        gate,
        live,
        served: Arc::clone(served),
        peer,
        requests: 0,
        idle_since: Instant::now(),
        head_since: None,
    };
    tokio::spawn(connection::run(connection, Arc::clone(worker)));
}

/// Out of descriptors or memory: trying again at once would only burn the processor.
fn is_exhaustion(e: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(e.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
