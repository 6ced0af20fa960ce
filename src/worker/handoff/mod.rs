//! Passing connections on: the draining worker's side. Every connection that stands between two
//! requests goes, socket and half-read bytes, to a worker of the owning generation.
//!
//! They are dealt round-robin, so that every hand-over also evens out what accepting had made
//! uneven. A socket is closed here only when the kernel has taken the message with it; until then,
//! if the receiver dies, it is still ours and goes to another one or is served to its end here.

pub(super) mod frame;
mod pace;
pub(super) mod receive;
mod session;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::AncillaryMessageWriter;

use self::frame::{About, BATCH, LEFTOVER_MAX, OVERHEAD};
use self::pace::Pace;
#[cfg(feature = "ws")]
pub(super) use self::session::BLOB_MAX;
pub(super) use self::session::Session;
use crate::machine::link::Reads;
use crate::sys::handoff::Targets;
use crate::sys::runtime;
use crate::worker::Worker;
use crate::worker::connection::{self, Connection};
use crate::worker::http2;
use crate::worker::order::Order;
use crate::worker::stream::{Peer, Stream};
use crate::worker::tls::{Blob, TlsStream};

/// A receiver that takes nothing for so long is dead to us.
const STUCK: Duration = Duration::from_secs(2);

/// Connections that may be between two workers at a time: served by nobody, for an instant.
const ON_THE_WAY: usize = 2 * BATCH;

/// A connection that is to leave.
#[derive(Debug)]
pub(super) struct Parcel {
    connection: Connection,
    /// The application's, when it is no longer HTTP.
    session: Option<Session>,
    /// Back when the kernel has it: the next ones may leave.
    _permit: Option<OwnedSemaphorePermit>,
}

/// A connection that is written down: its keys are in the blob and nowhere else.
struct Packed {
    parcel: Parcel,
    blob: Option<Blob>,
}

/// Where connections go that leave.
#[derive(Debug)]
pub(super) struct Outbox {
    parcels: UnboundedSender<Parcel>,
    /// What those read who take them.
    pub(super) reads: Reads,
}

impl Outbox {
    /// Takes the connection, or gives it back: nobody sends any longer, or too much was read.
    pub(super) fn put(
        &self,
        connection: Connection,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Box<Connection>> {
        if !self.takes(&connection, connection.leftover.len()) {
            return Err(Box::new(connection));
        }
        let parcel = Parcel {
            connection,
            session: None,
            _permit: permit,
        };
        let sent = self.parcels.send(parcel);
        sent.map_err(|e| Box::new(e.0.connection))
    }

    /// Whether it can move, with so many bytes of its own beside its TLS.
    fn takes(&self, connection: &Connection, bytes: usize) -> bool {
        // What has no room in a message travels in a file with HTTP/2.
        let bytes = if connection.http2.is_some() { 0 } else { bytes };
        let weight = bytes + connection.stream.weight();
        weight <= LEFTOVER_MAX && connection.can_move_to(self.reads)
    }

    /// Takes the session, or gives it back: nobody sends any longer, or it cannot move.
    #[cfg(feature = "ws")]
    pub(super) fn put_session(
        &self,
        connection: Connection,
        session: Session,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Box<(Connection, Session)>> {
        if !self.takes(&connection, 0) {
            return Err(Box::new((connection, session)));
        }
        let parcel = Parcel {
            connection,
            session: Some(session),
            _permit: permit,
        };
        self.parcels.send(parcel).map_err(|e| {
            let Parcel {
                connection,
                session,
                ..
            } = e.0;
            let session = session.unwrap_or_default();
            Box::new((connection, session))
        })
    }
}

/// Passes every connection on, paced. Returns when the last one has gone (true) or when no target
/// is left (false): what was on its way is back then.
pub(super) async fn pass_on(worker: &Arc<Worker>, targets: Targets) -> bool {
    let (parcels, inbox) = mpsc::unbounded_channel();
    let Targets {
        ends: targets,
        reads,
        ..
    } = targets;
    worker.open_outbox(Outbox { parcels, reads });
    let done = tokio::select! {
        () = deal(worker, inbox, targets) => false,
        () = async {
            tell_all(worker).await;
            worker.connections.at_most(0).await;
        } => true,
    };
    worker.close_outbox();
    done
}

/// Tells the connections to leave, a few at a time: all at once they would queue where nobody
/// serves them, and everybody else would wait.
async fn tell_all(worker: &Worker) {
    let on_the_way = Arc::new(Semaphore::new(ON_THE_WAY));
    let mut gates = worker.connections.order(Order::Leave).into_iter();
    let pace = Pace::begin(&worker.connections);
    loop {
        let step = pace.step(&worker.connections);
        let chunk: Vec<_> = gates.by_ref().take(step).collect();
        let Ok(count) = u32::try_from(chunk.len()) else {
            return;
        };
        if count == 0 {
            return;
        }
        let permits = Arc::clone(&on_the_way).acquire_many_owned(count);
        let mut permits = match timeout(STUCK, permits).await {
            Ok(permits) => permits.ok(),
            // Somebody does not answer; the others go nevertheless.
            Err(_) => None,
        };
        for gate in chunk {
            gate.tell(Order::Leave, permits.as_mut().and_then(|p| p.split(1)));
        }
        pace.rest(&worker.connections).await;
    }
}

/// Deals what comes round-robin. Returns when no target is left.
async fn deal(worker: &Arc<Worker>, mut inbox: UnboundedReceiver<Parcel>, targets: Vec<OwnedFd>) {
    let (undelivered, mut back) = mpsc::unbounded_channel();
    let mut senders = JoinSet::new();
    let mut queues: Vec<UnboundedSender<Parcel>> = Vec::new();
    for target in targets {
        match UnixSeqpacket::try_from(target) {
            Ok(socket) => {
                let (queue, parcels) = mpsc::unbounded_channel();
                queues.push(queue);
                let undelivered = undelivered.clone();
                let deliver = deliver(socket, worker.generation, parcels, undelivered);
                senders.spawn(runtime::task(deliver));
            }
            Err(e) => tracing::warn!("cannot use a sending end: {e}"),
        }
    }
    drop(undelivered);
    let mut next = 0;
    while !queues.is_empty() {
        let parcel = tokio::select! {
            Some(parcel) = back.recv() => parcel,
            parcel = inbox.recv() => match parcel {
                Some(parcel) => parcel,
                None => break,
            },
        };
        let mut parcel = Some(parcel);
        while let Some(this) = parcel.take() {
            if queues.is_empty() {
                keep(worker, this);
                break;
            }
            next %= queues.len();
            match queues[next].send(this) {
                Ok(()) => next += 1,
                Err(e) => {
                    queues.swap_remove(next);
                    parcel = Some(e.0);
                }
            }
        }
    }
    // What comes from now on is kept by those who would send it.
    worker.close_outbox();
    drop(queues);
    inbox.close();
    while let Some(parcel) = inbox.recv().await {
        keep(worker, parcel);
    }
    while let Some(parcel) = back.recv().await {
        keep(worker, parcel);
    }
}

/// The connection goes on here.
fn keep(worker: &Arc<Worker>, parcel: Parcel) {
    match parcel.session {
        Some(session) => session.resume(parcel.connection, worker),
        None => drop(runtime::spawn(connection::run(
            parcel.connection,
            Arc::clone(worker),
        ))),
    }
}

/// Sends to one receiving worker, until it or its queue is no more.
async fn deliver(
    socket: UnixSeqpacket,
    generation: u64,
    mut queue: UnboundedReceiver<Parcel>,
    undelivered: UnboundedSender<Parcel>,
) {
    // A message must fit into the socket's buffer; a quarter is the kernel's own.
    let room = sockopt::socket_send_buffer_size(&socket).map_or(0, |size| size / 4 * 3);
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let mut packed = Vec::with_capacity(batch.len());
        for parcel in batch.drain(..) {
            match parcel.pack() {
                Ok(one) => packed.push(one),
                Err(parcel) => drop(undelivered.send(*parcel)),
            }
        }
        while !packed.is_empty() {
            let count = fitting(&packed, room);
            match timeout(STUCK, send(&socket, generation, &packed[..count])).await {
                Ok(Ok(())) => {
                    for Packed { parcel, blob } in packed.drain(..count) {
                        // Wiped, and never looked at again: the receiver has the keys.
                        drop(blob);
                        // Out of our epoll and closed: the receiver has the socket.
                        drop(parcel.connection.stream);
                        parcel.connection.live.passed();
                    }
                }
                failed => {
                    let reason = failed.map_or_else(
                        |_| "it takes nothing".into(),
                        |r| r.err().map_or_else(String::new, |e| e.to_string()),
                    );
                    tracing::warn!("cannot pass connections to a worker: {reason}");
                    queue.close();
                    for parcel in packed.into_iter().filter_map(Packed::unpack) {
                        let _ = undelivered.send(parcel);
                    }
                    while let Some(parcel) = queue.recv().await {
                        let _ = undelivered.send(parcel);
                    }
                    return;
                }
            }
        }
    }
}

/// How many of them fit into one message; at least one. What needs a file has one of its own.
fn fitting(batch: &[Packed], room: usize) -> usize {
    let mut size = 0;
    let plain = batch.iter().take_while(|p| !p.needs_file());
    let fits = plain.take_while(|packed| {
        let blob = packed.blob.as_ref().map_or(0, |blob| blob.bytes().len());
        size += packed.parcel.connection.bytes() + blob + OVERHEAD;
        size <= room
    });
    fits.count().max(1)
}

async fn send(socket: &UnixSeqpacket, generation: u64, batch: &[Packed]) -> io::Result<()> {
    let now = Instant::now();
    let mut fds: Vec<BorrowedFd<'_>> = batch
        .iter()
        .map(|packed| packed.parcel.connection.stream.as_fd())
        .collect();
    let state;
    let bytes = match batch {
        [Packed { parcel, blob }] if parcel.session.is_some() => {
            let session = parcel.session.as_ref().expect("just seen");
            let leftover = &parcel.connection.leftover;
            state = session::pack(leftover, &session.blob)?;
            fds.push(state.as_fd());
            let lengths = (leftover.len(), session.blob.len());
            let about = parcel.connection.about(now);
            frame::write_session(generation, about, &session.name, lengths, blob.as_ref())
        }
        [packed @ Packed { parcel, blob }] if packed.needs_file() => {
            let connection = &parcel.connection;
            let http2 = connection
                .http2
                .as_deref()
                .map_or(&[][..], http2::Blob::bytes);
            state = session::pack(&connection.leftover, http2)?;
            fds.push(state.as_fd());
            let lengths = (connection.leftover.len(), http2.len());
            frame::write_filed(generation, connection.about(now), lengths, blob.as_ref())
        }
        _ => frame::write(
            generation,
            batch.iter().map(|packed| {
                let c = &packed.parcel.connection;
                frame::Leaves {
                    about: c.about(now),
                    leftover: &c.leftover,
                    tls: packed.blob.as_ref(),
                    http2: c.http2.as_deref(),
                }
            }),
        ),
    };
    let bytes = bytes.map_err(io::Error::other)?;
    let mut space = vec![0; 64 + fds.len() * size_of::<i32>()];
    loop {
        let mut ancillary = AncillaryMessageWriter::new(&mut space);
        ancillary
            .add_fds(&fds)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match socket
            .send_vectored_with_ancillary(&[IoSlice::new(&bytes)], &mut ancillary)
            .await
        {
            Ok(_) => return Ok(()),
            // Too many descriptors in flight: the receiver must take some first (unix(7)).
            Err(e) if e.raw_os_error() == Some(nix::libc::ETOOMANYREFS) => {
                sleep(Duration::from_millis(1)).await;
            }
            Err(e) => return Err(e),
        }
    }
}

impl Parcel {
    /// Writes it down. From here on nobody can seal a record of it. `Err`: it cannot move.
    fn pack(mut self) -> Result<Packed, Box<Self>> {
        let tls = match self.connection.stream {
            Stream::Tls(tls) => tls,
            plain => {
                self.connection.stream = plain;
                let blob = None;
                return Ok(Packed { parcel: self, blob });
            }
        };
        match tls.into_parts() {
            Ok((socket, blob)) => {
                self.connection.stream = socket;
                let blob = Some(blob);
                Ok(Packed { parcel: self, blob })
            }
            Err(tls) => {
                self.connection.stream = Stream::Tls(tls);
                Err(Box::new(self))
            }
        }
    }
}

impl Packed {
    /// A session, or an HTTP/2 connection of which much was read.
    fn needs_file(&self) -> bool {
        let connection = &self.parcel.connection;
        self.parcel.session.is_some()
            || connection.http2.is_some() && connection.bytes() > LEFTOVER_MAX / 2
    }

    /// It was not sent: goes on from what was written down.
    fn unpack(self) -> Option<Parcel> {
        let Self { mut parcel, blob } = self;
        if let Some(blob) = blob {
            match TlsStream::from_blob(parcel.connection.stream, blob) {
                Ok(tls) => parcel.connection.stream = Stream::Tls(Box::new(tls)),
                Err(e) => {
                    tracing::error!("a connection was lost: {e}");
                    return None;
                }
            }
        }
        Some(parcel)
    }
}

impl Connection {
    /// How much of it travels, beside its TLS.
    fn bytes(&self) -> usize {
        let http2 = self.http2.as_deref();
        self.leftover.len() + http2.map_or(0, |blob| blob.bytes().len())
    }

    /// What its next worker must know.
    fn about(&self, now: Instant) -> About {
        let age = |since: Instant| {
            u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
        };
        About {
            listener: self.served.name.clone(),
            requests: self.requests,
            idle_ms: age(self.idle_since),
            head_ms: self.head_since.map(age),
            peer: match self.peer {
                Peer::Tcp(address) => Some(address),
                Peer::Unix(_) => None,
            },
            handshake_due: self.handshake_due,
            proxy_header_due: self.proxy_header_due,
        }
    }
}
