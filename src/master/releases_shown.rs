//! What an operator sees of the releases: which one runs in spite of the link, and which ones nothing
//! needs any more.

use std::path::{Path, PathBuf};

use super::hosting::Applications;
use super::release_file::named;
use super::releases::KnownReleases;
use crate::api::{self, Last, Outcome, Releases};
use crate::config::{self, Config};
use crate::sys::release::Release;

impl KnownReleases {
    /// The link leads to another release than the one that runs.
    pub(super) fn warning(&self, config: &Config, applications: &Applications) -> Option<String> {
        let (app, ours) = applications.running()?;
        let link = app.directory.display();
        let now = Release::of(&app.directory, app).ok();
        let unusable = config::release_fault(app, &config.site);
        if now.as_ref() == Some(ours) {
            return None;
        }
        let is_good = self.of(app).good == Some(named(ours));
        Some(match (now, unusable) {
            (Some(now), None) if self.was_rejected(applications, &now) => {
                format!(
                    "{link} leads to {}, which was refused; {} serves, after a restart, too: point {link} \
                     there (`upgrade` tries the refused one again)",
                    now.path.display(),
                    ours.path.display()
                )
            }
            (Some(now), None) if now.path == ours.path => format!(
                "the release in {link}, or its variables, changed since it was started: `apply` runs it \
                 as it is now"
            ),
            (Some(_), None) => {
                format!("the release in {link} is not the one that runs: `apply` runs it")
            }
            // A restart would start the good one.
            (_, unusable) if is_good && !ours.path.exists() => format!(
                "{} serves, and is not on disk any more: after a restart nothing does{}; `deploy` another \
                 release",
                ours.path.display(),
                unusable.map(|why| format!(" ({why})")).unwrap_or_default(),
            ),
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
        let all = self.state.upgrades();
        old_releases(&all, &needed, usize::from(app.keep), Path::is_dir)
    }
}

/// Newest first, of those that served and of the others.
fn old_releases(
    upgrades: &[Last],
    needed: &[PathBuf],
    keep: usize,
    is_there: impl Fn(&Path) -> bool,
) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    // What served goes before what was refused.
    for served in [true, false] {
        for last in upgrades.iter().rev() {
            let Some(Releases { from, to }) = &last.releases else {
                continue;
            };
            let proved = last.outcome == Outcome::Committed;
            for (path, has_served) in [(to, proved), (from, true)] {
                let wanted = has_served == served;
                if wanted && !all.contains(path) && !needed.contains(path) && is_there(path) {
                    all.push(path.clone());
                }
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

    #[test]
    fn what_was_refused_takes_no_place_of_what_served() {
        let upgrades = [
            upgrade("/r/1", "/r/2", Outcome::Committed),
            upgrade("/r/2", "/r/3", Outcome::RolledBack),
            upgrade("/r/2", "/r/4", Outcome::Failed),
        ];
        let old = old_releases(&upgrades, &["/r/2".into()], 1, |_| true);
        assert_eq!(old, [Path::new("/r/4"), Path::new("/r/3")]);
    }
}
