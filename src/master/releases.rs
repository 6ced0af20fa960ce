//! Releases of the hosted application in an upgrade: whether there is another one, which was refused,
//! what the link leads to afterwards, and which of them nothing needs any more.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::driver::Driver;
use super::history::History;
use super::release_file::named;
use crate::api::{self, Last, Outcome, Releases};
use crate::config::{self, App, Config, ConfigError, Loaded};
use crate::machine::hosting::RunningApp;
use crate::machine::trial::MOST_TRIES;
use crate::machine::trial::release::{Known, Start, Why};
use crate::sys::release::{self, Release};

impl Driver {
    /// The release that a new generation would run, when it is not the one that runs. One that was
    /// refused does not count: nobody tries it again by itself.
    pub(super) fn new_release(&self) -> Option<Release> {
        let other = self.applications.other_release()?;
        (!self.was_rejected(&other)).then_some(other)
    }

    /// What this upgrade is about, should it be about a release.
    pub(super) fn releases_now(&self) -> Option<(Releases, Release)> {
        let from = self.applications.release()?.path.clone();
        let other = self.applications.other_release()?;
        let to = other.path.clone();
        Some((Releases { from, to }, other))
    }

    /// A successor: `running` is the predecessor's, `kept` what runs whatever the link leads to. Says
    /// what this upgrade is about, should it be about a release.
    pub(super) fn take_application_over(
        &mut self,
        kept: Option<PathBuf>,
        running: Option<RunningApp>,
        end: Option<OwnedFd>,
    ) -> Option<Releases> {
        let before = running.as_ref().map(|one| one.release.clone());
        let before = before.filter(|_| kept.is_none());
        if let (Some(release), Some(app)) = (kept, &self.config.app) {
            self.applications.keep_to(app.directory.clone(), release);
        }
        if let (Some(running), Some(end)) = (running, end) {
            self.applications.adopt(&self.config, running, end);
        }
        let from = before?;
        let app = self.config.app.as_ref()?;
        let to = Release::of(&app.directory, app).ok()?.path;
        (from != to).then_some(Releases { from, to })
    }

    /// What the successor runs in spite of the link.
    pub(super) fn keeps_release(&self, back: bool, wanted: bool) -> Option<PathBuf> {
        let (app, ours) = (self.config.app.as_ref()?, self.applications.release()?);
        let now = Release::of(&app.directory, app).ok();
        let bad = config::release_fault(app).is_some()
            || now.is_none_or(|now| now != *ours && self.was_rejected(&now));
        let disk = self.disk.store.disk().build_id;
        let other_program = disk.as_deref() != Some(self.disk.store.running().build_id());
        let asked = match (back, wanted) {
            (true, _) => Asked::Back,
            (_, true) => Asked::Release,
            _ => Asked::Upgrade,
        };
        keeps(asked, other_program, bad).then(|| ours.path.clone())
    }

    /// Why a release that somebody wants to run is not what would be run.
    pub(super) fn leads_elsewhere(&self, wanted: &Path) -> Option<String> {
        let Some(app) = &self.config.app else {
            return Some("this service hosts no application".into());
        };
        let now = app.directory.canonicalize();
        let shown = |path: &Path| path.display().to_string();
        (now.as_deref().ok() != Some(wanted)).then(|| {
            format!(
                "{} leads to {} for the service, not to {}: somebody else has pointed it elsewhere, or \
                 the service runs with another configuration",
                app.directory.display(),
                now.map_or_else(|e| format!("nothing ({e})"), |path| shown(&path)),
                wanted.display()
            )
        })
    }

    /// The upgrade ended: a release that did not prove itself is remembered, and the link leads to the
    /// one that serves. What somebody else made of the link meanwhile stays.
    pub(super) fn release_ended(&self, outcome: Outcome, tried: Option<&Release>) {
        if outcome == Outcome::Committed {
            return self.release_is_good();
        }
        let Some(tried) = tried else { return };
        let serves = self.applications.release().map(named);
        self.change_releases(|known| known.reject(&named(tried), serves.as_ref()));
        self.point_back(tried);
    }

    /// The release of this upgrade is taken back.
    pub(super) fn link_leads_back(&self) {
        if let Some(tried) = self.upgrade.as_ref().and_then(|one| one.release.as_ref()) {
            self.point_back(tried);
        }
    }

    /// The link leads to what serves, if it still leads to this one.
    fn point_back(&self, refused: &Release) {
        let (Some(app), Some(ours)) = (&self.config.app, self.applications.release()) else {
            return;
        };
        let (link, ours) = (&app.directory, &ours.path);
        let still = Release::of(link, app).is_ok_and(|now| now == *refused);
        if !still || refused.path == *ours {
            return;
        }
        match release::point(link, ours) {
            Ok(true) => tracing::info!("{} leads to {} again", link.display(), ours.display()),
            Ok(false) => {}
            Err(e) => tracing::warn!(
                "{} still leads to the release that was refused: {e}; point it to {}",
                link.display(),
                ours.display()
            ),
        }
    }

    /// What runs has proved itself.
    pub(super) fn release_is_good(&self) {
        if let Some(running) = self.applications.release().map(named) {
            self.change_releases(|known| known.commit(&running));
        }
    }

    /// Another release is about to be tried.
    pub(super) fn release_serves(&self) {
        if let Some(running) = self.applications.release().map(named) {
            self.change_releases(|known| known.serves(&running));
        }
    }

    /// We were told to stop.
    pub(super) fn release_stopped(&self) {
        if let Some(running) = self.applications.release().map(named) {
            self.change_releases(|known| known.stopped(&running));
        }
    }

    /// What runs has not proved itself yet.
    pub(super) fn release_on_trial(&self) -> bool {
        let running = self.applications.release().map(named);
        running.is_some() && self.known_releases().and_then(|known| known.good) != running
    }

    /// A cold start: which release is started. Nothing is written to the link.
    pub(super) fn choose_release(&mut self, usable: bool) {
        let Some(app) = &self.config.app else { return };
        let link = app.directory.clone();
        let now = Release::of(&link, app).ok().as_ref().map(named);
        let start = self.change_releases(|known| known.start(now.as_ref(), usable, Path::is_dir));
        match start {
            Some(Start::OnTrial(n)) => tracing::warn!(
                "{} leads to a release that has not proved itself: it is started for the {n}. time \
                 of {MOST_TRIES}, and is good when it has served for {}",
                link.display(),
                humantime::format_duration(self.config.upgrade.probation)
            ),
            Some(Start::Instead { good, why }) => {
                tracing::warn!(
                    "{} leads to {}, which {}: {} is started, which served before",
                    link.display(),
                    now.map_or_else(|| "nothing".into(), |now| now.path.display().to_string()),
                    why_not(why),
                    good.path.display()
                );
                self.applications.keep_to(link, good.path);
            }
            Some(Start::Good | Start::NothingElse) | None => {}
        }
    }

    /// The configuration on disk. The release that runs stays, whatever its link leads to by now.
    pub(super) fn load_again(&self) -> Result<Loaded, ConfigError> {
        let (loaded, unusable) = self.fixed.sources.load_for_any_release()?;
        let directory = |config: &Config| config.app.as_ref().map(|app| app.directory.clone());
        let stays = self.applications.release().is_some()
            && directory(&loaded.config) == directory(&self.config);
        match unusable {
            Some(unusable) if !stays => Err(unusable),
            _ => Ok(loaded),
        }
    }

    fn was_rejected(&self, release: &Release) -> bool {
        let known = self.known_releases();
        known.and_then(|known| known.rejected) == Some(named(release))
    }

    fn known_releases(&self) -> Option<Known> {
        let app = self.config.app.as_ref()?;
        Some(self.history.releases(&app.directory))
    }

    fn change_releases<T>(&self, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        let app = self.config.app.as_ref()?;
        let (answer, written) = self.history.change_releases(&app.directory, change);
        if let Err(e) = written {
            tracing::warn!("{e}: the next cold start may run another release");
        }
        Some(answer)
    }

    pub(super) fn release_warning(&self) -> Option<String> {
        if self.upgrade.is_some() {
            return None;
        }
        let app = self.config.app.as_ref()?;
        let ours = self.applications.release()?;
        let link = app.directory.display();
        let now = Release::of(&app.directory, app).ok();
        let unusable = config::release_fault(app);
        if now.as_ref() == Some(ours) {
            return None;
        }
        Some(match (now, unusable) {
            (Some(now), None) if self.was_rejected(&now) => {
                format!("the release in {link} was refused: `upgrade` tries it again")
            }
            (Some(_), None) => {
                format!("the release in {link} is not the one that runs: `apply` runs it")
            }
            (_, unusable) => format!(
                "what {link} leads to cannot be started{}: {} serves, and after a restart what last \
                 proved itself",
                unusable.map(|why| format!(" ({why})")).unwrap_or_default(),
                ours.path.display()
            ),
        })
    }

    /// For `status`.
    pub(super) fn describe_release(&self) -> Option<api::Release> {
        let known = self.known_releases()?;
        Some(api::Release {
            leads_to: known.link.canonicalize().ok(),
            on_trial: self.release_on_trial(),
            good: known.good.map(|one| one.path),
            rejected: known.rejected.map(|one| one.path),
            link: known.link,
        })
    }

    /// Those that ran once, are still there, and are more than `keep`.
    pub(super) fn old_releases(&self) -> Vec<PathBuf> {
        let Some(app) = &self.config.app else {
            return Vec::new();
        };
        let mut needed: Vec<PathBuf> = app.directory.canonicalize().into_iter().collect();
        needed.extend(self.applications.release().map(|one| one.path.clone()));
        needed.extend(
            self.known_releases()
                .and_then(|known| Some(known.good?.path)),
        );
        needed.extend(
            self.others()
                .into_iter()
                .filter_map(|one| Some(one.app?.release)),
        );
        if let Some(releases) = self.upgrade.as_ref().and_then(|r| r.releases.as_ref()) {
            needed.extend([releases.from.clone(), releases.to.clone()]);
        }
        let all = self.history.all().unwrap_or_default();
        old_releases(&all, &needed, usize::from(app.keep), Path::is_dir)
    }
}

/// What an upgrade was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
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
pub(super) fn starts_good_instead(state: &Path, app: &App) -> bool {
    let now = Release::of(&app.directory, app).ok().as_ref().map(named);
    let mut known = History::new(state.to_owned()).releases(&app.directory);
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

/// Newest first.
fn old_releases(
    upgrades: &[Last],
    needed: &[PathBuf],
    keep: usize,
    is_there: impl Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for releases in upgrades
        .iter()
        .rev()
        .filter_map(|last| last.releases.as_ref())
    {
        for path in [&releases.to, &releases.from] {
            if !all.contains(path) && !needed.contains(path) && is_there(path) {
                all.push(path.clone());
            }
        }
    }
    all.split_off(keep.min(all.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Connections;

    fn upgrade(from: &str, to: &str, outcome: Outcome) -> Last {
        Last {
            id: String::new(),
            from: String::new(),
            to: None,
            to_build: None,
            outcome,
            reason: None,
            finished_at: String::new(),
            takeover_ms: None,
            drain_ms: None,
            connections: Connections::default(),
            releases: Some(Releases {
                from: from.into(),
                to: to.into(),
            }),
        }
    }

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

    #[test]
    fn the_last_releases_stay_and_so_does_what_runs() {
        let upgrades = [
            upgrade("/r/1", "/r/2", Outcome::Committed),
            upgrade("/r/2", "/r/3", Outcome::RolledBack),
            upgrade("/r/2", "/r/4", Outcome::Committed),
            upgrade("/r/4", "/r/5", Outcome::Committed),
        ];
        let old = |needed: &[&str], keep| -> Vec<String> {
            let needed: Vec<PathBuf> = needed.iter().map(PathBuf::from).collect();
            let there = |path: &Path| path != Path::new("/r/1");
            let old = old_releases(&upgrades, &needed, keep, there);
            old.iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(old(&["/r/5"], 0), ["/r/4", "/r/2", "/r/3"]);
        assert_eq!(old(&["/r/5"], 1), ["/r/2", "/r/3"]);
        assert_eq!(old(&["/r/5", "/r/2"], 1), ["/r/3"]);
        assert_eq!(old(&["/r/5"], 5), Vec::<String>::new());
    }
}
