//! A booted Debian container: systemd as PID 1, a network and a cgroup of its own, changes in
//! memory. It ends with the value, and with the test program however that ends.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::tree::Suite;

/// For a boot; it takes about a second.
const BOOT: Duration = Duration::from_secs(60);

/// For a command in it that nobody expects to block.
const COMMAND: Duration = Duration::from_secs(60);

/// What Debian does at a boot, or later by the clock, that is nothing to any story: on its kernel's command
/// line a machine that boots may name what it does without.
const IDLE: [&str; 6] = [
    "ldconfig.service",
    "systemd-journal-catalog-update.service",
    "console-getty.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
];

/// nspawn's socket to us, in the container's directory.
const NOTIFY: &str = "notify";

/// A running container.
///
/// The thread that booted it is inside its network (so that a client needs no program of its own in
/// there) until the container is dropped, on the same thread.
pub struct Container {
    /// Its Debian.
    pub suite: Suite,
    dir: tempfile::TempDir,
    name: String,
    nspawn: Child,
    leader: Pid,
    outside: File,
}

/// What a command in the container came to.
#[derive(Debug, Clone)]
pub struct Ran {
    /// What was run.
    pub command: String,
    /// Its exit code; a signal is 128 and more, a time-out 124.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Container {
    /// Boots `suite`, with the files under `layer` laid over its tree.
    pub fn boot(suite: Suite, layer: &Path) -> io::Result<Self> {
        let tree = suite.tree().map_err(io::Error::other)?;
        Self::boot_tree(suite, tree, layer)
    }

    /// The same on another tree of that suite.
    pub fn boot_tree(suite: Suite, tree: &Path, layer: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir()?;
        let name = format!(
            "handover-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let notify = UnixDatagram::bind(dir.path().join(NOTIFY))?;
        let disk = dir.path().join("disk");
        fs::create_dir(&disk)?;
        let console = File::create(dir.path().join("console"))?;
        let nspawn = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount"])
            .args(["--propagation", "private", "sh", "-euc", SCRIPT])
            .args([OsStr::new(&name), tree.as_os_str(), layer.as_os_str()])
            .arg(&disk)
            .args(IDLE.map(|unit| format!("systemd.mask={unit}")))
            .env("NOTIFY_SOCKET", dir.path().join(NOTIFY))
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()?;
        let mut container = Self {
            suite,
            dir,
            name,
            nspawn,
            leader: Pid::INIT,
            outside: File::open("/proc/thread-self/ns/net")?,
        };
        container.booted(notify)?;
        Ok(container)
    }

    /// Pulls the plug: no process of it gets a word, then the same disk boots again.
    pub fn power_cycle(&mut self) -> io::Result<()> {
        let notify = UnixDatagram::bind(self.dir.path().join(NOTIFY))?;
        // Its PID 1 reboots the machine without asking anybody.
        let _ = self.run(["systemctl", "reboot", "--force", "--force"]);
        self.booted(notify)
    }

    /// Runs a command in it as root, with a clean environment.
    pub fn run<S: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = S>) -> Ran {
        self.run_within(COMMAND, command)
    }

    /// The same for a command that may block for long.
    pub fn run_within<S: AsRef<OsStr>>(
        &self,
        limit: Duration,
        command: impl IntoIterator<Item = S>,
    ) -> Ran {
        let command: Vec<_> = command.into_iter().collect();
        let words: Vec<_> = command
            .iter()
            .map(|w| w.as_ref().to_string_lossy())
            .collect();
        let out = self
            .enter()
            .args(["timeout", "--kill-after=1"])
            .arg(limit.as_secs().max(1).to_string())
            .args(&command)
            .output();
        Ran::new(words.join(" "), out)
    }

    /// Runs a shell script in it.
    pub fn sh(&self, script: &str) -> Ran {
        self.run(["sh", "-euc", script])
    }

    /// Starts a command in it without waiting for its end.
    pub fn spawn<S: AsRef<OsStr>>(
        &self,
        command: impl IntoIterator<Item = S>,
    ) -> io::Result<Child> {
        self.enter()
            .args(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// Its PID 1, in this machine's numbers.
    pub fn leader(&self) -> i32 {
        self.leader.as_raw_nonzero().get()
    }

    /// A file of the container, as this program can open it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.leader))
    }

    /// What is at a path for the container's own eyes: links lead to where they lead in there.
    pub fn find(&self, inside: &str) -> Option<File> {
        let root = File::open(self.path("/")).expect("the container's root");
        let found = openat2(
            root,
            inside,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        );
        match found {
            Ok(found) => Some(found.into()),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(e) => panic!("{inside} in the container: {e}"),
        }
    }

    /// Writes a file (0644, root's), and the directories above it.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        let parent = path.parent().expect("an absolute path");
        fs::create_dir_all(parent).unwrap_or_else(|e| panic!("mkdir {}: {e}", parent.display()));
        fs::write(&path, text).unwrap_or_else(|e| panic!("write {inside}: {e}"));
    }

    /// What a person would want to see when a story failed.
    pub fn evidence(&self) -> String {
        let mut text = String::new();
        for script in [
            "systemctl status --no-pager --full --lines=0 'handover*' || true",
            "ls -la --full-time /usr/lib/handover/bin /run/handover /run/handover-guard || true",
            "ps -eo user:9,pid,ppid,stat,etime,args --forest",
            "journalctl --no-pager --output=short-precise | sed -n '/Startup finished/,$p' | tail -n 400",
        ] {
            let _ = writeln!(text, "--- {script}\n{}", self.sh(script));
        }
        text
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.leader.to_string(), "--all", "--"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// Waits until PID 1 says that it has booted, and moves this thread into its network.
    ///
    /// The socket goes then: nspawn passes everything on that PID 1 says, and would wait for ever
    /// when nobody reads it.
    fn booted(&mut self, notify: UnixDatagram) -> io::Result<()> {
        let deadline = Instant::now() + BOOT;
        let mut leader = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.nspawn.try_wait()?.is_some() {
                let said = fs::read_to_string(self.dir.path().join("console"));
                return Err(io::Error::other(format!(
                    "{} did not boot: {}",
                    self.suite.name(),
                    said.unwrap_or_default()
                )));
            }
            // Short, to see nspawn's death too.
            notify.set_read_timeout(Some(left.min(Duration::from_millis(500))))?;
            let mut buffer = [0; 4096];
            let Ok(len) = notify.recv(&mut buffer) else {
                continue;
            };
            let message = String::from_utf8_lossy(&buffer[..len]);
            for line in message.lines() {
                if let Some(pid) = line.strip_prefix("X_NSPAWN_LEADER_PID=") {
                    leader = pid.parse().ok().and_then(Pid::from_raw);
                }
            }
            if let (true, Some(leader)) = (message.lines().any(|l| l == "READY=1"), leader) {
                self.leader = leader;
                break;
            }
        }
        drop(notify);
        fs::remove_file(self.dir.path().join(NOTIFY))?;
        let net = File::open(format!("/proc/{}/ns/net", self.leader))?;
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = move_into_link_name_space(self.outside.as_fd(), Some(LinkNameSpaceType::Network));
        // With its PID 1 every process of it goes, then nspawn, then the disk.
        if self.leader == Pid::INIT || kill_process(self.leader, Signal::KILL).is_err() {
            let _ = self.nspawn.kill();
        }
        let _ = self.nspawn.wait();
        let _ = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SWEEP])
            .arg(&self.name)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

impl Ran {
    fn new(command: String, out: io::Result<Output>) -> Self {
        match out {
            Ok(out) => Self {
                command,
                code: out
                    .status
                    .code()
                    .unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0)),
                stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
            },
            Err(e) => panic!("{command}: {e}"),
        }
    }

    /// Its output without the last line's end. Panics unless it ended with 0.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert!(self.code == 0, "{self}");
        self.stdout.trim_end()
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "`{}` ended with {}", self.command, self.code)?;
        f.write_str(&self.stdout)?;
        f.write_str(&self.stderr)
    }
}

/// In a mount namespace of its own: the disk (changes in memory over LAYER over TREE), and a plain
/// cgroup2 hierarchy whatever the machine has at that place; then nspawn in a cgroup of its own.
/// Several containers in one cgroup would see, and kill, each other's processes. A reboot makes
/// nspawn end with 133; the disk stays. (A newer systemd asks its terminal for its size and waits for
/// the answer, unless the terminal is dumb.)
const SCRIPT: &str = r#"
name=$0 tree=$1 layer=$2 disk=$3
shift 3
mount -t tmpfs -o mode=0755 tmpfs "$disk"
mkdir "$disk/upper" "$disk/work" "$disk/root"
mount -t overlay overlay -o "lowerdir=$layer:$tree,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
boot=0
while :; do
    boot=$((boot + 1)) ended=0
    mkdir -p "/sys/fs/cgroup/$name/$boot"
    echo $$ >"/sys/fs/cgroup/$name/$boot/cgroup.procs"
    setpriv --pdeathsig TERM systemd-nspawn --kill-signal=SIGKILL --quiet --register=no --keep-unit --boot \
        --notify-ready=yes --directory="$disk/root" --machine="$name" --private-users=no \
        --private-network --link-journal=no --resolv-conf=off --timezone=off \
        --console=read-only --setenv=TERM=dumb -- "$@" ||
        ended=$?
    [ "$ended" = 133 ] || exit "$ended"
done
"#;

/// Removes the cgroups that are left.
const SWEEP: &str = r#"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for try in 1 2 3 4 5 6 7 8 9 10; do
    find "/sys/fs/cgroup/$0" -depth -type d -exec rmdir {} + && break
    [ -d "/sys/fs/cgroup/$0" ] || break
    sleep 0.05
done
"#;
