//! Counting while a load runs, and the report at its end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::failure::{Failure, Kind};
use super::histogram::Histogram;
use super::wire::Answer;

/// How many failures are kept in full.
const KEPT: usize = 100;

/// How many are printed.
const PRINTED: usize = 10;

/// The numbers of a load, or of one phase of it.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Requests begun.
    pub requests: u64,
    /// Answered in full, and rightly.
    pub ok: u64,
    /// Everything else, by kind. `DroppedIdle` and `Unsolicited` are a connection's, not a request's.
    pub failed: BTreeMap<Kind, u64>,
    /// Connections opened.
    pub opened: u64,
    /// Of these: instead of one that the server closed politely.
    pub reopened: u64,
    /// Answers that said `Connection: close`.
    pub closed_politely: u64,
    /// Bytes of answers' bodies.
    pub body_bytes: u64,
    /// Of right answers: from the request's first byte to the answer's last.
    pub latency: Histogram,
}

impl Counts {
    /// All failures together.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Those of one kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.failed.get(&kind).copied().unwrap_or(0)
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.ok += other.ok;
        for (kind, n) in &other.failed {
            *self.failed.entry(*kind).or_default() += n;
        }
        self.opened += other.opened;
        self.reopened += other.reopened;
        self.closed_politely += other.closed_politely;
        self.body_bytes += other.body_bytes;
    }
}

/// When somebody answered.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// How often.
    pub answers: u64,
    /// The first answer, since the load began.
    pub first: Duration,
    /// The last answer, since the load began.
    pub last: Duration,
}

/// What the clients write to while they run.
#[derive(Debug)]
pub struct Tally {
    pub start: Instant,
    phases: Vec<(String, Duration, Counts)>,
    /// Each request once, unlike in the phases.
    latency: Histogram,
    failures: Vec<Failure>,
    servers: BTreeMap<String, Seen>,
    generations: BTreeMap<String, Seen>,
}

impl Tally {
    pub fn new(now: Instant) -> Self {
        Self {
            start: now,
            phases: vec![("start".into(), Duration::ZERO, Counts::default())],
            latency: Histogram::default(),
            failures: Vec::new(),
            servers: BTreeMap::new(),
            generations: BTreeMap::new(),
        }
    }

    pub fn mark(&mut self, phase: &str, now: Instant) {
        self.phases
            .push((phase.to_owned(), now - self.start, Counts::default()));
    }

    /// The phase that is on.
    pub fn now(&mut self) -> &mut Counts {
        &mut self.phases.last_mut().expect("a phase from the start").2
    }

    pub fn phase_name(&self) -> &str {
        &self.phases.last().expect("a phase from the start").0
    }

    pub fn answered(&mut self, answer: &Answer, began: Instant, now: Instant) {
        let at = now - self.start;
        saw(&mut self.servers, &answer.server, at);
        if !answer.generation.is_empty() {
            saw(&mut self.generations, &answer.generation, at);
        }
        let latency = now - began;
        self.latency.add(latency);
        // A request that a mark cut in two is slow in both phases.
        let last = self.phases.len() - 1;
        let began = began - self.start;
        let first = self.phases[..=last]
            .iter()
            .rposition(|(_, from, _)| *from <= began)
            .unwrap_or(0);
        if first != last {
            self.phases[first].2.latency.add(latency);
        }
        let counts = self.now();
        counts.ok += 1;
        counts.closed_politely += u64::from(answer.close);
        counts.body_bytes += answer.body;
        counts.latency.add(latency);
    }

    pub fn failed(&mut self, failure: Failure) {
        *self.now().failed.entry(failure.kind).or_default() += 1;
        if self.failures.len() < KEPT {
            self.failures.push(failure);
        }
    }

    pub fn answers(&self) -> u64 {
        self.phases.iter().map(|(_, _, counts)| counts.ok).sum()
    }

    pub fn answers_of(&self, server: &str) -> u64 {
        self.servers.get(server).map_or(0, |seen| seen.answers)
    }

    pub fn opened(&self) -> u64 {
        self.phases.iter().map(|(_, _, counts)| counts.opened).sum()
    }

    pub fn report(&self, now: Instant, connections: usize, title: String) -> Report {
        let mut total = Counts::default();
        for (_, _, counts) in &self.phases {
            total.add(counts);
        }
        total.latency = self.latency.clone();
        Report {
            title,
            elapsed: now - self.start,
            connections,
            total,
            phases: self.phases.clone(),
            failures: self.failures.clone(),
            servers: self.servers.clone(),
            generations: self.generations.clone(),
        }
    }
}

fn saw(map: &mut BTreeMap<String, Seen>, who: &str, at: Duration) {
    if let Some(seen) = map.get_mut(who) {
        seen.answers += 1;
        seen.last = at;
    } else {
        let seen = Seen {
            answers: 1,
            first: at,
            last: at,
        };
        map.insert(who.to_owned(), seen);
    }
}

/// What came of a load.
#[derive(Debug, Clone)]
pub struct Report {
    /// Target, labels and seeds.
    pub title: String,
    /// How long it ran.
    pub elapsed: Duration,
    /// How many clients there were.
    pub connections: usize,
    /// All phases together.
    pub total: Counts,
    /// Name, begin and numbers of each phase; the first is called `start`.
    pub phases: Vec<(String, Duration, Counts)>,
    /// The first hundred failures.
    pub failures: Vec<Failure>,
    /// By the `Server` header.
    pub servers: BTreeMap<String, Seen>,
    /// By the `x-generation` header.
    pub generations: BTreeMap<String, Seen>,
}

impl Report {
    /// All failures.
    pub fn failed(&self) -> u64 {
        self.total.failures()
    }

    /// Failures of one kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.total.count(kind)
    }

    /// The numbers of the phase that `mark` began. Panics when there was none of that name.
    pub fn phase(&self, name: &str) -> &Counts {
        self.phases
            .iter()
            .find(|(phase, _, _)| phase == name)
            .map_or_else(|| panic!("no phase {name:?} in\n{self}"), |(_, _, c)| c)
    }

    /// How many answers came from a `Server`.
    pub fn answers_of(&self, server: &str) -> u64 {
        self.servers.get(server).map_or(0, |seen| seen.answers)
    }

    /// Panics with the whole story unless there were answers and not one failure.
    #[track_caller]
    pub fn assert_clean(&self) -> &Self {
        assert!(
            self.total.ok > 0,
            "nobody answered, so nothing is proved\n{self}"
        );
        assert!(self.failed() == 0, "{} failed\n{self}", self.failed());
        self
    }

    /// Panics unless every client still has the connection it began with.
    #[track_caller]
    pub fn assert_kept(&self) -> &Self {
        assert!(
            self.total.opened == self.connections as u64,
            "{} clients opened {} connections\n{self}",
            self.connections,
            self.total.opened
        );
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} for {:.3?}", self.title, self.elapsed)?;
        for (name, from, counts) in &self.phases {
            writeln!(f, "  {name} (from {from:.3?}): {counts}")?;
        }
        if self.phases.len() > 1 {
            writeln!(f, "  total: {}", self.total)?;
        }
        for (what, map) in [("Server", &self.servers), ("generation", &self.generations)] {
            for (who, seen) in map {
                writeln!(
                    f,
                    "  {what} {who:?}: {} answers, {:.3?} to {:.3?}",
                    seen.answers, seen.first, seen.last
                )?;
            }
        }
        for failure in self.failures.iter().take(PRINTED) {
            writeln!(f, "  {failure}")?;
        }
        let more = self.failed().saturating_sub(PRINTED as u64);
        if more > 0 {
            writeln!(f, "  and {more} more failures")?;
        }
        Ok(())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} ok, {} failed",
            self.requests,
            self.ok,
            self.failures()
        )?;
        for (kind, n) in &self.failed {
            write!(f, ", {n} {kind}")?;
        }
        write!(
            f,
            "; {} opened, {} reopened after {} polite closes",
            self.opened, self.reopened, self.closed_politely
        )?;
        if self.latency.count() > 0 {
            write!(
                f,
                "; p50 {:.1?} p99 {:.1?} p99.9 {:.1?} max {:.1?}",
                self.latency.percentile(50.0),
                self.latency.percentile(99.0),
                self.latency.percentile(99.9),
                self.latency.max()
            )?;
        }
        Ok(())
    }
}
