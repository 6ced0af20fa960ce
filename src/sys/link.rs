//! A link that is pointed elsewhere, in a directory that others may write. The directory is opened once,
//! and everything happens in what was opened.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::fs::{Gid, Uid};
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

/// The right to point a link elsewhere.
#[derive(Debug)]
pub struct Lock {
    directory: OwnedFd,
    name: OsString,
    file: OwnedFd,
}

impl Lock {
    /// Whether the name is still this file's. Somebody may have removed it: then it is another's by now.
    fn is_there(&self) -> bool {
        let there = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        let ours = rustix::fs::fstat(&self.file);
        let id = |stat: &Stat| (stat.st_dev, stat.st_ino);
        matches!((&there, &ours), (Ok(there), Ok(ours)) if id(there) == id(ours))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

const LOCK_FLAGS: OFlags = OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// More often nobody makes it anew in the moment between two calls.
const LOCK_TRIES: usize = 100;

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

    /// Nobody else has the lock until it is dropped; `None`: somebody has it. It is a file that only who
    /// may write the directory can make: who may read the directory alone holds nobody up.
    ///
    /// # Errors
    /// When the file can neither be made nor opened, or is none that a `deploy` makes.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        let name = self.lock_name();
        // Who had it removes it: what was opened before that is nobody's lock any more.
        for _ in 0..LOCK_TRIES {
            let file = match self.lock_file_of_ours(&name) {
                Err(Errno::EXIST) => match self.lock_file_of_others(&name) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    opened => opened?,
                },
                made => made?,
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                locked => locked?,
            }
            let lock = Lock {
                directory: self.directory.try_clone()?,
                name: name.clone(),
                file,
            };
            if lock.is_there() {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    }

    /// Opens what is there, or removes it: then it is not found.
    fn lock_file_of_others(&self, name: &OsStr) -> io::Result<OwnedFd> {
        let there = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if self.is_a_strangers(&there)? {
            let kind = FileType::from_raw_mode(there.st_mode);
            let flags = match kind {
                FileType::Directory => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            return match rustix::fs::unlinkat(&self.directory, name, flags) {
                Ok(()) | Err(Errno::NOENT) => Err(Errno::NOENT.into()),
                Err(e) => Err(io::Error::other(format!(
                    "it belongs to uid {}, who may not set the link, and cannot be removed: {e}",
                    there.st_uid
                ))),
            };
        }
        let flags = LOCK_FLAGS | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
            return Err(io::Error::other("it is no lock of a `deploy`: remove it"));
        }
        Ok(file)
    }

    /// Whether it was made by somebody who may not set the link: in a directory with the sticky bit
    /// everybody may make a file.
    fn is_a_strangers(&self, there: &Stat) -> io::Result<bool> {
        let directory = rustix::fs::fstat(&self.directory)?;
        if !Mode::from_raw_mode(directory.st_mode).contains(Mode::SVTX) {
            return Ok(false);
        }
        let link = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        let us = rustix::process::geteuid().as_raw();
        let may = [0, us, directory.st_uid].contains(&there.st_uid);
        Ok(!may && link.is_ok_and(|link| link.st_uid != there.st_uid))
    }

    /// Makes the lock's file. All who may write the directory may lock it: one that a killed `deploy` of
    /// root's leaves behind keeps nobody out. Only what was made here is given away: the name could be
    /// another's file.
    fn lock_file_of_ours(&self, name: &OsStr) -> Result<OwnedFd, Errno> {
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = LOCK_FLAGS | OFlags::CREATE | OFlags::EXCL;
        let file = rustix::fs::openat(&self.directory, name, flags, mode)?;
        let directory = rustix::fs::fstat(&self.directory)?;
        if rustix::process::geteuid().is_root() {
            let owner = Uid::from_raw(directory.st_uid);
            rustix::fs::fchown(&file, Some(owner), Some(Gid::from_raw(directory.st_gid)))?;
        }
        if Mode::from_raw_mode(directory.st_mode).contains(Mode::WGRP) {
            rustix::fs::fchmod(&file, mode | Mode::RGRP | Mode::WGRP)?;
        }
        Ok(file)
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
            Err(e) if e != Errno::NOENT => {
                let left = self.path.join(&new);
                let why = format!("cannot remove {}: {}", left.display(), io::Error::from(e));
                return Err(io::Error::other(why));
            }
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

    /// Its own path.
    #[must_use]
    pub fn itself(&self) -> PathBuf {
        self.path.join(&self.name)
    }

    /// What [`Self::lock`] makes.
    #[must_use]
    pub fn lock_file(&self) -> PathBuf {
        self.path.join(self.lock_name())
    }

    fn lock_name(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(self.with(".lock"));
        name
    }

    /// Whether we may make and remove names in its directory.
    #[must_use]
    pub fn can_be_written(&self) -> bool {
        use rustix::fs::Access;
        let access = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(&self.directory, ".", access, AtFlags::EACCESS).is_ok()
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
    use std::os::unix::fs::{MetadataExt as _, symlink};

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
    fn who_may_only_read_its_directory_holds_nobody_up() {
        let dir = scene();
        let reader = fs::File::open(dir.path()).unwrap();
        rustix::fs::flock(&reader, FlockOperation::LockExclusive).unwrap();
        let link = || Link::find(&dir.path().join("current")).unwrap();
        let (one, other) = (link(), link());
        let lock = one.lock().unwrap().expect("the lock");
        assert!(other.lock().unwrap().is_none());
        let file = dir.path().join(".current.lock");
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o7777, 0o600);
        drop(lock);
        assert!(!file.exists());
        // Of one that was killed.
        fs::write(&file, "").unwrap();
        drop(other.lock().unwrap().expect("the lock"));
        assert!(!file.exists());
        symlink("/etc/passwd", &file).unwrap();
        let error = one.lock().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }

    #[test]
    fn a_lock_that_somebody_removed_by_hand_does_not_take_the_next_one_with_it() {
        let dir = scene();
        let link = || Link::find(&dir.path().join("current")).unwrap();
        let file = dir.path().join(".current.lock");
        let first = link().lock().unwrap().unwrap();
        fs::remove_file(&file).unwrap();
        let second = link().lock().unwrap().unwrap();
        drop(first);
        assert!(link().lock().unwrap().is_none());
        drop(second);
        assert!(!file.exists());
    }

    #[test]
    fn what_no_deploy_makes_is_no_lock() {
        let dir = scene();
        let file = dir.path().join(".current.lock");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &file,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let link = Link::find(&dir.path().join("current")).unwrap();
        let error = link.lock().unwrap_err().to_string();
        assert!(error.contains("no lock"), "{error}");
        assert!(file.exists());
    }

    #[test]
    fn who_may_not_set_the_link_of_a_sticky_directory_holds_nobody_up() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make files of somebody else");
            return;
        }
        let dir = scene();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        fs::set_permissions(dir.path(), mode).unwrap();
        let file = dir.path().join(".current.lock");
        fs::write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, Some(4242), None).unwrap();
        let link = Link::find(&dir.path().join("current")).unwrap();
        let theirs = fs::File::open(&file).unwrap();
        rustix::fs::flock(&theirs, FlockOperation::NonBlockingLockExclusive).unwrap();
        let lock = link.lock().unwrap().expect("theirs is removed");
        assert_eq!(fs::metadata(&file).unwrap().uid(), 0);
        drop(lock);
        // Whatever it is.
        let makes: [fn(&Path) -> io::Result<()>; 2] =
            [|at| symlink("/etc/passwd", at), |at| fs::create_dir(at)];
        for make in makes {
            make(&file).unwrap();
            std::os::unix::fs::lchown(&file, Some(4242), None).unwrap();
            drop(link.lock().unwrap().expect("theirs is removed"));
        }
        // Who may set the link may lock it.
        fs::write(&file, "").unwrap();
        std::os::unix::fs::chown(&file, Some(4242), None).unwrap();
        std::os::unix::fs::lchown(dir.path().join("current"), Some(4242), None).unwrap();
        let theirs = fs::File::open(&file).unwrap();
        rustix::fs::flock(&theirs, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(link.lock().unwrap().is_none());
    }

    #[test]
    fn a_lock_that_was_removed_meanwhile_is_nobodys() {
        let dir = scene();
        let path = dir.path().join("current");
        let held = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let link = Link::find(&path).unwrap();
                    for _ in 0..2000 {
                        let Some(lock) = link.lock().unwrap() else {
                            continue;
                        };
                        assert_eq!(held.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        held.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }

    /// What a killed `deploy` of root's leaves must not keep the directory's owner out.
    #[test]
    fn the_locks_file_belongs_to_who_may_write_the_directory_and_nothing_else_is_given_away() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let dir = scene();
        let blog = dir.path().join("blog");
        fs::create_dir(&blog).unwrap();
        symlink("1", blog.join("current")).unwrap();
        std::os::unix::fs::chown(&blog, Some(4242), Some(4243)).unwrap();
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&blog, mode(0o2775)).unwrap();
        let link = Link::find(&blog.join("current")).unwrap();
        let lock = link.lock().unwrap().unwrap();
        let found = fs::metadata(blog.join(".current.lock")).unwrap();
        let mode_of = |found: &fs::Metadata| found.mode() & 0o7777;
        assert_eq!(
            (found.uid(), found.gid(), mode_of(&found)),
            (4242, 4243, 0o660)
        );
        drop(lock);
        // Somebody has put root's file there.
        let secret = dir.path().join("secret");
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, mode(0o600)).unwrap();
        fs::hard_link(&secret, blog.join(".current.lock")).unwrap();
        assert!(link.lock().is_err());
        let found = fs::metadata(&secret).unwrap();
        assert_eq!((found.uid(), found.gid(), mode_of(&found)), (0, 0, 0o600));
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
