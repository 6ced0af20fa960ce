//! `handoff.sock`: where draining workers, of whatever generation, learn who takes their
//! connections. The owner answers once its workers are ready.
//!
//! Every draining worker gets a pair of its own with every receiving one: the sending ends travel
//! to it, the receiving ends to our workers. We keep copies of those until the drainer has gone, so
//! that what is queued for a worker that dies goes to its replacement.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_seqpacket::UnixSeqpacketListener;

use super::input::Input;
use crate::sys::handoff::{self, Asker, Targets};
use crate::sys::once::Once;
use crate::sys::process::Other;

/// The socket's name in the runtime directory.
pub(super) const SOCKET: &str = "handoff.sock";

/// Opens it, in the place of what a crashed service left: nobody else runs, which the control
/// socket has shown.
pub(super) fn open(runtime: &Path) -> std::io::Result<OwnedFd> {
    let path = runtime.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixSeqpacketListener::bind(&path)?;
    // Ours and root's alone; the peer is checked too.
    rustix::fs::chmod(&path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    Ok(listener.into())
}

/// The socket, and who answers on it.
#[derive(Debug)]
pub(super) struct HandoffDoor {
    socket: Option<OwnedFd>,
    post: mpsc::Sender<Input>,
    /// Who answers; nobody does when this is dropped.
    open: JoinSet<()>,
    refused: Once,
}

/// What is said of it.
const CANNOT: &str = "cannot answer on the hand-off socket";
/// Out of descriptors, or the like.
const PAUSE: Duration = Duration::from_millis(100);

impl HandoffDoor {
    pub(super) fn new(socket: Option<OwnedFd>, post: mpsc::Sender<Input>) -> Self {
        Self {
            socket,
            post,
            open: JoinSet::new(),
            refused: Once::default(),
        }
    }

    /// A copy, for a successor.
    pub(super) fn copy(&self) -> io::Result<Option<OwnedFd>> {
        self.socket.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// Answers while our workers can take connections. Without `pass_connections` nobody is told
    /// where to pass them, but news are heard.
    pub(super) fn follow(&mut self, receives: bool) {
        if !receives {
            self.open = JoinSet::new();
            return;
        }
        let Some(socket) = self.socket.as_ref().filter(|_| self.open.is_empty()) else {
            return;
        };
        match socket.try_clone().and_then(UnixSeqpacketListener::try_from) {
            Ok(listener) => {
                self.open.spawn(serve(listener, self.post.clone()));
                self.refused.over(CANNOT);
            }
            Err(e) => self.refused.failed(CANNOT, &e),
        }
    }

    /// Makes the path lead here again when somebody removed it. True: nobody answers on it yet.
    pub(super) fn mend(&mut self, runtime: &Path) -> bool {
        if self.open.is_empty() || runtime.join(SOCKET).exists() {
            return false;
        }
        let made = open(runtime);
        let made_again = made.is_ok();
        if let Ok(socket) = made {
            (self.socket, self.open) = (Some(socket), JoinSet::new());
        }
        made_again
    }

    /// Tells one who drains where our workers take its connections; nowhere, where nobody does.
    pub(super) fn answer(&self, asker: Asker, targets: Targets) {
        let (pid, post) = (asker.pid(), self.post.clone());
        tokio::spawn(async move {
            match asker.answer(&targets).await {
                Ok(request) => tracing::info!(
                    "g{} passes connections on to {} workers",
                    request.generation,
                    targets.ends.len()
                ),
                Err(e) => tracing::warn!("{e}"),
            }
            drop(targets);
            let process = Other::open(pid).ok().flatten();
            Input::DrainerGone(pid).when_gone(process.map(Arc::new), &post);
        });
    }
}

/// Answers somebody who passes nothing on: a master that tells how it drains needs no more than to know
/// that it was heard, a front where the application listens.
pub(super) fn tell(asker: Asker, targets: Targets) {
    tokio::spawn(async move {
        if let Err(e) = asker.answer(&targets).await {
            tracing::debug!("{e}");
        }
    });
}

async fn serve(mut listener: UnixSeqpacketListener, post: mpsc::Sender<Input>) {
    let mut refused = Once::default();
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                refused.over(CANNOT);
                let post = post.clone();
                tokio::spawn(async move {
                    match handoff::hear(accepted).await {
                        Ok(asker) => {
                            let _ = post.send(Input::Drainer(asker)).await;
                        }
                        Err(e) => tracing::warn!("{e}"),
                    }
                });
            }
            Err(e) => {
                refused.failed(CANNOT, &e);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
