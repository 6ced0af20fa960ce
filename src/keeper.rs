//! The keeper: without a service manager, and always as a container's first process, the process that
//! was started stays. It starts the first master in a session of its own, gives it what it was passed,
//! is the subreaper of all, forwards the operator's signals to the owner, and exits with the owner's
//! code when the last master has gone.
//!
//! Masters tell it, a line a message, who owns the service (`main PID`), how it goes (`ready`,
//! `status TEXT`, `stopping`), and how long what is left of it may take when no master is there any more
//! (`rest MILLISECONDS`). What it hears of the service it passes on to a service manager outside
//! of the container, if there is one (`NOTIFY_SOCKET`): for that the keeper is the main process, whoever
//! owns the service.
//!
//! So a terminal's resize or hang-up never reaches a master, and a commit, which ends the first
//! master, never ends the foreground job or the container.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    self, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::sys::image::{Image, ImageError};
use crate::sys::inherited::PassedListener;
use crate::sys::notify::{Notifier, NotifyError};
use crate::sys::process::{self, AnyChild, Exit, Other};
use crate::sys::signals::{self, Signals};
use crate::sys::spawn::{self, KEEPER_ENV, Spawn, SpawnError};

/// Why there is nothing to keep.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("cannot keep a service: {0}")]
    Io(#[from] io::Error),
}

/// What a keeper keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    /// What the first master runs, if not what this process runs.
    pub(crate) image: Option<Image>,
    /// What `ps` shows of the first master.
    pub(crate) arg0: String,
    /// The program as executed, for the masters that come after.
    pub(crate) program: PathBuf,
    /// Its arguments: ours.
    pub(crate) args: Vec<OsString>,
    /// The sockets that were passed to us (`LISTEN_FDS`): they are for the first master.
    pub(crate) listeners: Vec<PassedListener>,
    /// The service manager outside.
    pub(crate) notify: Option<Notifier>,
}

/// What a keeper says to its master before anything else.
#[derive(Debug)]
pub(crate) struct Legacy {
    /// The program as executed.
    pub(crate) program: PathBuf,
    /// The sockets that were passed to the keeper.
    pub(crate) listeners: Vec<PassedListener>,
}

impl Kept {
    /// The master is executed by descriptor, and cannot know how it was called; and what was passed
    /// to us names our pid.
    fn tell(&self, pipe: &UnixStream) -> io::Result<()> {
        say(pipe, self.program.as_os_str().as_bytes(), None)?;
        for listener in &self.listeners {
            say(pipe, listener.name.as_bytes(), Some(listener.fd.as_fd()))?;
        }
        say(pipe, b"", None)
    }
}

impl Legacy {
    /// Hears it.
    pub(crate) fn hear(pipe: &OwnedFd) -> io::Result<Self> {
        let pipe = UnixStream::from(pipe.try_clone()?);
        pipe.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (program, _) = hear(&pipe)?;
        let mut listeners = Vec::new();
        loop {
            let (name, fd) = hear(&pipe)?;
            if name.is_empty() {
                break;
            }
            let name = String::from_utf8_lossy(&name).into_owned();
            let fd = fd.ok_or(io::ErrorKind::InvalidData)?;
            listeners.push(PassedListener::new(name, fd)?);
        }
        Ok(Self {
            program: OsStr::from_bytes(&program).into(),
            listeners,
        })
    }
}

/// A word, and what goes with it.
fn say(pipe: &UnixStream, word: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = [word, &[0]].concat();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let mut sent = 0;
    while sent < bytes.len() {
        let rest = [IoSlice::new(&bytes[sent..])];
        match net::sendmsg(pipe, &rest, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(n) => {
                sent += n;
                // The descriptor went with the first byte.
                ancillary.clear();
            }
            // More descriptors are on their way than we may have open: the other side takes them
            // out (unix(7)).
            Err(Errno::TOOMANYREFS) => {
                let moment = Timespec {
                    tv_sec: 0,
                    tv_nsec: 1_000_000,
                };
                let _ = rustix::event::poll(&mut [], Some(&moment));
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn hear(pipe: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let (mut word, mut fd) = (Vec::new(), None);
    loop {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = net::recvmsg(
            pipe,
            &mut [IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last().or(fd);
            }
        }
        match (received.bytes, byte) {
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (_, [0]) => return Ok((word, fd)),
            (_, [byte]) => word.push(byte),
        }
    }
}

/// Keeps a service until it has gone; the exit code.
pub(crate) fn keep(mut kept: Kept) -> Result<u8, KeeperError> {
    process::set_subreaper()?;
    process::set_name("keeper");
    let mut signals = Signals::open(&[
        Signal::SIGCHLD,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
    ])?;
    let (news, pipe) = UnixStream::pair()?;
    let running;
    let image = if let Some(image) = &kept.image {
        image
    } else {
        running = Image::running()?;
        &running
    };
    let mut spec = Spawn::new(image.as_fd(), kept.arg0.clone());
    spec.args.clone_from(&kept.args);
    spec.channel = Some((KEEPER_ENV, pipe.into()));
    spec.blocked = signals::BLOCKED_AT_EXEC;
    spec.new_session = true;
    // It is reaped by its number, and its descriptor goes with the next owner's name.
    let first = spawn::spawn(spec)?.handle();
    // Only now that somebody listens: a pipe takes some hundred descriptors and then waits.
    match kept.tell(&news) {
        // It has ended; what it came to is seen below.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        told => told?,
    }
    let notify = kept.notify.take();
    drop(kept);
    news.set_nonblocking(true)?;
    let mut keeper = Keeper {
        news: Some(news),
        notify,
        line: Vec::new(),
        owner: first.pid(),
        held: Some(first),
        ended: None,
        stop: None,
        is_hurried: false,
        rest: Duration::ZERO,
        until: None,
        unsaid: None,
    };
    keeper.watch(&mut signals)
}

#[derive(Debug)]
struct Keeper {
    /// What masters say; EOF: no master is left.
    news: Option<UnixStream>,
    notify: Option<Notifier>,
    line: Vec<u8>,
    owner: u32,
    /// It, since it was named: once it has ended, its number may be anybody's.
    held: Option<Other>,
    /// How the owner ended.
    ended: Option<Exit>,
    /// A signal that ends the service: whoever owns it later gets it too.
    stop: Option<Signal>,
    /// One of them came when no master was left.
    is_hurried: bool,
    /// For what is left when the last master has gone.
    rest: Duration,
    /// The last master has gone, and nobody else ends what it left.
    until: Option<Instant>,
    /// READY, with its text, which the manager outside has not taken yet. A master said it once.
    unsaid: Option<String>,
}

/// Between two tries to say READY to a manager that does not read, or to end what is left.
const AGAIN: Duration = Duration::from_secs(1);

impl Keeper {
    fn watch(&mut self, signals: &mut Signals) -> Result<u8, KeeperError> {
        loop {
            let signals_fd = signals.as_fd();
            let mut polled = vec![PollFd::new(&signals_fd, PollFlags::IN)];
            if let Some(news) = &self.news {
                polled.push(PollFd::new(news, PollFlags::IN));
            }
            let again = self.pause().and_then(|pause| pause.try_into().ok());
            match rustix::event::poll(&mut polled, again.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(io::Error::from(e).into()),
            }
            drop(polled);
            // Why not was said the first time.
            let _ = self.say_ready();
            // First who owns the service, then who ended.
            self.read_news();
            while let Some(received) = signals.try_next()? {
                self.signalled(received.signal, received.from_process);
            }
            // Reaped in any case: a SIGCHLD stands for one or more.
            loop {
                match process::reap_any()? {
                    AnyChild::Reaped(pid, exit) if pid == self.owner => self.ended = Some(exit),
                    AnyChild::Reaped(..) => {}
                    AnyChild::Running => break,
                    AnyChild::None => return Ok(self.code()),
                }
            }
            self.end_what_is_left();
        }
    }

    /// How long nothing need be done.
    fn pause(&self) -> Option<Duration> {
        let left = self
            .until
            .map(|until| until.saturating_duration_since(Instant::now()));
        let overdue = left.is_some_and(|left| left.is_zero() || self.is_hurried);
        let again = self.unsaid.is_some() || overdue;
        again.then_some(AGAIN).or(left)
    }

    /// Workers of a master that died finish what they were asked, and so do those of generations before it:
    /// nobody is left who would end one that hangs. The last word of a service that was stopped is its
    /// own: its applications may take longer.
    fn end_what_is_left(&mut self) {
        if self.news.is_some() {
            return;
        }
        let how = match &self.ended {
            Some(Exit::Code(0)) => return,
            Some(exit) => exit.to_string(),
            // It is about to be reaped.
            None if process::children().contains(&self.owner) => return,
            None => "has gone".into(),
        };
        let now = Instant::now();
        let until = self.until.unwrap_or_else(|| {
            complain(format_args!(
                "handover: the owner (master {}) {how}, and there is no other master: nobody serves. What is \
                 left ({} processes) has {} to finish; TERM ends it at once",
                self.owner,
                process::children().len(),
                humantime::format_duration(self.rest),
            ));
            now + self.rest
        });
        self.until = Some(until);
        if now < until && !self.is_hurried {
            return;
        }
        for pid in process::children() {
            if let Ok(Some(left)) = Other::open(pid) {
                let _ = left.signal(Signal::SIGKILL);
            }
        }
    }

    fn signalled(&mut self, signal: Signal, from_process: bool) {
        match signal {
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => {
                self.stop = Some(signal);
                self.is_hurried |= self.news.is_none();
                self.forward(signal);
            }
            // Only from a process: a terminal that hangs up or is resized means nothing.
            Signal::SIGHUP | Signal::SIGUSR1 | Signal::SIGUSR2 if from_process => {
                self.forward(signal);
            }
            _ => {}
        }
    }

    fn forward(&self, signal: Signal) {
        if let Some(owner) = &self.held {
            let _ = owner.signal(signal);
        }
    }

    fn read_news(&mut self) {
        let Some(news) = &mut self.news else { return };
        let mut bytes = [0; 256];
        loop {
            match news.read(&mut bytes) {
                Ok(0) => {
                    self.news = None;
                    break;
                }
                Ok(n) => self.line.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        while let Some(end) = self.line.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            self.heard(String::from_utf8_lossy(&line).trim_end());
        }
    }

    fn heard(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number: Option<u32> = rest.parse().ok();
        if let ("rest", Some(ms)) = (word, number) {
            self.rest = Duration::from_millis(ms.into());
        }
        if let ("main", Some(pid)) = (word, number.filter(|pid| *pid != self.owner)) {
            self.owner = pid;
            self.held = Other::open(pid).ok().flatten();
            self.ended = None;
            if let Some(signal) = self.stop {
                self.forward(signal);
            }
        }
        if word == "ready" && self.notify.is_some() {
            self.unsaid = Some(rest.to_owned());
        }
        let ready = match word {
            "ready" => self.say_ready(),
            _ => Ok(()),
        };
        let Some(notify) = &self.notify else { return };
        let told = match word {
            "ready" => ready,
            "status" => notify.status(rest),
            "stopping" => notify.stopping(),
            _ => Ok(()),
        };
        if let Err(e) = told {
            complain(format_args!("{e}"));
        }
    }

    fn say_ready(&mut self) -> Result<(), NotifyError> {
        let (Some(notify), Some(text)) = (&self.notify, &self.unsaid) else {
            return Ok(());
        };
        let told = notify.ready(text, None);
        if told.as_ref().err().is_none_or(NotifyError::is_for_good) {
            self.unsaid = None;
        }
        told
    }

    /// The owner's exit code, as a shell has it.
    fn code(&self) -> u8 {
        match self.ended {
            Some(Exit::Code(code)) => u8::try_from(code).unwrap_or(1),
            Some(Exit::Signal(signal, _)) => u8::try_from(128 + signal).unwrap_or(1),
            Some(Exit::Lost) | None => 1,
        }
    }
}

/// A terminal that has gone takes no words.
fn complain(words: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{words}");
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A master has said it once, and believes that it was heard.
    #[test]
    fn a_ready_that_the_manager_did_not_take_is_said_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notify = Notifier::new(path.as_os_str()).unwrap();
        while notify.status("busy").is_ok() {}
        let mut keeper = Keeper {
            news: None,
            notify: Some(notify),
            line: Vec::new(),
            owner: 9,
            held: None,
            ended: None,
            stop: None,
            is_hurried: false,
            rest: Duration::ZERO,
            until: None,
            unsaid: None,
        };
        keeper.heard("ready serves");
        assert!(keeper.unsaid.is_some() && keeper.say_ready().is_err());
        let mut said = [0; 999];
        while manager.recv(&mut said).is_ok() {}
        keeper.say_ready().unwrap();
        assert_eq!(keeper.unsaid, None);
        let length = manager.recv(&mut said).unwrap();
        let text = String::from_utf8_lossy(&said[..length]);
        assert!(text.contains("READY=1"), "{text}");
    }
}
