//! What the state directory holds: as it was read last, with what this master has to say since.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::history::{History, HistoryError, Previous, merge};
use crate::api::{Last, Outcome};
use crate::machine::trial::release::Known;

/// As much of it as a master needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) upgrades: Vec<Last>,
    pub(super) previous: Option<Previous>,
    pub(super) refused: Vec<String>,
    releases: Known,
}

/// Something to be written down.
#[derive(Debug)]
pub(super) enum Line {
    /// How an upgrade goes, or went, in the place of what was written of it before.
    Upgrade(Box<Last>),
    /// This build is refused.
    Refused(String),
    /// And this one is not any longer.
    Forgiven(String),
    /// What this generation runs with: the way back from the next one.
    Previous(String),
    /// What becomes of what is known of the releases that a link has led to.
    Releases(PathBuf, Change),
}

/// Made to whatever the file holds by then.
pub(super) struct Change(pub(super) Arc<dyn Fn(&mut Known) + Send + Sync>);

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Change")
    }
}

impl Content {
    /// Reads it, which takes as long as the disk does. A file that cannot be read is taken to hold what
    /// it held; the first of them is said.
    pub(super) fn read(&mut self, history: &History) -> Result<(), HistoryError> {
        let results = [
            history.all().map(|all| self.upgrades = needed(all)),
            history.previous().map(|previous| self.previous = previous),
            history.refused().map(|refused| self.refused = refused),
            history.known().map(|known| self.releases = known),
        ];
        results.into_iter().collect()
    }

    /// As it is when this is written.
    pub(super) fn add(&mut self, line: &Line) {
        match line {
            Line::Upgrade(last) => merge(&mut self.upgrades, (**last).clone()),
            Line::Refused(build) => {
                self.refused.retain(|one| one != build);
                self.refused.push(build.clone());
            }
            Line::Forgiven(build) => self.refused.retain(|one| one != build),
            Line::Previous(text) => self.previous = toml::from_str(text).ok(),
            Line::Releases(of, change) => {
                self.releases = self.releases_of(of);
                (change.0)(&mut self.releases);
            }
        }
    }

    /// What is known of the releases that `link` has led to.
    pub(super) fn releases_of(&self, link: &Path) -> Known {
        self.releases.clone().of(link)
    }
}

/// What was under way, what names releases, and the last one.
fn needed(mut all: Vec<Last>) -> Vec<Last> {
    let ended = |last: &Last| last.outcome != Outcome::UnderWay;
    let newest = all.iter().rposition(ended);
    let mut at = 0;
    all.retain(|last| {
        at += 1;
        !ended(last) || last.releases.is_some() || newest == Some(at - 1)
    });
    all
}
