//! What every part of a worker needs.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http1;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use super::access::AccessLog;
use super::connection::Connection;
use super::connections::Connections;
use super::gate::Gate;
use super::handoff::Outbox;
#[cfg(feature = "ws")]
use super::handoff::Session;
use super::lock;
use super::order::Order;
use super::owners::OwnersApplication;
use super::rooms::Rooms;
use super::silent::SilentInstances;
use super::tls::{TlsInfo, TlsSetup};
use crate::config::{Http, Network};
use crate::context::Context;
use crate::machine::link::Start;
use crate::sys::board::Board;
use crate::sys::handoff::{self, HandoffError, Targets};

/// A worker, as its connections see it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) generation: u64,
    /// As the application knows it.
    pub(super) application: Context,
    pub(super) connections: Arc<Connections>,
    /// So many are accepted.
    pub(super) max_connections: usize,
    /// So many can be held: those taken over were there already, and are not refused.
    pub(super) room: usize,
    pub(super) http: Http,
    pub(super) http1: http1::Builder,
    pub(super) http2: super::http2::Builder,
    /// Who is believed when it says who the client is.
    pub(super) proxies: Arc<[Network]>,
    /// How TLS is spoken; `None`: no listener does.
    pub(super) tls: Option<TlsSetup>,
    /// `[log] access`.
    pub(super) access: Option<Arc<AccessLog>>,
    runtime: Option<PathBuf>,
    /// `handoff.sock`.
    handoff: Option<PathBuf>,
    /// Whether connections may be passed on.
    passes: bool,
    owners_application: Arc<OwnersApplication>,
    pub(super) silent_instances: Arc<SilentInstances>,
    /// Since when idle connections are on their grace time, and how long it is.
    polite: Mutex<Option<(Instant, Duration)>>,
    /// Where connections go that leave; `None`: nobody takes them.
    pub(super) outbox: Mutex<Option<Outbox>>,
    /// The `h2` of this program takes part ([`super::http2::can_move`]).
    pub(super) passes_http2: AtomicBool,
}

/// Where this worker is, for those who know only the context.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) runtime: PathBuf,
    pub(super) slot: u16,
    /// The master's process.
    pub(super) master: i32,
}

/// Who takes connections.
#[derive(Debug)]
pub(super) enum Answer {
    /// A sending end for each worker that does.
    Targets(Targets),
    /// Somebody has the socket, but does not answer, or has no worker that is ready.
    NotYet,
    /// Nobody is there.
    Nobody,
}

impl Worker {
    pub(super) fn new(
        start: &Start,
        board: Option<OwnedFd>,
        tls: Option<TlsSetup>,
    ) -> io::Result<Self> {
        let config = &start.config;
        #[cfg(test)]
        super::mutants::awake(&config.name);
        let files = files();
        let max_connections = max_connections(files, config.http.max_connections);
        let application = Context::new(
            start.name.clone(),
            start.version.clone(),
            start.generation,
            start.config.clone(),
            start.typed.clone(),
        );
        let connections = Connections::new(
            board.map(|fd| Board::join(fd, start.slot)),
            max_connections,
            Rooms::new(files - max_connections - share(files), share(files)),
        );
        let owners_application = Arc::<OwnersApplication>::default();
        let silent_instances = Arc::<SilentInstances>::default();
        if let Some(hosted) = &start.hosted {
            application.keep(|| hosted.clone());
            application.keep(|| Arc::clone(&connections.figures.unanswered));
            application.keep(|| Arc::clone(&owners_application));
            application.keep(|| Arc::clone(&silent_instances));
        }
        let handoff = start.handoff.as_deref();
        let runtime = handoff.and_then(Path::parent).map(Path::to_owned);
        Ok(Self {
            generation: start.generation,
            application,
            access: AccessLog::open(&config.log.access, start.generation)?,
            connections,
            max_connections,
            room: max_connections.max(files / 2),
            http: config.http.clone(),
            proxies: config.http.trusted_proxies.as_slice().into(),
            http1: super::http1::builder(),
            http2: super::http2::builder(&config.http),
            runtime,
            tls,
            handoff: start.handoff.clone(),
            passes: config.drain.pass_connections,
            owners_application,
            silent_instances,
            polite: Mutex::default(),
            outbox: Mutex::default(),
            passes_http2: AtomicBool::new(false),
        })
    }

    /// What an application may know of a TLS connection. A certificate that the client has shown to another
    /// generation, and that nobody asks for here, was checked against no authority of this one.
    pub(super) fn shown(&self, info: Arc<TlsInfo>) -> Arc<TlsInfo> {
        let asks = self.tls.as_ref().is_some_and(TlsSetup::asks_client);
        if asks || info.client_certificates.is_empty() {
            return info;
        }
        let mut info = TlsInfo::clone(&info);
        info.client_certificates.clear();
        Arc::new(info)
    }

    /// The service's runtime directory.
    pub(super) fn runtime(&self) -> Option<&Path> {
        self.runtime.as_deref()
    }

    /// From now on idle connections are closed after the grace time.
    pub(super) fn be_polite(&self, grace: Duration) {
        *lock(&self.polite) = Some((Instant::now(), grace));
    }

    /// Whether no worker that takes connections could go on with this one.
    pub(super) fn keeps(&self, connection: &Connection) -> bool {
        let outbox = lock(&self.outbox);
        let reads = outbox.as_ref().map(|outbox| outbox.reads);
        reads.is_some_and(|reads| !connection.can_move_to(reads))
    }

    /// From now on HTTP/2 connections are passed on, too.
    pub(super) fn pass_http2(&self) {
        self.passes_http2.store(true, Ordering::Relaxed);
    }

    /// Whether connections are being passed on.
    pub(super) fn passes_on(&self) -> bool {
        lock(&self.outbox).is_some()
    }

    /// One connection ends politely, whatever becomes of the others.
    pub(super) fn be_polite_for_one(&self, gate: &Gate) {
        lock(&self.polite).get_or_insert((Instant::now(), POLITE));
        gate.tell(Order::Last, None);
    }

    /// Until when a connection that is idle since then may bring one more request.
    pub(super) fn polite_until(&self, idle_since: Instant) -> Instant {
        match *lock(&self.polite) {
            Some((since, grace)) => idle_since.max(since) + grace,
            None => idle_since + self.http.keepalive_timeout,
        }
    }

    /// Asks the owner of the service who takes connections; nobody, when there is no answer.
    pub(super) async fn ask(&self) -> Targets {
        match self.ask_owner().await {
            Answer::Targets(targets) => targets,
            Answer::NotYet | Answer::Nobody => Targets::default(),
        }
    }

    /// The same, and why there is no answer.
    pub(super) async fn ask_owner(&self) -> Answer {
        let Some(path) = &self.handoff else {
            return Answer::Nobody;
        };
        let begun = Instant::now();
        loop {
            let e = match handoff::ask(path, self.generation).await {
                Ok(targets) => return self.answered(targets),
                Err(e) => e,
            };
            // It was about to hand the service over: the owner answers when it is asked again.
            let moved = matches!(e, HandoffError::Closed);
            if moved && begun.elapsed() < PATIENCE {
                continue;
            }
            tracing::info!("nobody takes our connections: {e}");
            return match e {
                HandoffError::Closed | HandoffError::Silent if self.passes => Answer::NotYet,
                _ => {
                    // Its application has gone, too, and its address may be anybody's.
                    self.owners_application.tell(Vec::new());
                    Answer::Nobody
                }
            };
        }
    }

    /// Asks whenever our front needs the owner's application.
    pub(super) async fn ask_for_the_front(&self) -> Infallible {
        let Some(path) = &self.handoff else {
            return std::future::pending().await;
        };
        loop {
            self.owners_application.wanted().await;
            let told = handoff::ask_for_application(path, self.generation).await;
            // Who does not answer has a queue, which is others' as well.
            let pause = if told.is_ok() { AGAIN } else { 4 * AGAIN };
            // Its application may have gone with it, and its address may be anybody's.
            self.owners_application.tell(told.unwrap_or_default());
            sleep(pause).await;
        }
    }

    fn answered(&self, mut targets: Targets) -> Answer {
        let upstreams = std::mem::take(&mut targets.upstreams);
        self.owners_application.tell(upstreams);
        if !self.passes {
            return Answer::Nobody;
        }
        if targets.is_empty() {
            return Answer::NotYet;
        }
        Answer::Targets(targets)
    }

    pub(super) fn open_outbox(&self, outbox: Outbox) {
        *lock(&self.outbox) = Some(outbox);
    }

    pub(super) fn close_outbox(&self) {
        *lock(&self.outbox) = None;
    }

    /// The same for a session.
    #[cfg(feature = "ws")]
    pub(super) fn give_session(
        &self,
        connection: Connection,
        session: Session,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Box<(Connection, Session)>> {
        match &*lock(&self.outbox) {
            Some(outbox) => outbox.put_session(connection, session, permit),
            None => Err(Box::new((connection, session))),
        }
    }

    /// Gives a connection to another worker, or back.
    pub(super) fn give(
        &self,
        connection: Connection,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Box<Connection>> {
        match &*lock(&self.outbox) {
            Some(outbox) => outbox.put(connection, permit),
            None => Err(Box::new(connection)),
        }
    }
}

/// How long an idle connection that cannot move may still bring a request.
const POLITE: Duration = Duration::from_secs(5);

/// How long the owner is asked again when it hangs up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two questions for the front.
const AGAIN: Duration = Duration::from_millis(500);

/// How many descriptors connections and their answers may take: the limit of open files, less an
/// eighth for the application.
fn files() -> usize {
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let files = files.saturating_sub((files / 8).max(64)).max(3);
    usize::try_from(files).unwrap_or(usize::MAX)
}

/// How many connections are accepted. A connection is a descriptor, and so is the file that an answer
/// sends: none waits for another one's file. Only those that HTTP/2 makes beside each other share what is
/// set aside for them. Whoever sets a higher limit knows that most of the answers open none.
fn max_connections(files: usize, configured: u64) -> usize {
    let rest = files - share(files);
    match usize::try_from(configured) {
        Ok(0) | Err(_) => rest / 2,
        Ok(n) => n.min(rest - share(files)),
    }
}

/// Of the descriptors, for what is not the usual case.
fn share(files: usize) -> usize {
    (files / 8).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_the_files_of_their_answers() {
        assert_eq!(max_connections(896, 0), 392);
        assert_eq!(max_connections(896, 100), 100);
        assert_eq!(max_connections(896, 10_000), 672);
        assert_eq!(max_connections(3, 0), 1);
        assert_eq!(max_connections(3, u64::MAX), 1);
    }
}
