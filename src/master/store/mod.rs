//! The binary on disk, and what lies beside it: `handover.old`, the previous one;
//! `handover.rejected`, the last one that failed; `handover.trial`, a marker that the file on
//! disk is not committed yet. Everything here is plain, blocking work for a blocking thread.
//!
//! # Links
//!
//! The program is executed as named and written through links. What a deployment changed is what
//! going back changes:
//!
//! * The file was replaced: it is replaced again, where the links lead.
//! * The path is a link (`handover -> releases/42/handover`) or lies behind one
//!   (`current/bin/handover` with `current -> releases/42`), and that link was re-pointed:
//!   it is re-pointed at the previous release, atomically. Then `.old` and `.rejected` are links
//!   to the releases' files, too, and no release directory is written to but for these names.
//! * The same, but the previous release is gone or is another build by now: the running build
//!   replaces the file where the links lead.
//! * The path was a file and became a link: the link is replaced by the file.
//!
//! Which links led to the running file is noted when the store is made, so make it early.

mod back;
pub mod deputy;
mod error;
mod route;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use super::replace::ReplaceError;
pub use back::Restored;
pub use error::StoreError;

use super::replace::{self, Temp};
use crate::api;
use crate::sys::image::{Image, ImageError, Stamp};
use route::{Link, Route};

const OLD: &str = ".old";
const REJECTED: &str = ".rejected";
const TRIAL: &str = ".trial";

/// The binary on disk, as one running master sees it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    running: Arc<Image>,
    /// How the path led to a file when we started; that it was the running one is checked
    /// before it matters.
    origin: Option<Route>,
}

/// What stood at the path when an upgrade looked: tells later whether it still does. From the
/// outcome of [`Store::open`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    stamp: Option<Stamp>,
    build_id: Option<String>,
}

impl From<&Image> for Found {
    fn from(image: &Image) -> Self {
        Self {
            stamp: Some(image.stamp()),
            build_id: Some(image.build_id().to_owned()),
        }
    }
}

impl From<&ImageError> for Found {
    fn from(error: &ImageError) -> Self {
        Self {
            stamp: error.stamp,
            build_id: None,
        }
    }
}

impl Found {
    /// Of what [`Store::open`] said.
    #[must_use]
    pub fn of(opened: &Result<Image, ImageError>) -> Self {
        opened.as_ref().map_or_else(Self::from, Self::from)
    }

    /// The same file, or another copy of the same build.
    fn is(&self, other: &Self) -> bool {
        self.stamp == other.stamp || self.build_id.is_some() && self.build_id == other.build_id
    }
}

impl Store {
    /// The binary at `path`: as executed, absolute, links unresolved. Changes nothing.
    pub fn new(path: PathBuf, running: Arc<Image>) -> Result<Self, StoreError> {
        if !path.is_absolute() || path.file_name().is_none() {
            return Err(StoreError::Relative { path });
        }
        let origin = Route::walk(&path).ok();
        Ok(Self {
            path,
            running,
            origin,
        })
    }

    /// Removes what a crashed process left half done; says how many files. For the start of a
    /// master.
    #[must_use]
    pub fn tidy(&self) -> usize {
        let beside = ["", OLD, REJECTED, TRIAL].map(|suffix| self.named(suffix));
        let mut places = beside.to_vec();
        if let Ok(route) = Route::walk(&self.path) {
            places.push(route.target);
            places.extend(route.links.into_iter().map(|link| link.at));
        }
        places.iter().map(|place| replace::sweep(place)).sum()
    }

    /// As named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image this master runs, and its workers.
    #[must_use]
    pub fn running(&self) -> &Arc<Image> {
        &self.running
    }

    /// What is on disk now, checked and pinned: what an upgrade would run. Keep [`Found::of`] the
    /// outcome, good or bad, for [`restore`](Self::restore).
    pub fn open(&self) -> Result<Image, ImageError> {
        Image::open(&self.path)
    }

    /// For `status`. The version cannot be known without running it.
    #[must_use]
    pub fn disk(&self) -> api::Disk {
        let build_id = build_at(&self.path);
        api::Disk {
            path: self.path.clone(),
            version: None,
            matches_running: build_id.as_deref() == Some(self.running.build_id()),
            put_back: self.put_back(build_id.as_deref()),
            build_id,
        }
    }

    /// Every way back makes what was there `.rejected` and uses `.old` up; the next release that is
    /// taken leaves another one.
    fn put_back(&self, there: Option<&str>) -> bool {
        let rejected = self.rejected();
        let old = self.old();
        let used_up = old.is_none() || old.as_deref() == there || old == rejected;
        used_up && self.named(REJECTED).exists() && rejected.as_deref() != there
    }

    /// The build of the previous binary, if there is a usable one.
    #[must_use]
    pub fn old(&self) -> Option<String> {
        build_at(&self.named(OLD))
    }

    /// The build [`go_back`](Self::go_back) would put in place.
    #[must_use]
    pub fn rollback_to(&self) -> Option<String> {
        self.old()
            .filter(|old| old != self.running.build_id() && self.rejected().as_ref() != Some(old))
    }

    /// The build of the last binary that failed. `None` also when it was no program at all:
    /// whatever was wrong with it may have been mended.
    #[must_use]
    pub fn rejected(&self) -> Option<String> {
        build_at(&self.named(REJECTED))
    }

    /// The build that is on trial.
    #[must_use]
    pub fn trial(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.named(TRIAL)).ok()?;
        text.lines().next().map(|line| line.trim().to_owned())
    }

    /// Marks the file on disk as not committed yet.
    pub fn mark_trial(&self, build_id: &str) -> Result<(), StoreError> {
        let place = self.beside(TRIAL)?;
        Temp::bytes(&place, format!("{build_id}\n").as_bytes(), 0o644)?.put(&place)?;
        Ok(())
    }

    /// Where the marker is, when there is one.
    pub fn mark(&self) -> Result<PathBuf, StoreError> {
        self.beside(TRIAL)
    }

    /// Removes the marker.
    pub fn clear_trial(&self) -> Result<(), StoreError> {
        let mark = self.mark()?;
        // A disk that may not be written need not be, where there is nothing to remove.
        if std::fs::symlink_metadata(&mark).is_ok() {
            replace::remove(&mark)?;
        }
        Ok(())
    }

    /// What runs has proved itself: not on trial, and not rejected, should it have been once.
    pub fn commit(&self) -> Result<(), StoreError> {
        self.clear_trial()?;
        if self.rejected().as_deref() == Some(self.running.build_id()) {
            replace::remove(&self.beside(REJECTED)?)?;
        }
        Ok(())
    }

    /// Makes `.old` the running image. Best called when the successor is ready, just before it
    /// takes over: a release that never came so far then does not cost the previous `.old`.
    pub fn keep_old(&self) -> Result<(), StoreError> {
        let old = self.beside(OLD)?;
        if self.is_running(&old) {
            return Ok(());
        }
        let now = self.route()?;
        let temp = if let Some(link) = self.repointed(&now) {
            Temp::symlink(&old, &self.seen_from_beside(&link)?)?
        } else if Image::open(&now.target).is_ok_and(|image| image.same_file(&self.running)) {
            // Another name for it costs nothing, but may be forbidden, or be on another disk.
            Temp::hard_link(&old, &now.target).or_else(|_| Temp::copy(&old, &self.running))?
        } else {
            Temp::copy(&old, &self.running)?
        };
        temp.put(&old)?;
        Ok(())
    }

    /// Puts a program from elsewhere at the path, after keeping what runs as `.old`.
    pub fn install(&self, file: &Path) -> Result<Image, StoreError> {
        let new = Image::open(file)?;
        if new.build_id() != self.running.build_id() {
            self.keep_old()?;
        }
        let place = self.route()?.target;
        if !new.is_at(&place) {
            Temp::copy(&place, &new)?.put(&place)?;
        }
        Ok(self.open()?)
    }

    fn route(&self) -> Result<Route, StoreError> {
        self.follow(&self.path, None)
    }

    fn follow(&self, path: &Path, changed: Option<&Link>) -> Result<Route, StoreError> {
        Route::walk_as_if(path, changed).map_err(|source| StoreError::Follow {
            path: self.path.clone(),
            source,
        })
    }

    /// The path with a suffix.
    fn named(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(suffix);
        name.into()
    }

    /// The same, its directory free of links: it stays where it is when a link is re-pointed.
    fn beside(&self, suffix: &str) -> Result<PathBuf, StoreError> {
        self.beside_as_if(suffix, None)
    }

    fn beside_as_if(&self, suffix: &str, changed: Option<&Link>) -> Result<PathBuf, StoreError> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        Ok(self.follow(directory, changed)?.target.join(name))
    }

    /// The link that was re-pointed since we were started from behind it, as it was; `None` when
    /// it would not lead to the running build any more.
    fn repointed(&self, now: &Route) -> Option<Link> {
        let link = self.origin.as_ref()?.changed(now)?;
        let before = Route::walk_as_if(&self.path, Some(link)).ok()?;
        self.is_running(&before.target).then(|| link.clone())
    }

    /// What a link beside the path says to lead where this link on the way leads.
    fn seen_from_beside(&self, link: &Link) -> Result<PathBuf, StoreError> {
        Ok(if link.at == self.beside("")? {
            link.to.clone()
        } else {
            link.leads_to()
        })
    }

    /// A good file with the running image's bytes.
    fn is_running(&self, path: &Path) -> bool {
        Image::open(path).is_ok_and(|image| {
            image.build_id() == self.running.build_id()
                && self.running.same_content(&image).unwrap_or(false)
        })
    }
}

fn build_at(path: &Path) -> Option<String> {
    Image::open(path)
        .ok()
        .map(|image| image.build_id().to_owned())
}

#[cfg(test)]
mod tests;
