//! Leaving: the whole service stops, or another master serves.

use super::action::{Action, Verdict, Who};
use super::crowd::Hurry;
use super::event::{Event, FromPredecessor, FromSuccessor, Order, OrderKind, Signal};
use super::master::{Machine, Step};
use super::phase::Phase;
use super::timing::Timer;

impl Machine {
    /// The whole service stops: everybody leaves.
    pub(super) fn stop(&mut self, how: Signal, s: &mut Step) {
        let hurry = Hurry::of(how);
        self.stopping = Some(hurry);
        if self.successor.is_some_and(|x| x.exited) {
            // Not reaped, as in Draining: nobody waits for one that is gone.
            self.successor = None;
        }
        if self.successor_listens() {
            s.tell_successor(FromPredecessor::Release);
        }
        if self.predecessor_listens() {
            s.tell_predecessor(FromSuccessor::Release);
        }
        if self.successor.is_some_and(|x| x.pid.is_none()) {
            s.act(Action::CancelLaunch);
            self.successor = None;
        }
        self.settle_rest("the service stops", s);
        self.forget(s);
        self.drain_as(how, s);
        // One that has not ended its channel yet is told by a signal: what we say may come too late.
        let its_end = self.timers.get(Timer::Evict);
        let (rejected, its_end) = (self.obeys(), its_end.filter(|_| self.only_drains()));
        self.enter(Phase::Draining, s);
        match self.successor {
            Some(_) if rejected => self.timers.set(Timer::Evict, its_end),
            // It may not know yet how to read what we say.
            Some(successor) if !successor.ready => self.press_on(s),
            Some(successor) if !successor.committed => {
                self.arm(Timer::Evict, self.timing.stop, s);
            }
            _ => {}
        }
        if self.predecessor_listens() {
            self.arm(Timer::Commit, self.timing.stop + self.timing.commit, s);
        }
        // QUIT has no deadline but the drain's; so has a predecessor that drains since its commit.
        if hurry > Hurry::No {
            self.hurry_others(how, s);
        }
        self.say_stopping(s);
        self.finish(s);
    }

    /// The others hear that the service stops now. INT cuts what they hold, everything else gives them
    /// the time of a stop.
    fn hurry_others(&mut self, how: Signal, s: &mut Step) {
        let hurry = Hurry::of(how);
        self.stopping = self.stopping.max(Some(hurry));
        let limit = match hurry {
            Hurry::Now => self.timing.evict,
            Hurry::Soon | Hurry::No => self.timing.stop + self.timing.commit,
        };
        let by = s.now + limit;
        for pid in self.crowd.hurry(hurry, by) {
            s.act(Action::EndDrainer(pid, how));
        }
        self.time_drainers();
        // It hears it when it has let go of its channel.
        if let Some(at) = self.timers.get(Timer::Commit) {
            self.timers.arm(Timer::Commit, at.min(by));
        }
        let Some(successor) = &mut self.successor else {
            return;
        };
        let later = self.timers.get(Timer::Evict).is_none_or(|at| by < at);
        if later && !successor.exited && !successor.committed {
            successor.evictions = successor.evictions.max(1);
            s.act(Action::EndSuccessor(how));
            self.timers.arm(Timer::Evict, by);
        }
    }

    /// STOPPING=1 is final for the whole unit: only when nobody else lives.
    pub(super) fn say_stopping(&mut self, s: &mut Step) {
        let lives = self.predecessor.is_some_and(|p| !p.exited);
        let lives = lives || !self.crowd.is_empty();
        if self.stopping() && !self.said_stopping && !lives && self.successor.is_none() {
            self.said_stopping = true;
            s.act(Action::NotifyStopping);
        }
    }

    /// The other master stops the service: this one leaves too.
    pub(super) fn release(&mut self, s: &mut Step) {
        self.released = true;
        self.retire(Signal::Term, s);
    }

    /// The predecessor serves, and sends this master away.
    pub(super) fn sent_away(&mut self, s: &mut Step) {
        self.settle_pending(OrderKind::Rollback, Verdict::Done, s);
        self.retire(Signal::Quit, s);
    }

    /// This master leaves, another one serves.
    pub(super) fn retire(&mut self, how: Signal, s: &mut Step) {
        self.settle_pending(OrderKind::Upgrade, Verdict::Moved, s);
        self.settle_rest("this master was sent away", s);
        self.forget(s);
        self.drain_as(how, s);
        if self.predecessor_listens() {
            // By that it learns that nobody accepts here any more.
            self.when_closed(Action::ClosePredecessor);
        }
        if let Some(p) = &mut self.predecessor {
            p.closed = true;
        }
        self.timers.disarm(Timer::Heartbeat);
        self.main_is_the_predecessors();
        self.enter(Phase::Draining, s);
        self.ask_who_serves(s);
        self.finish(s);
    }

    /// The one whom this master left the service to is gone: it may have died before it had the service, or
    /// have left it to another one since.
    fn ask_who_serves(&mut self, s: &mut Step) {
        let gone = self.predecessor.is_some_and(|p| p.exited) && self.successor.is_none();
        if gone && !self.stopping() && !self.released && !self.told {
            self.asks = true;
            s.act(Action::SeekOwner);
        }
    }

    fn drain_as(&mut self, how: Signal, s: &mut Step) {
        match how {
            Signal::Int => self.kill_workers(s),
            Signal::Term => self.drain_workers(Some(self.timing.stop), s),
            Signal::Hup | Signal::Usr1 | Signal::Usr2 | Signal::Winch | Signal::Quit => {
                self.drain_workers(self.timing.drain, s);
            }
        }
    }

    pub(super) fn draining(&mut self, event: Event, s: &mut Step) {
        match event {
            Event::WorkersGone | Event::MainNamed { .. } => self.finish(s),
            Event::SuccessorExited(_) => {
                if self.successor.is_some_and(|x| x.committed) {
                    // If a generation after it owns the service, this is the ordinary course.
                    s.act(Action::AskOwner);
                } else {
                    // Not reaped: should systemd still take it for the main process, it sees its
                    // end when we are gone.
                    self.successor = None;
                    self.say_stopping(s);
                    self.finish(s);
                }
            }
            Event::OwnerAnswered(true) if self.committed_one_is_gone() => {
                s.act(Action::ReapSuccessor);
                self.successor = None;
                self.finish(s);
            }
            Event::OwnerAnswered(false) if self.asks || self.committed_one_is_gone() => {
                // Nobody serves, and nobody else would see it: the zombie of a successor goes to PID 1
                // (or the keeper) with our exit, and is noticed there. Our workers finish by themselves.
                // It must not take this for a stop; and whom it has for the main process may be dead, and
                // reaped by one that did not know.
                if self.asks {
                    s.act(Action::NameMain(Who::Me));
                }
                self.say_held(s);
                self.enter(Phase::Done, s);
                s.act(Action::Exit(crate::api::exit::FAILED));
            }
            Event::OwnerAnswered(true) if self.asks => {
                self.asks = false;
                self.finish(s);
            }
            Event::PredecessorClosed => self.say_stopping(s),
            Event::PredecessorExited => {
                self.say_stopping(s);
                self.ask_who_serves(s);
                self.finish(s);
            }
            // It hangs: nobody may stay behind when the service stops.
            Event::Timer(Timer::Commit) => self.kill_predecessor(s),
            Event::Timer(Timer::Evict) => self.press_on(s),
            // The other one stops it while this one only drains.
            Event::Predecessor(FromPredecessor::Release)
            | Event::Successor(FromSuccessor::Release)
                if !self.stopping() =>
            {
                self.released = true;
                self.hurry(s);
            }
            // Both stop the service: the predecessor is the last.
            Event::Predecessor(FromPredecessor::Release) => {
                self.released = true;
                self.timers.disarm(Timer::Commit);
                self.finish(s);
            }
            Event::Signal(Signal::Int) => {
                self.told_while_it_drains(s);
                self.kill_workers(s);
                if self.stopping() {
                    self.hurry_others(Signal::Int, s);
                }
            }
            Event::Signal(Signal::Term) => {
                self.told_while_it_drains(s);
                self.hurry(s);
            }
            Event::Signal(signal @ (Signal::Hup | Signal::Usr2)) => {
                s.refuse_signal(signal, "this master is leaving");
            }
            // Answered when it is so: a client that left now would let systemd go on to SIGKILL.
            Event::Order(Order::Stop) if self.stopping() => {
                self.pend(OrderKind::Stop);
                if self.stopping == Some(Hurry::No) {
                    self.hurry(s);
                }
            }
            Event::Order(order) => s.refuse(&order, "this master is leaving"),
            // It was started while we decided to leave.
            Event::Launched(pid) if self.successor.is_none() => self.stray(pid, s),
            // What it says it does already.
            Event::Signal(Signal::Quit | Signal::Winch | Signal::Usr1)
            | Event::Launched(_)
            | Event::Successor(_)
            | Event::SuccessorClosed(_)
            | Event::Predecessor(
                FromPredecessor::Takeover
                | FromPredecessor::Ready
                | FromPredecessor::Commit
                | FromPredecessor::Retire(_),
            )
            | Event::ReadyHeard
            | Event::WorkersClosed
            | Event::WorkersReady
            | Event::WorkersFailed(_)
            | Event::Reloaded
            | Event::ReloadFailed(_)
            | Event::Healthy
            | Event::Unhealthy(_)
            | Event::DrainerDone(_)
            | Event::DrainerGone(_)
            | Event::OwnerAnswered(_)
            | Event::LaunchFailed(_)
            | Event::ManagerTerm
            | Event::Timer(_) => {}
        }
    }

    /// Idempotent: systemd sends several TERM. It only brings the deadlines nearer.
    fn hurry(&mut self, s: &mut Step) {
        self.drain_workers(Some(self.timing.stop), s);
        if self.stopping() {
            self.hurry_others(Signal::Term, s);
        }
    }

    fn told_while_it_drains(&mut self, s: &mut Step) {
        (self.told, self.asks) = (true, false);
        self.finish(s);
    }

    fn committed_one_is_gone(&self) -> bool {
        self.successor.is_some_and(|x| x.committed && x.exited)
    }

    /// Leaves when nothing is left to wait for.
    pub(super) fn finish(&mut self, s: &mut Step) {
        let waits_for_successor = self.successor.is_some_and(|x| !x.committed);
        let waits_for_predecessor =
            self.stopping() && !self.released && self.predecessor.is_some_and(|p| !p.exited);
        let waits_for_drainers = self.stopping() && !self.released && !self.crowd.is_empty();
        let waits_for_others = waits_for_successor || waits_for_predecessor || waits_for_drainers;
        // Should the service manager still take us for the main process, it would end the service.
        let names = !self.stopping() && self.main == Some(Who::Successor) && !self.main_known;
        let waits = self.workers_left || waits_for_others || names || self.asks;
        if self.phase == Phase::Draining && !waits {
            self.settle_rest("the master left", s);
            self.say_held(s);
            self.enter(Phase::Done, s);
            s.act(Action::Exit(0));
        }
    }
}
