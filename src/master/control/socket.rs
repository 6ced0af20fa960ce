//! The control socket and its place in the runtime directory. Whoever owns the service sees to it that
//! the path leads to this socket: somebody who tidies `/run` must not make a running service look as
//! if it were gone.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::ListenerConfig;
use crate::sys::listeners::{self, ListenError};

/// The socket on which operators are answered.
#[derive(Debug)]
pub struct ControlSocket {
    socket: Arc<OwnedFd>,
    runtime: PathBuf,
    /// The permissions of the runtime directory, should it have to be made again.
    mode: u32,
    /// Which file the path leads to: its device and inode.
    file: Option<(u64, u64)>,
    /// It could not be made again, and that was said.
    said: bool,
}

/// Clients that wait to be accepted.
const QUEUE: i32 = 1024;

/// The control socket's name in the runtime directory.
pub const SOCKET: &str = "control.sock";

impl ControlSocket {
    /// Opens it, in the place of one that nobody answers on. Everybody on the host may connect and
    /// read; who may order is seen when an order comes ([`Access`](super::Access)). So no file needs
    /// a group, which a sandboxed service could not give it.
    pub fn open(runtime: &Path) -> Result<Self, ListenError> {
        let socket = bind(runtime)?;
        Ok(Self::new(socket, runtime))
    }

    /// A predecessor opened it.
    #[must_use]
    pub fn inherited(socket: OwnedFd, runtime: &Path) -> Self {
        Self::new(Arc::new(socket), runtime)
    }

    fn new(socket: Arc<OwnedFd>, runtime: &Path) -> Self {
        Self {
            socket,
            mode: fs::metadata(runtime).map_or(0o755, |about| about.mode() & 0o777),
            file: file(runtime),
            runtime: runtime.to_owned(),
            said: false,
        }
    }

    /// A copy, to answer on or for a successor.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Makes clients see this process when they ask who answers: `SO_PEERCRED` names the one that called
    /// `listen(2)` last (unix(7)). That may have been a successor that was slow to hear that it shall
    /// leave, and is dead by now.
    pub fn claim(&self) -> io::Result<()> {
        Ok(rustix::net::listen(&self.socket, QUEUE)?)
    }

    /// Makes the path lead here again when it does not. Returns whether the socket is another one
    /// now, which nobody answers on yet.
    pub fn mend(&mut self) -> bool {
        let now = file(&self.runtime);
        if now.is_some() && now == self.file {
            return false;
        }
        match self.make_again() {
            Ok(()) => {
                tracing::warn!(
                    "{} was removed: it is made again",
                    self.runtime.join(SOCKET).display()
                );
                true
            }
            Err(e) => {
                if !std::mem::replace(&mut self.said, true) {
                    tracing::error!(
                        "{} was removed and cannot be made again, so clients cannot reach this \
                         service: {e}; `systemctl restart` makes it (clients wait, none is refused)",
                        self.runtime.join(SOCKET).display()
                    );
                }
                false
            }
        }
    }

    fn make_again(&mut self) -> Result<(), ListenError> {
        // Should that fail, the socket's own error says it.
        let _ = DirBuilder::new().mode(self.mode).create(&self.runtime);
        self.socket = bind(&self.runtime)?;
        self.file = file(&self.runtime);
        self.said = false;
        Ok(())
    }
}

fn bind(runtime: &Path) -> Result<Arc<OwnedFd>, ListenError> {
    let address = format!("unix:{}", runtime.join(SOCKET).display());
    let config = ListenerConfig {
        mode: Some("0666".into()),
        ..ListenerConfig::new("control", Some(&address))
    };
    listeners::bind(&config).map(|listener| listener.fd())
}

fn file(runtime: &Path) -> Option<(u64, u64)> {
    let about = fs::symlink_metadata(runtime.join(SOCKET)).ok()?;
    Some((about.dev(), about.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_path_that_was_removed_leads_here_again() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("run");
        fs::create_dir(&runtime).unwrap();
        let mut control = ControlSocket::open(&runtime).unwrap();
        assert!(!control.mend());
        let path = runtime.join(SOCKET);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        let answers = |control: &ControlSocket| {
            let _client = UnixStream::connect(runtime.join(SOCKET)).unwrap();
            let listener: std::os::unix::net::UnixListener = control.try_clone().unwrap().into();
            listener.set_nonblocking(true).unwrap();
            listener.accept().unwrap();
        };
        answers(&control);
        fs::remove_file(&path).unwrap();
        assert!(control.mend());
        answers(&control);
        fs::remove_dir_all(&runtime).unwrap();
        assert!(control.mend());
        answers(&control);
        // A file of another kind is nobody's socket; somebody else's that answers is left.
        fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(!control.mend());
        drop(other);
        assert!(control.mend());
        answers(&control);
    }
}
