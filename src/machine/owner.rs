//! The owner: alone, or with a successor that does not own the service yet (or no longer).

use super::action::{Action, Note, Verdict, Who};
use super::crowd::Hurry;
use super::event::{
    Event, Failure, FromPredecessor, FromSuccessor, Order, OrderKind, Signal, dealt_with,
    of_predecessor, ours,
};
use super::master::{Machine, Step, Successor};
use super::phase::Phase;
use super::timing::Timer;
use crate::api::Outcome;

const UNHEARD: &str =
    "the service manager has not heard yet that the service runs; try again in a second";

impl Machine {
    pub(super) fn serving(&mut self, event: Event, s: &mut Step) {
        match event {
            // Its successor would not say it either, and the service manager ends what does not start.
            Event::Order(order @ (Order::Upgrade { .. } | Order::Rollback { nothing: None }))
                if !self.said_ready =>
            {
                s.refuse(&order, UNHEARD);
            }
            Event::Signal(Signal::Usr2) if !self.said_ready => {
                s.refuse_signal(Signal::Usr2, UNHEARD);
            }
            Event::Order(Order::Upgrade {
                hold, end_oldest, ..
            }) => {
                if !self.has_room(end_oldest, s) {
                    return s.act(Action::Settle(OrderKind::Upgrade, Verdict::Full));
                }
                self.pend(OrderKind::Upgrade);
                self.launch(hold, false, s);
            }
            Event::Signal(Signal::Usr2) if self.crowded() => {
                s.refuse_signal(
                    Signal::Usr2,
                    "too many generations still drain; see `status`",
                );
            }
            Event::Signal(Signal::Usr2) => self.launch(true, false, s),
            Event::Order(Order::Rollback { nothing: Some(why) }) => {
                s.act(Action::Settle(OrderKind::Rollback, Verdict::Refused(why)));
            }
            Event::Order(Order::Rollback { nothing: None }) => {
                self.pend(OrderKind::Rollback);
                self.go_back(s);
            }
            Event::Order(Order::Reload) => {
                self.pend(OrderKind::Reload);
                self.reload(s);
            }
            Event::Signal(Signal::Hup) => self.reload(s),
            Event::Order(Order::Commit) => self.commit_alone(s),
            Event::Order(Order::Stop) => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            Event::Signal(signal @ (Signal::Quit | Signal::Term | Signal::Int)) => {
                self.stop(signal, s);
            }
            Event::Signal(Signal::Winch) => {
                s.refuse_signal(Signal::Winch, "there is no successor to drain for");
            }
            Event::WorkersFailed(why) | Event::Unhealthy(why) if self.alone_on_trial => {
                s.act(Action::Note(Note::GoesBack));
                self.why = Some(Failure::new(why));
                self.go_back(s);
            }
            Event::WorkersFailed(why) => s.act(Action::Note(Note::WorkersFail(why))),
            Event::PredecessorExited => self.predecessor_gone(s),
            Event::Launched(pid) => {
                // It was started when the launch was given up already.
                self.enter(Phase::Evicting, s);
                self.stray(pid, s);
            }
            ours!()
            | Event::LaunchFailed(_)
            | Event::Successor(_)
            | Event::SuccessorClosed(_)
            | Event::SuccessorExited(_)
            | of_predecessor!()
            | dealt_with!() => {}
        }
    }

    /// Whether one more generation may begin to drain; the oldest that does makes room when it shall.
    pub(super) fn has_room(&mut self, end_oldest: bool, s: &mut Step) -> bool {
        !self.crowded() || end_oldest && self.end_oldest(s)
    }

    /// The oldest generation that drains makes room. Whether there is one.
    fn end_oldest(&mut self, s: &mut Step) -> bool {
        let by = s.now + self.timing.stop + self.timing.commit;
        if let Some(pid) = self.crowd.hurry_oldest(by) {
            s.act(Action::Note(Note::OldestEnded(pid)));
            s.act(Action::EndDrainer(pid, Signal::Term));
            self.time_drainers();
            return true;
        }
        false
    }

    fn reload(&mut self, s: &mut Step) {
        self.start_reload(s);
        self.enter(Phase::Reloading, s);
    }

    pub(super) fn start_reload(&mut self, s: &mut Step) {
        self.reloading = true;
        self.arm(Timer::Reload, self.timing.start, s);
        s.act(Action::Reload);
    }

    pub(super) fn reloading(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::Reloaded => {
                // Nobody goes back to what the configuration dropped.
                s.act(Action::DropListeners);
                self.reload_ended(Verdict::Done, s);
                self.enter(Phase::Serving, s);
            }
            Event::ReloadFailed(failure) => {
                self.reload_ended(Verdict::Failed(failure), s);
                self.enter(Phase::Serving, s);
            }
            Event::Order(Order::Stop) => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            Event::Signal(signal @ (Signal::Quit | Signal::Term | Signal::Int)) => {
                self.stop(signal, s);
            }
            Event::Order(Order::Commit) => self.commit_alone(s),
            Event::Order(
                order @ (Order::Upgrade { .. } | Order::Rollback { .. } | Order::Reload),
            ) => {
                s.refuse(&order, "a configuration reload is under way; try again");
            }
            Event::Signal(signal @ (Signal::Hup | Signal::Usr2 | Signal::Winch)) => {
                s.refuse_signal(signal, "a configuration reload is under way");
            }
            Event::WorkersFailed(why) => s.act(Action::Note(Note::WorkersFail(why))),
            Event::PredecessorExited => self.predecessor_gone(s),
            Event::Launched(pid) => self.stray(pid, s),
            Event::SuccessorExited(_) if self.successor.is_some() => {
                s.act(Action::ReapSuccessor);
                self.successor = None;
            }
            Event::WorkersReady
            | Event::WorkersGone
            | Event::Unhealthy(_)
            | Event::LaunchFailed(_)
            | Event::Successor(_)
            | Event::SuccessorClosed(_)
            | Event::SuccessorExited(_)
            | of_predecessor!()
            | dealt_with!() => {}
        }
    }

    pub(super) fn reload_ended(&mut self, verdict: Verdict, s: &mut Step) {
        self.reloading = false;
        self.timers.disarm(Timer::Reload);
        self.settle_pending(OrderKind::Reload, verdict, s);
    }

    /// A reload that what begins now does not wait for.
    pub(super) fn abandon_reload(&mut self, why: &str, s: &mut Step) {
        if self.reloading {
            let failure = Failure::new(why);
            s.act(Action::AbandonReload(failure.clone()));
            self.reload_ended(Verdict::Failed(failure), s);
        }
    }

    /// An operator's commit when nobody is parked: a trial ends with it.
    fn commit_alone(&mut self, s: &mut Step) {
        if self.timers.get(Timer::ColdTrial).is_some() {
            self.proved(s);
            self.settle(OrderKind::Commit, Verdict::Done, s);
        } else {
            let so = Verdict::Already("this generation is committed");
            self.settle(OrderKind::Commit, so, s);
        }
    }

    /// What nobody is parked behind is good: it has served its time in health, or an operator says so.
    pub(super) fn proved(&mut self, s: &mut Step) {
        self.timers.disarm(Timer::ColdTrial);
        s.act(Action::Proved);
        if std::mem::take(&mut self.alone_on_trial) {
            s.act(Action::DropListeners);
            s.act(Action::Conclude(Outcome::Committed, None));
        }
    }

    /// Nobody is parked: the program of before comes back from the disk, by a hot upgrade. It is not
    /// refused for those who drain.
    pub(super) fn go_back(&mut self, s: &mut Step) {
        self.has_room(true, s);
        self.launch(false, true, s);
    }

    pub(super) fn launch(&mut self, hold: bool, back: bool, s: &mut Step) {
        self.hold = hold;
        let why = self.why.take();
        if std::mem::take(&mut self.alone_on_trial) {
            // What begins now decides.
            let gone = "the generation before was gone before it was final";
            let why = why.map_or_else(|| gone.into(), |why| format!("{}, and {gone}", why.reason));
            s.act(Action::Conclude(
                Outcome::Interrupted,
                Some(Failure::new(why)),
            ));
        }
        self.restored = false;
        self.successor = Some(Successor::NEW);
        let next = self.next.take();
        s.act(Action::Launch { back, next });
        self.enter(Phase::Launching, s);
        // The pre-flight has a deadline of its own, which can say what it is about.
        self.arm(Timer::Start, self.timing.start + self.timing.evict, s);
    }

    pub(super) fn launching(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::Launched(_) => self.arm(Timer::Start, self.timing.start, s),
            Event::LaunchFailed(failure) => {
                self.successor = None;
                self.give_up(Outcome::Failed, failure, s);
            }
            Event::Successor(FromSuccessor::Hello) => s.act(Action::Inherit),
            Event::Successor(FromSuccessor::Ready) => self.successor_ready(s),
            Event::Successor(FromSuccessor::Yield { reason, .. }) => {
                self.evict(Outcome::Failed, Failure::new(reason), s);
            }
            Event::Successor(FromSuccessor::Leaving) => {
                self.told_too("the new master was told to leave before it was ready", s);
            }
            Event::SuccessorClosed(failure) => self.evict(Outcome::Failed, failure, s),
            Event::SuccessorExited(how) => {
                let failure = Failure::new(format!("the new master {how} before it was ready"));
                self.evict(Outcome::Failed, failure, s);
            }
            Event::Timer(Timer::Start) => {
                let failure = Failure::new(format!(
                    "the new master was not ready within {} (start_timeout)",
                    humantime::format_duration(self.timing.start)
                ));
                self.evict(Outcome::Failed, failure, s);
            }
            // The launch is a rollback itself (after a commit): the same answer serves both.
            Event::Order(Order::Rollback { .. })
                if self.unsettled.contains(&OrderKind::Rollback) => {}
            Event::Order(Order::Rollback { .. }) => {
                let failure = Failure::new("rolled back by an order before it was ready");
                self.pend(OrderKind::Rollback);
                self.settle_pending(OrderKind::Rollback, Verdict::Done, s);
                self.evict(Outcome::RolledBack, failure, s);
            }
            Event::Order(Order::Stop) => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            Event::Signal(Signal::Int) => self.stop(Signal::Int, s),
            // Nobody is there yet who could serve instead: the service stops.
            Event::Signal(Signal::Term) if self.successor.is_none_or(|x| x.pid.is_none()) => {
                self.stop(Signal::Term, s);
            }
            Event::Signal(signal @ (Signal::Winch | Signal::Quit | Signal::Term)) => {
                self.remember(signal, s);
            }
            Event::Signal(signal @ (Signal::Hup | Signal::Usr2)) => {
                s.refuse_signal(signal, "an upgrade is under way");
            }
            Event::Order(order @ (Order::Upgrade { .. } | Order::Reload | Order::Commit)) => {
                s.refuse(&order, "an upgrade is under way; see `status`");
            }
            Event::WorkersFailed(why) => s.act(Action::Note(Note::WorkersFail(why))),
            Event::PredecessorExited => self.predecessor_gone(s),
            Event::Successor(
                FromSuccessor::Heartbeat | FromSuccessor::Commit | FromSuccessor::Release,
            )
            | ours!()
            | of_predecessor!()
            | dealt_with!() => {}
        }
    }

    fn successor_ready(&mut self, s: &mut Step) {
        s.act(Action::WritePids);
        if self.hold {
            self.enter(Phase::Beside, s);
            self.arm(Timer::Silence, self.timing.silence, s);
            self.launch_done(s);
        } else {
            // Done when it says that it has taken over.
            self.take_over(s);
        }
        for signal in self.recall(s) {
            match self.phase {
                Phase::Beside => self.beside(Event::Signal(signal), s),
                Phase::Parked => self.parked(Event::Signal(signal), s),
                _ => {}
            }
        }
    }

    /// The order that the launch was for: an upgrade, or a rollback after a commit.
    pub(super) fn launch_done(&mut self, s: &mut Step) {
        self.settle_pending(OrderKind::Upgrade, Verdict::Done, s);
        self.settle_pending(OrderKind::Rollback, Verdict::Done, s);
    }

    /// The instant at which the successor becomes responsible.
    pub(super) fn take_over(&mut self, s: &mut Step) {
        self.name_main(Who::Successor, s);
        s.tell_successor(FromPredecessor::Takeover);
        self.drain_workers(self.timing.drain, s);
        self.enter(Phase::Parked, s);
        self.arm(Timer::Silence, self.timing.silence, s);
        if !self.hold {
            self.arm(
                Timer::DeadMan,
                self.timing.probation + self.timing.margin,
                s,
            );
        }
    }

    pub(super) fn beside(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::Signal(Signal::Winch) => self.take_over(s),
            Event::Signal(signal @ (Signal::Quit | Signal::Term | Signal::Int)) => {
                self.take_over(s);
                self.ask_to_commit(signal, s);
            }
            Event::Order(Order::Commit) => {
                self.pend(OrderKind::Commit);
                self.take_over(s);
                self.ask_to_commit(Signal::Quit, s);
            }
            Event::Order(Order::Rollback { .. }) => {
                let failure = Failure::new("rolled back by an order");
                self.pend(OrderKind::Rollback);
                self.settle_pending(OrderKind::Rollback, Verdict::Done, s);
                self.evict(Outcome::RolledBack, failure, s);
            }
            Event::Order(Order::Stop) => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            Event::Successor(FromSuccessor::Yield { reason, .. }) => {
                self.evict(Outcome::RolledBack, Failure::new(reason), s);
            }
            Event::Successor(FromSuccessor::Leaving) => {
                self.told_too("the new master was told to leave", s);
            }
            // It owned the service when it was ordered to stop it.
            Event::Successor(FromSuccessor::Release) => self.stop(Signal::Term, s),
            Event::SuccessorClosed(failure) => self.evict(Outcome::RolledBack, failure, s),
            Event::SuccessorExited(how) => {
                let failure = Failure::new(format!("the new master {how}"));
                self.evict(Outcome::RolledBack, failure, s);
            }
            Event::Timer(Timer::Silence) => {
                let failure = Failure::new("the new master hangs: it was silent for too long");
                self.evict(Outcome::RolledBack, failure, s);
            }
            Event::Successor(FromSuccessor::Heartbeat | FromSuccessor::Ready) => {
                self.arm(Timer::Silence, self.timing.silence, s);
            }
            Event::Signal(signal @ (Signal::Hup | Signal::Usr2)) => {
                s.refuse_signal(
                    signal,
                    "both generations accept: WINCH goes on, QUIT to the new one goes back",
                );
            }
            Event::Order(order @ (Order::Upgrade { .. } | Order::Reload)) => {
                s.refuse(
                    &order,
                    "both generations accept; `commit` or `rollback` first",
                );
            }
            Event::WorkersFailed(why) => s.act(Action::Note(Note::WorkersFail(why))),
            Event::PredecessorExited => self.predecessor_gone(s),
            Event::Successor(FromSuccessor::Hello | FromSuccessor::Commit)
            | Event::Launched(_)
            | Event::LaunchFailed(_)
            | ours!()
            | of_predecessor!()
            | dealt_with!() => {}
        }
    }

    /// A successor that does not own the service was told to leave. When we were told so too, the
    /// service stops: systemd and containers send TERM to everybody.
    fn told_too(&mut self, why: &str, s: &mut Step) {
        if self.remembered.contains(&Signal::Term) {
            self.remembered.clear();
            self.stop(Signal::Term, s);
        } else {
            let outcome = if self.phase == Phase::Beside {
                Outcome::RolledBack
            } else {
                Outcome::Failed
            };
            self.evict(outcome, Failure::new(why), s);
        }
    }

    /// The successor is sent away; we own the service and accept.
    pub(super) fn evict(&mut self, outcome: Outcome, failure: Failure, s: &mut Step) {
        let Some(successor) = self.successor else {
            return self.give_up(outcome, failure, s);
        };
        if successor.pid.is_none() {
            s.act(Action::CancelLaunch);
            self.successor = None;
            return self.give_up(outcome, failure, s);
        }
        if !successor.closed {
            s.tell_successor(FromPredecessor::Retire(failure.reason.clone()));
        }
        self.forget(s);
        self.enter(Phase::Evicting, s);
        self.restore_disk(s);
        self.conclude(outcome, failure, s);
        if successor.exited {
            self.evicted(s);
        } else if successor.closed && successor.leaving {
            self.let_finish(s);
        } else if successor.closed || !successor.ready {
            // It holds no connection, or does not speak to us: no reason to wait.
            self.press_on(s);
        } else {
            // It lets go of the channel when its workers have closed, or hang.
            self.arm(Timer::Evict, self.timing.evict + self.timing.close, s);
        }
    }

    /// The successor obeys: what it holds may finish, within the limit of any drain.
    fn let_finish(&mut self, s: &mut Step) {
        match self.timing.drain {
            Some(drain) => self.arm(Timer::Evict, drain + self.timing.evict, s),
            None => self.timers.disarm(Timer::Evict),
        }
        self.supersede(s);
    }

    /// What waits for the eviction goes on beside a successor that only drains.
    fn supersede(&mut self, s: &mut Step) {
        if self.next.is_some() && self.may_linger() {
            self.let_linger(s);
            self.go_on(s);
        }
    }

    /// The rejected successor only drains, and nobody takes it for the main process: the service
    /// manager would see its end as that of the service.
    fn may_linger(&self) -> bool {
        self.only_drains() && self.main_known
    }

    /// The rejected successor let go of the service, and finishes what it holds.
    pub(super) fn only_drains(&self) -> bool {
        self.obeys() && self.successor.is_some_and(|x| x.closed)
    }

    /// The rejected successor was sent away in peace.
    pub(super) fn obeys(&self) -> bool {
        let obeys = |x: Successor| (x.ready || x.leaving) && x.evictions == 0;
        self.phase == Phase::Evicting && self.successor.is_some_and(obeys)
    }

    /// Nobody waits for clients that hold on to a rejected generation: it drains as any other one,
    /// beside whatever comes.
    fn let_linger(&mut self, s: &mut Step) {
        let end = self.timers.get(Timer::Evict);
        if let Some(pid) = self.successor.and_then(|successor| successor.pid) {
            s.act(Action::LetLinger);
            self.crowd.join(pid, end, Hurry::No);
        }
        self.alone_again(s);
    }

    /// A start ended and nobody is there to be sent away.
    fn give_up(&mut self, outcome: Outcome, failure: Failure, s: &mut Step) {
        self.forget(s);
        self.hold = false;
        self.enter(Phase::Serving, s);
        self.restore_disk(s);
        self.conclude(outcome, failure, s);
    }

    /// Once an upgrade, and never when another one follows: what is on disk now is its file.
    pub(super) fn restore_disk(&mut self, s: &mut Step) {
        if self.next.is_none() && !std::mem::replace(&mut self.restored, true) {
            s.act(Action::RestoreDisk);
        }
    }

    pub(super) fn conclude(&mut self, outcome: Outcome, failure: Failure, s: &mut Step) {
        self.undo(OrderKind::Upgrade);
        self.settle_pending(OrderKind::Upgrade, Verdict::Failed(failure.clone()), s);
        if outcome == Outcome::Failed {
            self.settle_pending(OrderKind::Rollback, Verdict::Failed(failure.clone()), s);
        }
        s.act(Action::Conclude(outcome, Some(failure)));
    }

    pub(super) fn evicting(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::SuccessorExited(_) => self.evicted(s),
            Event::MainNamed { done: true, .. } if self.successor.is_some_and(|x| x.exited) => {
                self.evicted(s);
            }
            Event::MainNamed { done: true, .. } => self.supersede(s),
            // One that never served has nothing to finish.
            Event::SuccessorClosed(_) if self.successor.is_some_and(|x| x.ready) => {
                self.let_finish(s);
            }
            Event::Timer(Timer::Evict) => self.press_on(s),
            Event::Order(Order::Rollback { .. }) => self.settle(
                OrderKind::Rollback,
                Verdict::Already("the previous generation serves already"),
                s,
            ),
            Event::Order(Order::Stop) => {
                self.pend(OrderKind::Stop);
                self.stop(Signal::Term, s);
            }
            // It owned the service when it was ordered to stop it.
            Event::Successor(FromSuccessor::Release) => self.stop(Signal::Term, s),
            Event::Signal(signal @ (Signal::Term | Signal::Int)) => self.stop(signal, s),
            Event::Order(Order::Upgrade { .. } | Order::Reload | Order::Commit)
            | Event::Signal(Signal::Hup | Signal::Usr2)
                if self.may_linger() =>
            {
                self.let_linger(s);
                self.serving(event, s);
            }
            Event::Signal(signal @ (Signal::Hup | Signal::Usr2 | Signal::Winch | Signal::Quit)) => {
                s.refuse_signal(signal, "the rejected generation is still leaving");
            }
            Event::Order(order @ (Order::Upgrade { .. } | Order::Reload | Order::Commit)) => {
                s.refuse(&order, "the rejected generation is still leaving; try again when `status` shows it gone");
            }
            Event::WorkersFailed(why) => s.act(Action::Note(Note::WorkersFail(why))),
            Event::PredecessorExited => self.predecessor_gone(s),
            Event::Successor(
                FromSuccessor::Hello
                | FromSuccessor::Ready
                | FromSuccessor::Heartbeat
                | FromSuccessor::Commit
                | FromSuccessor::Yield { .. }
                | FromSuccessor::Leaving,
            )
            | Event::SuccessorClosed(_)
            | Event::Launched(_)
            | Event::LaunchFailed(_)
            | ours!()
            | of_predecessor!()
            | dealt_with!() => {}
        }
    }

    /// A successor that nobody waits for any more. It has said nothing and got nothing.
    pub(super) fn stray(&mut self, pid: u32, s: &mut Step) {
        let stray = Successor {
            pid: Some(pid),
            evictions: 2,
            ..Successor::NEW
        };
        self.successor = Some(stray);
        s.act(Action::KillSuccessor);
    }

    fn alone_again(&mut self, s: &mut Step) {
        s.act(Action::OwnPid);
        self.successor = None;
        self.hold = false;
        self.enter(Phase::Serving, s);
    }

    /// The rejected successor is gone: its zombie may go too, once nobody takes it for the main process.
    pub(super) fn evicted(&mut self, s: &mut Step) {
        if !self.main_known {
            // The service manager sees the end of its main process when that is reaped.
            return;
        }
        s.act(Action::ReapSuccessor);
        self.alone_again(s);
        self.go_on(s);
    }

    /// To the upgrade that supersedes the rejected one.
    pub(super) fn go_on(&mut self, s: &mut Step) {
        if let Some(next) = &self.next {
            let hold = next.hold;
            self.pend(OrderKind::Upgrade);
            self.launch(hold, false, s);
        }
    }
}
