//! A program or a release on trial that was started cold: it proves itself alone.

use std::time::{Duration, Instant};

use super::disk::RETRY;
use super::driver::Driver;
use super::health;
use super::story;
use crate::api::{Last, Outcome};
use crate::machine::Phase;
use crate::machine::trial::Name;

impl Driver {
    /// What runs is on trial and was started cold: nobody is parked who could take back, so it proves
    /// itself alone.
    pub(super) fn begin_cold_trial(&mut self) {
        let program = self.disk.store.on_trial();
        if !program && !self.release_on_trial() {
            return;
        }
        let probation = self.config.upgrade.probation;
        if program && self.disk.store.build(Name::Good).is_some() {
            self.milestone(story::COLD_TRIAL).warn(format_args!(
                "build {} is on trial and was started cold: it is kept when it has served for {} \
                 in good health",
                self.fixed.me.build_id,
                humantime::format_duration(probation)
            ));
        }
        self.start_cold_trial(probation);
    }

    /// Bad health: it begins anew.
    pub(super) fn prolong_cold_trial(&mut self) {
        if self.disk.on_trial_until.is_some() {
            self.start_cold_trial(self.config.upgrade.probation);
        }
    }

    fn start_cold_trial(&mut self, probation: Duration) {
        self.disk.on_trial_until = Some(Instant::now() + probation);
        let path = self.config.upgrade.health.clone();
        self.health = path.map(|path| health::in_probation(path, self.post.clone()));
    }

    /// An upgrade that a cold start had interrupted came to a good end after all.
    fn interrupted_committed(&mut self) {
        let me = Some(&self.fixed.me.build_id);
        let release = self.applications.release().map(|one| one.path.clone());
        let ours = |last: &&mut Last| {
            let to = last.releases.as_ref().map(|releases| &releases.to);
            last.outcome == Outcome::Interrupted
                && last.to_build.as_ref() == me
                && (to.is_none() || to == release.as_ref())
        };
        let Some(last) = self.last.as_mut().filter(ours) else {
            return;
        };
        last.outcome = Outcome::Committed;
        last.reason =
            Some("it was started cold in the middle of it, and proved itself then".into());
        let last = last.clone();
        self.remember_end(&last);
    }

    /// It has served long enough; unless an upgrade is under way, which decides first.
    pub(super) fn end_cold_trial(&mut self) {
        if !matches!(self.machine.phase(), Phase::Serving | Phase::Reloading) {
            self.disk.on_trial_until =
                Some(Instant::now() + self.config.upgrade.probation.max(RETRY));
            return;
        }
        self.health = None;
        tracing::info!("what runs has proved itself: the trial is over");
        self.disk.on_trial_until = None;
        if self.disk.store.on_trial() {
            self.disk.commit();
        }
        self.release_is_good();
        self.forgive();
        self.interrupted_committed();
        let text = self.status_line();
        self.manager.status(&text);
    }
}
