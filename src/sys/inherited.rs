//! What this process was born with. [`inherit`] runs on the first line of `main`, once, and is the
//! only reader of the environment; everybody else gets the value it returns.
//!
//! It also puts right what a careless starter may have done to us: blocked or ignored signals, a low
//! limit of open files, descriptors that are not close-on-exec.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::kernel;
use super::listeners::OWN_PREFIX;
use super::notify::{Notifier, NotifyError};
use super::spawn::{CHANNEL_ENV, KEEPER_ENV, KEEPS_RELEASE_ENV, SUPERVISOR_ENV, WORKER_ENV};
use super::{process, signals};

/// systemd's first passed descriptor, `SD_LISTEN_FDS_START`.
const FIRST_PASSED: RawFd = 3;

/// What a socket without a name is called, as `sd_listen_fds_with_names(3)` has it.
pub const UNNAMED: &str = "unknown";

/// What a shell may have told us to ignore on purpose: `nohup`, and jobs in the background. Blocked
/// signals reach a signalfd in spite of that, so only command-line clients notice.
const MAY_BE_IGNORED: &[Signal] = &[
    Signal::SIGPIPE,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
];

/// Everything a process inherits.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of the environment of its own"
)]
pub struct Inherited {
    /// What it is.
    pub role: Role,
    /// The way to the service manager (`NOTIFY_SOCKET`).
    pub notify: Option<Notifier>,
    /// How often the watchdog must be fed, at least (`WATCHDOG_USEC`, when meant for us).
    pub watchdog: Option<Duration>,
    /// The sockets of `.socket` units and the descriptor store.
    pub listeners: Vec<PassedListener>,
    /// Whether stderr is the journal (`JOURNAL_STREAM` names it).
    pub journal_stream: bool,
    /// Whether a service manager started this service: there is a notify socket, or systemd
    /// executed this very process.
    pub under_systemd: bool,
    /// The first of `RUNTIME_DIRECTORY`.
    pub runtime_dir: Option<PathBuf>,
    /// The first of `STATE_DIRECTORY`.
    pub state_dir: Option<PathBuf>,
    /// `CREDENTIALS_DIRECTORY`.
    pub credentials: Option<PathBuf>,
    /// The first of `CONFIGURATION_DIRECTORY`.
    pub config_dir: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// No colours and no moving text: `NO_COLOR` is set, or `TERM` is `dumb`.
    pub plain: bool,
    /// The revision of the unit file that started the service (`HANDOVER_UNIT_REV`).
    pub unit_rev: Option<String>,
    /// Of a pre-flight: the application's release stays what it is.
    pub keeps_release: bool,
    /// How many descriptors the store takes (`FDSTORE`; systemd 254 and later say it).
    pub fdstore_max: Option<u32>,
    /// The descriptors that a process may open here.
    pub files_max: u64,
    /// This start of the unit (`INVOCATION_ID`).
    pub invocation_id: Option<String>,
    /// The program as executed, made absolute, links unresolved. Behind a predecessor, a master or a
    /// keeper, which execute by descriptor, it is only what `/proc/self/exe` says: links resolved.
    pub program: PathBuf,
    /// The arguments, without `argv[0]`.
    pub args: Vec<OsString>,
    /// The working directory; `/` when it is gone.
    pub cwd: PathBuf,
}

/// What a process is, by who started it.
#[derive(Debug)]
pub enum Role {
    /// A person, a script or systemd: the keeper, the first master or a client.
    First,
    /// The keeper: the first master. Its end of the pipe between them.
    FirstUnderKeeper(OwnedFd),
    /// A master: its successor. Our end of the channel.
    Successor(OwnedFd),
    /// A master: one of its workers. Our end of the channel.
    Worker(OwnedFd),
    /// A master: the supervisor of its application. Our end of the channel.
    Supervisor(OwnedFd),
}

/// A descriptor from systemd: a `.socket` unit's or one from the store. Close-on-exec and
/// non-blocking.
#[derive(Debug)]
pub struct PassedListener {
    /// Its FDNAME; `own.<name>` is what we stored; "unknown" when systemd gave no names.
    pub name: String,
    /// The descriptor.
    pub fd: OwnedFd,
    /// Whether it can be served: it listens, or it is a datagram socket.
    pub listening: bool,
    /// Which file it is: the device and inode of fstat(2).
    pub inode: (u64, u64),
}

/// Why this process cannot use what it was given.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// A variable that should be a number.
    #[error("cannot use {name}={value:?}: expected a number; unset it if it is left over")]
    Number {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// There is nothing at that number, or something else.
    #[error(
        "cannot use {name}={number}: descriptor {number} is {what}; unset the variable if it is \
         left over from another program"
    )]
    Descriptor {
        /// The variable.
        name: &'static str,
        /// The number.
        number: RawFd,
        /// What is there.
        what: &'static str,
    },
    /// Two starters at once.
    #[error("cannot be two things at once: both {0} and {1} are set; unset what is left over")]
    Roles(&'static str, &'static str),
    /// A passed descriptor is missing or unusable.
    #[error("cannot use descriptor {number} ({name:?}) of LISTEN_FDS: {source}")]
    Passed {
        /// Its number.
        number: RawFd,
        /// Its FDNAME.
        name: String,
        /// What failed.
        source: io::Error,
    },
    /// The service manager cannot be reached.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// Signals cannot be unblocked.
    #[error("cannot reset the signal mask: {0}")]
    Signals(#[source] io::Error),
}

/// Takes what this process was given. Called once, first thing in `main`, while there is one thread
/// and nothing was opened: later a descriptor's number could be somebody else's, and a second call
/// finds the numbers taken.
///
/// Afterwards no signal is ignored (but what a shell asked to ignore), and none blocked but
/// [`BLOCKED_AT_EXEC`](signals::BLOCKED_AT_EXEC), where the starter did that (a pre-flight). In a
/// process that a keeper or master started all the operator's signals are blocked until
/// [`Signals`](signals::Signals) receives them, lest one that comes while it starts ends it.
/// The soft limit of open files is the hard one.
pub fn inherit() -> Result<Inherited, InheritError> {
    let env = Env::read();
    let pid = std::process::id();

    kernel::default_dispositions(MAY_BE_IGNORED);
    raise_open_files();

    let role = role(&env)?;
    set_mask(matches!(role, Role::First)).map_err(|e| InheritError::Signals(e.into()))?;
    for name in ROLES.iter().filter(|name| env.get(name).is_some()) {
        kernel::forget_variable(name);
    }
    if !matches!(role, Role::First) {
        // Executed by descriptor, this process is called like its number.
        process::set_name(&own_name());
    }
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let notify = env.get("NOTIFY_SOCKET").map(Notifier::new).transpose()?;

    Ok(Inherited {
        under_systemd: notify.is_some() || env.number::<u32>("SYSTEMD_EXEC_PID") == Some(pid),
        notify,
        watchdog: env.watchdog(pid),
        listeners: passed(&env, pid)?,
        journal_stream: env.journal_is(&io::stderr()),
        runtime_dir: env.directory("RUNTIME_DIRECTORY"),
        state_dir: env.directory("STATE_DIRECTORY"),
        credentials: env.get("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        config_dir: env.directory("CONFIGURATION_DIRECTORY"),
        xdg_runtime_dir: env.get("XDG_RUNTIME_DIR").map(PathBuf::from),
        xdg_state_home: env.get("XDG_STATE_HOME").map(PathBuf::from),
        home: env.get("HOME").map(PathBuf::from),
        plain: env.get("NO_COLOR").is_some_and(|v| !v.is_empty())
            || env.get("TERM").is_some_and(|v| v == "dumb"),
        unit_rev: env.text("HANDOVER_UNIT_REV"),
        keeps_release: env.text(KEEPS_RELEASE_ENV).is_some(),
        fdstore_max: env.number("FDSTORE"),
        files_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        invocation_id: env.text("INVOCATION_ID"),
        program: program(&cwd),
        args: std::env::args_os().skip(1).collect(),
        cwd,
        role,
    })
}

/// What this program is called, by its own `argv[0]`.
#[must_use]
pub fn own_name() -> String {
    program_name(&std::env::args_os().next().unwrap_or_default())
}

/// What a program calls itself in `argv[0]`: `handover` for `/usr/bin/handover` and for
/// `handover: worker process g7`.
fn program_name(arg0: &OsStr) -> String {
    let arg0 = arg0.to_string_lossy();
    let command = arg0.split_once(": ").map_or(&*arg0, |(name, _)| name);
    Path::new(command)
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The environment as it was at the start. Variables that are set to nothing count as unset.
#[derive(Debug)]
struct Env(BTreeMap<OsString, OsString>);

impl Env {
    fn read() -> Self {
        Self(
            std::env::vars_os()
                .filter(|(_, value)| !value.is_empty())
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    fn text(&self, name: &str) -> Option<String> {
        Some(self.get(name)?.to_string_lossy().into_owned())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.to_str()?.parse().ok()
    }

    /// systemd separates several directories of a unit by colons; the first is ours.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        let first = self.text(name)?.split(':').next()?.to_owned();
        (!first.is_empty()).then(|| first.into())
    }

    /// As `sd_watchdog_enabled(3)`.
    fn watchdog(&self, pid: u32) -> Option<Duration> {
        let ours = match self.get("WATCHDOG_PID") {
            None => true,
            Some(_) => self.number::<u32>("WATCHDOG_PID") == Some(pid),
        };
        let micros = self.number::<u64>("WATCHDOG_USEC").filter(|n| *n > 0)?;
        ours.then(|| Duration::from_micros(micros))
    }

    /// Whether `JOURNAL_STREAM` names this descriptor: it was not redirected since.
    fn journal_is(&self, stream: &impl AsFd) -> bool {
        let named = self.text("JOURNAL_STREAM");
        let actual = rustix::fs::fstat(stream)
            .ok()
            .map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        named.is_some() && named == actual
    }
}

/// At no moment is unblocked what shall be blocked: a signal may be waiting.
fn set_mask(first: bool) -> nix::Result<()> {
    let before = SigSet::thread_get_mask()?;
    let blocked: SigSet = if first {
        let kept = signals::BLOCKED_AT_EXEC.iter().copied();
        kept.filter(|signal| before.contains(*signal)).collect()
    } else {
        signals::OPERATOR.iter().copied().collect()
    };
    blocked.thread_set_mask()
}

/// The variables that say what a process is. Each is for one process, and taken out of its environment.
const ROLES: [&str; 4] = [KEEPER_ENV, CHANNEL_ENV, WORKER_ENV, SUPERVISOR_ENV];

fn role(env: &Env) -> Result<Role, InheritError> {
    let set: Vec<&'static str> = ROLES
        .into_iter()
        .filter(|name| env.get(name).is_some())
        .collect();
    let name = match set[..] {
        [] => return Ok(Role::First),
        [name] => name,
        [first, second, ..] => return Err(InheritError::Roles(first, second)),
    };
    let number: RawFd = env.number(name).ok_or_else(|| InheritError::Number {
        name,
        value: env.text(name).unwrap_or_default(),
    })?;
    let wrong = |what| InheritError::Descriptor { name, number, what };
    let fd = kernel::adopt_fd(number).map_err(|_| wrong("not open"))?;
    // A variable left over by mistake must not make a process of a stranger's descriptor.
    let local = |kind| {
        sockopt::socket_type(&fd) == Ok(kind)
            && sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
    };
    let (channel, pipe) = (local(SocketType::SEQPACKET), local(SocketType::STREAM));
    match name {
        CHANNEL_ENV if channel => Ok(Role::Successor(fd)),
        WORKER_ENV if channel => Ok(Role::Worker(fd)),
        SUPERVISOR_ENV if channel => Ok(Role::Supervisor(fd)),
        KEEPER_ENV if pipe => Ok(Role::FirstUnderKeeper(fd)),
        KEEPER_ENV => Err(wrong("not the keeper's pipe")),
        _ => Err(wrong("not a master's channel")),
    }
}

/// The descriptors of `LISTEN_FDS`, when they are for this process.
fn passed(env: &Env, pid: u32) -> Result<Vec<PassedListener>, InheritError> {
    if env.number::<u32>("LISTEN_PID") != Some(pid) || env.get("LISTEN_FDS").is_none() {
        return Ok(Vec::new());
    }
    let count = env.number::<u16>("LISTEN_FDS");
    let count = count.ok_or_else(|| InheritError::Number {
        name: "LISTEN_FDS",
        value: env.text("LISTEN_FDS").unwrap_or_default(),
    })?;
    let names = env.text("LISTEN_FDNAMES").unwrap_or_default();
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        kernel::forget_variable(name);
    }
    let mut names = names.split(':');
    let mut passed: Vec<PassedListener> = Vec::new();
    for number in (FIRST_PASSED..).take(count.into()) {
        let name = names.next().filter(|name| !name.is_empty());
        let name = name.unwrap_or(UNNAMED).to_owned();
        // Anything else but a socket (a memfd from the store) is kept for the caller to judge.
        let taken = kernel::adopt_fd(number).and_then(|fd| PassedListener::new(name.clone(), fd));
        let new = taken.map_err(|source| InheritError::Passed {
            number,
            name,
            source,
        })?;
        // A unit's socket that was also stored comes twice. The unit's name counts.
        match passed.iter_mut().find(|old| old.inode == new.inode) {
            None => passed.push(new),
            Some(old) if old.is_own() && !new.is_own() => old.name = new.name,
            Some(_) => {}
        }
    }
    Ok(passed)
}

impl PassedListener {
    /// Wraps a descriptor from systemd; makes it close-on-exec and non-blocking.
    pub fn new(name: String, fd: OwnedFd) -> io::Result<Self> {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        let stat = rustix::fs::fstat(&fd)?;
        let listening = sockopt::socket_acceptconn(&fd) == Ok(true)
            || sockopt::socket_type(&fd) == Ok(SocketType::DGRAM);
        Ok(Self {
            name,
            fd,
            listening,
            inode: (stat.st_dev, stat.st_ino),
        })
    }

    /// Whether it is from the store and one of ours.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.name.starts_with(OWN_PREFIX)
    }
}

/// Connections are descriptors; poll(2) and epoll(7) have no trouble with high numbers.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // It lowers nothing and needs no right, so there is nothing to say when it fails.
    let _ = setrlimit(Resource::Nofile, raised);
}

fn program(cwd: &Path) -> PathBuf {
    match kernel::executed_path() {
        // `./handover` is `handover`; links and `..` stay as they were typed.
        Some(path) => cwd.join(path).components().collect(),
        None => std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use command_fds::{CommandFdExt, FdMapping};

    use super::*;
    use crate::sys::helper;

    const HELPER: &str = "sys::inherited::tests::inherits";

    /// In a process of its own: says what it inherited.
    #[test]
    #[ignore = "run by the other tests"]
    fn inherits() {
        if !helper::is_helper() {
            return;
        }
        let own = Signal::iterator().filter(|s| *s != Signal::SIGUSR1);
        own.collect::<SigSet>().thread_block().unwrap();
        let inherited = match inherit() {
            Ok(inherited) => inherited,
            Err(e) => return helper::say(format_args!("error {e}")),
        };
        for passed in &inherited.listeners {
            helper::say(format_args!(
                "passed {} listening={} cloexec={} nonblocking={} inode={}",
                passed.name,
                passed.listening,
                rustix::io::fcntl_getfd(&passed.fd).unwrap() == rustix::io::FdFlags::CLOEXEC,
                rustix::fs::fcntl_getfl(&passed.fd)
                    .unwrap()
                    .contains(rustix::fs::OFlags::NONBLOCK),
                passed.inode.1,
            ));
        }
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        for field in ["SigBlk:", "SigIgn:"] {
            let bits = status
                .lines()
                .find_map(|line| line.strip_prefix(field))
                .unwrap();
            let bits = u64::from_str_radix(bits.trim(), 16).unwrap();
            let names: Vec<&str> = Signal::iterator()
                .filter(|s| bits >> (*s as i32 - 1) & 1 == 1)
                .map(Signal::as_str)
                .collect();
            helper::say(format_args!("{field} {}", names.join(" ")));
        }
        let limit = getrlimit(Resource::Nofile);
        helper::say(format_args!(
            "files raised={}",
            limit.current == limit.maximum
        ));
        let name = nix::sys::prctl::get_name().unwrap();
        helper::say(format_args!("comm {}", name.to_string_lossy()));
        // A second call finds nothing that is still to be had.
        let again = inherit().map(|inherited| inherited.listeners.len());
        helper::say(format_args!("again {again:?}"));
        helper::say(format_args!("{inherited:?}"));
    }

    fn run(before: &str, env: &[(&str, &str)], fds: Vec<OwnedFd>) -> Vec<String> {
        helper::run(&mut command(before, env, fds))
    }

    fn command(before: &str, env: &[(&str, &str)], fds: Vec<OwnedFd>) -> Command {
        let mut command = helper::command(before, HELPER);
        let mappings = fds.into_iter().zip(FIRST_PASSED..);
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
        command
            .fd_mappings(mappings.collect())
            .unwrap()
            .envs(env.iter().copied());
        command
    }

    fn inode(fd: &impl AsFd) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn systemds_sockets_come_once_each_with_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(dir.path().join("x")).unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = File::create(dir.path().join("state")).unwrap();
        let bound = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let inodes = [
            inode(&tcp),
            inode(&unix),
            inode(&udp),
            inode(&file),
            inode(&bound),
        ];
        // The stored copy of the TCP socket once before and once after its unit's.
        let fds: Vec<OwnedFd> = vec![
            tcp.try_clone().unwrap().into(),
            unix.into(),
            tcp.try_clone().unwrap().into(),
            udp.into(),
            file.into(),
            bound,
            tcp.into(),
        ];
        let said = run(
            "export LISTEN_PID=$$",
            &[
                ("LISTEN_FDS", "7"),
                (
                    "LISTEN_FDNAMES",
                    "own.old:own.api:http::memory:own.half:own.x",
                ),
            ],
            fds,
        );
        let passed: Vec<&String> = said.iter().filter(|l| l.starts_with("passed")).collect();
        let flags = "cloexec=true nonblocking=true";
        assert_eq!(
            passed,
            [
                &format!("passed http listening=true {flags} inode={}", inodes[0]),
                &format!("passed own.api listening=true {flags} inode={}", inodes[1]),
                &format!("passed unknown listening=true {flags} inode={}", inodes[2]),
                &format!("passed memory listening=false {flags} inode={}", inodes[3]),
                &format!(
                    "passed own.half listening=false {flags} inode={}",
                    inodes[4]
                ),
            ]
        );
        // The thread of the test is a second one, so the variables are still there.
        let again = said.iter().find(|l| l.starts_with("again")).unwrap();
        assert!(again.contains("Bad file descriptor"), "{again}");
    }

    #[test]
    fn what_is_meant_for_another_process_is_left_alone() {
        for before in ["", "export LISTEN_PID=1"] {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let said = run(before, &[("LISTEN_FDS", "1")], vec![tcp.into()]);
            assert!(!said.iter().any(|l| l.starts_with("passed")), "{said:#?}");
            assert!(
                said.iter().any(|l| l.contains("listeners: []")),
                "{said:#?}"
            );
        }
        let said = run("", &[("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", "1")], vec![]);
        assert!(
            said.iter().any(|l| l.contains("watchdog: None")),
            "{said:#?}"
        );
    }

    #[test]
    fn descriptors_that_are_not_there_are_an_error() {
        let said = run(
            "export LISTEN_PID=$$; exec 3<&-",
            &[("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")],
            vec![],
        );
        assert_eq!(
            said,
            [
                "error cannot use descriptor 3 (\"http\") of LISTEN_FDS: Bad file descriptor (os \
              error 9)"
            ]
        );
        for count in ["many", "-1", "99999999999"] {
            let said = run("export LISTEN_PID=$$", &[("LISTEN_FDS", count)], vec![]);
            assert!(said[0].contains("expected a number"), "{said:#?}");
        }
    }

    #[test]
    fn signals_and_limits_are_put_right() {
        // CHLD ignored would make children vanish unreaped.
        let said = run("trap '' USR1 CHLD HUP INT; ulimit -S -n 64", &[], vec![]);
        assert!(
            said.contains(&"SigBlk: SIGHUP SIGUSR2 SIGWINCH".to_owned()),
            "{said:#?}"
        );
        // QUIT, too, when these tests run in the background of a shell.
        let ignored = [
            "SigIgn: SIGHUP SIGINT SIGPIPE",
            "SigIgn: SIGHUP SIGINT SIGQUIT SIGPIPE",
        ];
        assert!(
            said.iter().any(|line| ignored.contains(&line.as_str())),
            "{said:#?}"
        );
        assert!(said.contains(&"files raised=true".to_owned()), "{said:#?}");
    }

    #[test]
    fn the_environment_becomes_a_value() {
        let said = run(
            "export WATCHDOG_PID=$$ SYSTEMD_EXEC_PID=$$; cd /usr",
            &[
                ("NOTIFY_SOCKET", "@abstract"),
                ("WATCHDOG_USEC", "30000000"),
                ("RUNTIME_DIRECTORY", "/run/a:/run/b"),
                ("STATE_DIRECTORY", "/var/lib/a"),
                ("CONFIGURATION_DIRECTORY", ""),
                ("XDG_RUNTIME_DIR", "/run/user/0"),
                ("HANDOVER_UNIT_REV", "3"),
                ("FDSTORE", "1024"),
                ("INVOCATION_ID", "abc"),
                ("JOURNAL_STREAM", "1:2"),
            ],
            vec![],
        );
        let all = said.last().unwrap();
        for part in [
            "role: First,",
            "notify: Some(",
            "watchdog: Some(30s)",
            "journal_stream: false",
            "under_systemd: true",
            "runtime_dir: Some(\"/run/a\")",
            "state_dir: Some(\"/var/lib/a\")",
            "config_dir: None",
            "xdg_runtime_dir: Some(\"/run/user/0\")",
            "unit_rev: Some(\"3\")",
            "fdstore_max: Some(1024)",
            "invocation_id: Some(\"abc\")",
            "args: [\"sys::inherited::tests::inherits\", \"--exact\"",
            "cwd: \"/usr\"",
            &format!("program: {:?}", std::env::current_exe().unwrap()),
        ] {
            assert!(all.contains(part), "{part} is not in {all}");
        }
        let said = run("", &[("NOTIFY_SOCKET", "nowhere")], vec![]);
        assert!(
            said[0].starts_with("error cannot use NOTIFY_SOCKET"),
            "{said:#?}"
        );
    }

    #[test]
    fn the_journal_is_known_by_its_inode() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let env = |value: String| Env(BTreeMap::from([("JOURNAL_STREAM".into(), value.into())]));
        assert!(env(format!("{}:{}", stat.st_dev, stat.st_ino)).journal_is(&file));
        assert!(!env(format!("{}:{}", stat.st_dev, stat.st_ino + 1)).journal_is(&file));
        assert!(!Env(BTreeMap::new()).journal_is(&file));
    }

    #[test]
    fn whoever_has_a_channel_is_a_successor_or_a_worker() {
        let operator = "SigBlk: SIGHUP SIGINT SIGQUIT SIGUSR1 SIGUSR2 SIGTERM SIGWINCH";
        for (name, kind, role) in [
            (CHANNEL_ENV, SocketType::SEQPACKET, "role: Successor("),
            (WORKER_ENV, SocketType::SEQPACKET, "role: Worker("),
            (KEEPER_ENV, SocketType::STREAM, "role: FirstUnderKeeper("),
        ] {
            let flags = rustix::net::SocketFlags::CLOEXEC;
            let (_ours, theirs) =
                rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
            let said = run("", &[(name, "3")], vec![theirs]);
            assert!(said.last().unwrap().contains(role), "{said:#?}");
            assert!(said.iter().any(|l| l == operator), "{said:#?}");
            // Named after its program, not after the number it was executed by.
            assert!(
                said.iter().any(|l| l.starts_with("comm handover-")),
                "{said:#?}"
            );
            let again = said.iter().find(|l| l.starts_with("again")).unwrap();
            assert!(again.contains("not open"), "{again}");
        }
    }

    #[test]
    fn a_variable_that_is_left_over_is_an_error_that_says_so() {
        let file = || vec![File::open("/dev/null").unwrap().into()];
        for (name, number, fds, expected) in [
            (
                CHANNEL_ENV,
                "3",
                file(),
                "descriptor 3 is not a master's channel",
            ),
            (
                WORKER_ENV,
                "3",
                file(),
                "descriptor 3 is not a master's channel",
            ),
            (
                KEEPER_ENV,
                "3",
                file(),
                "descriptor 3 is not the keeper's pipe",
            ),
            (WORKER_ENV, "1000", vec![], "descriptor 1000 is not open"),
            (WORKER_ENV, "1", vec![], "descriptor 1 is not open"),
            (WORKER_ENV, "three", vec![], "expected a number"),
        ] {
            let said = run("", &[(name, number)], fds);
            assert!(said[0].contains(expected), "{said:#?}");
            assert!(said[0].contains("unset"), "{said:#?}");
        }
        let said = run("", &[(WORKER_ENV, "3"), (CHANNEL_ENV, "3")], vec![]);
        assert!(said[0].contains("two things at once"), "{said:#?}");
    }

    #[test]
    fn a_program_is_called_by_the_last_part_of_its_path() {
        for (arg0, name) in [
            ("/usr/bin/handover", "handover"),
            ("handover: worker process g7", "handover"),
            ("./my-service: master process g7", "my-service"),
            ("", ""),
        ] {
            assert_eq!(program_name(OsStr::new(arg0)), name);
        }
    }
}
