//! A link that is pointed elsewhere, in a directory that others may write. The directory is opened once,
//! and everything happens in what was opened.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::walk::{self, Reached};

/// A name in a directory that is held open.
#[derive(Debug)]
pub struct Link {
    directory: OwnedFd,
    /// Where it was found: no link is in it.
    path: PathBuf,
    name: OsString,
}

impl Link {
    /// # Errors
    /// When its directory cannot be opened, or somebody could make its path lead into a directory that
    /// is not theirs.
    pub fn find(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL.into());
        };
        let Reached {
            directory, path, ..
        } = walk::directory(parent)?;
        // What the walk has reached can be named, not read: a lock and a sync want more.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            directory: rustix::fs::openat(&directory, ".", flags, Mode::empty())?,
            path,
            name: name.into(),
        })
    }

    /// Beside it: what led to the release before the last `deploy`.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn before(&self) -> io::Result<Self> {
        Ok(Self {
            directory: self.directory.try_clone()?,
            path: self.path.clone(),
            name: self.with(".old"),
        })
    }

    /// Until this value is dropped nobody else has it; `false`: somebody has.
    ///
    /// # Errors
    /// When the file system knows no locks.
    pub fn lock(&self) -> io::Result<bool> {
        let lock = FlockOperation::NonBlockingLockExclusive;
        match rustix::fs::flock(&self.directory, lock) {
            Err(Errno::WOULDBLOCK) => Ok(false),
            done => done.map(|()| true).map_err(Into::into),
        }
    }

    /// Where it leads now, to be compared; nothing is done there.
    #[must_use]
    pub fn leads_to(&self) -> Option<PathBuf> {
        self.path.join(&self.name).canonicalize().ok()
    }

    /// Whether it is a link.
    ///
    /// # Errors
    /// When nothing has the name.
    pub fn is_link(&self) -> io::Result<bool> {
        let stat = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    /// Makes it lead to `to` at once for everybody who looks; `false`: it is no link, and stays what it
    /// is. What it led to is not looked at.
    ///
    /// # Errors
    /// When its directory cannot be written.
    pub fn point(&self, to: &Path) -> io::Result<bool> {
        let is_link = self.is_link()?;
        if is_link {
            self.make(to)?;
        }
        Ok(is_link)
    }

    /// Makes it lead to `to`, whatever was there; a directory is in the way.
    ///
    /// # Errors
    /// When its directory cannot be written.
    pub fn make(&self, to: &Path) -> io::Result<()> {
        // Nobody else's: the service may point it back while somebody deploys.
        let new = self.with(&format!(".new.{}", std::process::id()));
        match rustix::fs::unlinkat(&self.directory, &new, AtFlags::empty()) {
            Err(e) if e != Errno::NOENT => return Err(e.into()),
            _ => {}
        }
        rustix::fs::symlinkat(to, &self.directory, &new)?;
        let renamed = rustix::fs::renameat(&self.directory, &new, &self.directory, &self.name);
        if let Err(e) = renamed {
            let _ = rustix::fs::unlinkat(&self.directory, &new, AtFlags::empty());
            return Err(e.into());
        }
        // The name is what a restart reads: it must outlive a power cut as the release does.
        rustix::fs::fsync(&self.directory).map_err(Into::into)
    }

    fn with(&self, ending: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(ending);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn scene() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for release in ["1", "2"] {
            fs::create_dir(dir.path().join(release)).unwrap();
        }
        symlink("1", dir.path().join("current")).unwrap();
        dir
    }

    #[test]
    fn only_a_link_is_pointed_elsewhere() {
        let dir = scene();
        let link = |name| Link::find(&dir.path().join(name)).unwrap();
        assert!(!link("1").point(&dir.path().join("2")).unwrap());
        assert!(link("gone").point(&dir.path().join("2")).is_err());
        assert!(Link::find(&dir.path().join("gone/current")).is_err());
        let current = link("current");
        // What was left half done is in nobody's way.
        let left = current.with(&format!(".new.{}", std::process::id()));
        symlink("x", dir.path().join(&left)).unwrap();
        assert!(current.point(Path::new("/r/2")).unwrap());
        let led = fs::read_link(dir.path().join("current")).unwrap();
        assert_eq!(led, Path::new("/r/2"));
        assert!(!dir.path().join(left).is_symlink());
    }

    #[test]
    fn it_stays_in_the_directory_where_it_was_found() {
        let dir = scene();
        let blog = dir.path().join("blog");
        let elsewhere = dir.path().join("elsewhere");
        for place in [&blog, &elsewhere] {
            fs::create_dir(place).unwrap();
            symlink("1", place.join("current")).unwrap();
        }
        let link = Link::find(&blog.join("current")).unwrap();
        // Whoever may write above it exchanges it now.
        fs::rename(&blog, dir.path().join("moved")).unwrap();
        symlink(&elsewhere, &blog).unwrap();
        assert!(link.point(Path::new("/r/2")).unwrap());
        link.before().unwrap().make(Path::new("/r/1")).unwrap();
        let led = |path: &str| fs::read_link(dir.path().join(path)).unwrap();
        assert_eq!(led("elsewhere/current"), Path::new("1"));
        assert_eq!(led("moved/current"), Path::new("/r/2"));
        assert_eq!(led("moved/current.old"), Path::new("/r/1"));
        assert!(!elsewhere.join("current.old").is_symlink());
    }
}
