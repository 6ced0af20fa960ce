//! The predecessor while its successor owns the service: it watches, and can take it back.

use super::action::{Action, Note, Verdict, Who};
use super::event::{
    Event, Failure, FromPredecessor, FromSuccessor, Order, OrderKind, Signal, dealt_with,
    of_predecessor, ours,
};
use super::master::{Machine, Step};
use super::phase::Phase;
use super::timing::Timer;
use crate::api::Outcome;

impl Machine {
    pub(super) fn parked(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::Successor(FromSuccessor::Commit) => {
                let how = self.leaving.take().unwrap_or(Signal::Quit);
                self.leave(how, s);
            }
            Event::Successor(FromSuccessor::Yield { reason, .. }) => {
                self.reclaim(Failure::new(reason), s);
            }
            Event::Successor(FromSuccessor::Release) => {
                self.released = true;
                self.leave(Signal::Term, s);
            }
            Event::Successor(FromSuccessor::Leaving) => {
                let why =
                    "the new master was told to leave before it knew that it owns the service";
                self.reclaim(Failure::new(why), s);
            }
            Event::SuccessorClosed(failure) => self.reclaim(failure, s),
            Event::SuccessorExited(how) => {
                self.reclaim(Failure::new(format!("the new master {how}")), s);
            }
            Event::Timer(timer @ (Timer::Silence | Timer::DeadMan | Timer::Commit)) => {
                // It is broken: even in hold mode nobody wants it beside us.
                self.successor_mut(|x| x.retire = true);
                self.reclaim(Failure::new(self.overdue(timer)), s);
            }
            Event::Order(Order::Rollback { .. }) => {
                self.successor_mut(|x| x.retire = true);
                self.reclaim(Failure::new("rolled back by an order"), s);
                self.pend(OrderKind::Rollback);
            }
            Event::Signal(Signal::Hup) => {
                self.reclaim(Failure::new("rolled back by SIGHUP"), s);
            }
            Event::Signal(signal @ (Signal::Quit | Signal::Term | Signal::Int)) => {
                self.ask_to_commit(signal, s);
            }
            Event::Successor(FromSuccessor::Heartbeat) => {
                self.arm(Timer::Silence, self.timing.silence, s);
            }
            // It has taken over: its listeners listen, its workers accept.
            Event::Successor(FromSuccessor::Ready) => {
                self.arm(Timer::Silence, self.timing.silence, s);
                self.launch_done(s);
            }
            // The successor is the main process: there is nothing to claim.
            Event::PredecessorExited => self.predecessor = None,
            Event::Signal(Signal::Winch) => {
                s.refuse_signal(Signal::Winch, "this master is parked already");
            }
            Event::Signal(Signal::Usr2) => {
                s.refuse_signal(Signal::Usr2, "the new master lives; send it to the new one");
            }
            Event::Order(
                order @ (Order::Upgrade { .. } | Order::Commit | Order::Reload | Order::Stop),
            ) => {
                s.refuse(&order, "this master is parked; ask its successor");
            }
            Event::Successor(FromSuccessor::Hello)
            | Event::Launched(_)
            | Event::LaunchFailed(_)
            | Event::WorkersFailed(_)
            | ours!()
            | of_predecessor!()
            | dealt_with!() => {}
        }
    }

    fn overdue(&self, timer: Timer) -> String {
        match timer {
            Timer::DeadMan => "no commit came within the probation and its margin".into(),
            Timer::Commit => {
                "the new master did not make it final when this one was told to leave".into()
            }
            _ => format!(
                "the new master hangs: it was silent for {}",
                humantime::format_duration(self.timing.silence)
            ),
        }
    }

    /// We were told to leave: the successor shall make it final. Only its commit proves that it
    /// lives and keeps the service.
    pub(super) fn ask_to_commit(&mut self, how: Signal, s: &mut Step) {
        self.leaving = Some(how);
        self.arm(Timer::Commit, self.timing.commit, s);
        s.tell_successor(FromPredecessor::Commit);
    }

    /// EOF makes the commit true: nobody accepts here any more. Draining workers may outlast it.
    fn leave(&mut self, how: Signal, s: &mut Step) {
        self.successor_mut(|x| x.committed = true);
        self.forget(s);
        if how == Signal::Int {
            self.kill_workers(s);
        } else if how == Signal::Term {
            self.drain_workers(Some(self.timing.stop), s);
        }
        self.when_closed(Action::CloseSuccessor);
        self.settle_pending(OrderKind::Upgrade, Verdict::Done, s);
        self.settle_pending(OrderKind::Commit, Verdict::Done, s);
        // The successor writes it down when it has our EOF; at our door somebody may wait for it.
        self.when_closed(Action::Committed);
        self.enter(Phase::Draining, s);
        self.finish(s);
    }

    /// We take the service back. Our listeners were never let go.
    fn reclaim(&mut self, why: Failure, s: &mut Step) {
        let dead = self.successor.is_some_and(|x| x.closed);
        // TERM and INT went to everybody, or there is nobody else to serve: the service stops.
        let stops = matches!(self.leaving, Some(Signal::Term | Signal::Int));
        if dead || stops {
            // Before anything else: systemd does not see an alien main process die.
            self.name_main(Who::Me, s);
        }
        self.settle_pending(OrderKind::Commit, Verdict::Failed(why.clone()), s);
        // Its answer is that of the upgrade's end.
        self.undo(OrderKind::Upgrade);
        // The launch was a rollback itself, and its program serves no more.
        self.undo(OrderKind::Rollback);
        self.settle_pending(OrderKind::Rollback, Verdict::Failed(why.clone()), s);
        match self.leaving.take() {
            Some(signal) if stops => return self.stop(signal, s),
            Some(signal) => s.act(Action::Note(Note::SignalDropped(signal))),
            None => {}
        }
        self.start_workers(s, true);
        if !self.stays_beside() {
            self.restore_disk(s);
        }
        self.why = Some(why);
        self.enter(Phase::Reclaiming, s);
    }

    /// In hold mode signals decide about a living successor, not we.
    fn stays_beside(&self) -> bool {
        self.hold && self.successor_listens() && !self.successor.is_some_and(|x| x.retire)
    }

    pub(super) fn reclaiming(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::WorkersReady => self.reclaimed(s),
            // The pool starts them again, with growing pauses, for ever.
            Event::WorkersFailed(why) => s.act(Action::Note(Note::WorkersFail(why))),
            // The successor is the main process: there is nothing to claim.
            Event::PredecessorExited => self.predecessor = None,
            Event::SuccessorClosed(_) | Event::SuccessorExited(_) => {
                self.name_main(Who::Me, s);
                self.restore_disk(s);
            }
            Event::Successor(FromSuccessor::Release) => {
                self.released = true;
                self.leave(Signal::Term, s);
            }
            Event::Signal(signal @ (Signal::Quit | Signal::Term | Signal::Int))
                if self.stays_beside() && !self.successor.is_some_and(|x| x.yielded) =>
            {
                // The successor is well and owns the service: we were parked, and leave from there.
                self.drain_workers(self.timing.drain, s);
                self.forget(s);
                self.enter(Phase::Parked, s);
                self.arm(Timer::Silence, self.timing.silence, s);
                self.ask_to_commit(signal, s);
            }
            Event::Signal(signal @ (Signal::Term | Signal::Int)) => self.stop(signal, s),
            Event::Signal(Signal::Quit) => {
                s.refuse_signal(Signal::Quit, "this master takes the service back");
            }
            Event::Signal(Signal::Winch) if self.stays_beside() => {
                self.remember(Signal::Winch, s);
            }
            Event::Signal(signal @ (Signal::Winch | Signal::Usr2)) => {
                s.refuse_signal(signal, "this master takes the service back");
            }
            Event::Signal(Signal::Hup) => {
                s.refuse_signal(Signal::Hup, "this master takes the service back already");
            }
            Event::Order(Order::Rollback { .. }) => {
                self.successor_mut(|x| x.retire = true);
                self.pend(OrderKind::Rollback);
            }
            Event::Order(Order::Stop) => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            Event::Order(order @ (Order::Upgrade { .. } | Order::Commit | Order::Reload)) => {
                s.refuse(&order, "a rollback is under way");
            }
            // A commit that comes now is too late: the successor learns it by Retire.
            Event::Successor(
                FromSuccessor::Commit
                | FromSuccessor::Hello
                | FromSuccessor::Ready
                | FromSuccessor::Heartbeat
                | FromSuccessor::Yield { .. }
                | FromSuccessor::Leaving,
            )
            | Event::Launched(_)
            | Event::LaunchFailed(_)
            | Event::WorkersGone
            | Event::Reloaded
            | Event::ReloadFailed(_)
            | Event::Unhealthy(_)
            | of_predecessor!()
            | dealt_with!() => {}
        }
    }

    /// Our workers accept again.
    fn reclaimed(&mut self, s: &mut Step) {
        self.name_main(Who::Me, s);
        if self.stays_beside() {
            s.tell_successor(FromPredecessor::Ready);
            self.successor_mut(|x| x.yielded = false);
            self.why = None;
            self.enter(Phase::Beside, s);
            self.arm(Timer::Silence, self.timing.silence, s);
            for signal in self.recall(s) {
                if self.phase == Phase::Beside {
                    self.beside(Event::Signal(signal), s);
                }
            }
            return;
        }
        let failure = self
            .why
            .take()
            .unwrap_or_else(|| Failure::new("rolled back"));
        self.settle_pending(OrderKind::Rollback, Verdict::Done, s);
        self.evict(Outcome::RolledBack, failure, s);
    }
}
