//! What of a directory may be opened: regular files without a dot before any name. Everything that
//! the file service reads goes through here, `index.html` and precompressed variants included.

use std::fs::{self, File, Metadata, OpenOptions};
use std::future::Ready;
use std::io::{self, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs as serve;

/// Opens files below a directory. What may not be opened is not there: `NotFound`.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    root: PathBuf,
}

/// An open regular file and what was true of it when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    file: tokio::fs::File,
    metadata: Metadata,
}

impl Disk {
    pub(super) fn new(root: &Path) -> Self {
        // As ServeDir writes it: a relative root begins with a dot.
        let root = Path::new(".").join(root);
        Self { root }
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

    /// Does `work` where waiting for a disk holds up nobody.
    fn with<T: Send + 'static>(
        &self,
        path: PathBuf,
        work: fn(&Path) -> io::Result<T>,
    ) -> BoxFuture<'static, io::Result<T>> {
        if !self.is_visible(&path) {
            return std::future::ready(Err(io::ErrorKind::NotFound.into())).boxed();
        }
        async move {
            let done = tokio::task::spawn_blocking(move || work(&path));
            done.await?.map_err(hide)
        }
        .boxed()
    }
}

impl serve::Backend for Disk {
    type File = Opened;
    type Metadata = Metadata;
    type OpenFuture = BoxFuture<'static, io::Result<Opened>>;
    type MetadataFuture = BoxFuture<'static, io::Result<Metadata>>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        self.with(path, open)
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        self.with(path, metadata)
    }
}

fn open(path: &Path) -> io::Result<Opened> {
    // Non-blocking: to open a pipe would wait for its writer. It changes nothing for files.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(i32::from_ne_bytes(flags.bits().to_ne_bytes()))
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Opened {
        file: tokio::fs::File::from_std(file),
        metadata,
    })
}

fn metadata(path: &Path) -> io::Result<Metadata> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(metadata)
}

/// A name that is too long, a link to itself, a socket: nothing is wrong with the server.
fn hide(error: io::Error) -> io::Error {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        Some(Errno::NAMETOOLONG | Errno::LOOP | Errno::NXIO | Errno::NODEV) => {
            io::ErrorKind::NotFound.into()
        }
        _ => error,
    }
}

impl serve::File for Opened {
    type Metadata = Metadata;
    type MetadataFuture<'a> = Ready<io::Result<Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        std::future::ready(Ok(self.metadata.clone()))
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(cx, buf)
    }
}

impl AsyncSeek for Opened {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pipe_is_refused_at_once_though_nobody_writes_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, 0o600.into()).unwrap();
        let (answer, answered) = mpsc::channel();
        // A thread that may stay stuck: the test fails and does not hang.
        std::thread::spawn(move || answer.send(open(&pipe)));
        let refused = answered.recv_timeout(Duration::from_secs(5));
        let error = refused.expect("waits for a writer").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
