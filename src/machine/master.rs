//! The state of one master and the one way in: [`Machine::step`].
//!
//! What a phase answers stands in three files: `owner` (alone, or with a successor that does not
//! own the service yet), `parked` (the successor owns it), `successor` (a predecessor lives).
//! Here is what they share: the door for phase changes, leaving, and what is the same everywhere.

use std::time::{Duration, Instant};

use super::action::{Action, Note, Verdict, Who};
use super::crowd::{Crowd, Hurry};
use super::event::{Event, Failure, FromPredecessor, FromSuccessor, Order, OrderKind, Signal};
use super::message::Supersede;
use super::phase::Phase;
use super::timing::{Timer, Timers, Timing};

/// One master's state machine.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts beside the phase, each true or not by itself"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    pub(super) phase: Phase,
    pub(super) timing: Timing,
    pub(super) timers: Timers,
    /// The upgrade under way is driven by signals.
    pub(super) hold: bool,
    pub(super) predecessor: Option<Predecessor>,
    pub(super) successor: Option<Successor>,
    /// What our workers were last told.
    pub(super) accepting: Accepting,
    /// Deadlines that we slept over: whoever would have been blamed was given more time, once in a phase.
    waited: Vec<Timer>,
    /// Some worker process of ours lives.
    pub(super) workers_left: bool,
    /// Workers of ours that were told to leave may still accept.
    closing: bool,
    /// What is to be said when those who leave accept no more.
    pub(super) held: Vec<Action>,
    /// The set that starts keeps failing, and so it was said.
    pub(super) failing: bool,
    pub(super) reloading: bool,
    /// Whom the service manager shall have for the main process; `None`: our predecessor's business.
    pub(super) main: Option<Who>,
    /// And it knows.
    pub(super) main_known: bool,
    /// It knows that the service runs: who started that, or we, said so.
    pub(super) said_ready: bool,
    /// It may not see our end: it knows us from the time when we were another master's child.
    pub(super) unseen: bool,
    /// Generations that only drain, older than our predecessor or rejected.
    pub(super) crowd: Crowd,
    /// Signals that wait for the other side, in the order they came.
    pub(super) remembered: Vec<Signal>,
    /// We were told to leave and wait until somebody else serves.
    pub(super) leaving: Option<Signal>,
    /// Why we take the service back, or give it back.
    pub(super) why: Option<Failure>,
    /// The upgrade to us is not over: nobody is parked behind us any more, and we prove ourselves alone.
    pub(super) alone_on_trial: bool,
    /// The file on disk is what runs, or is being made so.
    pub(super) restored: bool,
    /// The upgrade that follows when the service has been taken back.
    pub(super) next: Option<Supersede>,
    /// Orders that wait for their verdict.
    pub(super) unsettled: Vec<OrderKind>,
    /// The whole service stops, in such a hurry.
    pub(super) stopping: Option<Hurry>,
    /// And the service manager knows.
    pub(super) said_stopping: bool,
    /// The other master stops it, and told us to leave.
    pub(super) released: bool,
    /// Whether somebody serves, since the one whom the service was left to has gone.
    pub(super) asks: bool,
    /// A signal told this master to leave while it drains. That may be a stop of the whole service.
    pub(super) told: bool,
}

/// What a master knows of its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Predecessor {
    pub(super) pid: u32,
    /// How long it may drain; `None`: no limit.
    pub(super) limit: Option<Duration>,
    /// It said that it leaves for good.
    pub(super) committed: bool,
    /// Its channel has ended; the process may still drain.
    pub(super) closed: bool,
    /// The process is gone.
    pub(super) exited: bool,
}

/// What a master knows of its successor.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is known of it, each fact by itself"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Successor {
    /// Its process, when there is one.
    pub(super) pid: Option<u32>,
    /// Its workers were ready once: it may hold connections.
    pub(super) ready: bool,
    /// Its channel has ended.
    pub(super) closed: bool,
    /// The process is gone.
    pub(super) exited: bool,
    /// It shall leave even in hold mode.
    pub(super) retire: bool,
    /// It gave up.
    pub(super) yielded: bool,
    /// It leaves, and said so.
    pub(super) leaving: bool,
    /// It owns the service for good; nothing of it is our business but its death.
    pub(super) committed: bool,
    /// How far we went against it.
    pub(super) evictions: u8,
}

impl Successor {
    pub(super) const NEW: Self = Self {
        pid: None,
        ready: false,
        closed: false,
        exited: false,
        retire: false,
        yielded: false,
        leaving: false,
        committed: false,
        evictions: 0,
    };
}

/// What our workers were last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Accepting {
    /// There is no set that could accept.
    Off,
    /// A set starts and shall accept the moment it is ready.
    Wanted,
    /// A set starts and shall wait when it is ready.
    Starting,
    /// Ready, waiting for a word.
    Ready,
    /// They accept.
    On,
}

/// Time, and the actions of this step.
pub(super) struct Step {
    pub(super) now: Instant,
    actions: Vec<Action>,
}

impl Step {
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn tell_successor(&mut self, word: FromPredecessor) {
        self.act(Action::ToSuccessor(word));
    }

    pub(super) fn tell_predecessor(&mut self, word: FromSuccessor) {
        self.act(Action::ToPredecessor(word));
    }

    /// It makes no sense now; those of its kind that wait already wait on.
    pub(super) fn refuse(&mut self, order: &Order, why: &str) {
        self.act(Action::Settle(order.kind(), Verdict::Refused(why.into())));
    }

    pub(super) fn refuse_signal(&mut self, signal: Signal, why: &'static str) {
        self.act(Action::Note(Note::SignalRefused(signal, why)));
    }
}

impl Machine {
    /// A master without a predecessor.
    #[must_use]
    pub fn first(timing: Timing, now: Instant) -> (Self, Vec<Action>) {
        let mut machine = Self::new(timing, None, false);
        (machine.main, machine.said_ready) = (Some(Who::Me), false);
        let mut step = Step::at(now);
        machine.timers.arm(Timer::Start, now + timing.start);
        machine.start_workers(&mut step, true);
        (machine, step.actions)
    }

    /// A master that was exec'd by another one, which may drain for so long.
    #[must_use]
    pub fn succeeding(
        timing: Timing,
        hold: bool,
        (pid, limit): (u32, Option<Duration>),
        now: Instant,
    ) -> (Self, Vec<Action>) {
        let predecessor = Predecessor {
            pid,
            limit,
            committed: false,
            closed: false,
            exited: false,
        };
        let mut machine = Self::new(timing, Some(predecessor), hold);
        let mut step = Step::at(now);
        machine.start_workers(&mut step, hold);
        (machine, step.actions)
    }

    fn new(timing: Timing, predecessor: Option<Predecessor>, hold: bool) -> Self {
        Self {
            phase: Phase::Starting,
            timing,
            timers: Timers::default(),
            hold,
            predecessor,
            successor: None,
            accepting: Accepting::Off,
            waited: Vec::new(),
            workers_left: false,
            closing: false,
            held: Vec::new(),
            failing: false,
            reloading: false,
            main: None,
            main_known: false,
            said_ready: true,
            unseen: false,
            crowd: Crowd::default(),
            remembered: Vec::new(),
            leaving: None,
            why: None,
            alone_on_trial: false,
            restored: false,
            next: None,
            unsettled: Vec::new(),
            stopping: None,
            said_stopping: false,
            released: false,
            asks: false,
            told: false,
        }
    }

    /// Somebody drained already when we began, and may so for so long; or was told to hurry.
    pub fn know_drainer(&mut self, pid: u32, limit: Option<Duration>, hurried: bool, now: Instant) {
        let hurry = if hurried { Hurry::Soon } else { Hurry::No };
        self.crowd.join(pid, limit.map(|limit| now + limit), hurry);
        self.time_drainers();
    }

    /// Only the owner ends generations that drain for too long; and nobody who has ended himself.
    pub(super) fn time_drainers(&mut self) {
        self.timers.disarm(Timer::Drainer);
        let ends = self.owns() && self.phase != Phase::Done;
        if let Some(at) = self.crowd.deadline().filter(|_| ends) {
            self.timers.arm(Timer::Drainer, at);
        }
    }

    /// Whether so many generations drain that no other one may begin to.
    pub(super) fn crowded(&self) -> bool {
        self.crowd.draining().count() >= self.timing.generations
    }

    /// The program was started cold and is on trial: it proves itself by serving.
    pub fn begin_cold_trial(&mut self, now: Instant) {
        self.timers
            .arm(Timer::ColdTrial, now + self.timing.probation);
    }

    /// The reload under way is given the time that its own configuration says.
    pub fn begin_reload(&mut self, start: Duration, now: Instant) {
        self.timing.start = start;
        self.timers.arm(Timer::Reload, now + start);
    }

    /// New durations after a configuration reload; deadlines that run are kept.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Something happened. The actions are to be carried out in order.
    #[must_use]
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut step = Step::at(now);
        let s = &mut step;
        if let Event::Timer(timer) = event {
            let due = self.timers.get(timer);
            self.timers.disarm(timer);
            let slept = due.is_some_and(|at| now >= at + self.timing.silence / 8);
            // It is we who slept (a paused virtual machine), and so did the others: what they said in
            // the meantime is still to be read, and what they have to do still to be done.
            if slept && timer == Timer::Drainer {
                self.crowd.give_more(now, self.timing.commit);
            } else if let Some(more) = self.after_sleep(timer).filter(|_| slept) {
                self.waited.push(timer);
                self.arm(timer, more, s);
                return step.actions;
            }
        }
        self.answer(event, s);
        step.actions
    }

    /// The time that is given once more to somebody who would be blamed at this deadline.
    fn after_sleep(&self, timer: Timer) -> Option<Duration> {
        match timer {
            _ if self.waited.contains(&timer) => None,
            Timer::Silence | Timer::DeadMan => Some(self.timing.silence),
            Timer::Start | Timer::Reload => Some(self.timing.start),
            // It takes back meanwhile.
            Timer::Commit if self.phase == Phase::Yielded => Some(self.timing.start),
            Timer::Commit if self.stopping == Some(Hurry::Now) => Some(self.timing.evict),
            Timer::Commit => Some(self.timing.stop + self.timing.commit),
            Timer::Evict => Some(self.timing.evict),
            Timer::Probation
            | Timer::Heartbeat
            | Timer::Remember
            | Timer::ColdTrial
            | Timer::Name
            | Timer::Close
            | Timer::Drainer => None,
        }
    }

    fn answer(&mut self, event: Event, s: &mut Step) {
        let starts = self.phase == Phase::Starting && self.predecessor.is_some();
        let event = match event {
            // A successor's workers are ready when they are in good health too.
            Event::WorkersReady if starts && self.timing.health => {
                return s.act(Action::CheckHealth);
            }
            Event::Healthy if starts => Event::WorkersReady,
            event => event,
        };
        self.note(&event, s);
        self.time_drainers();
        if self.phase != Phase::Done && !self.everywhere(&event, s) {
            match self.phase {
                Phase::Starting => self.starting(event, s),
                Phase::Standby => self.standby(event, s),
                Phase::Probation => self.probation(event, s),
                Phase::Committing => self.committing(event, s),
                Phase::Yielded => self.yielded(event, s),
                Phase::Serving => self.serving(event, s),
                Phase::Reloading => self.reloading(event, s),
                Phase::Launching => self.launching(event, s),
                Phase::Beside => self.beside(event, s),
                Phase::Parked => self.parked(event, s),
                Phase::Reclaiming => self.reclaiming(event, s),
                Phase::Evicting => self.evicting(event, s),
                Phase::Draining => self.draining(event, s),
                Phase::Done => {}
            }
        }
        self.look_at_held(s);
    }

    /// Says what was held back, once those who leave accept no more.
    fn look_at_held(&mut self, s: &mut Step) {
        // In hold mode it accepts before we hear that it is ready.
        let accepts = |x: Successor| (x.ready || self.hold) && !x.closed;
        let rejected = self.phase == Phase::Evicting && self.successor.is_some_and(accepts);
        if !self.closing && !rejected {
            self.say_held(s);
        }
        if self.held.is_empty() {
            self.timers.disarm(Timer::Close);
        } else if self.timers.get(Timer::Close).is_none() {
            self.arm(Timer::Close, self.timing.close, s);
        }
    }

    /// Facts about others, true in every phase.
    fn note(&mut self, event: &Event, s: &mut Step) {
        match event {
            Event::WorkersGone => {
                self.closing = false;
                // While a set is wanted this is an old word about the set before, or the pool is
                // about to start workers that have died: they are drained like any others.
                self.workers_left &= self.accepting != Accepting::Off;
            }
            Event::WorkersClosed => self.closing = false,
            // Those of before were told to leave.
            Event::Reloaded => self.closing = true,
            Event::WorkersReady => {
                self.failing = false;
                if matches!(self.accepting, Accepting::Starting) {
                    self.accepting = Accepting::Ready;
                }
            }
            Event::DrainerDone(pid) => self.crowd.done(*pid),
            Event::DrainerGone(pid) => self.crowd.gone(*pid),
            Event::MainNamed { who, done } if self.main == Some(*who) => {
                self.main_known = *done;
                self.unseen &= !*done;
            }
            Event::ReadyHeard => self.said_ready = true,
            Event::Predecessor(FromPredecessor::Takeover) => {
                // It has named us.
                (self.main, self.main_known) = (Some(Who::Me), true);
            }
            Event::Launched(pid) => self.successor_mut(|s| s.pid = Some(*pid)),
            Event::Successor(FromSuccessor::Heartbeat) => {
                self.waited.retain(|timer| *timer != Timer::Silence);
            }
            Event::Successor(FromSuccessor::Ready) => self.successor_mut(|s| s.ready = true),
            Event::Successor(FromSuccessor::Yield { retire, then, .. }) => {
                self.successor_mut(|s| {
                    s.yielded = true;
                    s.retire |= retire;
                });
                if self.successor.is_some() && self.next.is_none() {
                    self.next.clone_from(then);
                }
            }
            Event::Successor(FromSuccessor::Leaving) => self.successor_mut(|s| {
                s.retire = true;
                s.leaving = true;
            }),
            Event::SuccessorClosed(_) => self.successor_mut(|s| s.closed = true),
            Event::SuccessorExited(_) => self.successor_mut(|s| {
                s.closed = true;
                s.exited = true;
            }),
            Event::Predecessor(FromPredecessor::Commit) => {
                if let Some(p) = &mut self.predecessor {
                    p.committed = true;
                }
            }
            Event::PredecessorClosed => self.predecessor_drains(s),
            Event::PredecessorExited => {
                if let Some(p) = &mut self.predecessor {
                    p.exited = true;
                    self.crowd.gone(p.pid);
                }
            }
            Event::WorkersFailed(_) => self.failing = true,
            Event::ReloadFailed(_)
            | Event::Healthy
            | Event::Unhealthy(_)
            | Event::MainNamed { .. }
            | Event::OwnerAnswered(_)
            | Event::LaunchFailed(_)
            | Event::Successor(_)
            | Event::Predecessor(_)
            | Event::Order(_)
            | Event::Signal(_)
            | Event::ManagerTerm
            | Event::Timer(_) => {}
        }
    }

    /// What every living phase answers alike. Returns whether the event is dealt with.
    fn everywhere(&mut self, event: &Event, s: &mut Step) -> bool {
        match event {
            Event::Signal(Signal::Usr1) => s.act(Action::ReopenLogs),
            Event::Order(order) if self.is_held(order.kind()) => {
                // Whoever wants what is so by then as well is answered at the same time.
                if !matches!(order, Order::Rollback { .. } | Order::Commit) {
                    s.refuse(order, "another one has just been carried out; try again");
                }
            }
            Event::ManagerTerm if self.phase == Phase::Launching => {
                // A stop in the middle of a reload: systemd runs no ExecStop= then, but sends TERM
                // to every process of the unit, also to a successor that may not know what it means.
                self.answer(Event::Order(Order::Stop), s);
            }
            Event::ManagerTerm => self.answer(Event::Signal(Signal::Term), s),
            Event::Order(Order::Upgrade { current: true, .. })
                if self.phase != Phase::Yielded && self.owns() =>
            {
                // One that gives the service back does not say what will run.
                // Those who wait for another upgrade wait on.
                let so = Verdict::Already("the file on disk is what runs");
                s.act(Action::Settle(OrderKind::Upgrade, so));
            }
            Event::Timer(Timer::Drainer) => {
                for pid in self.crowd.overdue(s.now) {
                    s.act(Action::KillDrainer(pid));
                }
                self.time_drainers();
            }
            Event::DrainerGone(_) => {
                self.say_stopping(s);
                self.finish(s);
            }
            Event::MainNamed { done: false, .. } => self.arm(Timer::Name, self.timing.name, s),
            Event::Timer(Timer::Name) => match self.main.filter(|_| !self.main_known) {
                Some(Who::Me) if !self.said_ready => s.act(Action::NotifyReady),
                Some(who) => self.name(who, s),
                None => {}
            },
            Event::Timer(Timer::Reload) => {
                let why = format!(
                    "the workers of the new configuration were not ready within {} (start_timeout)",
                    humantime::format_duration(self.timing.start)
                );
                if self.reloading {
                    self.answer(Event::ReloadFailed(Failure::new(why)), s);
                }
            }
            Event::Timer(Timer::ColdTrial) => {
                if matches!(self.phase, Phase::Serving | Phase::Reloading) {
                    self.proved(s);
                } else {
                    // An upgrade that was begun meanwhile decides first.
                    self.arm(
                        Timer::ColdTrial,
                        self.timing.probation + self.timing.margin,
                        s,
                    );
                }
            }
            Event::WorkersFailed(_) | Event::Unhealthy(_)
                if self.timers.get(Timer::ColdTrial).is_some() =>
            {
                // It begins anew.
                self.arm(Timer::ColdTrial, self.timing.probation, s);
                return false;
            }
            Event::Reloaded => {
                s.act(Action::AdoptReload);
                return false;
            }
            Event::ReloadFailed(failure) => {
                s.act(Action::AbandonReload(failure.clone()));
                return false;
            }
            Event::WorkersGone if !self.workers_left => {
                s.act(Action::DrainEnded);
                return false;
            }
            Event::Timer(Timer::Close) => self.say_held(s),
            Event::Timer(Timer::Heartbeat) => self.heartbeat(s),
            Event::Timer(Timer::Remember) => self.forget(s),
            // What one had said that we killed does not count any longer. (From one that we left, to drain,
            // we hear that the service stops.)
            Event::Predecessor(_)
                if self.predecessor.is_some_and(|p| p.closed)
                    && (self.stopping() || self.phase != Phase::Draining) => {}
            Event::WorkersReady if self.accepting == Accepting::Wanted => {
                self.accepting = Accepting::On;
                s.act(Action::Accept);
                return false;
            }
            _ => return false,
        }
        true
    }

    /// The one door for phase changes.
    pub(super) fn enter(&mut self, to: Phase, s: &mut Step) {
        let from = std::mem::replace(&mut self.phase, to);
        for timer in Timer::ALL {
            if !timer.outlives_its_phase() {
                self.timers.disarm(timer);
            }
        }
        self.waited.clear();
        self.time_drainers();
        s.act(Action::Enter { from, to });
    }

    pub(super) fn arm(&mut self, timer: Timer, after: Duration, s: &Step) {
        self.timers.arm(timer, s.now + after);
    }

    pub(super) fn successor_mut(&mut self, change: impl FnOnce(&mut Successor)) {
        if let Some(successor) = &mut self.successor {
            change(successor);
        }
    }

    /// A successor we can still talk to.
    pub(super) fn successor_listens(&self) -> bool {
        self.successor
            .is_some_and(|x| x.pid.is_some() && !x.closed && !x.committed)
    }

    /// A predecessor we can still talk to.
    pub(super) fn predecessor_listens(&self) -> bool {
        self.predecessor.is_some_and(|p| !p.closed)
    }

    /// The service manager shall have this one for the main process, if it has not yet.
    pub(super) fn name_main(&mut self, who: Who, s: &mut Step) {
        if self.main != Some(who) || !self.main_known {
            (self.main, self.main_known) = (Some(who), false);
            self.name(who, s);
        }
    }

    fn name(&self, who: Who, s: &mut Step) {
        s.act(if self.unseen && who == Who::Me {
            Action::Reclaim
        } else {
            Action::NameMain(who)
        });
    }

    /// The predecessor owns the service: whom it names is its business.
    pub(super) fn main_is_the_predecessors(&mut self) {
        (self.main, self.main_known) = (None, false);
        self.timers.disarm(Timer::Name);
    }

    pub(super) fn start_workers(&mut self, s: &mut Step, accept: bool) {
        (self.workers_left, self.failing) = (true, false);
        self.accepting = if accept {
            Accepting::Wanted
        } else {
            Accepting::Starting
        };
        s.act(Action::StartWorkers);
    }

    /// The owner accepts, whatever it takes.
    pub(super) fn accept(&mut self, s: &mut Step) {
        match self.accepting {
            Accepting::On | Accepting::Wanted => {}
            Accepting::Ready => {
                self.accepting = Accepting::On;
                s.act(Action::Accept);
            }
            Accepting::Starting => self.accepting = Accepting::Wanted,
            Accepting::Off => self.start_workers(s, true),
        }
    }

    /// Our workers accept no more and leave when they have finished.
    pub(super) fn drain_workers(&mut self, limit: Option<Duration>, s: &mut Step) {
        self.accepting = Accepting::Off;
        self.abandon_reload("the workers drain", s);
        if self.workers_left {
            let stop = self.stopping() || self.released;
            self.closing = true;
            s.act(Action::DrainWorkers { stop, limit });
        }
    }

    /// Our workers leave at once.
    pub(super) fn kill_workers(&mut self, s: &mut Step) {
        self.accepting = Accepting::Off;
        if self.workers_left {
            self.closing = true;
            s.act(Action::KillWorkers);
        }
    }

    /// The next step against a successor that does not leave: TERM, then KILL.
    pub(super) fn press_on(&mut self, s: &mut Step) {
        let Some(successor) = &mut self.successor else {
            return;
        };
        s.act(if successor.evictions == 0 {
            Action::EndSuccessor(Signal::Term)
        } else {
            Action::KillSuccessor
        });
        successor.evictions = successor.evictions.saturating_add(1).min(2);
        self.arm(Timer::Evict, self.timing.evict, s);
    }

    /// It does not let go.
    pub(super) fn kill_predecessor(&mut self, s: &mut Step) {
        if let Some(p) = &mut self.predecessor {
            p.closed = true;
        }
        s.act(Action::KillPredecessor);
    }

    /// It let go of the channel and may drain: as one of the crowd.
    fn predecessor_drains(&mut self, s: &mut Step) {
        let Some(p) = self.predecessor.as_mut().filter(|p| !p.closed) else {
            return;
        };
        p.closed = true;
        if p.exited {
            return;
        }
        let (pid, limit) = (p.pid, p.limit.map(|limit| s.now + limit));
        let Some((hurry, by)) = self.stopping.zip(self.timers.get(Timer::Commit)) else {
            return self.crowd.join(pid, limit, Hurry::No);
        };
        // It knows that the service stops; from now on the deadline is that of one that drains.
        self.timers.disarm(Timer::Commit);
        self.crowd.join(pid, Some(by), hurry.max(Hurry::Soon));
        if hurry == Hurry::Now {
            s.act(Action::EndDrainer(pid, Signal::Int));
        }
    }

    /// The predecessor's process has gone, so we are no longer "alien" to the service manager.
    pub(super) fn predecessor_gone(&mut self, s: &mut Step) {
        if self.predecessor.take().is_some() {
            // Its answer is that of one naming, whatever was said before.
            (self.unseen, self.main, self.main_known) = (true, Some(Who::Me), false);
            self.name(Who::Me, s);
            // A successor that is ready has its place in them already.
            if !self.successor.is_some_and(|x| x.ready) {
                s.act(Action::OwnPid);
            }
        }
    }

    /// The probation of the upgrade that is about to start.
    pub fn set_probation(&mut self, probation: Duration) {
        self.timing.probation = probation;
    }

    fn heartbeat(&mut self, s: &mut Step) {
        if self.predecessor_listens() {
            s.tell_predecessor(FromSuccessor::Heartbeat);
            self.beat_again(s);
        }
    }

    pub(super) fn beat_again(&mut self, s: &Step) {
        self.arm(Timer::Heartbeat, self.timing.silence / 4, s);
    }
}

impl Step {
    fn at(now: Instant) -> Self {
        Self {
            now,
            actions: Vec::new(),
        }
    }
}
