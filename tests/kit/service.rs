//! The service under test, in a directory of its own that is swept when the test ends.
//!
//! ```ignore
//! let service = Service::setup("goes_back").config("workers = 2").start();
//! service.wait_phase("serving");
//! service.replace(&build::other_version("2.0.0"));
//! service.cli(&["upgrade"]).assert_code(0);
//! ```

mod control;
mod picture;
mod run;
mod setup;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use handover::api::Status;
use rustix::process::Signal;

pub use run::{Output, Pending, code_of};
pub use setup::Setup;

use super::client::{Spec, Target};
use super::manager::{Active, Manager};
use super::port::Port;
use super::proc::{self, Pinned, Process, Role};
use super::wait::{look_again, wait_until};

/// How long anything ordinary may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A service and everything it owns.
#[derive(Debug)]
pub struct Service {
    /// The service's name.
    pub name: String,
    /// The program as executed: `<dir>/bin/handover`.
    pub program: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
    /// The runtime directory.
    pub runtime: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// Everything the processes wrote.
    pub log: PathBuf,
    listeners: Vec<(String, Target)>,
    marker: String,
    client: PathBuf,
    child: Mutex<Option<Child>>,
    manager: Option<Manager>,
    transcript: Mutex<Vec<String>>,
    began: Instant,
    setup: Setup,
    ports: Vec<Port>,
    dir: tempfile::TempDir,
}

impl Service {
    /// Begins to describe a service; `test` names its directory.
    pub fn setup(test: &str) -> Setup {
        Setup::new(test)
    }

    /// Its temporary directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where a listener is to be asked.
    pub fn target(&self, listener: &str) -> Target {
        self.listeners
            .iter()
            .find(|(name, _)| name == listener)
            .map_or_else(
                || panic!("no listener {listener:?}"),
                |(_, target)| target.clone(),
            )
    }

    /// A load on a listener.
    pub fn load(&self, listener: &str) -> Spec {
        Spec::new(self.target(listener))
    }

    /// The fake service manager, when it was started under one.
    pub fn manager(&self) -> &Manager {
        self.manager.as_ref().expect("started under a manager")
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Writes the configuration: this text, and the listeners.
    pub fn write_config(&self, text: &str) {
        self.setup.write_config(&self.config, text, &self.listeners);
        self.note(&format!("wrote {}", self.config.display()));
    }

    /// Puts another program at the path by rename, as a package manager does.
    pub fn replace(&self, image: &Path) {
        install(image, &self.program);
        self.note(&format!(
            "{} is {} now",
            self.program.display(),
            image.display()
        ));
    }

    /// Puts a few bytes at the path instead of a program.
    pub fn replace_with_text(&self, text: &str, mode: u32) {
        let new = self.program.with_extension("kit-new");
        fs::write(&new, text).expect("a file in the bin directory");
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).expect("its mode");
        fs::rename(&new, &self.program).expect("a rename");
        self.note(&format!("{} is a text now", self.program.display()));
    }

    /// Runs a shell command in the bin directory (`cp -f handover.old handover`).
    #[track_caller]
    pub fn shell(&self, command: &str) -> String {
        let output = Command::new("sh")
            .args(["-ec", command])
            .current_dir(self.program.parent().expect("a bin directory"))
            .output()
            .expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.note(&format!("$ {command}\n{text}"));
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Files in the bin directory, but for the `.good` one: it comes when what runs has proved itself,
    /// or with the first upgrade.
    pub fn bin_files(&self) -> Vec<String> {
        let mut files = files(self.program.parent().expect("a bin directory"));
        files.retain(|name| !name.contains(".good"));
        files
    }

    /// Files in the runtime directory.
    pub fn runtime_files(&self) -> Vec<String> {
        files(&self.runtime)
    }

    /// The pid in `<runtime>/<name>.pid` (or `.pid.oldbin`).
    pub fn pid_file(&self, suffix: &str) -> Option<u32> {
        let path = self.runtime.join(format!("{}{suffix}", self.name));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// What the owner says of itself, over the control socket; `None`: nobody answers.
    pub fn status(&self) -> Option<Status> {
        let body = control::get(&self.runtime.join("control.sock"), "/v1/status")?;
        match serde_json::from_slice(&body) {
            Ok(status) => Some(status),
            Err(e) => panic!("cannot read {}: {e}", String::from_utf8_lossy(&body)),
        }
    }

    /// `GET` of a path on the control socket.
    pub fn control(&self, path: &str) -> Option<Vec<u8>> {
        control::get(&self.runtime.join("control.sock"), path)
    }

    /// Waits until the status is as wanted.
    #[track_caller]
    pub fn wait_status(&self, what: &str, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        let end = Instant::now() + SOON;
        loop {
            let status = self.status();
            if let Some(status) = status.clone().filter(&mut wanted) {
                return status;
            }
            if let Some(exit) = self.exited() {
                panic!("waited for {what}, but the process that was started ended: {exit}");
            }
            let dead = |m: &Manager| m.look(|s| s.starts > 0 && s.active == Active::Dead);
            assert!(
                !self.manager.as_ref().is_some_and(dead),
                "waited for {what}, but the unit is dead"
            );
            assert!(
                Instant::now() < end,
                "waited {SOON:?} for {what}; the last status is {status:#?}"
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Waits until the owner's phase is this one (`serving`, `probation`...).
    #[track_caller]
    pub fn wait_phase(&self, phase: &str) -> Status {
        self.wait_status(&format!("phase {phase}"), |status| {
            status.phase.to_string() == phase
        })
    }

    /// Waits until this generation owns the service, in this phase.
    #[track_caller]
    pub fn wait_owner(&self, generation: u64, phase: &str) -> Status {
        self.wait_status(&format!("g{generation} {phase}"), |status| {
            status.generation == generation && status.phase.to_string() == phase
        })
    }

    /// Waits until `done` is true, looking at the processes.
    #[track_caller]
    pub fn wait_processes(&self, what: &str, mut done: impl FnMut(&[Process]) -> bool) {
        let end = Instant::now() + SOON;
        loop {
            let processes = self.processes();
            if done(&processes) {
                return;
            }
            assert!(
                Instant::now() < end,
                "waited {SOON:?} for {what}; there are\n{}",
                table(&processes)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything that runs for this service, zombies included; clients are not counted.
    pub fn processes(&self) -> Vec<Process> {
        proc::marked(&self.marker)
    }

    /// The living masters, oldest generation first.
    pub fn masters(&self) -> Vec<Process> {
        self.with_role(|role| matches!(role, Role::Master(_)))
    }

    /// The living workers of a generation.
    pub fn workers(&self, generation: u64) -> Vec<Process> {
        self.with_role(|role| role == Role::Worker(generation))
    }

    /// The living master of a generation.
    #[track_caller]
    pub fn master(&self, generation: u64) -> Process {
        self.with_role(|role| role == Role::Master(generation))
            .pop()
            .unwrap_or_else(|| panic!("no master g{generation} in\n{}", table(&self.processes())))
    }

    fn with_role(&self, wanted: impl Fn(Role) -> bool) -> Vec<Process> {
        let mut found: Vec<_> = self
            .processes()
            .into_iter()
            .filter(|p| !p.is_zombie() && wanted(p.role()))
            .collect();
        found.sort_by_key(|p| match p.role() {
            Role::Master(generation) | Role::Worker(generation) => generation,
            Role::Other => 0,
        });
        found
    }

    /// How many descriptors one of the service's processes has open.
    #[track_caller]
    pub fn fd_count(&self, pid: u32) -> usize {
        assert!(
            proc::is_marked(pid, &self.marker),
            "{pid} is none of the service's processes"
        );
        proc::fds(pid).len()
    }

    /// Sends a signal through a pidfd. Panics when there is no such process. After STOP nothing of it
    /// runs any more: the kernel stops a process some time after kill(2) returned, and until then
    /// another thread of it may answer.
    #[track_caller]
    pub fn signal(&self, pid: u32, signal: Signal) {
        self.note(&format!("signal {signal:?} to {pid}"));
        let pinned = Pinned::open(pid).unwrap_or_else(|| panic!("no process {pid}"));
        assert!(
            proc::is_marked(pid, &self.marker),
            "{pid} is none of the service's processes"
        );
        assert!(pinned.signal(signal), "{pid} has just gone");
        if signal == Signal::STOP {
            wait_until(&format!("{pid} to stop"), || proc::is_stopped(pid));
        }
    }

    /// Ends everybody at once, as a power cut does: nobody sees another one die and acts on it.
    #[track_caller]
    pub fn cut_power(&self) {
        self.note("power cut");
        let end = Instant::now() + SOON;
        let running = || {
            let mut all = self.processes();
            all.retain(|p| !p.is_zombie() && !proc::is_stopped(p.pid));
            all
        };
        loop {
            let running = running();
            if running.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "there run\n{}", table(&running));
            for process in running {
                if let Some(pinned) = Pinned::open(process.pid) {
                    pinned.signal(Signal::STOP);
                }
            }
            look_again();
        }
        for process in self.processes() {
            self.make_sure_of(process.pid);
        }
    }

    /// KILL to one that may have ended by itself meanwhile.
    pub fn make_sure_of(&self, pid: u32) {
        self.note(&format!("KILL to {pid}, if it is still there"));
        if let Some(pinned) = Pinned::open(pid).filter(|_| proc::is_marked(pid, &self.marker)) {
            pinned.signal(Signal::KILL);
        }
    }

    /// KILL, and waits until it has ended (somebody has to reap it).
    #[track_caller]
    pub fn kill(&self, pid: u32) {
        let pinned = Pinned::open(pid).unwrap_or_else(|| panic!("no process {pid}"));
        self.signal(pid, Signal::KILL);
        assert!(pinned.wait_ended(SOON), "{pid} survived SIGKILL");
    }

    /// The process that was started without a manager: the keeper.
    pub fn keeper(&self) -> u32 {
        self.child()
            .as_ref()
            .expect("started without a manager")
            .id()
    }

    /// How the process that was started ended, if it has. Not under a manager.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.child().as_mut()?.try_wait().expect("our own child")
    }

    /// Waits for the end of the process that was started. Not under a manager.
    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        let end = Instant::now() + SOON;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "waited {SOON:?} for the end of\n{}",
                table(&self.processes())
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// What was logged so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until these words were logged so many times.
    #[track_caller]
    pub fn wait_log(&self, words: &str, times: usize) {
        wait_until(&format!("the log to say {words:?}"), || {
            self.log_text().matches(words).count() >= times
        });
    }

    /// Adds a line to the story that a failing test prints.
    pub fn note(&self, line: &str) {
        let line = format!("{:>9.3?} {line}", self.began.elapsed());
        self.transcript
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print_story(&self) {
        eprintln!("--- what the test did");
        for line in self
            .transcript
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            eprintln!("{line}");
        }
        eprintln!("--- processes\n{}", table(&self.processes()));
        if let Some(manager) = &self.manager {
            eprintln!("--- service manager\n{}", manager.story());
        }
        eprintln!("--- {}\n{}", self.log.display(), self.log_text());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking {
            self.print_story();
        }
        if let Some(manager) = &mut self.manager {
            manager.abandon();
        }
        let swept = proc::kill_marked(&self.marker);
        if let Some(child) = self.child().as_mut() {
            let _ = child.wait();
        }
        if let Err(left) = swept {
            let left = table(&left);
            assert!(panicking, "processes survived SIGKILL:\n{left}");
            eprintln!("processes survived SIGKILL:\n{left}");
        }
    }
}

/// One process a line.
pub fn table(processes: &[Process]) -> String {
    let mut table = String::new();
    for process in processes {
        let _ = writeln!(table, "  {process}");
    }
    table
}

/// Copies a program by another process: a file open for writing in a test with threads would be
/// inherited by a fork at the wrong moment, and its exec fail with ETXTBSY.
pub fn install(image: &Path, path: &Path) {
    let new = path.with_extension("kit-new");
    let copied = Command::new("cp")
        .args(["--reflink=auto", "--"])
        .args([image, &new])
        .status()
        .expect("cp runs");
    assert!(copied.success(), "cannot copy {}", image.display());
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("its mode");
    fs::rename(&new, path).expect("a rename");
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
