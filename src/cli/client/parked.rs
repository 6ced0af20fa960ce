//! The way round an owner that does not answer: a signal to the master parked behind it.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::answerer::Unit;
use crate::cli::places::Places;
use crate::sys::process::{Other, cgroup_of};

/// The master parked behind the owner, as its pid file says and `/proc` confirms.
#[derive(Debug)]
pub(super) struct Parked(Other);

impl Parked {
    /// Finds it, without asking anybody.
    ///
    /// A pid file is a number somebody wrote down, so the process is held first and looked at
    /// then. It must be
    /// * of the user who owns the pid file, who could signal it anyway: a forged file gains nobody
    ///   anything;
    /// * in the unit's control group, where systemd runs the service, and in the owner's;
    /// * the parent of the owner (a predecessor has started its successor), or at least a master
    ///   by its `argv[0]` should the owner have gone.
    pub(super) fn find(places: &Places) -> Result<Self, NotParked> {
        let file = places.old_pid_file();
        let (pid, writer) = read(&file).ok_or_else(|| NotParked::NoFile { file: file.clone() })?;
        let held = Other::open(pid)
            .map_err(|source| NotParked::Open { pid, source })?
            .ok_or(NotParked::Implausible {
                pid,
                why: "it has ended",
            })?;
        let inside = |unit: &Unit| cgroup_of(pid).is_some_and(|cgroup| unit.has(&cgroup));
        let outside = Unit::running(places).is_some_and(|unit| !inside(&unit));
        let outside = outside.then_some("it is no process of the unit");
        match outside.or_else(|| implausible(pid, writer, read_pid(&places.pid_file()))) {
            Some(why) => Err(NotParked::Implausible { pid, why }),
            None => Ok(Self(held)),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// `HUP`: take the service back.
    pub(super) fn wake(&self) -> io::Result<()> {
        self.0.signal(Signal::SIGHUP)
    }
}

/// Nobody can be woken.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotParked {
    #[error("no predecessor is parked ({} names no process)", file.display())]
    NoFile { file: PathBuf },
    #[error("process {pid} is not signalled: {why}")]
    Implausible { pid: u32, why: &'static str },
    #[error("cannot look at process {pid}: {source}")]
    Open { pid: u32, source: io::Error },
}

/// Why this process cannot be the one parked behind `owner`, with `writer` the owner of the file
/// that says it is.
fn implausible(pid: u32, writer: u32, owner: Option<u32>) -> Option<&'static str> {
    let user = fs::metadata(format!("/proc/{pid}")).map(|meta| meta.uid());
    if user.ok() != Some(writer) {
        return Some("it belongs to another user than the pid file");
    }
    if owner.is_some_and(|owner| exists(owner) && cgroup_of(owner) != cgroup_of(pid)) {
        return Some("it is in another cgroup than the owner");
    }
    if owner.and_then(parent) != Some(pid) && !is_master(pid) {
        return Some("it is no master process");
    }
    None
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// proc(5), `status`.
pub(super) fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// Every master but the very first is started with an `argv[0]` of
/// `<name>: master process g<generation>`.
fn is_master(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| named_master(&line))
}

fn named_master(cmdline: &[u8]) -> bool {
    let first = cmdline.split(|&b| b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(first).contains(": master process")
}

pub(super) fn read_pid(file: &Path) -> Option<u32> {
    read(file).map(|(pid, _)| pid)
}

/// The number in a pid file and the file's owner. No link is followed.
pub(super) fn read(file: &Path) -> Option<(u32, u32)> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(file)
        .ok()?;
    let owner = file.metadata().ok()?.uid();
    let mut text = String::new();
    (&mut file).take(32).read_to_string(&mut text).ok()?;
    let pid = text.trim().parse().ok().filter(|&pid| pid > 1)?;
    Some((pid, owner))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;
    use crate::cli::args::Globals;
    use crate::cli::places::Env;

    #[test]
    fn a_master_is_known_by_how_it_was_started() {
        assert!(named_master(b"handover: master process g7\0run\0"));
        assert!(!named_master(b"handover: worker process g7\0"));
        assert!(!named_master(b"vim\0notes: master process\0"));
        assert!(!named_master(b""));
    }

    /// A directory with pid files in it.
    fn places(dir: &Path, owner: u32, old: u32) -> Places {
        let globals = Globals {
            runtime_dir: Some(dir.to_owned()),
            ..Globals::default()
        };
        let places = Places::resolve(&globals, "x", &Env::default());
        fs::write(places.pid_file(), owner.to_string()).unwrap();
        fs::write(places.old_pid_file(), old.to_string()).unwrap();
        places
    }

    fn why(found: Result<Parked, NotParked>) -> &'static str {
        match found {
            Err(NotParked::Implausible { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_parent_of_the_owner_is_believed_and_a_stranger_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut owner = Command::new("sleep").arg("60").spawn().unwrap();
        let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
        let me = std::process::id();

        let found = Parked::find(&places(dir.path(), owner.id(), me)).unwrap();
        assert_eq!(found.pid(), me);
        let found = Parked::find(&places(dir.path(), owner.id(), stranger.id()));
        assert_eq!(why(found), "it is no master process");
        let uid = nix::unistd::geteuid().as_raw();
        assert_eq!(implausible(me, uid, Some(owner.id())), None);
        let forged = implausible(me, uid + 1, Some(owner.id()));
        assert!(forged.is_some_and(|why| why.contains("another user")));

        stranger.kill().unwrap();
        stranger.wait().unwrap();
        let found = Parked::find(&places(dir.path(), owner.id(), stranger.id()));
        assert_eq!(why(found), "it has ended");
        owner.kill().unwrap();
        owner.wait().unwrap();
    }

    #[test]
    fn a_master_is_believed_when_the_owner_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut master = Command::new("env")
            // Who starts the tests may ignore it (nohup).
            .args(["--default-signal=HUP", "bash", "-c"])
            .args(["exec -a \"$0\" sleep 60", "x: master process g6"])
            .spawn()
            .unwrap();
        // spawn comes back before the kernel shows the new arguments.
        while !is_master(master.id()) {
            std::thread::yield_now();
        }
        let nobody = 0x7fff_fff0;
        let found = Parked::find(&places(dir.path(), nobody, master.id())).unwrap();
        assert_eq!(found.pid(), master.id());
        found.wake().unwrap();
        let ended = master.wait().unwrap();
        assert_eq!(ended.signal(), Some(Signal::SIGHUP as i32));
    }

    #[test]
    fn pid_files_are_read_with_care() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.pid");
        assert_eq!(read_pid(&file), None);
        for (text, pid) in [("42\n", Some(42)), ("1\n", None), ("", None), ("-3", None)] {
            fs::write(&file, text).unwrap();
            assert_eq!(read_pid(&file), pid, "{text:?}");
        }
        fs::write(&file, "42\n").unwrap();
        let link = dir.path().join("link.pid");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_pid(&link), None);
    }
}
