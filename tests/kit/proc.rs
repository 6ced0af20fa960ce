//! Processes as `/proc` shows them. What belongs to a service carries a marker in its environment.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// The environment variable that every process of a service inherits.
pub const MARKER: &str = "HANDOVER_KIT";

/// One process, at the moment it was looked at.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its session's.
    pub session: u32,
    /// `R`, `S`, `Z`...
    pub state: char,
    /// In clock ticks since boot: with the pid it names one process for ever.
    pub started: u64,
    /// `/proc/PID/comm`: the thread name (a master's phase).
    pub comm: String,
    /// Its arguments, `arg0` first; empty for a zombie, and while it executes or exits.
    pub args: Vec<String>,
}

/// What `arg0` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `<name>: master process g7`, or the thread name `g7 <phase>`
    Master(u64),
    /// `<name>: worker process g7`
    Worker(u64),
    /// The keeper, a client, a bad release.
    Other,
}

/// The same process; what it does may differ from one look to the next.
impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }
}

impl Eq for Process {}

impl Process {
    /// Looks at one process; `None` when there is none.
    pub fn look(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (start, rest) = stat.rsplit_once(')')?;
        let (_, comm) = start.split_once('(')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args = cmdline
            .split(|b| *b == 0)
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect::<Vec<_>>();
        let args = match args.split_last() {
            Some((last, args)) if last.is_empty() => args.to_vec(),
            _ => args,
        };
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            started: fields.get(19)?.parse().ok()?,
            comm: comm.to_owned(),
            args,
        })
    }

    /// Whether it has ended and only waits to be reaped.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// What it calls itself.
    pub fn role(&self) -> Role {
        let arg0 = self.args.first().map_or("", String::as_str);
        let generation = |word: &str| -> Option<u64> {
            let (_, rest) = arg0.split_once(word)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        if let Some(generation) = generation(": master process g") {
            Role::Master(generation)
        } else if let Some(generation) = generation(": worker process g") {
            Role::Worker(generation)
        } else if let Some(generation) = self.generation_by_thread_name() {
            Role::Master(generation)
        } else {
            Role::Other
        }
    }

    /// `g7 serving`: a master that systemd executed has the name that the unit file gives it.
    fn generation_by_thread_name(&self) -> Option<u64> {
        let (generation, _phase) = self.comm.strip_prefix('g')?.split_once(' ')?;
        generation.parse().ok()
    }

    /// The file it runs; of a replaced one the old name with ` (deleted)`.
    pub fn exe(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} (parent {}) {} [{}] {}",
            self.pid,
            self.parent,
            self.state,
            self.comm,
            self.args.join(" ")
        )
    }
}

/// The numbers of all processes.
pub fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Whether each of its threads is stopped, or it has ended.
pub fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    let stopped = |stat: String| {
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        matches!(state, None | Some('T' | 'Z' | 'X'))
    };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok())
        .all(stopped)
}

/// Whether the process was started with this marker. Never true of a zombie.
pub fn is_marked(pid: u32, marker: &str) -> bool {
    let wanted = format!("{MARKER}={marker}");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|b| *b == 0).any(|var| var == wanted.as_bytes()))
}

/// All processes with the marker, and those of their children that have no memory: zombies, and who is
/// just executing or exiting.
pub fn marked(marker: &str) -> Vec<Process> {
    let (mut found, others): (Vec<_>, Vec<_>) = pids()
        .into_iter()
        .filter_map(|pid| Some((is_marked(pid, marker), Process::look(pid)?)))
        .partition(|(is_marked, _)| *is_marked);
    let without_memory: Vec<_> = others
        .into_iter()
        .filter(|(_, p)| p.args.is_empty() && found.iter().any(|(_, f)| f.pid == p.parent))
        .collect();
    found.extend(without_memory);
    let mut found: Vec<_> = found.into_iter().map(|(_, process)| process).collect();
    found.sort_by_key(|p| p.pid);
    found
}

/// A process that cannot be confused with a later one of the same number.
#[derive(Debug)]
pub struct Pinned {
    /// Its number.
    pub pid: u32,
    fd: OwnedFd,
}

impl Pinned {
    /// Takes hold of a living process (or a zombie); `None` when there is none.
    pub fn open(pid: u32) -> Option<Self> {
        let fd = pidfd_open(number(pid), PidfdFlags::empty()).ok()?;
        Some(Self { pid, fd })
    }

    /// Sends a signal; false when the process has gone.
    pub fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.fd, signal).is_ok()
    }

    /// Whether it has ended (it may still be a zombie).
    pub fn has_ended(&self) -> bool {
        self.wait_ended(Duration::ZERO)
    }

    /// Waits for its end; false when the deadline passed.
    pub fn wait_ended(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).expect("a short time");
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => panic!("cannot poll a pidfd: {e}"),
            }
        }
    }

    /// The pidfd's inode, which names the process for ever (kernel 6.9 and later).
    pub fn inode(&self) -> u64 {
        rustix::fs::fstat(&self.fd).map_or(0, |stat| stat.st_ino)
    }

    /// The descriptor, for polling.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

/// Takes the exit status of our own child that has ended. `None`: it lives, or is not our child.
pub fn reap(pid: u32) -> Option<ExitStatus> {
    use std::os::unix::process::ExitStatusExt;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::Pid(number(pid)), options).ok().flatten()?;
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal | if status.dumped() { 0x80 } else { 0 },
        (None, None) => return None,
    };
    Some(ExitStatus::from_raw(raw))
}

/// The descriptors a process has open, and what they are.
pub fn fds(pid: u32) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let mut fds: Vec<(u32, String)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            let what = fs::read_link(entry.path()).ok()?;
            Some((number, what.to_string_lossy().into_owned()))
        })
        .collect();
    fds.sort();
    fds
}

/// Orphans of everything this process starts become its children, as they become PID 1's under
/// systemd. Holds for the whole test process.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// Kills everything with the marker, again and again until nothing is left, and reaps what is ours.
pub fn kill_marked(marker: &str) -> Result<(), Vec<Process>> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let found = marked(marker);
        for process in &found {
            if let Some(pinned) = Pinned::open(process.pid) {
                let same = Process::look(process.pid).is_some_and(|p| p.started == process.started);
                if same && !process.is_zombie() {
                    pinned.signal(Signal::KILL);
                    pinned.wait_ended(Duration::from_secs(1));
                }
            }
            reap(process.pid);
        }
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(found);
        }
    }
}

fn number(pid: u32) -> Pid {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process has a positive number")
}
