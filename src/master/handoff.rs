//! `handoff.sock`: where draining workers, of whatever generation, learn who takes their
//! connections. The owner answers once its workers are ready.
//!
//! Every draining worker gets a pair of its own with every receiving one: the sending ends travel
//! to it, the receiving ends to our workers. We keep copies of those until the drainer has gone, so
//! that what is queued for a worker that dies goes to its replacement.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_seqpacket::UnixSeqpacketListener;

use super::driver::Driver;
use super::input::Input;
use crate::machine::Phase;
use crate::sys::handoff::{self, Asker};
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

/// The socket while this master answers on it.
#[derive(Debug)]
pub(super) struct HandoffDoor(JoinHandle<()>);

impl Drop for HandoffDoor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is said of it.
const CANNOT: &str = "cannot answer on the hand-off socket";
/// Out of descriptors, or the like.
const PAUSE: Duration = Duration::from_millis(100);

impl Driver {
    /// We own the service and our workers are ready: who drains may ask. Without
    /// `pass_connections` nobody is told where to pass them, but news are heard.
    pub(super) fn open_handoff(&mut self) {
        if self.handoff_door.is_some() {
            return;
        }
        let Some(socket) = &self.handoff else { return };
        let listener = socket.try_clone().and_then(UnixSeqpacketListener::try_from);
        let mut listener = match listener {
            Ok(listener) => listener,
            Err(e) => {
                tracing::error!("{CANNOT}: {e}");
                return;
            }
        };
        let post = self.post.clone();
        self.handoff_door = Some(HandoffDoor(tokio::spawn(async move {
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
                        if refused.again() {
                            tracing::error!("{CANNOT}: {e}; it is tried again");
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        })));
    }

    /// Another master answers from now on.
    pub(super) fn close_handoff(&mut self) {
        self.handoff_door = None;
    }

    /// A draining worker asks, or its master tells.
    pub(super) fn answer_drainer(&mut self, asker: Asker) {
        if let Some(news) = asker.request.news.as_deref() {
            self.heard_news(news.clone());
            tokio::spawn(async move {
                if let Err(e) = asker.answer(&[]).await {
                    tracing::debug!("{e}");
                }
            });
            return;
        }
        if !self.receives() {
            // The service changed hands at this moment: it asks again, and the owner answers.
            return;
        }
        let pid = asker.pid();
        let sending = if self.config.drain.pass_connections {
            self.workers.receive_from(pid)
        } else {
            Vec::new()
        };
        let post = self.post.clone();
        tokio::spawn(async move {
            let targets: Vec<BorrowedFd<'_>> = sending.iter().map(AsFd::as_fd).collect();
            match asker.answer(&targets).await {
                Ok(request) => tracing::info!(
                    "g{} passes connections on to {} workers",
                    request.generation,
                    targets.len()
                ),
                Err(e) => tracing::warn!("{e}"),
            }
            drop(targets);
            drop(sending);
            if let Ok(Some(process)) = Other::open(pid) {
                let _ = process.gone().await;
            }
            let _ = post.send(Input::DrainerGone(pid)).await;
        });
    }

    /// Whether our workers can take connections now.
    pub(super) fn receives(&self) -> bool {
        self.machine.owns()
            && !matches!(
                self.machine.phase(),
                Phase::Starting | Phase::Reclaiming | Phase::Draining
            )
    }
}
