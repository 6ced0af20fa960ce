//! A container in which the service is installed and runs: what a story does to it and asks of it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::container::{Container, Ran};
use crate::release::{Build, Layer, PROGRAM, build_id};
use crate::tree::Suite;

/// Who opens the listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// handover.socket.
    Passed,
    /// The service, by its configuration; systemd keeps it in the fdstore.
    Own,
}

/// The service in its container.
pub struct Host {
    /// Where it runs.
    pub container: Container,
    /// Who opens its socket.
    pub listener: Listener,
}

/// What is where on disk, by build id: `None` for no file, "none" for a file without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The program.
    pub program: Option<String>,
    /// `handover.good`: another program is on trial.
    pub good: Option<String>,
    /// `handover.old`.
    pub old: Option<String>,
    /// `handover.rejected`.
    pub rejected: Option<String>,
}

impl Host {
    /// Boots `suite` with the service installed, not started.
    pub fn boot(suite: Suite, listener: Listener, layer: &Layer) -> io::Result<Self> {
        let container = Container::boot(suite, layer.path())?;
        let host = Self {
            container,
            listener,
        };
        // Where systemd knows the key, as a package would decide.
        if suite.systemd() >= 254 {
            host.drop_in(
                "50-preserve",
                include_str!("../../systemd/handover.service.d/50-preserve.conf"),
            );
        }
        let site =
            format!("mkdir -p {SITE}; echo hello >{SITE}/index.html; truncate -s 64M {SITE}/{BIG}");
        host.container.sh(&site).ok();
        host.configure("");
        Ok(host)
    }

    /// Enables and starts it.
    pub fn start(&self) {
        let units: &[&str] = match self.listener {
            Listener::Passed => &["handover.socket", "handover.service"],
            Listener::Own => &["handover.service"],
        };
        let enable = ["enable", "--now"].iter().chain(units);
        self.systemctl(enable).ok();
    }

    /// Writes the configuration: the listener, then `more` (tables of TOML).
    pub fn configure(&self, more: &str) {
        let mut text = String::from("workers = 2\n[[listener]]\nname = \"http\"\n");
        if self.listener == Listener::Own {
            text.push_str("address = \"[::]:80\"\n");
        }
        let _ = writeln!(text, "[site]\nroot = \"{SITE}\"\n{more}");
        self.container.write("/etc/handover/handover.toml", &text);
    }

    /// A drop-in for the service, read at once.
    pub fn drop_in(&self, name: &str, text: &str) {
        let file = format!("/etc/systemd/system/handover.service.d/{name}.conf");
        self.container.write(&file, text);
        self.systemctl(["daemon-reload"]).ok();
    }

    /// Puts a release in place of the program as every installer does: by rename.
    pub fn install(&self, build: Build) {
        self.install_file(&build.path());
    }

    /// The same for any file of the container, with its mode.
    pub fn install_file(&self, path: &str) {
        let script = format!("cp -p {path} {PROGRAM}.tmp && mv -T {PROGRAM}.tmp {PROGRAM}");
        self.container.sh(&script).ok();
    }

    /// Runs systemctl.
    pub fn systemctl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let mut command = vec![std::ffi::OsString::from("systemctl")];
        command.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self.container.run(command)
    }

    /// `systemctl reload handover.service`.
    pub fn reload(&self) -> Ran {
        self.systemctl(["reload", "handover.service"])
    }

    /// The installed program as root's client.
    pub fn handover(&self, args: &[&str]) -> Ran {
        self.container.run(["/usr/bin/handover"].iter().chain(args))
    }

    /// A property of the service as systemd has it.
    pub fn property(&self, name: &str) -> String {
        let [value] = self.properties([name]);
        value
    }

    /// Several at one moment; empty where systemd does not know one.
    fn properties<const N: usize>(&self, names: [&str; N]) -> [String; N] {
        let wanted = format!("--property={}", names.join(","));
        let shown = self.systemctl(["show", &wanted, "handover.service"]);
        let shown = shown.ok();
        names.map(|name| {
            let mut lines = shown.lines().filter_map(|line| line.split_once('='));
            let value = lines.find(|(key, _)| *key == name).map(|(_, value)| value);
            value.unwrap_or_default().to_owned()
        })
    }

    /// Whether systemd knows `RefreshOnReload=`.
    pub fn refreshes(&self) -> bool {
        !self.property("RefreshOnReload").is_empty()
    }

    /// systemd's main process, in the container's numbers; 0 when there is none.
    pub fn main_pid(&self) -> u32 {
        self.main_and_state().0
    }

    /// It, and the state that the unit is in.
    pub fn main_and_state(&self) -> (u32, String) {
        let [main, state] = self.properties(["MainPID", "ActiveState"]);
        (main.parse().expect("a number"), state)
    }

    /// Panics unless the unit is active and its main process is a living one of `build`.
    #[track_caller]
    pub fn assert_runs(&self, build: Build) -> u32 {
        let (pid, state) = self.main_and_state();
        assert_eq!(state, "active");
        assert_eq!(
            self.build_of(pid).as_deref(),
            Some(&*build.id()),
            "main process {pid}"
        );
        pid
    }

    /// The state that the unit is in: `active`, `inactive`, `failed`, ...
    pub fn state(&self) -> String {
        self.property("ActiveState")
    }

    /// How often systemd restarted it by itself.
    pub fn restarts(&self) -> String {
        self.property("NRestarts")
    }

    /// Processes whose title begins so, in the container's numbers.
    pub fn titled(&self, title: &str) -> Vec<u32> {
        let pattern = format!("^{title}");
        let ran = self.container.run(["pgrep", "--full", &pattern]);
        ran.stdout
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// Waits until the program on disk is `build` and that is the good one.
    #[track_caller]
    pub fn until_disk_is(&self, build: Build) {
        until(&format!("{build:?} on disk, and good"), SOON, || {
            let disk = self.disk();
            (disk.program == Some(build.id()) && disk.good == disk.program).then_some(())
        });
    }

    /// Waits until the unit is active with another main process than `before`.
    #[track_caller]
    pub fn until_another_main(&self, before: u32, limit: Duration) -> u32 {
        until(
            &format!("a main process that is not {before}"),
            limit,
            || {
                let (main, state) = self.main_and_state();
                (main != before && main != 0 && state == "active").then_some(main)
            },
        )
    }

    /// Waits for a child of `parent` that runs build `id` as a master (its pre-flight has ended).
    #[track_caller]
    pub fn until_child(&self, parent: u32, id: &str) -> u32 {
        until("the successor starts", SOON, || {
            let parent = parent.to_string();
            let pattern = ["--parent", &parent, "--full", "^handover: master process"];
            let ran = self.container.run(["pgrep"].iter().chain(&pattern));
            let mut pids = ran.stdout.lines().filter_map(|line| line.parse().ok());
            pids.find(|pid| self.build_of(*pid).as_deref() == Some(id))
        })
    }

    /// Waits until systemd's main process is `pid`.
    #[track_caller]
    pub fn until_main_is(&self, pid: u32) {
        until(&format!("{pid} is the main process"), SOON, || {
            (self.main_pid() == pid).then_some(())
        });
    }

    /// `status --json`.
    pub fn status(&self) -> Value {
        let ran = self.handover(&["status", "--json"]);
        serde_json::from_str(ran.ok()).unwrap_or_else(|e| panic!("{e}: {ran}"))
    }

    /// The program's directory.
    pub fn disk(&self) -> Disk {
        Disk {
            program: self.build_at(PROGRAM),
            good: self.build_at(&format!("{PROGRAM}.good")),
            old: self.build_at(&format!("{PROGRAM}.old")),
            rejected: self.build_at(&format!("{PROGRAM}.rejected")),
        }
    }

    /// What `pid` runs.
    pub fn build_of(&self, pid: u32) -> Option<String> {
        build_in(self.container.path(&format!("/proc/{pid}/exe"))).ok()
    }

    /// Sends a signal to one process of the container.
    pub fn kill(&self, signal: &str, pid: u32) {
        assert!(pid > 1, "no process to send {signal} to");
        self.container
            .run(["kill", &format!("-{signal}"), &pid.to_string()])
            .ok();
    }

    /// SIGKILL to several: none runs any more when the first one dies.
    pub fn kill_at_once(&self, pids: &[u32]) {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let pids = pids.join(" ");
        self.container
            .sh(&format!("kill -STOP {pids}; kill -KILL {pids}"))
            .ok();
    }

    /// What the service and systemd said about it, since `mark` was logged by `mark_journal`.
    pub fn journal_since(&self, mark: &str) -> String {
        let script = "journalctl --sync; journalctl --output=cat --no-pager";
        let ran = self.container.sh(script);
        let text = ran.ok();
        let at = text
            .rfind(mark)
            .unwrap_or_else(|| panic!("no {mark} in the journal"));
        text[at + mark.len()..].to_owned()
    }

    /// Puts a line of its own into the journal.
    pub fn mark_journal(&self, mark: &str) {
        let script = format!("echo '{mark}' | systemd-cat; journalctl --sync");
        self.container.sh(&script).ok();
    }

    fn build_at(&self, path: &str) -> Option<String> {
        let found = self.container.find(path)?;
        if !found.metadata().expect("its kind").is_file() {
            return Some("none".into());
        }
        let found = format!("/proc/self/fd/{}", found.as_raw_fd());
        Some(build_in(&found).expect("a file that can be read"))
    }
}

/// A file's build id, "none" for one without.
fn build_in(path: impl AsRef<Path>) -> io::Result<String> {
    let mut begin = Vec::new();
    File::open(path)?.take(1 << 16).read_to_end(&mut begin)?;
    Ok(build_id(&begin).unwrap_or_else(|| "none".into()))
}

/// A file of the site that fits into no socket's buffer.
pub const BIG: &str = "big";

const SITE: &str = "/srv/www";

/// For what systemd or the service does on its own and soon.
pub const SOON: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer. Panics when there is none in time. To ask mostly means to
/// start processes, which would take the processor from what is waited for: it takes a quarter of the time at
/// most, as long as that is often enough.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let began = Instant::now();
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep((3 * began.elapsed()).clamp(OFTEN, SELDOM));
    }
}

/// Between two questions.
const OFTEN: Duration = Duration::from_millis(20);
const SELDOM: Duration = Duration::from_millis(200);
