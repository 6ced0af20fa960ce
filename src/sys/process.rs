//! Processes, held by pidfd so that a number that was used again never gets our signal.
//!
//! A [`Process`] is a child of ours: its end can be seen ([`Process::exited`], [`Process::peek`])
//! before it is reaped ([`Process::reap`]), which systemd needs (a dead main process must stay a
//! zombie until another one is named). An [`Other`] is anybody else. Dropping either does nothing
//! to the process.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;

/// A child of ours, running or dead but not yet reaped.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: Pidfd,
    output: Option<OwnedFd>,
    reaped: Option<Exit>,
}

/// A process that is not our child.
#[derive(Debug)]
pub struct Other {
    pid: u32,
    pidfd: Pidfd,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It left by itself.
    Code(i32),
    /// A signal ended it; the flag says whether it left a core dump.
    Signal(i32, bool),
    /// Somebody else reaped it (cannot happen while every child is started and reaped here).
    Lost,
}

/// What [`reap_any`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnyChild {
    /// This one ended and was reaped.
    Reaped(u32, Exit),
    /// There are children, and all are running.
    Running,
    /// We have no children.
    None,
}

impl Process {
    /// Takes a child that nobody has reaped. Fails when no descriptor is left or it is no child.
    pub(super) fn of_child(pid: u32, output: Option<OwnedFd>) -> io::Result<Self> {
        let pidfd = Pidfd::open(pid)?.ok_or_else(|| io::Error::from(Errno::SRCH))?;
        Ok(Self {
            pid,
            pidfd,
            output,
            reaped: None,
        })
    }

    /// Its number. After [`Process::reap`] the kernel may give it to somebody else.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its pidfd, for `MAINPIDFDID` and poll(2).
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.fd.as_fd()
    }

    /// The read end of its stdout and stderr, when it was started with
    /// [`Output::Piped`](super::spawn::Output::Piped); the first call takes it.
    pub fn take_output(&mut self) -> Option<OwnedFd> {
        self.output.take()
    }

    /// Reads its piped output into `text` until it has ended, without reaping it: at most `limit`
    /// bytes, the rest is thrown away, lest it blocks. What a process of *its* still holds the pipe
    /// for is not waited for. When this is dropped at a deadline, `text` has what came so far. Needs
    /// a tokio runtime, and does nothing but wait when the output was taken or not piped.
    pub async fn read_output(&mut self, limit: usize, text: &mut Vec<u8>) -> io::Result<()> {
        if let Some(output) = self.output.take() {
            let mut pipe = pipe::Receiver::from_owned_fd(output)?;
            let mut chunk = [0; 4096];
            loop {
                let read = tokio::select! {
                    biased;
                    read = pipe.read(&mut chunk) => read?,
                    ended = self.exited() => {
                        ended?;
                        match pipe.try_read(&mut chunk) {
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                            read => read?,
                        }
                    }
                };
                if read == 0 {
                    break;
                }
                let room = limit.saturating_sub(text.len());
                text.extend_from_slice(&chunk[..read.min(room)]);
            }
        }
        self.exited().await
    }

    /// Sends a signal; one that has already gone is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.pidfd.signal(signal)
    }

    /// Kills everybody in the group that it leads, itself included. Its number is its group's as
    /// long as it is not reaped; a group that has gone is no error.
    pub fn kill_group(&self) -> io::Result<()> {
        let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        if self.reaped.is_some() {
            return Ok(());
        }
        match rustix::process::kill_process_group(group, rustix::process::Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The same process, for somebody who waits for its end or signals it, and does not reap it. Takes
    /// no descriptor, so this works when none is left.
    #[must_use]
    pub fn handle(&self) -> Other {
        Other {
            pid: self.pid,
            pidfd: self.pidfd.clone(),
        }
    }

    /// Waits until it has ended, without reaping it. Needs a tokio runtime, the same one each time.
    pub async fn exited(&self) -> io::Result<()> {
        self.pidfd.gone().await
    }

    /// Blocks this thread until it has ended, at most so long; `false` when it still runs.
    pub fn exited_within(&self, limit: Duration) -> io::Result<bool> {
        self.pidfd.gone_within(limit)
    }

    /// How it ended, without reaping it; `None` while it runs.
    #[must_use]
    pub fn peek(&self) -> Option<Exit> {
        self.reaped.or_else(|| {
            self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG)
        })
    }

    /// Reaps it and says how it ended; blocks while it runs. A second call says the same again.
    pub fn reap(&mut self) -> Exit {
        if self.reaped.is_none() {
            self.reaped = self.wait(WaitIdOptions::EXITED).or(Some(Exit::Lost));
        }
        self.reaped.unwrap_or(Exit::Lost)
    }

    fn wait(&self, options: WaitIdOptions) -> Option<Exit> {
        let waited = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(self.pidfd()), options)
        });
        match waited {
            Ok(status) => status.map(|s| Exit::from_status(&s)),
            Err(_) => Some(Exit::Lost),
        }
    }
}

impl Other {
    /// Holds a process by its number; `None` when there is none. A zombie counts as one.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        Ok(Pidfd::open(pid)?.map(|pidfd| Self { pid, pidfd }))
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its pidfd.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.fd.as_fd()
    }

    /// Sends a signal; one that has already gone is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.pidfd.signal(signal)
    }

    /// Kills everybody in the group that it leads, while it lives: then its number is its own.
    pub fn kill_group(&self) -> io::Result<()> {
        let group = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let (Some(group), false) = (group, self.gone_within(Duration::ZERO)?) {
            match rustix::process::kill_process_group(group, rustix::process::Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.signal(Signal::SIGKILL)
    }

    /// Waits until it has ended. Needs a tokio runtime, the same one each time.
    pub async fn gone(&self) -> io::Result<()> {
        self.pidfd.gone().await
    }

    /// Blocks this thread until it has ended, at most so long; `false` when it still runs.
    pub fn gone_within(&self, limit: Duration) -> io::Result<bool> {
        self.pidfd.gone_within(limit)
    }
}

impl Exit {
    /// Whether it left with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    fn from_status(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal, status.dumped()),
            (None, None) => Self::Lost,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number, core) => {
                match Signal::try_from(number) {
                    Ok(signal) => write!(f, "was killed by {signal}")?,
                    Err(_) => write!(f, "was killed by signal {number}")?,
                }
                if core {
                    f.write_str(" (core dumped)")?;
                }
                Ok(())
            }
            Self::Lost => f.write_str("was reaped by somebody else"),
        }
    }
}

/// A pidfd, readable from the moment the process has ended.
#[derive(Debug, Clone)]
struct Pidfd {
    fd: Arc<OwnedFd>,
    /// Registered at the first wait, so that a process can be held without a runtime.
    watch: Arc<Mutex<Option<Watch>>>,
}

type Watch = Arc<AsyncFd<Arc<OwnedFd>>>;

/// How often a process is looked at whose end the runtime cannot report.
const POLL: Duration = Duration::from_secs(1);

impl Pidfd {
    fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self {
                fd: Arc::new(fd),
                watch: Arc::default(),
            })),
            Err(Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let signal = rustix::process::Signal::from_named_raw(signal as i32)
            .ok_or_else(|| io::Error::from(Errno::INVAL))?;
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Never returns before the process has ended, but with an error of poll(2).
    async fn gone(&self) -> io::Result<()> {
        if let Ok(watch) = self.watched() {
            // Never cleared: once ended it stays ended.
            if let Ok(mut guard) = watch.readable().await {
                guard.retain_ready();
                return Ok(());
            }
        }
        // epoll(7) takes no more (`max_user_watches`).
        while !self.gone_within(Duration::ZERO)? {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn watched(&self) -> io::Result<Watch> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = &*watch {
            return Ok(watch.clone());
        }
        let new = Arc::new(super::kernel::watch(self.fd.clone(), Interest::READABLE)?);
        *watch = Some(new.clone());
        Ok(new)
    }

    fn gone_within(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(|_| io::Error::from(Errno::INVAL))?;
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut fds, Some(&limit)) {
                Ok(ready) => return Ok(ready > 0),
                // Starts over; nothing here installs signal handlers.
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Reaps whichever child has ended, one a call, without blocking: for a subreaper, which inherits
/// children it did not start. It takes those of [`Process`] too; they read [`Exit::Lost`] then.
pub fn reap_any() -> io::Result<AnyChild> {
    match rustix::io::retry_on_intr(|| rustix::process::wait(WaitOptions::NOHANG)) {
        Err(Errno::CHILD) => Ok(AnyChild::None),
        Err(e) => Err(e.into()),
        Ok(None) => Ok(AnyChild::Running),
        Ok(Some((pid, status))) => {
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal, status.as_raw() & CORE_FLAG != 0),
                (None, None) => Exit::Lost,
            };
            Ok(AnyChild::Reaped(
                pid.as_raw_nonzero().get().unsigned_abs(),
                exit,
            ))
        }
    }
}

/// The children of this process, those that it did not start included.
#[must_use]
pub fn children() -> Vec<u32> {
    children_of("self")
}

fn children_of(process: &str) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let mut all = Vec::new();
    for list in lists {
        all.extend(
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    all
}

/// What all descendants of this process would give back to the system by leaving, in KiB.
#[must_use]
pub fn descendants_private_kib() -> u64 {
    let all = with_descendants(children());
    all.into_iter().map(private_kib).sum()
}

/// These processes, then all that they started.
pub(super) fn with_descendants(mut all: Vec<u32>) -> Vec<u32> {
    let mut at = 0;
    while at < all.len() {
        all.extend(children_of(&all[at].to_string()));
        at += 1;
    }
    all
}

/// What a process was started with, unless it has written over that since.
#[must_use]
pub fn variable(pid: u32, name: &str) -> Option<String> {
    let all = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut all = all.split(|b| *b == 0);
    let found = all.find_map(|one| one.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(found.to_vec()).ok()
}

/// Reaps children that have ended and that nobody here waits for: a subreaper inherits them. Those
/// of `ours` are left alone.
pub fn reap_orphans(ours: &[u32]) {
    for child in children().into_iter().filter(|pid| !ours.contains(pid)) {
        if let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let _ = rustix::process::waitid(WaitId::Pid(pid), options);
        }
    }
}

/// `WCOREFLAG` of a wait status.
const CORE_FLAG: i32 = 0x80;

/// Makes orphaned descendants become our children (`PR_SET_CHILD_SUBREAPER`).
pub fn set_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Names this thread, and from the main thread the process, for `ps` and `top`
/// (`PR_SET_NAME`; 15 bytes, the rest is cut; NUL bytes are left out).
pub fn set_name(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|b| *b != 0).take(15).collect();
    if let Ok(name) = CString::new(bytes) {
        // It cannot fail with a valid address.
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// What a process would give back to the system by leaving: its private memory in KiB
/// (`Private_*` of `/proc/PID/smaps_rollup`); 0 when it cannot be read.
#[must_use]
pub fn private_kib(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_or(0, |text| sum_private(&text))
}

fn sum_private(text: &str) -> u64 {
    text.lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// The control group systemd put a process in (`/system.slice/x.service`); `None` when it cannot
/// be read.
#[must_use]
pub fn cgroup_of(pid: u32) -> Option<PathBuf> {
    systemd_cgroup(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// A process's parent; 0 for the first of its namespace, `None` when it cannot be seen.
#[must_use]
pub fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// On a host with both hierarchies systemd's own is `name=systemd`, else it is the unified one.
fn systemd_cgroup(text: &str) -> Option<PathBuf> {
    let find = |controllers: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (name, path) = rest.split_once(':')?;
            (name == controllers).then(|| PathBuf::from(path))
        })
    };
    // A container with a hierarchy of its own on such a host is at the root of the host's.
    let at_root = |path: &PathBuf| path.parent().is_none();
    match find("name=systemd") {
        Some(path) if !at_root(&path) => Some(path),
        root => find("").or(root),
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;

    use super::*;
    use crate::sys::helper;
    use crate::sys::spawn::tests::{open, started};
    use crate::sys::spawn::{Output, Spawn, WORKER_ENV, spawn};

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn peek_shows_the_exit_and_leaves_the_zombie_that_reap_removes() {
        let mut child = started("/bin/sh", &["-c", "exit 3"]);
        assert!(child.exited_within(SOON).unwrap());
        assert_eq!(child.peek(), Some(Exit::Code(3)));
        assert_eq!(child.peek(), Some(Exit::Code(3)));
        assert_eq!(state(child.pid()), Some('Z'));
        assert_eq!(child.reap(), Exit::Code(3));
        assert_eq!(state(child.pid()), None);
        assert_eq!(child.reap(), Exit::Code(3));
        assert_eq!(child.peek(), Some(Exit::Code(3)));
        child.signal(Signal::SIGTERM).unwrap();
    }

    #[test]
    fn a_signal_ends_it_and_is_named() {
        let mut child = started("/bin/sleep", &["60"]);
        assert_eq!(child.peek(), None);
        assert!(!child.exited_within(Duration::from_millis(1)).unwrap());
        child.signal(Signal::SIGKILL).unwrap();
        assert_eq!(child.reap(), Exit::Signal(9, false));
        assert_eq!(child.reap().to_string(), "was killed by SIGKILL");
    }

    #[test]
    fn what_is_dropped_lives_on() {
        let child = started("/bin/sleep", &["60"]);
        let pid = child.pid();
        let other = Other::open(pid).unwrap().unwrap();
        drop(child);
        assert!(state(pid).is_some_and(|state| state != 'Z'));
        other.signal(Signal::SIGKILL).unwrap();
        assert!(other.gone_within(SOON).unwrap());
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), None);
        other.signal(Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn a_handle_takes_no_descriptor_and_never_says_that_a_living_one_has_gone() {
        let mut child = started("/bin/sleep", &["60"]);
        let before = fs::read_dir("/proc/self/fd").unwrap().count();
        let handles: Vec<Other> = (0..1000).map(|_| child.handle()).collect();
        let after = fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(after < before + 500, "{before} descriptors, then {after}");
        let short = Duration::from_millis(50);
        let gone = tokio::time::timeout(short, handles[0].gone()).await;
        assert!(gone.is_err(), "it lives");
        handles[1].signal(Signal::SIGKILL).unwrap();
        tokio::time::timeout(SOON, handles[2].gone())
            .await
            .expect("it has gone")
            .unwrap();
        assert_eq!(child.reap(), Exit::Signal(9, false));
    }

    #[tokio::test]
    async fn its_end_wakes_everybody_who_waits() {
        let mut child = started("/bin/sleep", &["60"]);
        let other = Other::open(child.pid()).unwrap().unwrap();
        let kill = async {
            tokio::task::yield_now().await;
            child.signal(Signal::SIGTERM)
        };
        let all = async { tokio::join!(child.exited(), child.exited(), other.gone(), kill) };
        let (a, b, c, d) = tokio::time::timeout(SOON, all).await.unwrap();
        a.and(b).and(c).and(d).unwrap();
        // And again, after the fact.
        tokio::time::timeout(SOON, child.exited())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(child.reap(), Exit::Signal(15, false));
    }

    fn piped(script: &str) -> Process {
        spawn(Spawn {
            args: vec!["-c".into(), script.into()],
            output: Output::Piped,
            ..Spawn::new(open("/bin/sh").as_fd(), "sh")
        })
        .unwrap()
    }

    #[tokio::test]
    async fn output_is_read_to_the_end_and_no_longer_than_wanted() {
        // More than a pipe holds.
        let mut child = piped("head -c 300000 /dev/zero; echo end; exit 4");
        let mut text = Vec::new();
        tokio::time::timeout(SOON, child.read_output(1000, &mut text))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(text.len(), 1000);
        assert_eq!(child.reap(), Exit::Code(4));

        let mut child = piped("echo out; echo err >&2");
        let mut text = Vec::new();
        child.read_output(1000, &mut text).await.unwrap();
        assert_eq!(text, b"out\nerr\n");
        child.read_output(1000, &mut text).await.unwrap();
        assert!(child.reap().success());
    }

    #[tokio::test]
    async fn who_else_holds_the_pipe_is_not_waited_for() {
        let mut child = piped("sleep 60 & echo $!");
        let mut text = Vec::new();
        tokio::time::timeout(SOON, child.read_output(1000, &mut text))
            .await
            .unwrap()
            .unwrap();
        let sleeper = String::from_utf8(text).unwrap().trim().parse().unwrap();
        let sleeper = Other::open(sleeper).unwrap().unwrap();
        sleeper.signal(Signal::SIGKILL).unwrap();
        assert!(child.reap().success());
    }

    #[tokio::test]
    async fn what_came_before_the_deadline_is_there() {
        let mut child = piped("echo hanging; kill -STOP $$");
        let mut text = Vec::new();
        let wait = tokio::time::timeout(Duration::from_secs(1), async {
            child.read_output(1000, &mut text).await.unwrap();
        });
        assert!(wait.await.is_err());
        assert_eq!(text, b"hanging\n");
        child.signal(Signal::SIGKILL).unwrap();
        child.reap();
    }

    #[test]
    fn nobody_has_that_number() {
        let mut child = started("/bin/true", &[]);
        let pid = child.pid();
        child.reap();
        assert!(Other::open(pid).unwrap().is_none());
        assert!(Other::open(0).unwrap().is_none());
        assert!(Other::open(u32::MAX).unwrap().is_none());
    }

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(Exit::Code(3).to_string(), "exited with code 3");
        assert_eq!(
            Exit::Signal(11, true).to_string(),
            "was killed by SIGSEGV (core dumped)"
        );
        assert_eq!(
            Exit::Signal(40, false).to_string(),
            "was killed by signal 40"
        );
        assert!(Exit::Code(0).success());
        assert!(!Exit::Signal(0, false).success());
    }

    /// In a process of its own: wait(2) for any child would take those of other tests.
    #[test]
    #[ignore = "run by the next test"]
    fn adopts() {
        if !helper::is_helper() {
            return;
        }
        set_subreaper().unwrap();
        assert_eq!(reap_any().unwrap(), AnyChild::None);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut parent = spawn(Spawn {
            args: vec![
                "-c".into(),
                "(read line <&3; exit 7) & echo $!; exit 3".into(),
            ],
            channel: Some((WORKER_ENV, theirs.into())),
            output: Output::Piped,
            ..Spawn::new(open("/bin/sh").as_fd(), "sh")
        })
        .unwrap();
        let mut said = String::new();
        std::io::BufReader::new(fs::File::from(parent.take_output().unwrap()))
            .read_line(&mut said)
            .unwrap();
        let orphan: u32 = said.trim().parse().unwrap();
        assert_eq!(parent.reap(), Exit::Code(3));
        assert_eq!(reap_any().unwrap(), AnyChild::Running);
        let other = Other::open(orphan).unwrap().unwrap();
        drop(ours);
        assert!(other.gone_within(SOON).unwrap());
        assert_eq!(reap_any().unwrap(), AnyChild::Reaped(orphan, Exit::Code(7)));
        assert_eq!(reap_any().unwrap(), AnyChild::None);
        helper::say("reaped the orphan");
    }

    #[test]
    fn a_subreaper_gets_the_orphans() {
        let said = helper::run(&mut helper::command("", "sys::process::tests::adopts"));
        assert_eq!(said, ["reaped the orphan"]);
    }

    #[test]
    fn memory_is_summed_over_the_private_lines() {
        let text = "Rss: 900 kB\nPrivate_Clean: 12 kB\nPrivate_Dirty:       30 kB\n\
                    Private_Hugetlb: 0 kB\nSwap: 7 kB\n";
        assert_eq!(sum_private(text), 42);
        assert!(private_kib(std::process::id()) > 100);
        assert_eq!(private_kib(u32::MAX), 0);
    }

    #[test]
    fn the_control_group_is_systemds() {
        let hybrid = "4:memory:/x\n1:name=systemd:/system.slice/a:b.service\n0::/\n";
        let unified = "0::/system.slice/handover.service\n";
        assert_eq!(
            systemd_cgroup(hybrid),
            Some("/system.slice/a:b.service".into())
        );
        assert_eq!(
            systemd_cgroup(unified),
            Some("/system.slice/handover.service".into())
        );
        let inside = "1:name=systemd:/\n0::/system.slice/handover.service\n";
        assert_eq!(
            systemd_cgroup(inside),
            Some("/system.slice/handover.service".into())
        );
        assert_eq!(systemd_cgroup("1:name=systemd:/\n"), Some("/".into()));
        assert_eq!(systemd_cgroup("4:memory:/x\n"), None);
        assert!(cgroup_of(std::process::id()).is_some());
    }

    #[test]
    fn a_name_is_cut_to_what_the_kernel_keeps() {
        std::thread::spawn(|| {
            set_name("handover\0: parked g7");
            assert_eq!(
                nix::sys::prctl::get_name().unwrap().to_bytes(),
                b"handover: parke"
            );
        })
        .join()
        .unwrap();
    }

    /// The letter of its state; `None` when there is no such process.
    fn state(pid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}
