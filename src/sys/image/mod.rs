//! An executable, opened once: what was checked is what gets executed and what gets copied, even
//! when the name points at something else a moment later, or at nothing.

mod elf;
mod fault;
#[cfg(test)]
pub(crate) mod fixture;

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use fault::{Fault, ImageError};

use nix::fcntl::OFlag;
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags};
use sha2::{Digest, Sha256};

/// A pinned, checked executable.
#[derive(Debug)]
pub struct Image {
    file: File,
    path: PathBuf,
    stamp: Stamp,
    mode: u32,
    uid: u32,
    gid: u32,
    build_id: String,
}

/// Which file, and which content of it, as stat(2) tells them apart. Without the change time: it
/// moves when the file gets another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Of what is at `path`, through links; `None` when there is nothing.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }

    fn of(meta: &Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

impl Image {
    /// The file this process runs, also when it was renamed or deleted since. Not checked for
    /// owner and mode: it runs.
    pub fn running() -> Result<Self, ImageError> {
        Self::executed_by(Path::new("/proc/self/exe"))
    }

    /// The file another process runs (needs the right to look: same user, or root).
    pub fn of_process(pid: u32) -> Result<Self, ImageError> {
        Self::executed_by(&PathBuf::from(format!("/proc/{pid}/exe")))
    }

    /// Opens `path` through links and checks it: all that can be known without running it.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let (file, meta) = pin(path)?;
        let stamp = Stamp::of(&meta);
        let checked = permitted(&file, &meta).and_then(|()| identify(&file, &stamp));
        Self::checked(path.to_owned(), file, &meta, checked)
    }

    fn executed_by(link: &Path) -> Result<Self, ImageError> {
        let (file, meta) = pin(link)?;
        // For messages only; "(deleted)" and all.
        let path = std::fs::read_link(link).unwrap_or_else(|_| link.to_owned());
        let checked = identify(&file, &Stamp::of(&meta));
        Self::checked(path, file, &meta, checked)
    }

    fn checked(
        path: PathBuf,
        file: File,
        meta: &Metadata,
        checked: Result<String, Fault>,
    ) -> Result<Self, ImageError> {
        let stamp = Stamp::of(meta);
        match checked {
            Ok(build_id) => Ok(Self {
                file,
                path,
                stamp,
                mode: meta.mode() & 0o7777,
                uid: meta.uid(),
                gid: meta.gid(),
                build_id,
            }),
            Err(fault) => Err(ImageError {
                path,
                fault,
                stamp: Some(stamp),
            }),
        }
    }

    /// The GNU build id in hex; for a program without one, the SHA-256 of its content.
    #[must_use]
    pub fn build_id(&self) -> &str {
        &self.build_id
    }

    /// As it was named when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file and content it was when it was opened.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Permission bits when it was opened.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// User and group when it was opened.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// In bytes, when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// The very same inode, whatever its names.
    #[must_use]
    pub fn same_file(&self, other: &Self) -> bool {
        (self.stamp.dev, self.stamp.ino) == (other.stamp.dev, other.stamp.ino)
    }

    /// Whether `path` (through links) leads to this very inode now.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        std::fs::metadata(path)
            .is_ok_and(|m| (m.dev(), m.ino()) == (self.stamp.dev, self.stamp.ino))
    }

    /// The same bytes. A build id alone does not say that a file is whole.
    pub fn same_content(&self, other: &Self) -> io::Result<bool> {
        if self.same_file(other) {
            return Ok(true);
        }
        if self.size() != other.size() {
            return Ok(false);
        }
        let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut at = 0;
        loop {
            let n = self.read_at(&mut ours, at)?;
            if n == 0 {
                return Ok(at == self.size());
            }
            other.file.read_exact_at(&mut theirs[..n], at)?;
            if ours[..n] != theirs[..n] {
                return Ok(false);
            }
            at += n as u64;
        }
    }

    /// The SHA-256 of its content, in hex.
    pub fn content_hash(&self) -> Result<String, ImageError> {
        content_hash(&self.file).map_err(|e| ImageError {
            path: self.path.clone(),
            fault: Fault::Read(e),
            stamp: Some(self.stamp),
        })
    }

    /// Reads at an offset (no shared file position: several threads may copy at once); 0 is the
    /// end of the file.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        read_at(&self.file, buffer, at)
    }

    /// Whether the file still is what it was when it was opened: same size and modification time.
    pub fn unchanged(&self) -> io::Result<bool> {
        Ok(Stamp::of(&self.file.metadata()?) == self.stamp)
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// How much is read at once.
pub(crate) const CHUNK: usize = 128 * 1024;

fn pin(path: &Path) -> Result<(File, Metadata), ImageError> {
    let fail = |fault, stamp| ImageError {
        path: path.to_owned(),
        fault,
        stamp,
    };
    // A pipe in its place must not block us.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(|e| {
            let (fault, stamp) = cannot_open(path, e);
            fail(fault, stamp)
        })?;
    let meta = file.metadata().map_err(|e| fail(Fault::Read(e), None))?;
    match kind(&meta) {
        None => Ok((file, meta)),
        Some(fault) => Err(fail(fault, Some(Stamp::of(&meta)))),
    }
}

fn cannot_open(path: &Path, error: io::Error) -> (Fault, Option<Stamp>) {
    if let Ok(meta) = std::fs::metadata(path) {
        let stamp = Some(Stamp::of(&meta));
        return (kind(&meta).unwrap_or(Fault::Open(error)), stamp);
    }
    let fault = match (error.kind(), std::fs::read_link(path)) {
        (io::ErrorKind::NotFound, Ok(to)) => Fault::Dangling { to },
        (io::ErrorKind::NotFound, Err(_)) => Fault::Missing,
        _ => Fault::Open(error),
    };
    (fault, None)
}

fn kind(meta: &Metadata) -> Option<Fault> {
    let kind = meta.file_type();
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some(Fault::Directory)
    } else {
        let kind = match () {
            () if kind.is_fifo() => "pipe",
            () if kind.is_socket() => "socket",
            () => "device",
        };
        Some(Fault::NotRegular { kind })
    }
}

/// Who may change it, and whether we may run it.
fn permitted(file: &File, meta: &Metadata) -> Result<(), Fault> {
    let mode = meta.mode() & 0o7777;
    let ours = rustix::process::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != ours {
        return Err(Fault::Owner {
            uid: meta.uid(),
            ours,
        });
    }
    if mode & 0o022 != 0 {
        return Err(Fault::Writable { mode });
    }
    if meta.size() == 0 {
        return Err(Fault::Empty);
    }
    let vfs = rustix::fs::fstatvfs(file).map_err(|e| Fault::Read(e.into()))?;
    if vfs.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err(Fault::NoExec);
    }
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::accessat(CWD, name, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| Fault::NotExecutable { mode })
}

/// ELF, ours, whole; and which build.
fn identify(file: &File, stamp: &Stamp) -> Result<String, Fault> {
    let facts = elf::check(file, stamp.size)?;
    if let Some(loader) = facts.interpreter {
        if matches!(std::fs::metadata(&loader), Err(e) if e.kind() == io::ErrorKind::NotFound) {
            return Err(Fault::Loader { loader });
        }
    }
    match facts.build_id {
        Some(id) => Ok(hex(&id)),
        None => content_hash(file).map_err(Fault::Read),
    }
}

/// The SHA-256 of what is at `path`, "none" for what is no regular file; `None` when that is not the
/// file with this stamp.
pub fn content_at(path: &Path, stamp: Stamp) -> Result<Option<String>, ImageError> {
    let (file, meta) = match pin(path) {
        Ok(pinned) => pinned,
        Err(error) if error.stamp != Some(stamp) => return Ok(None),
        Err(ImageError {
            fault: Fault::Directory | Fault::NotRegular { .. },
            ..
        }) => return Ok(Some("none".into())),
        Err(error) => return Err(error),
    };
    if Stamp::of(&meta) != stamp {
        return Ok(None);
    }
    match content_hash(&file) {
        Ok(hash) => Ok(Some(hash)),
        Err(e) => Err(ImageError {
            path: path.to_owned(),
            fault: Fault::Read(e),
            stamp: Some(stamp),
        }),
    }
}

/// The SHA-256 of a file's content, in hex.
fn content_hash(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let (mut buffer, mut at) = (vec![0; CHUNK], 0);
    loop {
        let n = read_at(file, &mut buffer, at)?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
        at += n as u64;
    }
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests;
