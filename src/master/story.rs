//! The upgrade under way and the last one: what the journal is told of them, and what is written down
//! in the state directory.

use std::path::Path;
use std::time::Duration;

use super::history::Previous;
use super::milestone::{self, Cast, Milestone, ended_as};
use super::record::{Record, api_time};
use super::state::{Line, State};
use super::store::Found;
use super::words;
use crate::api::{Connections, Last, Outcome};
use crate::machine::link::Drained;
use crate::machine::message::{Identity, KeptConfig};
use crate::machine::{Failure, Phase};

/// The upgrade under way, the last one, and what is written down of them.
#[derive(Debug)]
pub(super) struct Story {
    me: Identity,
    state: State,
    upgrade: Option<Record>,
    last: Option<Last>,
    /// Who took part in the one that has just ended: what still follows belongs to its story.
    ended: Option<Cast>,
}

impl Story {
    pub(super) fn new(me: Identity, state: State) -> Self {
        let upgrades = state.upgrades();
        let ended = |last: &Last| last.outcome != Outcome::UnderWay;
        Self {
            me,
            state,
            upgrade: None,
            last: upgrades.into_iter().rfind(ended),
            ended: None,
        }
    }

    /// At a cold start: what was under way was interrupted.
    pub(super) fn begins_anew(&mut self) {
        for mut last in self.state.upgrades() {
            if last.outcome == Outcome::UnderWay {
                last.outcome = Outcome::Interrupted;
                last.reason = Some(format!(
                    "the service ended in the middle of it; {} was started then",
                    self.me.version
                ));
                last.finished_at = api_time(jiff::Timestamp::now());
                self.write(&last);
            }
            self.last = Some(last);
        }
    }

    /// A milestone of this master, in the upgrade that is under way or has just ended.
    pub(super) fn milestone(&self, kind: &'static str, phase: Phase) -> Milestone<'static> {
        let cast = match &self.upgrade {
            Some(record) => record.cast(),
            None => self.ended.clone().unwrap_or_default(),
        };
        Milestone {
            kind,
            generation: self.me.generation,
            phase: phase.as_str(),
            cast,
            ..Milestone::default()
        }
    }

    /// It stays written down should it be interrupted.
    pub(super) fn begins(&mut self, record: Record) {
        self.write(&record.under_way());
        self.upgrade = Some(record);
    }

    /// We are the successor in it; the predecessor has written that it began.
    pub(super) fn joins(&mut self, record: Record) {
        self.upgrade = Some(record);
    }

    /// A step of this master.
    pub(super) fn entered(&mut self, from: Phase, to: Phase, text: &str) {
        if from.rests() {
            // What begins here is another story.
            self.ended = None;
        }
        self.milestone(milestone::PHASE_CHANGED, to).info(text);
    }

    /// The successor owns the service from now on.
    pub(super) fn takes_over(&mut self) {
        if let Some(record) = &mut self.upgrade {
            record.takes_over();
        }
    }

    /// We own the service from now on: should this be interrupted, it is known what took over.
    pub(super) fn took_over(&mut self) {
        self.takes_over();
        if let Some(last) = self.upgrade.as_ref().map(Record::under_way) {
            self.write(&last);
        }
    }

    /// The upgrade ended, and it is we who write it down. `so_far`: a drain that was taken back.
    pub(super) fn ended(
        &mut self,
        outcome: Outcome,
        failure: Option<Failure>,
        so_far: Option<Connections>,
        phase: Phase,
    ) -> Option<Last> {
        let mut record = self.upgrade.take()?;
        if let Some(so_far) = so_far {
            let (ms, mut all) = record.drained.unwrap_or_default();
            all += so_far;
            record.drained = Some((ms, all));
        }
        let reason = failure.map(|f| f.reason);
        let last = record.ended(outcome, reason.clone());
        let mut text = words::ended(&last);
        if last.drain_ms.is_some() {
            text = format!("{text}; {}", last.connections);
        }
        self.ended = Some(record.cast());
        let kind = match outcome {
            Outcome::Committed => milestone::COMMITTED,
            Outcome::RolledBack => milestone::ROLLED_BACK,
            Outcome::Interrupted => milestone::LEFT_ALONE,
            _ => milestone::FAILED,
        };
        let milestone = Milestone {
            reason: reason.as_deref(),
            outcome: Some(ended_as(outcome)),
            connections: Some(last.connections),
            ..self.milestone(kind, phase)
        };
        match outcome {
            // Whoever looks for warnings has nothing to do.
            Outcome::Committed => milestone.info(text),
            _ => milestone.warn(text),
        }
        if let Some(found) = &record.rejected {
            self.refuse(record.to_build.as_deref().or(found.build()));
        } else if outcome == Outcome::Committed {
            self.forgive();
        }
        self.write(&last);
        self.last = Some(last.clone());
        Some(last)
    }

    /// One whose file did not even pass its pre-flight, while another is in probation.
    pub(super) fn refused(&mut self, id: String, failure: &Failure, found: &Found, phase: Phase) {
        let record = Record::new(id, &self.me.version, false, false);
        Milestone {
            cast: record.cast(),
            reason: Some(&failure.reason),
            ..self.milestone(milestone::FAILED, phase)
        }
        .warn(format_args!(
            "upgrade {} failed: {}",
            record.id, failure.reason
        ));
        self.write(&record.ended(Outcome::Failed, Some(failure.reason.clone())));
        self.refuse(found.build());
    }

    /// The upgrade failed or was taken back: what it found at the path is refused. And whether what
    /// runs must be made good again, because a rollback had made the other one good.
    pub(super) fn rejects(&mut self, look: impl FnOnce() -> Found) -> Option<(Found, bool)> {
        let record = self.upgrade.as_mut()?;
        if record.back && record.takeover.is_none() {
            // The way back could not be gone this time, for its files or its certificates perhaps: nothing
            // is known against that build, and the program on disk is what serves.
            return None;
        }
        // Taken back before it was looked at: what is there now is what it would have run.
        let found = record.found.get().cloned().unwrap_or_else(look);
        record.rejected = Some(found.clone());
        Some((found, record.was_good && record.takeover.is_some()))
    }

    /// What was started cold has proved itself; if an upgrade to it was interrupted by that start, it
    /// came to a good end after all.
    pub(super) fn proved(&mut self, release: Option<&Path>) {
        self.forgive();
        let me = Some(&self.me.build_id);
        let ours = |last: &&mut Last| {
            let to = last.releases.as_ref().map(|releases| &*releases.to);
            last.outcome == Outcome::Interrupted
                && last.to_build.as_ref() == me
                && (to.is_none() || to == release)
        };
        let Some(last) = self.last.as_mut().filter(ours) else {
            return;
        };
        last.outcome = Outcome::Committed;
        last.reason =
            Some("it was started cold in the middle of it, and proved itself then".into());
        let last = last.clone();
        self.write(&last);
    }

    /// This build is not run again but by an order that names no other.
    pub(super) fn refuse(&mut self, build: Option<&str>) {
        // What runs has proved itself: it was another release that was refused.
        if let Some(build) = build.filter(|build| *build != self.me.build_id) {
            self.state.write(Line::Refused(build.to_owned()));
        }
    }

    /// What runs has proved itself, whatever was thought of it before.
    pub(super) fn forgive(&mut self) {
        self.state.write(Line::Forgiven(self.me.build_id.clone()));
    }

    /// Keeps what this generation runs with, for the way back from the next one.
    pub(super) fn keep(&mut self, config: KeptConfig) {
        // Another release of a hosted application runs on the same program: what was before that one
        // stays the way back.
        let ours = &*self.me.build_id;
        let stays = |record: &Record| record.back || record.to_build.as_deref() == Some(ours);
        if self.upgrade.as_ref().is_none_or(stays) {
            return;
        }
        let previous = Previous {
            version: self.me.version.clone(),
            build_id: self.me.build_id.clone(),
            config,
        };
        match toml::to_string(&previous) {
            Ok(text) => self.state.write(Line::Previous(text)),
            Err(e) => tracing::warn!(
                "cannot keep the configuration: {e}; a rollback after the commit will use the one on disk"
            ),
        }
    }

    /// What the previous generation ran with, if it was this build.
    pub(super) fn previous(&self, build: &str) -> Option<Previous> {
        let previous = self.state.previous();
        previous.filter(|previous| previous.build_id == build)
    }

    /// How an upgrade goes, or went, in the place of what was written of it before.
    fn write(&mut self, last: &Last) {
        self.state.write(Line::Upgrade(Box::new(last.clone())));
    }

    /// It is final, and the successor writes it down.
    pub(super) fn committed_elsewhere(&mut self) -> Option<Last> {
        let record = self.upgrade.take()?;
        self.ended = Some(record.cast());
        Some(record.ended(Outcome::Committed, None))
    }

    /// Figures of a drain, which may come when the upgrade that they belong to has ended.
    pub(super) fn drained(&mut self, drained: &Drained) {
        if let Some(record) = &mut self.upgrade {
            if record.id == drained.upgrade_id {
                // Forth and back: what was drained for either counts.
                let (ms, mut all) = record.drained.unwrap_or_default();
                all += drained.connections;
                record.drained = Some((ms.max(drained.ms), all));
            }
            return;
        }
        let Some(last) = &mut self.last else { return };
        if last.id != drained.upgrade_id {
            return;
        }
        last.connections += drained.connections;
        last.drain_ms = Some(last.drain_ms.unwrap_or(0).max(drained.ms));
        let last = last.clone();
        self.write(&last);
    }

    /// What the drain for this upgrade came to.
    pub(super) fn drain_came_to(&mut self, ms: u64, connections: Connections) {
        if let Some(record) = &mut self.upgrade {
            record.drained = Some((ms, connections));
        }
    }

    pub(super) fn upgrade(&self) -> Option<&Record> {
        self.upgrade.as_ref()
    }

    pub(super) fn upgrade_mut(&mut self) -> Option<&mut Record> {
        self.upgrade.as_mut()
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.upgrade.as_ref().map(|record| record.id.as_str())
    }

    /// The probation that was ordered for it.
    pub(super) fn probation(&self) -> Option<Duration> {
        self.upgrade.as_ref().and_then(|record| record.probation)
    }

    /// The upgrade under way, else the last one.
    pub(super) fn latest(&self) -> Option<Last> {
        let upgrade = self.upgrade.as_ref().map(Record::under_way);
        upgrade.or_else(|| self.last.clone())
    }

    pub(super) fn last(&self) -> Option<&Last> {
        self.last.as_ref()
    }
}
