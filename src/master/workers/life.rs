//! What becomes of workers: they are ready, say something, end; and what the pool decides then.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::figures::drained;
use super::{Half, LAST_WORDS, State, Worker, Workers};
use crate::machine::Event;
use crate::machine::link::{DrainReason, FromWorker, Report};
use crate::machine::pool::{self, Act};
use crate::master::input::Input;
use crate::master::line::Heard;
use crate::sys::board::Board;

impl Workers {
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
            Ok(FromWorker::Ready { reads }) => {
                worker.reads = reads;
                if worker.state == State::Starting {
                    worker.state = State::Ready;
                }
                let (set, slot) = (worker.set, worker.slot);
                self.pool_hears(set, slot, pool::Event::Ready);
                self.ready(id, set)
            }
            Ok(FromWorker::Failed { reason }) => {
                // It may go on serving what it can: it is out of the set, and has a time to leave.
                let (set, slot) = (worker.set, worker.slot);
                let limit = self.set(set).map(|set| set.config.drain.stop_timeout);
                self.drain_one(id, limit, DrainReason::Reload);
                self.deal();
                // It is tried again all the same: whoever takes the service back has nobody else.
                let mut events = self.failed(set, slot, &reason);
                let complete = self.set(set).is_none_or(|set| set.complete);
                if !complete && events.is_empty() {
                    events = self.give_up(set, &reason);
                }
                events
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
            Ok(FromWorker::Closed) => {
                worker.closing = false;
                self.closed_event()
            }
            Ok(FromWorker::Drained(report)) => {
                worker.report = report;
                Vec::new()
            }
            Ok(FromWorker::Report(report)) => {
                worker.report = report;
                worker.answers += 1;
                let (set, slot) = (worker.set, worker.slot);
                let serves = worker.state != State::Draining;
                if serves && self.set(set).is_some_and(|set| set.pool.vouches(slot)) {
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
            if !current.complete && current.pool.complete() {
                current.complete = true;
                return vec![Event::WorkersReady];
            }
        } else if let Some(candidate) = self.candidate.as_mut().filter(|s| s.id == set) {
            if candidate.pool.complete() {
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
        std::iter::once(Event::Reloaded)
            .chain(self.closed_event())
            .collect()
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
                    Input::WorkerExited(id).after(LAST_WORDS, &self.inbox);
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
            return self.left_events();
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
    pub(super) fn failed(&mut self, set: u64, slot: u16, why: &str) -> Vec<Event> {
        let Some(wanted) = self.set_mut(set) else {
            return self.gone_event();
        };
        let acts = wanted.pool.step(slot, pool::Event::Failed, Instant::now());
        let spent = acts.contains(&Act::Spent);
        if spent && self.candidate.as_ref().is_some_and(|s| s.id == set) {
            return self.give_up(set, why);
        }
        // One that died by itself is started again at once.
        let mut events = self.due();
        if spent {
            events.push(Event::WorkersFailed(format!(
                "the workers keep dying: {why}"
            )));
        }
        events
    }

    pub(super) fn pool_hears(&mut self, set: u64, slot: u16, event: pool::Event) {
        if let Some(set) = self.set_mut(set) {
            // Only a failure is answered.
            let _ = set.pool.step(slot, event, Instant::now());
        }
    }

    /// When something is due without being asked.
    pub fn deadline(&self) -> Option<Instant> {
        let sets = self.current.iter().chain(&self.candidate);
        sets.filter_map(|set| set.pool.deadline()).min()
    }

    /// Does what is due.
    pub fn due(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let sets = self.current.iter_mut().chain(&mut self.candidate);
        let acts: Vec<(u64, Act)> = sets
            .flat_map(|set| {
                let id = set.id;
                set.pool.due(now).into_iter().map(move |act| (id, act))
            })
            .collect();
        let mut events = Vec::new();
        for (set, act) in acts {
            match act {
                Act::Start(slot) => events.extend(self.spawn(set, slot)),
                Act::Kill(slot) => self.kill_late(set, slot),
                Act::Replace(slot) => {
                    self.set_aside(set, slot);
                    events.extend(self.spawn(set, slot));
                }
                Act::Spent => {}
            }
        }
        events
    }

    fn worker_of(&self, set: u64, slot: u16) -> Option<u64> {
        let is_it = |w: &Worker| w.set == set && w.slot == slot && w.state != State::Draining;
        self.all.iter().find(|(_, w)| is_it(w)).map(|(id, _)| *id)
    }

    fn kill_late(&self, set: u64, slot: u16) {
        let worker = self.worker_of(set, slot).and_then(|id| self.all.get(&id));
        if let Some(worker) = worker {
            let pid = worker.process.pid();
            tracing::error!(
                "worker {pid} (slot {slot}) was not ready within start_timeout: it is killed"
            );
            let _ = worker.process.signal(Signal::SIGKILL);
        }
    }

    /// It hangs: it may finish what it holds, should it come to itself again, and is killed soon.
    fn set_aside(&mut self, set: u64, slot: u16) {
        let Some(id) = self.worker_of(set, slot) else {
            return;
        };
        let limit = self.set(set).map(|set| set.config.drain.stop_timeout);
        if let Some(worker) = self.all.get(&id) {
            let pid = worker.process.pid();
            tracing::error!(
                "worker {pid} (slot {slot}) hangs: it is replaced, and killed when it does not leave"
            );
        }
        self.drain_one(id, limit, DrainReason::Reload);
        self.deal();
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
}
