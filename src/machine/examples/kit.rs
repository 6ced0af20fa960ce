//! One machine in any phase, and two of them with a virtual clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::machine::event::{Event, Failure, FromPredecessor, FromSuccessor, Order, Signal};
use crate::machine::message::Supersede;
use crate::machine::{Action, Machine, Note, OrderKind, Phase, Timer, Timing, Verdict, Who};

/// Who drives the upgrade under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Orders.
    Automatic,
    /// Signals.
    Hold,
}

pub use Mode::{Automatic, Hold};

/// The predecessor's process.
pub const OLD_PID: u32 = 1001;
/// The successor's.
pub const NEW_PID: u32 = 1002;
/// A predecessor, and how long it may drain.
pub const BEFORE: (u32, Option<Duration>) = (OLD_PID, Some(Duration::from_secs(605)));

/// One machine; the test is the rest of the world.
#[derive(Debug, Clone)]
pub struct One {
    pub machine: Machine,
    pub now: Instant,
    /// Its workers accept no more in the moment in which they are told to leave.
    pub closes: bool,
}

impl One {
    /// A cold start.
    pub fn first() -> (Self, Vec<Action>) {
        let now = Instant::now();
        let (machine, actions) = Machine::first(Timing::default(), now);
        (Self::of(machine, now), actions)
    }

    pub fn of(machine: Machine, now: Instant) -> Self {
        let closes = true;
        Self {
            machine,
            now,
            closes,
        }
    }

    /// Exec'd by a predecessor.
    pub fn successor(mode: Mode) -> (Self, Vec<Action>) {
        Self::successor_with(Timing::default(), mode)
    }

    pub fn successor_with(timing: Timing, mode: Mode) -> (Self, Vec<Action>) {
        let now = Instant::now();
        let (machine, actions) = Machine::succeeding(timing, mode == Hold, BEFORE, now);
        (Self::of(machine, now), actions)
    }

    /// A machine that came to this phase in the usual way. There is no automatic `Beside`.
    pub fn at(phase: Phase, mode: Mode) -> Self {
        let then = |phase, event: Event| {
            let mut one = Self::at(phase, mode);
            let _ = one.on(event);
            one
        };
        let one = match phase {
            Phase::Starting => Self::successor(mode).0,
            Phase::Standby => then(Phase::Starting, Event::WorkersReady),
            Phase::Probation => then(
                Phase::Standby,
                Event::Predecessor(FromPredecessor::Takeover),
            ),
            Phase::Committing => then(Phase::Probation, Event::Order(Order::Commit)),
            Phase::Yielded => then(Phase::Probation, Event::Unhealthy("sick".into())),
            Phase::Serving => {
                let mut one = Self::first().0;
                let _ = one.on(Event::WorkersReady);
                one
            }
            Phase::Reloading => then(Phase::Serving, Event::Signal(Signal::Hup)),
            Phase::Launching => then(Phase::Serving, Event::Order(upgrade(mode))),
            Phase::Beside => {
                assert_eq!(mode, Hold, "both generations accept only in hold mode");
                ready(Self::at(Phase::Launching, mode))
            }
            Phase::Parked => {
                let mut one = ready(Self::at(Phase::Launching, mode));
                if mode == Hold {
                    let _ = one.signal(Signal::Winch);
                }
                let _ = one.on(Event::WorkersGone);
                one
            }
            Phase::Reclaiming => then(Phase::Parked, Event::Signal(Signal::Hup)),
            Phase::Evicting => {
                let mut one = ready(Self::at(Phase::Launching, mode));
                let yields = FromSuccessor::Yield {
                    reason: "sick".into(),
                    retire: true,
                    then: None,
                };
                let _ = one.on(Event::Successor(yields));
                let _ = one.on(Event::WorkersReady);
                one
            }
            Phase::Draining => then(Phase::Serving, Event::Signal(Signal::Quit)),
            Phase::Done => then(Phase::Draining, Event::WorkersGone),
        };
        assert_eq!(one.machine.phase(), phase);
        one
    }

    /// The service manager and the owner answer at once, who is sought does not.
    #[must_use]
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let swapped = event == Event::Reloaded;
        let mut actions = self.machine.step(event, self.now);
        let mut looked_at = 0;
        while let Some(action) = actions.get(looked_at) {
            let answer = match action {
                Action::NameMain(who) => Some(named(*who)),
                Action::Reclaim => Some(named(Who::Me)),
                Action::NotifyReady => {
                    actions.extend(self.machine.step(Event::ReadyHeard, self.now));
                    Some(named(Who::Me))
                }
                Action::AskOwner => Some(Event::OwnerAnswered(false)),
                Action::DrainWorkers { .. } | Action::KillWorkers if self.closes => {
                    Some(Event::WorkersClosed)
                }
                _ => None,
            };
            if let Some(answer) = answer {
                actions.extend(self.machine.step(answer, self.now));
            }
            looked_at += 1;
        }
        if swapped && self.closes {
            actions.extend(self.machine.step(Event::WorkersClosed, self.now));
        }
        actions
    }

    #[must_use]
    pub fn signal(&mut self, signal: Signal) -> Vec<Action> {
        self.on(Event::Signal(signal))
    }

    #[must_use]
    pub fn order(&mut self, order: Order) -> Vec<Action> {
        self.on(Event::Order(order))
    }

    #[must_use]
    pub fn hears(&mut self, word: FromPredecessor) -> Vec<Action> {
        self.on(Event::Predecessor(word))
    }

    #[must_use]
    pub fn told(&mut self, word: FromSuccessor) -> Vec<Action> {
        self.on(Event::Successor(word))
    }

    /// Goes on to the next deadline, which must be this one.
    #[must_use]
    pub fn waits_for(&mut self, timer: Timer) -> Vec<Action> {
        self.now = self.machine.armed(timer).expect("not armed");
        self.on(Event::Timer(timer))
    }

    /// How long it is until then.
    pub fn armed(&self, timer: Timer) -> Option<Duration> {
        self.machine.armed(timer).map(|at| at - self.now)
    }

    pub fn phase(&self) -> Phase {
        self.machine.phase()
    }
}

/// Its workers do not close their sockets before the test says so.
pub fn slow(phase: Phase, mode: Mode) -> One {
    One {
        closes: false,
        ..One::at(phase, mode)
    }
}

pub fn named(who: Who) -> Event {
    Event::MainNamed { who, done: true }
}

/// Every phase in every mode that has it.
pub fn phases() -> Vec<(Phase, Mode)> {
    let all = Phase::ALL
        .into_iter()
        .flat_map(|phase| [(phase, Automatic), (phase, Hold)]);
    all.filter(|x| *x != (Phase::Beside, Automatic)).collect()
}

/// The successor starts and says that it is ready.
pub fn ready(mut one: One) -> One {
    for event in [
        Event::Launched(NEW_PID),
        Event::Successor(FromSuccessor::Hello),
        Event::Successor(FromSuccessor::Ready),
    ] {
        let _ = one.on(event);
    }
    one
}

pub fn upgrade(mode: Mode) -> Order {
    Order::Upgrade {
        hold: mode == Hold,
        current: false,
        end_oldest: false,
        supersede: None,
    }
}

pub fn supersede() -> Order {
    Order::Upgrade {
        hold: false,
        current: false,
        end_oldest: false,
        supersede: Some(next()),
    }
}

/// The upgrade that follows.
pub fn next() -> Supersede {
    Supersede {
        id: "2".into(),
        hold: false,
        probation_ms: None,
        release: false,
    }
}

pub fn yields(retire: bool) -> FromSuccessor {
    FromSuccessor::Yield {
        reason: "sick".into(),
        retire,
        then: None,
    }
}

pub fn retire() -> FromPredecessor {
    FromPredecessor::Retire("sick".into())
}

pub fn closed() -> Event {
    Event::SuccessorClosed(Failure::new("it let go of the channel"))
}

pub fn exited() -> Event {
    Event::SuccessorExited("exited with code 3".into())
}

/// Where the action stands in the list; a test says what is missing.
#[track_caller]
pub fn place(actions: &[Action], what: &Action) -> usize {
    actions
        .iter()
        .position(|a| a == what)
        .unwrap_or_else(|| panic!("no {what:?} in {actions:#?}"))
}

#[track_caller]
pub fn assert_order(actions: &[Action], expected: &[Action]) {
    let places: Vec<usize> = expected.iter().map(|a| place(actions, a)).collect();
    assert!(places.is_sorted(), "{expected:?} at {places:?}");
}

pub fn enters(actions: &[Action], phase: Phase) -> bool {
    actions
        .iter()
        .any(|a| matches!(a, Action::Enter { to, .. } if *to == phase))
}

/// What the order was answered in this step.
pub fn verdict(actions: &[Action], kind: OrderKind) -> Option<&Verdict> {
    actions.iter().find_map(|a| match a {
        Action::Settle(k, verdict) if *k == kind => Some(verdict),
        _ => None,
    })
}

pub fn refuses(actions: &[Action], signal: Signal) -> bool {
    actions
        .iter()
        .any(|a| matches!(a, Action::Note(Note::SignalRefused(s, _)) if *s == signal))
}

/// The limit that our workers were given.
pub fn drain(actions: &[Action]) -> Option<(bool, Option<Duration>)> {
    actions.iter().find_map(|a| match a {
        Action::DrainWorkers { stop, limit } => Some((*stop, *limit)),
        _ => None,
    })
}

/// One master of a [`Pair`].
#[expect(clippy::struct_excessive_bools, reason = "a state of a model")]
pub struct Side {
    pub one: One,
    inbox: VecDeque<Event>,
    pub accepts: bool,
    /// What its draining workers hold does not end by itself.
    pub busy: bool,
    pub alive: bool,
    /// It does nothing, silently.
    pub hangs: bool,
    open: bool,
}

impl Side {
    fn new(one: One) -> Self {
        Self {
            one,
            inbox: VecDeque::new(),
            accepts: false,
            busy: false,
            alive: true,
            hangs: false,
            open: true,
        }
    }

    pub fn phase(&self) -> Phase {
        self.one.phase()
    }
}

/// The two masters' names, as an operator calls them.
pub const OLD: usize = 0;
/// The successor.
pub const NEW: usize = 1;

/// Two masters, a virtual clock, and workers that do what they are told at once.
pub struct Pair {
    pub sides: Vec<Side>,
    pub main: usize,
    /// Everything that was done, by whom.
    pub log: Vec<(usize, Action)>,
    timing: Timing,
}

impl Pair {
    /// One master serves.
    pub fn new() -> Self {
        Self::with(Timing::default())
    }

    pub fn with(timing: Timing) -> Self {
        let now = Instant::now();
        let (machine, actions) = Machine::first(timing, now);
        let mut pair = Self {
            sides: vec![Side::new(One::of(machine, now))],
            main: OLD,
            log: Vec::new(),
            timing,
        };
        pair.perform(OLD, actions);
        pair.drive();
        pair
    }

    pub fn old(&mut self) -> &mut Side {
        &mut self.sides[OLD]
    }

    pub fn new_one(&mut self) -> &mut Side {
        &mut self.sides[NEW]
    }

    pub fn phases(&self) -> Vec<Phase> {
        self.sides
            .iter()
            .filter(|s| s.alive)
            .map(Side::phase)
            .collect()
    }

    /// Which of them accept.
    pub fn accepting(&self) -> Vec<usize> {
        (0..self.sides.len())
            .filter(|w| self.sides[*w].alive && self.sides[*w].accepts)
            .collect()
    }

    pub fn signal(&mut self, who: usize, signal: Signal) {
        self.sides[who].inbox.push_back(Event::Signal(signal));
        self.drive();
    }

    /// To the owner, as the control socket does. What is answered at once is returned.
    pub fn order(&mut self, order: &Order) -> Option<Verdict> {
        let from = self.log.len();
        let owner = (0..self.sides.len())
            .rfind(|w| self.sides[*w].alive && self.sides[*w].one.machine.owns())
            .expect("nobody owns the service");
        self.sides[owner]
            .inbox
            .push_back(Event::Order(order.clone()));
        self.drive();
        let actions: Vec<Action> = self.log[from..].iter().map(|(_, a)| a.clone()).collect();
        verdict(&actions, order.kind()).cloned()
    }

    /// To both at once: none has answered when the second one hears it.
    pub fn both(&mut self, signal: Signal, first: usize) {
        for who in [first, 1 - first] {
            self.sides[who].inbox.push_back(Event::Signal(signal));
        }
        let actions = self.take_one(first);
        let later = self.take_one(1 - first);
        self.perform(first, actions);
        self.perform(1 - first, later);
        self.drive();
    }

    fn take_one(&mut self, who: usize) -> Vec<Action> {
        let event = self.sides[who].inbox.pop_front().expect("has work");
        self.sides[who].one.on(event)
    }

    pub fn event(&mut self, who: usize, event: Event) {
        self.sides[who].inbox.push_back(event);
        self.drive();
    }

    pub fn kill(&mut self, who: usize) {
        self.end(who);
        self.drive();
    }

    /// Time goes on, and deadlines with it.
    pub fn advance(&mut self, by: Duration) {
        let end = self.sides[OLD].one.now + by;
        loop {
            let next = self
                .sides
                .iter()
                .filter(|s| s.alive && !s.hangs)
                .filter_map(|s| s.one.machine.deadline())
                .min()
                .filter(|at| *at <= end);
            let now = next.unwrap_or(end);
            for side in &mut self.sides {
                side.one.now = now;
            }
            if next.is_none() {
                return;
            }
            for side in self.sides.iter_mut().filter(|s| s.alive && !s.hangs) {
                if let Some(timer) = side.one.machine.due(now) {
                    side.inbox.push_back(Event::Timer(timer));
                }
            }
            self.drive();
        }
    }

    /// Everything that is on its way arrives. Somebody accepts all the time.
    fn drive(&mut self) {
        while let Some(who) = (0..self.sides.len()).find(|w| self.has_work(*w)) {
            let event = self.sides[who].inbox.pop_front().expect("has work");
            let actions = self.sides[who].one.on(event);
            self.perform(who, actions);
        }
    }

    fn has_work(&self, who: usize) -> bool {
        let side = &self.sides[who];
        side.alive && !side.hangs && !side.inbox.is_empty()
    }

    fn tell(&mut self, to: usize, event: Event) {
        if let Some(side) = self.sides.get_mut(to).filter(|s| s.alive && s.open) {
            side.inbox.push_back(event);
        }
    }

    fn perform(&mut self, who: usize, actions: Vec<Action>) {
        for action in actions {
            self.log.push((who, action.clone()));
            self.perform_one(who, action);
        }
    }

    fn perform_one(&mut self, who: usize, action: Action) {
        let me = &mut self.sides[who];
        match action {
            Action::StartWorkers => me.inbox.push_back(Event::WorkersReady),
            Action::Accept => me.accepts = true,
            Action::Quiesce => me.accepts = false,
            Action::DrainWorkers { .. } | Action::KillWorkers => {
                me.accepts = false;
                me.inbox.push_back(Event::WorkersClosed);
                if action == Action::KillWorkers || !me.busy {
                    me.inbox.push_back(Event::WorkersGone);
                }
            }
            Action::Reload => me.inbox.extend([Event::Reloaded, Event::WorkersClosed]),
            Action::Launch { .. } => {
                let now = me.one.now;
                me.open = true;
                me.inbox.push_back(Event::Launched(NEW_PID));
                me.inbox.push_back(Event::Successor(FromSuccessor::Hello));
                let hold = me.one.machine.hold();
                // It starts its workers when it has its inheritance.
                let (machine, _) = Machine::succeeding(self.timing, hold, BEFORE, now);
                self.sides.truncate(NEW);
                self.sides.push(Side::new(One::of(machine, now)));
            }
            Action::Inherit => self.sides[NEW].inbox.push_back(Event::WorkersReady),
            Action::ToSuccessor(word) => self.tell(NEW, Event::Predecessor(word)),
            Action::ToPredecessor(word) => self.tell(OLD, Event::Successor(word)),
            Action::CloseSuccessor | Action::ClosePredecessor => self.close(who),
            Action::EndSuccessor(how) => self.sides[NEW].inbox.push_back(Event::Signal(how)),
            Action::EndDrainer(OLD_PID, how) => self.sides[OLD].inbox.push_back(Event::Signal(how)),
            Action::KillSuccessor => self.end(NEW),
            Action::KillPredecessor | Action::KillDrainer(OLD_PID) => self.end(OLD),
            Action::NameMain(Who::Successor) => self.main = NEW,
            Action::NameMain(Who::Me) | Action::Reclaim => self.main = who,
            Action::Exit(_) => self.end(who),
            _ => {}
        }
    }

    fn close(&mut self, who: usize) {
        if !std::mem::take(&mut self.sides[who].open) {
            return;
        }
        if who == NEW {
            self.tell(OLD, closed());
        } else {
            self.tell(NEW, Event::PredecessorClosed);
        }
    }

    fn end(&mut self, who: usize) {
        if !std::mem::take(&mut self.sides[who].alive) {
            return;
        }
        self.close(who);
        self.sides[who].accepts = false;
        if who == NEW {
            self.sides[OLD]
                .inbox
                .push_back(Event::SuccessorExited("exited with code 0".into()));
        } else if let Some(new) = self.sides.get_mut(NEW) {
            new.inbox.push_back(Event::PredecessorExited);
        }
    }
}
