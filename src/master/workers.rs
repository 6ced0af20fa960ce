//! The worker processes of one generation: started from the master's own image, told what to do,
//! started again when they die, sent away.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use super::input::Input;
use super::line::{Heard, Line};
use super::sockets::Sockets;
use crate::api;
use crate::config::{Config, Workers as Count};
use crate::machine::Event;
use crate::machine::link::{FromWorker, Report, Start, ToWorker, WorkerListener};
use crate::machine::message::Identity;
use crate::machine::pool::Budget;
use crate::sys::channel::{Channel, MAX_FDS};
use crate::sys::handoff;
use crate::sys::image::Image;
use crate::sys::process::{Exit, Other, Process};
use crate::sys::spawn::{self, Spawn, WORKER_ENV};

/// All workers of this master.
#[derive(Debug)]
pub struct Workers {
    inbox: mpsc::Sender<Input>,
    image: Arc<Image>,
    name: String,
    version: String,
    generation: u64,
    /// `handoff.sock`.
    handoff: Option<PathBuf>,
    /// Receiving ends whose senders still live.
    held: Vec<Held>,
    next_worker: u64,
    next_set: u64,
    workers: BTreeMap<u64, Worker>,
    current: Option<Set>,
    candidate: Option<Set>,
    /// What the workers that have gone did while they drained.
    gone: Report,
    /// The pids, for whoever must tell a worker from an operator.
    pids: Pids,
    /// The unanswered questions of the watchdog.
    unanswered: u32,
}

/// Processes that are workers.
pub type Pids = Arc<Mutex<HashSet<u32>>>;

#[derive(Debug)]
struct Worker {
    set: u64,
    slot: u16,
    process: Process,
    line: Line<ToWorker>,
    state: State,
    report: Report,
}

/// A copy of the receiving end that the worker of a slot has.
#[derive(Debug)]
struct Held {
    slot: u16,
    drainer: u32,
    end: OwnedFd,
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
    count: u16,
    mode: State,
    /// Everybody was ready once.
    complete: bool,
    budget: Budget,
}

/// A worker may fail so often within the window before it is said.
const FORGIVEN: usize = 3;
const WINDOW: Duration = Duration::from_secs(10);
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
        handoff: Option<PathBuf>,
    ) -> Self {
        Self {
            inbox,
            image,
            name: name.into(),
            version: me.version.clone(),
            generation: me.generation,
            handoff,
            held: Vec::new(),
            next_worker: 1,
            next_set: 1,
            workers: BTreeMap::new(),
            current: None,
            candidate: None,
            gone: Report::default(),
            pids: Pids::default(),
            unanswered: 0,
        }
    }

    /// The pids, always up to date.
    #[must_use]
    pub fn pids(&self) -> Pids {
        Arc::clone(&self.pids)
    }

    /// Starts a set; it waits for [`accept`](Self::accept).
    pub fn start(&mut self, config: Arc<Config>, sockets: Arc<Sockets>) -> Vec<Event> {
        self.discard_current();
        self.gone = Report::default();
        let set = self.new_set(config, sockets);
        self.current = Some(set);
        self.fill(|workers| workers.current.as_ref())
    }

    /// Starts a set beside the one that serves; it takes over when all of it is ready.
    pub fn reload(&mut self, config: Arc<Config>, sockets: Arc<Sockets>) -> Vec<Event> {
        let set = self.new_set(config, sockets);
        self.candidate = Some(set);
        self.fill(|workers| workers.candidate.as_ref())
    }

    fn new_set(&mut self, config: Arc<Config>, sockets: Arc<Sockets>) -> Set {
        let id = self.next_set;
        self.next_set += 1;
        let count = match config.workers {
            Count::Count(n) => n,
            Count::Auto => std::thread::available_parallelism()
                .map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX)),
        };
        Set {
            id,
            config,
            sockets,
            count,
            mode: State::Ready,
            complete: false,
            budget: Budget::new(FORGIVEN.max(usize::from(count)), WINDOW),
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
            .workers
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
        match self.start_one(set, slot, &config, &sockets) {
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
    ) -> Result<(), StartError> {
        let (ours, theirs) = Channel::pair()?;
        let listeners = sockets.for_worker()?;
        let mut spec = Spawn::new(
            self.image.as_fd(),
            format!("{}: worker process g{}", self.name, self.generation),
        );
        spec.channel = Some((WORKER_ENV, theirs));
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
        };
        line.say(ToWorker::Start(Box::new(start)), Vec::new());
        let mut listeners = listeners.into_iter().peekable();
        while listeners.peek().is_some() {
            let batch: Vec<_> = listeners.by_ref().take(MAX_FDS).collect();
            let what = batch
                .iter()
                .map(|l| WorkerListener {
                    name: l.name.clone(),
                    address: l.address().to_string(),
                })
                .collect();
            let fds = batch
                .into_iter()
                .map(crate::sys::listeners::Listener::into_fd);
            line.say(ToWorker::Listeners { listeners: what }, fds.collect());
        }
        self.lock_pids().insert(process.pid());
        let worker = Worker {
            set,
            slot,
            process,
            line,
            state: State::Starting,
            report: Report::default(),
        };
        self.workers.insert(id, worker);
        Ok(())
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
        for worker in self.workers.values_mut().filter(|w| w.set == id) {
            worker.go_to(mode);
        }
    }

    /// Everybody drains. A second call with a shorter limit counts.
    ///
    /// With `pass` somebody else serves on and takes the connections.
    pub fn drain(&mut self, limit: Option<Duration>, pass: bool) -> Vec<Event> {
        self.current = None;
        self.candidate = None;
        self.held.clear();
        let ids: Vec<u64> = self.workers.keys().copied().collect();
        for id in ids {
            self.drain_one(id, limit, pass);
        }
        self.gone_event()
    }

    fn drain_one(&mut self, id: u64, limit: Option<Duration>, pass: bool) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.state == State::Starting {
            // It holds nothing: no reason to wait for it.
            let _ = worker.process.signal(Signal::SIGKILL);
        }
        worker.state = State::Draining;
        let timeout_ms = limit.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        worker
            .line
            .say(ToWorker::Drain { timeout_ms, pass }, Vec::new());
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
        for worker in self.workers.values_mut() {
            worker.state = State::Draining;
            let _ = worker.process.signal(Signal::SIGKILL);
        }
        self.gone_event()
    }

    /// A draining worker outlived its limit.
    pub fn overdue(&mut self, id: u64) {
        if let Some(worker) = self.workers.get(&id) {
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
            Heard::Closed => return Vec::new(),
            Heard::Broken(e) => Err(e),
        };
        let Some(worker) = self.workers.get_mut(&id) else {
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
                self.give_up(set, &reason)
            }
            Ok(FromWorker::Report(report) | FromWorker::Drained(report)) => {
                worker.report = report;
                self.unanswered = 0;
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
            let replaces = current.complete;
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.go_to(mode);
            }
            if let Some(worker) = self.workers.get(&id).filter(|_| replaces) {
                self.inherit_queue(worker);
            }
            let Some(current) = self.current.as_mut() else {
                return Vec::new();
            };
            if !current.complete && all(&self.workers, current.count) {
                current.complete = true;
                return vec![Event::WorkersReady];
            }
        } else if let Some(candidate) = self.candidate.as_mut().filter(|s| s.id == set) {
            if all(&self.workers, candidate.count) {
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
            .workers
            .iter()
            .filter(|(_, w)| Some(w.set) != current && w.state != State::Draining)
            .map(|(id, _)| *id)
            .collect();
        for id in leaving {
            self.drain_one(id, limit, true);
        }
        vec![Event::Reloaded]
    }

    /// A worker's process has ended.
    pub fn exited(&mut self, id: u64) -> Vec<Event> {
        let Some(mut worker) = self.workers.remove(&id) else {
            return Vec::new();
        };
        let exit = worker.process.reap();
        self.lock_pids().remove(&worker.process.pid());
        self.gone.passed += worker.report.passed;
        self.gone.finished += worker.report.finished;
        self.gone.cut += worker.report.cut;
        self.gone.disagreements += worker.report.disagreements;
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
            for worker in self.workers.values_mut().filter(|w| w.set == set.id) {
                worker.state = State::Draining;
                let _ = worker.process.signal(Signal::SIGKILL);
            }
        }
    }

    fn discard_current(&mut self) {
        if let Some(set) = self.current.take() {
            for worker in self.workers.values_mut().filter(|w| w.set == set.id) {
                worker.state = State::Draining;
                let _ = worker.process.signal(Signal::SIGKILL);
            }
        }
    }

    /// Makes a pair for every worker that accepts, for one that drains: returns the sending ends.
    pub fn receive_from(&mut self, drainer: u32) -> Vec<OwnedFd> {
        let Some(set) = self.current.as_ref().map(|set| set.id) else {
            return Vec::new();
        };
        let mut sending = Vec::new();
        let receivers = self
            .workers
            .values()
            .filter(|w| w.set == set && w.state == State::Accepting);
        for worker in receivers {
            let made = handoff::pair().and_then(|(tx, rx)| Ok((tx, rx.try_clone()?, rx)));
            match made {
                Ok((tx, copy, rx)) => {
                    worker.line.say(ToWorker::ReceiveFrom, vec![rx]);
                    self.held.push(Held {
                        slot: worker.slot,
                        drainer,
                        end: copy,
                    });
                    sending.push(tx);
                }
                Err(e) => tracing::error!("cannot make a pair for connections: {e}"),
            }
        }
        sending
    }

    /// A draining worker has gone: nothing more comes from it.
    pub fn drainer_gone(&mut self, drainer: u32) {
        self.held.retain(|held| held.drainer != drainer);
    }

    /// What was queued for a worker that died goes to its replacement.
    fn inherit_queue(&self, worker: &Worker) {
        for held in self.held.iter().filter(|held| held.slot == worker.slot) {
            match held.end.try_clone() {
                Ok(end) => worker.line.say(ToWorker::ReceiveFrom, vec![end]),
                Err(e) => tracing::error!("cannot hand a queue of connections on: {e}"),
            }
        }
    }

    /// The listeners of the set that serves, from now on.
    pub fn use_sockets(&mut self, sockets: &Arc<Sockets>) {
        if let Some(set) = &mut self.current {
            set.sockets = Arc::clone(sockets);
        }
    }

    /// Asks everybody for figures. Returns how many were asked.
    pub fn ask(&mut self) -> usize {
        self.unanswered = self.unanswered.saturating_add(1);
        for worker in self.workers.values() {
            worker.line.say(ToWorker::Report, Vec::new());
        }
        self.workers.len()
    }

    /// Whether some worker answered one of the last few questions: else the watchdog is not fed.
    #[must_use]
    pub fn answer(&self) -> bool {
        self.unanswered <= 2
    }

    /// Log files are opened again.
    pub fn reopen_logs(&self) {
        for worker in self.workers.values() {
            worker.line.say(ToWorker::ReopenLogs, Vec::new());
        }
    }

    /// For `status`.
    #[must_use]
    pub fn report(&self) -> Vec<api::Worker> {
        self.workers
            .values()
            .map(|w| api::Worker {
                pid: w.process.pid(),
                generation: self.generation,
                state: w.state.as_str().into(),
                connections: w.report.connections,
                requests: w.report.requests,
            })
            .collect()
    }

    /// What became of the connections of workers that have gone.
    #[must_use]
    pub fn tally(&self) -> api::Connections {
        api::Connections {
            passed: self.gone.passed,
            finished: self.gone.finished,
            cut: self.gone.cut,
        }
    }

    /// The configuration of the set that serves.
    #[must_use]
    pub fn config(&self) -> Option<Arc<Config>> {
        self.current.as_ref().map(|set| Arc::clone(&set.config))
    }

    fn gone_event(&self) -> Vec<Event> {
        if self.workers.is_empty() && self.current.is_none() && self.candidate.is_none() {
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
