//! Releases of the hosted application in an upgrade: whether there is another one, which was refused,
//! what the link leads to afterwards, and which of them nothing needs any more.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::hosting::Applications;
use super::release_file::named;
use super::state::State;
use crate::api::{Outcome, Releases};
use crate::config::{self, App, Config, ConfigError, Loaded, Sources};
use crate::machine::hosting::RunningApp;
use crate::machine::trial::MOST_TRIES;
use crate::machine::trial::release::{Known, Start, Why};
use crate::sys::link::Link;
use crate::sys::release::Release;

/// What is known of the releases of the application, in the state directory.
#[derive(Debug)]
pub(super) struct KnownReleases {
    pub(super) state: State,
}

/// What the disk holds for a hosted application, as far as orders are concerned.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    /// Another release than the one that runs.
    pub(super) other: bool,
    /// One that was not refused, too: nobody tries that again by itself.
    pub(super) new: bool,
    /// Why what the link leads to cannot be started.
    pub(super) unusable: Option<ConfigError>,
    link: Option<PathBuf>,
}

impl OnDisk {
    /// Why a release that somebody wants to run is not what would be run.
    pub(super) fn leads_elsewhere(&self, wanted: &Path) -> Option<String> {
        let Some(link) = &self.link else {
            return Some("this service hosts no application".into());
        };
        let now = link.canonicalize();
        let shown = |path: &Path| path.display().to_string();
        (now.as_deref().ok() != Some(wanted)).then(|| {
            format!(
                "{} leads to {} for the service, not to {}: somebody else has pointed it elsewhere, or \
                 the service runs with another configuration",
                link.display(),
                now.map_or_else(|e| format!("nothing ({e})"), |path| shown(&path)),
                wanted.display()
            )
        })
    }
}

impl KnownReleases {
    pub(super) fn new(state: State) -> Self {
        Self { state }
    }

    /// What the disk holds besides what runs.
    pub(super) fn on_disk(&self, config: &Config, applications: &Applications) -> OnDisk {
        let (app, other) = (config.app.as_ref(), applications.other_release());
        OnDisk {
            link: app.map(|app| app.directory.clone()),
            new: other
                .as_ref()
                .is_some_and(|one| !self.was_rejected(applications, one)),
            other: other.is_some(),
            unusable: None,
        }
    }

    /// The upgrade ended: a release that did not prove itself is remembered, and the link leads to the
    /// one that serves. What somebody else made of the link meanwhile stays.
    pub(super) fn ended(
        &self,
        applications: &Applications,
        outcome: Outcome,
        tried: Option<&Release>,
    ) {
        if outcome == Outcome::Committed {
            return self.good(applications);
        }
        let (Some(tried), Some((app, serves))) = (tried, applications.running()) else {
            return;
        };
        let serves = named(serves);
        let tried_one = named(tried);
        self.change(app, move |known| known.reject(&tried_one, Some(&serves)));
        if let Err(left) = applications.point_back(tried) {
            tracing::warn!("{left}");
        }
    }

    /// What runs has proved itself.
    pub(super) fn good(&self, applications: &Applications) {
        if let Some((app, running)) = applications.running() {
            let running = named(running);
            self.change(app, move |known| known.commit(&running));
        }
    }

    /// Another release is about to be tried.
    pub(super) fn serves(&self, applications: &Applications) {
        if let Some((app, running)) = applications.running() {
            let running = named(running);
            self.change(app, move |known| known.serves(&running));
        }
    }

    /// We were told to stop. `tried` was still getting ready, and is not what the next start is about.
    pub(super) fn stopped(&self, applications: &Applications, tried: Option<&Release>) {
        if let Some(Err(left)) = tried.map(|tried| applications.point_back(tried)) {
            tracing::warn!("{left}");
        }
        if let Some((app, running)) = applications.running() {
            let running = named(running);
            self.change(app, move |known| known.stopped(&running));
        }
    }

    /// What runs has not proved itself yet.
    pub(super) fn on_trial(&self, applications: &Applications) -> bool {
        let running = applications.running();
        running.is_some_and(|(app, one)| self.of(app).good != Some(named(one)))
    }

    /// A cold start: which release is started. Nothing is written to the link.
    pub(super) fn choose(&self, config: &Config, usable: bool, applications: &mut Applications) {
        let Some(app) = &config.app else { return };
        let link = app.directory.clone();
        let now = Release::of(&link, app).ok().as_ref().map(named);
        let start = self.of(app).start(now.as_ref(), usable, Path::is_dir);
        let tried = now.clone();
        self.change(app, move |known| {
            known.start(tried.as_ref(), usable, Path::is_dir);
        });
        match start {
            Start::OnTrial(n) => tracing::warn!(
                "{} leads to a release that has not proved itself: it is started for the {n}. time \
                 of {MOST_TRIES}, and is good when it has served for {}",
                link.display(),
                humantime::format_duration(config.upgrade.probation)
            ),
            Start::Instead { good, why } => {
                tracing::warn!(
                    "{} leads to {}, which {}: {} is started, which served before",
                    link.display(),
                    now.map_or_else(|| "nothing".into(), |now| now.path.display().to_string()),
                    why_not(why),
                    good.path.display()
                );
                applications.keep_to(link, good.path);
            }
            Start::Good | Start::NothingElse => {}
        }
    }

    /// What the successor runs in spite of the link.
    pub(super) fn kept(
        &self,
        config: &Config,
        applications: &Applications,
        asked: Asked,
        other_program: bool,
    ) -> Option<PathBuf> {
        let (app, ours) = applications.running()?;
        let now = Release::of(&app.directory, app).ok();
        let bad = config::release_fault(app, &config.site).is_some()
            || now.is_none_or(|now| now != *ours && self.was_rejected(applications, &now));
        keeps(asked, other_program, bad).then(|| ours.path.clone())
    }

    pub(super) fn was_rejected(&self, applications: &Applications, release: &Release) -> bool {
        let running = applications.running();
        running.is_some_and(|(app, _)| self.of(app).rejected == Some(named(release)))
    }

    pub(super) fn of(&self, app: &App) -> Known {
        self.state.releases(&app.directory)
    }

    fn change(&self, app: &App, change: impl Fn(&mut Known) + Send + Sync + 'static) {
        self.state.change_releases(&app.directory, change);
    }
}

impl Applications {
    /// What an upgrade that begins now is about, should it be about a release.
    pub(super) fn releases_now(&self) -> Option<(Releases, Release)> {
        let from = self.release()?.path.clone();
        let other = self.other_release()?;
        let to = other.path.clone();
        Some((Releases { from, to }, other))
    }

    /// The link leads to what serves, if it still leads to this one. An error says what is left to do.
    pub(super) fn point_back(&self, refused: &Release) -> Result<(), String> {
        let Some((app, ours)) = self.running() else {
            return Ok(());
        };
        let (link, ours) = (&app.directory, &ours.path);
        let still = Release::of(link, app).is_ok_and(|now| now == *refused);
        if !still || refused.path == *ours {
            return Ok(());
        }
        match Link::find(link).and_then(|link| link.point(ours)) {
            Ok(true) => tracing::info!("{} leads to {} again", link.display(), ours.display()),
            Ok(false) => {}
            Err(e) => {
                return Err(format!(
                    "{} still leads to the release that was refused: {e}; point it to {}",
                    link.display(),
                    ours.display()
                ));
            }
        }
        Ok(())
    }

    /// The configuration on disk. The release that runs stays, whatever its link leads to by now.
    pub(super) fn load_again(&self, sources: &Sources) -> Result<Loaded, ConfigError> {
        let (loaded, unusable) = sources.load_for_any_release()?;
        let running = self.running().map(|(app, _)| &app.directory);
        let next = loaded.config.app.as_ref().map(|app| &app.directory);
        match unusable {
            Some(unusable) if running.is_none() || running != next => Err(unusable),
            _ => Ok(loaded),
        }
    }
}

/// A successor: `running` is the predecessor's, `kept` what runs whatever the link leads to. Says what
/// this upgrade is about, should it be about a release.
pub(super) fn take_over(
    config: &Config,
    applications: &mut Applications,
    kept: Option<PathBuf>,
    running: Option<RunningApp>,
    end: Option<OwnedFd>,
) -> Option<Releases> {
    let before = running.as_ref().map(|one| one.release.clone());
    let before = before.filter(|_| kept.is_none());
    if let (Some(release), Some(app)) = (kept, &config.app) {
        applications.keep_to(app.directory.clone(), release);
    }
    if let (Some(running), Some(end)) = (running, end) {
        applications.adopt(config, running, end);
    }
    let from = before?;
    let app = config.app.as_ref()?;
    let to = Release::of(&app.directory, app).ok()?.path;
    (from != to).then_some(Releases { from, to })
}

/// What an upgrade was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The program of before.
    Back,
    /// This release: `deploy`.
    Release,
    /// Whatever is new.
    Upgrade,
}

/// Whether an upgrade keeps the release that runs. Who goes back to the program of before, or upgrades
/// the program (a package does), has not asked for a release that was refused, or cannot be started.
/// Who orders an upgrade when nothing else is new has.
fn keeps(asked: Asked, other_program: bool, bad: bool) -> bool {
    match asked {
        Asked::Back => true,
        Asked::Release => false,
        Asked::Upgrade => other_program && bad,
    }
}

/// Whether a cold start would run the good release, though this is what the link leads to: then it is
/// no fault that it cannot be started.
pub(super) fn starts_good_instead(state: &State, app: &App) -> bool {
    let now = Release::of(&app.directory, app).ok().as_ref().map(named);
    let mut known = state.releases(&app.directory);
    matches!(
        known.start(now.as_ref(), false, Path::is_dir),
        Start::Instead { .. }
    )
}

fn why_not(why: Why) -> &'static str {
    match why {
        Why::Rejected => "was refused",
        Why::Tried => "was started three times and never proved itself",
        Why::Unusable => "cannot be started",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_of_the_program_brings_no_refused_release() {
        // Another program, a bad release: kept.
        for (asked, other_program, bad, kept) in [
            (Asked::Back, true, false, true),
            (Asked::Upgrade, true, true, true),
            (Asked::Upgrade, true, false, false),
            (Asked::Upgrade, false, true, false),
            (Asked::Release, true, true, false),
        ] {
            let case = format!("{asked:?} {other_program} {bad}");
            assert_eq!(keeps(asked, other_program, bad), kept, "{case}");
        }
    }
}
