//! Files that change all at once. A new file is made under a temporary name in the same
//! directory, brought to the disk, and renamed; then the directory is brought to the disk. A
//! crash, a full disk or a reader never sees half of one.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, XattrFlags};

use crate::sys::image::{CHUNK, Image};

/// A change of the disk that failed. Nothing is half written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}{}", path.display(), advice(source))]
pub struct ReplaceError {
    what: &'static str,
    path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

impl ReplaceError {
    /// Whether somebody with more rights could do it: no permission, or a file system that is
    /// read-only for us (systemd's `ProtectSystem=`).
    #[must_use]
    pub fn denied(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self.source.kind(), PermissionDenied | ReadOnlyFilesystem)
    }

    pub(super) fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether it failed for want of space.
    pub(super) fn no_room(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.source.kind(), StorageFull | QuotaExceeded)
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room there and try again"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; it is read-only for this process",
        io::ErrorKind::PermissionDenied => {
            "; this process's user must be able to write to that directory"
        }
        io::ErrorKind::NotFound => "; its directory must exist",
        _ => "",
    }
}

pub(super) fn failed(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> ReplaceError + use<> {
    let path = path.to_owned();
    move |source| ReplaceError { what, path, source }
}

/// A finished file under a temporary name; removed when it is not put in place.
#[derive(Debug)]
#[must_use]
pub(super) struct Temp {
    path: PathBuf,
    remove: bool,
}

impl Temp {
    /// A file of these bytes, meant for `place`.
    pub(super) fn bytes(place: &Path, bytes: &[u8], mode: u32) -> Result<Self, ReplaceError> {
        Self::file(place, |file| {
            file.write_all(bytes)?;
            file.set_permissions(fs::Permissions::from_mode(mode))
        })
    }

    /// A copy of a program, meant for `place`: its bytes, owner, mode and capabilities.
    pub(super) fn copy(place: &Path, image: &Image) -> Result<Self, ReplaceError> {
        Self::file(place, |file| {
            // Where the file system can: the same blocks, another inode.
            let mut at = image.size();
            if rustix::fs::ioctl_ficlone(&*file, image).is_err() {
                at = copy_bytes(image, file)?;
            }
            if at != image.size() || !image.unchanged()? {
                return Err(io::Error::other("the original changed while it was copied"));
            }
            like(image, file)
        })
    }

    /// A copy of any regular file, meant for `place`; owner and mode as far as we may.
    pub(super) fn copy_file(place: &Path, from: &Path) -> Result<Self, ReplaceError> {
        let mut original = File::open(from).map_err(failed("read", from))?;
        Self::file(place, |file| {
            io::copy(&mut original, file)?;
            let meta = original.metadata()?;
            let _ = fchown(&*file, Some(meta.uid()), Some(meta.gid()));
            file.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o777))
        })
    }

    fn file(
        place: &Path,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<Self, ReplaceError> {
        let (temp, mut new) = Self::create(place, |path| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
        })
        .map_err(failed("create a file beside", place))?;
        fill(&mut new)
            .and_then(|()| new.sync_all())
            .map_err(failed("write the new", place))?;
        Ok(temp)
    }

    /// Another name for `file` (a link itself, not what it points at), meant for `place`.
    pub(super) fn hard_link(place: &Path, file: &Path) -> Result<Self, ReplaceError> {
        let made = Self::create(place, |path| fs::hard_link(file, path));
        made.map(|(temp, ())| temp)
            .map_err(failed("make another name for", file))
    }

    /// A symbolic link that says `to`, meant for `place`.
    pub(super) fn symlink(place: &Path, to: &Path) -> Result<Self, ReplaceError> {
        let made = Self::create(place, |path| std::os::unix::fs::symlink(to, path));
        made.map(|(temp, ())| temp)
            .map_err(failed("create a link beside", place))
    }

    /// A file that has a name already, which it gives up when it is put in place and keeps
    /// otherwise.
    pub(super) fn existing(path: PathBuf) -> Self {
        Self {
            path,
            remove: false,
        }
    }

    fn create<T>(place: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(Self, T)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = temp_name(place, std::process::id(), n);
            match make(&path) {
                Ok(value) => return Ok((Self { path, remove: true }, value)),
                // Left by a process of the same number; see sweep().
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Puts it at `place`, instead of what is there.
    pub(super) fn put(mut self, place: &Path) -> Result<(), ReplaceError> {
        fs::rename(&self.path, place).map_err(failed("replace", place))?;
        self.remove = false;
        // rename(2) leaves both names when they are the same file already.
        let _ = fs::remove_file(&self.path);
        sync_directory_of(place)
    }

    /// Puts it at `place`, unless something is there.
    pub(super) fn put_where_nothing_is(mut self, place: &Path) -> Result<(), ReplaceError> {
        rustix::fs::renameat_with(CWD, &self.path, CWD, place, RenameFlags::NOREPLACE)
            .map_err(|e| failed("put a file at", place)(e.into()))?;
        self.remove = false;
        sync_directory_of(place)
    }

    /// Puts it at `place`, and what was there under this file's name: at no instant is `place`
    /// missing, whatever kind of file stood there. The rest must see to what came out.
    pub(super) fn exchange(mut self, place: &Path) -> Result<PathBuf, (Self, io::Error)> {
        match rustix::fs::renameat_with(CWD, &self.path, CWD, place, RenameFlags::EXCHANGE) {
            Ok(()) => {
                self.remove = false;
                Ok(std::mem::take(&mut self.path))
            }
            Err(e) => Err((self, e.into())),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.remove {
            // What cannot be removed is swept at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn copy_bytes(image: &Image, file: &mut File) -> io::Result<u64> {
    let (mut buffer, mut at) = (vec![0; CHUNK], 0);
    loop {
        let n = image.read_at(&mut buffer, at)?;
        if n == 0 {
            return Ok(at);
        }
        file.write_all(&buffer[..n])?;
        at += n as u64;
    }
}

/// Owner and mode of `image`, as far as we may; never writable by others.
fn like(image: &Image, file: &File) -> io::Result<()> {
    let (uid, gid) = image.owner();
    let owned = match fchown(file, Some(uid), Some(gid)) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => false,
        Err(e) => return Err(e),
    };
    // Another owner's set-uid bits would say something else.
    let mode = image.mode() & if owned { 0o7755 } else { 0o755 };
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    // Without them a restart from this copy could not bind port 80.
    let mut capabilities = [0; 64];
    if let Ok(n) = rustix::fs::fgetxattr(image, CAPABILITIES, &mut capabilities[..]) {
        let set = &capabilities[..n];
        match rustix::fs::fsetxattr(file, CAPABILITIES, set, XattrFlags::empty()) {
            // Only root may; a running service may not raise its own copy.
            Ok(()) | Err(rustix::io::Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

const CAPABILITIES: &str = "security.capability";

/// Removes a file; `false` when there was none.
pub(super) fn remove(path: &Path) -> Result<bool, ReplaceError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory_of(path).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("remove", path)(e)),
    }
}

/// Brings the names in a file's directory to the disk.
pub(super) fn sync_directory_of(path: &Path) -> Result<(), ReplaceError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(directory).and_then(|d| d.sync_all());
    match synced {
        // Some network file systems know no fsync of a directory.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other.map_err(failed("bring to the disk the directory", directory)),
    }
}

/// Removes what a crashed process left beside `place`. A living one's is in use (but a number of
/// our own from before is not: in a container every run has the same one).
pub(super) fn sweep(place: &Path) -> usize {
    let (Some(directory), Some(name)) = (place.parent(), place.file_name()) else {
        return 0;
    };
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .filter(|entry| {
            let file = entry.file_name();
            maker(&file, name).is_some_and(|pid| pid == std::process::id() || !alive(pid))
        })
        .filter(|entry| fs::remove_file(entry.path()).is_ok())
        .count()
}

/// `.handover.<pid>.<n>.tmp`
fn temp_name(place: &Path, pid: u32, n: u64) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(place.file_name().unwrap_or_default());
    name.push(format!(".{pid}.{n}.tmp"));
    place.with_file_name(name)
}

/// Who made this temporary file for a place of this name.
fn maker(file: &OsStr, name: &OsStr) -> Option<u32> {
    let rest = file.as_encoded_bytes().strip_prefix(b".")?;
    let rest = rest.strip_prefix(name.as_encoded_bytes())?;
    let rest = std::str::from_utf8(rest).ok()?;
    let (pid, n) = rest
        .strip_prefix('.')?
        .strip_suffix(".tmp")?
        .split_once('.')?;
    n.parse::<u64>().ok()?;
    pid.parse().ok()
}

fn alive(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| {
        // "Not permitted" means it is there.
        rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use tempfile::TempDir;

    use super::*;
    use crate::sys::image::fixture::{self, Mount, program, put};

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_not_put_in_place_leaves_nothing() {
        let dir = TempDir::new().unwrap();
        let place = dir.path().join("handover");
        drop(Temp::bytes(&place, b"x", 0o644).unwrap());
        assert_eq!(names(dir.path()), [""; 0]);
        Temp::bytes(&place, b"x", 0o640)
            .unwrap()
            .put(&place)
            .unwrap();
        assert_eq!(names(dir.path()), ["handover"]);
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_copy_keeps_mode_and_owner_but_lets_nobody_write() {
        let dir = TempDir::new().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        put(&from, &program(1));
        let root = rustix::process::geteuid().is_root();
        if root {
            chown(&from, Some(0), Some(12345)).unwrap();
        } else {
            eprintln!("skipped the owner: only root can do that");
        }
        fs::set_permissions(&from, fs::Permissions::from_mode(0o2751)).unwrap();
        let image = Image::open(&from).unwrap();
        Temp::copy(&to, &image).unwrap().put(&to).unwrap();
        let meta = fs::metadata(&to).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o2751);
        assert_eq!(meta.gid(), fs::metadata(&from).unwrap().gid());
        assert!(Image::open(&to).unwrap().same_content(&image).unwrap());
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_not_copied() {
        let dir = TempDir::new().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        put(&from, &program(1));
        let image = Image::open(&from).unwrap();
        fs::write(&from, &program(2)[..5000]).unwrap();
        let error = Temp::copy(&to, &image).unwrap_err();
        assert!(error.to_string().contains("changed while"), "{error}");
        assert_eq!(names(dir.path()), ["from"]);
    }

    #[test]
    fn a_full_disk_leaves_what_was_there() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount");
            return;
        }
        let mount = Mount::tmpfs("size=32k");
        let place = mount.path().join("handover");
        put(&place, &program(1));
        fs::write(mount.path().join("ballast"), vec![0; 16 * 1024]).unwrap();
        let outside = TempDir::new().unwrap();
        let new = outside.path().join("new");
        put(&new, &program(2));
        let error = Temp::copy(&place, &Image::open(&new).unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("os error 28") && text.contains("make room"),
            "{text}"
        );
        assert!(text.contains(place.to_str().unwrap()), "{text}");
        assert!(!error.denied());
        assert_eq!(names(mount.path()), ["ballast", "handover"]);
        assert_eq!(Image::open(&place).unwrap().build_id(), fixture::id(1));
    }

    #[test]
    fn a_read_only_disk_is_denied_and_said() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount");
            return;
        }
        let mount = Mount::tmpfs("size=1m");
        let place = mount.path().join("handover");
        mount.remount("ro");
        let error = Temp::bytes(&place, b"x", 0o644).unwrap_err();
        assert!(error.denied());
        assert!(error.to_string().contains("read-only for this"), "{error}");
    }

    #[test]
    fn what_the_dead_left_is_swept_and_nothing_else() {
        let dir = TempDir::new().unwrap();
        let place = dir.path().join("handover");
        #[expect(
            clippy::disallowed_methods,
            reason = "any process that lives and is not ours"
        )]
        let parent = std::os::unix::process::parent_id();
        let dead = {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        };
        for name in [
            format!(".handover.{dead}.0.tmp"),
            format!(".handover.{}.7.tmp", std::process::id()),
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let kept = [
            format!(".handover.{parent}.0.tmp"),
            ".handover.old.1.0.tmp".to_owned(),
            ".handover.x.tmp".to_owned(),
            ".handover.tmp".to_owned(),
            "handover.1.0.tmp".to_owned(),
            "handover".to_owned(),
        ];
        for name in &kept {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(sweep(&place), 2);
        let mut kept = kept.to_vec();
        kept.sort();
        assert_eq!(names(dir.path()), kept);
    }
}
