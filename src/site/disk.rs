//! What of a directory may be opened: regular files without a dot before any name. Everything that
//! the site reads goes through here, `index.html` and compressed forms included.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use tokio::task::spawn_blocking;

/// Opens what is below a directory. What may not be opened is not there: `NotFound`.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
}

/// What is there.
#[derive(Debug)]
pub(super) enum Opened {
    Directory,
    File(File, Identity),
}

/// What a look at the disk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    File(Identity),
}

/// Which file, in which state. The last change (`ctime`) is the kernel's own and cannot be set
/// back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) length: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
}

/// A look at the disk, to be taken again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) path: PathBuf,
    pub(super) found: Found,
}

/// The looks that one answer is made of.
#[derive(Debug)]
pub(super) struct Looks {
    /// Before the first.
    pub(super) begun: Instant,
    pub(super) taken: Vec<Look>,
    /// One of them failed and says nothing.
    pub(super) unclear: bool,
}

impl Looks {
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            taken: Vec::new(),
            unclear: false,
        }
    }
}

impl Found {
    fn of(metadata: &Metadata) -> Self {
        if metadata.is_dir() {
            Self::Directory
        } else {
            Self::File(Identity::of(metadata))
        }
    }

    /// Whether its last change lies so far back that the next one will bear another time.
    pub(super) fn is_settled(&self, now: SystemTime, settled: Duration) -> bool {
        let Self::File(identity) = self else {
            return true;
        };
        let (Ok(seconds), Ok(nanos)) = (
            u64::try_from(identity.changed.0),
            u32::try_from(identity.changed.1),
        ) else {
            return false;
        };
        let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
        changed.is_some_and(|changed| now.duration_since(changed).is_ok_and(|age| age >= settled))
    }
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Look {
    /// Whether it would find the same again, as far as the kernel knows without waiting.
    pub(super) fn is_still(&self) -> bool {
        match openat2(CWD, &self.path, NAME, Mode::empty(), ResolveFlags::CACHED) {
            Ok(fd) => File::from(fd)
                .metadata()
                .is_ok_and(|metadata| Found::of(&metadata) == self.found),
            Err(Errno::NOENT) => self.found == Found::Nothing,
            Err(_) => false,
        }
    }
}

impl Disk {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Opens what is there under a name below the root, and notes what was found.
    pub(super) async fn open(&self, name: &Path, looks: &mut Looks) -> io::Result<Opened> {
        if !is_visible(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // The root itself has no name.
        let path = match name.as_os_str() {
            name if name.is_empty() => self.root.clone(),
            name => self.root.join(name),
        };
        let opened = open(&path).await;
        let found = match &opened {
            Ok(Opened::Directory) => Some(Found::Directory),
            Ok(Opened::File(_, identity)) => Some(Found::File(identity.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Found::Nothing),
            Err(_) => None,
        };
        match found {
            Some(found) => looks.taken.push(Look { path, found }),
            None => looks.unclear = true,
        }
        opened
    }
}

/// No part of the name begins with a dot, but for `.well-known` as the first.
fn is_visible(name: &Path) -> bool {
    name.components().enumerate().all(|(n, part)| match part {
        Component::Normal(name) => {
            !name.as_encoded_bytes().starts_with(b".") || n == 0 && name == ".well-known"
        }
        _ => false,
    })
}

/// Here when the kernel has all that it takes in memory (which is nearly always, and costs a tenth
/// of asking a thread), else where waiting for a disk holds up nobody.
async fn open(path: &Path) -> io::Result<Opened> {
    match openat2(CWD, path, CONTENTS, Mode::empty(), ResolveFlags::CACHED) {
        Ok(fd) => opened(fd),
        Err(Errno::NOENT) => Err(io::ErrorKind::NotFound.into()),
        // Not in memory, a kernel before 5.12, a filter of system calls, or an error that is found
        // again.
        Err(_) => {
            let path = path.to_owned();
            spawn_blocking(move || opened(look_up(&path)?)).await?
        }
    }
}

fn opened(fd: OwnedFd) -> io::Result<Opened> {
    let file = File::from(fd);
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Ok(Opened::Directory);
    }
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Opened::File(file, Identity::of(&metadata)))
}

/// Waits for the disk.
fn look_up(path: &Path) -> io::Result<OwnedFd> {
    rustix::fs::open(path, CONTENTS, Mode::empty()).map_err(|error| match error {
        // A part of the name is a file, or too long, a link to itself, a socket: nothing is wrong
        // with the server.
        Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::NXIO | Errno::NODEV => {
            io::ErrorKind::NotFound.into()
        }
        error => error.into(),
    })
}

/// To be read. Non-blocking because to open a pipe would wait for its writer; it changes nothing
/// for files.
const CONTENTS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// To be asked what it is.
const NAME: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn opening_a_pipe_does_not_wait_for_who_writes_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        let (answer, answered) = mpsc::channel();
        // A thread that may stay stuck: the test fails and does not hang.
        std::thread::spawn(move || answer.send(look_up(&pipe)));
        let opened = answered.recv_timeout(Duration::from_secs(5));
        opened.expect("waits for a writer").unwrap();
    }

    #[test]
    fn looking_up_with_and_without_waiting_finds_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "hello").unwrap();
        for path in [&path, dir.path()] {
            let here = openat2(CWD, path, CONTENTS, Mode::empty(), ResolveFlags::CACHED).unwrap();
            let there = look_up(path).unwrap();
            let found = [here, there].map(|fd| Found::of(&File::from(fd).metadata().unwrap()));
            assert_eq!(found[0], found[1]);
        }
    }
}
