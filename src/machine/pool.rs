//! The workers of one set: when each must be ready, when one that hangs is replaced, when one that died
//! is started again, and when it is said that they keep failing.
//!
//! Every slot is in one of four states, and none but the one that serves well is left by nobody: a
//! start has a deadline, a killed worker ends, a pause ends with a start, an unanswered question with a
//! replacement.

use std::time::{Duration, Instant};

use super::budget::Budget;

/// What happens to the worker of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// It can serve.
    Ready,
    /// It was asked for a sign of life.
    Asked,
    /// It gave one.
    Answered,
    /// It has gone, or could not be started.
    Failed,
}

/// What is to be done about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// Start a worker there.
    Start(u16),
    /// It was not ready in time: kill it. Its end follows as [`Event::Failed`].
    Kill(u16),
    /// It hangs: it is out of the set from now on, and another one is started there.
    Replace(u16),
    /// The workers fail too often: say so.
    Spent,
}

/// The slots of one set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pool {
    slots: Vec<Slot>,
    /// From a worker's start until it must be ready.
    start: Duration,
    budget: Budget,
    /// So many in a row were not ready in time: with a long time no window holds enough of them.
    late: u8,
    /// It was said that the workers fail too often, and none has been ready since.
    spent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    /// A worker starts; since when.
    Starting(Since),
    /// It is there; since when it owes an answer, if it does.
    Up(Option<Since>),
    /// It was killed, and its end is still to be seen.
    Killed,
    /// Nobody is there; a worker is started then.
    Down(Instant),
}

/// When something began that has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Since {
    at: Instant,
    /// When it is over, as far as was known when something happened last.
    due: Instant,
    /// We slept through the limit once, and it began anew.
    again: bool,
}

/// A worker that has not answered for so long hangs: others accept what comes to it. It is replaced
/// where there are none.
pub const HANGS: Duration = Duration::from_secs(3);
/// And after so long in any case.
const REPLACED: Duration = Duration::from_secs(10);
/// So many failures within the window are forgiven before it is said.
const FORGIVEN: usize = 3;
const WINDOW: Duration = Duration::from_secs(10);
/// So many that are not ready in time are forgiven.
const LATE: u8 = 1;

impl Slot {
    /// Since when its worker owes an answer.
    fn asked(&self) -> Option<Instant> {
        match self {
            Self::Up(asked) => asked.map(|asked| asked.at),
            Self::Starting(_) | Self::Killed | Self::Down(_) => None,
        }
    }
}

impl Since {
    fn now(at: Instant, limit: Duration) -> Self {
        Self {
            at,
            due: at + limit,
            again: false,
        }
    }

    /// It is over then: what is past is due now, for nobody was late.
    fn is_due(&mut self, due: Instant, now: Instant) {
        self.due = if due > now { due } else { self.due.min(now) };
    }

    /// Whether the limit has passed. When it did so while we slept (a paused virtual machine), what the
    /// workers have to say is still to come: it begins anew. Once: we may be late every time.
    fn is_over(&mut self, now: Instant) -> bool {
        let limit = self.due - self.at;
        let slept = now >= self.due + limit / 8;
        if slept && !self.again {
            *self = Self {
                again: true,
                ..Self::now(now, limit)
            };
        }
        now >= self.due
    }
}

impl Pool {
    /// All of them start now.
    #[must_use]
    pub fn new(count: u16, start: Duration, now: Instant) -> Self {
        Self {
            slots: vec![Slot::Starting(Since::now(now, start)); count.into()],
            start,
            budget: Budget::new(FORGIVEN.max(count.into()), WINDOW),
            late: 0,
            spent: false,
        }
    }

    /// Something happened to the worker of a slot.
    #[must_use]
    pub fn step(&mut self, slot: u16, event: Event, now: Instant) -> Vec<Act> {
        let Some(state) = self.slots.get_mut(usize::from(slot)) else {
            return Vec::new();
        };
        let mut acts = Vec::new();
        match (event, *state) {
            (Event::Ready, Slot::Starting(_)) => {
                (self.late, self.spent) = (0, false);
                *state = Slot::Up(None);
            }
            (Event::Answered, Slot::Up(_)) => *state = Slot::Up(None),
            (Event::Asked, Slot::Up(None)) => {
                *state = Slot::Up(Some(Since::now(now, REPLACED)));
            }
            (Event::Failed, Slot::Starting(_) | Slot::Up(_) | Slot::Killed) => {
                let (pause, spent) = self.budget.failed(now);
                if *state == Slot::Killed {
                    self.late = self.late.saturating_add(1);
                }
                *state = Slot::Down(now + pause);
                if spent || self.late > LATE {
                    self.spent = true;
                    acts.push(Act::Spent);
                }
            }
            // Of a worker that is out of the set already.
            (Event::Ready | Event::Asked | Event::Answered | Event::Failed, _) => {}
        }
        self.arm(now);
        acts
    }

    /// What is due.
    #[must_use]
    pub fn due(&mut self, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        let begins = Slot::Starting(Since::now(now, self.start));
        for (slot, state) in (0..).zip(&mut self.slots) {
            let (over, next, act) = match state {
                Slot::Starting(since) => (since.is_over(now), Slot::Killed, Act::Kill(slot)),
                Slot::Up(Some(asked)) => (asked.is_over(now), begins, Act::Replace(slot)),
                Slot::Down(at) => (*at <= now, begins, Act::Start(slot)),
                Slot::Up(None) | Slot::Killed => continue,
            };
            if over {
                *state = next;
                acts.push(act);
            }
        }
        self.arm(now);
        acts
    }

    /// When something is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let due = |slot: &Slot| match *slot {
            Slot::Starting(since) | Slot::Up(Some(since)) => Some(since.due),
            Slot::Up(None) | Slot::Killed => None,
            Slot::Down(at) => Some(at),
        };
        self.slots.iter().filter_map(due).min()
    }

    /// How long each may owe its answer. While one hangs the others accept what comes to it; nobody
    /// accepts from when the last one does.
    fn arm(&mut self, now: Instant) {
        let well = self.slots.contains(&Slot::Up(None));
        let last = self.slots.iter().filter_map(Slot::asked).max();
        for state in &mut self.slots {
            if let (Slot::Up(Some(asked)), Some(last)) = (state, last) {
                let mut due = asked.at + REPLACED;
                if !well {
                    due = due.min(last + HANGS);
                }
                asked.is_due(due, now);
            }
        }
    }

    /// Whether the worker of a slot owes an answer for so long that others accept what comes to it.
    #[must_use]
    pub fn hangs(&self, slot: u16, now: Instant) -> bool {
        let asked = self.slots.get(usize::from(slot)).and_then(Slot::asked);
        asked.is_some_and(|at| now.saturating_duration_since(at) > HANGS)
    }

    /// Whether a sign of life of this slot's worker speaks for the service: it serves, or it starts and
    /// there is reason to believe that it will.
    #[must_use]
    pub fn vouches(&self, slot: u16) -> bool {
        match self.slots.get(usize::from(slot)) {
            Some(Slot::Up(_)) => true,
            Some(Slot::Starting(_)) => !self.spent,
            Some(Slot::Killed | Slot::Down(_)) | None => false,
        }
    }

    /// Whether all are there.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Slot::Up(_)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const START: Duration = Duration::from_secs(30);

    fn late(pool: &mut Pool, now: &mut Instant) -> Vec<Act> {
        while !pool.due(*now).contains(&Act::Kill(0)) {
            *now = pool.deadline().unwrap();
        }
        pool.step(0, Event::Failed, *now)
    }

    #[test]
    fn workers_that_are_never_ready_in_time_are_told_of_however_long_they_may_take() {
        let mut now = Instant::now();
        let mut pool = Pool::new(1, START, now);
        assert_eq!(late(&mut pool, &mut now), []);
        assert_eq!(late(&mut pool, &mut now), [Act::Spent]);
        assert!(!pool.vouches(0));
        // One that is ready makes up for all.
        now = pool.deadline().unwrap();
        assert_eq!(pool.due(now), [Act::Start(0)]);
        assert!(!pool.vouches(0), "it starts like those before it");
        let _ = pool.step(0, Event::Ready, now);
        assert!(pool.vouches(0));
        let _ = pool.step(0, Event::Failed, now);
        assert_eq!(late(&mut pool, &mut now), []);
    }

    #[test]
    fn who_slept_himself_blames_no_worker() {
        let began = Instant::now();
        let mut pool = Pool::new(2, START, began);
        let _ = pool.step(0, Event::Ready, began);
        let _ = pool.step(0, Event::Asked, began);
        let woke = began + Duration::from_secs(3600);
        assert_eq!(pool.due(woke), []);
        let _ = pool.step(0, Event::Answered, woke);
        assert_eq!(pool.due(woke + START), [Act::Kill(1)]);
        // And a moment late is no sleep.
        let _ = pool.step(0, Event::Asked, woke);
        let late = woke + HANGS + Duration::from_millis(300);
        assert_eq!(pool.due(late), [Act::Replace(0)]);
    }

    /// A master that is late every time (a machine that has far too much to do) forgives once.
    #[test]
    fn who_is_always_late_forgives_once() {
        let mut now = Instant::now();
        let mut pool = Pool::new(1, START, now);
        let mut late = |pool: &mut Pool| {
            now = pool.deadline().unwrap() + START;
            (pool.due(now), now)
        };
        assert_eq!(late(&mut pool).0, []);
        let (acts, now) = late(&mut pool);
        assert_eq!(acts, [Act::Kill(0)]);
        let _ = pool.step(0, Event::Failed, now);
        assert_eq!(pool.due(now), [Act::Start(0)]);
        let _ = pool.step(0, Event::Ready, now);
        // Anew for every question.
        for _ in 0..2 {
            let _ = pool.step(0, Event::Answered, now);
            let _ = pool.step(0, Event::Asked, now);
            let late = now + HANGS * 2;
            assert_eq!(pool.due(late), []);
            assert_eq!(pool.deadline(), Some(late + HANGS));
        }
        assert_eq!(pool.due(now + HANGS * 9), [Act::Replace(0)]);
    }

    /// What the processes really are; the pool only hears of them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    enum Real {
        Starting,
        /// It will never be ready.
        Stuck,
        Well,
        /// It serves nobody, and says nothing.
        Hung,
        /// It has ended, and the pool has not heard so yet.
        Ended,
        None,
    }

    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct World {
        pool: Pool,
        real: [Real; 2],
        now: Instant,
        accidents: u8,
    }

    /// A bug planted to see that the walk bites.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Plant {
        None,
        NoDeadline,
        NobodyAsks,
        NotStartedAgain,
    }

    impl World {
        fn obey(&mut self, acts: Vec<Act>, plant: Plant) {
            for act in acts {
                match act {
                    Act::Kill(_) if plant == Plant::NoDeadline => {}
                    Act::Start(_) if plant == Plant::NotStartedAgain => {}
                    Act::Kill(slot) => self.real[usize::from(slot)] = Real::Ended,
                    Act::Start(slot) | Act::Replace(slot) => {
                        self.real[usize::from(slot)] = Real::Starting;
                    }
                    Act::Spent => {}
                }
            }
        }

        fn hears(&self, slot: u16, event: Event, plant: Plant) -> Self {
            let mut next = self.clone();
            let acts = next.pool.step(slot, event, next.now);
            next.obey(acts, plant);
            next
        }

        fn nexts(&self, plant: Plant) -> Vec<Self> {
            let mut out = Vec::new();
            for slot in 0..2_u16 {
                let real = self.real[usize::from(slot)];
                let becomes = |next: Real| {
                    let mut world = self.clone();
                    world.real[usize::from(slot)] = next;
                    world
                };
                let accident = |next: Real| {
                    let mut world = becomes(next);
                    world.accidents -= 1;
                    world
                };
                match real {
                    Real::Starting => {
                        let ready = becomes(Real::Well);
                        out.push(ready.hears(slot, Event::Ready, plant));
                    }
                    Real::Well => {
                        let asked = self.hears(slot, Event::Asked, plant);
                        out.push(asked.hears(slot, Event::Answered, plant));
                    }
                    Real::Hung if plant == Plant::NobodyAsks => {}
                    Real::Hung => out.push(self.hears(slot, Event::Asked, plant)),
                    Real::Ended => {
                        let gone = becomes(Real::None);
                        out.push(gone.hears(slot, Event::Failed, plant));
                    }
                    Real::Stuck | Real::None => {}
                }
                if self.accidents > 0 && !matches!(real, Real::Ended | Real::None) {
                    out.push(accident(Real::Ended));
                    if real == Real::Starting {
                        out.push(accident(Real::Stuck));
                    }
                    if real == Real::Well {
                        out.push(accident(Real::Hung));
                    }
                }
            }
            if let Some(at) = self.pool.deadline() {
                let mut next = self.clone();
                // All instants of a story look alike: only what is left counts.
                next.now = next.now.max(at);
                let acts = next.pool.due(next.now);
                next.obey(acts, plant);
                out.push(next);
            }
            out
        }

        /// From here on nothing goes wrong: does everybody serve in the end, whatever comes first?
        fn recovers(&self, plant: Plant) -> bool {
            let mut world = self.clone();
            world.accidents = 0;
            for _ in 0..40 {
                if world.real == [Real::Well; 2] && world.pool.complete() {
                    return true;
                }
                // What is on its way arrives; then time passes.
                let Some(next) = world.nexts(plant).into_iter().find(|next| *next != world) else {
                    return false;
                };
                world = next;
            }
            false
        }
    }

    /// Every interleaving of two workers with up to three accidents: how many states there are, or the
    /// first from which somebody is missing for ever.
    fn walk(plant: Plant) -> Result<usize, World> {
        let now = Instant::now();
        let first = World {
            pool: Pool::new(2, START, now),
            real: [Real::Starting; 2],
            now,
            accidents: 3,
        };
        let mut seen = HashSet::from([first.clone()]);
        let mut todo = vec![(first, 0)];
        while let Some((world, depth)) = todo.pop() {
            if !world.recovers(plant) {
                return Err(world);
            }
            for next in world.nexts(plant) {
                if depth < 9 && seen.insert(next.clone()) {
                    todo.push((next, depth + 1));
                }
            }
        }
        Ok(seen.len())
    }

    #[test]
    fn whatever_happens_to_workers_all_of_them_serve_again() {
        let began = Instant::now();
        let states = walk(Plant::None).unwrap_or_else(|world| panic!("{world:#?}"));
        eprintln!("{states} states in {:?}", began.elapsed());
        assert!(states > 1000, "only {states} states");
        for plant in [Plant::NoDeadline, Plant::NobodyAsks, Plant::NotStartedAgain] {
            assert!(walk(plant).is_err(), "{plant:?} was not noticed");
        }
    }

    #[test]
    fn one_that_hangs_is_no_help_at_first_and_then_replaced() {
        let now = Instant::now();
        let mut pool = Pool::new(2, START, now);
        for slot in 0..2 {
            assert!(pool.step(slot, Event::Ready, now).is_empty());
        }
        assert!(pool.complete());
        assert_eq!(pool.deadline(), None);
        for seconds in [0, 2] {
            // A second question does not give it more time.
            let asked = now + Duration::from_secs(seconds);
            assert!(pool.step(0, Event::Asked, asked).is_empty());
        }
        assert!(!pool.hangs(0, now + HANGS));
        let later = now + HANGS + Duration::from_millis(1);
        assert!(pool.hangs(0, later) && pool.due(later).is_empty());
        assert_eq!(pool.deadline(), Some(now + REPLACED));
        assert_eq!(pool.due(now + REPLACED), [Act::Replace(0)]);
        assert!(!pool.complete());
        assert_eq!(pool.deadline(), Some(now + REPLACED + START));
    }

    #[test]
    fn one_that_hangs_is_replaced_soon_when_nobody_else_accepts() {
        let now = Instant::now();
        let mut pool = Pool::new(2, START, now);
        let _ = pool.step(0, Event::Ready, now);
        let _ = pool.step(0, Event::Asked, now);
        assert_eq!(pool.deadline(), Some(now + HANGS));
        // The other one is there just in time.
        let _ = pool.step(1, Event::Ready, now);
        assert_eq!(pool.due(now + HANGS), []);
        let _ = pool.step(1, Event::Failed, now);
        let _ = pool.due(now);
        assert_eq!(pool.due(now + HANGS), [Act::Replace(0)]);
    }

    /// Two of two that are ready; the first was asked now, the second `later`.
    fn both_asked(later: Duration) -> (Pool, Instant) {
        let now = Instant::now();
        let mut pool = Pool::new(2, START, now);
        for slot in 0..2 {
            let _ = pool.step(slot, Event::Ready, now);
        }
        let _ = pool.step(0, Event::Asked, now);
        let _ = pool.step(1, Event::Asked, now + later);
        (pool, now)
    }

    /// Its debt is as long as before; only nobody else accepts any more.
    #[test]
    fn one_that_hangs_already_is_replaced_at_once_when_the_other_one_dies() {
        let (mut pool, began) = both_asked(Duration::ZERO);
        let now = began + Duration::from_secs(5);
        let _ = pool.step(1, Event::Answered, began);
        assert_eq!(pool.due(now), []);
        let _ = pool.step(1, Event::Failed, now);
        assert!(pool.hangs(0, now));
        assert_eq!(pool.due(now), [Act::Replace(0), Act::Start(1)]);
        // Who slept through that is late, all the same.
        let (mut pool, began) = both_asked(Duration::ZERO);
        let woke = began + Duration::from_secs(3600);
        let _ = pool.step(1, Event::Failed, woke);
        assert_eq!(pool.due(woke), [Act::Start(1)]);
        assert_eq!(pool.deadline(), Some(woke + HANGS));
    }

    #[test]
    fn all_are_replaced_as_soon_as_the_last_one_hangs() {
        for later in [0, 2, 6] {
            let later = Duration::from_secs(later);
            let (mut pool, began) = both_asked(later);
            let last = began + later + HANGS;
            assert_eq!(pool.deadline(), Some(last));
            assert_eq!(pool.due(last), [Act::Replace(0), Act::Replace(1)]);
        }
        // The last one lives.
        let (mut pool, began) = both_asked(Duration::from_secs(2));
        let _ = pool.step(1, Event::Answered, began + HANGS);
        assert_eq!(pool.deadline(), Some(began + REPLACED));
    }
}
