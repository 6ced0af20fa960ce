//! Following an upgrade to where it is decided, whoever owns the service meanwhile: events to hear
//! at once, the status to be sure, the history file when nobody answers any more.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::{Lines, Trouble};
use super::screen::{Screen, TICK};
use super::{Client, verdict};
use crate::api::{Event, Last, Outcome, Phase, PhaseName, Status, Upgrade, Verdict, exit};
use crate::cli::args::Wait;
use crate::cli::history::History;
use crate::cli::status::{Look, headline, outcome};

/// Which upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Which {
    /// This one, by the beginning of its id.
    Id(String),
    /// The one under way, or else the last.
    Latest,
    /// The one under way, or else the one that ended after this moment.
    EndedSince(Timestamp),
}

/// How far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Takeover,
    End,
}

/// What a status says about it.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Done(Verdict),
    /// It is under way.
    NotYet,
    /// It is neither under way nor the last one.
    Unknown,
}

impl Client<'_> {
    /// `wait [ID] [--version V] [--timeout D]`.
    pub(super) async fn wait(&self, wait: &Wait, screen: &mut Screen) -> Result<Verdict, Trouble> {
        let which = match &wait.id {
            Some(id) => Which::Id(id.clone()),
            None => Which::Latest,
        };
        let wanted = async {
            match &wait.version {
                Some(version) => self.wait_for_version(version).await,
                None => self.follow(&which, Goal::End, false, screen).await,
            }
        };
        let Some(limit) = wait.timeout else {
            return wanted.await;
        };
        if let Ok(decided) = tokio::time::timeout(limit, wanted).await {
            return decided;
        }
        let what = match &wait.version {
            Some(version) => format!("{version} does not serve for good"),
            None => "the upgrade is not final".into(),
        };
        let stands = self.stands().await;
        let limit = crate::cli::text::duration(limit);
        let message = format!("{what} after {limit}: {stands}");
        Ok(verdict(exit::REFUSED, message))
    }

    /// How it stands, in a line.
    async fn stands(&self) -> String {
        match self.control.status().await {
            Ok(status) => {
                let look = Look {
                    command: &self.command,
                    colour: false,
                };
                headline(&status, Timestamp::now(), look)
            }
            Err(trouble) => trouble.to_string(),
        }
    }

    /// Until a version serves for good, or was tried and does not. One that nobody has begun yet may
    /// come.
    async fn wait_for_version(&self, version: &str) -> Result<Verdict, Trouble> {
        loop {
            match self.control.status().await {
                Ok(status) => {
                    if let Some(verdict) = judge_version(&status, version) {
                        return Ok(verdict);
                    }
                }
                Err(trouble) if trouble.may_pass() => {}
                Err(trouble) => return Err(trouble),
            }
            sleep(self.patience.look.min(LOOK)).await;
        }
    }

    /// Until `goal` is reached or missed. `was_there`: somebody owned the service a moment ago, so
    /// that nobody answering now may be a gap that ends.
    pub(super) async fn follow(
        &self,
        which: &Which,
        goal: Goal,
        mut was_there: bool,
        screen: &mut Screen,
    ) -> Result<Verdict, Trouble> {
        let mut which = which.clone();
        let mut give_up = Instant::now() + self.patience.gap;
        loop {
            let mut met = false;
            let came = self.follow_one_owner(&mut which, goal, was_there, &mut met, screen);
            let came = came.await;
            if met {
                was_there = true;
                give_up = Instant::now() + self.patience.gap;
            }
            match came {
                Ok(Some(verdict)) => return Ok(verdict),
                // That owner let us go: another one answers by now.
                Ok(None) => {}
                Err(trouble) if trouble.may_pass() && was_there && Instant::now() < give_up => {
                    sleep(self.patience.retry).await;
                }
                Err(trouble) => return self.recorded(&which).map(|last| of(&last)).ok_or(trouble),
            }
        }
    }

    /// `None`: the owner we were connected to has let us go. `met`: it told its status. From then on
    /// `which` is the upgrade that was under way in it. `was_there`: another one knew of it.
    async fn follow_one_owner(
        &self,
        which: &mut Which,
        goal: Goal,
        was_there: bool,
        met: &mut bool,
        screen: &mut Screen,
    ) -> Result<Option<Verdict>, Trouble> {
        // Events first: what ends between the two is then in one of them.
        let mut events = match self.control.events().await {
            Ok(events) => Some(events),
            // Too many follow already: the looks at the status are enough.
            Err(Trouble::Refused(_)) => None,
            Err(trouble) => return Err(trouble),
        };
        let mut give_up = Instant::now() + self.patience.reclaim;
        let learns = Instant::now() + self.patience.learn;
        loop {
            let status = self.control.status().await?;
            *met = true;
            let mut look = Instant::now() + self.patience.look;
            let known = match judge(&status, which, goal) {
                Judged::Done(verdict) => return Ok(Some(verdict)),
                Judged::NotYet => status.upgrade.map(|upgrade| upgrade.id),
                // Its end is recorded when the program on disk is right again.
                Judged::Unknown if self.is_ending(which) && Instant::now() < give_up => {
                    look = Instant::now() + self.patience.retry;
                    None
                }
                // Who owned the service before tells this one in a moment. It begins with an event.
                Judged::Unknown if was_there && Instant::now() < learns => {
                    look = learns;
                    None
                }
                Judged::Unknown => return Ok(Some(self.unknown(which))),
            };
            if let Some(id) = &known {
                *which = Which::Id(id.clone());
                give_up = Instant::now() + self.patience.reclaim;
            }
            loop {
                tokio::select! {
                    event = next(&mut events), if events.is_some() => match event? {
                        None => return Ok(None),
                        Some(event) => {
                            if concerns(&event, known.as_deref()) {
                                screen.step(&event);
                            }
                            // What it means for us, the status says.
                            break;
                        }
                    },
                    () = sleep_until(look) => break,
                    () = sleep(TICK), if screen.is_live() => screen.tick(),
                }
            }
        }
    }

    /// Until what was in the way of an order in this phase has passed, or may have.
    pub(super) async fn passes(&self, phase: &PhaseName) -> Result<(), Trouble> {
        // Events first: what ends between the two is then in one of them.
        let mut events = self.control.events().await.ok();
        let limit = match phase.known() {
            Some(Phase::Reloading) => self.patience.reclaim,
            _ => self.patience.answer,
        };
        let over = Instant::now() + limit;
        while Instant::now() < over {
            match self.control.status().await {
                Ok(status) if status.phase == *phase => {}
                Err(trouble) if !trouble.may_pass() => return Err(trouble),
                _ => return Ok(()),
            }
            tokio::select! {
                event = next(&mut events), if events.is_some() => if !matches!(event, Ok(Some(_))) {
                    events = None;
                },
                () = sleep_until(over.min(Instant::now() + self.patience.look)) => {}
            }
        }
        Ok(())
    }

    /// Whoever owns the service knows nothing of it; the file may.
    fn unknown(&self, which: &Which) -> Verdict {
        let recorded = self.recorded(which).map(|last| of(&last));
        recorded.unwrap_or_else(|| match which {
            Which::Latest => verdict(exit::OK, "no upgrade is under way, and none was made"),
            Which::Id(id) => verdict(
                exit::FAILED,
                format!(
                    "nobody knows an upgrade {id}: neither the service nor {}",
                    self.places.history().display()
                ),
            ),
            Which::EndedSince(_) => verdict(
                exit::FAILED,
                format!(
                    "what came of it is not known: see `{} status`",
                    self.command
                ),
            ),
        })
    }

    fn is_ending(&self, which: &Which) -> bool {
        let recorded = self.recorded(which);
        recorded.is_some_and(|last| last.outcome == Outcome::UnderWay)
    }

    fn recorded(&self, which: &Which) -> Option<Last> {
        let Which::Id(id) = which else { return None };
        let history = History::read(&self.places.history()).ok()?;
        history.find(id).map(|(_, last)| last.clone())
    }
}

async fn next(events: &mut Option<Lines>) -> Result<Option<Event>, Trouble> {
    match events {
        Some(lines) => lines.next().await,
        None => Ok(None),
    }
}

/// Steps of other orders are not ours to tell.
fn concerns(event: &Event, known: Option<&str>) -> bool {
    match event {
        Event::Step { id, .. } => id.is_none() || id.as_deref() == known,
        Event::Result(_) | Event::Ended(_) => false,
    }
}

fn judge(status: &Status, which: &Which, goal: Goal) -> Judged {
    let is = |id: &str| match which {
        Which::Id(wanted) => id.starts_with(wanted.as_str()),
        Which::Latest | Which::EndedSince(_) => true,
    };
    if let Some(upgrade) = status.upgrade.as_ref().filter(|upgrade| is(&upgrade.id)) {
        return match goal {
            Goal::Takeover if taken_over(status) => Judged::Done(took_over(status, upgrade)),
            _ => Judged::NotYet,
        };
    }
    let recent = |last: &&Last| match which {
        Which::EndedSince(moment) => last
            .finished_at
            .parse::<Timestamp>()
            .is_ok_and(|finished| finished >= *moment),
        Which::Id(_) | Which::Latest => true,
    };
    match status
        .last
        .as_ref()
        .filter(|last| is(&last.id))
        .filter(recent)
    {
        Some(last) => Judged::Done(of(last)),
        None => Judged::Unknown,
    }
}

/// `None`: not decided yet. What counts is what is, not when it became so: a tool asks after its
/// transaction, in which the version was perhaps refused already, and perhaps after a restart.
fn judge_version(status: &Status, version: &str) -> Option<Verdict> {
    if status.upgrade.is_some() {
        return None;
    }
    let drift = status.drift.as_ref();
    if status.version == version {
        // Started cold in the middle of its trial, it has to prove itself yet.
        let proved = drift.is_none_or(|drift| !drift.is_in("good"));
        return proved.then(|| verdict(exit::OK, format!("{version} serves for good")));
    }
    // The package manager has put it there, and it is there no more: it was refused.
    let installed = drift.and_then(|drift| drift.installed.as_deref());
    let put_back = installed.is_some_and(|installed| is_package_of(installed, version))
        && drift.is_some_and(|drift| drift.is_in("installed") && !drift.is_in("disk"));
    let last = status
        .last
        .as_ref()
        .filter(|last| last.outcome != Outcome::Committed);
    match last {
        // A program that fails early does not say its version.
        Some(last) if last.to.as_deref().map_or(put_back, |to| to == version) => Some(Verdict {
            exit: exit::FAILED,
            ..of(last)
        }),
        _ if put_back => {
            let message = format!(
                "{version} is installed but was refused before: {} serves and is on disk",
                status.version
            );
            Some(verdict(exit::FAILED, message))
        }
        _ => None,
    }
}

/// A package's version is the program's, perhaps with an epoch before it and a revision after it.
fn is_package_of(installed: &str, version: &str) -> bool {
    let without_epoch = installed
        .split_once(':')
        .map_or(installed, |(_, rest)| rest);
    let without_revision = without_epoch.rsplit_once('-').map(|(rest, _)| rest);
    [Some(installed), Some(without_epoch), without_revision].contains(&Some(version))
}

/// Between two looks for a version.
const LOOK: Duration = Duration::from_millis(500);

/// Whether the owner of this moment is the upgrade's successor (or, in hold mode, both accept).
fn taken_over(status: &Status) -> bool {
    // When its predecessor has died it proves itself alone.
    let upgrade = status.upgrade.as_ref();
    let on_trial = upgrade.is_some_and(|upgrade| upgrade.probation_left_ms.is_some());
    match status.phase.known() {
        Some(Phase::Probation | Phase::Committing | Phase::Beside) => true,
        Some(Phase::Serving | Phase::Reloading) => on_trial,
        _ => false,
    }
}

fn took_over(status: &Status, upgrade: &Upgrade) -> Verdict {
    let how = match upgrade.probation_left_ms {
        Some(ms) => format!("is final in {}", crate::cli::text::left(ms)),
        None => "is not final yet".into(),
    };
    let (from, to) = upgrade.ends();
    let serves = match &upgrade.releases {
        Some(both) if both.differ() => format!("release {to}"),
        _ => status.version.clone(),
    };
    let message = format!(
        "{serves} (g{}) serves, the upgrade from {from} {how}",
        status.generation
    );
    Verdict {
        id: Some(upgrade.id.clone()),
        ..verdict(exit::OK, message)
    }
}

/// What an upgrade that ended means to who waited for it.
fn of(last: &Last) -> Verdict {
    let exit = match last.outcome {
        Outcome::Committed => exit::OK,
        Outcome::RolledBack | Outcome::Failed | Outcome::Interrupted | Outcome::UnderWay => {
            exit::FAILED
        }
        Outcome::Refused => exit::REFUSED,
    };
    let (from, to) = last.ends();
    let mut message = format!("upgrade {} from {from} to {to} {}", last.id, was(last));
    if let Some(reason) = &last.reason {
        message = format!("{message}: {reason}");
    }
    Verdict {
        id: Some(last.id.clone()),
        ..verdict(exit, message)
    }
}

fn was(last: &Last) -> String {
    match last.outcome {
        Outcome::Failed => "failed".into(),
        Outcome::UnderWay => "is not known to have ended".into(),
        other => format!("was {}", outcome(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::status::tests::{ended, probation, serving};
    use super::*;
    use crate::api::{Build, Drift};

    const ID: &str = "3fa9c2d1000000000000000000000001";

    fn exit_of(judged: Judged) -> u8 {
        match judged {
            Judged::Done(verdict) => verdict.exit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_takeover_is_reached_in_probation_and_an_end_is_not() {
        for which in [Which::Id("3fa9".into()), Which::Latest] {
            let judged = judge(&probation(), &which, Goal::Takeover);
            assert_eq!(exit_of(judged), exit::OK);
            assert_eq!(judge(&probation(), &which, Goal::End), Judged::NotYet);
        }
        let mut status = probation();
        for phase in [
            Phase::Launching,
            Phase::Yielded,
            Phase::Reclaiming,
            Phase::Evicting,
        ] {
            status.phase = phase.into();
            let judged = judge(&status, &Which::Latest, Goal::Takeover);
            assert_eq!(judged, Judged::NotYet, "{phase}");
        }
    }

    #[test]
    fn an_end_has_the_exit_code_of_its_outcome() {
        for (outcome, exit) in [
            (Outcome::Committed, 0),
            (Outcome::RolledBack, 1),
            (Outcome::Failed, 1),
            (Outcome::Refused, 75),
        ] {
            let mut status = serving();
            status.last = Some(ended(outcome));
            for which in [Which::Id(ID.into()), Which::Latest] {
                for goal in [Goal::Takeover, Goal::End] {
                    assert_eq!(exit_of(judge(&status, &which, goal)), exit);
                }
            }
        }
    }

    fn drift(installed: &str, differ: &[&str]) -> Drift {
        let build = |id: &str| Build {
            version: None,
            build_id: id.into(),
        };
        Drift {
            installed: Some(installed.into()),
            disk: Some(build("aa")),
            running: build("aa"),
            good: Some(build("aa")),
            differ: differ.iter().map(|place| (*place).to_owned()).collect(),
        }
    }

    #[test]
    fn a_version_is_waited_for_until_it_is_final_or_was_tried() {
        let code = |status: &Status, version: &str| {
            judge_version(status, version).map(|verdict| verdict.exit)
        };
        assert_eq!(code(&probation(), "1.4.2"), None);
        assert_eq!(code(&probation(), "1.4.1"), None);
        let mut status = serving();
        assert_eq!(code(&status, "1.4.1"), Some(exit::OK));
        assert_eq!(code(&status, "1.4.2"), None, "it may come");
        for outcome in [
            Outcome::RolledBack,
            Outcome::Failed,
            Outcome::Refused,
            Outcome::Interrupted,
        ] {
            status.last = Some(ended(outcome));
            assert_eq!(code(&status, "1.4.2"), Some(exit::FAILED), "{outcome:?}");
            assert_eq!(code(&status, "1.4.1"), Some(exit::OK), "{outcome:?}");
        }
        status.last = Some(ended(Outcome::Committed));
        assert_eq!(code(&status, "1.4.2"), None, "it was left since");
    }

    #[test]
    fn a_version_that_was_started_cold_is_waited_for_until_it_has_proved_itself() {
        let mut status = serving();
        status.drift = Some(drift("1.4.1-1", &["good"]));
        assert_eq!(judge_version(&status, "1.4.1"), None);
        status.drift = Some(drift("1.4.1-1", &[]));
        let decided = judge_version(&status, "1.4.1").unwrap();
        assert_eq!(decided.exit, exit::OK);
    }

    #[test]
    fn a_version_that_was_refused_before_it_said_its_name_is_known_by_its_package() {
        let mut status = serving();
        status.last = Some(Last {
            to: None,
            ..ended(Outcome::Failed)
        });
        assert_eq!(judge_version(&status, "1.4.2"), None, "another one failed");
        status.drift = Some(drift("2:1.4.2-1", &["installed"]));
        let decided = judge_version(&status, "1.4.2").unwrap();
        assert_eq!(decided.exit, exit::FAILED);
        assert!(decided.message.contains("workers keep crashing"));
        assert_eq!(judge_version(&status, "1.4"), None);
        // It was refused long ago, and something else was tried since.
        status.last = Some(ended(Outcome::Committed));
        let decided = judge_version(&status, "1.4.2").unwrap();
        assert_eq!(decided.exit, exit::FAILED);
        assert!(decided.message.contains("refused before"), "{decided:?}");
        // Unpacked, and not applied yet.
        status.drift = Some(drift("1.4.2-1", &["installed", "disk"]));
        assert_eq!(judge_version(&status, "1.4.2"), None);
    }

    #[test]
    fn a_package_has_its_programs_version() {
        for installed in ["1.4.2", "1.4.2-1", "1:1.4.2-1.fc42", "1:1.4.2"] {
            assert!(is_package_of(installed, "1.4.2"), "{installed}");
        }
        assert!(is_package_of("1.4.2-rc1-1", "1.4.2-rc1"));
        for installed in ["1.4.20-1", "11.4.2-1", "1.4.1-1"] {
            assert!(!is_package_of(installed, "1.4.2"), "{installed}");
        }
    }

    #[test]
    fn another_upgrade_is_not_taken_for_ours() {
        let other = Which::Id("ffff".into());
        assert_eq!(judge(&probation(), &other, Goal::End), Judged::Unknown);
        let mut status = serving();
        status.last = Some(ended(Outcome::Committed));
        assert_eq!(judge(&status, &other, Goal::End), Judged::Unknown);
        let later = Which::EndedSince("2026-11-22T14:57:01Z".parse().unwrap());
        assert_eq!(judge(&status, &later, Goal::End), Judged::Unknown);
        let earlier = Which::EndedSince("2026-11-22T14:56:59Z".parse().unwrap());
        assert_eq!(exit_of(judge(&status, &earlier, Goal::End)), exit::OK);
    }
}
