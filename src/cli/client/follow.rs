//! Following an upgrade to where it is decided, whoever owns the service meanwhile: events to hear
//! at once, the status to be sure, the history file when nobody answers any more.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::{Lines, Trouble};
use super::screen::{Screen, TICK};
use super::{Client, verdict};
use crate::api::{Event, Last, Outcome, Status, Upgrade, Verdict, exit};
use crate::cli::args::Wait;
use crate::cli::history::History;
use crate::cli::status::outcome;

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
        let what = match &wait.version {
            Some(version) => format!("{version} does not serve for good"),
            None => "the upgrade is not final".into(),
        };
        tokio::time::timeout(limit, wanted)
            .await
            .unwrap_or_else(|_| {
                let message = format!("{what} after {}", crate::cli::text::duration(limit));
                Ok(verdict(exit::REFUSED, message))
            })
    }

    /// Until a version serves for good, or was tried and did not. One that nobody has begun yet may
    /// come.
    async fn wait_for_version(&self, version: &str) -> Result<Verdict, Trouble> {
        let began = Timestamp::now();
        loop {
            match self.control.status().await {
                Ok(status) => {
                    if let Some(verdict) = judge_version(&status, version, began) {
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
            let came = self.follow_one_owner(&mut which, goal, &mut met, screen);
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
    /// `which` is the upgrade that was under way in it.
    async fn follow_one_owner(
        &self,
        which: &mut Which,
        goal: Goal,
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

/// `None`: not decided yet.
fn judge_version(status: &Status, version: &str, began: Timestamp) -> Option<Verdict> {
    if status.upgrade.is_some() {
        return None;
    }
    if status.version == version {
        return Some(verdict(exit::OK, format!("{version} serves")));
    }
    // Of an earlier try this waiting knows nothing: there may be another one.
    let last = status.last.as_ref()?;
    let tried = last.to.as_deref() == Some(version) && last.outcome != Outcome::Committed;
    let since = last.finished_at.parse::<Timestamp>().ok()?;
    let recent = since.as_second() >= began.as_second();
    (tried && recent).then(|| Verdict {
        exit: exit::FAILED,
        ..of(last)
    })
}

/// Between two looks for a version.
const LOOK: Duration = Duration::from_millis(500);

/// Whether the owner of this moment is the upgrade's successor (or, in hold mode, both accept).
fn taken_over(status: &Status) -> bool {
    matches!(status.phase.as_str(), "probation" | "committing" | "beside")
}

fn took_over(status: &Status, upgrade: &Upgrade) -> Verdict {
    let how = match upgrade.probation_left_ms {
        Some(ms) => format!("is final in {}", crate::cli::text::left(ms)),
        None => "is not final yet".into(),
    };
    let message = format!(
        "{} (g{}) serves, the upgrade from {} {how}",
        status.version, status.generation, upgrade.from
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
    let (from, to) = (&last.from, last.to.as_deref().unwrap_or("?"));
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
        for phase in ["launching", "yielded", "reclaiming", "evicting"] {
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

    #[test]
    fn a_version_is_waited_for_until_it_is_final_or_was_tried() {
        let before = "2026-11-22T14:00:00Z".parse().unwrap();
        let later = "2026-11-22T15:00:00Z".parse().unwrap();
        let code = |status: &Status, version: &str, began| {
            judge_version(status, version, began).map(|verdict| verdict.exit)
        };
        assert_eq!(code(&probation(), "1.4.2", before), None);
        let mut status = serving();
        assert_eq!(code(&status, "1.4.1", before), Some(exit::OK));
        assert_eq!(code(&status, "1.4.2", before), None, "it may come");
        status.last = Some(ended(Outcome::RolledBack));
        assert_eq!(code(&status, "1.4.2", before), Some(exit::FAILED));
        assert_eq!(code(&status, "1.4.2", later), None, "another try may come");
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
