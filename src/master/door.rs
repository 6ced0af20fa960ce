//! Who answers on the control socket while this master owns the service.

use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::unistd::Group;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::control::{self, Access, ControlSocket, Limits};
use super::manager::Manager;
use super::workers::Workers;
use crate::sys::once::Once;
use crate::sys::runtime;

/// The socket, and who answers on it.
#[derive(Debug)]
pub(super) struct ControlDoor {
    socket: ControlSocket,
    handle: control::Handle,
    open: Option<Answering>,
    refused: Once,
    unseen: Once,
    /// Another master answers by now; orders that were taken here are answered to their end.
    closing: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Answering {
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What is said of it.
const CANNOT: &str = "cannot answer on the control socket";
const UNSEEN: &str = "clients of the control socket cannot see who answers";

impl ControlDoor {
    pub(super) fn new(socket: ControlSocket, handle: control::Handle) -> Self {
        Self {
            socket,
            handle,
            open: None,
            refused: Once::default(),
            unseen: Once::default(),
            closing: Vec::new(),
        }
    }

    /// A copy, for a successor.
    pub(super) fn copy(&self) -> std::io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Answers while this master owns the service; `access` says to whom.
    pub(super) fn follow(&mut self, owns: bool, access: impl FnOnce() -> Access) {
        match (owns, self.open.is_some()) {
            (true, false) => self.open(access),
            (false, true) => self.close(),
            _ => {}
        }
    }

    /// Makes the path lead here again when somebody removed it. True: nobody answers on it yet.
    pub(super) fn mend(&mut self) -> bool {
        let made_again = self.open.is_some() && self.socket.mend();
        if made_again {
            self.close();
        }
        made_again
    }

    /// Whoever answered before may have claimed it since: clients shall see who answers.
    pub(super) fn claim_again(&mut self) {
        if self.open.is_some() {
            self.claim();
        }
    }

    fn claim(&mut self) {
        match self.socket.claim() {
            Ok(()) => self.unseen.over(UNSEEN),
            Err(e) => self.unseen.failed(UNSEEN, &e),
        }
    }

    fn open(&mut self, access: impl FnOnce() -> Access) {
        let listener = self
            .copy()
            .and_then(|fd| tokio::net::UnixListener::from_std(fd.into()));
        let listener = match listener {
            Ok(listener) => listener,
            Err(e) => return self.refused.failed(CANNOT, &e),
        };
        self.refused.over(CANNOT);
        self.claim();
        let (closing, closed) = watch::channel(false);
        let router = control::router(self.handle.clone());
        let task = runtime::spawn(control::serve(
            listener,
            router,
            Arc::new(access()),
            Limits::default(),
            closed,
        ));
        self.open = Some(Answering { closing, task });
    }

    pub(super) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            let _ = open.closing.send(true);
            // Nobody waits for it but the end of this process.
            self.closing.push(open.task);
        }
    }

    /// The last answers are written.
    pub(super) async fn goodbye(&mut self, limit: Duration) {
        for task in std::mem::take(&mut self.closing) {
            let _ = tokio::time::timeout(limit, task).await;
        }
    }
}

/// Who may order. Where there is no systemd, the service's own processes may too.
pub(super) fn access(operators: Option<&Group>, manager: &Manager, workers: &Workers) -> Access {
    let access = Access::new(operators.cloned());
    if !manager.is_systemd() {
        return access;
    }
    let access = if manager.is_the_systems() {
        access.but_not_our_user()
    } else {
        access
    };
    let pids = workers.pids();
    access.but_not(move |pid| {
        pids.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&pid)
    })
}
