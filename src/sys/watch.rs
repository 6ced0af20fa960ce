//! Names that vanish from a directory, by inotify (inotify(7)).

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::spawn;

/// A directory that is watched.
#[derive(Debug)]
pub struct Watch(AsyncFd<Arc<OwnedFd>>);

impl Watch {
    /// Watches `directory` from now on. Needs tokio's runtime.
    pub fn directory(directory: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let gone = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, directory, gone)?;
        Ok(Self(spawn::watch(Arc::new(fd), Interest::READABLE)?))
    }

    /// Waits until the file `name` is removed from it, or renamed. Cancel-safe but for events that
    /// were read already.
    pub async fn removed(&mut self, name: &OsStr) -> io::Result<()> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); BUFFER];
            let mut events = Reader::new(guard.get_inner(), &mut buffer);
            loop {
                match events.next() {
                    Ok(event) => {
                        let overflow = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                        let named = event.file_name().map(|n| OsStr::from_bytes(n.to_bytes()));
                        // The queue's overflow may have swallowed it: the caller looks.
                        if overflow || named == Some(name) {
                            return Ok(());
                        }
                    }
                    Err(Errno::WOULDBLOCK) => break,
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            guard.clear_ready();
        }
    }
}

/// Some dozen events; one with the longest name fits.
const BUFFER: usize = 2048;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn only_the_name_that_was_meant_counts() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut watch = Watch::directory(dir.path()).unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        // Put in its place, it has not vanished.
        fs::rename(dir.path().join("c"), dir.path().join("b")).unwrap();
        let short = Duration::from_millis(50);
        let early = timeout(short, watch.removed(OsStr::new("b"))).await;
        assert!(early.is_err(), "nobody removed it");
        fs::remove_file(dir.path().join("b")).unwrap();
        let long = Duration::from_secs(20);
        let seen = timeout(long, watch.removed(OsStr::new("b"))).await;
        seen.expect("it is seen").unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(Watch::directory(&dir.path().join("file")).is_err());
        assert!(Watch::directory(&dir.path().join("missing")).is_err());
    }
}
