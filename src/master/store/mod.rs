//! The program on disk, by our own hand: where the service's user owns the program's directory.
//! What is to be done is decided in [`machine::trial`](crate::machine::trial); here it is observed
//! and carried out. Plain, blocking work for a blocking thread.
//!
//! # Links
//!
//! Where the path leads through a link of ours (`current -> releases/42`, or a program that is
//! itself a link), that link stands for the program: the other names are links beside it, and
//! going back re-points it. No release directory is written to.

mod error;
mod hand;
mod installed;
mod place;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

pub use super::replace::ReplaceError;
pub use error::StoreError;

use super::replace::{self, Temp};
use crate::api;
use crate::machine::trial::{Ended, Name, Verdict};
use crate::sys::image::{self, Fault, Image, ImageError};
use place::Place;

/// The program on disk, as one running master sees it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    running: Arc<Image>,
    /// The SHA-256 of what runs, once somebody has asked; "" when it cannot be read.
    running_content: OnceLock<String>,
}

/// What stood at the path when an upgrade looked: tells later whether it still does. Keeps no file
/// open: a rejected one must not hold its file system.
#[derive(Debug, Clone, Default)]
pub struct Found {
    id: Option<String>,
    usable: Arc<AtomicBool>,
}

impl Found {
    /// Of what [`Store::open`] said.
    #[must_use]
    pub fn of(opened: &Result<Image, ImageError>) -> Self {
        Self {
            id: id_of(opened),
            usable: Arc::new(opened.is_ok().into()),
        }
    }

    /// Its build, when it was a program that can be started.
    #[must_use]
    pub fn build(&self) -> Option<&str> {
        self.id
            .as_deref()
            .filter(|_| self.usable.load(Ordering::Relaxed))
    }

    /// A part of the file could not be read when it was run: nothing is known of its build.
    pub fn mark_broken(&self) {
        self.usable.store(false, Ordering::Relaxed);
    }

    /// The same file, or another copy of the same build.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Store {
    /// The program at `path`: as executed, absolute, links unresolved. Changes nothing.
    pub fn new(path: PathBuf, running: Arc<Image>) -> Result<Self, StoreError> {
        if !path.is_absolute() || path.file_name().is_none() {
            return Err(StoreError::Relative { path });
        }
        Ok(Self {
            path,
            running,
            running_content: OnceLock::new(),
        })
    }

    /// Removes what a crashed process left half done; says how many files. For the start of a
    /// master.
    #[must_use]
    pub fn tidy(&self) -> usize {
        let Ok(place) = self.place() else { return 0 };
        let names = [
            Name::Program,
            Name::Good,
            Name::Old,
            Name::Rejected,
            Name::Tries,
        ];
        let swept = names.map(|name| replace::sweep(&place.named(name)));
        swept.iter().sum()
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
    /// outcome, good or bad, for [`reject`](Self::reject).
    pub fn open(&self) -> Result<Image, ImageError> {
        Image::open(&self.path)
    }

    /// What root's guard calls what an upgrade found: the SHA-256 of its content, "none" for what is
    /// no file. `None`: something else is at the path by now.
    pub fn content_of(&self, found: &Found) -> Result<Option<String>, StoreError> {
        let opened = self.open();
        if !Found::of(&opened).is(found) {
            return Ok(None);
        }
        match opened {
            Ok(image) => Ok(Some(image.content_hash()?)),
            Err(ImageError { stamp: None, .. }) => Ok(Some("none".into())),
            Err(ImageError {
                path,
                stamp: Some(stamp),
                ..
            }) => Ok(image::content_at(&path, stamp)?),
        }
    }

    /// For `status`. The version cannot be known without running it.
    #[must_use]
    pub fn disk(&self) -> api::Disk {
        let build_id = self.build(Name::Program);
        api::Disk {
            path: self.path.clone(),
            version: None,
            matches_running: build_id.as_deref() == Some(self.running.build_id()),
            put_back: self.was_put_back(),
            build_id,
        }
    }

    /// Whether the good program came back in the place of what is `.rejected` now: that one got its
    /// name later than the good one its own.
    fn was_put_back(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(place) = self.place() else {
            return false;
        };
        let named = |name| {
            let meta = std::fs::symlink_metadata(place.named(name)).ok()?;
            Some((meta.ctime(), meta.ctime_nsec()))
        };
        let rejected = named(Name::Rejected);
        rejected.is_some() && rejected > named(Name::Good)
    }

    /// The usable build under this name.
    #[must_use]
    pub fn build(&self, name: Name) -> Option<String> {
        let image = self.image(name).ok()?;
        Some(image.build_id().to_owned())
    }

    /// The usable program under this name.
    pub fn image(&self, name: Name) -> Result<Image, StoreError> {
        if name == Name::Program {
            return Ok(self.open()?);
        }
        let place = self.place()?;
        Ok(Image::open(&place.program(name))?)
    }

    /// Whether what runs is not known to be good: it must prove itself, then be
    /// [`commit`](Self::commit)ted.
    #[must_use]
    pub fn on_trial(&self) -> bool {
        self.build(Name::Good).as_deref() != Some(self.running.build_id())
    }

    /// Whether this program was refused, and is not run again by itself: its build is among those that the
    /// state directory lists, or it is what was put aside last. (That may have been a copy that was cut.)
    #[must_use]
    pub fn was_refused(&self, image: &Image, refused: &[String]) -> bool {
        let build = image.build_id();
        let content = |image: &Image| image.content_hash().ok();
        let put_aside =
            |aside: &Image| aside.build_id() == build && content(aside) == content(image);
        refused.iter().any(|one| one == build)
            || self
                .image(Name::Rejected)
                .is_ok_and(|aside| put_aside(&aside))
    }

    /// The program that a rollback goes to when nobody is parked, unless it was refused: from one on
    /// trial to the good one, else to the one before it.
    pub fn previous(&self, refused: &[String]) -> Result<Image, StoreError> {
        let name = match self.build(Name::Good) {
            Some(good) if good != self.running.build_id() => Name::Good,
            _ => Name::Old,
        };
        let old = self.image(name).map_err(StoreError::no_old)?;
        let build_id = old.build_id().to_owned();
        let path = old.path().to_owned();
        if build_id == self.running.build_id() {
            return Err(StoreError::OldIsRunning { path, build_id });
        }
        if self.was_refused(&old, refused) {
            return Err(StoreError::OldIsRejected { path, build_id });
        }
        Ok(old)
    }

    /// Before a cold start of the program at the path.
    pub fn start(&self) -> Result<Verdict, StoreError> {
        let seen = self.look()?;
        self.perform(&seen, &seen.files.start())
    }

    /// After a run that began cold.
    pub fn ended(&self, how: Ended) -> Result<Verdict, StoreError> {
        let seen = self.look()?;
        self.perform(&seen, &seen.files.ended(how))
    }

    /// What runs has proved itself.
    pub fn commit(&self) -> Result<Verdict, StoreError> {
        let seen = self.look()?;
        self.perform(&seen, &seen.files.commit(&seen.running))
    }

    /// After a failed or rolled-back upgrade: puts what runs back at the path, if what the upgrade
    /// found there still is there, which becomes `.rejected`.
    pub fn reject(&self, failed: &Found) -> Result<Verdict, StoreError> {
        let seen = self.look()?;
        let plan = seen.files.reject(failed.id.as_ref(), Some(&seen.running));
        self.perform(&seen, &plan)
    }

    /// Puts a program from elsewhere at the path. It is on trial there, as whatever comes.
    pub fn install(path: &Path, file: &Path) -> Result<Image, StoreError> {
        let new = Image::open(file)?;
        // Through all links: a release directory that a link leads to is where it belongs.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if !new.is_at(&target) {
            Temp::copy(&target, &new)?.put(&target)?;
        }
        Ok(Image::open(&target)?)
    }

    /// Whether the program's directory belongs to this process's user.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.place().is_ok_and(|place| place.is_ours())
    }

    fn place(&self) -> Result<Place, StoreError> {
        Place::find(&self.path).map_err(|source| StoreError::Follow {
            path: self.path.clone(),
            source,
        })
    }
}

/// What tells a file from others: its build; what is no program by which file it is. `None`: there
/// is nothing.
fn id_of(opened: &Result<Image, ImageError>) -> Option<String> {
    match opened {
        Ok(image) => Some(image.build_id().to_owned()),
        Err(ImageError {
            fault: Fault::Missing,
            ..
        }) => None,
        Err(ImageError { fault, stamp, .. }) => Some(match stamp {
            Some(stamp) => format!("{stamp:?}"),
            None => fault.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests;
