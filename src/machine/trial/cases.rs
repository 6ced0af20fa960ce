//! Every state of the five files, every verb, and a disk in memory. The hands that work on real
//! files are held to the same table.

use super::{Ended, File, Files, Name, Plan, Source, Step, Verdict};

/// Three builds, and a file that is no program.
pub(crate) const BUILDS: [char; 3] = ['a', 'b', 'c'];
pub(crate) const NO_PROGRAM: char = '-';

pub(crate) type Disk = Files<char>;

/// A verb with what it is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Verb {
    Start,
    Ended(Ended),
    Commit(char),
    Reject {
        failed: Option<char>,
        running: Option<char>,
    },
}

pub(crate) fn file(id: char) -> File<char> {
    File {
        id,
        usable: id != NO_PROGRAM,
    }
}

impl Verb {
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Start,
            Self::Ended(Ended::AsAsked),
            Self::Ended(Ended::Hopeless),
        ];
        all.extend(BUILDS.map(Self::Commit));
        let builds = || BUILDS.into_iter().map(Some).chain([None]);
        for failed in builds().chain([Some(NO_PROGRAM)]) {
            for running in builds().filter(|running| running.is_none() || *running != failed) {
                all.push(Self::Reject { failed, running });
            }
        }
        all
    }

    pub(crate) fn plan(&self, disk: &Disk) -> Plan<char> {
        match self {
            Self::Start => disk.start(),
            Self::Ended(how) => disk.ended(*how),
            Self::Commit(running) => disk.commit(&file(*running)),
            Self::Reject { failed, running } => {
                disk.reject(failed.as_ref(), running.map(file).as_ref())
            }
        }
    }

    pub(crate) fn running(&self) -> Option<char> {
        match self {
            Self::Start | Self::Ended(_) => None,
            Self::Commit(running) => Some(*running),
            Self::Reject { running, .. } => *running,
        }
    }
}

/// Every state, with each of these counts.
pub(crate) fn states(tries: &[Option<(char, u32)>]) -> Vec<Disk> {
    let contents: Vec<_> = BUILDS
        .into_iter()
        .chain([NO_PROGRAM])
        .map(|id| Some(file(id)))
        .chain([None])
        .collect();
    let mut states = Vec::new();
    for program in &contents {
        for good in &contents {
            for old in &contents {
                for rejected in &contents {
                    for tries in tries {
                        let state = Files {
                            program: program.clone(),
                            good: good.clone(),
                            old: old.clone(),
                            rejected: rejected.clone(),
                            tries: *tries,
                            shared: false,
                        };
                        if super::is(program.as_ref(), good.as_ref()) {
                            states.push(Files {
                                shared: true,
                                ..state.clone()
                            });
                        }
                        states.push(state);
                    }
                }
            }
        }
    }
    states
}

/// The disk in memory while a verb runs.
#[derive(Debug, Clone)]
pub(crate) struct Hand {
    pub(crate) disk: Disk,
    /// What the verb saw at the program's path.
    pub(crate) seen: Option<File<char>>,
    pub(crate) running: Option<char>,
    held: Option<File<char>>,
    /// For a copy.
    pub(crate) room: bool,
}

impl Hand {
    /// Begins a verb: what it sees, what it will do.
    pub(crate) fn begin(disk: Disk, verb: &Verb, room: bool) -> (Self, Plan<char>) {
        let plan = verb.plan(&disk);
        let hand = Self {
            seen: disk.program.clone(),
            disk,
            running: verb.running(),
            held: None,
            room,
        };
        (hand, plan)
    }

    /// One step; false: it failed, and the verb with it.
    pub(crate) fn take(&mut self, step: &Step<char>) -> bool {
        let disk = &mut self.disk;
        let of = |source, disk: &Disk| match source {
            Source::Running => self.running.map(file),
            Source::Good => disk.good.clone(),
            Source::Old => disk.old.clone(),
        };
        match step {
            Step::MakeGood(_) if !self.room => return false,
            Step::MakeGood(source) => {
                disk.good = of(*source, disk);
                disk.shared = false;
            }
            Step::GoodBecomesOld => disk.old = disk.good.clone(),
            Step::HoldGood => self.held = disk.good.clone(),
            Step::HeldBecomesOld => disk.old = self.held.take(),
            Step::KeepRejected => disk.rejected = disk.program.clone(),
            Step::PutBack(_) if disk.program != self.seen => return true,
            Step::PutBack(source) => {
                // The image of a process has no other name to give.
                if !self.room && *source == Source::Running && disk.good != of(*source, disk) {
                    return false;
                }
                disk.program = of(*source, disk);
                disk.shared = !self.room && disk.program == disk.good;
            }
            Step::Count(id, number) => disk.tries = Some((*id, *number)),
            Step::Remove(Name::Rejected) => disk.rejected = None,
            Step::Remove(Name::Tries) => disk.tries = None,
            Step::Remove(Name::Old) => disk.old = None,
            Step::Remove(name) => panic!("nothing removes {name:?}"),
        }
        true
    }

    /// Somebody puts a file at the program's path, by a rename.
    pub(crate) fn intrude(&mut self, id: char) {
        self.disk.program = Some(file(id));
        self.disk.shared = false;
    }
}

/// A whole verb without accident.
pub(crate) fn perform(disk: &Disk, verb: &Verb, room: bool) -> (Disk, Verdict) {
    let (mut hand, plan) = Hand::begin(disk.clone(), verb, room);
    for step in &plan.steps {
        if !hand.take(step) {
            break;
        }
    }
    (hand.disk, plan.verdict)
}
