//! Walks every interleaving of two masters, their messages, workers, deadlines, one script of
//! orders or signals and one or two accidents, with systemd as a third party; checks the
//! invariants in every state, and prints the shortest bad story.

mod check;
mod fingerprint;
mod operator;
mod perform;
mod progress;
mod scripts;
mod walk;
mod world;

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasherDefault;
use std::time::Instant;

use super::event::{Event, FromPredecessor, Order, Signal};
use super::{Machine, Phase, Timer, Timing, Who};
use fingerprint::{Fold, fingerprint};
use scripts::scripts;
use world::{A, B, GHOST, Master, OLDER, Older, Shared, Workers, World, name, sketch};

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
    ForgetsWhoDrains,
    ClosedTooEarly,
    YieldedIsGood,
}

struct Explorer {
    script: Vec<Word>,
    plant: Plant,
    accidents: u8,
    /// A became what it is by an upgrade, and its predecessor still drains.
    ghost: bool,
    /// The service manager may miss a word about the main process.
    deafness: bool,
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

/// Whether what runs may be good from here on: it has served its time in health, or an operator made it
/// final, perhaps by a signal to the master before it.
fn proves(event: &Event, phase: Phase) -> bool {
    match event {
        Event::Timer(timer) => timer.proves(),
        Event::Order(Order::Commit) => true,
        Event::Predecessor(FromPredecessor::Commit) => phase == Phase::Probation,
        _ => false,
    }
}

impl Explorer {
    fn new(script: Vec<Word>, plant: Plant) -> Self {
        Self {
            script,
            plant,
            accidents: 1,
            ghost: false,
            deafness: false,
            start: Instant::now(),
        }
    }

    fn initial(&self) -> World {
        let timing = Timing::default();
        let machine = if self.ghost {
            let (mut machine, _) =
                Machine::succeeding(timing, false, (GHOST, timing.drain), self.start);
            machine.know_drainer(OLDER, timing.drain, false, self.start);
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
            let _ = machine.step(Event::ReadyHeard, self.start);
            let (who, done) = (Who::Me, true);
            let _ = machine.step(Event::MainNamed { who, done }, self.start);
            machine
        };
        assert_eq!(machine.phase(), Phase::Serving);
        let mut a = Master::new(Some(machine));
        a.workers = Workers::Accepting;
        a.accept = true;
        World {
            masters: [Some(Shared::new(a)), None],
            to_b: VecDeque::new(),
            to_a: VecDeque::new(),
            launching: false,
            deaf: false,
            main: A,
            over: false,
            stopping: false,
            script: 0,
            accidents: self.accidents,
            late: false,
            stray: false,
            ghost: self.ghost,
            older: if self.ghost {
                Older::Drains
            } else {
                Older::Gone
            },
            upgrading: false,
            concluded: None,
            proved: false,
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
}

/// Accidents in every story: two take two minutes.
const ACCIDENTS: &str = "HANDOVER_TEST_ACCIDENTS";

/// These have two in any case.
const TWICE: [&str; 4] = [
    "upgrade",
    "upgrade, commit",
    "upgrade, rollback",
    "upgrade, stop",
];

/// Every story in which A has, or has not, a predecessor of its own that still drains.
fn explorers() -> Vec<(String, Explorer)> {
    let mut out = Vec::new();
    let accidents = std::env::var(ACCIDENTS).map_or(1, |most| most.parse().unwrap());
    for (title, script) in scripts() {
        let mut explorer = Explorer::new(script, Plant::None);
        let least = if TWICE.contains(&title) { 2 } else { 1 };
        explorer.accidents = accidents.max(least);
        out.push((title.to_owned(), explorer));
    }
    for (title, script) in scripts() {
        if GHOSTLY.contains(&title) {
            let mut explorer = Explorer::new(script, Plant::None);
            explorer.ghost = true;
            explorer.accidents = 0;
            out.push((format!("{title}, while the last one drains"), explorer));
        }
    }
    for (title, script) in scripts() {
        if UNHEARD.contains(&title) {
            // That nobody hears is an accident, too.
            let mut explorer = Explorer::new(script, Plant::None);
            explorer.deafness = true;
            out.push((format!("{title}, unheard"), explorer));
        }
    }
    out
}

const UNHEARD: [&str; 4] = [
    "upgrade, rollback",
    "upgrade, supersede",
    "upgrade, stop",
    "USR2, WINCH, HUP, QUIT to the new",
];

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
    for story in &bad {
        let (title, end) = (story.lines().next(), story.lines().last());
        eprintln!("{} {}", title.unwrap_or_default(), end.unwrap_or_default());
    }
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
        Plant::ForgetsWhoDrains,
        Plant::ClosedTooEarly,
        Plant::YieldedIsGood,
    ] {
        let caught = scripts().into_iter().any(|(_, script)| {
            let mut explorer = Explorer::new(script, plant);
            explorer.ghost = plant == Plant::ForgetsWhoDrains;
            explorer.run().is_err()
        });
        assert!(caught, "{plant:?} was not noticed");
    }
}

/// Otherwise it would not be looked at: what is known of the state before is not believed of the next one.
#[test]
fn a_master_that_changes_makes_another_state() {
    let before = Shared::new(Master::new(None));
    let known = fingerprint(&before);
    let mut after = before.clone();
    assert_eq!(fingerprint(&after), known);
    after.draining = true;
    assert_ne!(fingerprint(&after), known);
    assert!(!before.draining, "the state before stays as it was");
    after.draining = false;
    assert_eq!(fingerprint(&after), known);
}
