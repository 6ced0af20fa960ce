//! The control socket and its place in the runtime directory.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::config::ListenerConfig;
use crate::master::at_path::AtPath;
use crate::sys::listeners::{self, ListenError, Listener};

/// The socket on which operators are answered.
#[derive(Debug)]
pub struct ControlSocket(AtPath);

/// Clients that wait to be accepted.
const QUEUE: i32 = 1024;

/// The control socket's name in the runtime directory.
pub const SOCKET: &str = "control.sock";

impl ControlSocket {
    /// Opens it, in the place of one that nobody answers on. Everybody on the host may connect and
    /// read; who may order is seen when an order comes ([`Access`](super::Access)). So no file needs
    /// a group, which a sandboxed service could not give it.
    pub fn open(runtime: &Path) -> Result<Self, ListenError> {
        let socket = bind(&runtime.join(SOCKET))?.fd();
        Ok(Self::new(socket, runtime))
    }

    /// A predecessor opened it.
    #[must_use]
    pub fn inherited(socket: OwnedFd, runtime: &Path) -> Self {
        Self::new(Arc::new(socket), runtime)
    }

    fn new(socket: Arc<OwnedFd>, runtime: &Path) -> Self {
        let path = runtime.join(SOCKET);
        Self(AtPath::new(socket, path, |path| Ok(bind(path)?.fd())))
    }

    /// A copy, to answer on or for a successor.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.socket().try_clone()
    }

    /// Makes clients see this process when they ask who answers: `SO_PEERCRED` names the one that called
    /// `listen(2)` last (unix(7)). That may have been a successor that was slow to hear that it shall
    /// leave, and is dead by now.
    pub fn claim(&self) -> io::Result<()> {
        Ok(rustix::net::listen(self.0.socket(), QUEUE)?)
    }

    /// Makes the path lead here again when it does not. Returns whether the socket is another one
    /// now, which nobody answers on yet.
    pub fn mend(&mut self) -> bool {
        self.0.mend()
    }
}

fn bind(path: &Path) -> Result<Listener, ListenError> {
    let address = format!("unix:{}", path.display());
    listeners::bind(&ListenerConfig {
        mode: Some("0666".into()),
        ..ListenerConfig::new("control", Some(&address))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
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
