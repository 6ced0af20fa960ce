//! Workers leave: they drain, or are killed.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{State, Worker, Workers};
use crate::machine::Event;
use crate::machine::link::{DrainReason, ToWorker};
use crate::master::input::Input;

/// A draining worker cuts what is left by itself; one that does not is killed after this.
const OVERDUE: Duration = Duration::from_secs(1);

impl Workers {
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
        self.left_events()
    }

    pub(super) fn drain_one(&mut self, id: u64, limit: Option<Duration>, reason: DrainReason) {
        let Some(worker) = self.all.get_mut(&id) else {
            return;
        };
        if worker.state == State::Starting {
            // It holds nothing: no reason to wait for it.
            let _ = worker.process.signal(Signal::SIGKILL);
        }
        // One that was told already has not forgotten it.
        worker.closing |= worker.state.may_accept();
        worker.state = State::Draining;
        let timeout_ms = limit.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let order = ToWorker::Drain {
            timeout_ms,
            pass: reason != DrainReason::Stop,
            reason,
        };
        worker.line.say(order, Vec::new());
        if let Some(limit) = limit {
            Input::WorkerOverdue(id).after(limit + OVERDUE, &self.inbox);
        }
    }

    /// Everybody leaves now.
    pub fn kill(&mut self) -> Vec<Event> {
        self.current = None;
        self.candidate = None;
        self.kill_those(|_| true);
        self.left_events()
    }

    pub(super) fn discard_current(&mut self) {
        if let Some(set) = self.current.take() {
            self.kill_those(|worker| worker.set == set.id);
        }
    }

    pub(super) fn kill_those(&mut self, which: impl Fn(&Worker) -> bool) {
        for worker in self.all.values_mut().filter(|worker| which(worker)) {
            worker.closing |= worker.state.may_accept();
            worker.state = State::Draining;
            let _ = worker.process.signal(Signal::SIGKILL);
        }
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

    /// The candidate is given up; the set that serves was never touched.
    pub fn cancel_reload(&mut self) {
        if let Some(set) = self.candidate.take() {
            self.kill_those(|worker| worker.set == set.id);
        }
    }

    /// Of those that were told to leave none accepts any more, or none is left.
    pub(super) fn left_events(&self) -> Vec<Event> {
        let mut events = self.closed_event();
        events.extend(self.gone_event());
        events
    }

    pub(super) fn closed_event(&self) -> Vec<Event> {
        if self.all.values().any(|worker| worker.closing) {
            Vec::new()
        } else {
            vec![Event::WorkersClosed]
        }
    }

    pub(super) fn gone_event(&self) -> Vec<Event> {
        if self.all.is_empty() && self.current.is_none() && self.candidate.is_none() {
            vec![Event::WorkersGone]
        } else {
            Vec::new()
        }
    }
}
