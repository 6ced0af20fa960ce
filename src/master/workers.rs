//! The worker processes of one generation: started from the master's own image, told what to do,
//! started again when they die, sent away.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use super::hosting::Hold;
use super::input::Input;
use super::line::{Heard, Line};
use super::sockets::Sockets;
use crate::api;
use crate::config::{Config, Identities};
use crate::machine::Event;
use crate::machine::link::{DrainReason, FromWorker, Report, Start, TlsSecrets, ToWorker};
use crate::machine::message::Identity;
use crate::machine::pool::Budget;
use crate::machine::tickets::TicketKeys;
use crate::sys::board::Board;
use crate::sys::channel::Channel;
use crate::sys::image::Image;
use crate::sys::process::{Exit, Other, Process};
use crate::sys::secrets;
use crate::sys::signals;
use crate::sys::spawn::{self, Spawn, WORKER_ENV};

mod deal;
mod figures;
mod queues;

use deal::Hand;
pub use figures::Question;
use figures::drained;
use queues::Held;

/// All workers of this master.
#[derive(Debug)]
pub struct Workers {
    inbox: mpsc::Sender<Input>,
    image: Arc<Image>,
    name: String,
    version: String,
    /// Our command line.
    typed: Vec<OsString>,
    generation: u64,
    /// `handoff.sock`.
    handoff: Option<PathBuf>,
    /// Receiving ends whose senders still live.
    held: Vec<Held>,
    /// They are looked at again in a moment.
    looks_again: bool,
    next_worker: u64,
    next_set: u64,
    all: BTreeMap<u64, Worker>,
    current: Option<Set>,
    candidate: Option<Set>,
    /// What the workers that have gone did, all of them.
    gone: Report,
    /// Of it: what became of connections in the drain that is or was last.
    tally: api::Connections,
    /// For whoever must tell the service's own processes from an operator's.
    pids: Pids,
    /// The unanswered questions of the watchdog.
    unanswered: u32,
    /// Why nobody goes back from this generation, if its application says so.
    irreversible: Option<String>,
    /// Of TLS.
    tickets: TicketKeys,
}

/// Processes of the service: our workers, this master and those before it, whose children are
/// ours too.
pub type Pids = Arc<Mutex<HashSet<u32>>>;

#[derive(Debug)]
struct Worker {
    set: u64,
    slot: u16,
    process: Process,
    line: Line<ToWorker>,
    state: State,
    report: Report,
    /// Its process has ended, its last words may still be on their way; or the other way round.
    half_gone: Option<Half>,
    /// The sockets it was given.
    hand: Hand,
    /// It holds as many connections as it may.
    full: bool,
    /// Its first unanswered question.
    asked: Option<Instant>,
    /// How many questions it was asked, and has answered.
    questions: u64,
    answers: u64,
}

/// What of a worker has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Channel,
    Process,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    Accepting,
    Quiesced,
    Draining,
}

/// Workers with one configuration.
#[derive(Debug)]
struct Set {
    id: u64,
    config: Arc<Config>,
    sockets: Arc<Sockets>,
    /// The hosted application that they are in front of.
    hold: Option<Arc<Hold>>,
    count: u16,
    mode: State,
    /// Everybody was ready once.
    complete: bool,
    budget: Budget,
    /// How many connections each of them holds, for all of them to see: they share the sockets.
    board: Option<OwnedFd>,
}

/// A worker may fail so often within the window before it is said.
const FORGIVEN: usize = 3;
const WINDOW: Duration = Duration::from_secs(10);
/// For what a worker said last to be read, should something keep its channel open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// A draining worker cuts what is left by itself; one that does not is killed after this.
const OVERDUE: Duration = Duration::from_secs(1);

impl Workers {
    /// None yet.
    #[must_use]
    pub fn new(
        inbox: mpsc::Sender<Input>,
        image: Arc<Image>,
        name: &str,
        me: &Identity,
        typed: Vec<OsString>,
        handoff: Option<PathBuf>,
    ) -> Self {
        Self {
            inbox,
            image,
            name: name.into(),
            version: me.version.clone(),
            typed,
            generation: me.generation,
            handoff,
            held: Vec::new(),
            looks_again: false,
            next_worker: 1,
            next_set: 1,
            all: BTreeMap::new(),
            current: None,
            candidate: None,
            gone: Report::default(),
            tally: api::Connections::default(),
            pids: Pids::default(),
            unanswered: 0,
            irreversible: None,
            tickets: TicketKeys::default(),
        }
    }

    /// The ring of TLS ticket keys.
    #[must_use]
    pub fn tickets(&self) -> &TicketKeys {
        &self.tickets
    }

    /// All workers have this ring from now on, and those that start.
    pub fn set_tickets(&mut self, ring: TicketKeys) {
        self.tickets = ring;
        for worker in self.all.values().filter(|w| w.state != State::Draining) {
            match secrets::wrap(&self.tickets) {
                Ok(fd) => worker.line.say(ToWorker::TicketKeys, vec![fd]),
                Err(e) => tracing::error!("a worker does not get the TLS ticket keys: {e}"),
            }
        }
    }

    /// Why nobody goes back from this generation, if its application says so.
    #[must_use]
    pub fn irreversible(&self) -> Option<&str> {
        self.irreversible.as_deref()
    }

    /// Another master is one of us.
    pub fn know_master(&self, pid: u32) {
        self.lock_pids().insert(pid);
    }

    /// It has gone, and its number may be anybody's.
    pub fn forget_master(&self, pid: u32) {
        self.lock_pids().remove(&pid);
    }

    /// The service's own processes, always up to date.
    #[must_use]
    pub fn pids(&self) -> Pids {
        Arc::clone(&self.pids)
    }

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
        self.current = Some(set);
        self.fill(|workers| workers.current.as_ref())
    }

    /// Starts a set beside the one that serves; it takes over when all of it is ready.
    pub fn reload(
        &mut self,
        config: Arc<Config>,
        sockets: Arc<Sockets>,
        hold: Option<Arc<Hold>>,
    ) -> Vec<Event> {
        let set = self.new_set(config, sockets, hold);
        self.candidate = Some(set);
        self.fill(|workers| workers.candidate.as_ref())
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
        Set {
            id,
            config,
            sockets,
            hold,
            count,
            mode: State::Ready,
            complete: false,
            budget: Budget::new(FORGIVEN.max(usize::from(count)), WINDOW),
            board: (count > 1)
                .then(|| Board::create(count))
                .transpose()
                .unwrap_or_else(|e| {
                    tracing::warn!("the workers cannot share connections evenly: {e}");
                    None
                }),
        }
    }

    fn fill(&mut self, which: impl Fn(&Self) -> Option<&Set>) -> Vec<Event> {
        let Some((set, count)) = which(self).map(|set| (set.id, set.count)) else {
            return Vec::new();
        };
        let mut events = Vec::new();
        for slot in 0..count {
            events.extend(self.spawn(set, slot));
        }
        events
    }

    /// Starts the worker of a slot again, if its set is still wanted.
    pub fn respawn(&mut self, set: u64, slot: u16) -> Vec<Event> {
        let taken = self
            .all
            .values()
            .any(|w| w.set == set && w.slot == slot && w.state != State::Draining);
        if taken {
            Vec::new()
        } else {
            self.spawn(set, slot)
        }
    }

    fn spawn(&mut self, set: u64, slot: u16) -> Vec<Event> {
        let Some(wanted) = self.set(set) else {
            return Vec::new();
        };
        let (config, sockets) = (Arc::clone(&wanted.config), Arc::clone(&wanted.sockets));
        let board = wanted.board.as_ref().and_then(|fd| fd.try_clone().ok());
        let hold = wanted.hold.clone();
        let hand = wanted.first_hand(slot);
        match self.start_one(set, slot, &config, &sockets, hand, (board, hold)) {
            Ok(()) => Vec::new(),
            Err(e) => self.failed(set, slot, &format!("cannot start a worker: {e}")),
        }
    }

    fn start_one(
        &mut self,
        set: u64,
        slot: u16,
        config: &Config,
        sockets: &Sockets,
        hand: Hand,
        (board, hold): (Option<OwnedFd>, Option<Arc<Hold>>),
    ) -> Result<(), StartError> {
        let (ours, theirs) = Channel::pair()?;
        let tls = self.tls_secrets(config)?;
        let listeners = sockets.copies(|id| hand.contains_key(&id))?;
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
        self.watch(id, process.pid());
        let start = Start {
            name: self.name.clone(),
            generation: self.generation,
            slot,
            version: self.version.clone(),
            config: config.clone(),
            listeners: listeners.len(),
            handoff: self.handoff.clone(),
            receives: false,
            board: board.is_some(),
            typed: self.typed.clone(),
            upstreams: hold.as_ref().map(|hold| hold.upstreams.clone()),
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
            report: Report::default(),
            half_gone: None,
            hand: Hand::new(),
            full: false,
            asked: None,
            questions: 0,
            answers: 0,
        };
        worker.give(listeners, &hand);
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

    fn watch(&self, id: u64, pid: u32) {
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            if let Ok(Some(process)) = Other::open(pid) {
                let _ = process.gone().await;
            }
            let _ = inbox.send(Input::WorkerExited(id)).await;
        });
    }

    /// Whether there is a set that serves or shall serve.
    #[must_use]
    pub fn are_wanted(&self) -> bool {
        self.current.is_some()
    }

    /// Tells the set that serves to accept, now and after every respawn.
    pub fn accept(&mut self) {
        self.tell_current(State::Accepting);
    }

    /// Tells it to stop accepting and keep what it holds.
    pub fn quiesce(&mut self) {
        self.tell_current(State::Quiesced);
    }

    fn tell_current(&mut self, mode: State) {
        let Some(set) = &mut self.current else { return };
        set.mode = mode;
        let id = set.id;
        for worker in self.all.values_mut().filter(|w| w.set == id) {
            worker.go_to(mode);
        }
        self.deal();
    }

    /// Everybody drains. A second call with a shorter limit counts.
    ///
    /// Unless the service stops, somebody else serves on and takes the connections.
    pub fn drain(&mut self, limit: Option<Duration>, reason: DrainReason) -> Vec<Event> {
        self.rescue_queues();
        self.current = None;
        self.candidate = None;
        let ids: Vec<u64> = self.all.keys().copied().collect();
        for id in ids {
            self.drain_one(id, limit, reason);
        }
        self.gone_event()
    }

    fn drain_one(&mut self, id: u64, limit: Option<Duration>, reason: DrainReason) {
        let Some(worker) = self.all.get_mut(&id) else {
            return;
        };
        if worker.state == State::Starting {
            // It holds nothing: no reason to wait for it.
            let _ = worker.process.signal(Signal::SIGKILL);
        }
        worker.state = State::Draining;
        let timeout_ms = limit.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let order = ToWorker::Drain {
            timeout_ms,
            pass: reason != DrainReason::Stop,
            reason,
        };
        worker.line.say(order, Vec::new());
        if let Some(limit) = limit {
            let inbox = self.inbox.clone();
            tokio::spawn(async move {
                tokio::time::sleep(limit + OVERDUE).await;
                let _ = inbox.send(Input::WorkerOverdue(id)).await;
            });
        }
    }

    /// Everybody leaves now.
    pub fn kill(&mut self) -> Vec<Event> {
        self.current = None;
        self.candidate = None;
        for worker in self.all.values_mut() {
            worker.state = State::Draining;
            let _ = worker.process.signal(Signal::SIGKILL);
        }
        self.gone_event()
    }

    /// A draining worker outlived its limit.
    pub fn overdue(&mut self, id: u64) {
        if let Some(worker) = self.all.get(&id) {
            if worker.state == State::Draining {
                tracing::warn!(
                    "worker {} does not leave: it is killed",
                    worker.process.pid()
                );
                let _ = worker.process.signal(Signal::SIGKILL);
            }
        }
    }

    /// A worker said something, or its channel ended.
    pub fn heard(&mut self, id: u64, heard: Heard) -> Vec<Event> {
        let message = match heard {
            Heard::Message(received) => received.decode::<FromWorker>(),
            // Its end follows and says more.
            Heard::Closed => return self.half_gone(id, Half::Channel),
            Heard::Broken(e) => Err(e),
        };
        let Some(worker) = self.all.get_mut(&id) else {
            return Vec::new();
        };
        match message {
            Ok(FromWorker::Ready) => {
                if worker.state == State::Starting {
                    worker.state = State::Ready;
                }
                let set = worker.set;
                self.ready(id, set)
            }
            Ok(FromWorker::Failed { reason }) => {
                let set = worker.set;
                worker.state = State::Draining;
                self.deal();
                self.give_up(set, &reason)
            }
            Ok(FromWorker::Irreversible { reason }) => {
                if self.irreversible.as_ref() != Some(&reason) {
                    tracing::warn!("there is no way back from this generation: {reason}");
                }
                self.irreversible = Some(reason);
                Vec::new()
            }
            Ok(FromWorker::Full { full }) => {
                worker.full = full;
                self.deal();
                Vec::new()
            }
            Ok(FromWorker::Drained(report)) => {
                worker.report = report;
                Vec::new()
            }
            Ok(FromWorker::Report(report)) => {
                worker.report = report;
                worker.answers += 1;
                if worker.state != State::Draining {
                    self.unanswered = 0;
                }
                self.answered(id);
                Vec::new()
            }
            Err(e) => {
                tracing::error!("worker {}: {e}: it is killed", worker.process.pid());
                let _ = worker.process.signal(Signal::SIGKILL);
                Vec::new()
            }
        }
    }

    fn ready(&mut self, id: u64, set: u64) -> Vec<Event> {
        let all = |w: &BTreeMap<u64, Worker>, count: u16| {
            let ready = w
                .values()
                .filter(|w| w.set == set && !matches!(w.state, State::Starting | State::Draining));
            ready.count() >= usize::from(count)
        };
        if let Some(current) = self.current.as_mut().filter(|s| s.id == set) {
            let mode = current.mode;
            if let Some(worker) = self.all.get_mut(&id) {
                worker.go_to(mode);
            }
            self.settle_queues();
            self.deal();
            let Some(current) = self.current.as_mut() else {
                return Vec::new();
            };
            if !current.complete && all(&self.all, current.count) {
                current.complete = true;
                return vec![Event::WorkersReady];
            }
        } else if let Some(candidate) = self.candidate.as_mut().filter(|s| s.id == set) {
            if all(&self.all, candidate.count) {
                candidate.complete = true;
                return self.swap();
            }
        }
        Vec::new()
    }

    /// The candidate takes over: first it accepts, then the others drain.
    fn swap(&mut self) -> Vec<Event> {
        let Some(mut new) = self.candidate.take() else {
            return Vec::new();
        };
        let old = self.current.take();
        new.mode = old.as_ref().map_or(State::Accepting, |old| old.mode);
        let limit = Some(new.config.drain.timeout).filter(|d| !d.is_zero());
        self.current = Some(new);
        self.tell_current(self.current.as_ref().map_or(State::Ready, |s| s.mode));
        let current = self.current.as_ref().map(|s| s.id);
        let leaving: Vec<u64> = self
            .all
            .iter()
            .filter(|(_, w)| Some(w.set) != current && w.state != State::Draining)
            .map(|(id, _)| *id)
            .collect();
        for id in leaving {
            self.drain_one(id, limit, DrainReason::Reload);
        }
        vec![Event::Reloaded]
    }

    /// A worker's process has ended, but what it said last may not have been heard yet.
    pub fn exited(&mut self, id: u64) -> Vec<Event> {
        self.half_gone(id, Half::Process)
    }

    fn half_gone(&mut self, id: u64, half: Half) -> Vec<Event> {
        let Some(worker) = self.all.get_mut(&id) else {
            return Vec::new();
        };
        match worker.half_gone {
            // Or it is the second time, and a child of it keeps the channel open.
            Some(other) if other != half || half == Half::Process => self.gone_for_good(id),
            _ => {
                worker.half_gone = Some(half);
                if half == Half::Process {
                    let inbox = self.inbox.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(LAST_WORDS).await;
                        let _ = inbox.send(Input::WorkerExited(id)).await;
                    });
                }
                Vec::new()
            }
        }
    }

    fn gone_for_good(&mut self, id: u64) -> Vec<Event> {
        let Some(mut worker) = self.all.remove(&id) else {
            return Vec::new();
        };
        let exit = worker.process.reap();
        self.lock_pids().remove(&worker.process.pid());
        self.gone += Report {
            connections: 0,
            ..worker.report
        };
        self.tally += drained(&worker.report);
        self.receiver_gone(id);
        if let Some(board) = self.set(worker.set).and_then(|set| set.board.as_ref()) {
            // The others must not wait for its turn.
            let cleared = board
                .try_clone()
                .and_then(|fd| Board::join(fd, worker.slot).say(None));
            if let Err(e) = cleared {
                tracing::warn!("cannot clear the slot of a worker: {e}");
            }
        }
        if worker.state == State::Draining {
            tracing::debug!("worker {} {exit}", worker.process.pid());
            return self.gone_event();
        }
        let why = format!(
            "worker {} (slot {}) {exit}{}",
            worker.process.pid(),
            worker.slot,
            if worker.state == State::Starting {
                " before it was ready"
            } else {
                ""
            }
        );
        tracing::error!("{why}");
        self.deal();
        self.failed(worker.set, worker.slot, &why)
    }

    /// A worker of a wanted set is missing: another one is started, at once or after a pause.
    fn failed(&mut self, set: u64, slot: u16, why: &str) -> Vec<Event> {
        let Some(wanted) = self.set_mut(set) else {
            return self.gone_event();
        };
        let (pause, spent) = wanted.budget.failed(Instant::now());
        let is_candidate = self.candidate.as_ref().is_some_and(|s| s.id == set);
        if spent && is_candidate {
            return self.give_up(set, why);
        }
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = inbox.send(Input::Respawn { set, slot }).await;
        });
        if spent {
            return vec![Event::WorkersFailed(format!(
                "the workers keep dying: {why}"
            ))];
        }
        Vec::new()
    }

    /// A set cannot work, however often it is tried.
    fn give_up(&mut self, set: u64, why: &str) -> Vec<Event> {
        if self.candidate.as_ref().is_some_and(|s| s.id == set) {
            self.cancel_reload();
            return vec![Event::ReloadFailed(crate::machine::Failure::new(why))];
        }
        if self.current.as_ref().is_some_and(|s| s.id == set) {
            return vec![Event::WorkersFailed(why.into())];
        }
        Vec::new()
    }

    /// The candidate is given up; the set that serves was never touched.
    pub fn cancel_reload(&mut self) {
        if let Some(set) = self.candidate.take() {
            for worker in self.all.values_mut().filter(|w| w.set == set.id) {
                worker.state = State::Draining;
                let _ = worker.process.signal(Signal::SIGKILL);
            }
        }
    }

    fn discard_current(&mut self) {
        if let Some(set) = self.current.take() {
            for worker in self.all.values_mut().filter(|w| w.set == set.id) {
                worker.state = State::Draining;
                let _ = worker.process.signal(Signal::SIGKILL);
            }
        }
    }

    /// A connection to every worker of the set that serves or shall serve, as if it had come to
    /// this listener; with the worker's pid.
    pub fn probe(&self, listener: &str) -> Vec<(u32, UnixStream)> {
        let set = self.current.as_ref().map(|set| set.id);
        let asked = self.all.values().filter(|w| Some(w.set) == set);
        let mut streams = Vec::new();
        for worker in asked.filter(|w| w.state != State::Starting) {
            match UnixStream::pair() {
                Ok((ours, theirs)) => {
                    let listener = listener.to_owned();
                    worker
                        .line
                        .say(ToWorker::Serve { listener }, vec![theirs.into()]);
                    streams.push((worker.process.pid(), ours));
                }
                Err(e) => tracing::error!("cannot make a pair for the health check: {e}"),
            }
        }
        streams
    }

    /// Log files are opened again.
    pub fn reopen_logs(&self) {
        for worker in self.all.values() {
            worker.line.say(ToWorker::ReopenLogs, Vec::new());
        }
    }

    /// A worker that serves: it has not ended, and nobody has told it to leave.
    #[must_use]
    pub fn serving(&self) -> Option<u32> {
        let mut serving = self
            .all
            .values()
            .filter(|w| w.state == State::Accepting && w.process.peek().is_none());
        serving.next().map(|w| w.process.pid())
    }

    /// The sockets of the set that serves: without those that were let go meanwhile, with those
    /// that were added.
    pub fn replace_sockets(&mut self, sockets: &Arc<Sockets>) {
        if let Some(set) = &mut self.current {
            set.sockets = Arc::clone(sockets);
        }
        self.deal();
    }

    fn gone_event(&self) -> Vec<Event> {
        if self.all.is_empty() && self.current.is_none() && self.candidate.is_none() {
            vec![Event::WorkersGone]
        } else {
            Vec::new()
        }
    }

    fn set(&self, id: u64) -> Option<&Set> {
        [&self.current, &self.candidate]
            .into_iter()
            .flatten()
            .find(|set| set.id == id)
    }

    fn set_mut(&mut self, id: u64) -> Option<&mut Set> {
        [&mut self.current, &mut self.candidate]
            .into_iter()
            .flatten()
            .find(|set| set.id == id)
    }

    fn lock_pids(&self) -> std::sync::MutexGuard<'_, HashSet<u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    fn go_to(&mut self, mode: State) {
        let order = match (self.state, mode) {
            (State::Starting | State::Draining, _) => return,
            (_, State::Accepting) => ToWorker::Accept,
            (State::Accepting, State::Quiesced) => ToWorker::Quiesce,
            _ => return,
        };
        self.state = mode;
        self.line.say(order, Vec::new());
    }
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Accepting => "accepting",
            Self::Quiesced => "quiesced",
            Self::Draining => "draining",
        }
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

/// How a process ended, for messages.
#[must_use]
pub fn ended(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "ended".into(), |exit| exit.to_string())
}
