//! systemd/guard, the one part that runs as root, where no unit tells it what to do. What each verb
//! does to the disk is held to the machine's table in `master::store`; here is whom it believes.
//! Needs root, because it believes only root's files.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

use crate::host::{SOON, until};
use crate::{skipped, told};

/// One trial a promise.
pub fn trials() -> Vec<Trial> {
    TRIALS
        .iter()
        .map(|&(name, test)| {
            Trial::ignorable_test(format!("guard::{name}"), move || {
                if !rustix::process::geteuid().is_root() {
                    return skipped("needs root: the guard believes only root's files", true);
                }
                told(|| test(&Place::new()))
                    .map(|()| Completion::Completed)
                    .map_err(Failed::from)
            })
        })
        .collect()
}

macro_rules! trials {
    ($($name:ident,)*) => { const TRIALS: &[(&str, fn(&Place))] = &[$((stringify!($name), $name),)*]; };
}

trials! {
    a_commit_believes_only_a_running_image_of_roots,
    a_client_is_the_running_image_and_nothing_else,
    a_word_that_cannot_be_written_changes_no_verdict,
    what_cannot_be_counted_is_not_tried_for_ever,
    no_answer_from_anybody_keeps_it_from_going_back,
    only_root_can_open_what_is_locked,
    one_guard_waits_for_another,
    what_comes_while_another_one_is_put_aside_is_left_alone,
}

fn a_commit_believes_only_a_running_image_of_roots(at: &Place) {
    let running = at.running("a");
    let image = at.file("");
    at.install("b");
    for (what, spoil) in [
        ("somebody else's", "chown games IMAGE"),
        ("writable by others", "chown root IMAGE; chmod 757 IMAGE"),
    ] {
        // What runs is the file that had the name before: reach it by the process.
        let exe = format!("/proc/{}/exe", running.id());
        let script = spoil.replace("IMAGE", &exe);
        sh(&script);
        let out = at.guard(&["commit", &at.program(), &running.id()]);
        assert!(out.status() != 0, "{what}");
        at.holds("b", None);
    }
    // Root's and one of ours, but from anywhere.
    let elsewhere = at.dir.path().join("elsewhere");
    sh(&format!(
        "cat /bin/sleep {} >{1}; chmod 755 {1}",
        image.display(),
        elsewhere.display()
    ));
    let other = Running(start(Command::new(elsewhere).arg("60")));
    let out = at.guard(&["commit", &at.program(), &other.id()]);
    assert!(
        out.status() != 0 && out.stderr().contains("not from"),
        "{}",
        out.stderr()
    );
    at.holds("b", None);
    // Root's, but no build of ours.
    fs::copy("/bin/sleep", &image).unwrap();
    let other = Running(start(Command::new(&image).arg("60")));
    at.install("b");
    let out = at.guard(&["commit", &at.program(), &other.id()]);
    assert!(
        out.status() != 0 && out.stderr().contains("not a handover"),
        "{}",
        out.stderr()
    );
    at.holds("b", None);
}

fn a_client_is_the_running_image_and_nothing_else(at: &Place) {
    // What runs is a sleep that sees "0" as its order and ends at once with 0; what is on disk fails.
    let running = at.running("a");
    sh(&format!(
        "cp /bin/false {0}.incoming; mv {0}.incoming {0}",
        at.program()
    ));
    at.guard(&["client", &at.program(), "0", &running.id()])
        .ok();
    let bad = at.guard(&["client", &at.program(), "no-time", &running.id()]);
    assert_eq!(
        bad.status(),
        1,
        "the client's own verdict: {}",
        bad.stderr()
    );
    // Stopped with the unit: no failure of the unit.
    let args = ["client", &at.program(), "60", &running.id()];
    let mut client = at.command(&args).spawn().unwrap();
    until("the client runs", SOON, || {
        let children = format!("/proc/{0}/task/{0}/children", client.id());
        let names = fs::read_to_string(children).ok()?;
        let exe = fs::read_link(format!("/proc/{}/exe", names.trim())).ok()?;
        exe.starts_with(at.dir.path()).then_some(())
    });
    kill_process(Pid::from_child(&client), Signal::TERM).unwrap();
    assert!(client.wait().unwrap().success());
    // Nobody runs: nobody to ask.
    at.guard(&["client", &at.program(), "0"]).ok();
    // Not an image that the service could have made.
    sh(&format!("chown games /proc/{}/exe", running.id()));
    assert_ne!(
        at.guard(&["client", &at.program(), "0", &running.id()])
            .status(),
        0
    );
}

/// A disk full of logs, a journal that takes no more streams.
fn a_word_that_cannot_be_written_changes_no_verdict(at: &Place) {
    at.install("a");
    at.guard(&["commit", &at.program()]).ok();
    // One of ours by its marks, but anybody's: it would end with 0 at once.
    let elsewhere = at.dir.path().join("elsewhere");
    fs::write(&elsewhere, program("x")).unwrap();
    sh(&format!(
        "chmod 755 {0}; chown games {0}",
        elsewhere.display()
    ));
    let other = Running(start(Command::new(elsewhere).arg("60")));
    at.install("b");
    let bad = fs::read(at.file("")).map(|bytes| sha256(&bytes)).unwrap();
    let deaf = |args: &[&str]| {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let mut command = at.command(args);
        command.stderr(full.unwrap()).status().unwrap().success()
    };
    assert!(!deaf(&["client", &at.program(), "0", &other.id()]));
    assert!(!deaf(&["commit", &at.program(), &other.id()]));
    at.holds("b", Some("a"));
    assert!(deaf(&["reject", &at.program(), &bad, &other.id()]));
    at.holds("a", Some("a"));
}

fn what_cannot_be_counted_is_not_tried_for_ever(at: &Place) {
    at.install("a");
    at.guard(&["commit", &at.program()]).ok();
    at.install("b");
    std::os::unix::fs::symlink("/dev/full", at.file(".tries.new")).unwrap();
    at.guard(&["start", &at.program()]).ok();
    at.holds("a", Some("a"));
}

/// A service that fills /run, a systemd that answers nobody.
fn no_answer_from_anybody_keeps_it_from_going_back(at: &Place) {
    at.install("a");
    at.guard(&["commit", &at.program()]).ok();
    at.install("b");
    let bad = fs::read(at.file("")).map(|bytes| sha256(&bytes)).unwrap();
    let triggers = at.dir.path().join("triggers");
    fs::create_dir(&triggers).unwrap();
    let asked = |names: &[&str]| {
        for name in names {
            fs::write(triggers.join(name), "").unwrap();
        }
        let triggers = triggers.to_str().unwrap();
        let mut asked = at.command(&["asked", &at.program(), triggers, "no-such-unit.service"]);
        asked.env("RUNTIME_DIRECTORY", "/proc/self/no-such-directory");
        Outcome(asked.output().unwrap())
    };
    let reject = format!("reject.{bad}");
    asked(&[&reject]).ok();
    at.holds("a", Some("a"));
    // Beside what is to be committed, and is not: it says so.
    at.install("b");
    assert_ne!(asked(&[&reject, &format!("commit.{bad}")]).status(), 0);
    at.holds("a", Some("a"));
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut name = String::new();
    for byte in Sha256::digest(bytes) {
        write!(name, "{byte:02x}").unwrap();
    }
    name
}

fn only_root_can_open_what_is_locked(at: &Place) {
    at.install("a");
    at.guard(&["commit", &at.program()]).ok();
    let lock = at.file(".lock").metadata().unwrap();
    assert_eq!(lock.permissions().mode() & 0o7777, 0o600);
    // The directory is open to anybody: that holds up nobody.
    let mut holder = start(
        Command::new("flock")
            .arg(at.dir.path().join("bin"))
            .args(["sleep", "60"]),
    );
    at.install("b");
    at.guard(&["start", &at.program()]).ok();
    holder.kill().unwrap();
    holder.wait().unwrap();
    at.holds("b", Some("a"));
}

fn one_guard_waits_for_another(at: &Place) {
    at.install("a");
    at.guard(&["commit", &at.program()]).ok();
    at.install("b");
    let gate = at.dir.path().join("gate");
    let script = format!("until [ -e {} ]; do :; done", gate.display());
    let mut holder = start(
        Command::new("flock")
            .arg(at.file(".lock"))
            .args(["sh", "-c", &script]),
    );
    until("it is locked", SOON, || {
        let free = Command::new("flock")
            .arg("--nonblock")
            .arg(at.file(".lock"))
            .arg("true")
            .status()
            .unwrap();
        (!free.success()).then_some(())
    });
    let mut second = start(&mut at.command(&["commit", &at.program()]));
    until("the second waits", SOON, || {
        let children = format!("/proc/{0}/task/{0}/children", second.id());
        let child = fs::read_to_string(children).ok()?;
        let comm = fs::read_to_string(format!("/proc/{}/comm", child.trim())).ok()?;
        (comm.trim() == "flock").then_some(())
    });
    at.holds("b", Some("a"));
    fs::write(gate, "").unwrap();
    assert!(second.wait().unwrap().success());
    holder.wait().unwrap();
    at.holds("b", Some("b"));
}

/// A package brings the next release while the one before is taken back.
fn what_comes_while_another_one_is_put_aside_is_left_alone(at: &Place) {
    at.install("a");
    at.guard(&["commit", &at.program()]).ok();
    at.install("b");
    let bad = fs::read(at.file("")).map(|bytes| sha256(&bytes)).unwrap();
    let guard = at.command(&["reject", &at.program(), &bad]);
    let log = at.dir.path().join("strace");
    let mut slow = Command::new("strace");
    slow.args(["-f", "-qq", "-e", "trace=linkat", "-e"])
        .args(["inject=linkat:delay_enter=2000000", "-o"])
        .arg(&log)
        .arg(guard.get_program())
        .args(guard.get_args());
    let mut rejects = start(&mut slow);
    let links = format!("ln\0-fP\0--\0{}", at.program());
    until("it has looked", SOON, || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let mut commands =
            all.filter_map(|one| fs::read_to_string(one.path().join("cmdline")).ok());
        commands
            .any(|command| command.starts_with(&links))
            .then_some(())
    });
    at.install("c");
    assert!(rejects.wait().unwrap().success());
    at.holds("c", Some("a"));
    assert_eq!(at.build(".rejected"), None);
}

/// A program's directory.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        Self { dir }
    }

    fn file(&self, suffix: &str) -> PathBuf {
        PathBuf::from(self.program() + suffix)
    }

    fn program(&self) -> String {
        self.dir
            .path()
            .join("bin/handover")
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// A build at the program's path, by rename.
    fn install(&self, build: &str) {
        self.put(build, "");
    }

    fn put(&self, build: &str, suffix: &str) {
        let new = self.file(".incoming");
        fs::write(&new, program(build)).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        let at = self.file(suffix);
        if at.is_dir() {
            fs::remove_dir_all(&at).unwrap();
        }
        fs::rename(new, at).unwrap();
    }

    /// A process that runs `build` from the program's path.
    fn running(&self, build: &str) -> Running {
        self.install(build);
        Running(start(Command::new(self.file("")).arg("60")))
    }

    fn command(&self, args: &[&str]) -> Command {
        let guard = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/guard");
        let mut command = Command::new("/bin/sh");
        command
            .arg(guard)
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn guard(&self, args: &[&str]) -> Outcome {
        Outcome(self.command(args).output().unwrap())
    }

    /// The build in a file by its marks.
    fn build(&self, suffix: &str) -> Option<String> {
        let bytes = fs::read(self.file(suffix)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let at = text.rfind(MARK)? + MARK.len();
        Some(text[at..].trim_end().to_owned())
    }

    #[track_caller]
    fn holds(&self, program: &str, good: Option<&str>) {
        let is = (self.build(""), self.build(".good"));
        assert_eq!(is, (Some(program.into()), good.map(str::to_owned)));
    }
}

/// Starts a program that this process has just written. While it was open to be written, a child of
/// another thread may have got it, too; until that has executed, the kernel executes it for nobody.
fn start(command: &mut Command) -> Child {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match command.spawn() {
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            started => return started.unwrap(),
        }
    }
}

/// A process that ends with the value.
struct Running(Child);

impl Running {
    fn id(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Outcome(Output);

impl Outcome {
    #[track_caller]
    fn ok(&self) {
        assert!(
            self.0.status.success(),
            "{:?}: {}",
            self.0.status,
            self.stderr()
        );
    }

    fn status(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}

const MARK: &str = "HANDOVER_UNIT_REV build ";

/// What the guard takes for a build: a program that waits, with the name that every build reads
/// behind its end.
fn program(build: &str) -> Vec<u8> {
    let mut bytes = fs::read("/bin/sleep").unwrap();
    bytes.extend(MARK.as_bytes());
    bytes.extend(build.as_bytes());
    bytes.push(b'\n');
    bytes
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-euc", script]).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}
