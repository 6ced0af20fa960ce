//! What of a directory may be opened: regular files without a dot before any name. Everything that
//! the file service reads goes through here, `index.html` and precompressed variants included.

use std::fs::{File, Metadata};
use std::future::ready;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use tower_http::services::fs as serve;

use super::cache::{Found, Look, Looks};
use super::opened::Opened;

/// Opens files below a directory. What may not be opened is not there: `NotFound`.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    root: PathBuf,
    /// Where every look is noted.
    looks: Option<Arc<Looks>>,
}

impl Disk {
    pub(super) fn new(root: &Path) -> Self {
        // As ServeDir writes it: a relative root begins with a dot.
        let root = Path::new(".").join(root);
        Self { root, looks: None }
    }

    /// The same, noting what it finds.
    pub(super) fn noting(&self, looks: &Arc<Looks>) -> Self {
        Self {
            root: self.root.clone(),
            looks: Some(Arc::clone(looks)),
        }
    }

    /// Whether a look would find the same again, as far as the kernel knows without waiting.
    pub(super) fn is_still(look: &Look) -> bool {
        match openat2(CWD, &look.path, NAME, Mode::empty(), ResolveFlags::CACHED) {
            Ok(fd) => File::from(fd)
                .metadata()
                .is_ok_and(|metadata| Found::of(&metadata) == look.found),
            Err(Errno::NOENT) => look.found == Found::Nothing,
            Err(_) => false,
        }
    }

    /// Notes what a look finds.
    fn noted<T: Send + 'static>(
        &self,
        path: PathBuf,
        look: BoxFuture<'static, io::Result<T>>,
        metadata: fn(&T) -> &Metadata,
    ) -> BoxFuture<'static, io::Result<T>> {
        let Some(looks) = self.looks.clone() else {
            return look;
        };
        look.inspect(move |result| {
            let found = match result {
                Ok(found) => Some(Found::of(metadata(found))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Found::Nothing),
                Err(_) => None,
            };
            looks.note(path, found);
        })
        .boxed()
    }

    fn is_visible(&self, path: &Path) -> bool {
        let Ok(below) = path.strip_prefix(&self.root) else {
            return false;
        };
        below.components().enumerate().all(|(n, part)| match part {
            Component::Normal(name) => {
                !name.as_encoded_bytes().starts_with(b".") || n == 0 && name == ".well-known"
            }
            _ => false,
        })
    }

    /// Looks `path` up, here when the kernel has it all in memory (which is nearly always, and
    /// costs a tenth of asking a thread), else where waiting for a disk holds up nobody.
    fn with<T: Send + 'static>(
        &self,
        path: PathBuf,
        what: OFlags,
        work: fn(OwnedFd) -> io::Result<T>,
    ) -> BoxFuture<'static, io::Result<T>> {
        if !self.is_visible(&path) {
            return ready(Err(io::ErrorKind::NotFound.into())).boxed();
        }
        match openat2(CWD, &path, what, Mode::empty(), ResolveFlags::CACHED) {
            Ok(fd) => ready(work(fd)).boxed(),
            Err(Errno::NOENT) => ready(Err(io::ErrorKind::NotFound.into())).boxed(),
            // Not in memory, a kernel before 5.12, a filter of system calls, or an error that is
            // found again.
            Err(_) => async move {
                tokio::task::spawn_blocking(move || work(look_up(&path, what)?)).await?
            }
            .boxed(),
        }
    }
}

impl serve::Backend for Disk {
    type File = Opened;
    type Metadata = Metadata;
    type OpenFuture = BoxFuture<'static, io::Result<Opened>>;
    type MetadataFuture = BoxFuture<'static, io::Result<Metadata>>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let look = self.with(path.clone(), CONTENTS, file);
        self.noted(path, look, Opened::metadata)
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let look = self.with(path.clone(), NAME, metadata);
        self.noted(path, look, |metadata| metadata)
    }
}

fn file(fd: OwnedFd) -> io::Result<Opened> {
    let file = File::from(fd);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Opened::new(file, metadata))
}

fn metadata(fd: OwnedFd) -> io::Result<Metadata> {
    let metadata = File::from(fd).metadata()?;
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(metadata)
}

/// Waits for the disk.
fn look_up(path: &Path, what: OFlags) -> io::Result<OwnedFd> {
    rustix::fs::open(path, what, Mode::empty()).map_err(|error| match error {
        // A name that is too long, a link to itself, a socket: nothing is wrong with the server.
        Errno::NAMETOOLONG | Errno::LOOP | Errno::NXIO | Errno::NODEV => {
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
    use std::os::unix::fs::MetadataExt;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn opening_a_pipe_does_not_wait_for_who_writes_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        let (answer, answered) = mpsc::channel();
        // A thread that may stay stuck: the test fails and does not hang.
        std::thread::spawn(move || answer.send(look_up(&pipe, CONTENTS)));
        let opened = answered.recv_timeout(Duration::from_secs(5));
        opened.expect("waits for a writer").unwrap();
    }

    #[test]
    fn looking_up_with_and_without_waiting_finds_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "hello").unwrap();
        for (path, what) in [(&path, CONTENTS), (&path, NAME), (&dir.path().into(), NAME)] {
            let here = openat2(CWD, path, what, Mode::empty(), ResolveFlags::CACHED).unwrap();
            let there = look_up(path, what).unwrap();
            let (here, there) = (metadata(here).unwrap(), metadata(there).unwrap());
            assert_eq!((here.ino(), here.len()), (there.ino(), there.len()));
        }
    }
}
