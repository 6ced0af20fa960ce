//! The orders of an upgrade, given as an operator gives them, under a client that forgives nothing.

mod kit;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use handover::api::{Last, Outcome, Phase, Status};
use kit::build;
use kit::client::{Load, Running, Target};
use kit::endurance::{self, Plan, Protocol};
use kit::proc;
use kit::service::{Output, SOON, Service, install};
use kit::wait::wait_until;
use rustix::process::Signal;

const TWO: &str = "2.0.0";
const THREE: &str = "3.0.0";

/// Nothing happens by itself within a test.
const PATIENT: &str = "workers = 2\n[upgrade]\nprobation = \"10m\"\n";

fn one() -> String {
    format!("handover/{}", build::own_version())
}

fn begin(test: &str, config: &str) -> (Service, Running) {
    let service = Service::setup(test).config(config).start();
    service.wait_owner(1, "serving");
    let load = load(&service);
    (service, load)
}

fn load(service: &Service) -> Running {
    let spec = || service.load("http").pause(Duration::from_millis(2));
    let think = Duration::from_millis(1)..=Duration::from_millis(60);
    let load = Load::start_all(vec![
        spec().keep_alive().connections(8),
        spec().fresh().connections(4),
        spec().pipelined(4).connections(2),
        spec().think(think).connections(8),
    ]);
    load.wait_connected(SOON);
    load.wait_server(&one(), 20, SOON);
    load
}

fn two(service: &Service) {
    service.replace(&build::other_version(TWO));
}

#[track_caller]
fn is_on_disk(service: &Service, file: &str, program: &PathBuf) {
    let path = service.program.with_file_name(file);
    let wanted = fs::read(program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    // It is kept beside the takeover, not before it.
    wait_until(&format!("{file} to be {}", program.display()), || {
        fs::read(&path).is_ok_and(|found| found == wanted)
    });
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[track_caller]
fn last(service: &Service) -> Last {
    let status = service.status().expect("an owner");
    status.last.expect("an upgrade that ended")
}

/// The only master, and its workers, nobody else but the keeper.
#[track_caller]
fn alone(service: &Service, generation: u64) -> Status {
    let status = service.wait_owner(generation, "serving");
    service.wait_processes("one master, two workers and the keeper", |all| {
        all.len() == 4 && all.iter().all(|p| !p.is_zombie())
    });
    assert_eq!(service.masters().len(), 1);
    assert_eq!(service.workers(generation).len(), 2);
    assert_eq!(service.pid_file(".pid"), Some(status.owner_pid));
    assert_eq!(service.pid_file(".pid.oldbin"), None);
    status
}

#[test]
fn a_renamed_in_program_takes_over_and_a_commit_makes_it_final() {
    let (service, load) = begin("rename", PATIENT);
    two(&service);
    let upgraded = service.cli(&["upgrade"]);
    upgraded.assert_code(0);
    says(&upgraded.stdout, &["g2", TWO, "probation", "rollback"]);
    load.mark("probation");
    let status = service.wait_owner(2, "probation");
    assert_eq!(status.version, TWO);
    let upgrade = status.upgrade.expect("an upgrade under way");
    assert_eq!(
        (upgrade.from.as_str(), upgrade.to.as_deref()),
        (build::own_version(), Some(TWO))
    );
    assert!(upgrade.probation_left_ms.is_some_and(|ms| ms > 500_000));
    assert_eq!(status.masters.len(), 2, "{:?}", status.masters);
    assert_eq!(
        status.rollback_to.and_then(|b| b.version).as_deref(),
        Some(build::own_version())
    );
    assert_eq!(service.pid_file(".pid"), Some(service.master(2).pid));
    assert_eq!(service.pid_file(".pid.oldbin"), Some(service.master(1).pid));
    is_on_disk(&service, "handover.good", &build::own());
    load.wait_server("handover/2.0.0", 100, SOON);

    service.cli(&["commit"]).assert_code(0);
    load.mark("committed");
    alone(&service, 2);
    assert_eq!(service.bin_files(), ["handover", "handover.old"]);
    let last = last(&service);
    assert_eq!(last.id, upgrade.id);
    assert_eq!(last.outcome, Outcome::Committed);
    assert!(last.takeover_ms.is_some());
    service.cli(&["commit"]).assert_code(0);
    let log = service.log_text();
    let end = log.lines().find(|line| line.contains(" is committed"));
    let quiet = end.is_some_and(|line| line.contains(" info "));
    assert!(quiet, "nothing to do, and nothing to warn of:\n{log}");
    load.wait_answers(100, SOON);
    let report = load.stop();
    report.assert_clean();
    assert!(report.answers_of(&one()) > 0);
}

/// However often one asks: an answer that came too late is not the next one's.
#[test]
fn status_always_knows_the_parked_master_also_one_that_does_not_answer() {
    let (service, load) = begin("always", PATIENT);
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    let parked = service.wait_status("a parked master without workers", |status| {
        let parked = |m: &&handover::api::Master| m.phase == Phase::Parked && m.workers.is_empty();
        status.masters.iter().any(|m| parked(&m))
    });
    let pid = parked.masters[1].pid;
    for round in 0..500 {
        let status = service.status().expect("an owner");
        let masters = status.masters.iter().map(|m| (m.pid, m.phase.known()));
        let masters: Vec<_> = masters.collect();
        let expected = [
            (status.owner_pid, Some(Phase::Probation)),
            (pid, Some(Phase::Parked)),
        ];
        assert_eq!(masters, expected, "round {round}");
        assert_eq!(status.masters[0].workers.len(), 2);
    }
    service.signal(pid, Signal::STOP);
    let status = service.status().expect("an owner");
    let mute = &status.masters[1];
    assert_eq!((mute.pid, mute.generation), (pid, 1));
    assert_eq!(mute.phase, Phase::Parked);
    assert_eq!(mute.version, build::own_version());
    service.signal(pid, Signal::CONT);
    service.cli(&["rollback"]).assert_code(0);
    alone(&service, 1);
    load.stop().assert_clean();
}

#[test]
fn a_copied_over_program_takes_over_too() {
    let (service, load) = begin("copy", PATIENT);
    let new = service.dir().join("new");
    install(&build::other_version(TWO), &new);
    service.shell("cp handover handover.old; cp -f ../new handover");
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    load.wait_server("handover/2.0.0", 100, SOON);
    is_on_disk(&service, "handover.old", &build::own());
    service.cli(&["rollback"]).assert_code(0);
    alone(&service, 1);
    is_on_disk(&service, "handover", &build::own());
    load.wait_server(&one(), 100, SOON);
    load.stop().assert_clean();
}

#[test]
fn a_program_from_elsewhere_is_put_in_place_and_run() {
    let (service, load) = begin("binary", PATIENT);
    let new = build::other_version(TWO);
    let file = new.to_str().expect("a path");
    // The client of another installation has nothing to write here.
    let stranger = service.cli(&["upgrade", "--binary", file]);
    stranger.assert_code(1);
    assert!(
        stranger.stderr.contains("was not put in place"),
        "{stranger}"
    );
    is_on_disk(&service, "handover", &build::own());
    let upgrade = |file: &Path| {
        let args = ["upgrade", "--binary", file.to_str().expect("a path")];
        let client = service.program.clone();
        service.client_start(&client, &args).finish(SOON)
    };
    upgrade(&new).assert_code(0);
    service.wait_owner(2, "probation");
    is_on_disk(&service, "handover", &new);
    is_on_disk(&service, "handover.good", &build::own());
    // Another one would be in the way of what is under way.
    let third = build::other_version(THREE);
    upgrade(&third).assert_code(75);
    is_on_disk(&service, "handover", &new);
    service.cli(&["commit"]).assert_code(0);
    alone(&service, 2);
    let bad = service.dir().join("bad");
    fs::write(&bad, "no program").expect("a file");
    upgrade(&bad).assert_code(1);
    is_on_disk(&service, "handover", &new);
    is_on_disk(&service, "handover.old", &build::own());
    alone(&service, 2);
    load.stop().assert_clean();
}

#[test]
fn an_upgrade_commits_by_itself_when_its_probation_is_over() {
    let (service, load) = begin("by_itself", "workers = 2\n[upgrade]\nprobation = \"1h\"\n");
    two(&service);
    let began = Instant::now();
    service
        .cli(&["upgrade", "--probation", "600ms"])
        .assert_code(0);
    alone(&service, 2);
    assert!(began.elapsed() >= Duration::from_millis(600));
    assert_eq!(last(&service).outcome, Outcome::Committed);
    wait_until("the way back to be kept", || {
        service.bin_files() == ["handover", "handover.old"]
    });
    load.wait_server("handover/2.0.0", 50, SOON);
    load.stop().assert_clean();
}

#[test]
fn until_commit_waits_for_the_commit() {
    let (service, load) = begin("until_commit", PATIENT);
    two(&service);
    let args = ["upgrade", "--until", "commit", "--probation", "500ms"];
    let upgraded = service.cli(&args);
    upgraded.assert_code(0);
    says(&upgraded.stdout, &["committed"]);
    assert!(upgraded.took >= Duration::from_millis(500));
    // True when it was said.
    assert_eq!(last(&service).outcome, Outcome::Committed);
    load.stop().assert_clean();
}

#[test]
fn until_commit_learns_of_a_rollback() {
    let (service, load) = begin("until_back", PATIENT);
    two(&service);
    let order = service.cli_start(&["upgrade", "--until", "commit"]);
    service.wait_owner(2, "probation");
    service.cli(&["rollback"]).assert_code(0);
    let output = order.finish(SOON);
    output.assert_code(1);
    says(&output.stderr, &["rolled back by an order"]);
    load.stop().assert_clean();
}

#[test]
fn no_probation_commits_at_once() {
    let (service, load) = begin(
        "no_probation",
        "workers = 2\n[upgrade]\nprobation = \"0s\"\n",
    );
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    alone(&service, 2);
    service.cli(&["wait"]).assert_code(0);
    load.stop().assert_clean();
}

#[test]
fn a_rollback_in_probation_wakes_the_parked_master_and_restores_the_disk() {
    let (service, load) = begin("back", PATIENT);
    let first = service.master(1).pid;
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    load.wait_server("handover/2.0.0", 100, SOON);
    load.mark("rollback");
    let rolled = service.cli(&["rollback"]);
    rolled.assert_code(0);
    says(
        &rolled.stdout,
        &["g1", build::own_version(), "serves again"],
    );
    let status = alone(&service, 1);
    assert_eq!(status.owner_pid, first);
    assert!(status.disk.matches_running);
    let last = last(&service);
    assert_eq!(last.outcome, Outcome::RolledBack);
    says(
        &last.reason.expect("a reason"),
        &["rolled back by an order"],
    );
    assert_eq!(service.bin_files(), ["handover", "handover.rejected"]);
    is_on_disk(&service, "handover", &build::own());
    is_on_disk(&service, "handover.rejected", &build::other_version(TWO));
    load.wait_server(&one(), 100, SOON);
    // Nobody is parked and nothing is kept: there is nothing to go back to.
    let again = service.cli(&["rollback"]);
    again.assert_code(75);
    says(&again.stderr, &["nothing to go back to"]);
    alone(&service, 1);
    load.stop().assert_clean();
}

/// Who answers a connection that is made now.
fn answers(service: &Service) -> String {
    let Target::Tcp(address) = service.target("http") else {
        panic!("not TCP");
    };
    let mut stream = TcpStream::connect(address).expect("a connection");
    let request = "GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let mut lines = answer.lines();
    let server = lines.find_map(|line| line.strip_prefix("server: "));
    server
        .unwrap_or_else(|| panic!("no server in {answer}"))
        .to_owned()
}

#[test]
fn who_connects_after_an_order_meets_the_generation_that_it_was_for() {
    let (service, load) = begin("after_the_order", PATIENT);
    for round in 0..10 {
        two(&service);
        service.cli(&["upgrade"]).assert_code(0);
        assert_eq!(answers(&service), "handover/2.0.0", "round {round}");
        service.cli(&["rollback"]).assert_code(0);
        assert_eq!(answers(&service), one(), "round {round}");
        alone(&service, 1);
    }
    load.stop().assert_clean();
}

/// It may accept when it goes on; what it says then is late for the one who gave the order.
#[test]
fn a_leaving_worker_that_hangs_holds_the_answer_up_for_a_second() {
    let (service, load) = begin("hangs_at_the_end", PATIENT);
    load.stop().assert_clean();
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    let hangs = service.workers(2)[0].pid;
    service.signal(hangs, Signal::STOP);
    let begun = Instant::now();
    service.cli(&["rollback"]).assert_code(0);
    let took = begun.elapsed();
    service.signal(hangs, Signal::CONT);
    assert!(took > Duration::from_secs(1), "{took:?}");
    assert!(
        took < Duration::from_secs(10),
        "{took:?}; a drain may take minutes"
    );
    alone(&service, 1);
}

#[test]
fn a_rollback_after_the_commit_is_a_hot_upgrade_with_the_configuration_of_then() {
    let (service, load) = begin("back_later", PATIENT);
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    service.cli(&["commit"]).assert_code(0);
    alone(&service, 2);
    // The configuration moves on; the previous generation never ran with it.
    service.write_config("workers = 3\n[upgrade]\nprobation = \"10m\"\n");
    service.cli(&["reload"]).assert_code(0);
    service.wait_processes("three workers", |_| service.workers(2).len() == 3);
    let status = service.status().expect("an owner");
    let back_to = status.rollback_to.expect("the previous build");
    assert_eq!(back_to.version.as_deref(), Some(build::own_version()));
    load.mark("rollback");
    let rolled = service.cli(&["rollback"]);
    rolled.assert_code(0);
    let status = service.wait_status("the previous version", |s| s.generation == 3);
    assert_eq!(status.version, build::own_version());
    service.wait_processes("two workers as then", |_| service.workers(3).len() == 2);
    load.wait_server(&one(), 100, SOON);
    is_on_disk(&service, "handover", &build::own());
    is_on_disk(&service, "handover.rejected", &build::other_version(TWO));
    service.cli(&["commit"]).assert_code(0);
    alone(&service, 3);
    assert_eq!(service.bin_files(), ["handover", "handover.rejected"]);
    // The rejected build never comes back by a rollback.
    let again = service.cli(&["rollback"]);
    again.assert_code(75);
    alone(&service, 3);
    is_on_disk(&service, "handover", &build::own());
    load.stop().assert_clean();
}

/// The rollback refuses what it leaves; what serves again after all is refused no longer.
#[test]
fn a_rollback_that_is_taken_back_leaves_the_way_back_open() {
    let (service, load) = begin("back_and_forth", PATIENT);
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    service.cli(&["commit"]).assert_code(0);
    alone(&service, 2);
    service.cli(&["rollback"]).assert_code(0);
    service.wait_status("the previous version", |s| s.generation == 3);
    service.cli(&["rollback"]).assert_code(0);
    alone(&service, 2);
    is_on_disk(&service, "handover", &build::other_version(TWO));
    service.replace(&build::other_version(THREE));
    service.cli(&["upgrade"]).assert_code(0);
    service.cli(&["commit"]).assert_code(0);
    service.wait_status("the third version alone", |s| {
        s.version == THREE && s.phase == Phase::Serving && s.masters.len() == 1
    });
    service.cli(&["rollback"]).assert_code(0);
    service.wait_status("the second version", |s| s.version == TWO);
    is_on_disk(&service, "handover", &build::other_version(TWO));
    load.stop().assert_clean();
}

/// That the way back could not be gone says nothing of the program that it leads to.
#[test]
fn a_rollback_that_could_not_start_can_be_ordered_again() {
    let (service, load) = begin("back_fails", PATIENT);
    let logs = service.config.with_file_name("logs");
    fs::create_dir(&logs).expect("a directory");
    service.write_config(&format!("{PATIENT}[log]\naccess = \"logs/access.log\"\n"));
    service.cli(&["reload"]).assert_code(0);
    service.write_config(PATIENT);
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    service.cli(&["commit"]).assert_code(0);
    alone(&service, 2);
    fs::remove_dir_all(&logs).expect("the directory");
    let rolled = service.cli(&["rollback"]);
    assert_ne!(rolled.code, 0, "{rolled}");
    says(&rolled.stderr, &["logs", "serves on"]);
    let status = service.status().expect("an owner");
    assert_eq!(status.version, TWO);
    assert!(status.rollback_to.is_some(), "it is still there");
    is_on_disk(&service, "handover", &build::other_version(TWO));
    fs::create_dir(&logs).expect("a directory");
    service.cli(&["rollback"]).assert_code(0);
    load.wait_server(&one(), 100, SOON);
    is_on_disk(&service, "handover", &build::own());
    load.stop().assert_clean();
}

#[test]
fn apply_makes_what_is_on_disk_be_what_runs() {
    let (service, load) = begin("apply", PATIENT);
    let before = service.workers(1);
    // Nothing new on disk: the configuration is read again.
    service.cli(&["apply"]).assert_code(0);
    service.wait_processes("other workers", |_| {
        let now = service.workers(1);
        now.len() == 2 && now.iter().all(|w| before.iter().all(|b| b.pid != w.pid))
    });
    service.wait_owner(1, "serving");
    // Another build: an upgrade.
    two(&service);
    service.cli(&["apply"]).assert_code(0);
    service.wait_owner(2, "probation");
    // What runs in probation is on disk: nothing but a reload.
    service.cli(&["apply"]).assert_code(0);
    let status = service.wait_owner(2, "probation");
    assert_eq!(status.version, TWO);
    // Another one in probation: superseded.
    service.replace(&build::other_version(THREE));
    service.cli(&["apply"]).assert_code(0);
    let status = service.wait_status("the third version", |s| s.version == THREE);
    assert_eq!(status.generation, 3);
    assert_eq!(status.phase, Phase::Probation);
    service.cli(&["rollback"]).assert_code(0);
    alone(&service, 1);
    // Rejected once: only a reload, with a warning; also when the file that was kept aside is gone.
    let rejected = service.program.with_file_name("handover.rejected");
    is_on_disk(&service, "handover.rejected", &build::other_version(THREE));
    fs::remove_file(&rejected).expect("it is there");
    service.replace(&build::other_version(THREE));
    let applied = service.cli(&["apply"]);
    applied.assert_code(0);
    let said = format!("{}{}", applied.stdout, applied.stderr);
    says(&said, &["was refused before", "only the configuration"]);
    alone(&service, 1);
    // But who insists gets it: it was set aside.
    service.replace(&build::other_version(THREE));
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    service.cli(&["commit"]).assert_code(0);
    alone(&service, 2);
    assert_eq!(service.bin_files(), ["handover", "handover.old"]);
    load.stop().assert_clean();
}

#[test]
fn wait_knows_how_an_upgrade_ended_and_history_tells_it() {
    let (service, load) = begin("wait", PATIENT);
    let nothing = service.cli(&["wait"]);
    nothing.assert_code(0);
    service.cli(&["history"]).assert_code(0);
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    let id = service.wait_owner(2, "probation").upgrade.expect("one").id;
    let mut waiting = service.cli_start(&["wait", &id[..8]]);
    let mut latest = service.cli_start(&["wait"]);
    load.wait_server("handover/2.0.0", 50, SOON);
    assert!(waiting.is_running() && latest.is_running());
    service.cli(&["rollback"]).assert_code(0);
    for waited in [waiting.finish(SOON), latest.finish(SOON)] {
        waited.assert_code(1);
        says(&waited.stderr, &["rolled back by an order"]);
    }
    alone(&service, 1);
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    let second = service.wait_owner(2, "probation").upgrade.expect("one").id;
    let waiting = service.cli_start(&["wait", &second]);
    service.cli(&["commit"]).assert_code(0);
    waiting.finish(SOON).assert_code(0);
    alone(&service, 2);
    // Long after.
    service.cli(&["wait", &id]).assert_code(1);
    service.cli(&["wait", &second]).assert_code(0);
    let unknown = service.cli(&["wait", "ffffffffffffffffffffffffffffffff"]);
    unknown.assert_code(1);
    let table = service.cli(&["history"]);
    table.assert_code(0);
    says(&table.stdout, &[&id[..8], &second[..8], TWO]);
    let one = service.cli(&["history", &second, "--json"]);
    let line: Last = serde_json::from_str(one.assert_code(0).stdout.trim()).expect("a line");
    assert_eq!((line.id, line.outcome), (second, Outcome::Committed));
    load.stop().assert_clean();
}

#[test]
fn an_upgrade_to_what_runs_is_done_already() {
    let (service, load) = begin("same", PATIENT);
    let pid = service.master(1).pid;
    let same = service.cli(&["upgrade"]);
    same.assert_code(0);
    says(&same.stdout, &["runs already"]);
    // Another file with the same content.
    service.replace(&build::own());
    service.cli(&["upgrade"]).assert_code(0);
    let status = alone(&service, 1);
    assert_eq!(status.owner_pid, pid);
    assert_eq!(status.last, None);
    assert_eq!(service.bin_files(), ["handover"]);
    load.stop().assert_clean();
}

#[test]
fn of_two_orders_at_once_one_is_refused() {
    let (service, load) = begin("two_orders", PATIENT);
    two(&service);
    let orders = [
        service.cli_start(&["upgrade"]),
        service.cli_start(&["upgrade"]),
    ];
    let outputs = orders.map(|order| order.finish(SOON));
    let mut codes: Vec<i32> = outputs.iter().map(|o| o.code).collect();
    codes.sort_unstable();
    // The second may come late enough to find that what is on disk runs already.
    assert!(codes == [0, 75] || codes == [0, 0], "{outputs:?}");
    if let Some(refused) = outputs.iter().find(|o| o.code == 75) {
        says(&refused.stderr, &["under way"]);
    }
    service.wait_owner(2, "probation");
    service.cli(&["commit"]).assert_code(0);
    alone(&service, 2);
    load.stop().assert_clean();
}

/// As two `systemctl reload` are, one of which was killed and lives on.
#[test]
fn what_is_to_be_applied_while_it_gets_ready_is_waited_for() {
    let (service, load) = begin("two_applies", PATIENT);
    two(&service);
    let both = [(); 2].map(|()| service.cli_start(&["apply"]));
    for one in both {
        one.finish(SOON).assert_code(0);
    }
    service.wait_owner(2, "probation");
    service.cli(&["commit"]).assert_code(0);
    alone(&service, 2);
    load.stop().assert_clean();
}

/// As three `systemctl reload` are, each after a change of the configuration.
#[test]
fn what_is_to_be_applied_during_another_reload_is_done_after_it() {
    let (service, load) = begin("three_reloads", PATIENT);
    let all = [(); 3].map(|()| service.cli_start(&["apply"]));
    for one in all {
        one.finish(SOON).assert_code(0);
    }
    alone(&service, 1);
    load.stop().assert_clean();
}

#[test]
fn while_one_upgrade_starts_every_other_order_is_refused_but_rollback_and_stop() {
    let (service, load) = begin("refusals", PATIENT);
    fs::write(service.dir().join("behaviour"), "workers are never ready").expect("a file");
    service.replace(&build::other_version_of_example("bad", "bad"));
    let order = service.cli_start(&["upgrade"]);
    service.wait_phase("launching");
    for verb in ["upgrade", "commit", "reload"] {
        let output = service.cli(&[verb]);
        output.assert_code(75);
        says(&output.stderr, &["under way"]);
    }
    service.cli(&["rollback"]).assert_code(0);
    let output = order.finish(SOON);
    output.assert_code(1);
    says(&output.stderr, &["rolled back by an order"]);
    alone(&service, 1);
    is_on_disk(&service, "handover", &build::own());
    load.stop().assert_clean();
}

#[test]
fn a_start_that_is_given_up_leaves_no_process() {
    let (service, load) = begin("given_up", PATIENT);
    fs::write(service.dir().join("behaviour"), "hangs at pre-flight").expect("a file");
    service.replace(&build::other_version_of_example("bad", "bad"));
    let order = service.cli_start(&["upgrade"]);
    let checks = |process: &proc::Process| process.args.iter().any(|arg| arg == "check");
    service.wait_processes("the pre-flight", |all| all.iter().any(checks));
    service.cli(&["rollback"]).assert_code(0);
    order.finish(SOON).assert_code(1);
    alone(&service, 1);
    load.stop().assert_clean();
}

#[test]
fn a_client_killed_in_the_middle_of_its_order_changes_nothing_about_it() {
    let (service, load) = begin("client_killed", PATIENT);
    two(&service);
    let order = service.cli_start(&["upgrade", "--until", "commit"]);
    service.wait_status("the upgrade", |s| s.upgrade.is_some());
    drop(order); // Dropping kills it.
    let status = service.wait_owner(2, "probation");
    let id = status.upgrade.expect("one").id;
    service.cli(&["commit"]).assert_code(0);
    service.cli(&["wait", &id]).assert_code(0);
    alone(&service, 2);
    load.stop().assert_clean();
}

#[test]
fn the_control_socket_is_handed_over_and_never_absent() {
    let (service, load) = begin("socket", PATIENT);
    let inode = || {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(service.runtime.join("control.sock"))
            .map(|m| m.ino())
            .ok()
    };
    let first = inode();
    let stop = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        // Also when an assertion fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stopping = Stop(&stop);
        let asking = scope.spawn(|| {
            let (mut asked, mut silent) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match service.status() {
                    Some(_) => asked += 1,
                    None => silent.push(service.processes()),
                }
            }
            (asked, silent)
        });
        two(&service);
        service.cli(&["upgrade"]).assert_code(0);
        service.wait_owner(2, "probation");
        service.cli(&["rollback"]).assert_code(0);
        service.wait_owner(1, "serving");
        two(&service);
        service.cli(&["upgrade"]).assert_code(0);
        service.cli(&["commit"]).assert_code(0);
        alone(&service, 2);
        drop(stopping);
        asking.join().expect("no panic")
    });
    assert!(asked.0 > 10, "{asked:?}");
    // "Ask again" (503) at the very instant it changes hands is allowed; silence is not the rule.
    assert!(
        asked.1.len() <= 12,
        "nobody answered {} of {} times",
        asked.1.len(),
        asked.0
    );
    assert_eq!(inode(), first, "the same socket throughout");
    load.stop().assert_clean();
}

#[test]
fn ten_upgrades_in_a_row_leave_one_master_and_nothing_else() {
    let (service, load) = begin("ten", PATIENT);
    let builds = [build::own(), build::other_version(TWO)];
    // The first leaves what later ones find: `.old`, the history.
    let mut generation = 1;
    let mut upgrade = |n: usize| {
        service.replace(&builds[n % 2]);
        service.cli(&["upgrade"]).assert_code(0);
        service.cli(&["commit"]).assert_code(0);
        generation += 1;
        alone(&service, generation);
    };
    upgrade(1);
    let before = service.census();
    for n in 2..12 {
        load.mark(&format!("upgrade {n}"));
        upgrade(n);
    }
    service.wait_census(&before);
    assert_eq!(service.bin_files(), ["handover", "handover.old"]);
    let status = service.wait_owner(12, "serving");
    assert_eq!(status.masters.len(), 1);
    assert_eq!(status.warnings, [""; 0]);
    assert_eq!(
        fs::read_to_string(service.state.join("history.jsonl"))
            .expect("a history")
            .lines()
            .count(),
        11
    );
    let report = load.stop();
    report.assert_clean();
    println!("{report}");
    // Workers hold as much as one another when they have seen that their clients are gone.
    service.wait_processes("workers without clients", |_| {
        let workers = service.workers(12);
        let fds: Vec<usize> = workers.iter().map(|w| proc::fds(w.pid).len()).collect();
        fds[0].abs_diff(fds[1]) <= 2
    });
}

#[test]
fn keep_alive_connections_survive_ten_upgrades() {
    let service = Service::setup("kept").config(PATIENT).start();
    service.wait_owner(1, "serving");
    let spec = || service.load("http").pause(Duration::from_millis(3));
    let load = Load::start_all(vec![
        spec().keep_alive().connections(32),
        spec().pipelined(3).connections(8),
    ]);
    load.wait_connected(SOON);
    let builds = [build::own(), build::other_version(TWO)];
    for n in 1..=6 {
        service.replace(&builds[n % 2]);
        service.cli(&["upgrade"]).assert_code(0);
        load.wait_answers(100, SOON);
        if n % 3 == 0 {
            service.cli(&["rollback"]).assert_code(0);
        } else {
            service.cli(&["commit"]).assert_code(0);
        }
        service.wait_phase("serving");
        load.wait_answers(100, SOON);
        // `service.replace` after a rollback meets the build that runs.
        if n % 3 == 0 {
            service.wait_processes("one master", |_| service.masters().len() == 1);
        }
    }
    let report = load.stop();
    report.assert_clean().assert_kept();
}

#[test]
fn twenty_upgrades_and_ten_rollbacks_leave_what_the_first_left() {
    let plan = Plan {
        rounds: 10,
        connections: 200,
        think: Duration::from_millis(500),
        protocol: Protocol::Http1,
    };
    let figures = endurance::run("endurance", build::example("workbench"), plan, |_| {});
    println!("{figures}");
    figures.assert_nothing_was_left();
    // Nobody was left to end by himself. (A rollback that comes in the middle of a drain saves
    // some connections a way.)
    assert_eq!(figures.drained.finished, 0, "{figures}");
    assert!(
        figures.drained.passed >= figures.upgrades as u64 * 200,
        "{figures}"
    );
}

#[test]
fn a_third_release_supersedes_the_second_in_its_probation() {
    let (service, load) = begin("supersede", PATIENT);
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    let first = service.wait_owner(2, "probation").upgrade.expect("one").id;
    service.replace(&build::other_version(THREE));
    // Without the word it is refused, and says which word.
    let refused = service.cli(&["upgrade"]);
    refused.assert_code(75);
    says(&refused.stderr, &["--supersede"]);
    assert_eq!(service.wait_owner(2, "probation").version, TWO);
    let superseded = service.cli(&["upgrade", "--supersede"]);
    superseded.assert_code(0);
    let yields = format!("{TWO} (g2) gives the service back");
    says(
        &superseded.stdout,
        &[&yields, "3.0.0 (g3) serves", "is final in"],
    );
    let status = service.wait_status("the third release", |s| {
        s.version == THREE && s.phase == Phase::Probation
    });
    let last = status.last.expect("the one that was superseded");
    assert_eq!((last.id, last.outcome), (first, Outcome::RolledBack));
    says(&last.reason.expect("a reason"), &["superseded"]);
    // The file on disk was not touched on the way.
    is_on_disk(&service, "handover", &build::other_version(THREE));
    load.wait_server("handover/3.0.0", 50, SOON);
    service.cli(&["commit"]).assert_code(0);
    // A number of its own: the second may still drain.
    alone(&service, 3);
    is_on_disk(&service, "handover", &build::other_version(THREE));
    let back_to = service.status().expect("an owner").rollback_to;
    assert_eq!(
        back_to.and_then(|b| b.version).as_deref(),
        Some(build::own_version())
    );
    load.stop().assert_clean();
}

/// Everything dies in the middle of a probation: the upgrade ends as what became of it.
#[test]
fn an_upgrade_that_was_interrupted_is_no_success() {
    let service = Service::setup("interrupted").config(PATIENT).start();
    service.wait_owner(1, "serving");
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    let id = service.wait_owner(2, "probation").upgrade.expect("one").id;
    let history = service.cli(&["history"]);
    history.assert_code(0);
    says(&history.stdout, &["under way", TWO]);
    service.cut_power();
    service.wait_exit();
    service.wait_processes("nobody", <[_]>::is_empty);
    service.start();
    service.wait_owner(1, "serving");
    let waited = service.cli(&["wait", &id]);
    waited.assert_code(1);
    says(&waited.stderr, &["interrupted"]);
    let last = last(&service);
    assert_eq!((last.id, last.outcome), (id, Outcome::Interrupted));
}

fn nowhere(service: &Service, args: &[&str]) -> Output {
    service.cli(args)
}

#[test]
fn where_nothing_runs_every_order_ends_with_69() {
    let service = Service::setup("nowhere").prepare();
    for verb in [
        "upgrade", "apply", "commit", "rollback", "reload", "status", "wait",
    ] {
        let output = nowhere(&service, &[verb]);
        output.assert_code(69);
        says(&output.stderr, &["nothing is running", "control.sock"]);
    }
    // What is stopped is stopped already.
    nowhere(&service, &["stop"]).assert_code(0);
    nowhere(&service, &["history"]).assert_code(0);
}

#[test]
fn a_socket_that_nobody_answers_on_is_69_too() {
    let service = Service::setup("dead_socket").config(PATIENT).start();
    service.wait_owner(1, "serving");
    let all = service.processes();
    for process in &all {
        if let Some(pinned) = proc::Pinned::open(process.pid) {
            pinned.signal(Signal::KILL);
            pinned.wait_ended(SOON);
        }
    }
    assert!(service.runtime_files().contains(&"control.sock".to_owned()));
    service.cli(&["upgrade"]).assert_code(69);
    // And it is in nobody's way.
    assert!(!service.wait_exit().success());
    service.start();
    service.wait_owner(1, "serving");
    let load = load(&service);
    load.stop().assert_clean();
}

#[test]
fn stop_ends_everything_the_parked_master_too_and_is_done_when_done() {
    let (service, load) = begin("stop", PATIENT);
    two(&service);
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    load.stop().assert_clean();
    service.cli(&["stop"]).assert_code(0);
    // True when it was said.
    let left: Vec<_> = service.masters();
    assert_eq!(left, [], "the masters have left when `stop` says so");
    assert!(service.wait_exit().success());
    assert_eq!(service.processes(), []);
    assert_eq!(service.runtime_files(), [""; 0]);
    service.cli(&["stop"]).assert_code(0);
}

#[test]
fn a_second_service_in_the_same_directories_is_refused_with_75() {
    let (service, load) = begin("second", PATIENT);
    let second = service
        .client_start(
            &service.program,
            &["run", "--config", service.config.to_str().expect("a path")],
        )
        .finish(SOON);
    second.assert_code(75);
    says(&second.stderr, &["runs already", "--name"]);
    alone(&service, 1);
    load.stop().assert_clean();
}
