//! systemd/guard, the one part that runs as root: every verb in a directory of its own, without
//! systemd. Needs root, because it believes only root's files.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

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
    a_trial_keeps_what_runs_and_marks_what_is_on_disk,
    a_trial_of_what_runs_changes_nothing,
    a_rejected_build_is_on_trial_like_any_other,
    a_second_trial_keeps_what_was_committed_last,
    a_trial_believes_only_a_running_image_of_roots,
    a_client_is_the_running_image_and_nothing_else,
    restore_goes_back_and_keeps_the_bad_one_aside,
    restore_goes_back_from_anything_that_is_no_program,
    restore_leaves_a_file_alone_that_was_replaced_again,
    restore_does_not_believe_an_old_file_that_others_can_write,
    keep_ends_the_trial,
    nothing_happens_without_a_trial,
    triggers_may_be_anything_and_are_not_followed,
    the_third_failed_run_goes_back_once,
    a_good_run_or_another_build_starts_the_count_again,
    a_status_that_systemd_does_not_restart_goes_back_at_once,
    before_a_replacement_what_runs_is_kept_and_what_comes_is_on_trial,
    a_replacement_by_the_same_build_changes_nothing,
    a_replacement_that_was_given_up_changes_nothing,
    a_replacement_while_nobody_runs_keeps_what_was_on_disk,
    a_replacement_on_trial_keeps_what_was_committed_last,
    a_replacement_keeps_what_really_runs,
    a_replacement_is_not_kept_while_a_master_is_parked,
    a_replacement_that_was_cut_off_is_rescued,
    root_may_end_a_trial,
    killed_at_any_moment_it_leaves_a_whole_file_and_finishes_later,
}

fn a_trial_keeps_what_runs_and_marks_what_is_on_disk(at: &Place) {
    let running = at.running("a");
    at.install("b");
    at.guard(&["trial", &at.program(), &at.triggers(), &running.id()])
        .ok();
    at.holds("b", Some("a"), None, true);
    assert_eq!(
        fs::read_to_string(at.file(".trial")).unwrap().trim(),
        id("b")
    );
    let mode = fs::metadata(at.file(".old")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

fn a_trial_of_what_runs_changes_nothing(at: &Place) {
    let running = at.running("a");
    at.guard(&["trial", &at.program(), &at.triggers(), &running.id()])
        .ok();
    at.holds("a", None, None, false);
    // The same content as another file is no upgrade either.
    sh(&"cp -p P P.incoming; mv P.incoming P".replace('P', &at.program()));
    at.guard(&["trial", &at.program(), &at.triggers(), &running.id()])
        .ok();
    at.holds("a", None, None, false);
    // No main process: nothing to keep.
    at.install("b");
    at.guard(&["trial", &at.program(), &at.triggers()]).ok();
    at.holds("b", None, None, false);
}

fn a_rejected_build_is_on_trial_like_any_other(at: &Place) {
    let running = at.running("a");
    at.put("b", ".rejected");
    at.install("b");
    at.guard(&["trial", &at.program(), &at.triggers(), &running.id()])
        .ok();
    at.holds("b", Some("a"), Some("b"), true);
    // It proved itself this time.
    at.ask("keep");
    at.restore().ok();
    at.holds("b", Some("a"), None, false);
}

fn a_second_trial_keeps_what_was_committed_last(at: &Place) {
    let first = at.running("a");
    at.install("b");
    at.guard(&["trial", &at.program(), &at.triggers(), &first.id()])
        .ok();
    // b was taken over and is in probation; now c comes.
    let second = at.running("b");
    at.install("c");
    at.guard(&["trial", &at.program(), &at.triggers(), &second.id()])
        .ok();
    at.holds("c", Some("a"), None, true);
    at.ask("restore");
    at.restore().ok();
    at.holds("a", None, Some("c"), false);
}

fn a_trial_believes_only_a_running_image_of_roots(at: &Place) {
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
        let out = at.guard(&["trial", &at.program(), &at.triggers(), &running.id()]);
        assert!(out.status() != 0, "{what}");
        at.holds("b", None, None, false);
    }
    // Root's and one of ours, but from anywhere.
    let elsewhere = at.dir.path().join("elsewhere");
    sh(&format!(
        "cat /bin/sleep {} >{1}; chmod 755 {1}",
        image.display(),
        elsewhere.display()
    ));
    let other = Running(start(Command::new(elsewhere).arg("60")));
    let out = at.guard(&["trial", &at.program(), &at.triggers(), &other.id()]);
    assert!(
        out.status() != 0 && out.stderr().contains("not from"),
        "{}",
        out.stderr()
    );
    at.holds("b", None, None, false);
    // Root's, but no build of ours.
    fs::copy("/bin/sleep", &image).unwrap();
    let other = Running(start(Command::new(&image).arg("60")));
    at.install("b");
    let out = at.guard(&["trial", &at.program(), &at.triggers(), &other.id()]);
    assert!(
        out.status() != 0 && out.stderr().contains("not a handover"),
        "{}",
        out.stderr()
    );
    at.holds("b", None, None, false);
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

fn restore_goes_back_and_keeps_the_bad_one_aside(at: &Place) {
    at.trial("a", "b");
    at.ask("restore");
    at.restore().ok();
    at.holds("a", None, Some("b"), false);
    assert!(!at.asked("restore"));
    // Again: nothing left to do.
    at.ask("restore");
    at.restore().ok();
    at.holds("a", None, Some("b"), false);
}

fn restore_goes_back_from_anything_that_is_no_program(at: &Place) {
    for (what, script) in [
        ("missing", "rm P"),
        ("a directory", "rm -rf P; mkdir -p P/deep/er"),
        (
            "a directory while .rejected is one",
            "rm -rf P P.rejected; mkdir -p P/x P.rejected/y",
        ),
        ("empty", "rm -rf P P.rejected; : >P"),
        ("a dangling link", "rm -rf P P.rejected; ln -s /nowhere P"),
    ] {
        at.trial("a", "b");
        sh(&script.replace('P', &at.program()));
        fs::write(at.file(".trial"), "none\n").unwrap();
        at.ask("restore");
        at.restore().ok();
        assert_eq!(at.build("").as_deref(), Some("a"), "{what}");
        assert!(!at.file(".trial").exists(), "{what}");
    }
}

fn restore_leaves_a_file_alone_that_was_replaced_again(at: &Place) {
    at.trial("a", "b");
    at.install("c");
    at.ask("restore");
    at.restore().ok();
    at.holds("c", Some("a"), None, true);
}

fn restore_does_not_believe_an_old_file_that_others_can_write(at: &Place) {
    for spoil in ["chown games P.old", "chown root P.old; chmod 775 P.old"] {
        at.trial("a", "b");
        sh(&spoil.replace('P', &at.program()));
        at.ask("restore");
        assert!(at.restore().status() != 0);
        at.holds("b", Some("a"), None, true);
        fs::remove_file(at.file(".old")).unwrap();
    }
}

fn keep_ends_the_trial(at: &Place) {
    at.trial("a", "b");
    at.ask("keep");
    at.restore().ok();
    at.holds("b", Some("a"), None, false);
    assert!(!at.asked("keep"));
    // The last word counts: a trial that is to end badly is not kept.
    at.trial("a", "b");
    at.ask("keep");
    at.ask("restore");
    at.restore().ok();
    at.holds("a", None, Some("b"), false);
}

fn nothing_happens_without_a_trial(at: &Place) {
    at.install("b");
    at.put("a", ".old");
    for trigger in ["restore", "keep"] {
        at.ask(trigger);
        at.restore().ok();
        at.holds("b", Some("a"), None, false);
        assert!(
            !at.asked(trigger),
            "or the path unit would come back for ever"
        );
    }
    for _ in 0..5 {
        at.rescue("signal", "killed", "SEGV").ok();
    }
    at.holds("b", Some("a"), None, false);
    // Not even a directory of triggers: the service is gone.
    fs::remove_dir_all(at.triggers()).unwrap();
    at.restore().ok();
}

fn triggers_may_be_anything_and_are_not_followed(at: &Place) {
    let precious = at.dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    let trigger = Path::new(&at.triggers()).join("restore");
    symlink(&precious, &trigger).unwrap();
    at.trial("a", "b");
    at.restore().ok();
    at.holds("a", None, Some("b"), false);
    fs::create_dir_all(trigger.join("deep")).unwrap();
    symlink(&precious, trigger.join("deep/link")).unwrap();
    at.restore().ok();
    assert!(!trigger.exists());
    assert!(precious.join("file").exists());
}

fn the_third_failed_run_goes_back_once(at: &Place) {
    at.trial("a", "b");
    for _ in 0..2 {
        at.rescue("exit-code", "exited", "1").ok();
        at.holds("b", Some("a"), None, true);
    }
    at.rescue("core-dump", "dumped", "SEGV").ok();
    at.holds("a", None, Some("b"), false);
    for _ in 0..5 {
        at.rescue("exit-code", "exited", "1").ok();
    }
    at.holds("a", None, Some("b"), false);
}

fn a_good_run_or_another_build_starts_the_count_again(at: &Place) {
    at.trial("a", "b");
    at.rescue("exit-code", "exited", "1").ok();
    at.rescue("exit-code", "exited", "1").ok();
    at.rescue("success", "exited", "0").ok();
    at.rescue("exit-code", "exited", "1").ok();
    at.rescue("watchdog", "killed", "ABRT").ok();
    at.holds("b", Some("a"), None, true);
    at.install("c");
    at.rescue("timeout", "killed", "KILL").ok();
    at.rescue("protocol", "exited", "0").ok();
    at.holds("c", Some("a"), None, true);
    at.rescue("exit-code", "exited", "203").ok();
    at.holds("a", None, Some("c"), false);
}

fn a_status_that_systemd_does_not_restart_goes_back_at_once(at: &Place) {
    at.trial("a", "b");
    at.rescue("exit-code", "exited", "78").ok();
    at.holds("a", None, Some("b"), false);
    // Killed by signal 64, not ended with 64.
    at.trial("a", "b");
    at.rescue("signal", "killed", "64").ok();
    at.holds("b", Some("a"), Some("b"), true);
}

fn killed_at_any_moment_it_leaves_a_whole_file_and_finishes_later(at: &Place) {
    for after in (0..40).map(Duration::from_millis) {
        at.trial("a", "b");
        at.ask("restore");
        let mut child = at
            .command(&["restore", &at.program(), &at.triggers()])
            .process_group(0)
            .spawn()
            .unwrap();
        // Load, not a wait: the moment of the crash is the input.
        std::thread::sleep(after);
        // All of it, as systemd would; its lock is free when the last of it has gone.
        kill_process_group(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
        let dir = fs::File::open(at.dir.path().join("bin")).unwrap();
        flock(&dir, FlockOperation::LockExclusive).unwrap();
        drop(dir);
        let program = at.build("").expect("always a file at the path");
        assert!(program == "a" || program == "b", "whole: {program}");
        at.ask("restore");
        at.restore().ok();
        let b = Some("b".to_owned());
        assert_eq!(
            (at.build("").as_deref(), at.build(".rejected")),
            (Some("a"), b),
            "{after:?}"
        );
        assert!(!at.file(".trial").exists());
    }
}

fn before_a_replacement_what_runs_is_kept_and_what_comes_is_on_trial(at: &Place) {
    let running = at.running("a");
    at.put("z", ".old");
    at.replace(Some(&running)).ok();
    // Before the file comes nothing is lost yet.
    assert_eq!(at.build(".old").as_deref(), Some("z"));
    assert_eq!(at.build(".replaced").as_deref(), Some("a"));
    assert!(at.file(".trial").exists());
    // Whoever comes in between does not take that for the end.
    at.restore().ok();
    assert!(at.file(".replaced").exists() && at.file(".trial").exists());
    at.install("b");
    at.settle().ok();
    at.holds("b", Some("a"), None, true);
    assert_eq!(
        fs::read_to_string(at.file(".trial")).unwrap().trim(),
        id("b")
    );
    // Once more, as package managers do.
    at.settle().ok();
    at.holds("b", Some("a"), None, true);
}

fn a_replacement_by_the_same_build_changes_nothing(at: &Place) {
    let running = at.running("a");
    at.put("z", ".old");
    at.replace(Some(&running)).ok();
    sh(&"cp -p P P.incoming; mv P.incoming P".replace('P', &at.program()));
    at.guard(&["trial", &at.program(), &at.triggers(), &running.id()])
        .ok();
    at.holds("a", Some("z"), None, false);
}

fn a_replacement_that_was_given_up_changes_nothing(at: &Place) {
    let running = at.running("a");
    at.put("z", ".old");
    at.replace(Some(&running)).ok();
    at.replace(Some(&running)).ok();
    at.settle().ok();
    at.holds("a", Some("z"), None, false);
}

fn a_replacement_while_nobody_runs_keeps_what_was_on_disk(at: &Place) {
    at.install("a");
    at.replace(None).ok();
    at.install("b");
    at.settle().ok();
    at.holds("b", Some("a"), None, true);
    // Nothing there, nothing to keep.
    let empty = Place::new();
    empty.replace(None).ok();
    empty.install("b");
    empty.settle().ok();
    empty.holds("b", None, None, false);
}

fn a_replacement_on_trial_keeps_what_was_committed_last(at: &Place) {
    at.trial("a", "b");
    let running = at.running("b");
    at.replace(Some(&running)).ok();
    at.install("c");
    at.settle().ok();
    at.holds("c", Some("a"), None, true);
}

fn a_replacement_keeps_what_really_runs(at: &Place) {
    let running = at.running("a");
    // A file that an order to upgrade was refused for.
    at.install("x");
    at.replace(Some(&running)).ok();
    at.install("b");
    at.settle().ok();
    at.holds("b", Some("a"), None, true);
}

fn a_replacement_is_not_kept_while_a_master_is_parked(at: &Place) {
    at.put("a", ".old");
    // A shell from the program's directory is the parent of what runs.
    fs::copy("/bin/sh", at.file("-parked")).unwrap();
    let program = at.running("b");
    let mut parked = start(
        Command::new(at.file("-parked"))
            .args(["-c", &format!("{} 60 & echo $!; wait", at.program())])
            .stdout(Stdio::piped())
            .process_group(0),
    );
    let mut pid = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(parked.stdout.as_mut().unwrap()),
        &mut pid,
    )
    .unwrap();
    until("it runs", SOON, || {
        let exe = fs::read_link(format!("/proc/{}/exe", pid.trim())).ok()?;
        (exe == Path::new(&at.program())).then_some(())
    });
    at.guard(&["replace", &at.program(), &at.triggers(), pid.trim()])
        .ok();
    kill_process_group(
        Pid::from_raw(parked.id().try_into().unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    parked.wait().unwrap();
    drop(program);
    fs::remove_file(at.file("-parked")).unwrap();
    at.holds("b", Some("a"), None, false);
    assert!(!at.file(".replaced").exists());
}

/// The package manager was killed after the file came, then the power went.
fn a_replacement_that_was_cut_off_is_rescued(at: &Place) {
    let running = at.running("a");
    at.replace(Some(&running)).ok();
    at.install("b");
    drop(running);
    for _ in 0..3 {
        at.rescue("exit-code", "exited", "3").ok();
    }
    at.holds("a", None, Some("b"), false);
}

fn root_may_end_a_trial(at: &Place) {
    let reject = || at.guard(&["reject", &at.program(), &at.triggers()]);
    at.trial("a", "b");
    reject().ok();
    at.holds("a", None, Some("b"), false);
    reject().ok();
    at.holds("a", None, Some("b"), false);
}

/// A program's directory, a directory of triggers and one for the counter.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for sub in ["bin", "run"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
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

    fn triggers(&self) -> String {
        self.dir.path().join("run").to_str().unwrap().to_owned()
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

    /// `old` was committed, `new` is on trial.
    fn trial(&self, old: &str, new: &str) {
        self.put(old, ".old");
        self.install(new);
        fs::write(self.file(".trial"), id(new) + "\n").unwrap();
    }

    /// A process that runs `build` from the program's path.
    fn running(&self, build: &str) -> Running {
        // A program that waits, with the build's marks behind its end.
        let mut bytes = fs::read("/bin/sleep").unwrap();
        bytes.extend(program(build));
        let path = self.file(".incoming");
        fs::write(&path, &bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(path, self.file("")).unwrap();
        Running(start(Command::new(self.file("")).arg("60")))
    }

    fn ask(&self, trigger: &str) {
        fs::write(Path::new(&self.triggers()).join(trigger), "").unwrap();
    }

    fn asked(&self, trigger: &str) -> bool {
        Path::new(&self.triggers()).join(trigger).exists()
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

    fn restore(&self) -> Outcome {
        self.guard(&["restore", &self.program(), &self.triggers()])
    }

    fn replace(&self, running: Option<&Running>) -> Outcome {
        let pid = running.map_or("0".into(), Running::id);
        self.guard(&["replace", &self.program(), &self.triggers(), &pid])
    }

    fn settle(&self) -> Outcome {
        self.guard(&["settle", &self.program(), &self.triggers()])
    }

    fn rescue(&self, result: &str, code: &str, status: &str) -> Outcome {
        let counter = self.dir.path().join("count");
        let args = ["rescue", &self.program(), counter.to_str().unwrap()];
        let mut command = self.command(&args);
        command
            .env("SERVICE_RESULT", result)
            .env("EXIT_CODE", code)
            .env("EXIT_STATUS", status);
        Outcome(command.output().unwrap())
    }

    /// The build in a file by its marks.
    fn build(&self, suffix: &str) -> Option<String> {
        let bytes = fs::read(self.file(suffix)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let at = text.rfind(MARK)? + MARK.len();
        Some(text[at..].trim_end().to_owned())
    }

    #[track_caller]
    fn holds(&self, program: &str, old: Option<&str>, rejected: Option<&str>, trial: bool) {
        let is = (
            self.build(""),
            self.build(".old"),
            self.build(".rejected"),
            self.file(".trial").exists(),
        );
        let shall = (
            Some(program.to_owned()),
            old.map(str::to_owned),
            rejected.map(str::to_owned),
            trial,
        );
        assert_eq!(is, shall, "program, .old, .rejected, .trial");
        let names: Vec<_> = fs::read_dir(self.dir.path().join("bin")).unwrap().collect();
        assert!(names.len() <= 4, "nothing left behind: {names:?}");
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

/// What the guard takes for a build: ELF's magic, a build id, the name every build reads.
fn program(build: &str) -> Vec<u8> {
    let mut bytes = b"\x7fELF".to_vec();
    bytes.extend([0; 60]);
    bytes.extend([4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0]);
    bytes.extend(b"GNU\0");
    bytes.extend([build.as_bytes()[0]; 20]);
    bytes.extend(MARK.as_bytes());
    bytes.extend(build.as_bytes());
    bytes.push(b'\n');
    bytes
}

fn id(build: &str) -> String {
    format!("{:02x}", build.as_bytes()[0]).repeat(20)
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-euc", script]).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}
