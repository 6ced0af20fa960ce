//! A socket of the owner's in the runtime directory. Whoever owns the service sees to it that the path
//! leads to this socket: somebody who tidies `/run` must not make a running service look as if it were
//! gone.

use std::error::Error;
use std::fs::{self, DirBuilder};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Opens one at a path.
pub(super) type Bind = fn(&Path) -> Result<Arc<OwnedFd>, Box<dyn Error>>;

/// The socket, and where it is.
#[derive(Debug)]
pub(super) struct AtPath {
    socket: Arc<OwnedFd>,
    path: PathBuf,
    bind: Bind,
    /// The permissions of the runtime directory, should it have to be made again.
    mode: u32,
    /// Which file the path leads to: its device and inode.
    file: Option<(u64, u64)>,
    /// It could not be made again, and that was said.
    said: bool,
}

impl AtPath {
    /// The one that was opened there, by us or by a predecessor.
    pub(super) fn new(socket: Arc<OwnedFd>, path: PathBuf, bind: Bind) -> Self {
        let directory = path.parent().and_then(|dir| fs::metadata(dir).ok());
        Self {
            socket,
            mode: directory.map_or(0o755, |about| about.mode() & 0o777),
            file: file(&path),
            path,
            bind,
            said: false,
        }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Makes the path lead here again when it does not. Returns whether the socket is another one
    /// now, which nobody answers on yet.
    pub(super) fn mend(&mut self) -> bool {
        let now = file(&self.path);
        if now.is_some() && now == self.file {
            return false;
        }
        let path = self.path.display();
        if let Some(directory) = self.path.parent() {
            // Should that fail, the socket's own error says it.
            let _ = DirBuilder::new().mode(self.mode).create(directory);
        }
        match (self.bind)(&self.path) {
            Ok(socket) => {
                tracing::warn!("{path} was removed: it is made again");
                self.socket = socket;
                self.file = file(&self.path);
                self.said = false;
                true
            }
            Err(e) => {
                if !std::mem::replace(&mut self.said, true) {
                    tracing::error!(
                        "{path} was removed and cannot be made again, so this service cannot be reached \
                         there: {e}; `systemctl restart` makes it (clients wait, none is refused)"
                    );
                }
                false
            }
        }
    }
}

fn file(path: &Path) -> Option<(u64, u64)> {
    let about = fs::symlink_metadata(path).ok()?;
    Some((about.dev(), about.ino()))
}
