//! Who started the service and must know its main process: systemd, a keeper, or nobody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::sys::notify::{Notifier, NotifyError};

/// The one behind us.
#[derive(Debug)]
pub enum Manager {
    /// A notify socket: systemd, or something that behaves like it.
    Systemd {
        /// The way there.
        notify: Notifier,
        /// How often the watchdog must be fed, at least.
        watchdog: Option<Duration>,
    },
    /// The process that a terminal, a container or a simple supervisor started.
    Keeper(OwnedFd),
    /// Nobody: the keeper was killed, or somebody started a master by hand.
    Nobody,
}

/// systemd processes notifications in order, soon; when it does not, we go on.
const BARRIER: Duration = Duration::from_secs(2);

impl Manager {
    /// Names the main process and waits until the manager has processed it (BARRIER proves
    /// processed, not accepted).
    /// False: it could not be told, and takes another one for the main process.
    pub async fn name_main(&mut self, pid: u32, pidfd: Option<BorrowedFd<'_>>) -> bool {
        match self {
            Self::Systemd { notify, .. } => {
                if let Err(e) = notify.main_pid(pid, pidfd) {
                    return nobody_listens(&e);
                }
                if let Err(e) = notify.barrier(BARRIER).await {
                    tracing::warn!("{e}");
                }
                true
            }
            Self::Keeper(_) | Self::Nobody => self.tell_keeper(format_args!("main {pid}")),
        }
    }

    /// Whether this process is the keeper: it made the socket.
    pub fn is_keeper(&self, pid: u32) -> bool {
        let Self::Keeper(socket) = self else {
            return false;
        };
        let made = rustix::net::sockopt::socket_peercred(socket);
        made.is_ok_and(|made| u32::try_from(made.pid.as_raw_nonzero().get()) == Ok(pid))
    }

    /// If it is there. That it could not be told is said in the log.
    fn tell_systemd(&self, how: impl FnOnce(&Notifier) -> Result<(), NotifyError>) {
        if let Self::Systemd { notify, .. } = self {
            if let Err(e) = how(notify) {
                tracing::warn!("{e}");
            }
        }
    }

    /// A keeper that has gone hears nothing, and the service lives on without it. False: it is stopped
    /// and its socket is full. Nobody waits for it: a terminal's Ctrl-Z must not stop the service.
    fn tell_keeper(&self, line: std::fmt::Arguments<'_>) -> bool {
        let Self::Keeper(socket) = self else {
            return true;
        };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // A line goes as a whole or not at all: it is much shorter than the socket's buffer.
        match rustix::net::send(socket, format!("{line}\n").as_bytes(), flags) {
            Ok(_) => true,
            Err(Errno::AGAIN) => false,
            Err(e) => {
                tracing::debug!("cannot tell the keeper {line}: {e}");
                true
            }
        }
    }

    /// Names another process and then this one, so that what the manager knows of the main process
    /// is found out anew. In one breath: systemd reads notifications before it answers anybody, and
    /// whoever asks or signals its main process meanwhile does not meet the other one. False: one of
    /// both could not be said, or there is no other at this moment, and nothing is found out.
    pub async fn rename_main(&mut self, other: Option<u32>, pid: u32) -> bool {
        let mut renamed = true;
        if let Self::Systemd { notify, .. } = self {
            renamed = match other.map(|other| notify.main_pid(other, None)) {
                Some(Ok(())) => true,
                Some(Err(e)) => nobody_listens(&e),
                None => false,
            };
        }
        self.name_main(pid, None).await && renamed
    }

    /// The service runs, and we are its main process. False: it could not be told.
    pub fn ready(&mut self, text: &str) -> bool {
        let pid = std::process::id();
        match self {
            Self::Systemd { notify, .. } => match notify.ready(text, Some(pid)) {
                Ok(()) => true,
                Err(e) => nobody_listens(&e),
            },
            Self::Keeper(_) | Self::Nobody => {
                self.tell_keeper(format_args!("main {pid}"))
                    && self.tell_keeper(format_args!("ready {text}"))
            }
        }
    }

    /// How long what is left of the service may take when its last master has died. (systemd ends it
    /// all at once.)
    pub fn rest(&self, limit: Duration) {
        self.tell_keeper(format_args!("rest {}", limit.as_millis()));
    }

    /// What `systemctl status` shows.
    pub fn status(&self, text: &str) {
        self.tell_systemd(|notify| notify.status(text));
        // A keeper that hears nothing now hears the next one.
        self.tell_keeper(format_args!("status {text}"));
    }

    /// Final for the whole unit.
    pub fn stopping(&self) {
        self.tell_systemd(Notifier::stopping);
        self.tell_keeper(format_args!("stopping"));
    }

    /// Feeds the watchdog.
    pub fn feed(&self) {
        if self.watchdog().is_some() {
            self.tell_systemd(Notifier::watchdog);
        }
    }

    /// The start or reload under way takes so much longer.
    pub fn extend_timeout(&self, by: Duration) {
        self.tell_systemd(|notify| notify.extend_timeout(by));
    }

    /// Keeps a descriptor over a crash of everything.
    pub fn store(&self, name: &str, fd: BorrowedFd<'_>) {
        self.tell_systemd(|notify| notify.fdstore(name, fd));
    }

    /// Gives up every stored descriptor of that name.
    pub fn unstore(&self, name: &str) {
        self.tell_systemd(|notify| notify.fdstore_remove(name));
    }

    /// Whether systemd is behind us.
    pub fn is_systemd(&self) -> bool {
        matches!(self, Self::Systemd { .. })
    }

    /// Whether it is the system's own systemd: the service has a user of its own then.
    pub fn is_the_systems(&self) -> bool {
        matches!(self, Self::Systemd { notify, .. } if notify.is_the_systems())
    }

    /// How often the watchdog must be fed, at least.
    pub fn watchdog(&self) -> Option<Duration> {
        match self {
            Self::Systemd { watchdog, .. } => *watchdog,
            Self::Keeper(_) | Self::Nobody => None,
        }
    }

    /// What a successor gets of it (it has the notify socket in its environment).
    pub fn keeper_pipe(&self) -> std::io::Result<Option<OwnedFd>> {
        match self {
            Self::Keeper(pipe) => pipe.as_fd().try_clone_to_owned().map(Some),
            Self::Systemd { .. } | Self::Nobody => Ok(None),
        }
    }
}

/// A message was not taken: says so, and whether nobody listens there (any longer), so that it would be
/// the same the next time. Such a service runs on as one that nobody manages.
fn nobody_listens(error: &NotifyError) -> bool {
    tracing::warn!("{error}");
    error.is_for_good()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// As after Ctrl-Z in a terminal: masters have a session of their own and run on.
    #[test]
    fn a_keeper_that_is_stopped_holds_nobody_up_and_misses_no_main_process() {
        let (keeper, ours) = UnixStream::pair().unwrap();
        let (done, waits) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut manager = Manager::Keeper(ours.into());
            for _ in 0..10_000 {
                manager.status("1.0.0 (g1) serves");
            }
            let unheard = manager.ready("serves");
            drop(keeper);
            let nobody_there = manager.ready("serves");
            done.send((unheard, nobody_there)).unwrap();
        });
        let answers = waits.recv_timeout(Duration::from_secs(10));
        // What was not heard is said again; to one that has gone nothing is.
        assert_eq!(answers, Ok((false, true)));
    }

    /// A moment later a worker may serve, or the answer of the manager would be believed for ever.
    #[tokio::test(start_paused = true)]
    async fn nobody_to_name_for_a_moment_is_no_renaming() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let mut manager = Manager::Systemd {
            notify: Notifier::new(path.as_os_str()).unwrap(),
            watchdog: None,
        };
        assert!(!manager.rename_main(None, 9).await);
        assert!(manager.rename_main(Some(8), 9).await);
        drop(systemd);
        assert!(manager.rename_main(Some(8), 9).await, "nobody listens");
    }
}
