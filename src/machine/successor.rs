//! A master whose predecessor lives: from the exec to the predecessor's EOF. (A cold start goes
//! through `Starting` too, without a predecessor.)

use std::time::Instant;

use super::action::{Action, Note, Verdict, Who};
use super::event::{
    Event, Failure, FromPredecessor, FromSuccessor, Order, OrderKind, Signal, dealt_with,
    of_successor,
};
use super::master::{Accepting, Machine, Step};
use super::message::Supersede;
use super::phase::Phase;
use super::timing::Timer;
use crate::api::Outcome;

impl Machine {
    pub(super) fn starting(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::WorkersReady => {
                if self.predecessor_listens() {
                    s.tell_predecessor(FromSuccessor::Ready);
                    self.enter(Phase::Standby, s);
                    self.beat_again(s);
                } else if self.predecessor.is_some() {
                    self.alone(s);
                } else {
                    s.act(Action::OwnPid);
                    self.enter(Phase::Serving, s);
                    s.act(Action::StartedCold);
                    s.act(Action::NotifyReady);
                }
            }
            Event::WorkersFailed(why) => {
                if self.predecessor_listens() {
                    s.tell_predecessor(FromSuccessor::Yield {
                        reason: why,
                        retire: true,
                        then: None,
                    });
                } else {
                    self.cannot_start(why, s);
                }
            }
            Event::Timer(Timer::Start) => {
                let why = format!(
                    "the workers were not ready within {} (start_timeout)",
                    humantime::format_duration(self.timing.start)
                );
                self.cannot_start(why, s);
            }
            Event::PredecessorClosed => {
                // Nobody evicts us now; the deadline is our own.
                self.arm(Timer::Start, self.timing.start, s);
            }
            Event::Predecessor(FromPredecessor::Retire(_)) => self.retire(Signal::Term, s),
            Event::Predecessor(FromPredecessor::Release) => self.release(s),
            Event::Signal(signal @ (Signal::Quit | Signal::Term | Signal::Int)) => {
                self.told_to_leave(signal, s);
            }
            Event::Signal(signal @ (Signal::Hup | Signal::Usr2 | Signal::Winch)) => {
                s.refuse_signal(signal, "this master is still starting");
            }
            Event::Order(Order::Stop) if !self.predecessor_listens() => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            Event::Order(order) => {
                s.refuse(&order, "this master is still starting");
            }
            Event::WorkersGone
            | Event::Reloaded
            | Event::ReloadFailed(_)
            | Event::Unhealthy(_)
            | of_successor!()
            | Event::Predecessor(
                FromPredecessor::Takeover | FromPredecessor::Ready | FromPredecessor::Commit,
            )
            | Event::PredecessorExited
            | dealt_with!() => {}
        }
    }

    /// A cold start that does not come up.
    fn cannot_start(&mut self, why: String, s: &mut Step) {
        s.act(Action::Note(Note::WorkersFail(why)));
        s.act(Action::KillWorkers);
        self.enter(Phase::Done, s);
        s.act(Action::Exit(crate::api::exit::FAILED));
    }

    /// QUIT, TERM or INT to a successor that does not own the service.
    fn told_to_leave(&mut self, signal: Signal, s: &mut Step) {
        if self.predecessor_listens() {
            // Else its EOF would look like a death. And the predecessor, if it was told to leave
            // too, stops the service.
            s.tell_predecessor(FromSuccessor::Leaving);
            self.retire(signal, s);
        } else {
            self.stop(signal, s);
        }
    }

    pub(super) fn standby(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::Predecessor(FromPredecessor::Takeover) => self.own(s),
            Event::Predecessor(FromPredecessor::Retire(_)) => self.sent_away(s),
            Event::Predecessor(FromPredecessor::Release) => self.release(s),
            Event::PredecessorClosed => self.alone(s),
            Event::WorkersFailed(reason) | Event::Unhealthy(reason) => {
                s.tell_predecessor(FromSuccessor::Yield {
                    reason,
                    retire: true,
                    then: None,
                });
            }
            Event::Signal(Signal::Usr2) if self.hold => {
                if self.accepting == Accepting::On {
                    self.accepting = Accepting::Ready;
                    s.act(Action::Quiesce);
                }
            }
            Event::Signal(Signal::Winch) if self.hold => self.drain_workers(self.timing.drain, s),
            // One that stepped back would accept again.
            Event::Signal(Signal::Hup) if self.accepting != Accepting::On => {
                s.refuse_signal(Signal::Hup, "this master's workers do not accept");
            }
            Event::Signal(Signal::Hup) if self.reloading => {
                s.refuse_signal(Signal::Hup, "a configuration reload is under way");
            }
            Event::Signal(Signal::Hup) => {
                self.start_reload(s);
            }
            Event::Signal(signal @ (Signal::Usr2 | Signal::Winch)) => {
                s.refuse_signal(signal, "this master does not serve yet");
            }
            Event::Signal(signal @ (Signal::Quit | Signal::Term | Signal::Int)) => {
                self.told_to_leave(signal, s);
            }
            Event::Reloaded => self.reload_ended(Verdict::Done, s),
            Event::ReloadFailed(failure) => self.reload_ended(Verdict::Failed(failure), s),
            Event::Order(order) => {
                s.refuse(
                    &order,
                    "this master does not own the service; ask its predecessor",
                );
            }
            Event::Predecessor(FromPredecessor::Ready | FromPredecessor::Commit)
            | Event::WorkersReady
            | Event::WorkersGone
            | of_successor!()
            | Event::PredecessorExited
            | dealt_with!() => {}
        }
    }

    /// The service is ours; the predecessor is parked behind us.
    fn own(&mut self, s: &mut Step) {
        self.accept(s);
        self.enter(Phase::Probation, s);
        if !self.hold {
            // What the order was answered by: from now on it is we who fail it.
            s.tell_predecessor(FromSuccessor::Ready);
            if self.timing.probation.is_zero() {
                self.commit(s);
            } else {
                self.arm(Timer::Probation, self.timing.probation, s);
            }
        }
    }

    pub(super) fn probation(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::Order(Order::Commit) => {
                self.pend(OrderKind::Commit);
                self.commit(s);
            }
            Event::Order(Order::Rollback { .. }) => {
                self.pend(OrderKind::Rollback);
                self.give_back("rolled back by an order".into(), None, s);
            }
            Event::Order(Order::Upgrade {
                supersede: Some(then),
                end_oldest,
                ..
            }) => {
                // We shall drain then.
                if !self.has_room(end_oldest, s) {
                    return s.act(Action::Settle(OrderKind::Upgrade, Verdict::Full));
                }
                self.pend(OrderKind::Upgrade);
                self.give_back("superseded by another upgrade".into(), Some(then), s);
            }
            Event::Order(
                order @ Order::Upgrade {
                    supersede: None, ..
                },
            ) => s.refuse(
                &order,
                "the last upgrade is in probation; `commit`, `rollback` or `--supersede`",
            ),
            Event::WorkersFailed(reason) | Event::Unhealthy(reason) => {
                let retire = !self.hold;
                self.give_back_as(reason, retire, None, s);
            }
            Event::Signal(signal @ (Signal::Quit | Signal::Term)) => {
                self.leaving = Some(signal);
                self.give_back(format!("told to leave by SIG{}", signal.as_str()), None, s);
            }
            Event::Signal(Signal::Int) => {
                self.leaving = Some(Signal::Int);
                self.give_back("told to leave by SIGINT".into(), None, s);
                s.tell_predecessor(FromSuccessor::Leaving);
                self.retire(Signal::Int, s);
            }
            Event::Predecessor(FromPredecessor::Retire(_)) => self.sent_away(s),
            Event::Predecessor(FromPredecessor::Release) => self.release(s),
            // Time passed in health; or it was told to leave, and does so when it has our word.
            Event::Timer(Timer::Probation) | Event::Predecessor(FromPredecessor::Commit) => {
                self.commit(s);
            }
            Event::Predecessor(FromPredecessor::Ready) => self.stand_back(s),
            Event::PredecessorClosed => self.alone(s),
            Event::Signal(signal @ (Signal::Usr2 | Signal::Winch)) => self.remember(signal, s),
            Event::Signal(Signal::Hup) if !self.reloading => {
                self.start_reload(s);
            }
            Event::Signal(Signal::Hup) => {
                s.refuse_signal(Signal::Hup, "a configuration reload is under way");
            }
            Event::Order(Order::Reload) if !self.reloading => {
                self.pend(OrderKind::Reload);
                self.start_reload(s);
            }
            Event::Order(order @ Order::Reload) => {
                s.refuse(&order, "a configuration reload is under way; try again");
            }
            Event::Order(Order::Stop) => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            Event::Reloaded => self.reload_ended(Verdict::Done, s),
            Event::ReloadFailed(failure) => self.reload_ended(Verdict::Failed(failure), s),
            Event::Predecessor(FromPredecessor::Takeover)
            | Event::WorkersReady
            | Event::WorkersGone
            | of_successor!()
            | Event::PredecessorExited
            | dealt_with!() => {}
        }
    }

    /// Hold mode: the predecessor accepts again and owns the service; we accept too until a
    /// signal says otherwise.
    fn stand_back(&mut self, s: &mut Step) {
        let left = self.leaving.take();
        (self.why, self.next) = (None, None);
        self.main_is_the_predecessors();
        // A rollback was ordered: the predecessor has not heard it yet, and sends us away when it does.
        let failure = Failure::new("the predecessor took the service back first");
        self.settle_pending(OrderKind::Commit, Verdict::Failed(failure), s);
        self.enter(Phase::Standby, s);
        for signal in self.recall(s) {
            if self.phase == Phase::Standby {
                self.standby(Event::Signal(signal), s);
            }
        }
        if let (Some(signal), Phase::Standby) = (left, self.phase) {
            self.told_to_leave(signal, s);
        }
    }

    fn give_back(&mut self, reason: String, then: Option<Supersede>, s: &mut Step) {
        self.give_back_as(reason, true, then, s);
    }

    fn give_back_as(
        &mut self,
        reason: String,
        retire: bool,
        then: Option<Supersede>,
        s: &mut Step,
    ) {
        // Should the predecessor be gone before it has the service, it is for us to do.
        (self.why, self.next) = (Some(Failure::new(&*reason)), then.clone());
        s.tell_predecessor(FromSuccessor::Yield {
            reason,
            retire,
            then,
        });
        self.enter(Phase::Yielded, s);
        // A predecessor that cannot take back in the time of a start is worth less than we are.
        self.arm(Timer::Commit, self.timing.start + self.timing.evict, s);
    }

    fn commit(&mut self, s: &mut Step) {
        s.tell_predecessor(FromSuccessor::Commit);
        self.enter(Phase::Committing, s);
        self.arm(Timer::Commit, self.timing.commit, s);
    }

    pub(super) fn committing(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::PredecessorClosed => self.alone(s),
            Event::Timer(Timer::Commit) => {
                self.kill_predecessor(s);
                self.arm(Timer::Commit, self.timing.commit, s);
            }
            Event::Predecessor(FromPredecessor::Retire(_)) => {
                let failure = Failure::new("the predecessor took the service back first");
                self.settle_pending(OrderKind::Commit, Verdict::Failed(failure), s);
                self.sent_away(s);
            }
            Event::Predecessor(FromPredecessor::Release) => self.release(s),
            Event::Predecessor(FromPredecessor::Ready) => self.stand_back(s),
            Event::Signal(signal @ (Signal::Quit | Signal::Term | Signal::Int)) => {
                self.leaving = Some(signal);
            }
            Event::Order(Order::Commit) => self.pend(OrderKind::Commit),
            Event::Order(Order::Stop) => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            Event::Order(
                order @ (Order::Upgrade { .. } | Order::Rollback { .. } | Order::Reload),
            ) => {
                s.refuse(&order, "the commit is under way; try again");
            }
            Event::Signal(signal @ (Signal::Hup | Signal::Usr2 | Signal::Winch)) => {
                s.refuse_signal(signal, "the commit is under way");
            }
            Event::Reloaded => self.reload_ended(Verdict::Done, s),
            Event::ReloadFailed(failure) => self.reload_ended(Verdict::Failed(failure), s),
            Event::WorkersFailed(why) => s.act(Action::Note(Note::WorkersFail(why))),
            Event::Predecessor(FromPredecessor::Takeover | FromPredecessor::Commit)
            | Event::Unhealthy(_)
            | Event::WorkersReady
            | Event::WorkersGone
            | of_successor!()
            | Event::PredecessorExited
            | dealt_with!() => {}
        }
    }

    /// Somebody waits for what gives the service back: nothing is committed by time before `until`.
    pub fn prolong_probation(&mut self, until: Instant) {
        if let Some(at) = self.timers.get(Timer::Probation) {
            self.timers.arm(Timer::Probation, at.max(until));
        }
    }

    /// The predecessor is gone: the service is ours alone. Only what was committed is good.
    fn alone(&mut self, s: &mut Step) {
        let (from, committed) = (self.phase, self.phase == Phase::Committing);
        let both_leave = committed || self.predecessor.is_some_and(|p| p.committed);
        self.timers.disarm(Timer::Heartbeat);
        self.hold = false;
        if self.predecessor.is_some_and(|p| p.exited) {
            // A worker that accepts is named in between.
            self.accept(s);
            self.predecessor_gone(s);
        } else {
            self.name_main(Who::Me, s);
            self.accept(s);
        }
        self.forget(s);
        if committed {
            s.act(Action::KeepDisk);
            s.act(Action::DropListeners);
            self.enter(Phase::Serving, s);
            self.settle_pending(OrderKind::Commit, Verdict::Done, s);
            s.act(Action::Conclude(Outcome::Committed, None));
        } else {
            self.enter(Phase::Serving, s);
            self.prove_alone(s);
        }
        match self.leaving.take() {
            // Both were told to leave: the service stops.
            Some(signal) if both_leave => return self.stop(signal, s),
            Some(signal) => s.act(Action::Note(Note::SignalDropped(signal))),
            None => {}
        }
        if from == Phase::Yielded {
            s.act(Action::Note(Note::GoesBack));
            self.abandon_reload("the way back begins", s);
            if self.next.is_some() {
                self.go_on(s);
            } else {
                self.go_back(s);
            }
        } else if self.reloading {
            self.enter(Phase::Reloading, s);
        }
    }

    /// Nobody is parked behind us any more, and nothing is final.
    fn prove_alone(&mut self, s: &mut Step) {
        self.alone_on_trial = true;
        self.arm(Timer::ColdTrial, self.timing.probation, s);
        s.act(Action::ProveAlone);
    }

    pub(super) fn yielded(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::Predecessor(FromPredecessor::Retire(_)) => self.sent_away(s),
            Event::Predecessor(FromPredecessor::Release) => self.release(s),
            Event::Predecessor(FromPredecessor::Ready) => self.stand_back(s),
            Event::PredecessorClosed => self.alone(s),
            Event::Timer(Timer::Commit) => {
                self.kill_predecessor(s);
                self.arm(Timer::Commit, self.timing.commit, s);
            }
            Event::Signal(signal @ (Signal::Quit | Signal::Term)) => self.leaving = Some(signal),
            Event::Signal(Signal::Int) => {
                s.tell_predecessor(FromSuccessor::Leaving);
                self.retire(Signal::Int, s);
            }
            Event::Signal(signal @ (Signal::Usr2 | Signal::Winch)) => self.remember(signal, s),
            Event::Signal(Signal::Hup) => {
                s.refuse_signal(Signal::Hup, "this generation has given up");
            }
            Event::Order(Order::Rollback { .. }) => self.pend(OrderKind::Rollback),
            Event::Order(Order::Stop) => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            Event::Order(order @ (Order::Upgrade { .. } | Order::Commit | Order::Reload)) => {
                s.refuse(
                    &order,
                    "this generation has given up; its predecessor takes back",
                );
            }
            Event::WorkersFailed(why) => s.act(Action::Note(Note::WorkersFail(why))),
            Event::Reloaded => self.reload_ended(Verdict::Done, s),
            Event::ReloadFailed(failure) => self.reload_ended(Verdict::Failed(failure), s),
            // Its EOF follows.
            Event::Predecessor(FromPredecessor::Commit | FromPredecessor::Takeover)
            | Event::Unhealthy(_)
            | Event::WorkersReady
            | Event::WorkersGone
            | of_successor!()
            | Event::PredecessorExited
            | dealt_with!() => {}
        }
    }
}
