//! Sets of workers are started, and workers: from the master's own image, and told what they are.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::{Hand, Set, State, Worker, Workers};
use crate::config::{Config, Identities};
use crate::machine::Event;
use crate::machine::link::{Reads, Report, Start, TlsSecrets, ToWorker};
use crate::machine::pool::Pool;
use crate::master::hosting::Hold;
use crate::master::input::Input;
use crate::master::line::Line;
use crate::master::sockets::Sockets;
use crate::sys::board::Board;
use crate::sys::channel::Channel;
use crate::sys::secrets;
use crate::sys::signals;
use crate::sys::spawn::{self, Spawn, WORKER_ENV};

impl Workers {
    /// Starts a set; it waits for [`accept`](Self::accept).
    pub fn start(
        &mut self,
        config: Arc<Config>,
        sockets: Arc<Sockets>,
        hold: Option<Arc<Hold>>,
    ) -> Vec<Event> {
        self.discard_current();
        self.unanswered = 0;
        let set = self.new_set(config, sockets, hold);
        let (id, count) = (set.id, set.count);
        self.current = Some(set);
        self.fill(id, count)
    }

    /// Starts a set beside the one that serves; it takes over when all of it is ready.
    pub fn reload(
        &mut self,
        config: Arc<Config>,
        sockets: Arc<Sockets>,
        hold: Option<Arc<Hold>>,
    ) -> Vec<Event> {
        let set = self.new_set(config, sockets, hold);
        let (id, count) = (set.id, set.count);
        self.candidate = Some(set);
        self.fill(id, count)
    }

    fn new_set(
        &mut self,
        config: Arc<Config>,
        sockets: Arc<Sockets>,
        hold: Option<Arc<Hold>>,
    ) -> Set {
        let id = self.next_set;
        self.next_set += 1;
        let count = config.workers.count();
        let start = config.upgrade.start_timeout;
        Set {
            id,
            config,
            sockets,
            hold,
            count,
            mode: State::Ready,
            complete: false,
            pool: Pool::new(count, start, Instant::now()),
            board: (count > 1)
                .then(|| Board::create(count))
                .transpose()
                .unwrap_or_else(|e| {
                    tracing::warn!("the workers cannot share connections evenly: {e}");
                    None
                }),
        }
    }

    fn fill(&mut self, set: u64, count: u16) -> Vec<Event> {
        let spawned = (0..count).flat_map(|slot| self.spawn(set, slot));
        spawned.collect()
    }

    pub(super) fn spawn(&mut self, set: u64, slot: u16) -> Vec<Event> {
        match self.start_one(set, slot) {
            Ok(()) => Vec::new(),
            Err(e) => self.failed(set, slot, &format!("cannot start a worker: {e}")),
        }
    }

    fn start_one(&mut self, set: u64, slot: u16) -> Result<(), StartError> {
        let Some(wanted) = self.set(set) else {
            return Ok(());
        };
        let config = Arc::clone(&wanted.config);
        let hand = wanted.first_hand(slot);
        let sockets = Arc::clone(&wanted.sockets);
        let board = wanted.board.as_ref().and_then(|fd| fd.try_clone().ok());
        let hold = wanted.hold.clone();
        let (ours, theirs) = Channel::pair()?;
        let tls = self.tls_secrets(&config)?;
        let holds = hold.as_ref().map(|hold| hold.end()).transpose()?;
        let mut spec = Spawn::new(
            self.image.as_fd(),
            format!("{}: worker process g{}", self.name, self.generation),
        );
        spec.channel = Some((WORKER_ENV, theirs));
        spec.blocked = signals::BLOCKED_AT_EXEC;
        let process = spawn::spawn(spec)?;
        let id = self.next_worker;
        self.next_worker += 1;
        let inbox = self.inbox.clone();
        let line = Line::new(ours, move |heard| {
            let inbox = inbox.clone();
            async move {
                let _ = inbox.send(Input::Worker(id, heard)).await;
            }
        });
        Input::WorkerExited(id).when_gone(Some(Arc::new(process.handle())), &self.inbox);
        let start = Start {
            name: self.name.clone(),
            generation: self.generation,
            slot,
            version: self.version.clone(),
            config: Config::clone(&config),
            listeners: hand.len(),
            handoff: self.handoff.clone(),
            board: board.is_some(),
            typed: self.typed.clone(),
            hosted: hold.as_ref().map(|hold| hold.hosted.clone()),
            tls: tls.is_some(),
        };
        let beside = board.into_iter().chain(holds).chain(tls).collect();
        line.say(ToWorker::Start(Box::new(start)), beside);
        self.lock_pids().insert(process.pid());
        let mut worker = Worker {
            set,
            slot,
            process,
            line,
            state: State::Starting,
            reads: Reads::default(),
            report: Report::default(),
            half_gone: None,
            closing: false,
            hand: Hand::new(),
            full: false,
            questions: 0,
            answers: 0,
        };
        worker.give(sockets.some(|id| hand.contains_key(&id)), &hand);
        let silent = hold.map(|hold| hold.silent()).unwrap_or_default();
        if !silent.is_empty() {
            worker.tell_silent(silent);
        }
        worker.hand = hand;
        self.all.insert(id, worker);
        Ok(())
    }

    /// The memory that a worker of this configuration reads its keys from.
    fn tls_secrets(&self, config: &Config) -> std::io::Result<Option<OwnedFd>> {
        let Some(identities) = &config.tls.identities else {
            return Ok(None);
        };
        let secrets = TlsSecrets {
            identities: Identities::clone(identities),
            tickets: config.tls.tickets.then(|| self.tickets.clone()),
        };
        secrets::wrap(&secrets).map(Some)
    }
}

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Spawn(#[from] spawn::SpawnError),
}
