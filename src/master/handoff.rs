//! `handoff.sock`: where draining workers, of whatever generation, learn who takes their
//! connections. The owner answers once its workers are ready.
//!
//! Every draining worker gets a pair of its own with every receiving one: the sending ends travel
//! to it, the receiving ends to our workers. We keep copies of those until the drainer has gone, so
//! that what is queued for a worker that dies goes to its replacement.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::sockopt;
use tokio::task::JoinHandle;
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};

use super::driver::Driver;
use super::input::Input;
use crate::machine::Phase;
use crate::sys::handoff;
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

impl Driver {
    /// We own the service and our workers are ready: who drains may ask.
    pub(super) fn open_handoff(&mut self) {
        if self.handoff_door.is_some() || !self.config.drain.pass_connections {
            return;
        }
        let Some(socket) = &self.handoff else { return };
        let listener = socket.try_clone().and_then(UnixSeqpacketListener::try_from);
        let mut listener = match listener {
            Ok(listener) => listener,
            Err(e) => {
                tracing::error!("cannot answer on the hand-off socket: {e}");
                return;
            }
        };
        let post = self.post.clone();
        self.handoff_door = Some(HandoffDoor(tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok(accepted) => {
                        if post.send(Input::Drainer(accepted)).await.is_err() {
                            return;
                        }
                    }
                    Err(e) => {
                        tracing::error!("cannot answer on the hand-off socket: {e}");
                        return;
                    }
                }
            }
        })));
    }

    /// Another master answers from now on.
    pub(super) fn close_handoff(&mut self) {
        self.handoff_door = None;
    }

    /// A draining worker asks.
    pub(super) fn answer_drainer(&mut self, accepted: UnixSeqpacket) {
        let pid = sockopt::socket_peercred(accepted.as_fd())
            .map_or(0, |cred| cred.pid.as_raw_nonzero().get().unsigned_abs());
        let sending = self.workers.receive_from(pid);
        let post = self.post.clone();
        tokio::spawn(async move {
            let targets: Vec<BorrowedFd<'_>> = sending.iter().map(AsFd::as_fd).collect();
            match handoff::answer(accepted, &targets).await {
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
