//! Taking over connections: the receiving worker's side of [`super`].

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustix::net::Shutdown;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::OwnedAncillaryMessage;
use zeroize::Zeroizing;

use super::frame::{self, About, Arrived, BATCH, Content, MESSAGE_MAX};
use super::session::{self, Session};
use crate::sys::channel::MAX_FDS;
use crate::sys::runtime;
use crate::worker::Worker;
use crate::worker::applications::Applications;
use crate::worker::connection::{self, Connection};
use crate::worker::guarded::Vital;
use crate::worker::http2;
use crate::worker::lock;
use crate::worker::start::hide_memory;
use crate::worker::stream::{Peer, Stream};
use crate::worker::tls::{Blob, TlsInfo, TlsStream};
use crate::worker::ws;

/// A receiving end being read.
#[derive(Debug)]
pub(in crate::worker) struct Receiver {
    /// The task's; gone with it, so that an end nobody sends to any longer is closed.
    end: Weak<UnixSeqpacket>,
    task: JoinHandle<()>,
}

/// How long what is queued already may take to be read when the worker drains itself.
const REST: Duration = Duration::from_secs(2);

impl Receiver {
    /// Takes over connections from `end` until all its senders have gone.
    pub(in crate::worker) fn start(
        end: OwnedFd,
        worker: &Arc<Worker>,
        applications: &Arc<Applications>,
    ) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&end, true)?;
        let socket = Arc::new(UnixSeqpacket::try_from(end)?);
        let end = Arc::downgrade(&socket);
        let task = runtime::spawn(receive(
            socket,
            Arc::clone(worker),
            Arc::clone(applications),
        ));
        Ok(Self { end, task })
    }

    /// Whether all its senders have gone.
    pub(in crate::worker) fn is_done(&self) -> bool {
        self.task.is_finished()
    }

    /// Takes what is queued and no more: from now on senders get an error and keep what they have.
    pub(in crate::worker) async fn finish(mut self) {
        if let Some(end) = self.end.upgrade() {
            let _ = rustix::net::shutdown(&end, Shutdown::Read);
        }
        if timeout(REST, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn receive(socket: Arc<UnixSeqpacket>, worker: Arc<Worker>, applications: Arc<Applications>) {
    let _vital = Vital("taking over connections");
    loop {
        // A descriptor that finds no room in our table is closed by the kernel: leave it queued.
        worker
            .connections
            .at_most(worker.room.saturating_sub(BATCH))
            .await;
        match next(&socket).await {
            Ok(Some((frame, fds))) => match frame::read(&frame) {
                Ok((generation, Content::Connections(connections))) => {
                    tracing::debug!(generation, count = fds.len(), "taking over connections");
                    for (arrived, fd) in connections.into_iter().zip(fds) {
                        take(arrived, fd, &worker, &applications);
                    }
                }
                Ok((
                    generation,
                    Content::Filed {
                        about,
                        leftover,
                        http2,
                        tls,
                    },
                )) => {
                    tracing::debug!(generation, "taking over a connection");
                    match unfile(about, (leftover, http2), tls, fds) {
                        Ok((arrived, fd)) => take(arrived, fd, &worker, &applications),
                        Err(e) => tracing::error!("a connection was lost: {e}"),
                    }
                }
                Ok((
                    generation,
                    Content::Session {
                        about,
                        name,
                        leftover,
                        blob,
                        tls,
                    },
                )) => {
                    tracing::debug!(generation, name, "taking over a session");
                    let lengths = (leftover, blob);
                    take_session(about, name, lengths, tls, fds, &worker, &applications);
                }
                Err(e) => tracing::error!("connections were lost: {e}"),
            },
            Ok(None) => return,
            Err(e) => {
                tracing::warn!("cannot take over connections: {e}");
                return;
            }
        }
        // One message a turn: those that are here are served in between.
        tokio::task::yield_now().await;
    }
}

/// The next message. `None`: all senders have gone.
async fn next(socket: &UnixSeqpacket) -> io::Result<Option<(Zeroizing<Vec<u8>>, Vec<OwnedFd>)>> {
    // One that waits, and may do so for as long as a generation drains, holds no buffers.
    socket.as_async_fd().readable().await?.retain_ready();
    let mut bytes = Zeroizing::new(vec![0; MESSAGE_MAX]);
    // A newer sender may put more into a message than we would.
    let mut space = vec![0; 64 + MAX_FDS * size_of::<i32>()];
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let (info, ancillary) = socket
        .recv_vectored_with_ancillary(&mut slices, &mut space)
        .await?;
    let fds: Vec<OwnedFd> = ancillary
        .into_messages()
        .filter_map(|message| match message {
            OwnedAncillaryMessage::FileDescriptors(fds) => Some(fds),
            OwnedAncillaryMessage::Other(_) => None,
        })
        .flatten()
        .collect();
    if info.bytes_read() == 0 && fds.is_empty() {
        return Ok(None);
    }
    if info.ancillary_truncated() {
        tracing::error!("connections were lost: too many files are open");
    }
    bytes.truncate(info.bytes_read());
    Ok(Some((bytes, fds)))
}

/// A connection whose parts are in a file.
fn unfile(
    about: About,
    lengths: (usize, usize),
    tls: Option<Blob>,
    fds: Vec<OwnedFd>,
) -> io::Result<(Arrived, OwnedFd)> {
    let missing = |_| io::Error::other("a descriptor is missing");
    let [socket, state] = <[OwnedFd; 2]>::try_from(fds).map_err(missing)?;
    let (leftover, http2) = session::unpack(&state, lengths)?;
    let arrived = Arrived {
        about,
        leftover,
        tls,
        http2: Some(http2::Blob::received(&Zeroizing::new(http2))),
    };
    Ok((arrived, socket))
}

fn take(arrived: Arrived, fd: OwnedFd, worker: &Arc<Worker>, applications: &Applications) {
    let Some(mut connection) = adopt(arrived, fd, worker, applications) else {
        return;
    };
    match welcome(&connection, worker) {
        Welcome::Yes => {}
        Welcome::OneAnswer => {
            connection.idle_since = Instant::now();
            worker.be_polite_for_one(&connection.gate);
        }
        Welcome::No => return turn_away(connection, worker),
    }
    runtime::spawn(connection::run(connection, Arc::clone(worker)));
    let received = &worker.connections.figures.received;
    received.fetch_add(1, Ordering::Relaxed);
}

fn take_session(
    about: About,
    name: String,
    lengths: (usize, usize),
    tls: Option<Blob>,
    fds: Vec<OwnedFd>,
    worker: &Arc<Worker>,
    applications: &Applications,
) {
    let Ok([socket, state]) = <[OwnedFd; 2]>::try_from(fds) else {
        tracing::error!("a session was lost: a descriptor is missing");
        return;
    };
    let (leftover, blob) = match session::unpack(&state, lengths) {
        Ok(parts) => parts,
        Err(e) => {
            tracing::error!("a session was lost: {e}");
            return;
        }
    };
    let arrived = Arrived {
        about,
        leftover,
        tls,
        http2: None,
    };
    let Some(mut connection) = adopt(arrived, socket, worker, applications) else {
        return;
    };
    match welcome(&connection, worker) {
        Welcome::Yes => {}
        // Its client stands between two messages.
        Welcome::OneAnswer => return connection.stream.say_last(ws::CLOSE),
        Welcome::No => return turn_away(connection, worker),
    }
    let received = &worker.connections.figures.received;
    received.fetch_add(1, Ordering::Relaxed);
    let session = Session {
        name,
        blob,
        heard: None,
    };
    session.resume(connection, worker);
}

/// Serves a connection of our master's, which asks something itself. Returns whether it does.
pub(in crate::worker) fn serve(
    about: About,
    fd: OwnedFd,
    worker: &Arc<Worker>,
    applications: &Applications,
) -> bool {
    let arrived = Arrived {
        about,
        leftover: Bytes::new(),
        tls: None,
        http2: None,
    };
    let adopted = adopt(arrived, fd, worker, applications);
    let serves = adopted.is_some();
    if let Some(connection) = adopted {
        runtime::spawn(connection::run(connection, Arc::clone(worker)));
    }
    serves
}

/// What this generation makes of a connection that was begun under another configuration.
enum Welcome {
    Yes,
    /// Today it would be made otherwise: with another version of TLS, with TLS at all or without, or not
    /// with HTTP/2.
    OneAnswer,
    /// Its client may not be answered: it has not shown the certificate that is asked for now.
    No,
}

fn welcome(connection: &Connection, worker: &Worker) -> Welcome {
    // Its certificate is asked for by the handshake.
    if connection.handshake_due {
        return Welcome::Yes;
    }
    let info = connection.stream.tls();
    let info = info.as_deref();
    let speaks_tls = connection.served.tls;
    let setup = worker.tls.as_ref().filter(|_| speaks_tls);
    if setup.is_some_and(|setup| !setup.admits(info)) {
        return Welcome::No;
    }
    let too_old = |info: &TlsInfo| setup.is_some_and(|setup| setup.is_too_old(info));
    let speaks_http2 = worker.http.http2 || connection.http2.is_none();
    if info.is_some() != speaks_tls || info.is_some_and(too_old) || !speaks_http2 {
        return Welcome::OneAnswer;
    }
    Welcome::Yes
}

/// Its client hears nothing but the end of its connection.
fn turn_away(mut connection: Connection, worker: &Worker) {
    let mut figures = lock(&worker.connections.figures.tls);
    figures.handshakes.bad_client_certificate += 1;
    drop(figures);
    tracing::info!(
        listener = connection.served.name,
        "closing a connection without the client certificate that is asked for now"
    );
    connection.stream.say_close();
}

/// One more connection of ours; `None`: its client has gone, or nobody here serves it.
fn adopt(
    arrived: Arrived,
    fd: OwnedFd,
    worker: &Arc<Worker>,
    applications: &Applications,
) -> Option<Connection> {
    let Arrived {
        about,
        leftover,
        tls,
        http2,
    } = arrived;
    // An error means that the client has gone already.
    let (stream, peer) = Stream::from_fd(fd).ok()?;
    let served = applications.of_connection(&about.listener, &stream);
    // One that speaks a protocol of its own did not begin in the middle.
    let Some(served) = served.filter(|served| served.raw.is_none()) else {
        tracing::info!(
            listener = about.listener,
            "closing a connection nobody here serves"
        );
        return None;
    };
    let stream = match tls {
        None => stream,
        Some(blob) => match TlsStream::from_blob(stream, blob) {
            Ok(tls) => Stream::Tls(Box::new(tls)),
            Err(e) => {
                tracing::error!("a connection was lost: {e}");
                return None;
            }
        },
    };
    if matches!(stream, Stream::Tls(_)) && worker.tls.is_none() {
        // It had no keys of its own to hide.
        hide_memory();
    }
    let now = Instant::now();
    let since = |age: u64| now.checked_sub(Duration::from_millis(age)).unwrap_or(now);
    let is_tls = matches!(stream, Stream::Tls(_)) || about.handshake_due;
    let (gate, mut live) = worker.connections.enter(is_tls);
    if http2.is_some() {
        live.is_http2();
    }
    Some(Connection {
        stream,
        leftover,
        gate,
        live,
        served,
        peer: about.peer.map_or(peer, Peer::Tcp),
        requests: about.requests,
        idle_since: since(about.idle_ms),
        head_since: about.head_ms.map(since),
        handshake_due: about.handshake_due,
        proxy_header_due: about.proxy_header_due,
        http2: http2.map(Box::new),
    })
}
