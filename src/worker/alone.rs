//! A worker that hangs when its master dies: nobody is left who would replace it, and its clients would
//! wait for ever. A thread of its own sees the master's end, and ends the process unless the event loop
//! has heard of it, too, within the time that a stop gives.
//!
//! What a signal has stopped (`SIGSTOP`) has no thread that runs, either. Whoever stopped it lets it go
//! on, or it ends with the service: by the unit's control group, or by the keeper.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};

use crate::sys::process::Other;

/// The way to that thread. Dropping it says that nobody need be ended.
#[derive(Debug)]
pub(super) struct Alone(Sender<()>);

/// An event loop that has not heard of its master's end for so long after it should have left hangs.
const MARGIN: Duration = Duration::from_secs(2);

/// The thread only waits.
const STACK: usize = 64 * 1024;

impl Alone {
    /// `master` is our end of the channel to it.
    pub(super) fn watch(master: OwnedFd, limit: Duration) -> io::Result<Self> {
        let (heard, news) = channel();
        thread::Builder::new()
            .name("master's end".into())
            .stack_size(STACK)
            .spawn(move || watch(&master, &news, limit + MARGIN))?;
        Ok(Self(heard))
    }

    /// The event loop knows that the master has gone.
    pub(super) fn heard(&self) {
        let _ = self.0.send(());
    }
}

fn watch(master: &OwnedFd, heard: &Receiver<()>, limit: Duration) {
    let mut ends = [PollFd::from_borrowed_fd(master.as_fd(), PollFlags::empty())];
    while let Err(rustix::io::Errno::INTR) = poll(&mut ends, None) {}
    if !ends[0].revents().contains(PollFlags::HUP) {
        return;
    }
    if heard.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        tracing::error!("this worker hangs, and its master has gone: it ends");
        if let Ok(Some(this)) = Other::open(std::process::id()) {
            let _ = this.signal(Signal::SIGKILL);
        }
    }
}
