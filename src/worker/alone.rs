//! A worker that hangs when its master dies: nobody is left who would replace it, and its clients would
//! wait for ever. A thread of its own sees the master's end, and ends the process unless the event loop
//! has heard of it, too, within the time that is there for a drain: it may be a request that holds it up.
//!
//! What a signal has stopped (`SIGSTOP`) has no thread that runs, either. Whoever stopped it lets it go
//! on, or it ends with the service: by the unit's control group, or by the keeper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};

use crate::config::Drain;
use crate::sys::handoff;
use crate::sys::process::Other;

/// The way to that thread. Dropping it says that nobody need be ended.
#[derive(Debug)]
pub(super) struct Alone(Sender<()>);

/// How long an event loop may not have heard of its master's end.
#[derive(Debug, PartialEq, Eq)]
struct Patience {
    /// In any case.
    first: Duration,
    /// And while another generation lives.
    rest: Duration,
    /// `handoff.sock`: its owner lives.
    handoff: Option<PathBuf>,
}

/// An event loop that has not heard of its master's end for so long after it should have left hangs.
const MARGIN: Duration = Duration::from_secs(2);

/// The thread only waits.
const STACK: usize = 64 * 1024;

impl Alone {
    /// `master` is our end of the channel to it. `None`, and a word in the log, when that cannot be:
    /// without it a worker serves all the same.
    pub(super) fn watch(
        master: BorrowedFd<'_>,
        drain: &Drain,
        handoff: Option<&Path>,
    ) -> Option<Self> {
        let patience = Patience::of(drain, handoff);
        let begun = || -> io::Result<Self> {
            let master = master.try_clone_to_owned()?;
            let (heard, news) = channel();
            thread::Builder::new()
                .name("master's end".into())
                .stack_size(STACK)
                .spawn(move || watch(&master, &news, &patience))?;
            Ok(Self(heard))
        };
        let failed = |e| tracing::warn!("nobody would end this worker if it hung alone: {e}");
        begun().map_err(failed).ok()
    }

    /// The event loop knows that the master has gone.
    pub(super) fn heard(&self) {
        let _ = self.0.send(());
    }
}

impl Patience {
    fn of(drain: &Drain, handoff: Option<&Path>) -> Self {
        let limit = match drain.timeout {
            // Who drains without a limit does so with an event loop that turns.
            Duration::ZERO => Drain::default().timeout,
            limit => limit,
        };
        Self {
            first: drain.stop_timeout + MARGIN,
            rest: limit.saturating_sub(drain.stop_timeout),
            handoff: handoff.map(Path::to_owned),
        }
    }

    /// Waits until the event loop has heard. True: it has not in time.
    fn is_over(&self, heard: &Receiver<()>) -> bool {
        let silent = |limit| heard.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        let lives = || self.handoff.as_deref().is_some_and(handoff::is_held);
        silent(self.first) && (!lives() || silent(self.rest))
    }
}

fn watch(master: &OwnedFd, heard: &Receiver<()>, patience: &Patience) {
    let mut ends = [PollFd::from_borrowed_fd(master.as_fd(), PollFlags::empty())];
    while let Err(rustix::io::Errno::INTR) = poll(&mut ends, None) {}
    if ends[0].revents().contains(PollFlags::HUP) && patience.is_over(heard) {
        tracing::error!("this worker hangs, and its master has gone: it ends");
        if let Ok(Some(this)) = Other::open(std::process::id()) {
            let _ = this.signal(Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio_seqpacket::UnixSeqpacketListener;

    use super::*;

    #[tokio::test]
    async fn it_has_the_time_of_a_drain_while_another_generation_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handoff.sock");
        let rest = Duration::from_millis(300);
        let patience = |rest| Patience {
            first: Duration::from_millis(1),
            rest,
            handoff: Some(path.clone()),
        };
        let (event_loop, heard) = channel();
        let for_ever = patience(Duration::MAX);
        let is_over_at_once = || for_ever.is_over(&heard);
        assert!(is_over_at_once(), "nobody has ever been there");
        let owner = UnixSeqpacketListener::bind(&path).unwrap();
        let began = Instant::now();
        assert!(patience(rest).is_over(&heard));
        assert!(began.elapsed() >= rest);
        event_loop.send(()).unwrap();
        assert!(!for_ever.is_over(&heard));
        drop(owner);
        assert!(is_over_at_once(), "its socket is left");
        drop(event_loop);
        assert!(!for_ever.is_over(&heard), "the worker ends by itself");
    }

    #[test]
    fn a_drain_without_a_limit_gives_it_the_usual_one() {
        let second = Duration::from_secs(1);
        let rest = |timeout| {
            let drain = Drain {
                timeout,
                stop_timeout: second,
                ..Drain::default()
            };
            Patience::of(&drain, None).rest
        };
        assert_eq!(rest(60 * second), 59 * second);
        assert_eq!(rest(Duration::ZERO), 599 * second);
        assert_eq!(rest(second / 2), Duration::ZERO);
    }
}
