//! The program on disk: what each verb does to the five files, as steps.
//!
//! One rule: a program that differs from `.good` is on trial, whoever put it there and however. No
//! marker says so, so none can be forgotten. Two hands carry the steps out: `master::store` where
//! the service's user owns the directory, `systemd/guard` (a shell script that follows the same
//! rules) where root does. Tests run one table of cases against both.
//!
//! Each step changes at most one name, all at once. After a crash at any point the same verb, or
//! [`Files::start`], finishes the work.

#[cfg(test)]
pub(crate) mod cases;
#[cfg(test)]
mod explore;
pub mod release;

/// How often a program on trial is started cold before it is given up.
pub const MOST_TRIES: u32 = 3;

/// What is at one of the five names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct File<I> {
    /// Tells its content from any other.
    pub id: I,
    /// A program for this machine that nobody but its owner can write.
    pub usable: bool,
}

/// The five files.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Files<I> {
    /// What the next upgrade or cold start runs.
    pub program: Option<File<I>>,
    /// The build that last proved itself.
    pub good: Option<File<I>>,
    /// The one that was good before it.
    pub old: Option<File<I>>,
    /// The last one that was refused.
    pub rejected: Option<File<I>>,
    /// How often an unproved program was started cold.
    pub tries: Option<(I, u32)>,
    /// `.good` is only another name of the program: there was no room for a copy. Whoever writes
    /// over the program would write over both.
    pub shared: bool,
}

/// One of the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    /// The program's own.
    Program,
    /// `.good`
    Good,
    /// `.old`
    Old,
    /// `.rejected`
    Rejected,
    /// `.tries`
    Tries,
}

/// Where a good program is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The image of the main process.
    Running,
    /// `.good`
    Good,
    /// `.old`
    Old,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step<I> {
    /// `.good` becomes a copy of this, an inode of its own.
    MakeGood(Source),
    /// `.old` becomes another name of what `.good` is.
    GoodBecomesOld,
    /// What `.good` is gets another name, which nothing looks at yet.
    HoldGood,
    /// `.old` becomes what is held.
    HeldBecomesOld,
    /// `.rejected` becomes another name of what is at the program's path.
    KeepRejected,
    /// The program becomes a copy of this, unless something else is at the path by now than what
    /// was seen there. Without room for a copy it becomes another name: a program that starts is
    /// worth more than an inode of its own.
    PutBack(Source),
    /// `.tries` becomes this.
    Count(I, u32),
    /// This name goes.
    Remove(Name),
}

/// How a run ended, where that says something about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// It was told to stop and did: no failed try.
    AsAsked,
    /// With 64, 77 or 78 (usage, permission, configuration): another try would end the same way.
    Hopeless,
}

/// What a verb comes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct Plan<I> {
    /// What to do, in this order.
    pub steps: Vec<Step<I>>,
    /// What that means.
    pub verdict: Verdict,
}

/// What the program at the path is when the steps are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The one that last proved itself.
    Good,
    /// On trial.
    OnTrial,
    /// It was put back in the place of one that is `.rejected` now.
    PutBack,
    /// Something else than what was to be rejected: somebody put it there since. On trial.
    Newer,
    /// It is not good, and there is nothing to put in its place.
    NoWayBack,
}

impl<I: Clone + PartialEq> Files<I> {
    /// Before every cold start.
    pub fn start(&self) -> Plan<I> {
        let mut steps = Vec::new();
        if is(self.good.as_ref(), self.program.as_ref()) {
            if self.shared {
                steps.push(Step::MakeGood(Source::Good));
            }
            self.forget_tries(&mut steps);
            return plan(steps, Verdict::Good);
        }
        let Some(back) = self.way_back(self.program.as_ref().map(|file| &file.id)) else {
            return plan(steps, Verdict::NoWayBack);
        };
        match &self.program {
            Some(file) if file.usable && self.tries_of(&file.id) < MOST_TRIES => {
                steps.push(Step::Count(file.id.clone(), self.tries_of(&file.id) + 1));
                plan(steps, Verdict::OnTrial)
            }
            _ => self.put_back(back),
        }
    }

    /// After every run that began cold.
    pub fn ended(&self, how: Ended) -> Plan<I> {
        let counted = match (&self.program, &self.tries) {
            (Some(file), Some((tried, _))) if *tried == file.id => Some(tried),
            _ => None,
        };
        let Some(tried) = counted else {
            return plan(Vec::new(), Verdict::Good);
        };
        let step = match how {
            Ended::AsAsked => Step::Remove(Name::Tries),
            Ended::Hopeless => Step::Count(tried.clone(), MOST_TRIES),
        };
        plan(vec![step], Verdict::OnTrial)
    }

    /// What runs has proved itself.
    pub fn commit(&self, running: &File<I>) -> Plan<I> {
        let mut steps = Vec::new();
        if is(self.good.as_ref(), Some(running)) {
            if self.shared {
                steps.push(Step::MakeGood(Source::Running));
            }
        } else {
            let make_good = Step::MakeGood(Source::Running);
            let has_good = usable(self.good.as_ref());
            if has_good && is(self.old.as_ref(), Some(running)) {
                // After a way back `.old` may be all that is left of what runs: it goes last.
                steps.extend([Step::HoldGood, make_good, Step::HeldBecomesOld]);
            } else {
                steps.extend(has_good.then_some(Step::GoodBecomesOld));
                steps.push(make_good);
            }
        }
        let refused_once = |file: &File<I>| file.id == running.id;
        if self.rejected.as_ref().is_some_and(refused_once) {
            steps.push(Step::Remove(Name::Rejected));
        }
        self.forget_tries(&mut steps);
        let there = self.program.as_ref();
        plan(
            steps,
            if is(there, Some(running)) {
                Verdict::Good
            } else {
                Verdict::OnTrial
            },
        )
    }

    /// What was at the path when an upgrade looked (`None`: nothing) failed, or was rolled back;
    /// `running` serves, when that is known.
    pub fn reject(&self, failed: Option<&I>, running: Option<&File<I>>) -> Plan<I> {
        // Whatever is said of it: what has proved itself stays.
        if is(self.good.as_ref(), self.program.as_ref()) {
            return plan(Vec::new(), Verdict::Good);
        }
        let there = self.program.as_ref().map(|file| &file.id);
        if there.is_some() && there != failed {
            return plan(Vec::new(), Verdict::Newer);
        }
        // What runs: it may be on trial itself, and is not to be lost.
        let back = match running.filter(|file| file.usable && failed != Some(&file.id)) {
            Some(_) => Some(Source::Running),
            None => self.way_back(there),
        };
        match back {
            Some(back) => self.put_back(back),
            None => plan(Vec::new(), Verdict::NoWayBack),
        }
    }

    fn put_back(&self, source: Source) -> Plan<I> {
        let mut steps = Vec::new();
        if self.program.is_some() {
            steps.push(Step::KeepRejected);
        }
        steps.push(Step::PutBack(source));
        if usable(self.good.as_ref()) && is(self.old.as_ref(), self.program.as_ref()) {
            // Nobody goes back to what was refused.
            steps.push(Step::Remove(Name::Old));
        }
        self.forget_tries(&mut steps);
        plan(steps, Verdict::PutBack)
    }

    /// What could stand in for a program that is not to be started.
    fn way_back(&self, program: Option<&I>) -> Option<Source> {
        let other = |file: Option<&File<I>>| {
            usable(file) && file.is_some_and(|file| program != Some(&file.id))
        };
        if other(self.good.as_ref()) {
            Some(Source::Good)
        } else if other(self.old.as_ref()) {
            Some(Source::Old)
        } else {
            None
        }
    }

    fn tries_of(&self, id: &I) -> u32 {
        match &self.tries {
            Some((tried, number)) if tried == id => *number,
            _ => 0,
        }
    }

    fn forget_tries(&self, steps: &mut Vec<Step<I>>) {
        if self.tries.is_some() {
            steps.push(Step::Remove(Name::Tries));
        }
    }
}

fn usable<I>(file: Option<&File<I>>) -> bool {
    file.is_some_and(|file| file.usable)
}

fn plan<I>(steps: Vec<Step<I>>, verdict: Verdict) -> Plan<I> {
    Plan { steps, verdict }
}

/// Both are there, can be started, and are the same.
fn is<I: PartialEq>(one: Option<&File<I>>, other: Option<&File<I>>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one.usable && one == other)
}
