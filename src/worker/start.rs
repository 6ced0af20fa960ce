//! The beginning: what the master says first, and which application serves which listener.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Routers;
use super::accept::Listener;
use super::applications::Applications;
use super::raw::Handlers;
use crate::config::Config;
use crate::machine::link::{Start, TlsSecrets, ToWorker, WorkerListener};
use crate::sys::channel::{Channel, ChannelError};
use crate::sys::secrets;

/// What a worker begins with.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) start: Start,
    pub(super) listeners: Vec<(WorkerListener, OwnedFd)>,
    /// What the other workers hold.
    pub(super) board: Option<OwnedFd>,
    /// Keeps the hosted application alive.
    pub(super) holds: Option<OwnedFd>,
    /// Certificates and keys.
    pub(super) tls: Option<TlsSecrets>,
}

/// Why there was no beginning.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("cannot hear the master: {0}")]
    Io(#[from] io::Error),
    #[error("cannot hear the master: {0}")]
    Channel(#[from] ChannelError),
    #[error("the master went away before it said what to do")]
    Orphaned,
    #[error("expected {expected} from the master, got something else")]
    Unexpected { expected: &'static str },
}

/// From now on no core file, and no debugger of the same user, shows this process's memory.
pub(super) fn hide_memory() {
    if let Err(e) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!("this process can be dumped with its TLS keys: {e}");
    }
}

/// Reads the first messages.
pub(super) async fn receive(channel: OwnedFd) -> Result<Beginning, StartError> {
    let channel = Channel::from_fd(channel)?;
    let first = channel.recv().await?.ok_or(StartError::Orphaned)?;
    let ToWorker::Start(start) = first.decode()? else {
        let expected = "`start`";
        return Err(StartError::Unexpected { expected });
    };
    let mut beside = first.fds.into_iter();
    let board = start.board.then(|| beside.next()).flatten();
    let holds = start.hosted.as_ref().and_then(|_| beside.next());
    let tls = start.tls.then(|| beside.next()).flatten();
    if tls.is_some() {
        // Before the keys are here.
        hide_memory();
    }
    let tls = tls.map(secrets::unwrap).transpose()?;
    let mut listeners = Vec::with_capacity(start.listeners);
    while listeners.len() < start.listeners {
        let batch = channel.recv().await?.ok_or(StartError::Orphaned)?;
        match batch.decode()? {
            ToWorker::Listeners { listeners: names }
                if !names.is_empty() && names.len() == batch.fds.len() =>
            {
                listeners.extend(names.into_iter().zip(batch.fds));
            }
            _ => {
                let expected = "`listeners` with a descriptor each";
                return Err(StartError::Unexpected { expected });
            }
        }
    }
    Ok(Beginning {
        start: *start,
        listeners,
        board,
        holds,
        tls,
    })
}

/// Finds the application of every listener. An error names the listener that has none.
pub(super) fn pair_up(
    listeners: Vec<(WorkerListener, OwnedFd)>,
    routers: Routers,
    own: &Handlers,
    config: &Config,
) -> Result<(Vec<Listener>, Arc<Applications>), String> {
    let applications = Arc::new(Applications::new(routers, own, &config.listeners));
    let listeners: Result<_, String> = listeners
        .into_iter()
        .map(|(listener, fd)| serve(&listener, fd, &applications))
        .collect();
    Ok((listeners?, applications))
}

/// A socket with its application. An error names the listener that has none.
pub(super) fn serve(
    listener: &WorkerListener,
    fd: OwnedFd,
    applications: &Applications,
) -> Result<Listener, String> {
    let served = applications
        .of_listener(&listener.name, &fd)
        .ok_or_else(|| {
            format!(
                "there is no application for the listener {:?}",
                listener.name
            )
        })?;
    Ok(Listener {
        id: listener.id,
        fd,
        served,
        shared: listener.shared,
        begun: false,
    })
}
