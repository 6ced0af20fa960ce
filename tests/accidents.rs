//! Processes that are killed or stopped at the worst moment, without a service manager to help:
//! who owns the service afterwards, and that nobody was turned away while a generation lived.

mod kit;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use handover::api::Outcome;
use kit::build;
use kit::client::{Kind, Load, Running, Target};
use kit::proc::{Pinned, Process};
use kit::service::{SOON, Service, Setup};
use kit::wait::wait_until;
use rustix::process::Signal;

const ALONE: &str = "g1 1.0.0 serving: 2 accepting, owner, pid";
const BESIDE: [&str; 2] = [
    "g1 1.0.0 beside: 2 accepting, owner, pid.oldbin",
    "g2 2.0.0 standby: 2 accepting, pid",
];
const PROBATION: [&str; 2] = [
    "g1 1.0.0 parked: no workers, pid.oldbin",
    "g2 2.0.0 probation: 2 accepting, owner, pid",
];
const ALONE_NEW: &str = "g2 2.0.0 serving: 2 accepting, owner, pid";

/// A service under load whose successors can be kept from getting ready.
struct Story {
    service: Service,
    load: Running,
    gate: Gate,
}

/// While the file is there, no worker that starts is ready.
struct Gate {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Gate {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self {
            path: dir.path().join("gate"),
            _dir: dir,
        }
    }

    fn shut(&self) {
        fs::write(&self.path, "").expect("a gate");
    }

    fn open(&self) {
        fs::remove_file(&self.path).expect("a gate");
    }
}

impl Story {
    fn begin(test: &str) -> Self {
        Self::with(test, |setup| setup)
    }

    fn with(test: &str, shape: impl FnOnce(Setup) -> Setup) -> Self {
        let gate = Gate::new();
        let image = build::other_version_of_example("workbench", "1.0.0");
        let setup = Service::setup(test)
            .name("workbench")
            .image(image)
            .env("WORKBENCH_GATE", &gate.path);
        Self::of(shape(setup).start(), gate)
    }

    fn of(service: Service, gate: Gate) -> Self {
        service.wait_picture(&[ALONE]);
        let http = || service.load("http").app().pause(Duration::from_millis(5));
        let load = Load::start_all(vec![
            http().fresh().connections(3),
            http().keep_alive().connections(3),
            http()
                .path("/stream?chunks=5&size=1000&ms=20")
                .connections(2),
        ]);
        load.wait_answers(20, SOON);
        Self {
            service,
            load,
            gate,
        }
    }

    fn put_new_version(&self) {
        let new = build::other_version_of_example("workbench", "2.0.0");
        self.service.replace(&new);
    }

    /// An upgrade that took over and is in probation.
    fn in_probation(test: &str) -> Self {
        let story = Self::begin(test);
        story.upgrade();
        story
    }

    fn upgrade(&self) {
        self.put_new_version();
        self.service.cli(&["upgrade"]).assert_code(0);
        self.sees(&PROBATION);
    }

    #[track_caller]
    fn sees(&self, picture: &[&str]) {
        self.service.wait_picture(picture);
        self.load.wait_answers(20, SOON);
        // Still so; a master too busy to answer in time is asked again.
        self.service.wait_picture(picture);
    }

    /// The first generation serves alone, and the file on disk is what runs.
    #[track_caller]
    fn went_back(&self, outcome: Outcome, why: &str) {
        self.sees(&[ALONE]);
        let status = self
            .service
            .wait_status("the file on disk to be what runs", |s| {
                s.disk.matches_running && s.upgrade.is_none()
            });
        let last = status.last.expect("an upgrade");
        assert_eq!(last.outcome, outcome);
        let reason = last.reason.expect("a reason");
        assert!(reason.contains(why), "{reason}");
        assert!(
            self.service
                .bin_files()
                .contains(&"workbench.rejected".into())
        );
    }

    /// Nobody noticed anything.
    #[track_caller]
    fn nobody_noticed(self) {
        self.load.stop().assert_clean();
    }

    /// Requests in flight in a process that was killed are lost; nobody was turned away.
    #[track_caller]
    fn nobody_was_turned_away(self, most: u64) {
        let report = self.load.stop();
        for kind in [Kind::Refused, Kind::Timeout] {
            assert_eq!(report.count(kind), 0, "{report}");
        }
        assert!(report.failed() <= most, "{report}");
        assert!(report.total.ok > 0);
    }
}

// --- the successor ---

#[test]
fn a_successor_killed_before_it_is_ready_changes_nothing() {
    let story = Story::begin("kill-starting");
    story.put_new_version();
    story.gate.shut();
    let upgrade = story.service.cli_start(&["upgrade"]);
    story
        .service
        .wait_processes("its workers", |_| story.service.workers(2).len() == 2);
    story.service.kill(story.service.master(2).pid);
    let output = upgrade.finish(SOON);
    output.assert_code(1);
    assert!(output.stderr.contains("SIGKILL"), "{output}");
    story.gate.open();
    story.went_back(Outcome::Failed, "SIGKILL");
    story.nobody_noticed();
}

#[test]
fn a_successor_killed_between_ready_and_takeover_changes_nothing() {
    let story = Story::begin("kill-ready");
    story.put_new_version();
    story.service.cli(&["upgrade", "--hold"]).assert_code(0);
    story.sees(&BESIDE);
    story.service.kill(story.service.master(2).pid);
    story.went_back(Outcome::RolledBack, "SIGKILL");
    story.nobody_noticed();
}

#[test]
fn a_successor_killed_in_probation_is_replaced_by_its_predecessor() {
    let story = Story::in_probation("kill-probation");
    story.service.kill(story.service.master(2).pid);
    story.went_back(Outcome::RolledBack, "SIGKILL");
    story.nobody_noticed();
}

#[test]
fn a_successor_killed_in_a_hold_is_replaced_by_its_predecessor() {
    let story = Story::begin("kill-hold");
    story.put_new_version();
    let old = story.service.master(1).pid;
    story.service.signal(old, Signal::USR2);
    story.sees(&BESIDE);
    story.service.signal(old, Signal::WINCH);
    story.sees(&PROBATION);
    story.service.kill(story.service.master(2).pid);
    story.went_back(Outcome::RolledBack, "SIGKILL");
    story.nobody_noticed();
}

#[test]
fn a_whole_generation_killed_in_probation_is_replaced_by_its_predecessor() {
    let story = Story::in_probation("kill-all");
    let mut all = story.service.workers(2);
    all.push(story.service.master(2));
    // Stopped first: a client that one of them cuts must not meet the next one alive.
    for signal in [Signal::STOP, Signal::KILL] {
        for process in &all {
            story.service.signal(process.pid, signal);
        }
    }
    story.went_back(Outcome::RolledBack, "SIGKILL");
    story.nobody_was_turned_away(8);
}

#[test]
fn a_successor_that_hangs_in_probation_is_replaced_before_the_watchdog_bites() {
    let gate = Gate::new();
    let image = build::other_version_of_example("workbench", "1.0.0");
    let service = Service::setup("hang-watchdog")
        .name("workbench")
        .image(image)
        .env("WORKBENCH_GATE", &gate.path)
        .start_under_manager(|mut unit| {
            unit.watchdog = Some(Duration::from_secs(9));
            unit
        });
    let story = Story::of(service, gate);
    story.upgrade();
    let (old, new) = (story.service.master(1).pid, story.service.master(2).pid);
    story.service.manager().wait_main(new);
    story.service.signal(new, Signal::STOP);
    story.service.manager().wait_main(old);
    story.went_back(Outcome::RolledBack, "hangs");
    assert_eq!(story.service.manager().refused(), []);
    // Whom the watchdog shoots starts again.
    assert_eq!(story.service.manager().look(|s| s.starts), 1);
    story.nobody_noticed();
}

#[test]
fn a_successor_that_hangs_in_probation_is_replaced_without_a_watchdog_too() {
    let story = Story::in_probation("hang");
    story
        .service
        .signal(story.service.master(2).pid, Signal::STOP);
    story
        .service
        .wait_processes("the old one to take back", |_| {
            story.service.workers(1).len() == 2
        });
    story.went_back(Outcome::RolledBack, "silent for 10s");
    story.nobody_noticed();
}

#[test]
fn a_whole_generation_that_hangs_is_replaced() {
    let story = Story::in_probation("hang-all");
    let mut all = story.service.workers(2);
    all.push(story.service.master(2));
    for process in all {
        story.service.signal(process.pid, Signal::STOP);
    }
    story
        .service
        .wait_status("the old one to take back", |s| s.generation == 1);
    let asked = Load::start(story.service.load("http").fresh().app());
    asked.wait_answers(20, SOON);
    asked.stop().assert_clean();
}

/// It wakes up when its predecessor has taken back, owns the service for a moment by what it was told
/// before, and leaves. Clients look who answers.
#[test]
fn a_successor_that_wakes_up_too_late_leaves_the_service_to_be_ordered() {
    let story = Story::begin("late");
    story.put_new_version();
    story.service.cli(&["upgrade", "--hold"]).assert_code(0);
    story.sees(&BESIDE);
    let (old, new) = (story.service.master(1).pid, story.service.master(2).pid);
    story.service.signal(new, Signal::STOP);
    story.service.signal(old, Signal::WINCH);
    story
        .service
        .wait_processes("the new one to be hung", |all| {
            all.iter().any(|p| p.pid == old && p.comm == "g1 evicting")
        });
    story.service.signal(new, Signal::CONT);
    story.sees(&[ALONE]);
    for verb in ["status", "reload"] {
        story.service.cli(&[verb]).assert_code(0);
    }
    story.nobody_noticed();
}

// --- the predecessor ---

/// A generation that took over, and whose parked predecessor was killed.
fn alone_on_trial(test: &str) -> Story {
    let story = Story::in_probation(test);
    story.service.kill(story.service.master(1).pid);
    story.sees(&[ALONE_NEW]);
    let status = story.service.status().expect("an owner");
    let upgrade = status.upgrade.expect("an upgrade under way");
    assert!(upgrade.probation_left_ms.is_some());
    assert!(status.drift.expect("a disk").is_in("good"));
    let back = status.rollback_to.expect("a way back on disk");
    assert_eq!(back.version.as_deref(), Some("1.0.0"));
    let log = story.service.log_text();
    assert!(log.contains("stays on trial") && log.contains("`rollback` runs 1.0.0 from the disk"));
    story
}

#[test]
fn a_parked_master_killed_leaves_its_successor_on_trial() {
    let story = alone_on_trial("kill-parked");
    // There is no way back in memory, but one on disk.
    story.service.cli(&["rollback"]).assert_code(0);
    let back = story
        .service
        .wait_status("the first version", |s| s.version == "1.0.0");
    assert_eq!(back.generation, 3);
    story.nobody_noticed();
}

#[test]
fn one_whose_parked_master_was_killed_is_final_when_an_operator_says_so() {
    let story = alone_on_trial("kill-parked-commit");
    story.service.cli(&["commit"]).assert_code(0);
    let status = story
        .service
        .wait_status("the end", |s| s.upgrade.is_none() && s.disk.matches_running);
    assert_eq!(status.last.expect("an upgrade").outcome, Outcome::Committed);
    assert!(!status.drift.expect("a disk").is_in("good"));
    story.nobody_noticed();
}

#[test]
fn one_whose_parked_master_was_killed_is_final_when_it_has_proved_itself() {
    let story = Story::begin("kill-parked-proved");
    story.put_new_version();
    let upgrade = ["upgrade", "--probation", "12s"];
    story.service.cli(&upgrade).assert_code(0);
    story.sees(&PROBATION);
    let begun = Instant::now();
    story.service.kill(story.service.master(1).pid);
    story.service.cli(&["wait"]).assert_code(0);
    assert!(begun.elapsed() > Duration::from_secs(12));
    let status = story.service.wait_status("the good program", |s| {
        s.drift.as_ref().is_some_and(|drift| !drift.is_in("good"))
    });
    assert_eq!(status.last.expect("an upgrade").outcome, Outcome::Committed);
    story.nobody_noticed();
}

/// It is refused, and its predecessor hangs: that one is killed, and the program of before comes back
/// from the disk.
#[test]
fn a_release_that_is_rolled_back_is_not_good_when_its_predecessor_hangs() {
    let story = Story::with("hang-parked", |setup| {
        setup.config("[upgrade]\nstart_timeout = \"5s\"\n")
    });
    story.upgrade();
    story
        .service
        .signal(story.service.master(1).pid, Signal::STOP);
    story.service.cli(&["rollback"]).assert_code(0);
    let back = story
        .service
        .wait_status("the first version", |s| s.version == "1.0.0");
    assert_eq!(back.generation, 3);
    let interrupted = story.service.cli(&["history"]).stdout;
    assert!(interrupted.contains("interrupted"), "{interrupted}");
    story.service.cli(&["commit"]).assert_code(0);
    story.sees(&["g3 1.0.0 serving: 2 accepting, owner, pid"]);
    story.nobody_noticed();
}

#[test]
fn an_owner_killed_while_its_successor_starts_is_succeeded() {
    let story = Story::begin("kill-launching");
    story.put_new_version();
    story.gate.shut();
    let upgrade = story.service.cli_start(&["upgrade"]);
    story
        .service
        .wait_processes("its workers", |_| story.service.workers(2).len() == 2);
    story.service.kill(story.service.master(1).pid);
    story.gate.open();
    story.sees(&[ALONE_NEW]);
    let _ = upgrade.finish(SOON);
    story.nobody_noticed();
}

#[test]
fn an_owner_killed_beside_its_successor_is_succeeded() {
    let story = Story::begin("kill-beside");
    story.put_new_version();
    story.service.cli(&["upgrade", "--hold"]).assert_code(0);
    story.sees(&BESIDE);
    story.service.kill(story.service.master(1).pid);
    story.sees(&[ALONE_NEW]);
    story.nobody_noticed();
}

#[test]
fn a_predecessor_killed_while_it_takes_back_comes_back_from_the_disk() {
    let story = Story::in_probation("kill-reclaiming");
    story.gate.shut();
    let rollback = story.service.cli_start(&["rollback"]);
    story
        .service
        .wait_processes("its workers", |_| story.service.workers(1).len() == 2);
    story.service.kill(story.service.master(1).pid);
    story.gate.open();
    story.sees(&[
        "g2 2.0.0 parked: no workers, pid.oldbin",
        "g3 1.0.0 probation: 2 accepting, owner, pid",
    ]);
    rollback.finish(SOON).assert_code(0);
    story.nobody_noticed();
}

#[test]
fn a_lone_master_killed_takes_its_workers_along_when_they_have_answered() {
    let story = Story::begin("kill-lone");
    story.load.stop().assert_clean();
    let service = story.service;
    let Target::Tcp(address) = service.target("http") else {
        panic!("a TCP listener");
    };
    let mut stream = TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(SOON)).expect("a deadline");
    let ask = b"GET /stream?chunks=12&size=100&ms=100 HTTP/1.1\r\nHost: kit.test\r\n\r\n";
    stream.write_all(ask).expect("a connection");
    let mut answer = vec![0; 17];
    stream.read_exact(&mut answer).expect("an answer's begin");
    // Answered once: a worker has it, and it does not wait in the listener's queue any more.
    let mut idle = TcpStream::connect(address).expect("a listener");
    idle.set_read_timeout(Some(SOON)).expect("a deadline");
    let ask = b"GET /stream?chunks=1&size=1&ms=0 HTTP/1.1\r\nHost: kit.test\r\n\r\n";
    idle.write_all(ask).expect("a connection");
    let mut answered = Vec::new();
    while !answered.ends_with(b"\r\n0\r\n\r\n") {
        let mut byte = [0];
        idle.read_exact(&mut byte).expect("an answer");
        answered.extend(byte);
    }
    let began = Instant::now();
    service.signal(service.master(1).pid, Signal::KILL);
    // What waits idle is let go within a second, what is in flight is answered.
    assert_eq!(idle.read(&mut [0]).expect("an end"), 0);
    assert!(began.elapsed() < Duration::from_secs(2));
    stream.read_to_end(&mut answer).expect("an answer's end");
    assert!(answer.ends_with(b"\r\n0\r\n\r\n"));
    service.wait_processes("nobody", <[Process]>::is_empty);
    assert_eq!(kit::service::code_of(service.wait_exit()), 128 + 9);
    // And everything can begin anew where it was.
    service.start();
    service.wait_picture(&[ALONE]);
}

// --- workers ---

#[test]
fn a_killed_worker_is_replaced_by_one_of_the_same_program_whatever_is_on_disk() {
    let story = Story::begin("kill-worker");
    for garbage in ["nothing to run", "#!/bin/sh\nexit 0\n"] {
        story.service.replace_with_text(garbage, 0o755);
        let before = story.service.workers(1);
        story.service.kill(before[0].pid);
        story.service.wait_processes("another worker", |_| {
            let workers = story.service.workers(1);
            workers.len() == 2 && !workers.contains(&before[0])
        });
        story.sees(&[ALONE]);
    }
    fs::remove_file(&story.service.program).expect("a program");
    let before = story.service.workers(1);
    story.service.kill(before[1].pid);
    story.sees(&[ALONE]);
    // A worker holds some of the eight clients' requests.
    story.nobody_was_turned_away(8 * 3);
}

#[test]
fn workers_that_keep_dying_in_probation_bring_the_predecessor_back() {
    let story = Story::in_probation("crash-loop");
    let end = Instant::now() + SOON;
    // As a release does that crashes with each request.
    while story.service.status().is_none_or(|s| s.generation == 2) {
        for worker in story.service.workers(2) {
            if let Some(pinned) = kit::proc::Pinned::open(worker.pid) {
                pinned.signal(Signal::KILL);
            }
        }
        assert!(Instant::now() < end, "{:?}", story.service.picture());
    }
    story.went_back(Outcome::RolledBack, "keep dying");
    let report = story.load.stop();
    assert_eq!(report.count(Kind::Refused), 0, "{report}");
}

#[test]
fn workers_that_die_now_and_then_in_service_are_replaced_for_ever() {
    let story = Story::begin("kill-often");
    for _ in 0..6 {
        let worker = story.service.workers(1)[0].clone();
        story.service.kill(worker.pid);
        story.service.wait_processes("another worker", |_| {
            let workers = story.service.workers(1);
            workers.len() == 2 && !workers.contains(&worker)
        });
    }
    story.sees(&[ALONE]);
    story.nobody_was_turned_away(8 * 6);
}

/// With the library's default of one worker nobody else is there to accept.
#[test]
fn a_worker_that_hangs_is_replaced() {
    let image = build::other_version_of_example("workbench", "1.0.0");
    let service = Service::setup("hung-worker")
        .name("workbench")
        .image(image)
        .config("workers = 1\n[drain]\nstop_timeout = \"1s\"")
        .start();
    service.wait_picture(&["g1 1.0.0 serving: 1 accepting, owner, pid"]);
    let hung = service.workers(1)[0].pid;
    service.signal(hung, Signal::STOP);
    // What waits in the queue of its socket is answered by the next one.
    let patient = service.load("http").app().fresh().connections(2);
    let load = Load::start_all(vec![patient.timeout(SOON * 2)]);
    load.wait_answers(20, SOON * 3);
    service.wait_processes("the one that hung to be gone", |all| {
        all.iter().all(|p| p.pid != hung)
    });
    service.wait_picture(&["g1 1.0.0 serving: 1 accepting, owner, pid"]);
    load.stop().assert_clean();
}

// --- reloads ---

/// It is what the operator raises when a reload did not have the time.
#[test]
fn a_reload_has_the_start_timeout_that_it_brings() {
    let config = |limit| format!("workers = 2\n[upgrade]\nstart_timeout = \"{limit}\"\n");
    let story = Story::with("reload-timeout", |setup| setup.config(&config("4s")));
    let service = &story.service;
    story.gate.shut();
    let failed = service.cli(&["reload"]);
    failed.assert_code(1);
    assert!(failed.stderr.contains("within 4s"), "{failed}");
    service.write_config(&config("2m"));
    let reload = service.cli_start(&["reload"]);
    // Longer than the configuration of before allowed.
    let process = Pinned::open(reload.pid()).expect("a process");
    assert!(!process.wait_ended(Duration::from_secs(6)));
    story.gate.open();
    reload.finish(SOON).assert_code(0);
    story.nobody_noticed();
}

// --- the state directory is full ---

/// A file system of its own for the state of a service, without a byte left; unmounted at the end.
struct FullState {
    at: PathBuf,
}

impl FullState {
    /// `None`: who is not root mounts nothing.
    fn of(service: &Service) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount a file system");
            return None;
        }
        let at = service.state.clone();
        let options = ["-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs"];
        let mut mount = std::process::Command::new("mount");
        let mounted = mount.args(options).arg(&at).status().expect("mount");
        assert!(mounted.success(), "mount -t tmpfs");
        let full = Self { at };
        let filler = fs::File::create(full.filler()).expect("a file");
        let written = std::io::copy(&mut std::io::repeat(0), &mut { filler });
        let error = written.expect_err("it has an end");
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        Some(full)
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// What it was about is said; when there is room it is written down.
    #[track_caller]
    fn was_said_and_is_made_good(&self, story: &Story, outcome: &str) {
        let log = story.service.log_text();
        let said = log.lines().find(|line| {
            line.contains("No space left on device") && line.contains("the service runs on")
        });
        assert!(said.is_some_and(|l| l.contains(&*self.at.to_string_lossy())));
        let history = self.at.join("history.jsonl");
        let last = || fs::read_to_string(&history).unwrap_or_default();
        assert!(!last().contains(outcome), "{}", last());
        fs::remove_file(self.filler()).expect("a file");
        wait_until(&format!("{outcome} in the history"), || {
            let last = last();
            last.trim_end().ends_with('}') && last.contains(outcome)
        });
    }
}

impl Drop for FullState {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("-l").arg(&self.at).status();
    }
}

#[test]
fn a_full_state_directory_stops_no_takeover() {
    let story = Story::begin("full-takeover");
    let Some(full) = FullState::of(&story.service) else {
        return;
    };
    story.upgrade();
    story.service.cli(&["commit"]).assert_code(0);
    story.sees(&[ALONE_NEW]);
    full.was_said_and_is_made_good(&story, "\"committed\"");
    drop(full);
    story.nobody_noticed();
}

#[test]
fn a_full_state_directory_stops_no_commit() {
    let story = Story::in_probation("full-commit");
    let Some(full) = FullState::of(&story.service) else {
        return;
    };
    story.service.cli(&["commit"]).assert_code(0);
    story.sees(&[ALONE_NEW]);
    full.was_said_and_is_made_good(&story, "\"committed\"");
    drop(full);
    story.nobody_noticed();
}

/// A backup, a stopped process of the service's, or a worker that means no good.
#[test]
fn a_lock_on_the_history_holds_up_nobody() {
    let story = Story::begin("locked-history");
    story.put_new_version();
    let path = story.service.state.join("history.jsonl");
    fs::create_dir_all(&story.service.state).expect("a directory");
    let file = fs::File::options().create(true).append(true).open(&path);
    let file = file.expect("a history");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    story.service.cli(&["upgrade"]).assert_code(0);
    story.sees(&PROBATION);
    story.service.cli(&["commit"]).assert_code(0);
    story.sees(&[ALONE_NEW]);
    let log = story.service.log_text();
    assert!(log.contains("another process holds its lock"), "{log}");
    // The way back is in another file.
    assert!(story.service.state.join("previous.toml").exists());
    drop(file);
    wait_until("the upgrade to be written down", || {
        fs::read_to_string(&path).is_ok_and(|text| text.contains("\"committed\""))
    });
    story.nobody_noticed();
}

/// Whoever writes waits, as when a snapshot is taken.
#[test]
fn a_state_directory_that_stands_still_holds_up_nobody() {
    let story = Story::begin("still-state");
    story.put_new_version();
    let path = story.service.state.join("history.jsonl");
    fs::create_dir_all(&story.service.state).expect("a directory");
    fs::write(&path, "").expect("a history");
    let still = match StandsStill::at(&path) {
        Ok(still) => still,
        Err(why) => {
            // Whoever requires all stories has a host where this one can be told.
            let required = std::env::var("HANDOVER_TEST_SYSTEMD").is_ok_and(|v| v == "require");
            assert!(!required, "{why}");
            return eprintln!("skipped: {why}");
        }
    };
    let at_once = |what: &[&str]| {
        let asked = Instant::now();
        story.service.cli(what).assert_code(0);
        let took = asked.elapsed();
        assert!(took < STILL, "{what:?} took {took:?}");
    };
    at_once(&["status"]);
    at_once(&["upgrade"]);
    story.sees(&PROBATION);
    at_once(&["status"]);
    at_once(&["commit"]);
    story.sees(&[ALONE_NEW]);
    at_once(&["status"]);
    // The file does not have it; the service does.
    let history = story.service.cli(&["history"]).stdout;
    assert!(history.contains("committed"), "{history}");
    assert_eq!(fs::read_to_string(&path).expect("a history"), "");
    wait_until("a word about it", || {
        story
            .service
            .log_text()
            .contains("does not answer; the service runs on")
    });
    drop(still);
    wait_until("the upgrade to be written down", || {
        fs::read_to_string(&path).is_ok_and(|text| text.contains("\"committed\""))
    });
    story.nobody_noticed();
}

/// A file server that is gone: whoever opens a file to read waits for ever.
#[test]
fn a_state_directory_that_cannot_be_read_holds_up_nobody() {
    let story = Story::begin("dead-state");
    story.put_new_version();
    fs::create_dir_all(&story.service.state).expect("a directory");
    let names = ["history.jsonl", "refused", "previous.toml"];
    let dead = names.map(|name| {
        let path = story.service.state.join(name);
        let _ = fs::remove_file(&path);
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).expect("a pipe");
        path
    });
    let at_once = |what: &[&str]| {
        let asked = Instant::now();
        story.service.cli(what).assert_code(0);
        let took = asked.elapsed();
        assert!(took < STILL, "{what:?} took {took:?}");
    };
    at_once(&["status"]);
    at_once(&["upgrade"]);
    story.sees(&PROBATION);
    at_once(&["status"]);
    at_once(&["rollback"]);
    story.sees(&[ALONE]);
    story.put_new_version();
    at_once(&["upgrade"]);
    at_once(&["commit"]);
    at_once(&["status"]);
    // Whoever waits there reads an empty file.
    for path in dead {
        let end = fs::File::options().read(true).write(true).open(&path);
        fs::remove_file(&path).expect("a pipe");
        drop(end.expect("a pipe"));
    }
    let history = story.service.state.join("history.jsonl");
    wait_until("the upgrade to be written down", || {
        fs::read_to_string(&history).is_ok_and(|text| text.contains("\"committed\""))
    });
    story.nobody_noticed();
}

/// More than the service waits for its disk at any point, and far less than the disk stands still.
const STILL: Duration = Duration::from_secs(15);

/// Whoever opens the file to write to it waits until this is dropped (45 s by default): somebody else
/// holds a lease of it.
struct StandsStill(std::process::Child);

impl StandsStill {
    fn at(path: &Path) -> Result<Self, String> {
        let hold = "$SIG{IO} = 'IGNORE'; open(F, '<', $ARGV[0]) or die; \
                    fcntl(F, 1024, 0) or die \"$!\"; $| = 1; print \"held\\n\"; sleep 60";
        let mut perl = std::process::Command::new("perl");
        let perl = perl.args(["-e", hold]).arg(path);
        let holder = perl.stdout(std::process::Stdio::piped()).spawn();
        let mut still = Self(holder.map_err(|e| format!("no perl: {e}"))?);
        let mut said = still.0.stdout.take().expect("a pipe");
        let held = said.read_exact(&mut [0; 5]);
        held.map_err(|_| "no leases on this file system")?;
        Ok(still)
    }
}

impl Drop for StandsStill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whoever serves writes by then, and its lines are the newer ones.
#[test]
fn a_master_that_was_sent_away_writes_nothing_late() {
    let story = Story::in_probation("full-late");
    let Some(full) = FullState::of(&story.service) else {
        return;
    };
    let Target::Tcp(address) = story.service.target("http") else {
        panic!("a TCP listener");
    };
    // It drains for as long as this takes.
    let mut stream = TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(SOON)).expect("a deadline");
    let ask = b"GET /stream?chunks=30&size=100&ms=100 HTTP/1.1\r\nHost: kit.test\r\n\r\n";
    stream.write_all(ask).expect("a connection");
    let mut answer = vec![0; 17];
    stream.read_exact(&mut answer).expect("an answer's begin");
    let bad = story.service.runtime.join("no-program");
    fs::write(&bad, "no program").expect("a file");
    story.service.replace(&bad);
    let superseded = story.service.cli(&["upgrade", "--supersede"]);
    superseded.assert_code(1);
    story.service.cli(&["rollback"]).assert_code(0);
    let log = story.service.log_text();
    assert!(log.contains("is given up (lines: "), "{log}");
    full.was_said_and_is_made_good(&story, "\"rolled_back\"");
    story.sees(&[ALONE]);
    let history = fs::read_to_string(full.at.join("history.jsonl")).unwrap_or_default();
    assert!(!history.contains("\"failed\""), "{history}");
    drop(full);
    story.nobody_noticed();
}

#[test]
fn a_full_state_directory_stops_no_rollback() {
    let story = Story::in_probation("full-rollback");
    let Some(full) = FullState::of(&story.service) else {
        return;
    };
    story.service.cli(&["rollback"]).assert_code(0);
    story.sees(&[ALONE]);
    // What was turned down is not run again by itself, though nobody can write that down yet.
    story.put_new_version();
    let applied = story.service.cli(&["apply"]);
    applied.assert_code(0);
    assert!(applied.stdout.contains("was refused before"), "{applied}");
    story.sees(&[ALONE]);
    full.was_said_and_is_made_good(&story, "\"rolled_back\"");
    // And the program that was turned down is remembered.
    let refused = fs::read_to_string(full.at.join("refused")).unwrap_or_default();
    assert_eq!(refused.lines().count(), 1, "{refused:?}");
    drop(full);
    story.nobody_noticed();
}
