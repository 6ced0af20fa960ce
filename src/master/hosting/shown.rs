//! What of the application others are told: what runs, and how it is.

use super::Applications;
use super::application::Application;
use crate::api;
use crate::config::{App, Upstream};
use crate::sys::release::Release;

impl Applications {
    /// The release that runs, or will.
    pub(in crate::master) fn release(&self) -> Option<&Release> {
        self.current.as_ref().map(|one| &one.release)
    }

    /// How it was configured, and its release.
    pub(in crate::master) fn running(&self) -> Option<(&App, &Release)> {
        self.current.as_ref().map(|one| (&one.app, &one.release))
    }

    /// Where it listens, once it is ready.
    pub(in crate::master) fn upstreams(&self) -> Vec<Upstream> {
        let current = self.current.as_ref();
        let upstreams = current.and_then(Application::upstreams);
        upstreams.cloned().unwrap_or_default()
    }

    /// What a new generation would run, when it is another release than the one that runs.
    pub(in crate::master) fn other_release(&self) -> Option<Release> {
        let (app, running) = self.running()?;
        let now = Release::of(&app.directory, app).ok()?;
        (now != *running).then_some(now)
    }

    /// For `status`.
    pub(in crate::master) fn report(&self) -> Option<api::App> {
        self.current.as_ref().map(Application::report)
    }

    /// How often its instances were started again, by why.
    pub(in crate::master) fn restarts(&self) -> [(&'static str, u64); 7] {
        let instances = self.current.as_ref().map(|one| &one.instances);
        let instances = instances.cloned().unwrap_or_default();
        instances.restarts_by.named(instances.restarts)
    }

    /// For `status`: clients get no answer.
    pub(in crate::master) fn silence(&self) -> Option<String> {
        let current = self.current.as_ref()?;
        let instances = &current.instances;
        let why = instances.ended.as_ref()?;
        (instances.ready == Some(0))
            .then(|| format!("no instance of the application answers: {why}"))
    }

    /// Why what this generation started has not proved itself.
    pub(in crate::master) fn fault(&self) -> Option<String> {
        let ours = self
            .current
            .as_ref()
            .filter(|one| one.supervisor.is_ours())?;
        let failing = ours.instances.failing;
        if failing == 0 && ours.instances.ready == Some(0) {
            // It may have ended on purpose; whether it comes back is not known yet.
            return Some("no instance of the application answers at this moment".into());
        }
        if failing == 0 {
            return ours.unproved();
        }
        let of = ours.app.instances;
        let why = ours.instances.ended.as_deref().unwrap_or("it ended");
        Some(format!(
            "{failing} of {of} instances of the application do not answer: {why}"
        ))
    }
}
