//! What runs proves itself, or does not: what that means for the program on disk and for the releases of
//! a hosted application.

use std::time::Instant;

use super::driver::Driver;
use super::milestone;
use super::status;
use super::store::Found;
use super::words;
use crate::machine::trial::Name;
use crate::sys::runtime;

impl Driver {
    /// Nobody is parked who could take back: what is on trial proves itself alone.
    pub(super) fn started_cold(&mut self) {
        if !self.disk.store.on_trial() && !self.releases.on_trial(&self.applications) {
            return;
        }
        let upgrade = &self.configured.config.upgrade;
        if self.disk.store.on_trial() && self.disk.store.build(Name::Good).is_some() {
            self.milestone(milestone::COLD_TRIAL).warn(format_args!(
                "build {} is on trial and was started cold: it is kept when it has served for {} \
                 in good health",
                self.fixed.me.build_id,
                humantime::format_duration(upgrade.probation)
            ));
        }
        self.machine.begin_cold_trial(Instant::now());
        self.health.watch(upgrade.health.as_ref());
    }

    /// The generation before has gone without a word: what can still be done is said.
    pub(super) fn prove_alone(&mut self) {
        self.story.took_over();
        let from = self.story.upgrade().map_or("", |upgrade| &*upgrade.from);
        let back = status::rollback_to(self);
        let text = words::left_alone(
            status::who(self),
            from,
            back.as_ref(),
            self.configured.config.upgrade.probation,
        );
        self.milestone(milestone::LEFT_ALONE).warn(text);
        self.health
            .watch(self.configured.config.upgrade.health.as_ref());
        self.show_status();
    }

    /// It has.
    pub(super) fn proved(&mut self) {
        self.health.end();
        if self.disk.store.on_trial() {
            self.disk.commit();
        }
        self.releases.good(&self.applications);
        let release = self.applications.release();
        self.story.proved(release.map(|one| &*one.path));
        let state = self.state.clone();
        runtime::spawn(async move {
            state.written().await;
            tracing::info!("what runs has proved itself: the trial is over");
        });
        self.show_status();
    }

    /// The upgrade failed, or is taken back.
    pub(super) fn reject_what_failed(&mut self) {
        let look = || Found::of(&self.disk.store.open());
        if let Some((found, was_good)) = self.story.rejects(look) {
            if was_good {
                // The rollback from what runs had refused it.
                self.disk.commit();
                self.story.forgive();
            }
            self.disk.reject(found);
        }
    }
}
