//! The link of a hosted application, by the rule of the program on disk: a release that differs from
//! the good one is on trial, whoever pointed the link to it and however.
//!
//! It is [`Files`] again: the program is what the link leads to. Two things differ. A cold start does
//! not write the link, whose directory may be root's: what would be put back there is started instead.
//! So the link may lead to a rejected release for good, and that one cannot be used as long as it is
//! the rejected one. And all that is known is one small file, so that a verb is one write.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Ended, File, Files, Name, Plan, Step, Verdict};

/// A release, as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Named {
    /// Its directory.
    pub path: PathBuf,
    /// Two that differ are two releases.
    pub identity: String,
}

/// What is known of the releases that a link has led to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    /// The link: what was good behind another one is another application.
    pub link: PathBuf,
    /// The release that last proved itself.
    pub good: Option<Named>,
    /// The last one that was refused, taken back, or given up.
    pub rejected: Option<Named>,
    /// How often one that has not proved itself was started cold.
    pub tries: Option<(Named, u32)>,
}

/// What a cold start runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// What the link leads to: it is the good one.
    Good,
    /// What the link leads to, for the so manieth time: it proves itself by serving for a probation.
    OnTrial(u32),
    /// The good one, whatever the link leads to.
    Instead {
        /// It.
        good: Named,
        /// Why not what the link leads to.
        why: Why,
    },
    /// What the link leads to: there is nothing else.
    NothingElse,
}

/// Why a cold start does not run what the link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was refused, or taken back.
    Rejected,
    /// It was started cold as often as anything is.
    Tried,
    /// It is not there, or cannot be started.
    Unusable,
}

impl Known {
    /// What of it is about those that this link has led to; nothing, when it was another one.
    #[must_use]
    pub fn of(self, link: &Path) -> Self {
        if self.link == link {
            return self;
        }
        Self {
            link: link.to_owned(),
            ..Self::default()
        }
    }

    /// Before a cold start. `now` is what the link leads to, `usable` whether it can be started;
    /// `is_there` says it of another one's directory.
    pub fn start(
        &mut self,
        now: Option<&Named>,
        usable: bool,
        is_there: impl Fn(&Path) -> bool,
    ) -> Start {
        let rejected = now.is_some() && self.rejected.as_ref() == now;
        let files = self.files(now, usable && !rejected, is_there);
        let plan = files.start();
        let why = match (usable, rejected) {
            (false, _) => Why::Unusable,
            (true, true) => Why::Rejected,
            (true, false) => Why::Tried,
        };
        let good = self.good.clone();
        // What cannot be started today may be there tomorrow: it is looked at each time.
        let given_up = now.filter(|_| why == Why::Tried);
        self.carry_out(&plan, given_up, None);
        match (plan.verdict, good) {
            (Verdict::Good, _) => Start::Good,
            (Verdict::OnTrial, _) => Start::OnTrial(self.tries.as_ref().map_or(0, |(_, n)| *n)),
            (Verdict::PutBack, Some(good)) => Start::Instead { good, why },
            _ => Start::NothingElse,
        }
    }

    /// The service was told to stop and did: what it ran cold has not failed by that.
    pub fn stopped(&mut self, running: &Named) {
        let plan = self.files(Some(running), true, |_| true);
        let plan = plan.ended(Ended::AsAsked);
        self.carry_out(&plan, None, None);
    }

    /// `running` has proved itself.
    pub fn commit(&mut self, running: &Named) {
        let plan = self.files(None, false, |_| true).commit(&file(running));
        self.carry_out(&plan, None, Some(running));
    }

    /// Another release is about to be tried: what serves is the best there is, if nothing is better.
    pub fn serves(&mut self, running: &Named) {
        if self.good.is_none() {
            self.commit(running);
        }
    }

    /// `failed` was refused, or taken back; `running` serves.
    pub fn reject(&mut self, failed: &Named, running: Option<&Named>) {
        if let Some(running) = running {
            self.serves(running);
        }
        let files = self.files(Some(failed), true, |_| true);
        let plan = files.reject(Some(failed), running.map(file).as_ref());
        self.carry_out(&plan, Some(failed), None);
    }

    fn files(
        &self,
        now: Option<&Named>,
        usable: bool,
        is_there: impl Fn(&Path) -> bool,
    ) -> Files<Named> {
        let good = self.good.as_ref().map(|good| File {
            id: good.clone(),
            // Another release in the same place has taken its place.
            usable: match now {
                Some(now) => now == good || (now.path != good.path && is_there(&good.path)),
                None => is_there(&good.path),
            },
        });
        Files {
            program: now.map(|now| File {
                id: now.clone(),
                usable,
            }),
            good,
            old: None,
            rejected: self.rejected.as_ref().map(file),
            tries: self.tries.clone(),
            shared: false,
        }
    }

    fn carry_out(&mut self, plan: &Plan<Named>, refused: Option<&Named>, running: Option<&Named>) {
        for step in &plan.steps {
            match step {
                Step::Count(id, number) => self.tries = Some((id.clone(), *number)),
                Step::KeepRejected => {
                    if let Some(refused) = refused {
                        self.rejected = Some(refused.clone());
                    }
                }
                Step::MakeGood(_) => {
                    if let Some(running) = running {
                        self.good = Some(running.clone());
                    }
                }
                Step::Remove(Name::Rejected) => self.rejected = None,
                Step::Remove(Name::Tries) => self.tries = None,
                // Nothing is written to the link, and one good release is enough.
                Step::PutBack(_)
                | Step::GoodBecomesOld
                | Step::HoldGood
                | Step::HeldBecomesOld
                | Step::Remove(Name::Program | Name::Good | Name::Old) => {}
            }
        }
    }
}

fn file(named: &Named) -> File<Named> {
    File {
        id: named.clone(),
        usable: true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::MOST_TRIES;
    use super::*;

    fn named(name: &str) -> Named {
        let (path, change) = name.split_once('\'').unwrap_or((name, ""));
        Named {
            path: format!("/r/{path}").into(),
            identity: format!("{path}{change}"),
        }
    }

    fn known(good: Option<&str>, rejected: Option<&str>, tries: Option<(&str, u32)>) -> Known {
        Known {
            link: "/r/current".into(),
            good: good.map(named),
            rejected: rejected.map(named),
            tries: tries.map(|(name, n)| (named(name), n)),
        }
    }

    fn start(known: &mut Known, now: Option<&str>, usable: bool) -> Start {
        let now = now.map(named);
        known.start(now.as_ref(), usable, |path| path != Path::new("/r/gone"))
    }

    fn instead(good: &str, why: Why) -> Start {
        Start::Instead {
            good: named(good),
            why,
        }
    }

    #[test]
    fn what_a_cold_start_runs() {
        use Start::{Good, NothingElse, OnTrial};
        use Why::{Rejected, Tried, Unusable};
        // The good one, the rejected one, the tries, what the link leads to (!: it cannot be started).
        for (state, expected) in [
            ("a - - a", Good),
            ("a b b3 a", Good),
            ("a - - b", OnTrial(1)),
            ("a - b2 b", OnTrial(3)),
            ("a - b3 b", instead("a", Tried)),
            ("a - c3 b", OnTrial(1)),
            ("a b - b", instead("a", Rejected)),
            ("a c - b", OnTrial(1)),
            ("a - - b!", instead("a", Unusable)),
            ("a - - -!", instead("a", Unusable)),
            ("gone - b3 b", NothingElse),
            ("gone b - b", NothingElse),
            ("- b b9 b", NothingElse),
            ("- - - -!", NothingElse),
            // The same directory with other contents: there is no way back to what it was.
            ("a - - a'2", NothingElse),
            ("a - - a!", NothingElse),
        ] {
            let words: Vec<&str> = state.split(' ').collect();
            let name = |n: usize| Some(words[n].trim_end_matches('!')).filter(|name| *name != "-");
            let tries = name(2).map(|word| {
                let (one, number) = word.split_at(word.len() - 1);
                (one, number.parse().unwrap())
            });
            let mut state = known(name(0), name(1), tries);
            let before = state.clone();
            let started = start(&mut state, name(3), !words[3].ends_with('!'));
            assert_eq!(started, expected, "{words:?}");
            assert_eq!(state.good, before.good);
        }
    }

    #[test]
    fn what_was_given_up_is_rejected_from_then_on() {
        let mut state = known(Some("a"), None, None);
        for n in 1..=MOST_TRIES {
            assert_eq!(start(&mut state, Some("b"), true), Start::OnTrial(n));
        }
        assert_eq!(start(&mut state, Some("b"), true), instead("a", Why::Tried));
        assert_eq!(state, known(Some("a"), Some("b"), None));
        for _ in 0..9 {
            let again = start(&mut state, Some("b"), true);
            assert_eq!(again, instead("a", Why::Rejected));
        }
        state.commit(&named("b"));
        assert_eq!(state, known(Some("b"), None, None));
    }

    #[test]
    fn a_stop_that_was_asked_for_is_no_failed_try() {
        let mut state = known(Some("a"), None, Some(("b", 2)));
        state.stopped(&named("a"));
        assert_eq!(state.tries, Some((named("b"), 2)));
        state.stopped(&named("b"));
        assert_eq!(state, known(Some("a"), None, None));
    }

    #[test]
    fn what_has_proved_itself_is_never_rejected() {
        let mut state = known(Some("a"), None, None);
        state.reject(&named("a"), Some(&named("b")));
        assert_eq!(state, known(Some("a"), None, None));
        // Nothing has yet: what serves is the best there is.
        let mut state = known(None, None, None);
        state.reject(&named("b"), Some(&named("a")));
        assert_eq!(state, known(Some("a"), Some("b"), None));
        assert_eq!(
            start(&mut state, Some("b"), true),
            instead("a", Why::Rejected)
        );
    }

    /// Every state x verb x a crash before or after its one write, then boots until nothing changes.
    #[test]
    fn whatever_happens_an_unproved_release_is_started_cold_three_times_at_most() {
        let names = [None, Some("a"), Some("b"), Some("c")];
        let mut runs = 0;
        for good in names {
            for rejected in names.iter().filter(|r| r.is_none() || **r != good) {
                for tried in names {
                    for count in [1, MOST_TRIES] {
                        let state = known(good, *rejected, tried.map(|name| (name, count)));
                        for verb in verbs() {
                            for crashed in [true, false] {
                                let mut after = state.clone();
                                if !crashed {
                                    verb(&mut after);
                                    let once = after.clone();
                                    verb(&mut after);
                                    assert_eq!(after, once, "{state:?}");
                                }
                                boots(&after);
                                runs += 1;
                            }
                        }
                    }
                }
            }
        }
        assert!(runs > 1000, "{runs}");
    }

    type Verb = Box<dyn Fn(&mut Known)>;

    fn verbs() -> Vec<Verb> {
        let mut verbs: Vec<Verb> = Vec::new();
        for one in ["a", "b", "c"] {
            verbs.push(Box::new(move |known| known.commit(&named(one))));
            verbs.push(Box::new(move |known| known.stopped(&named(one))));
            verbs.push(Box::new(move |known| known.serves(&named(one))));
            for other in ["a", "b", "c"].into_iter().filter(|other| *other != one) {
                verbs.push(Box::new(move |known| {
                    known.reject(&named(one), Some(&named(other)));
                }));
            }
        }
        verbs
    }

    /// Each release in turn behind the link, and every run of it fails.
    fn boots(state: &Known) {
        for link in ["a", "b", "c"] {
            let mut state = state.clone();
            let mut unproved = 0;
            for _ in 0..10 {
                let good = state.good.clone();
                match start(&mut state, Some(link), true) {
                    Start::Good => assert_eq!(good, Some(named(link))),
                    Start::OnTrial(_) => unproved += 1,
                    Start::Instead { good: started, .. } => assert_eq!(Some(started), good),
                    Start::NothingElse => assert_eq!(good, None),
                }
                assert_eq!(state.good, good);
            }
            assert!(unproved <= MOST_TRIES, "{state:?}");
            let last = start(&mut state, Some(link), true);
            assert!(!matches!(last, Start::OnTrial(_)), "{state:?} {last:?}");
        }
    }
}
