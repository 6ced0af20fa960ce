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
use tokio_seqpacket::UnixSeqpacketListener;

use super::answers::Answers;
use super::at_path::AtPath;
use super::input::Input;
use crate::sys::handoff::{self, Asker, HandoffError, Targets};
use crate::sys::once::Once;
use crate::sys::process::Other;
use crate::sys::runtime;

/// The socket's name in the runtime directory.
pub(super) const SOCKET: &str = "handoff.sock";

/// Opens it, in the place of what a crashed service left: nobody else runs, which the control
/// socket has shown.
pub(super) fn open(runtime: &Path) -> io::Result<OwnedFd> {
    bind(&runtime.join(SOCKET))
}

fn bind(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixSeqpacketListener::bind(path)?;
    // Ours and root's alone; the peer is checked too.
    rustix::fs::chmod(path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    Ok(listener.into())
}

/// The socket, and who answers on it.
#[derive(Debug)]
pub(super) struct HandoffDoor {
    socket: Option<AtPath>,
    post: mpsc::Sender<Input>,
    answers: Answers,
}

/// What is said of it.
const CANNOT: &str = "cannot answer on the hand-off socket";
/// Out of descriptors, or the like.
const PAUSE: Duration = Duration::from_millis(100);

impl HandoffDoor {
    pub(super) fn new(socket: Option<OwnedFd>, runtime: &Path, post: mpsc::Sender<Input>) -> Self {
        let path = runtime.join(SOCKET);
        let at = |socket| AtPath::new(Arc::new(socket), path, |path| Ok(Arc::new(bind(path)?)));
        Self {
            socket: socket.map(at),
            post,
            answers: Answers::new(CANNOT),
        }
    }

    /// A copy, for a successor.
    pub(super) fn copy(&self) -> io::Result<Option<OwnedFd>> {
        let copy = |at: &AtPath| at.socket().try_clone();
        self.socket.as_ref().map(copy).transpose()
    }

    /// Answers while our workers can take connections. Without `pass_connections` nobody is told
    /// where to pass them, but news are heard.
    pub(super) fn follow(&mut self, receives: bool) {
        let Some(at) = &self.socket else { return };
        self.answers.follow(receives, || {
            let copy = at.socket().try_clone()?;
            let listener = UnixSeqpacketListener::try_from(copy)?;
            Ok(serve(listener, self.post.clone()))
        });
    }

    /// Makes the path lead here again when it does not. True: nobody answers on it yet.
    pub(super) fn mend(&mut self) -> bool {
        let is_open = self.answers.is_open();
        let made_again = is_open && self.socket.as_mut().is_some_and(AtPath::mend);
        if made_again {
            self.answers.stop();
        }
        made_again
    }

    /// Tells one who drains where our workers take its connections; nowhere, where nobody does.
    pub(super) fn answer(&self, asker: Asker, targets: Targets) {
        let (pid, post) = (asker.pid(), self.post.clone());
        runtime::spawn(async move {
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
    runtime::spawn(async move {
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
                runtime::spawn(async move {
                    match handoff::hear(accepted).await {
                        Ok(asker) => {
                            let _ = post.send(Input::Drainer(asker)).await;
                        }
                        // It wanted to know whether somebody is there.
                        Err(HandoffError::Closed) => {}
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
