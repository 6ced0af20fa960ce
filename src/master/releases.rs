//! Releases of the hosted application in an upgrade: whether there is another one, which was refused,
//! what the link leads to afterwards, and which of them nothing needs any more.

use std::path::{Path, PathBuf};

use super::driver::Driver;
use crate::api::{Last, Outcome, Releases};
use crate::sys::release::{self, Release};

impl Driver {
    /// The release that a new generation would run, when it is not the one that runs. One that was
    /// refused does not count: nobody tries it again by itself.
    pub(super) fn new_release(&self) -> Option<Release> {
        let other = self.applications.other_release()?;
        (self.history.rejected_release().as_deref() != Some(&*other.identity)).then_some(other)
    }

    /// What this upgrade is about, should it be about a release.
    pub(super) fn releases_now(&self) -> Option<(Releases, String)> {
        let from = self.applications.release()?.path.clone();
        let other = self.applications.other_release()?;
        let to = other.path;
        Some((Releases { from, to }, other.identity))
    }

    /// The same, of a successor: what runs comes from the predecessor.
    pub(super) fn releases_since(&self, before: Option<PathBuf>) -> Option<Releases> {
        let from = before?;
        let app = self.config.app.as_ref()?;
        let to = Release::of(&app.directory, app).ok()?.path;
        (from != to).then_some(Releases { from, to })
    }

    /// The upgrade ended: a release that did not prove itself is remembered, and the link leads to the
    /// one that serves. What somebody else made of the link meanwhile stays.
    pub(super) fn release_ended(&mut self, outcome: Outcome, identity: Option<&str>) {
        let Some(app) = &self.config.app else { return };
        let Some(identity) = identity.filter(|_| outcome != Outcome::Committed) else {
            return;
        };
        if let Err(e) = self.history.reject_release(identity) {
            tracing::warn!("{e}");
        }
        let Some(ours) = self.applications.release() else {
            return;
        };
        let link = app.directory.clone();
        let leads_to_it = Release::of(&link, app).is_ok_and(|now| now.identity == identity);
        if !leads_to_it || link.canonicalize().is_ok_and(|path| path == ours.path) {
            return;
        }
        let ours = ours.path.clone();
        match release::point(&link, &ours) {
            Ok(true) => tracing::info!("{} leads to {} again", link.display(), ours.display()),
            Ok(false) => {}
            Err(e) => tracing::warn!(
                "{} still leads to the release that was refused: {e}; point it to {}",
                link.display(),
                ours.display()
            ),
        }
    }

    /// A cold start, and the link leads to a release that was refused or taken back (nobody could point
    /// it elsewhere: the directory is not the service's): what served then is started.
    pub(super) fn keep_to_what_served(&mut self) {
        let Some(app) = &self.config.app else { return };
        let Ok(now) = app.directory.canonicalize() else {
            return;
        };
        let upgrades = self.history.all().unwrap_or_default();
        if let Some(served) = served_instead(&upgrades, &now, Path::is_dir) {
            tracing::warn!(
                "{} leads to {}, which was refused: {} is started",
                app.directory.display(),
                now.display(),
                served.display()
            );
            self.applications.keep_to(app.directory.clone(), served);
        }
    }

    pub(super) fn release_warning(&self) -> Option<String> {
        let other = self.applications.other_release()?;
        if self.upgrade.is_some() {
            return None;
        }
        let directory = &self.config.app.as_ref()?.directory;
        let refused = self.history.rejected_release().as_deref() == Some(&*other.identity);
        Some(if refused {
            format!(
                "the release in {} was refused: `upgrade` tries it again",
                directory.display()
            )
        } else {
            format!(
                "the release in {} is not the one that runs: `apply` runs it",
                directory.display()
            )
        })
    }

    /// Those that ran once, are still there, and are more than `keep`.
    pub(super) fn old_releases(&self) -> Vec<PathBuf> {
        let Some(app) = &self.config.app else {
            return Vec::new();
        };
        let mut needed: Vec<PathBuf> = app.directory.canonicalize().into_iter().collect();
        needed.extend(self.applications.release().map(|one| one.path.clone()));
        if let Some(releases) = self.upgrade.as_ref().and_then(|r| r.releases.as_ref()) {
            needed.extend([releases.from.clone(), releases.to.clone()]);
        }
        let all = self.history.all().unwrap_or_default();
        old_releases(&all, &needed, usize::from(app.keep), Path::is_dir)
    }
}

/// What serves since the last upgrade to `now` failed; `None`: it did not, or `now` serves.
fn served_instead(
    upgrades: &[Last],
    now: &Path,
    is_there: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let ended = || {
        let newest = upgrades.iter().rev();
        newest.filter_map(|last| Some((last.outcome, last.releases.as_ref()?)))
    };
    let (outcome, _) = ended().find(|(_, releases)| releases.to == now)?;
    let refused = matches!(
        outcome,
        Outcome::RolledBack | Outcome::Failed | Outcome::Refused
    );
    let (outcome, last) = ended().next().filter(|_| refused)?;
    let served = match outcome {
        Outcome::Committed => &last.to,
        _ => &last.from,
    };
    (served != now && is_there(served)).then(|| served.clone())
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
    fn a_refused_release_is_not_what_a_cold_start_runs() {
        let served = |upgrades: &[Last], now: &str| {
            let there = |path: &Path| path != Path::new("/r/gone");
            served_instead(upgrades, Path::new(now), there).map(|path| path.display().to_string())
        };
        let one = |from, to, outcome| upgrade(from, to, outcome);
        for outcome in [Outcome::RolledBack, Outcome::Failed, Outcome::Refused] {
            let refused = [one("/r/1", "/r/2", outcome)];
            assert_eq!(served(&refused, "/r/2").as_deref(), Some("/r/1"));
            assert_eq!(served(&refused, "/r/1"), None);
        }
        // Nobody knows: it is tried, as a program is.
        let interrupted = [one("/r/1", "/r/2", Outcome::Interrupted)];
        assert_eq!(served(&interrupted, "/r/2"), None);
        assert_eq!(
            served(&[one("/r/gone", "/r/2", Outcome::Failed)], "/r/2"),
            None
        );
        let mut upgrades = vec![
            one("/r/1", "/r/2", Outcome::Failed),
            one("/r/1", "/r/3", Outcome::Committed),
        ];
        assert_eq!(served(&upgrades, "/r/2").as_deref(), Some("/r/3"));
        upgrades.push(one("/r/3", "/r/2", Outcome::Committed));
        assert_eq!(served(&upgrades, "/r/2"), None);
        upgrades.push(one("/r/2", "/r/3", Outcome::RolledBack));
        assert_eq!(served(&upgrades, "/r/3").as_deref(), Some("/r/2"));
        assert_eq!(served(&upgrades, "/r/2"), None);
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
