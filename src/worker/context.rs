//! What every part of a worker needs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use super::access::AccessLog;
use super::connection::Connection;
use super::connections::Connections;
use super::handoff::Outbox;
use super::lock;
use crate::config::Http;
use crate::machine::link::Start;
use crate::sys::board::Board;
use crate::sys::handoff::{self, HandoffError};

/// A worker, as its connections see it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) generation: u64,
    pub(super) connections: Arc<Connections>,
    /// So many are accepted.
    pub(super) max_connections: usize,
    /// So many can be held: those taken over were there already, and are not refused.
    pub(super) room: usize,
    pub(super) http: Http,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<TokioExecutor>,
    /// `[log] access`.
    pub(super) access: Option<Arc<AccessLog>>,
    /// `handoff.sock`, when connections may be passed on.
    handoff: Option<PathBuf>,
    /// Since when idle connections are on their grace time, and how long it is.
    polite: Mutex<Option<(Instant, Duration)>>,
    /// Sending ends for connections, not used yet.
    offers: Mutex<Vec<OwnedFd>>,
    offered: Notify,
    /// Where connections go that leave; `None`: nobody takes them.
    outbox: Mutex<Option<Outbox>>,
}

/// Who takes connections.
#[derive(Debug)]
pub(super) enum Answer {
    /// A sending end for each worker that does.
    Targets(Vec<OwnedFd>),
    /// Somebody has the socket, but does not answer, or has no worker that is ready.
    NotYet,
    /// Nobody is there.
    Nobody,
}

impl Worker {
    pub(super) fn new(start: &Start, board: Option<OwnedFd>) -> io::Result<Self> {
        let config = &start.config;
        #[cfg(test)]
        super::mutants::awake(&config.name);
        let room = room();
        let max_connections = match usize::try_from(config.http.max_connections) {
            Ok(0) | Err(_) => room,
            Ok(n) => n.min(room),
        };
        Ok(Self {
            generation: start.generation,
            access: AccessLog::open(&config.log.access, start.generation)?,
            connections: Connections::new(
                board.map(|fd| Board::join(fd, start.slot)),
                max_connections,
            ),
            max_connections,
            room,
            http: config.http.clone(),
            http1: super::http1::builder(),
            http2: super::http2::builder(),
            handoff: start
                .handoff
                .clone()
                .filter(|_| config.drain.pass_connections),
            polite: Mutex::default(),
            offers: Mutex::default(),
            offered: Notify::new(),
            outbox: Mutex::default(),
        })
    }

    /// From now on idle connections are closed after the grace time.
    pub(super) fn be_polite(&self, grace: Duration) {
        *lock(&self.polite) = Some((Instant::now(), grace));
    }

    /// Until when a connection that is idle since then may bring one more request.
    pub(super) fn polite_until(&self, idle_since: Instant) -> Instant {
        match *lock(&self.polite) {
            Some((since, grace)) => idle_since.max(since) + grace,
            None => idle_since + self.http.keepalive_timeout,
        }
    }

    /// Sending ends of workers that take connections.
    pub(super) fn offer(&self, targets: Vec<OwnedFd>) {
        lock(&self.offers).extend(targets);
        self.offered.notify_one();
    }

    /// What was offered and not used yet.
    pub(super) fn take_offers(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut *lock(&self.offers))
    }

    /// Waits for the next offer.
    pub(super) async fn offered(&self) -> Vec<OwnedFd> {
        loop {
            let targets = self.take_offers();
            if !targets.is_empty() {
                return targets;
            }
            self.offered.notified().await;
        }
    }

    /// Asks the owner of the service who takes connections; nobody, when there is no answer.
    pub(super) async fn ask(&self) -> Vec<OwnedFd> {
        match self.ask_owner().await {
            Answer::Targets(targets) => targets,
            Answer::NotYet | Answer::Nobody => Vec::new(),
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
                Ok(targets) if targets.is_empty() => return Answer::NotYet,
                Ok(targets) => return Answer::Targets(targets),
                Err(e) => e,
            };
            // It was about to hand the service over: the owner answers when it is asked again.
            let moved = matches!(e, HandoffError::Closed);
            if moved && begun.elapsed() < PATIENCE {
                continue;
            }
            tracing::info!("nobody takes our connections: {e}");
            return match e {
                HandoffError::Closed | HandoffError::Silent => Answer::NotYet,
                _ => Answer::Nobody,
            };
        }
    }

    pub(super) fn open_outbox(&self, outbox: Outbox) {
        *lock(&self.outbox) = Some(outbox);
    }

    pub(super) fn close_outbox(&self) {
        *lock(&self.outbox) = None;
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

/// How long the owner is asked again when it hangs up.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many connections the limit of open files allows, less an eighth for the application.
fn room() -> usize {
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let room = files.saturating_sub((files / 8).max(64)).max(1);
    usize::try_from(room).unwrap_or(usize::MAX)
}
