//! Releases of the hosted application in an upgrade: whether there is another one, which was refused,
//! what the link leads to afterwards, and which of them nothing needs any more.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::history::History;
use super::hosting::Applications;
use super::release_file::named;
use crate::api::{self, Last, Outcome, Releases};
use crate::config::{self, App, Config, ConfigError, Loaded, Sources};
use crate::machine::hosting::RunningApp;
use crate::machine::trial::MOST_TRIES;
use crate::machine::trial::release::{Known, Start, Why};
use crate::sys::link::Link;
use crate::sys::release::Release;

/// What is known of the releases of the application, in the state directory.
#[derive(Debug)]
pub(super) struct KnownReleases {
    history: History,
}

/// What the disk holds for a hosted application, as far as orders are concerned.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    /// Another release than the one that runs.
    pub(super) other: bool,
    /// One that was not refused, too: nobody tries that again by itself.
    pub(super) new: bool,
    /// The last upgrade, which was committed, was from this release to another one.
    pub(super) ended: Option<PathBuf>,
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
    pub(super) fn new(state: PathBuf) -> Self {
        Self {
            history: History::new(state),
        }
    }

    /// What the disk holds besides what runs.
    pub(super) fn on_disk(
        &self,
        config: &Config,
        applications: &Applications,
        last: Option<&Last>,
    ) -> OnDisk {
        let other = applications.other_release();
        // One that failed has changed nothing: what is gone back from is the program.
        let ended = last.filter(|last| last.outcome == Outcome::Committed);
        let ended = ended.and_then(|last| last.releases.as_ref());
        OnDisk {
            link: config.app.as_ref().map(|app| app.directory.clone()),
            new: other
                .as_ref()
                .is_some_and(|one| !self.was_rejected(applications, one)),
            other: other.is_some(),
            ended: ended.map(|releases| releases.from.clone()),
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
        self.change(app, |known| known.reject(&named(tried), Some(&serves)));
        applications.point_back(tried);
    }

    /// What runs has proved itself.
    pub(super) fn good(&self, applications: &Applications) {
        if let Some((app, running)) = applications.running() {
            self.change(app, |known| known.commit(&named(running)));
        }
    }

    /// Another release is about to be tried.
    pub(super) fn serves(&self, applications: &Applications) {
        if let Some((app, running)) = applications.running() {
            self.change(app, |known| known.serves(&named(running)));
        }
    }

    /// We were told to stop.
    pub(super) fn stopped(&self, applications: &Applications) {
        if let Some((app, running)) = applications.running() {
            self.change(app, |known| known.stopped(&named(running)));
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
        let start = self.change(app, |known| known.start(now.as_ref(), usable, Path::is_dir));
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
        applications: &Applications,
        asked: Asked,
        other_program: bool,
    ) -> Option<PathBuf> {
        let (app, ours) = applications.running()?;
        let now = Release::of(&app.directory, app).ok();
        let bad = config::release_fault(app).is_some()
            || now.is_none_or(|now| now != *ours && self.was_rejected(applications, &now));
        keeps(asked, other_program, bad).then(|| ours.path.clone())
    }

    fn was_rejected(&self, applications: &Applications, release: &Release) -> bool {
        let running = applications.running();
        running.is_some_and(|(app, _)| self.of(app).rejected == Some(named(release)))
    }

    fn of(&self, app: &App) -> Known {
        self.history.releases(&app.directory)
    }

    fn change<T>(&self, app: &App, change: impl FnOnce(&mut Known) -> T) -> T {
        let (answer, written) = self.history.change_releases(&app.directory, change);
        if let Err(e) = written {
            tracing::warn!("{e}: the next cold start may run another release");
        }
        answer
    }

    /// The link leads to another release than the one that runs.
    pub(super) fn warning(&self, applications: &Applications) -> Option<String> {
        let (app, ours) = applications.running()?;
        let link = app.directory.display();
        let now = Release::of(&app.directory, app).ok();
        let unusable = config::release_fault(app);
        if now.as_ref() == Some(ours) {
            return None;
        }
        Some(match (now, unusable) {
            (Some(now), None) if self.was_rejected(applications, &now) => {
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
    pub(super) fn report(
        &self,
        config: &Config,
        applications: &Applications,
    ) -> Option<api::Release> {
        let known = self.of(config.app.as_ref()?);
        Some(api::Release {
            leads_to: known.link.canonicalize().ok(),
            on_trial: self.on_trial(applications),
            good: known.good.map(|one| one.path),
            rejected: known.rejected.map(|one| one.path),
            link: known.link,
        })
    }

    /// Those that ran once, are still there, are more than `keep`, and run nowhere.
    pub(super) fn old(
        &self,
        config: &Config,
        masters: &[api::Master],
        upgrade: Option<&Releases>,
    ) -> Vec<PathBuf> {
        let Some(app) = &config.app else {
            return Vec::new();
        };
        let mut needed: Vec<PathBuf> = app.directory.canonicalize().into_iter().collect();
        needed.extend(self.of(app).good.map(|one| one.path));
        let running = masters.iter().filter_map(|one| one.app.as_ref());
        needed.extend(running.map(|app| app.release.clone()));
        if let Some(releases) = upgrade {
            needed.extend([releases.from.clone(), releases.to.clone()]);
        }
        let all = self.history.all().unwrap_or_default();
        old_releases(&all, &needed, usize::from(app.keep), Path::is_dir)
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

    /// The link leads to what serves, if it still leads to this one.
    pub(super) fn point_back(&self, refused: &Release) {
        let Some((app, ours)) = self.running() else {
            return;
        };
        let (link, ours) = (&app.directory, &ours.path);
        let still = Release::of(link, app).is_ok_and(|now| now == *refused);
        if !still || refused.path == *ours {
            return;
        }
        match Link::find(link).and_then(|link| link.point(ours)) {
            Ok(true) => tracing::info!("{} leads to {} again", link.display(), ours.display()),
            Ok(false) => {}
            Err(e) => tracing::warn!(
                "{} still leads to the release that was refused: {e}; point it to {}",
                link.display(),
                ours.display()
            ),
        }
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
