//! Walks every interleaving of two masters, their messages, workers, deadlines, one script of
//! orders or signals and at most one accident, with systemd as a third party; checks the
//! invariants in every state, and prints the shortest bad story.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::Instant;

use crate::api::Outcome;

use super::event::{Event, Failure, FromPredecessor, FromSuccessor, Order, Signal};
use super::{
    Action, Machine, OrderKind, Phase, Timer, Timing, ToPredecessor, ToSuccessor, Verdict, Who,
};

const A: usize = 0;
const B: usize = 1;

/// Workers of one master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Workers {
    None,
    Starting,
    Ready,
    Accepting,
}

/// What is wrong with a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Health {
    Well,
    /// SIGSTOP: it does nothing, silently.
    Hung,
    /// It says that it is alive, and does nothing else.
    Stuck,
}

#[expect(clippy::struct_excessive_bools, reason = "a state of a model")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Master {
    /// `None`: exec'd, no inheritance yet.
    machine: Option<Machine>,
    alive: bool,
    health: Health,
    workers: Workers,
    /// What the pool tells workers that come up: a respawned one goes on where the last one was.
    accept: bool,
    reloading: bool,
    draining: bool,
    /// Our end of the channel to the other one.
    open: bool,
    /// EOF of the other end was delivered; the other's exit was delivered.
    saw_eof: bool,
    saw_exit: bool,
    said_hello: bool,
    asked_to_leave: bool,
    /// Was sent away, or the whole service was asked to stop.
    dismissed: bool,
    /// Orders that a client of this master waits for, a bit a kind.
    asked: u8,
}

impl Master {
    fn new(machine: Option<Machine>) -> Self {
        Self {
            machine,
            alive: true,
            health: Health::Well,
            workers: Workers::None,
            accept: false,
            reloading: false,
            draining: false,
            open: true,
            saw_eof: false,
            saw_exit: false,
            said_hello: false,
            asked_to_leave: false,
            dismissed: false,
            asked: 0,
        }
    }

    fn phase(&self) -> Option<Phase> {
        self.machine.as_ref().map(Machine::phase)
    }

    fn owns(&self) -> bool {
        self.alive && self.machine.as_ref().is_some_and(Machine::owns)
    }
}

#[expect(clippy::struct_excessive_bools, reason = "a state of a model")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    masters: [Option<Master>; 2],
    to_b: VecDeque<FromPredecessor>,
    to_a: VecDeque<FromSuccessor>,
    launching: bool,
    main: usize,
    /// The story ends here: systemd saw its main process die and starts the service again (the
    /// file on disk is right); or B, serving, launches a third master, which is a new story.
    over: bool,
    stopping: bool,
    /// How much of the script was carried out.
    script: usize,
    accidents: u8,
    /// An accident has happened, or a deadline other than the probation's has passed.
    late: bool,
    /// A start was given up, and there may be a process nevertheless.
    stray: bool,
    /// A's own predecessor still drains.
    ghost: bool,
    /// An upgrade has begun and is not concluded.
    upgrading: bool,
    bad: Option<&'static str>,
}

/// One operator's word.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// To whoever owns the service.
    Order(Order),
    Signal(usize, Signal),
    /// systemd stops the unit without an `ExecStop=`: TERM to everybody, in any order.
    TermAll,
}

/// A bug planted to see that the explorer bites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plant {
    None,
    SuccessorClaimsMain,
    ParkedExits,
    NoDeadMan,
    CommitBelievedBeforeEof,
    YieldedStopsAccepting,
    ReapsWithoutReclaiming,
    LeavesWithoutAWord,
    ForgetsAVerdict,
    ReleasesNobody,
}

struct Explorer {
    script: Vec<Word>,
    plant: Plant,
    accidents: u8,
    /// A became what it is by an upgrade, and its predecessor still drains.
    ghost: bool,
    start: Instant,
}

type Next = Vec<(Move, World)>;

/// What led from one state to the next.
#[derive(Debug, Clone)]
struct Move {
    who: usize,
    what: What,
    /// An accident, or a deadline that fires on a healthy other side: it may happen, but nobody
    /// may rely on it.
    unlikely: bool,
}

#[derive(Debug, Clone)]
enum What {
    Event(Event),
    Text(&'static str),
}

fn text(who: usize, what: &'static str) -> Move {
    Move {
        who,
        what: What::Text(what),
        unlikely: false,
    }
}

impl Explorer {
    fn new(script: Vec<Word>, plant: Plant) -> Self {
        Self {
            script,
            plant,
            accidents: 1,
            ghost: false,
            start: Instant::now(),
        }
    }

    fn initial(&self) -> World {
        let timing = Timing::default();
        let machine = if self.ghost {
            let (mut machine, _) = Machine::succeeding(timing, false, self.start);
            for event in [
                Event::WorkersReady,
                Event::Predecessor(FromPredecessor::Takeover),
                Event::Timer(Timer::Probation),
                Event::PredecessorClosed,
            ] {
                let _ = machine.step(event, self.start);
            }
            machine
        } else {
            let (mut machine, _) = Machine::first(timing, self.start);
            let _ = machine.step(Event::WorkersReady, self.start);
            machine
        };
        assert_eq!(machine.phase(), Phase::Serving);
        let mut a = Master::new(Some(machine));
        a.workers = Workers::Accepting;
        a.accept = true;
        World {
            masters: [Some(a), None],
            to_b: VecDeque::new(),
            to_a: VecDeque::new(),
            launching: false,
            main: A,
            over: false,
            stopping: false,
            script: 0,
            accidents: self.accidents,
            late: false,
            stray: false,
            ghost: self.ghost,
            upgrading: false,
            bad: None,
        }
    }

    /// Breadth first, so that the story is the shortest. Returns how many states there are.
    fn run(&self) -> Result<usize, String> {
        let first = self.initial();
        let mut seen: HashSet<u64, BuildHasherDefault<Fold>> = HashSet::default();
        seen.insert(fingerprint(&first));
        // Only worlds that are still to be looked at are kept; the way to each is.
        let mut todo = VecDeque::from([first]);
        let mut ways: Vec<(usize, usize)> = vec![(0, 0)];
        let mut at = 0;
        while let Some(world) = todo.pop_front() {
            let nexts = self.nexts(&world);
            if let Some(wrong) = self.check(&world, &nexts) {
                return Err(self.story(&ways, at, &wrong));
            }
            for (turn, (_, next)) in nexts.into_iter().enumerate() {
                if seen.insert(fingerprint(&next)) {
                    todo.push_back(next);
                    ways.push((at, turn));
                }
            }
            at += 1;
        }
        Ok(ways.len())
    }

    /// Walks the way again, and tells what is to be seen.
    fn story(&self, ways: &[(usize, usize)], mut at: usize, wrong: &str) -> String {
        let mut turns = Vec::new();
        while at != 0 {
            let (before, turn) = ways[at];
            turns.push(turn);
            at = before;
        }
        let mut world = self.initial();
        let mut lines = vec![format!("{:<70} {}", "A: serves", sketch(&world))];
        for turn in turns.into_iter().rev() {
            let (what, next) = self.nexts(&world).swap_remove(turn);
            let who = name(what.who);
            let what = match what.what {
                What::Event(event) => format!("{who}: {event:?}"),
                What::Text(text) => format!("{who}: {text}"),
            };
            lines.push(format!("{what:<70} {}", sketch(&next)));
            world = next;
        }
        lines.push(format!("=> {wrong}"));
        lines.join("\n")
    }

    fn nexts(&self, world: &World) -> Next {
        let mut out = Vec::new();
        if world.over || world.bad.is_some() {
            return out;
        }
        for who in [A, B] {
            if world.masters[who].as_ref().is_some_and(|m| m.alive) {
                self.progress(world, who, &mut out);
                self.accidents(world, who, &mut out);
            }
        }
        self.operator(world, &mut out);
        out
    }

    /// What the world itself does to one living master.
    fn progress(&self, world: &World, who: usize, out: &mut Next) {
        let me = world.masters[who].as_ref().unwrap();
        let other = world.masters[1 - who].as_ref();
        if me.draining && me.health == Health::Well {
            let mut next = world.clone();
            let m = next.masters[who].as_mut().unwrap();
            m.draining = false;
            // Where a new set has been started since, this is a word about the old one.
            self.deliver(next, who, Event::WorkersGone, out);
        }
        if me.health != Health::Well {
            return;
        }
        if me.machine.is_none() {
            if !me.said_hello {
                let mut next = world.clone();
                next.masters[who].as_mut().unwrap().said_hello = true;
                next.to_a.push_back(FromSuccessor::Hello);
                out.push((text(B, "says hello"), next));
            }
            if other.is_none_or(|o| !o.alive || !o.open) {
                let mut next = world.clone();
                die(&mut next, who);
                out.push((text(B, "leaves, its predecessor has gone"), next));
            }
            return;
        }
        if me.workers == Workers::Starting {
            let mut next = world.clone();
            let m = next.masters[who].as_mut().unwrap();
            m.workers = if m.accept {
                Workers::Accepting
            } else {
                Workers::Ready
            };
            self.deliver(next, who, Event::WorkersReady, out);
        }
        if me.reloading {
            let mut next = world.clone();
            next.masters[who].as_mut().unwrap().reloading = false;
            self.deliver(next.clone(), who, Event::Reloaded, out);
            let failure = Failure::new("bad configuration");
            self.deliver(next, who, Event::ReloadFailed(failure), out);
        }
        if who == A && world.ghost {
            let mut next = world.clone();
            next.ghost = false;
            self.deliver(next, A, Event::PredecessorExited, out);
        }
        let free = world.masters[B].as_ref().is_none_or(|b| !b.alive);
        if who == A && world.stray && free && !world.launching {
            self.launched(world, out);
            out.last_mut().unwrap().0.unlikely = true;
        }
        if who == A && world.launching {
            self.launched(world, out);
            let mut next = world.clone();
            next.launching = false;
            self.deliver(next, A, Event::LaunchFailed(Failure::new("bad")), out);
        }
        if who == A && me.open && !world.to_a.is_empty() {
            let mut next = world.clone();
            let said = next.to_a.pop_front().unwrap();
            self.deliver(next, A, Event::Successor(said), out);
        }
        if who == B && me.open && !world.to_b.is_empty() {
            let mut next = world.clone();
            let said = next.to_b.pop_front().unwrap();
            self.deliver(next, B, Event::Predecessor(said), out);
        }
        let queue_empty = if who == A {
            world.to_a.is_empty()
        } else {
            world.to_b.is_empty()
        };
        if let Some(other) = other {
            if me.open && !me.saw_eof && queue_empty && (!other.alive || !other.open) {
                let mut next = world.clone();
                next.masters[who].as_mut().unwrap().saw_eof = true;
                let event = if who == A {
                    Event::SuccessorClosed(Failure::new("eof"))
                } else {
                    Event::PredecessorClosed
                };
                self.deliver(next, who, event, out);
            }
            if !me.saw_exit && !other.alive {
                let mut next = world.clone();
                next.masters[who].as_mut().unwrap().saw_exit = true;
                let event = if who == A {
                    Event::SuccessorExited("died".into())
                } else {
                    Event::PredecessorExited
                };
                self.deliver(next, who, event, out);
            }
        }
        self.deadlines(world, who, out);
    }

    fn deadlines(&self, world: &World, who: usize, out: &mut Next) {
        let me = world.masters[who].as_ref().unwrap();
        let other = world.masters[1 - who].as_ref();
        let machine = me.machine.as_ref().unwrap();
        for timer in Timer::ALL {
            if machine.armed(timer).is_none() || timer == Timer::Heartbeat {
                continue;
            }
            // Somebody who says that he is alive is not silent.
            if timer == Timer::Silence && other.is_some_and(|o| o.health == Health::Stuck) {
                continue;
            }
            if timer == Timer::DeadMan && self.plant == Plant::NoDeadMan {
                continue;
            }
            let mut next = world.clone();
            next.late |= timer != Timer::Probation;
            self.deliver(next, who, Event::Timer(timer), out);
            let well = other.is_some_and(|o| o.alive && o.health == Health::Well);
            if timer == Timer::Silence && well {
                out.last_mut().unwrap().0.unlikely = true;
            }
        }
    }

    fn launched(&self, world: &World, out: &mut Next) {
        let mut next = world.clone();
        next.launching = false;
        next.stray = false;
        next.masters[B] = Some(Master::new(None));
        let a = me(&mut next, A);
        (a.saw_eof, a.saw_exit, a.open) = (false, false, true);
        next.to_a.clear();
        next.to_b.clear();
        self.deliver(next, A, Event::Launched, out);
    }

    fn accidents(&self, world: &World, who: usize, out: &mut Next) {
        if world.accidents == 0 {
            return;
        }
        let mut base = world.clone();
        base.accidents -= 1;
        base.late = true;
        let me = base.masters[who].as_ref().unwrap();
        let mut killed = base.clone();
        die(&mut killed, who);
        out.push((accident(who, "killed"), killed));
        if me.health == Health::Well {
            for health in [Health::Hung, Health::Stuck] {
                let mut next = base.clone();
                next.masters[who].as_mut().unwrap().health = health;
                let what = match health {
                    Health::Hung => "hangs, silently",
                    _ => "does nothing but say that it is alive",
                };
                out.push((accident(who, what), next));
            }
            if me.machine.is_some() && me.workers != Workers::None {
                let mut next = base.clone();
                next.masters[who].as_mut().unwrap().workers = Workers::Starting;
                let event = Event::WorkersFailed("crash loop".into());
                self.deliver(next, who, event, out);
                out.last_mut().unwrap().0.unlikely = true;
            }
        }
    }

    fn operator(&self, world: &World, out: &mut Next) {
        let Some(next_word) = self.script.get(world.script) else {
            return;
        };
        let mut base = world.clone();
        base.script += 1;
        match next_word {
            Word::Order(order) => {
                // The owner answers the control socket; in the middle of a hand-over both may.
                for who in [A, B] {
                    if base.masters[who]
                        .as_ref()
                        .is_some_and(|m| m.owns() && m.health == Health::Well)
                    {
                        let mut next = base.clone();
                        if *order == Order::Stop {
                            for m in next.masters.iter_mut().flatten() {
                                m.asked_to_leave = true;
                            }
                        }
                        self.deliver(next, who, Event::Order(order.clone()), out);
                    }
                }
            }
            Word::Signal(who, signal) => {
                let there = base.masters[*who]
                    .as_ref()
                    .is_some_and(|m| m.alive && m.health == Health::Well);
                if there && base.masters[*who].as_ref().unwrap().machine.is_some() {
                    self.signal(base, *who, *signal, out);
                } else {
                    out.push((text(*who, "is not there for the signal"), base));
                }
            }
            Word::TermAll => {
                // Two steps: first to one, then to the other, whatever happens in between.
                for who in [A, B] {
                    let Some(m) = &world.masters[who] else {
                        continue;
                    };
                    if !m.alive || m.asked_to_leave || m.health != Health::Well {
                        continue;
                    }
                    let mut next = world.clone();
                    if m.machine.is_none() {
                        next.masters[who].as_mut().unwrap().asked_to_leave = true;
                        die(&mut next, who);
                        out.push((text(B, "SIGTERM before the inheritance"), next));
                    } else {
                        self.signal(next, who, Signal::Term, out);
                    }
                }
            }
        }
    }

    fn signal(&self, mut next: World, who: usize, signal: Signal, out: &mut Next) {
        if matches!(signal, Signal::Term | Signal::Quit | Signal::Int) {
            next.masters[who].as_mut().unwrap().asked_to_leave = true;
        }
        self.deliver(next, who, Event::Signal(signal), out);
    }

    fn deliver(&self, mut world: World, who: usize, event: Event, out: &mut Next) {
        let Some(machine) = world.masters[who].as_mut().and_then(|m| m.machine.as_mut()) else {
            return;
        };
        let actions = machine.step(event.clone(), self.start);
        // Reasons are for people: two states that differ in nothing else are one.
        if let Some(why) = &mut machine.why {
            why.reason.clear();
        }
        let mut asked = match &event {
            Event::Order(order) => Some(order.kind()),
            _ => None,
        };
        for action in actions {
            match action {
                Action::Settle(..) if self.plant == Plant::ForgetsAVerdict => {}
                Action::Settle(kind, ref verdict)
                    if asked == Some(kind) && *verdict != Verdict::Moved =>
                {
                    if !matches!(verdict, Verdict::Refused(_)) {
                        me(&mut world, who).asked &= !(1 << kind as u8);
                    }
                    asked = None;
                }
                _ => self.perform(&mut world, who, action),
            }
        }
        if let Some(kind) = asked {
            me(&mut world, who).asked |= 1 << kind as u8;
        }
        let what = What::Event(event);
        out.push((
            Move {
                who,
                what,
                unlikely: false,
            },
            world,
        ));
    }

    #[expect(clippy::too_many_lines, reason = "one arm an action")]
    fn perform(&self, world: &mut World, who: usize, action: Action) {
        match action {
            Action::Enter { to, .. } => self.entered(world, who, to),
            Action::StartWorkers => {
                me(world, who).workers = Workers::Starting;
                me(world, who).accept = false;
            }
            Action::Accept => {
                me(world, who).accept = true;
                if me(world, who).workers == Workers::Ready {
                    me(world, who).workers = Workers::Accepting;
                }
            }
            Action::Quiesce => {
                me(world, who).accept = false;
                me(world, who).workers = Workers::Ready;
            }
            Action::DrainWorkers { .. } | Action::KillWorkers => {
                let m = me(world, who);
                m.draining = true;
                m.workers = Workers::None;
            }
            Action::Launch { .. } if who == B => world.over = true,
            Action::Launch { next, .. } => {
                world.launching = true;
                world.upgrading = true;
                if next.is_some() {
                    // The client asks here, by the upgrade's id.
                    me(world, A).asked |= 1 << OrderKind::Upgrade as u8;
                }
            }
            Action::CancelLaunch => {
                world.stray = world.launching;
                world.launching = false;
            }
            // A parked master only tells of a commit; the successor writes it down.
            Action::Conclude(outcome, _) => {
                let tells = who == A && outcome == Outcome::Committed;
                if !tells && !std::mem::take(&mut world.upgrading) {
                    world.bad = Some("an upgrade that has ended was concluded again");
                }
            }
            Action::Settle(kind, verdict) => {
                let bit = 1 << kind as u8;
                if me(world, who).asked & bit == 0 {
                    world.bad = Some("a verdict that nobody waits for");
                }
                me(world, who).asked &= !bit;
                if verdict == Verdict::Moved {
                    me(world, A).asked |= bit;
                }
            }
            Action::Inherit => {
                let hold = me(world, A).machine.as_ref().unwrap().hold();
                let (machine, _) = Machine::succeeding(Timing::default(), hold, self.start);
                if let Some(b) = world.masters[B].as_mut().filter(|b| b.alive) {
                    b.machine = Some(machine);
                    b.workers = Workers::Starting;
                }
            }
            Action::ToSuccessor(ToSuccessor::Release) if self.plant == Plant::ReleasesNobody => {}
            Action::ToPredecessor(ToPredecessor::Leaving)
                if self.plant == Plant::LeavesWithoutAWord => {}
            Action::ToSuccessor(said) => {
                if world.masters[B].as_ref().is_some_and(|b| b.alive && b.open) && me(world, A).open
                {
                    if matches!(said, ToSuccessor::Release) {
                        me(world, B).dismissed = true;
                    }
                    world.to_b.push_back(match said {
                        ToSuccessor::Takeover => FromPredecessor::Takeover,
                        ToSuccessor::Ready => FromPredecessor::Ready,
                        ToSuccessor::Commit => FromPredecessor::Commit,
                        ToSuccessor::Release => FromPredecessor::Release,
                        ToSuccessor::Retire(_) => FromPredecessor::Retire(String::new()),
                    });
                }
            }
            Action::ToPredecessor(said) => {
                if world.masters[A].as_ref().is_some_and(|a| a.alive && a.open) && me(world, B).open
                {
                    let commit = said == ToPredecessor::Commit;
                    world.to_a.push_back(match said {
                        ToPredecessor::Ready => FromSuccessor::Ready,
                        ToPredecessor::Heartbeat => FromSuccessor::Heartbeat,
                        ToPredecessor::Commit => FromSuccessor::Commit,
                        ToPredecessor::Yield { retire, then, .. } => FromSuccessor::Yield {
                            reason: String::new(),
                            retire,
                            then,
                        },
                        ToPredecessor::Release => FromSuccessor::Release,
                        ToPredecessor::Leaving => FromSuccessor::Leaving,
                    });
                    if commit && self.plant == Plant::CommitBelievedBeforeEof {
                        let machine = me(world, B).machine.as_mut().unwrap();
                        let actions = machine.step(Event::PredecessorClosed, self.start);
                        me(world, B).saw_eof = true;
                        for action in actions {
                            self.perform(world, B, action);
                        }
                    }
                }
            }
            Action::CloseSuccessor | Action::ClosePredecessor => me(world, who).open = false,
            Action::TermSuccessor => {
                let Some(b) = world.masters[B].as_mut() else {
                    return;
                };
                if b.alive && b.machine.is_none() && b.health == Health::Well {
                    die(world, B);
                }
                let smooth = !world.late;
                let served = |m: &Machine| m.successor.is_some_and(|x| x.ready);
                let served = me(world, A).machine.as_ref().is_some_and(served);
                let b = world.masters[B].as_ref().unwrap();
                if served && b.alive && b.draining && !b.dismissed && smooth {
                    world.bad = Some("SIGTERM cuts short one that leaves by itself");
                }
            }
            Action::KillSuccessor => {
                if world.masters[B].is_some() {
                    die(world, B);
                }
            }
            Action::KillPredecessor if who == A => {} // the ghost, which exits anyway
            Action::KillPredecessor => die(world, A),
            Action::ReapSuccessor => {
                // The driver drops the link: what is still in it belongs to nobody.
                world.to_a.clear();
                let a = me(world, A);
                (a.saw_eof, a.saw_exit) = (true, true);
                if world.main == B {
                    world.bad =
                        Some("the dead main process was reaped before the service was ours");
                }
            }
            Action::NameMain(Who::Me) if self.plant == Plant::ReapsWithoutReclaiming => {}
            Action::NameMain(Who::Me) => self.name_main(world, who, who),
            Action::NameMain(Who::Successor) => self.name_main(world, who, B),
            Action::Reclaim => {
                if !me(world, who).owns() {
                    world.bad = Some("MAINPID is claimed back by one who does not own the service");
                }
                self.name_main(world, who, who);
            }
            Action::NotifyStopping => {
                if world.masters[1 - who]
                    .as_ref()
                    .is_some_and(|o| o.alive && o.open && o.workers == Workers::Accepting)
                {
                    world.bad = Some("STOPPING=1 while another generation lives");
                }
                world.stopping = true;
            }
            Action::Exit(_) => end(world, who, true),
            Action::TermPredecessor
            | Action::WritePids
            | Action::OwnPid
            | Action::RestoreDisk
            | Action::KeepDisk
            | Action::DropListeners
            | Action::ReopenLogs
            | Action::Note(_)
            | Action::NotifyReady => {}
            Action::Reload => me(world, who).reloading = true,
        }
    }

    fn entered(&self, world: &mut World, who: usize, to: Phase) {
        if who == B && to == Phase::Probation && self.plant == Plant::SuccessorClaimsMain {
            self.name_main(world, B, B);
        }
        if to == Phase::Parked && self.plant == Plant::ParkedExits {
            die(world, who);
        }
        if to == Phase::Yielded && self.plant == Plant::YieldedStopsAccepting {
            me(world, who).workers = Workers::None;
        }
    }

    fn name_main(&self, world: &mut World, by: usize, whom: usize) {
        let a_there = world.masters[A].as_ref().is_some_and(|a| a.alive && a.open);
        if by == B && a_there && !world.masters[B].as_ref().unwrap().saw_eof {
            world.bad =
                Some("two writers of MAINPID: the successor claims it while its predecessor lives");
        }
        if by == B && a_there && self.plant == Plant::CommitBelievedBeforeEof {
            world.bad = Some("two writers of MAINPID");
        }
        if world.masters[whom].as_ref().is_some_and(|m| m.alive) {
            world.main = whom;
        }
    }

    fn check(&self, world: &World, nexts: &Next) -> Option<String> {
        if let Some(bad) = world.bad {
            return Some(bad.into());
        }
        if world.over {
            return None;
        }
        let living: Vec<usize> = [A, B]
            .into_iter()
            .filter(|w| world.masters[*w].as_ref().is_some_and(|m| m.alive))
            .collect();
        let a = world.masters[A].as_ref().unwrap();
        let asked = world.masters.iter().flatten().any(|m| m.asked_to_leave)
            && world.masters.iter().flatten().all(|m| {
                m.asked_to_leave || m.dismissed || !m.alive || m.phase() == Some(Phase::Draining)
            });
        if living.is_empty() && !asked && !world.stopping {
            return Some("nobody is left, and nobody asked for that".into());
        }
        if let Some(b) = &world.masters[B] {
            let sole = matches!(
                b.phase(),
                Some(Phase::Serving | Phase::Reloading | Phase::Launching)
            );
            let a_stays =
                a.alive && a.open && !matches!(a.phase(), Some(Phase::Draining | Phase::Done));
            if b.alive && sole && a_stays {
                return Some(
                    "two owners: the successor is alone while its predecessor stays".into(),
                );
            }
        }
        if let Some(b) = &world.masters[B] {
            let early = matches!(b.phase(), Some(Phase::Standby | Phase::Probation));
            let by_itself =
                world.accidents == self.accidents && !a.asked_to_leave && !world.stopping;
            if b.alive && early && !a.alive && by_itself && !b.asked_to_leave {
                return Some("the predecessor left before any commit: there is no way back".into());
            }
        }
        // Something that is on its way may change who accepts: then look again when it has arrived.
        let moving = !world.to_a.is_empty() || !world.to_b.is_empty() || {
            [A, B].into_iter().any(|w| {
                let (Some(m), Some(o)) = (&world.masters[w], &world.masters[1 - w]) else {
                    return false;
                };
                let eof = m.open && !m.saw_eof && (!o.alive || !o.open);
                m.alive && m.health == Health::Well && (eof || (!m.saw_exit && !o.alive))
            })
        };
        let accepts = world.masters.iter().flatten().any(|m| {
            m.alive && (m.workers == Workers::Accepting || m.workers == Workers::Starting)
        });
        // The one who should act hangs: the watchdog's case.
        let well = |w: &&usize| world.masters[**w].as_ref().unwrap().health == Health::Well;
        let watchdog = living.iter().any(|w| !well(&w))
            && living
                .iter()
                .filter(well)
                .all(|w| world.masters[*w].as_ref().unwrap().phase() == Some(Phase::Draining));
        if !accepts && !moving && !watchdog && !asked && !world.stopping {
            return Some("nobody accepts, and no living master is starting workers".into());
        }
        if !world.late && !world.ghost {
            let only_deadlines = nexts.iter().all(|(what, _)| {
                what.unlikely || matches!(what.what, What::Event(Event::Timer(_)))
            });
            if only_deadlines && self.script.len() == world.script {
                return waits(world).map(Into::into);
            }
        }
        let internal = nexts.iter().any(|(what, _)| !what.unlikely);
        if !internal && self.script.len() == world.script {
            return settled(world, &living);
        }
        None
    }
}

/// All are well, and nothing but time will change anything: deadlines are for accidents.
fn waits(world: &World) -> Option<&'static str> {
    for m in world.masters.iter().flatten().filter(|m| m.alive) {
        let Some(machine) = &m.machine else {
            return Some("nobody accepts the new master");
        };
        let armed = |t| machine.armed(t).is_some();
        if [Timer::Start, Timer::Commit, Timer::Evict, Timer::Linger]
            .into_iter()
            .any(armed)
        {
            return Some("all are well, and somebody waits for a deadline");
        }
        if m.asked != 0 {
            return Some("an order is never answered");
        }
    }
    let alone = world.masters.iter().flatten().filter(|m| m.alive).count() == 1;
    (alone && world.upgrading).then_some("an upgrade ended without being concluded")
}

/// Nothing will happen any more by itself: is that a good end?
fn settled(world: &World, living: &[usize]) -> Option<String> {
    let hung = |w: usize| world.masters[w].as_ref().unwrap().health != Health::Well;
    if living.is_empty() {
        return None;
    }
    // Nobody who could feeds the watchdog: systemd kills what is left and starts again.
    if living.iter().all(|w| hung(*w)) {
        return None;
    }
    if !living.contains(&world.main) {
        return Some("MAINPID names a dead process and nobody will change that".into());
    }
    if living.len() == 1 {
        let m = world.masters[living[0]].as_ref().unwrap();
        // A lone hung master is for the watchdog; a leaving one was asked.
        let fine = m.phase() == Some(Phase::Serving) && m.workers == Workers::Accepting;
        return (!fine && !hung(living[0])).then(|| "the last master does not serve".into());
    }
    let phases = (
        world.masters[A].as_ref().unwrap().phase(),
        world.masters[B].as_ref().unwrap().phase(),
    );
    match phases {
        (Some(Phase::Parked), Some(Phase::Probation))
        | (Some(Phase::Beside), Some(Phase::Standby))
            if world.masters[A]
                .as_ref()
                .unwrap()
                .machine
                .as_ref()
                .unwrap()
                .hold() =>
        {
            None
        }
        // A stuck new one that says it is alive: in hold mode the operator decides.
        (Some(Phase::Beside | Phase::Parked), _)
            if world.masters[B].as_ref().unwrap().health == Health::Stuck
                && world.masters[A]
                    .as_ref()
                    .unwrap()
                    .machine
                    .as_ref()
                    .unwrap()
                    .hold() =>
        {
            None
        }
        // Hold mode: a hung old one is in nobody's way until somebody says more (`commit`
        // removes it).
        (_, Some(Phase::Probation)) if hung(A) && world.main == B => None,
        // The owner hangs and nobody can take over: the watchdog's case.
        _ if hung(world.main) && !hung(1 - world.main) && world.main == A => None,
        // Both told to leave, one of them hangs: systemd's SIGKILL.
        _ if world.stopping => None,
        _ => Some(format!("both masters stay for ever: {phases:?}")),
    }
}

fn me(world: &mut World, who: usize) -> &mut Master {
    world.masters[who].as_mut().unwrap()
}

/// A process ends, for whatever reason: its workers see EOF and leave, systemd may see it.
fn die(world: &mut World, who: usize) {
    end(world, who, false);
}

fn end(world: &mut World, who: usize, exits: bool) {
    let m = me(world, who);
    if !m.alive {
        return;
    }
    m.alive = false;
    m.open = false;
    m.workers = Workers::None;
    m.draining = false;
    let parent_is_systemd = who == A || !world.masters[A].as_ref().is_some_and(|a| a.alive);
    if world.main == who && parent_is_systemd {
        let this = &world.masters[who].as_ref().unwrap();
        let other = world.masters[1 - who].as_ref();
        let asked = world.stopping
            || ((this.asked_to_leave || this.dismissed)
                && other.is_none_or(|o| o.asked_to_leave || !o.alive));
        if exits && !asked {
            world.bad = Some("the main process exited by itself, and nobody asked for that");
        }
        // A stop ends here too: what is left gets systemd's SIGTERM and SIGKILL.
        world.over = true;
    }
    // A's death reparents a dead, unreaped main process to systemd, which sees it now.
    if who == A && world.main == B && world.masters[B].as_ref().is_some_and(|b| !b.alive) {
        world.over = true;
    }
}

fn accident(who: usize, what: &'static str) -> Move {
    Move {
        unlikely: true,
        ..text(who, what)
    }
}

/// A fast hash of whole states: 64 bits of it tell a few hundred thousand of them apart.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        #[expect(
            clippy::manual_rotate,
            reason = "a call at this opt-level, and the hottest one"
        )]
        let turned = (self.0 << 23) | (self.0 >> 41);
        self.0 = (turned ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.cast_unsigned() as u64);
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut fold = Fold::default();
    world.hash(&mut fold);
    fold.finish()
}

fn name(who: usize) -> &'static str {
    ["A", "B"][who]
}

fn sketch(world: &World) -> String {
    let one = |w: usize| {
        world.masters[w].as_ref().map_or("-".into(), |m| {
            let phase = m.phase().map_or("exec'd", Phase::as_str);
            let dead = if m.alive { "" } else { " DEAD" };
            let drain = if m.draining { "+drain" } else { "" };
            format!("{phase}/{:?}{drain}/{:?}{dead}", m.workers, m.health)
        })
    };
    format!("A {} | B {} | main {}", one(A), one(B), name(world.main))
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn scripts() -> Vec<(&'static str, Vec<Word>)> {
    use Signal::{Hup, Int, Quit, Term, Usr2, Winch};
    let upgrade = || {
        Word::Order(Order::Upgrade {
            hold: false,
            supersede: None,
        })
    };
    let hold = || Word::Signal(A, Usr2);
    let order = |o: Order| Word::Order(o);
    let supersede = || {
        Word::Order(Order::Upgrade {
            hold: false,
            supersede: Some(super::message::Supersede {
                id: "2".into(),
                hold: false,
                probation_ms: None,
            }),
        })
    };
    let a = |s: Signal| Word::Signal(A, s);
    let b = |s: Signal| Word::Signal(B, s);
    vec![
        ("upgrade", vec![upgrade()]),
        ("upgrade, commit", vec![upgrade(), order(Order::Commit)]),
        ("upgrade, rollback", vec![upgrade(), order(Order::Rollback)]),
        ("upgrade, supersede", vec![upgrade(), supersede()]),
        ("upgrade, reload", vec![upgrade(), order(Order::Reload)]),
        ("upgrade, stop", vec![upgrade(), order(Order::Stop)]),
        ("upgrade, HUP to the old", vec![upgrade(), a(Hup)]),
        ("upgrade, QUIT to the old", vec![upgrade(), a(Quit)]),
        ("upgrade, TERM to the new", vec![upgrade(), b(Term)]),
        ("upgrade, QUIT to the new", vec![upgrade(), b(Quit)]),
        ("upgrade, INT to the new", vec![upgrade(), b(Int)]),
        ("upgrade, TERM to everybody", vec![upgrade(), Word::TermAll]),
        ("USR2", vec![hold()]),
        (
            "USR2, WINCH, QUIT: forward",
            vec![hold(), a(Winch), a(Quit)],
        ),
        ("USR2, QUIT", vec![hold(), a(Quit)]),
        (
            "back",
            vec![hold(), a(Winch), a(Hup), b(Usr2), b(Winch), b(Quit)],
        ),
        ("back and forward", vec![hold(), a(Winch), a(Hup), a(Winch)]),
        ("USR2, QUIT to the new", vec![hold(), b(Quit)]),
        (
            "new one stops accepting, old one drains",
            vec![hold(), b(Usr2), a(Winch)],
        ),
        (
            "new one drains, old one leaves",
            vec![hold(), b(Winch), a(Quit)],
        ),
        ("USR2, commit", vec![hold(), order(Order::Commit)]),
        ("USR2, rollback", vec![hold(), order(Order::Rollback)]),
        (
            "USR2, WINCH, rollback",
            vec![hold(), a(Winch), order(Order::Rollback)],
        ),
        ("USR2, TERM to everybody", vec![hold(), Word::TermAll]),
        (
            "USR2, WINCH, TERM to everybody",
            vec![hold(), a(Winch), Word::TermAll],
        ),
        ("USR2, stop", vec![hold(), order(Order::Stop)]),
        ("USR2, INT to the old", vec![hold(), a(Int)]),
        ("rollback", vec![order(Order::Rollback)]),
        (
            "rollback, rollback",
            vec![order(Order::Rollback), order(Order::Rollback)],
        ),
        ("upgrade, upgrade", vec![upgrade(), upgrade()]),
        ("upgrade, HUP to the new", vec![upgrade(), b(Hup)]),
        ("upgrade, TERM to the old", vec![upgrade(), a(Term)]),
        (
            "upgrade, reload, rollback",
            vec![upgrade(), order(Order::Reload), order(Order::Rollback)],
        ),
        ("stop, stop", vec![order(Order::Stop), order(Order::Stop)]),
        (
            "reload, stop",
            vec![order(Order::Reload), order(Order::Stop)],
        ),
        // nginx's documentation, "Upgrading Executable on the Fly".
        (
            "USR2, WINCH, HUP, QUIT to the new",
            vec![hold(), a(Winch), a(Hup), b(Quit)],
        ),
        (
            "USR2, WINCH, TERM to the new",
            vec![hold(), a(Winch), b(Term)],
        ),
        (
            "USR2, WINCH, HUP, commit",
            vec![hold(), a(Winch), a(Hup), order(Order::Commit)],
        ),
        (
            "USR2, WINCH, HUP, supersede",
            vec![hold(), a(Winch), a(Hup), supersede()],
        ),
        (
            "USR2, WINCH, HUP, stop",
            vec![hold(), a(Winch), a(Hup), order(Order::Stop)],
        ),
        (
            "USR2, WINCH, HUP, TERM to everybody",
            vec![hold(), a(Winch), a(Hup), Word::TermAll],
        ),
        (
            "USR2, HUP and WINCH to the new",
            vec![hold(), b(Hup), b(Winch)],
        ),
        (
            "USR2, WINCH, reload, HUP",
            vec![hold(), a(Winch), order(Order::Reload), a(Hup)],
        ),
    ]
}

/// Every story in which A has, or has not, a predecessor of its own that still drains.
fn explorers() -> Vec<(String, Explorer)> {
    let mut out = Vec::new();
    for (title, script) in scripts() {
        out.push((title.to_owned(), Explorer::new(script, Plant::None)));
    }
    for (title, script) in scripts() {
        if GHOSTLY.contains(&title) {
            let mut explorer = Explorer::new(script, Plant::None);
            explorer.ghost = true;
            explorer.accidents = 0;
            out.push((format!("{title}, while the last one drains"), explorer));
        }
    }
    out
}

const GHOSTLY: [&str; 4] = ["upgrade", "upgrade, rollback", "upgrade, stop", "back"];

#[test]
fn every_story_of_two_masters_keeps_the_invariants() {
    let began = Instant::now();
    let explorers = explorers();
    let todo = std::sync::Mutex::new(explorers.iter());
    let bad = std::sync::Mutex::new(Vec::new());
    let states = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((title, explorer)) = todo.lock().unwrap().next() else {
                        break;
                    };
                    match explorer.run() {
                        Ok(n) => {
                            states.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
                        }
                        Err(story) => bad.lock().unwrap().push(format!("{title}:\n{story}")),
                    }
                }
            });
        }
    });
    let mut bad = bad.into_inner().unwrap();
    bad.sort_by_key(|story| story.lines().count());
    let states = states.into_inner();
    eprintln!("{states} states in {:?}", began.elapsed());
    assert!(bad.is_empty(), "{} bad stories\n{}", bad.len(), bad[0]);
    assert!(states > 100_000, "the explorer saw only {states} states");
}

#[test]
fn the_explorer_bites() {
    for plant in [
        Plant::SuccessorClaimsMain,
        Plant::ParkedExits,
        Plant::NoDeadMan,
        Plant::CommitBelievedBeforeEof,
        Plant::YieldedStopsAccepting,
        Plant::ReapsWithoutReclaiming,
        Plant::LeavesWithoutAWord,
        Plant::ForgetsAVerdict,
        Plant::ReleasesNobody,
    ] {
        let caught = scripts()
            .into_iter()
            .any(|(_, script)| Explorer::new(script, plant).run().is_err());
        assert!(caught, "{plant:?} was not noticed");
    }
}
