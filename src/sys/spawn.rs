//! Starts a process from an opened program, with exactly the descriptors meant.
//!
//! `posix_spawn(3)` and not `std::process::Command`, because that
//! * runs a file the kernel refuses (`ENOEXEC`: truncated, wrong machine) as a *shell script*,
//!   which is what execvp(3) does, where a bad release must be an error;
//! * may have its own error pipe at number 3, where the child's channel goes;
//! * copies our page tables: it forks, while `posix_spawn` shares them until the exec.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::kernel::{Actions, Attributes, close_all_on_exec, posix_spawn};
use super::process::Process;

/// The number of the channel in a child.
pub const CHANNEL_FD: RawFd = 3;

/// Names the keeper's pipe in the first master's environment.
pub const KEEPER_ENV: &str = "HANDOVER_KEEPER";
/// Names the predecessor's channel in a successor's environment.
pub const CHANNEL_ENV: &str = "HANDOVER_CHANNEL";
/// Names the master's channel in a worker's environment.
pub const WORKER_ENV: &str = "HANDOVER_WORKER";
/// Names the master's channel in the environment of an application's supervisor.
pub const SUPERVISOR_ENV: &str = "HANDOVER_SUPERVISOR";
/// Tells a pre-flight that the application's release stays what it is, whatever the link leads to.
pub const KEEPS_RELEASE_ENV: &str = "HANDOVER_KEEPS_RELEASE";
/// Names the listening socket in a hosted application's environment, for those that use the crate
/// `listenfd`; it is where `sd_listen_fds(3)` looks anyway.
pub const FIRST_FD_ENV: &str = "LISTEN_FDS_FIRST_FD";

/// How often a program that is being written is tried again, and after how long.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// What never reaches a child: it was meant for us, and is stale or misleading there.
const SCRUBBED: &[&str] = &[
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_FDS_FIRST_FD",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "MAINPID",
    "MAINPIDFDID",
    "SYSTEMD_EXEC_PID",
    "WATCHDOG_PID",
    KEEPER_ENV,
    CHANNEL_ENV,
    WORKER_ENV,
    SUPERVISOR_ENV,
    KEEPS_RELEASE_ENV,
];

/// What goes with `NOTIFY_SOCKET`: useless, or a temptation, without it.
const NOTIFY: &[&str] = &["NOTIFY_SOCKET", "WATCHDOG_USEC", "FDSTORE"];

/// A process to be started.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The opened program (readable or `O_PATH`, close-on-exec); never looked up by name again.
    pub image: BorrowedFd<'a>,
    /// `argv[0]`, which is what `ps` shows.
    pub arg0: OsString,
    /// The arguments after it.
    pub args: Vec<OsString>,
    /// Where it starts; `None`: where we are.
    pub cwd: Option<PathBuf>,
    /// The variable that says [`CHANNEL_FD`], and what becomes that descriptor.
    pub channel: Option<(&'static str, OwnedFd)>,
    /// Variables that it has other than we do; `None`: it does not have them. The last word counts.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// Whether it may speak to the service manager.
    pub keep_notify: bool,
    /// Whether it leads a session of its own (no terminal).
    pub new_session: bool,
    /// Signals that are blocked when it begins: a program that receives them by itself must not die
    /// of one that comes before it does.
    pub blocked: &'static [Signal],
    /// Where stdout and stderr go. stdin is ours.
    pub output: Output,
}

/// Where a child's stdout and stderr go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Where ours go.
    Inherit,
    /// Both into one pipe: [`Process::take_output`].
    Piped,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No descriptors, pipes or processes.
    #[error("cannot prepare to start {arg0}: {source}")]
    Prepare {
        /// What was to be started.
        arg0: String,
        /// What failed.
        source: io::Error,
    },
    /// The directory is gone or closed to us.
    #[error("cannot start {arg0} in {}: {source}", cwd.display())]
    Directory {
        /// What was to be started.
        arg0: String,
        /// Where.
        cwd: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// A NUL byte cannot be passed to a program.
    #[error("cannot start {arg0}: an argument contains a NUL byte")]
    Nul {
        /// What was to be started.
        arg0: String,
    },
    /// The kernel refused the program.
    #[error("cannot start {arg0}: {source}: {}", advice(source))]
    Exec {
        /// What was to be started.
        arg0: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl<'a> Spawn<'a> {
    /// A program without arguments that inherits our directory, session and output, and gets
    /// neither a channel nor `NOTIFY_SOCKET`.
    #[must_use]
    pub fn new(image: BorrowedFd<'a>, arg0: impl Into<OsString>) -> Self {
        Self {
            image,
            arg0: arg0.into(),
            args: Vec::new(),
            cwd: None,
            channel: None,
            env: Vec::new(),
            keep_notify: false,
            new_session: false,
            blocked: &[],
            output: Output::Inherit,
        }
    }
}

/// Starts it. The child has descriptors 0, 1, 2 and, with a channel, [`CHANNEL_FD`]; no signal
/// ignored, and none blocked but those it is to begin with; our environment without what was meant for us alone. What the kernel refuses
/// is an error here, never an exit code. (`/proc` may show the last moments of the exec still, such as
/// descriptors about to be closed.)
///
/// Everything of ours but 0, 1 and 2 is close-on-exec from then on, whoever opened it.
pub fn spawn(spec: Spawn<'_>) -> Result<Process, SpawnError> {
    let role = spec.arg0.to_string_lossy().into_owned();
    let prepare = |source: io::Error| SpawnError::Prepare {
        arg0: role.clone(),
        source,
    };
    // Above the channel's number, so that the channel cannot take its place before the exec.
    let image = rustix::io::fcntl_dupfd_cloexec(spec.image, CHANNEL_FD + 1)
        .map_err(|e| prepare(e.into()))?;
    let path = c_string(format!("/proc/self/fd/{}", image.as_raw_fd()).into(), &role)?;
    let mut argv = vec![c_string(spec.arg0, &role)?];
    for arg in spec.args {
        argv.push(c_string(arg, &role)?);
    }
    let envp = environment(
        std::env::vars_os(),
        spec.channel.as_ref().map(|(name, _)| *name),
        spec.env,
        spec.keep_notify,
    );

    let mut actions = Actions::new().map_err(&prepare)?;
    let cwd = match spec.cwd {
        None => None,
        Some(cwd) => {
            let dir = rustix::fs::open(
                &cwd,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|e| SpawnError::Directory {
                arg0: role.clone(),
                cwd,
                source: e.into(),
            })?;
            actions.fchdir(dir.as_raw_fd()).map_err(&prepare)?;
            Some(dir)
        }
    };
    let (output, write_end) = match spec.output {
        Output::Inherit => (None, None),
        Output::Piped => {
            let (read, write) =
                rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| prepare(e.into()))?;
            actions.dup2(write.as_raw_fd(), 1).map_err(&prepare)?;
            actions.dup2(write.as_raw_fd(), 2).map_err(&prepare)?;
            (Some(read), Some(write))
        }
    };
    // Last: it may overwrite a number that the others read from.
    if let Some((_, channel)) = &spec.channel {
        actions
            .dup2(channel.as_raw_fd(), CHANNEL_FD)
            .map_err(&prepare)?;
    }
    let attributes = Attributes::clean(spec.new_session, spec.blocked).map_err(&prepare)?;

    close_all_on_exec();
    let mut spawned = posix_spawn(&path, &actions, &attributes, &argv, &envp);
    // A writer of the file that was closed a moment ago may live on in the child that another
    // thread is just starting, until that child's exec. Nothing tells when.
    for _ in 0..BUSY_TRIES {
        match &spawned {
            Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "there is no event to wait for, and it is a few milliseconds at most"
                )]
                std::thread::sleep(BUSY_PAUSE);
                spawned = posix_spawn(&path, &actions, &attributes, &argv, &envp);
            }
            _ => break,
        }
    }
    // Open until here: the actions name them by number.
    drop((image, cwd, write_end, spec.channel));
    let pid = spawned.map_err(|source| SpawnError::Exec {
        arg0: role.clone(),
        source,
    })?;
    Process::of_child(pid.unsigned_abs(), output).map_err(|source| {
        // Without a pidfd nobody could ever supervise it. The number is safe: not yet reaped.
        let pid = nix::unistd::Pid::from_raw(pid);
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no pidfd, and nobody has reaped it"
        )]
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(pid, None);
        prepare(source)
    })
}

/// The child's environment.
fn environment(
    ours: impl Iterator<Item = (OsString, OsString)>,
    channel: Option<&str>,
    changed: Vec<(OsString, Option<OsString>)>,
    keep_notify: bool,
) -> Vec<CString> {
    let scrubbed = |name: &OsStr| {
        SCRUBBED.iter().any(|s| name == *s) || (!keep_notify && NOTIFY.iter().any(|s| name == *s))
    };
    let channel = channel.map(|name| (name.into(), Some(CHANNEL_FD.to_string().into())));
    let mut all: Vec<_> = ours.filter(|(name, _)| !scrubbed(name)).collect();
    for (name, value) in changed.into_iter().chain(channel) {
        all.retain(|(known, _)| *known != name);
        all.extend(value.map(|value| (name, value)));
    }
    all.into_iter()
        .filter_map(|(mut entry, value)| {
            entry.push("=");
            entry.push(value);
            CString::new(entry.into_vec()).ok()
        })
        .collect()
}

/// What to do about a refused program.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => {
            "its loader (the ELF interpreter) is not installed, or /proc is not mounted"
        }
        Some(Errno::EACCES) => {
            "it is not executable for this user, or its file system is mounted noexec \
             (in a unit: NoExecPaths=, name the directory in ExecPaths=)"
        }
        Some(Errno::ENOEXEC) => "it is not a program for this machine, or only a part of one",
        Some(Errno::ETXTBSY) => {
            "it is still being written; put programs in place by renaming a finished file"
        }
        Some(Errno::EAGAIN) => {
            "the limit of processes is reached (in a unit: TasksMax=, LimitNPROC=)"
        }
        Some(Errno::ENOMEM) => "not enough memory",
        Some(Errno::E2BIG) => "its arguments and environment are too long",
        Some(Errno::EPERM) => {
            "it has privileges this process may not pass on (remove its file capabilities)"
        }
        _ => "the kernel refused the program",
    }
}

fn c_string(text: OsString, arg0: &str) -> Result<CString, SpawnError> {
    CString::new(text.into_vec()).map_err(|_| SpawnError::Nul { arg0: arg0.into() })
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use command_fds::{CommandFdExt, FdMapping};
    use nix::sys::signal::SigSet;
    use rustix::io::FdFlags;

    use super::*;
    use crate::sys::helper;
    use crate::sys::kernel::adopt_fd;
    use crate::sys::process::Exit;

    #[test]
    fn a_child_has_the_channel_and_no_other_descriptor() {
        // As a careless library does it.
        let leaked = rustix::io::dup(File::open("/dev/null").unwrap()).unwrap();
        let flags = rustix::io::fcntl_getfd(&leaked).unwrap();
        assert!(!flags.contains(FdFlags::CLOEXEC));
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut child = stopped(Spawn {
            channel: Some((CHANNEL_ENV, theirs.into())),
            ..Spawn::new(open("/bin/sh").as_fd(), "sh")
        });
        assert_eq!(fds(child.pid()), [0, 1, 2, 3]);
        let target = fs::read_link(format!("/proc/{}/fd/3", child.pid())).unwrap();
        assert!(target.to_string_lossy().starts_with("socket:"));
        // The child alone holds the other end: its death is EOF.
        child.signal(Signal::SIGKILL).unwrap();
        child.reap();
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn without_a_channel_there_is_no_fourth_descriptor() {
        let mut child = stopped(Spawn::new(open("/bin/sh").as_fd(), "sh"));
        assert_eq!(fds(child.pid()), [0, 1, 2]);
        child.signal(Signal::SIGKILL).unwrap();
        child.reap();
    }

    /// In a process of its own, whose descriptor 3 is known.
    #[test]
    #[ignore = "run by the next test"]
    fn starts_with_a_known_third_descriptor() {
        if !helper::is_helper() {
            return;
        }
        let three = adopt_fd(CHANNEL_FD).unwrap();
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let sh = open("/bin/sh");
        let kind = rustix::fs::fstat(&three).unwrap().st_mode & libc::S_IFMT;
        let (image, channel) = match kind {
            libc::S_IFREG => (three, theirs),
            libc::S_IFSOCK => (sh.into(), three),
            _ => {
                drop(three);
                (sh.into(), theirs)
            }
        };
        let mut child = stopped(Spawn {
            channel: Some((WORKER_ENV, channel)),
            output: Output::Piped,
            ..Spawn::new(image.as_fd(), "sh")
        });
        assert_eq!(fds(child.pid()), [0, 1, 2, 3]);
        let target = fs::read_link(format!("/proc/{}/fd/3", child.pid())).unwrap();
        helper::say(target.to_string_lossy().split(':').next().unwrap());
        child.signal(Signal::SIGKILL).unwrap();
        child.reap();
        drop(ours);
    }

    #[test]
    fn whatever_our_own_third_descriptor_is_the_childs_is_the_channel() {
        let (_ours, theirs) = UnixStream::pair().unwrap();
        // The program, the channel, or (what is closed at once) nothing.
        let three: [OwnedFd; 3] = [
            open("/bin/sh").into(),
            theirs.into(),
            open("/dev/null").into(),
        ];
        for parent_fd in three {
            let test = "sys::spawn::tests::starts_with_a_known_third_descriptor";
            let mut command = helper::command("", test);
            let child_fd = CHANNEL_FD;
            let mapping = FdMapping {
                parent_fd,
                child_fd,
            };
            command.fd_mappings(vec![mapping]).unwrap();
            assert_eq!(helper::run(&mut command), ["socket"]);
        }
    }

    #[test]
    fn a_signal_that_is_blocked_at_the_exec_waits() {
        let mut child = stopped(Spawn {
            blocked: &[Signal::SIGUSR1],
            ..Spawn::new(open("/bin/sh").as_fd(), "sh")
        });
        child.signal(Signal::SIGUSR1).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
        assert!(status.contains("SigBlk:\t0000000000000200"), "{status}");
        assert_eq!(child.peek(), None);
        child.signal(Signal::SIGKILL).unwrap();
        child.reap();
    }

    #[test]
    fn no_signal_is_blocked_or_ignored_in_a_child() {
        // The standard library ignores SIGPIPE in this process.
        let child = std::thread::spawn(|| {
            SigSet::all().thread_set_mask().unwrap();
            stopped(Spawn::new(open("/bin/sh").as_fd(), "sh"))
        });
        let mut child = child.join().unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
        for field in ["SigBlk", "SigIgn"] {
            let line = status
                .lines()
                .find(|line| line.starts_with(field))
                .unwrap_or_else(|| panic!("no {field} in {status}"));
            assert_eq!(
                line.split_whitespace().nth(1),
                Some("0000000000000000"),
                "{line}"
            );
        }
        child.signal(Signal::SIGKILL).unwrap();
        child.reap();
    }

    #[test]
    fn ps_shows_the_role() {
        let mut child = stopped(Spawn::new(
            open("/bin/sh").as_fd(),
            "handover: worker process g7",
        ));
        let ps = std::process::Command::new("ps")
            .args(["-o", "args=", "-p", &child.pid().to_string()])
            .output()
            .unwrap();
        let ps = String::from_utf8_lossy(&ps.stdout);
        assert!(ps.starts_with("handover: worker process g7 "), "{ps}");
        child.signal(Signal::SIGKILL).unwrap();
        child.reap();
    }

    #[test]
    fn the_environment_is_passed_without_what_was_ours() {
        let ours = [
            ("PATH", "/bin"),
            ("LISTEN_PID", "1"),
            ("LISTEN_PIDFDID", "2"),
            ("LISTEN_FDS", "3"),
            ("LISTEN_FDNAMES", "a:b"),
            ("WATCHDOG_PID", "4"),
            ("WATCHDOG_USEC", "5"),
            ("NOTIFY_SOCKET", "/run/n"),
            ("FDSTORE", "64"),
            ("HANDOVER_KEEPER", "7"),
            ("HANDOVER_CHANNEL", "8"),
            ("HANDOVER_WORKER", "9"),
            ("HANDOVER_UNIT_REV", "10"),
            ("INVOCATION_ID", "11"),
            ("JOURNAL_STREAM", "12"),
        ];
        let of = |channel, changed: &[(&str, Option<&str>)], notify| -> Vec<String> {
            let changed = changed.iter();
            let changed = changed.map(|(n, v)| (n.into(), v.map(OsString::from)));
            environment(
                ours.iter().map(|(n, v)| (n.into(), v.into())),
                channel,
                changed.collect(),
                notify,
            )
            .into_iter()
            .map(|entry| entry.into_string().unwrap())
            .collect()
        };
        assert_eq!(
            of(Some(WORKER_ENV), &[], false),
            [
                "PATH=/bin",
                "HANDOVER_UNIT_REV=10",
                "INVOCATION_ID=11",
                "JOURNAL_STREAM=12",
                "HANDOVER_WORKER=3"
            ]
        );
        assert_eq!(
            of(None, &[], true),
            [
                "PATH=/bin",
                "WATCHDOG_USEC=5",
                "NOTIFY_SOCKET=/run/n",
                "FDSTORE=64",
                "HANDOVER_UNIT_REV=10",
                "INVOCATION_ID=11",
                "JOURNAL_STREAM=12"
            ]
        );
        let changed = [
            ("PATH", Some("/sbin")),
            ("INVOCATION_ID", None),
            ("A", Some("1")),
            ("A", Some("2")),
        ];
        assert_eq!(
            of(None, &changed, false),
            [
                "HANDOVER_UNIT_REV=10",
                "JOURNAL_STREAM=12",
                "PATH=/sbin",
                "A=2"
            ]
        );
    }

    #[test]
    fn a_child_sees_that_environment_and_its_output_is_ours() {
        let image = open("/usr/bin/env");
        let (_ours, theirs) = UnixStream::pair().unwrap();
        let mut child = spawn(Spawn {
            channel: Some((CHANNEL_ENV, theirs.into())),
            output: Output::Piped,
            ..Spawn::new(image.as_fd(), "env")
        })
        .unwrap();
        let text = read_all(&mut child);
        assert!(child.reap().success());
        let env: BTreeMap<_, _> = text.lines().filter_map(|l| l.split_once('=')).collect();
        assert_eq!(env.get("HANDOVER_CHANNEL"), Some(&"3"));
        assert_eq!(
            env.get("PATH").map(|p| OsString::from(*p)),
            std::env::var_os("PATH")
        );
    }

    #[test]
    fn stdout_and_stderr_share_the_pipe() {
        let mut child = spawn(Spawn {
            args: vec!["-c".into(), "echo out; echo err >&2; exit 78".into()],
            output: Output::Piped,
            ..Spawn::new(open("/bin/sh").as_fd(), "sh")
        })
        .unwrap();
        assert_eq!(read_all(&mut child), "out\nerr\n");
        assert!(child.take_output().is_none());
        assert_eq!(child.reap(), Exit::Code(78));
    }

    #[test]
    fn it_starts_where_it_is_told_in_a_session_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = spawn(Spawn {
            args: vec!["60".into()],
            cwd: Some(dir.path().into()),
            new_session: true,
            ..Spawn::new(open("/bin/sleep").as_fd(), "sleep")
        })
        .unwrap();
        let cwd = fs::read_link(format!("/proc/{}/cwd", child.pid())).unwrap();
        assert_eq!(cwd, dir.path().canonicalize().unwrap());
        let pid = nix::unistd::Pid::from_raw(child.pid().try_into().unwrap());
        assert_eq!(nix::unistd::getsid(Some(pid)).unwrap(), pid);
        child.signal(Signal::SIGKILL).unwrap();
        child.reap();

        let mut child = started("/bin/sleep", &["60"]);
        let pid = nix::unistd::Pid::from_raw(child.pid().try_into().unwrap());
        assert_eq!(
            nix::unistd::getsid(Some(pid)).unwrap(),
            nix::unistd::getsid(None).unwrap()
        );
        child.signal(Signal::SIGKILL).unwrap();
        child.reap();
    }

    #[test]
    fn the_image_is_run_after_its_file_was_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        fs::copy("/bin/true", &path).unwrap();
        let image = open(&path);
        fs::copy("/bin/false", dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        let mut child = spawn(Spawn::new(image.as_fd(), "program")).unwrap();
        assert!(child.reap().success());
    }

    #[test]
    fn a_refused_program_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let try_bytes = |bytes: &[u8], mode| {
            let path = dir.path().join("program");
            let _ = fs::remove_file(&path);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            spawn(Spawn::new(open(&path).as_fd(), "program"))
                .unwrap_err()
                .to_string()
        };
        // Not run by a shell, which would say "0".
        let text = try_bytes(b"exit 0\n", 0o755);
        assert!(text.contains("not a program for this machine"), "{text}");
        let text = try_bytes(b"", 0o755);
        assert!(text.contains("not a program for this machine"), "{text}");
        let text = try_bytes(&fs::read("/bin/true").unwrap(), 0o644);
        assert!(text.contains("not executable"), "{text}");
        let text = try_bytes(b"#!/nonexistent/interpreter\n", 0o755);
        assert!(text.contains("loader"), "{text}");

        let path = dir.path().join("busy");
        fs::copy("/bin/true", &path).unwrap();
        let _writer = File::options().write(true).open(&path).unwrap();
        let text = spawn(Spawn::new(open(&path).as_fd(), "program"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("still being written"), "{text}");

        let error = spawn(Spawn {
            cwd: Some(dir.path().join("nowhere")),
            ..Spawn::new(open("/bin/true").as_fd(), "true")
        })
        .unwrap_err();
        assert!(matches!(error, SpawnError::Directory { .. }), "{error}");
        let error = spawn(Spawn {
            args: vec!["a\0b".into()],
            ..Spawn::new(open("/bin/true").as_fd(), "true")
        })
        .unwrap_err();
        assert!(matches!(error, SpawnError::Nul { .. }), "{error}");
    }

    /// A running program, for tests of processes.
    pub(in crate::sys) fn started(program: &str, args: &[&str]) -> Process {
        spawn(Spawn {
            args: args.iter().map(Into::into).collect(),
            ..Spawn::new(open(program).as_fd(), program)
        })
        .unwrap()
    }

    /// A program, opened as an image is.
    pub(in crate::sys) fn open(path: impl AsRef<Path>) -> File {
        File::open(path).unwrap()
    }

    /// A shell that has said it runs, which is after the exec is over, and then stops.
    fn stopped(spec: Spawn<'_>) -> Process {
        let mut child = spawn(Spawn {
            args: vec!["-c".into(), "echo ready; kill -STOP $$".into()],
            output: Output::Piped,
            ..spec
        })
        .unwrap();
        let mut said = [0; 6];
        File::from(child.take_output().unwrap())
            .read_exact(&mut said)
            .unwrap();
        assert_eq!(&said, b"ready\n");
        child
    }

    fn read_all(child: &mut Process) -> String {
        let mut text = String::new();
        File::from(child.take_output().unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert!(child.exited_within(Duration::from_secs(10)).unwrap());
        text
    }

    /// The numbers of its descriptors.
    fn fds(pid: u32) -> Vec<i32> {
        let mut fds: Vec<i32> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        fds.sort_unstable();
        fds
    }
}
