//! The state of one master and the one way in: [`Machine::step`].
//!
//! What a phase answers stands in three files: `owner` (alone, or with a successor that does not
//! own the service yet), `parked` (the successor owns it), `successor` (a predecessor lives).
//! Here is what they share: the door for phase changes, leaving, and what is the same everywhere.

use std::time::{Duration, Instant};

use super::action::{Action, Note, ToPredecessor, ToSuccessor, Verdict, Who};
use super::crowd::Crowd;
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
    /// Some worker process of ours lives.
    pub(super) workers_left: bool,
    /// The set that starts keeps failing, and so it was said.
    pub(super) failing: bool,
    pub(super) reloading: bool,
    /// Whom the service manager shall have for the main process; `None`: our predecessor's business.
    pub(super) main: Option<Who>,
    /// And it knows.
    pub(super) main_known: bool,
    /// Generations that only drain, older than our predecessor or rejected.
    pub(super) crowd: Crowd,
    /// Signals that wait for the other side, in the order they came.
    pub(super) remembered: Vec<Signal>,
    /// We were told to leave and wait until somebody else serves.
    pub(super) leaving: Option<Signal>,
    /// Why we take the service back.
    pub(super) why: Option<Failure>,
    /// The file on disk is what runs, or is being made so.
    pub(super) restored: bool,
    /// The upgrade that follows an eviction.
    pub(super) next: Option<Supersede>,
    /// Orders that wait for their verdict.
    pub(super) unsettled: Vec<OrderKind>,
    /// The whole service stops.
    pub(super) stopping: bool,
    /// And the service manager knows.
    pub(super) said_stopping: bool,
    /// It stops as QUIT wants it: those that only drain have their time.
    pub(super) patient: bool,
    /// The other master stops it, and told us to leave.
    pub(super) released: bool,
}

/// What a master knows of its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Predecessor {
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
    /// There is a process.
    pub(super) spawned: bool,
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
        spawned: false,
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

    pub(super) fn tell_successor(&mut self, word: ToSuccessor) {
        self.act(Action::ToSuccessor(word));
    }

    pub(super) fn tell_predecessor(&mut self, word: ToPredecessor) {
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
        machine.main = Some(Who::Me);
        let mut step = Step::at(now);
        machine.timers.arm(Timer::Start, now + timing.start);
        machine.start_workers(&mut step, true);
        (machine, step.actions)
    }

    /// A master that was exec'd by another one.
    #[must_use]
    pub fn succeeding(timing: Timing, hold: bool, now: Instant) -> (Self, Vec<Action>) {
        let predecessor = Predecessor {
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
            workers_left: false,
            failing: false,
            reloading: false,
            main: None,
            main_known: false,
            crowd: Crowd::default(),
            remembered: Vec::new(),
            leaving: None,
            why: None,
            restored: false,
            next: None,
            unsettled: Vec::new(),
            stopping: false,
            said_stopping: false,
            patient: false,
            released: false,
        }
    }

    /// Where this master is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether signals drive the upgrade under way.
    #[must_use]
    pub fn hold(&self) -> bool {
        self.hold
    }

    /// Whether this master is responsible for the service now: it answers the control socket.
    #[must_use]
    pub fn owns(&self) -> bool {
        match self.phase {
            Phase::Probation
            | Phase::Committing
            | Phase::Yielded
            | Phase::Serving
            | Phase::Reloading
            | Phase::Launching
            | Phase::Beside
            | Phase::Evicting => true,
            Phase::Starting => self.predecessor.is_none(),
            Phase::Reclaiming => self.successor.is_none_or(|s| s.closed),
            Phase::Draining => self.stopping,
            Phase::Standby | Phase::Parked | Phase::Done => false,
        }
    }

    /// Whether our workers can take connections of those that drain: they accept, and we answer for
    /// the service.
    #[must_use]
    pub fn receives(&self) -> bool {
        let accepts = !matches!(
            self.phase,
            Phase::Starting | Phase::Reclaiming | Phase::Draining
        );
        self.owns() && accepts
    }

    /// Whether an upgrade could begin now.
    #[must_use]
    pub fn may_begin(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Evicting)
    }

    /// Whether this order gives up a generation in probation for what is on disk: not for a file that
    /// cannot even pass its pre-flight.
    #[must_use]
    pub fn gives_up_for(&self, order: &Order) -> bool {
        let supersedes = matches!(
            order,
            Order::Upgrade {
                current: false,
                supersede: Some(_),
                ..
            }
        );
        supersedes && self.phase == Phase::Probation
    }

    /// Whether this master only drains, and another generation serves.
    #[must_use]
    pub fn drains_aside(&self) -> bool {
        self.phase == Phase::Draining && !self.stopping
    }

    /// Who the service manager was told is the main process, when it is known.
    #[must_use]
    pub fn main(&self) -> Option<Who> {
        self.main.filter(|_| self.main_known)
    }

    /// How long whoever waits in `systemctl reload` or `stop` must wait for what has just begun.
    #[must_use]
    pub fn takes(&self) -> Option<Duration> {
        const MARGIN: Duration = Duration::from_secs(10);
        match self.phase {
            // The pre-flight and the start each have their time.
            Phase::Launching => Some(self.timing.start * 2 + MARGIN),
            Phase::Draining if self.stopping => Some(self.timing.stop + MARGIN),
            _ => None,
        }
    }

    /// When a program that was started cold on trial is kept.
    #[must_use]
    pub fn cold_trial_left(&self, now: Instant) -> Option<Duration> {
        self.timers
            .get(Timer::ColdTrial)
            .map(|at| at.saturating_duration_since(now))
    }

    /// Somebody drained already when we began.
    pub fn know_drainer(&mut self, pid: u32, limit: Option<Duration>, now: Instant) {
        self.crowd.join(pid, limit.map(|limit| now + limit));
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
        let before = usize::from(self.predecessor.is_some_and(|p| p.closed && !p.exited));
        let rejected = usize::from(self.only_drains());
        self.crowd.draining() + before + rejected >= self.timing.generations
    }

    /// The program was started cold and is on trial: it proves itself by serving.
    pub fn begin_cold_trial(&mut self, now: Instant) {
        self.timers
            .arm(Timer::ColdTrial, now + self.timing.probation);
    }

    /// Whether the whole service stops.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping
    }

    /// Whether this master feeds the service manager's watchdog: while its workers answer, and from
    /// the moment it takes the service back, so that a hung successor is met by us and not by the
    /// watchdog; but not when its workers keep failing, for then nobody serves, and systemd must start
    /// the service anew. A parked one never does.
    #[must_use]
    pub fn feeds_watchdog(&self, workers_answer: bool) -> bool {
        match self.phase {
            Phase::Reclaiming => !self.failing,
            _ => self.owns() && workers_answer,
        }
    }

    /// Whether what we say of ourselves is shown: nobody speaks but who answers for the service.
    #[must_use]
    pub fn speaks(&self) -> bool {
        self.owns() || self.phase == Phase::Reclaiming
    }

    /// The next instant at which something must be done without being asked.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next().map(|(at, _)| at)
    }

    /// What that instant is about.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Timer> {
        self.timers
            .next()
            .filter(|(at, _)| *at <= now)
            .map(|(_, timer)| timer)
    }

    /// How long the probation still lasts.
    #[must_use]
    pub fn probation_left(&self, now: Instant) -> Option<Duration> {
        self.timers
            .get(Timer::Probation)
            .map(|at| at.saturating_duration_since(now))
    }

    /// When a deadline is due, for `status` and the explorer.
    #[must_use]
    pub fn armed(&self, timer: Timer) -> Option<Instant> {
        self.timers.get(timer)
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
            let blames = matches!(timer, Timer::Silence | Timer::DeadMan);
            if blames && due.is_some_and(|at| now >= at + self.timing.silence / 8) {
                // It is we who slept (a paused virtual machine): what the successor said in the
                // meantime is still to be read, and what it has to say now is still to come.
                self.arm(timer, self.timing.silence, s);
                return step.actions;
            }
        }
        self.answer(event, s);
        step.actions
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
        self.note(&event, s.now);
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
    }

    /// Facts about others, true in every phase.
    fn note(&mut self, event: &Event, now: Instant) {
        match event {
            // While a set is wanted this is an old word about the set before, or the pool is
            // about to start workers that have died: they are drained like any others.
            Event::WorkersGone if self.accepting == Accepting::Off => self.workers_left = false,
            Event::WorkersReady => {
                self.failing = false;
                if matches!(self.accepting, Accepting::Starting) {
                    self.accepting = Accepting::Ready;
                }
            }
            Event::DrainerJoined { pid, limit } => {
                self.crowd.join(*pid, limit.map(|limit| now + limit));
            }
            Event::DrainerDone(pid) => self.crowd.done(*pid),
            Event::DrainerGone(pid) => self.crowd.gone(*pid),
            Event::MainNamed { who, done } if self.main == Some(*who) => self.main_known = *done,
            Event::Predecessor(FromPredecessor::Takeover) => {
                // It has named us.
                (self.main, self.main_known) = (Some(Who::Me), true);
            }
            Event::Launched => self.successor_mut(|s| s.spawned = true),
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
            Event::PredecessorClosed => {
                if let Some(p) = &mut self.predecessor {
                    p.closed = true;
                }
            }
            Event::PredecessorExited => {
                if let Some(p) = &mut self.predecessor {
                    p.exited = true;
                }
            }
            Event::WorkersFailed(_) => self.failing = true,
            Event::WorkersGone
            | Event::Reloaded
            | Event::ReloadFailed(_)
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
            Event::Timer(Timer::Name) => {
                if let Some(who) = self.main.filter(|_| !self.main_known) {
                    s.act(Action::NameMain(who));
                }
            }
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
                    s.act(Action::Proved);
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
            Event::Timer(Timer::Heartbeat) => self.heartbeat(s),
            Event::Timer(Timer::Remember) => self.forget(s),
            Event::Timer(Timer::Linger) => self.kill_predecessor(s),
            // What one had said that we killed does not count any longer.
            Event::Predecessor(_) if self.predecessor.is_some_and(|p| p.closed) => {}
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
            .is_some_and(|x| x.spawned && !x.closed && !x.committed)
    }

    /// A predecessor we can still talk to.
    pub(super) fn predecessor_listens(&self) -> bool {
        self.predecessor.is_some_and(|p| !p.closed)
    }

    /// The service manager shall have this one for the main process, if it has not yet.
    pub(super) fn name_main(&mut self, who: Who, s: &mut Step) {
        if self.main != Some(who) || !self.main_known {
            (self.main, self.main_known) = (Some(who), false);
            s.act(Action::NameMain(who));
        }
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
        self.reload_ended(Verdict::Failed(Failure::new("the workers drain")), s);
        if self.workers_left {
            let stop = self.stopping || self.released;
            s.act(Action::DrainWorkers { stop, limit });
        }
    }

    /// The whole service stops: everybody leaves.
    pub(super) fn stop(&mut self, how: Signal, s: &mut Step) {
        self.stopping = true;
        if self.successor.is_some_and(|x| x.exited) {
            // Not reaped, as in Draining: nobody waits for one that is gone.
            self.successor = None;
        }
        // QUIT has no deadline but the drain's; so has a predecessor that drains since its commit.
        self.patient = how == Signal::Quit;
        if self.successor_listens() {
            s.tell_successor(ToSuccessor::Release);
        }
        if self.predecessor_listens() {
            s.tell_predecessor(ToPredecessor::Release);
        }
        if self.successor.is_some_and(|x| !x.spawned) {
            s.act(Action::CancelLaunch);
            self.successor = None;
        }
        self.settle_rest("the service stops", s);
        self.forget(s);
        self.drain_as(how, s);
        let rejected = self.only_drains();
        self.enter(Phase::Draining, s);
        match self.successor {
            Some(_) if rejected => {}
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
        if !self.patient {
            self.hurry_others(s);
        }
        self.say_stopping(s);
        self.finish(s);
    }

    /// Whoever only drains hears that the service stops now: the crowd, a predecessor since its commit,
    /// a rejected successor. Each hears it once: who has a deadline already has heard it.
    fn hurry_others(&mut self, s: &mut Step) {
        self.patient = false;
        let limit = self.timing.stop + self.timing.commit;
        for pid in self.crowd.hurry(s.now + limit) {
            s.act(Action::TermDrainer(pid));
        }
        self.time_drainers();
        let lingers = self.predecessor.is_some_and(|p| p.closed && !p.exited);
        if lingers && self.timers.get(Timer::Commit).is_none() {
            s.act(Action::TermPredecessor);
            self.arm(Timer::Commit, limit, s);
        }
        let rejected = self.successor.is_some_and(|x| !x.exited && !x.committed);
        if rejected && self.timers.get(Timer::Evict).is_none() {
            self.press_on(s);
            self.arm(Timer::Evict, limit, s);
        }
    }

    /// STOPPING=1 is final for the whole unit: only when nobody else lives.
    fn say_stopping(&mut self, s: &mut Step) {
        let lives = self.predecessor.is_some_and(|p| !p.exited);
        let lives = lives || !self.crowd.is_empty();
        if self.stopping && !self.said_stopping && !lives && self.successor.is_none() {
            self.said_stopping = true;
            s.act(Action::NotifyStopping);
        }
    }

    /// The other master stops the service: this one leaves too.
    pub(super) fn release(&mut self, s: &mut Step) {
        self.released = true;
        self.retire(Signal::Term, s);
    }

    /// This master leaves, another one serves.
    pub(super) fn retire(&mut self, how: Signal, s: &mut Step) {
        self.settle_pending(OrderKind::Upgrade, Verdict::Moved, s);
        self.settle_rest("this master was sent away", s);
        self.forget(s);
        self.drain_as(how, s);
        if self.predecessor_listens() {
            s.act(Action::ClosePredecessor);
        }
        if let Some(p) = &mut self.predecessor {
            p.closed = true;
        }
        self.timers.disarm(Timer::Heartbeat);
        self.main_is_the_predecessors();
        self.enter(Phase::Draining, s);
        self.finish(s);
    }

    fn drain_as(&mut self, how: Signal, s: &mut Step) {
        match how {
            Signal::Int => {
                self.accepting = Accepting::Off;
                if self.workers_left {
                    s.act(Action::KillWorkers);
                }
            }
            Signal::Term => self.drain_workers(Some(self.timing.stop), s),
            Signal::Hup | Signal::Usr1 | Signal::Usr2 | Signal::Winch | Signal::Quit => {
                self.drain_workers(self.timing.drain, s);
            }
        }
    }

    fn draining(&mut self, event: Event, s: &mut Step) {
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
            Event::OwnerAnswered(_) if self.committed_one_is_gone() => {
                // Nobody else would see it die: its zombie goes to PID 1 (or the keeper) with our
                // exit, and is noticed there. Our workers finish by themselves.
                self.enter(Phase::Done, s);
                s.act(Action::Exit(0));
            }
            Event::PredecessorClosed => self.say_stopping(s),
            Event::PredecessorExited => {
                self.say_stopping(s);
                self.finish(s);
            }
            // It hangs: nobody may stay behind when the service stops.
            Event::Timer(Timer::Commit) => self.kill_predecessor(s),
            Event::Timer(Timer::Evict) => self.press_on(s),
            // Both stop the service: the predecessor is the last.
            Event::Predecessor(FromPredecessor::Release) => {
                self.released = true;
                self.timers.disarm(Timer::Commit);
                self.finish(s);
            }
            Event::Signal(Signal::Int) => {
                if self.workers_left {
                    s.act(Action::KillWorkers);
                }
                if self.stopping {
                    self.hurry_others(s);
                }
            }
            Event::Signal(Signal::Term) => self.hurry(s),
            Event::Signal(signal @ (Signal::Hup | Signal::Usr2)) => {
                s.refuse_signal(signal, "this master is leaving");
            }
            // Answered when it is so: a client that left now would let systemd go on to SIGKILL.
            Event::Order(Order::Stop) if self.stopping => {
                self.pend(OrderKind::Stop);
                if self.patient {
                    self.hurry(s);
                }
            }
            Event::Order(order) => s.refuse(&order, "this master is leaving"),
            // It was started while we decided to leave.
            Event::Launched if self.successor.is_none() => self.stray(s),
            // What it says it does already.
            Event::Signal(Signal::Quit | Signal::Winch | Signal::Usr1)
            | Event::Launched
            | Event::Successor(_)
            | Event::SuccessorClosed(_)
            | Event::Predecessor(
                FromPredecessor::Takeover
                | FromPredecessor::Ready
                | FromPredecessor::Commit
                | FromPredecessor::Retire(_),
            )
            | Event::WorkersReady
            | Event::WorkersFailed(_)
            | Event::Reloaded
            | Event::ReloadFailed(_)
            | Event::Healthy
            | Event::Unhealthy(_)
            | Event::DrainerJoined { .. }
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
        if self.stopping {
            self.hurry_others(s);
        }
    }

    fn committed_one_is_gone(&self) -> bool {
        self.successor.is_some_and(|x| x.committed && x.exited)
    }

    /// Leaves when nothing is left to wait for.
    pub(super) fn finish(&mut self, s: &mut Step) {
        let waits_for_successor = self.successor.is_some_and(|x| !x.committed);
        let waits_for_predecessor =
            self.stopping && !self.released && self.predecessor.is_some_and(|p| !p.exited);
        // Should the service manager still take us for the main process, it would end the service.
        let names = !self.stopping && self.main == Some(Who::Successor) && !self.main_known;
        let waits_for_drainers = self.stopping && !self.released && !self.crowd.is_empty();
        let waits_for_others = waits_for_successor || waits_for_predecessor || waits_for_drainers;
        let waits = self.workers_left || waits_for_others || names;
        if self.phase == Phase::Draining && !waits {
            self.settle_rest("the master left", s);
            self.enter(Phase::Done, s);
            s.act(Action::Exit(0));
        }
    }

    /// The next step against a successor that does not leave: TERM, then KILL.
    pub(super) fn press_on(&mut self, s: &mut Step) {
        let Some(successor) = &mut self.successor else {
            return;
        };
        s.act(if successor.evictions == 0 {
            Action::TermSuccessor
        } else {
            Action::KillSuccessor
        });
        successor.evictions = successor.evictions.saturating_add(1).min(2);
        self.arm(Timer::Evict, self.timing.evict, s);
    }

    /// Answers an order, once.
    pub(super) fn settle(&mut self, kind: OrderKind, verdict: Verdict, s: &mut Step) {
        self.unsettled.retain(|k| *k != kind);
        s.act(Action::Settle(kind, verdict));
    }

    /// An order will be answered later.
    pub(super) fn pend(&mut self, kind: OrderKind) {
        if !self.unsettled.contains(&kind) {
            self.unsettled.push(kind);
        }
    }

    /// Answers an order that waits, if it does.
    pub(super) fn settle_pending(&mut self, kind: OrderKind, verdict: Verdict, s: &mut Step) {
        if self.unsettled.contains(&kind) {
            self.settle(kind, verdict, s);
        }
    }

    /// Answers whatever still waits; an order to stop is done only when everything has gone.
    fn settle_rest(&mut self, why: &str, s: &mut Step) {
        let gone = self.phase == Phase::Draining;
        for kind in std::mem::take(&mut self.unsettled) {
            match kind {
                OrderKind::Stop if gone => s.act(Action::Settle(kind, Verdict::Done)),
                OrderKind::Stop => self.unsettled.push(kind),
                OrderKind::Upgrade
                | OrderKind::Commit
                | OrderKind::Rollback
                | OrderKind::Reload => {
                    s.act(Action::Settle(kind, Verdict::Failed(Failure::new(why))));
                }
            }
        }
    }

    /// A signal that comes before the other side accepts waits for that moment.
    pub(super) fn remember(&mut self, signal: Signal, s: &mut Step) {
        if !self.remembered.contains(&signal) {
            self.remembered.push(signal);
            s.act(Action::Note(Note::SignalRemembered(signal)));
            if self.timers.get(Timer::Remember).is_none() {
                self.arm(Timer::Remember, self.timing.start, s);
            }
        }
    }

    /// The moment for remembered signals did not come.
    pub(super) fn forget(&mut self, s: &mut Step) {
        self.timers.disarm(Timer::Remember);
        for signal in std::mem::take(&mut self.remembered) {
            s.act(Action::Note(Note::SignalDropped(signal)));
        }
    }

    /// The moment for remembered signals has come.
    pub(super) fn recall(&mut self, s: &mut Step) -> Vec<Signal> {
        self.timers.disarm(Timer::Remember);
        let signals = std::mem::take(&mut self.remembered);
        for signal in &signals {
            s.act(Action::Note(Note::SignalCarriedOut(*signal)));
        }
        signals
    }

    /// It does not let go.
    pub(super) fn kill_predecessor(&mut self, s: &mut Step) {
        if let Some(p) = &mut self.predecessor {
            p.closed = true;
        }
        s.act(Action::KillPredecessor);
    }

    /// The predecessor's process has gone, so we are no longer "alien" to the service manager.
    pub(super) fn orphaned(&mut self, s: &mut Step) {
        self.timers.disarm(Timer::Linger);
        if self.predecessor.take().is_some() {
            s.act(Action::Reclaim);
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
            s.tell_predecessor(ToPredecessor::Heartbeat);
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
