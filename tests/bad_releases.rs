//! Bad releases, one a test: the generation that serves serves on without failing a request, the
//! order ends with the documented exit code and a reason a person can act on, the disk is back to
//! what runs, and nothing is left behind.

mod kit;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use handover::api::{Outcome, Phase, Status};
use kit::build;
use kit::census::Census;
use kit::client::{Load, Running};
use kit::proc::{Pinned, Process};
use kit::service::{Output, SOON, Service};
use rustix::process::Signal;

/// A service under load, about to be given a bad release.
struct Story {
    // Dropped first, so that it does not outlive what it asks.
    load: Running,
    service: Service,
    before: Census,
    processes: Vec<Process>,
}

const CONFIG: &str = "workers = 2\n[upgrade]\nstart_timeout = \"20s\"\nprobation = \"30s\"\n";

impl Story {
    fn begin(test: &str) -> Self {
        Self::begin_with(test, CONFIG)
    }

    /// One that gives up a release that hangs after 3 s.
    fn impatient(test: &str) -> Self {
        Self::begin_with(test, &CONFIG.replace("20s", "3s"))
    }

    fn begin_with(test: &str, config: &str) -> Self {
        let service = Service::setup(test).config(config).start();
        service.wait_owner(1, "serving");
        let spec = || service.load("http").pause(Duration::from_millis(2));
        let load = Load::start_all(vec![
            spec().keep_alive().connections(8),
            spec().fresh().connections(4),
        ]);
        load.wait_connected(SOON);
        load.wait_answers(50, SOON);
        Self {
            before: service.census(),
            processes: service.processes(),
            service,
            load,
        }
    }

    /// Installs the program that misbehaves in this way.
    fn install(&self, behaviour: &str) {
        self.behave(behaviour);
        self.service.replace(&bad());
    }

    fn behave(&self, behaviour: &str) {
        fs::write(self.service.dir().join("behaviour"), behaviour).expect("a file");
    }

    /// The order fails with this code, and its reason has these words.
    #[track_caller]
    fn fails(&self, code: i32, words: &[&str]) -> Output {
        let output = self.service.cli(&["upgrade"]);
        output.assert_code(code);
        says(&output, words);
        output
    }

    /// Everything is as it was before, but for the file that was put aside.
    #[track_caller]
    fn as_before(&self) -> Status {
        let status = self.service.wait_owner(1, "serving");
        self.service.wait_census(&self.before);
        let now: Vec<u32> = self.service.processes().iter().map(|p| p.pid).collect();
        let then: Vec<u32> = self.processes.iter().map(|p| p.pid).collect();
        assert_eq!(now, then, "the processes that served serve on");
        self.disk_is_back();
        status
    }

    /// What runs is at the path again, what failed beside it.
    #[track_caller]
    fn disk_is_back(&self) {
        let status = self.service.status().expect("an owner");
        assert!(status.disk.matches_running, "{:?}", status.disk);
        same_bytes(&self.service.program, &build::own());
        let rejected = ["handover", "handover.rejected"];
        assert_eq!(self.service.bin_files(), rejected);
    }

    /// The load was never disturbed, and the service still obeys.
    #[track_caller]
    fn end(self) {
        self.load.wait_answers(50, SOON);
        let report = self.load.stop();
        report.assert_clean();
        self.service.write_config(CONFIG);
        self.service.cli(&["reload"]).assert_code(0);
        self.service.cli(&["stop"]).assert_code(0);
        assert!(self.service.wait_exit().success());
        assert_eq!(self.service.processes(), []);
    }

    /// The whole story of a release that never takes over.
    #[track_caller]
    fn never_takes_over(self, code: i32, words: &[&str]) {
        self.fails(code, words);
        let status = self.as_before();
        let last = status.last.expect("an upgrade that ended");
        assert_eq!(last.outcome, Outcome::Failed);
        let reason = last.reason.expect("a reason");
        assert!(words.iter().all(|w| reason.contains(w)), "{reason}");
        self.end();
    }
}

fn bad() -> PathBuf {
    build::other_version_of_example("bad", "bad")
}

#[track_caller]
fn says(output: &Output, words: &[&str]) {
    for word in words {
        assert!(output.stderr.contains(word), "no {word:?} in {output}");
    }
    let who = ["serves on", "serves again"];
    let told = who.iter().any(|w| output.stderr.contains(w));
    assert!(told, "who serves? {output}");
}

#[track_caller]
fn same_bytes(one: &Path, other: &Path) {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let same = read(one) == read(other);
    assert!(same, "{} is not {}", one.display(), other.display());
}

/// A program that the kernel takes, changed by `change`.
fn altered(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(build::own()).expect("the program");
    change(&mut bytes);
    let path = dir.join("altered");
    fs::write(&path, bytes).expect("a file");
    path
}

#[test]
fn a_missing_file_is_put_back() {
    let story = Story::begin("missing");
    fs::remove_file(&story.service.program).expect("removed");
    let program = story.service.program.display().to_string();
    story.fails(1, &["there is no such file", &program]);
    story.service.wait_owner(1, "serving");
    story.service.wait_census(&story.before);
    same_bytes(&story.service.program, &build::own());
    assert_eq!(story.service.bin_files(), ["handover"]);
    story.end();
}

#[test]
fn a_directory_is_moved_aside() {
    let story = Story::begin("directory");
    story
        .service
        .shell("rm handover; mkdir handover; touch handover/file");
    story.fails(1, &["it is a directory"]);
    story.as_before();
    let kept = story.service.shell("ls handover.rejected");
    assert_eq!(kept, "file\n");
    story.end();
}

#[test]
fn an_empty_file_is_refused() {
    let story = Story::begin("empty");
    story.service.replace_with_text("", 0o755);
    story.never_takes_over(1, &["it is empty"]);
}

#[test]
fn a_script_is_refused() {
    let story = Story::begin("script");
    story
        .service
        .replace_with_text("#!/bin/sh\nexit 0\n", 0o755);
    story.never_takes_over(1, &["it is no ELF program"]);
}

#[test]
fn a_truncated_program_is_refused() {
    let story = Story::begin("truncated");
    let file = altered(story.service.dir(), |bytes| bytes.truncate(100_000));
    story.service.replace(&file);
    story.never_takes_over(1, &["it is truncated"]);
}

#[test]
fn a_program_for_another_computer_is_refused() {
    let story = Story::begin("machine");
    // elf(5): e_machine.
    let other = if cfg!(target_arch = "x86_64") {
        183
    } else {
        62
    };
    let file = altered(story.service.dir(), |bytes| bytes[18] = other);
    story.service.replace(&file);
    story.never_takes_over(1, &["it is built for", "install the right build"]);
}

#[test]
fn a_file_that_is_not_executable_is_refused() {
    let story = Story::begin("mode");
    story.service.replace(&build::other_version("2.0.0"));
    story.service.shell("chmod 0644 handover");
    story.never_takes_over(1, &["it is not executable (mode 0644)", "chmod"]);
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let story = Story::begin("writable");
    story.service.replace(&build::other_version("2.0.0"));
    story.service.shell("chmod 0775 handover");
    story.never_takes_over(1, &["mode 0775 lets group or others write", "chmod go-w"]);
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    let story = Story::begin("owner");
    story.service.replace(&build::other_version("2.0.0"));
    story.service.shell("chown 65534 handover");
    story.never_takes_over(1, &["it belongs to uid 65534"]);
}

#[test]
fn one_that_exits_with_0_at_once_is_refused() {
    let story = Story::begin("exits_0");
    story.install("exits 0");
    story.never_takes_over(1, &["exited with code 0 before it was ready"]);
}

#[test]
fn one_that_exits_with_3_at_once_is_refused() {
    let story = Story::begin("exits_3");
    story.install("exits 3");
    story.never_takes_over(1, &["pre-flight", "exited with code 3"]);
}

#[test]
fn one_that_exits_with_3_after_its_pre_flight_is_refused() {
    let story = Story::begin("exits_3_later");
    story.install("exits 3 as master");
    story.never_takes_over(
        1,
        &["the new master exited with code 3 before it was ready"],
    );
}

#[test]
fn one_that_complains_at_length_is_quoted() {
    let story = Story::begin("complains");
    story.install("complains");
    let output = story.fails(1, &["exited with code 9", "the real reason is here"]);
    assert!(output.stderr.len() < 10_000, "a screenful, not a flood");
    story.as_before();
    story.end();
}

#[test]
fn one_that_segfaults_is_refused() {
    let story = Story::begin("segfaults");
    story.install("segfaults");
    story.never_takes_over(1, &["pre-flight", "was killed by SIGSEGV"]);
}

/// The disk was full under it: the whole file is the same build, and nothing is known against that.
#[test]
fn one_that_was_cut_is_not_held_against_its_build() {
    let story = Story::begin("cut");
    story.behave("is cut");
    let cut = story.service.dir().join("cut");
    let mut bytes = fs::read(bad()).expect("a program");
    bytes.push(0);
    fs::write(&cut, bytes).expect("room");
    fs::set_permissions(&cut, fs::Permissions::from_mode(0o755)).expect("a mode");
    story.service.replace(&cut);
    story.fails(1, &["pre-flight", "SIGBUS", "is the disk full?"]);
    story.as_before();
    fs::remove_file(story.service.dir().join("behaviour")).expect("a file");
    story.service.replace(&bad());
    let applied = story.service.cli(&["apply"]);
    applied.assert_code(0);
    assert!(!applied.stdout.contains("was refused"), "{applied}");
    story.service.wait_owner(2, "probation");
    story.service.cli(&["rollback"]).assert_code(0);
    story.service.wait_owner(1, "serving");
    story.end();
}

#[test]
fn a_small_foreign_program_is_refused() {
    let story = Story::begin("foreign");
    story.service.replace(Path::new("/bin/true"));
    story.never_takes_over(1, &["exited with code 0 before it was ready"]);
}

#[test]
fn one_made_by_another_compiler_that_crashes_is_refused() {
    let story = Story::begin("c");
    let dir = story.service.dir();
    let source = dir.join("bad.c");
    fs::write(&source, "int main(void) { return *(volatile int *)0; }\n").expect("a source");
    let compiled = Command::new("gcc")
        .args(["-o", "bad-c", "bad.c"])
        .current_dir(dir)
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no gcc");
        return;
    }
    story.service.replace(&dir.join("bad-c"));
    story.never_takes_over(1, &["was killed by SIGSEGV"]);
}

#[test]
fn one_that_hangs_at_its_pre_flight_is_given_up() {
    let story = Story::impatient("hangs_preflight");
    story.install("hangs at pre-flight");
    story.never_takes_over(1, &["pre-flight", "did not end within 3s (start_timeout)"]);
}

#[test]
fn one_that_hangs_before_it_greets_is_given_up() {
    let story = Story::impatient("hangs_mute");
    story.install("hangs before hello");
    story.never_takes_over(1, &["was not ready within 3s (start_timeout)"]);
}

#[test]
fn one_that_hangs_after_it_greeted_is_given_up() {
    let story = Story::impatient("hangs_hello");
    story.install("hangs after hello");
    story.never_takes_over(1, &["was not ready within 3s (start_timeout)"]);
}

#[test]
fn one_that_is_deaf_to_term_is_killed() {
    let story = Story::impatient("deaf");
    story.install("is deaf");
    story.never_takes_over(1, &["was not ready within 3s (start_timeout)"]);
}

#[test]
fn one_that_speaks_a_newer_protocol_needs_a_restart_and_says_so() {
    let story = Story::begin("protocol");
    story.install("speaks a newer protocol");
    story.never_takes_over(76, &["speaks protocol 2", "needs a restart"]);
}

#[test]
fn one_that_talks_rubbish_is_refused() {
    let story = Story::begin("rubbish");
    story.install("talks rubbish");
    story.never_takes_over(1, &["cannot understand a message"]);
}

#[test]
fn one_that_floods_the_channel_is_refused() {
    let story = Story::begin("floods");
    story.install("floods");
    let began = Instant::now();
    story.never_takes_over(1, &["flood"]);
    assert!(began.elapsed() < SOON);
}

#[test]
fn one_that_floods_with_what_nobody_knows_is_refused() {
    let story = Story::begin("floods_unknown");
    story.install("floods unknown");
    story.never_takes_over(1, &["flood"]);
}

#[test]
fn one_that_closes_the_channel_and_lives_is_refused() {
    let story = Story::begin("closes");
    story.install("closes the channel");
    story.never_takes_over(
        1,
        &["the new master closed its channel before it was ready"],
    );
}

#[test]
fn a_release_with_a_bad_configuration_ends_with_78_and_the_line() {
    let story = Story::begin("configuration");
    story.service.replace(&build::other_version("2.0.0"));
    let good = fs::read_to_string(&story.service.config).expect("a file");
    fs::write(&story.service.config, format!("wrokers = 3\n{good}")).expect("a file");
    let path = format!("{}:1", story.service.config.display());
    let output = story.fails(78, &["wrokers = 3", &path]);
    assert!(output.stderr.contains("pre-flight"), "{output}");
    story.service.wait_owner(1, "serving");
    story.service.wait_census(&story.before);
    story.disk_is_back();
    story.end();
}

#[test]
fn a_release_that_wants_another_configuration_ends_with_78_in_its_own_words() {
    let story = Story::begin("own_words");
    story.install("bad configuration");
    story.never_takes_over(78, &["/etc/bad.toml:7: this release wants another"]);
}

#[test]
fn a_new_listener_that_cannot_be_bound_fails_the_upgrade_and_names_the_port() {
    let story = Story::begin("bind");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    story.service.write_config(&format!(
        "{CONFIG}[[listener]]\nname = \"more\"\naddress = \"{address}\"\n"
    ));
    story.service.replace(&build::other_version("2.0.0"));
    story.fails(1, &["more", &address, "in use"]);
    story.as_before();
    story.end();
}

#[test]
fn one_whose_workers_crash_at_start_is_refused() {
    let story = Story::begin("workers_crash");
    story.install("workers crash at start");
    story.never_takes_over(1, &["worker", "was killed by SIGABRT"]);
}

#[test]
fn one_whose_workers_exit_at_start_is_refused() {
    let story = Story::begin("workers_exit");
    story.install("workers exit at start");
    story.never_takes_over(1, &["worker", "exited with code 4"]);
}

#[test]
fn one_whose_application_says_why_it_cannot_start_is_quoted() {
    let story = Story::begin("application");
    story.install("workers cannot start");
    story.never_takes_over(1, &["the database is not there"]);
}

#[test]
fn one_whose_workers_are_never_ready_is_given_up() {
    let story = Story::impatient("never_ready");
    story.install("workers are never ready");
    story.never_takes_over(1, &["was not ready within 3s (start_timeout)"]);
}

/// What takes over and fails then: the predecessor's workers are new ones.
impl Story {
    #[track_caller]
    fn comes_back(self, words: &[&str]) {
        let status = self.service.wait_status("the end of the upgrade", |s| {
            s.generation == 1 && s.phase == Phase::Serving && s.last.is_some()
        });
        let last = status.last.expect("waited for");
        assert_eq!(last.outcome, Outcome::RolledBack, "{last:?}");
        let reason = last.reason.clone().expect("a reason");
        for word in words {
            assert!(reason.contains(word), "no {word:?} in {reason}");
        }
        assert!(last.takeover_ms.is_some(), "{last:?}");
        self.service.wait_census(&self.before);
        let status = self.service.status().expect("an owner");
        assert!(status.disk.matches_running, "{:?}", status.disk);
        same_bytes(&self.service.program, &build::own());
        assert_eq!(
            self.service.bin_files(),
            ["handover", "handover.rejected"],
            "only what failed is kept"
        );
        let waited = self.service.cli(&["wait", &last.id]);
        waited.assert_code(1);
        assert!(waited.stderr.contains(&reason), "{waited}");
        self.end();
    }
}

#[test]
fn one_whose_workers_die_in_probation_is_taken_back() {
    let story = Story::begin("die_later");
    story.install("workers die later");
    let output = story.service.cli(&["upgrade", "--until", "commit"]);
    output.assert_code(1);
    says(&output, &["the workers keep dying", "SIGABRT"]);
    story.comes_back_with_cuts(&["the workers keep dying"]);
}

impl Story {
    /// Workers that crashed took what they were answering with them: that much is no fault of the
    /// upgrade's. Everything else holds.
    #[track_caller]
    fn comes_back_with_cuts(self, words: &[&str]) {
        let Self {
            service,
            load,
            before,
            processes,
        } = self;
        drop(load);
        let spec = service.load("http").pause(Duration::from_millis(2));
        let load = Load::start(spec.fresh().connections(4));
        let story = Self {
            service,
            load,
            before,
            processes,
        };
        story.comes_back(words);
    }
}

/// A release that is good until something is done to its master.
fn taken_over(test: &str) -> (Story, u32) {
    let story = Story::begin(test);
    story.service.replace(&build::other_version("2.0.0"));
    story.service.cli(&["upgrade"]).assert_code(0);
    let status = story.service.wait_owner(2, "probation");
    (story, status.owner_pid)
}

#[test]
fn a_master_killed_in_probation_is_met_by_its_predecessor() {
    let (story, pid) = taken_over("killed");
    story.service.signal(pid, Signal::KILL);
    story.comes_back(&["the new master was killed by SIGKILL"]);
}

#[test]
fn a_master_killed_before_the_takeover_is_no_loss() {
    let story = Story::begin("killed_early");
    story.install("workers are never ready");
    let order = story.service.cli_start(&["upgrade"]);
    story
        .service
        .wait_processes("the new master", |_| !story.service.workers(2).is_empty());
    let pid = story.service.master(2).pid;
    story.service.signal(pid, Signal::KILL);
    let output = order.finish(SOON);
    output.assert_code(1);
    says(&output, &["was killed by SIGKILL before it was ready"]);
    story.as_before();
    story.end();
}

#[test]
fn a_program_replaced_again_while_it_starts_is_left_alone() {
    let story = Story::impatient("replaced");
    story.install("workers are never ready");
    let order = story.service.cli_start(&["upgrade"]);
    story
        .service
        .wait_processes("the new master", |_| !story.service.workers(2).is_empty());
    let other = build::other_version("2.0.0");
    story.service.replace(&other);
    let output = order.finish(SOON);
    output.assert_code(1);
    says(&output, &["was not ready within 3s"]);
    story.service.wait_owner(1, "serving");
    story.service.wait_census(&story.before);
    // Nobody has tried this one: it stays where the operator put it, and status says so.
    same_bytes(&story.service.program, &other);
    let status = story.service.status().expect("an owner");
    assert!(!status.disk.matches_running);
    assert!(!status.warnings.is_empty());
    story.service.cli(&["upgrade"]).assert_code(0);
    story.service.wait_owner(2, "probation");
    story.load.wait_server("handover/2.0.0", 20, SOON);
    story.service.cli(&["commit"]).assert_code(0);
    story.service.wait_owner(2, "serving");
    story.load.stop().assert_clean();
}

#[test]
fn twenty_bad_releases_in_a_row_leave_nothing() {
    let story = Story::begin("twenty");
    story.install("exits 3 as master");
    story.fails(1, &["exited with code 3"]);
    let before = story.service.census();
    for n in 0..20 {
        story.behave(if n % 2 == 0 {
            "exits 3 as master"
        } else {
            "workers cannot start"
        });
        story.service.replace(&bad());
        story.service.cli(&["upgrade"]).assert_code(1);
        story.service.wait_owner(1, "serving");
    }
    story.service.wait_census(&before);
    story.as_before();
    story.end();
}

#[test]
fn a_killed_master_leaves_no_worker_behind() {
    let (story, pid) = taken_over("orphans");
    let workers: Vec<Pinned> = story
        .service
        .workers(2)
        .iter()
        .filter_map(|w| Pinned::open(w.pid))
        .collect();
    assert_eq!(workers.len(), 2);
    story.service.kill(pid);
    for worker in &workers {
        assert!(worker.wait_ended(SOON), "worker {} lives on", worker.pid);
    }
    story.comes_back(&["SIGKILL"]);
}

#[test]
fn a_read_only_bin_directory_does_not_hold_up_the_failure() {
    let story = Story::begin("unwritable");
    story.install("exits 3");
    let bin = story
        .service
        .program
        .parent()
        .expect("a directory")
        .to_owned();
    if rustix::process::geteuid().is_root() {
        // Root writes anywhere; only a file system says no to it.
        let bind = format!(
            "mount --bind {0} {0} && mount -o remount,bind,ro {0}",
            bin.display()
        );
        let mounted = Command::new("sh").args(["-c", &bind]).status();
        if !mounted.is_ok_and(|s| s.success()) {
            eprintln!("skipped: cannot mount");
            return;
        }
    } else {
        fs::set_permissions(&bin, fs::Permissions::from_mode(0o555)).expect("its mode");
    }
    let output = story.service.cli(&["upgrade"]);
    let _ = Command::new("umount").arg(&bin).status();
    let _ = fs::set_permissions(&bin, fs::Permissions::from_mode(0o755));
    output.assert_code(1);
    says(&output, &["exited with code 3"]);
    let status = story.service.wait_owner(1, "serving");
    assert!(
        status
            .warnings
            .iter()
            .any(|w| w.contains("read-only") || w.contains("ermission")),
        "{:?}",
        status.warnings
    );
    story.service.wait_census(&story.before);
    story.load.stop().assert_clean();
}
