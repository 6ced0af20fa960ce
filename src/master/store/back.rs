//! The ways back: the running build after a failed upgrade, the previous one after a commit.
//!
//! The order of the steps is such that a crash between any two of them leaves a program at the
//! path, and that doing it again ends well.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::route::{Link, Route};
use super::{Found, OLD, REJECTED, Store, StoreError, TRIAL};
use crate::master::replace::{self, Temp, failed};
use crate::sys::image::{Image, Stamp};

/// What [`Store::restore`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// The running build was at the path already; nothing was changed.
    AlreadyRunning,
    /// The running build's bytes are at the path again.
    Replaced {
        /// Where the bad file is now; `None` when there was none.
        rejected: Option<PathBuf>,
    },
    /// A link leads to the running build again.
    Repointed {
        /// The link.
        link: PathBuf,
        /// What it says now.
        to: PathBuf,
        /// A link to the bad file; `None` when it could not be made.
        rejected: Option<PathBuf>,
    },
    /// Neither the running build nor the rejected one is at the path: somebody put it there since.
    LeftAlone {
        /// `None` when it is no program.
        build_id: Option<String>,
    },
}

impl Store {
    /// After a failed or rolled-back upgrade: puts the running build back at the path, if what
    /// the upgrade found there still is there, which becomes `.rejected`. A path that is missing
    /// gets the running build in any case. The marker of a trial goes last.
    pub fn restore(&self, rejected: &Found) -> Result<Restored, StoreError> {
        let there = self.open();
        if matches!(&there, Ok(image) if image.build_id() == self.running.build_id()) {
            self.clear_trial()?;
            return Ok(Restored::AlreadyRunning);
        }
        let found = Found::of(&there);
        if found.stamp.is_some() && !rejected.is(&found) {
            return Ok(Restored::LeftAlone {
                build_id: found.build_id,
            });
        }
        let now = self.route()?;
        if let Some(link) = self.repointed(&now) {
            return self.point(&now, &link);
        }
        let place = self.place(&now)?;
        let new = match self.old_to_move(&place)? {
            Some(old) if self.is_running(&old) => Temp::existing(old),
            _ => Temp::copy(&place, &self.running)?,
        };
        let rejected = swap(new, &place, &self.beside(REJECTED)?, found.stamp)?;
        self.clear_trial()?;
        Ok(Restored::Replaced { rejected })
    }

    /// After a commit: puts `.old` at the path and what was there at `.rejected`; `.old` is used
    /// up. Returns what is at the path then, to be run by an upgrade: one that does not
    /// [`keep_old`](Self::keep_old), for what runs now is what the operator turned down.
    pub fn go_back(&self) -> Result<Image, StoreError> {
        let path = self.beside(OLD)?;
        let old = self.previous()?;
        let build_id = old.build_id().to_owned();
        if let Some(there) = self
            .open()
            .ok()
            .filter(|there| there.build_id() == build_id)
        {
            return Ok(there);
        }
        let now = self.route()?;
        if let Some(link) = self.link_towards(&path, &old, &now) {
            self.point(&now, &link)?;
            return Ok(self.open()?);
        }
        let place = self.place(&now)?;
        let there = Stamp::at(&place);
        let new = match self.old_to_move(&place)? {
            Some(old) => Temp::existing(old),
            None => Temp::copy(&place, &old)?,
        };
        swap(new, &place, &self.beside(REJECTED)?, there)?;
        replace::remove(&path)?;
        Ok(self.open()?)
    }

    /// `.old`, if one can go back to it: to be run from where it is, when the disk lets nobody
    /// [`go_back`](Self::go_back). That must not hold up the way back.
    pub fn previous(&self) -> Result<Image, StoreError> {
        let path = self.beside(OLD)?;
        let old = Image::open(&path).map_err(StoreError::NoOld)?;
        let build_id = old.build_id().to_owned();
        if self.rejected().as_ref() == Some(&build_id) {
            return Err(StoreError::OldIsRejected { path, build_id });
        }
        if build_id == self.running.build_id() {
            return Err(StoreError::OldIsRunning { path, build_id });
        }
        Ok(old)
    }

    /// Makes a link on the way say what `link` says.
    fn point(&self, now: &Route, link: &Link) -> Result<Restored, StoreError> {
        // The path leads elsewhere afterwards, so do the names beside it.
        let (old, trial) = (self.beside(OLD)?, self.beside(TRIAL)?);
        let rejected = match now.link_at(&link.at) {
            Some(bad) => self.point_rejected(bad, link).ok(),
            None => None,
        };
        Temp::symlink(&link.at, &link.to)?.put(&link.at)?;
        replace::remove(&trial)?;
        // `.old` as keep_old() made it says nothing more than the path itself now.
        if is_link(&old) && self.open().is_ok_and(|image| image.is_at(&old)) {
            replace::remove(&old)?;
        }
        Ok(Restored::Repointed {
            link: link.at.clone(),
            to: link.to.clone(),
            rejected,
        })
    }

    /// The bad release stays where it is; `.rejected` leads there. It is no reason to stay with
    /// a bad release when that fails.
    fn point_rejected(&self, bad: &Link, good: &Link) -> Result<PathBuf, StoreError> {
        let rejected = self.beside_as_if(REJECTED, Some(good))?;
        let to = self.seen_from_beside(bad)?;
        clear_the_way(&rejected)?;
        Temp::symlink(&rejected, &to)?.put(&rejected)?;
        Ok(rejected)
    }

    /// The link on the way that has to change for the path to lead where `.old` leads, if `.old`
    /// is a link; as it has to be.
    fn link_towards(&self, path: &Path, old: &Image, now: &Route) -> Option<Link> {
        let wanted = path.parent()?.join(fs::read_link(path).ok()?);
        let works = |link: &Link| {
            Route::walk_as_if(&self.path, Some(link)).is_ok_and(|way| old.is_at(&way.target))
        };
        // The innermost that leads to a neighbour (`stage` in `current -> stage ->
        // releases/42`, but not a link inside of a release), else the outermost.
        let neighbour = |link: &Link| link.to.is_relative();
        let links = || now.links.iter();
        links()
            .rev()
            .filter(|link| neighbour(link))
            .filter_map(|link| link.leading_to(&wanted))
            .filter(neighbour)
            .find(works)
            .or_else(|| links().filter_map(|l| l.leading_to(&wanted)).find(works))
    }

    /// Where the file has to be written.
    fn place(&self, now: &Route) -> Result<PathBuf, StoreError> {
        let own = self.beside("")?;
        let was_file = matches!(&self.origin, Some(was) if was.link_at(&own).is_none());
        let dangles = !now.target.parent().is_some_and(Path::is_dir);
        Ok(if is_link(&own) && (was_file || dangles) {
            own
        } else {
            now.target.clone()
        })
    }

    /// `.old`, when a rename is enough to have it at `place`.
    fn old_to_move(&self, place: &Path) -> Result<Option<PathBuf>, StoreError> {
        let old = self.beside(OLD)?;
        let device = |path: &Path| fs::symlink_metadata(path).ok().map(|meta| meta.dev());
        let regular = fs::symlink_metadata(&old).is_ok_and(|meta| meta.is_file());
        let near = place.parent().and_then(device) == device(&old);
        Ok((regular && near).then_some(old))
    }
}

/// Puts `new` at `place` and what is there at `rejected`, if that still is `expected`. First the
/// bad file gets its second name, then it loses the first: a program is at `place` throughout.
pub(super) fn swap(
    new: Temp,
    place: &Path,
    rejected: &Path,
    expected: Option<Stamp>,
) -> Result<Option<PathBuf>, StoreError> {
    if Stamp::at(place) != expected {
        return Err(StoreError::Changed {
            path: place.to_owned(),
        });
    }
    let Ok(bad) = fs::symlink_metadata(place) else {
        new.put(place)?;
        return Ok(None);
    };
    clear_the_way(rejected)?;
    match Temp::hard_link(rejected, place) {
        Ok(kept) => {
            kept.put(rejected)?;
            new.put(place)?;
        }
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices && bad.is_file() => {
            Temp::copy_file(rejected, place)?.put(rejected)?;
            new.put(place)?;
        }
        // A directory, or somebody else's file (fs.protected_hardlinks), or a full disk.
        Err(_) => match new.exchange(place) {
            Ok(bad) => Temp::existing(bad).put(rejected)?,
            Err((new, _)) => step_aside(new, place, rejected)?,
        },
    }
    Ok(Some(rejected.to_owned()))
}

/// For a file system that can neither link nor exchange what is at `place`: the name is missing
/// for an instant.
pub(super) fn step_aside(new: Temp, place: &Path, rejected: &Path) -> Result<(), StoreError> {
    fs::rename(place, rejected).map_err(failed("move away", place))?;
    new.put(place).inspect_err(|_| {
        // Better the bad one than none.
        let _ = fs::rename(rejected, place);
    })?;
    Ok(())
}

/// A release that was a directory may have become `.rejected` once. Nothing can be renamed over
/// that; it is kept under a number.
fn clear_the_way(place: &Path) -> Result<(), StoreError> {
    if !fs::symlink_metadata(place).is_ok_and(|meta| meta.is_dir()) || fs::remove_dir(place).is_ok()
    {
        return Ok(());
    }
    let mut free = place.to_owned();
    let mut n = 0;
    while fs::symlink_metadata(&free).is_ok() {
        n += 1;
        let mut name = place.as_os_str().to_owned();
        name.push(format!(".{n}"));
        free = name.into();
    }
    fs::rename(place, free).map_err(failed("move away", place))?;
    Ok(())
}

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}
