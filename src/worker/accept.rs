//! Accepting: one task a socket. It stops at once when told, and the socket is out of this worker's
//! epoll then; the master keeps it open, so what is queued is never lost. The master deals the
//! sockets to the workers, and deals them anew whenever one comes or goes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::connection::{self, Connection, Served};
use super::context::Worker;
use super::guarded::Vital;
use super::raw::{self, serve_datagrams};
use super::stream::{Peer, Stream};
use super::turns::Turns;
use crate::context::Hop;
use crate::sys::once::Once;
use crate::sys::runtime;

/// A listening socket and what it serves.
#[derive(Debug)]
pub(super) struct Listener {
    /// As the master calls it.
    pub(super) id: u64,
    pub(super) fd: OwnedFd,
    pub(super) served: Arc<Served>,
    /// Other workers accept on it, too.
    pub(super) shared: bool,
    /// The application has been given its datagrams.
    pub(super) begun: bool,
}

/// The listeners of a worker.
#[derive(Debug)]
pub(super) struct Acceptor {
    held: BTreeMap<u64, Held>,
    accepts: bool,
}

/// One of them, and the task that accepts on it.
#[derive(Debug)]
struct Held {
    listener: Listener,
    task: Option<JoinHandle<()>>,
}

/// So many errors in a row are those of connections that were lost in the queue. More are the socket's
/// own, and it is tried again after this time and each time after twice as long, up to the longest.
const IN_A_ROW: u32 = 16;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(1);

/// How long to wait when the process is out of descriptors and none of our connections ends.
const CANNOT: &str = "cannot accept for now";
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

impl Acceptor {
    pub(super) fn new(listeners: Vec<Listener>) -> Self {
        let held = |listener: Listener| {
            let task = None;
            (listener.id, Held { listener, task })
        };
        Self {
            held: listeners.into_iter().map(held).collect(),
            accepts: false,
        }
    }

    /// Accepts from now on. Does nothing when it does already.
    pub(super) fn start(&mut self, worker: &Arc<Worker>) -> io::Result<()> {
        if self.accepts {
            return Ok(());
        }
        let sockets: Vec<Option<Socket>> = self
            .held
            .values()
            .map(|held| held.listener.open())
            .collect::<io::Result<_>>()?;
        self.accepts = true;
        worker.connections.accepting(true);
        for (held, socket) in self.held.values_mut().zip(sockets) {
            held.task = held.listener.begin(socket, worker)?;
        }
        Ok(())
    }

    /// One more, accepted on like the others.
    pub(super) fn take(&mut self, mut listener: Listener, worker: &Arc<Worker>) -> io::Result<()> {
        let before = self.held.get(&listener.id);
        listener.begun = before.is_some_and(|held| held.listener.begun);
        let task = if self.accepts {
            let socket = listener.open()?;
            listener.begin(socket, worker)?
        } else {
            None
        };
        let held = Held { listener, task };
        if let Some(Held { task, .. }) = self.held.insert(held.listener.id, held) {
            task.inspect(JoinHandle::abort);
        }
        Ok(())
    }

    /// Others accept on these.
    pub(super) async fn let_go(&mut self, ids: &[u64]) {
        let gone: Vec<Held> = ids.iter().filter_map(|id| self.held.remove(id)).collect();
        finish(gone.into_iter().filter_map(|held| held.task).collect()).await;
    }

    /// Accepts no more. When this returns, every accepted connection has been registered and no
    /// listener is in our epoll.
    pub(super) async fn stop(&mut self, worker: &Worker) {
        self.accepts = false;
        worker.connections.accepting(false);
        let tasks = self.held.values_mut().filter_map(|held| held.task.take());
        finish(tasks.collect()).await;
    }

    /// [`Self::stop`] for good: closes our copies of the listeners.
    pub(super) async fn close(&mut self, worker: &Worker) {
        self.stop(worker).await;
        self.held.clear();
    }
}

async fn finish(tasks: Vec<JoinHandle<()>>) {
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        let _ = task.await;
    }
}

impl Listener {
    /// `None`: it has datagrams, and nothing is accepted.
    fn open(&self) -> io::Result<Option<Socket>> {
        if sockopt::socket_type(&self.fd)? == SocketType::DGRAM {
            return Ok(None);
        }
        Socket::open(self).map(Some)
    }

    fn begin(
        &mut self,
        socket: Option<Socket>,
        worker: &Arc<Worker>,
    ) -> io::Result<Option<JoinHandle<()>>> {
        if let Some(socket) = socket {
            return Ok(Some(runtime::spawn(accept(socket, Arc::clone(worker)))));
        }
        let handler = self.served.raw.as_ref();
        let handler = handler.ok_or_else(|| io::Error::other("HTTP needs connections"))?;
        // It keeps them until the drain, also when others accept connections meanwhile.
        if !std::mem::replace(&mut self.begun, true) {
            rustix::io::ioctl_fionbio(&self.fd, true)?;
            serve_datagrams(&self.served.name, self.fd.try_clone()?, handler, worker);
        }
        Ok(None)
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
    let _vital = Vital("accepting");
    let connections = &worker.connections;
    let mut turns = Turns::new(socket.shared);
    let (mut failing, mut exhausted) = (Failing::default(), Once::default());
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
                failing = Failing::default();
                exhausted.over(CANNOT);
                turns.took_one(waited);
                begin(stream, peer, &socket.served, &worker);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(e) if is_exhaustion(&e) => {
                if exhausted.again() {
                    tracing::warn!(
                        listener = socket.served.name,
                        "{CANNOT}: {e}; it is tried again"
                    );
                }
                let _ = timeout(OUT_OF_DESCRIPTORS, connections.one_ended()).await;
            }
            // The client has gone before we came to it, or a firewall is against it: accept(2) has
            // the same errors for a socket that is good for nothing.
            Err(e) => {
                let errors = &connections.figures.accept_errors;
                errors.fetch_add(1, Ordering::Relaxed);
                if let Some(pause) = failing.again(&socket.served.name, &e) {
                    sleep(pause).await;
                }
            }
        }
        // Those that are here get their turn in a long queue, too.
        tokio::task::coop::consume_budget().await;
    }
}

/// Errors in a row.
#[derive(Debug, Default)]
struct Failing(u32);

impl Failing {
    /// One more. How long to wait before the next try.
    fn again(&mut self, listener: &str, e: &io::Error) -> Option<Duration> {
        self.0 = self.0.saturating_add(1);
        let beyond = self.0.checked_sub(IN_A_ROW)?;
        if beyond == 0 {
            tracing::error!(
                listener,
                "cannot accept: {e}; it is tried again every second and not said again"
            );
        } else {
            tracing::debug!(listener, "cannot accept: {e}");
        }
        Some((SHORTEST * (1 << beyond.min(10))).min(LONGEST))
    }
}

fn begin(stream: Stream, peer: Peer, served: &Arc<Served>, worker: &Arc<Worker>) {
    let connections = &worker.connections;
    connections.figures.accepted.fetch_add(1, Ordering::Relaxed);
    let (gate, live) = connections.enter(served.tls);
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
        handshake_due: served.tls,
        proxy_header_due: served.proxy_protocol && Hop::of(peer, &worker.proxies).trusted,
        http2: None,
    };
    let worker = Arc::clone(worker);
    match served.raw.clone() {
        None => runtime::spawn(connection::run(connection, worker)),
        Some(handler) => runtime::spawn(raw::serve(connection, handler, worker)),
    };
}

/// Out of descriptors or memory: trying again at once would only burn the processor.
fn is_exhaustion(e: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(e.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[test]
    fn a_listener_that_is_good_for_nothing_is_named_once() {
        let said = Arc::new(tempfile::tempfile().unwrap());
        let log = tracing_subscriber::fmt().with_writer(Arc::clone(&said));
        let log = log.with_max_level(tracing::Level::INFO).finish();
        tracing::subscriber::with_default(log, || {
            let error = io::Error::from_raw_os_error(nix::libc::EINVAL);
            let mut failing = Failing::default();
            let pauses: Vec<_> = (0..100).map(|_| failing.again("http", &error)).collect();
            // Those that a client causes cost no time.
            assert_eq!(pauses[10], None);
            assert_eq!(pauses[99], Some(LONGEST));
        });
        let mut file = &*said;
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches("cannot accept").count(), 1, "{text}");
    }
}
