//! Signals as events: blocked, and read from a signalfd with who sent them.
//!
//! Blocked means blocked in every thread: call these before there are others. Nothing is ever
//! unblocked again; children get an empty mask (`spawn`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::libc;
use nix::sys::signal::SigSet;
pub use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::spawn;

/// What operators, scripts and systemd send to a master.
pub const OPERATOR: &[Signal] = &[
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTERM,
    Signal::SIGWINCH,
];

/// What a worker obeys.
const WORKER: &[Signal] = &[Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// The signals of this process, from now on.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    /// Registered at the first wait, so that this can be opened before there is a runtime.
    watch: Option<AsyncFd<Arc<std::os::fd::OwnedFd>>>,
}

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which one.
    pub signal: Signal,
    /// Whether a process sent it (`kill`, `systemctl kill`), not the terminal or the kernel.
    pub from_process: bool,
    /// Who, where a process did; 0 when it is of another PID namespace.
    pub sender: u32,
}

impl Signals {
    /// Blocks all of [`OPERATOR`] and receives them: for masters.
    pub fn block_and_open() -> io::Result<Self> {
        block(OPERATOR)?;
        Self::receive(OPERATOR)
    }

    /// Blocks these and receives them.
    pub fn open(signals: &[Signal]) -> io::Result<Self> {
        block(signals)?;
        Self::receive(signals)
    }

    /// The next signal. Needs a tokio runtime, the same one each time. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Received> {
        if self.watch.is_none() {
            let fd = Arc::new(self.fd.as_fd().try_clone_to_owned()?);
            self.watch = Some(spawn::watch(fd, Interest::READABLE)?);
        }
        loop {
            if let Some(received) = self.try_next()? {
                return Ok(received);
            }
            if let Some(watch) = &self.watch {
                let mut guard = watch.readable().await?;
                // Read before the readiness is cleared, so that none is missed.
                if let Some(received) = read(&self.fd)? {
                    return Ok(received);
                }
                guard.clear_ready();
            }
        }
    }

    /// The next signal if there is one, without waiting.
    pub fn try_next(&mut self) -> io::Result<Option<Received>> {
        read(&self.fd)
    }

    fn receive(signals: &[Signal]) -> io::Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            fd: SignalFd::with_flags(&set(signals), flags)?,
            watch: None,
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// For workers, which `systemctl kill` reaches too: `HUP`, `USR1`, `USR2` and `WINCH` stay pending
/// for ever, which is how they are ignored without ignoring them in the programs an application
/// starts; `TERM`, `INT` and `QUIT` are received.
pub fn ignore_in_worker() -> io::Result<Signals> {
    block(OPERATOR)?;
    Signals::receive(WORKER)
}

/// Blocks these in this thread and those it starts.
pub fn block(signals: &[Signal]) -> io::Result<()> {
    Ok(set(signals).thread_block()?)
}

fn set(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

fn read(fd: &SignalFd) -> io::Result<Option<Received>> {
    loop {
        let info = match fd.read_signal() {
            Ok(Some(info)) => info,
            Ok(None) => return Ok(None),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        };
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        // Only what was asked for arrives, and all of that has a name.
        if let Ok(signal) = Signal::try_from(number) {
            let from_process =
                [libc::SI_USER, libc::SI_QUEUE, libc::SI_TKILL].contains(&info.ssi_code);
            return Ok(Some(Received {
                signal,
                from_process,
                sender: if from_process { info.ssi_pid } else { 0 },
            }));
        }
    }
}
