//! What is counted and shown: draining generations, connections by what became of them, `/metrics`
//! on its own address, the access log.

mod kit;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use handover::api::{Connections, Outcome, Phase, Status};
use kit::app;
use kit::build;
use kit::client::{Load, Target};
use kit::port::Port;
use kit::proc::Process;
use kit::service::{SOON, Service};
use kit::wait::wait_until;
use rustix::process::Signal;

const PATIENT: &str = "workers = 2\n[upgrade]\nprobation = \"10m\"\n";

fn begin(test: &str, config: &str) -> Service {
    let service = Service::setup(test)
        .name("workbench")
        .image(build::other_version_of_example("workbench", "1.0.0"))
        .config(config)
        .start();
    service.wait_owner(1, "serving");
    service
}

fn replace(service: &Service, generation: usize) {
    let version = ["1.0.0", "2.0.0"][generation % 2];
    service.replace(&build::other_version_of_example("workbench", version));
}

fn upgrade_and_commit(service: &Service, generation: usize) -> Status {
    replace(service, generation + 1);
    service.cli(&["upgrade"]).assert_code(0);
    service.cli(&["commit"]).assert_code(0);
    service.wait_owner(generation as u64, "serving")
}

/// An answer that lasts until somebody reads it, begun in the generation that serves now.
struct Download(TcpStream);

const LENGTH: usize = 20_000_000;

impl Download {
    fn begin(service: &Service) -> Self {
        let Target::Tcp(address) = service.target("http") else {
            panic!("TCP");
        };
        let mut stream = TcpStream::connect(address).expect("a listener");
        stream.set_read_timeout(Some(SOON)).expect("an option");
        write!(
            stream,
            "GET /big?bytes={LENGTH} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut byte = [0; 12];
        stream.read_exact(&mut byte).expect("an answer's begin");
        assert_eq!(&byte, b"HTTP/1.1 200");
        Self(stream)
    }

    fn finish(mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("an answer");
        let head = rest
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("a head");
        let body = &rest[head + 4..];
        assert_eq!(body.len(), LENGTH);
        assert!(app::is_pattern(0, body));
    }
}

fn draining(status: &Status) -> Vec<u64> {
    let draining = status.masters.iter().filter(|m| m.phase == Phase::Draining);
    let mut generations: Vec<u64> = draining.map(|m| m.generation).collect();
    generations.sort_unstable();
    generations
}

#[test]
fn a_slow_download_lives_through_four_upgrades_and_its_generation_is_shown() {
    let service = begin("slow_download", PATIENT);
    let slow = Download::begin(&service);
    for generation in 2..=5 {
        upgrade_and_commit(&service, generation);
        // One that holds nothing is gone in a moment.
        service.wait_status("only the first to drain", |s| draining(s) == [1]);
    }
    // Not only that it is there: what it holds.
    let status = service.wait_status("the worker that still serves", |s| {
        let old = s.masters.iter().find(|m| m.generation == 1);
        old.is_some_and(|m| m.workers.iter().any(|w| w.connections == 1))
    });
    let old = status.masters.iter().find(|m| m.generation == 1);
    assert_eq!(old.expect("shown").version, "1.0.0");
    slow.finish();
    service.wait_status("the first generation to be gone", |s| s.masters.len() == 1);
}

#[test]
fn with_as_many_draining_generations_as_may_be_the_next_upgrade_is_refused_until_one_has_gone() {
    let config = format!("{PATIENT}[drain]\ngenerations = 3\nstop_timeout = \"1s\"\n");
    let service = begin("three_draining", &config);
    let mut slow = vec![Download::begin(&service)];
    for generation in 2..=4 {
        upgrade_and_commit(&service, generation);
        slow.push(Download::begin(&service));
    }
    service.wait_status("three that drain", |s| draining(s) == [1, 2, 3]);
    replace(&service, 5 + 1);
    for order in ["upgrade", "apply"] {
        let refused = service.cli(&[order]);
        refused.assert_code(75);
        for word in ["3 generations are still draining", "g1 (master ", "drain"] {
            assert!(refused.stderr.contains(word), "{refused}");
        }
    }
    // A signal is not obeyed either, and it is said.
    service.signal(service.master(4).pid, Signal::USR2);
    service.wait_log("SIGUSR2 is refused", 1);
    assert_eq!(service.wait_owner(4, "serving").generation, 4);
    // Any of them, not the oldest.
    slow.remove(1).finish();
    service.wait_status("one less", |s| draining(s) == [1, 3]);
    service.cli(&["upgrade"]).assert_code(0);
    service.cli(&["commit"]).assert_code(0);
    service.wait_status("three again", |s| draining(s) == [1, 3, 4]);
    // Or the oldest is ended, and nobody else.
    replace(&service, 6 + 1);
    service.cli(&["upgrade", "--end-oldest"]).assert_code(0);
    service.wait_status("the oldest to be gone", |s| draining(s) == [3, 4]);
    service.cli(&["commit"]).assert_code(0);
    for slow in slow.drain(1..) {
        slow.finish();
    }
    service.wait_status("only the last", |s| s.masters.len() == 1);
}

/// A stop reaches everybody: those that drain since long ago, and one that was rejected.
#[test]
fn a_stop_reaches_every_generation_that_drains() {
    let config = format!("{PATIENT}[drain]\nstop_timeout = \"1s\"\n");
    let service = begin("stop_reaches_all", &config);
    let mut slow = vec![Download::begin(&service)];
    for generation in 2..=3 {
        upgrade_and_commit(&service, generation);
        slow.push(Download::begin(&service));
    }
    replace(&service, 9);
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(4, "probation");
    slow.push(Download::begin(&service));
    service.cli(&["rollback"]).assert_code(0);
    service.wait_status("three that drain", |s| {
        s.generation == 3 && draining(s) == [1, 2, 4]
    });
    let began = Instant::now();
    service.cli(&["stop"]).assert_code(0);
    service.wait_processes("nobody", |all| all.iter().all(Process::is_zombie));
    // The drain's own deadline is ten minutes.
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// A client reads slowly from a generation that is rolled back then.
fn reject_with_a_slow_client(service: &Service) -> Download {
    replace(service, 1);
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    let slow = Download::begin(service);
    service.cli(&["rollback"]).assert_code(0);
    service.wait_status("the rejected one to drain", |s| {
        s.generation == 1 && draining(s) == [2]
    });
    slow
}

#[test]
fn a_slow_client_of_a_rejected_generation_does_not_hold_up_the_next_upgrade() {
    let service = begin("rejected", PATIENT);
    let slow = reject_with_a_slow_client(&service);
    replace(&service, 1);
    service.cli(&["upgrade"]).assert_code(0);
    let status = service.wait_owner(3, "probation");
    assert_eq!(draining(&status), [2]);
    service.cli(&["commit"]).assert_code(0);
    service.wait_status("the rejected one alone beside it", |s| {
        let mut generations: Vec<u64> = s.masters.iter().map(|m| m.generation).collect();
        generations.sort_unstable();
        generations == [2, 3]
    });
    slow.finish();
    service.wait_status("only the last", |s| s.masters.len() == 1);
}

#[test]
fn a_slow_client_of_a_rejected_generation_does_not_hold_up_a_reload_and_nothing_is_left_of_it() {
    let service = begin("rejected_reload", PATIENT);
    let slow = reject_with_a_slow_client(&service);
    let rejected = service.master(2).pid;
    service.cli(&["reload"]).assert_code(0);
    let status = service.wait_owner(1, "serving");
    assert_eq!(draining(&status), [2]);
    slow.finish();
    service.wait_status("only the first", |s| s.masters.len() == 1);
    let left = Path::new("/proc").join(rejected.to_string());
    assert!(!left.exists(), "the first one reaps it");
}

#[test]
fn passed_finished_and_cut_are_counted_by_upgrade() {
    let service = begin(
        "counted",
        "workers = 2\n[upgrade]\nprobation = \"10m\"\n[drain]\ntimeout = \"6s\"\n",
    );
    let load = Load::start(
        service
            .load("http")
            .connections(20)
            .think(Duration::from_millis(1)..=Duration::from_millis(50)),
    );
    load.wait_connected(SOON);
    let cut = Download::begin(&service);
    let finished = Download::begin(&service);
    replace(&service, 1);
    service.cli(&["upgrade"]).assert_code(0);
    // It says that it closes.
    finished.finish();
    // Before the drain has ended: its figures come late.
    service.cli(&["commit"]).assert_code(0);
    let wanted = Connections {
        passed: 20,
        finished: 1,
        cut: 1,
        tls: handover::api::Fates::default(),
        http2: handover::api::Fates::default(),
    };
    let status = service.wait_status("the figures", |s| {
        s.last.as_ref().is_some_and(|l| l.connections == wanted)
    });
    let last = status.last.expect("an upgrade");
    assert_eq!(last.outcome, Outcome::Committed);
    assert!(last.drain_ms.is_some_and(|ms| ms >= 6000), "{last:?}");
    drop(cut);
    // The history has it too, once.
    let one = service.cli(&["history", &last.id, "--json"]);
    let lines: Vec<handover::api::Last> = one
        .assert_code(0)
        .stdout
        .lines()
        .map(|l| serde_json::from_str(l).expect("a line"))
        .collect();
    assert_eq!(lines, [last]);
    assert!(
        service
            .log_text()
            .contains("connections: 20 passed on, 1 finished, 1 cut"),
        "{}",
        service.log_text()
    );
    let metrics = service.control("/metrics").expect("metrics");
    let metrics = String::from_utf8(metrics).expect("text");
    for line in [
        "handover_passed_total 20",
        "handover_finished_total 1",
        "handover_cut_total 1",
        "handover_disagreements_total 0",
        "handover_accept_errors_total 0",
        "handover_last_upgrade{outcome=\"committed\"} 1",
        "handover_last_upgrade_connections{result=\"passed\"} 20",
        "handover_received_total 20",
        "handover_generation 2",
        "handover_build_info{version=\"2.0.0\"} 1",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "no {line} in\n{metrics}"
        );
    }
    load.stop().assert_clean().assert_kept();
}

#[test]
fn a_rollback_counts_both_ways() {
    let service = begin("counted_back", PATIENT);
    let load = Load::start(
        service
            .load("http")
            .connections(10)
            .think(Duration::from_millis(1)..=Duration::from_millis(50)),
    );
    load.wait_connected(SOON);
    replace(&service, 1);
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_status("the drain's end", |s| {
        s.masters
            .iter()
            .any(|m| m.phase == Phase::Parked && m.workers.is_empty())
    });
    service.cli(&["rollback"]).assert_code(0);
    // The figures of those who leave come late.
    let status = service.wait_status("the end of the rollback, and its figures", |s| {
        s.last.as_ref().is_some_and(|l| l.connections.passed == 20)
    });
    let last = status.last.expect("an upgrade");
    assert_eq!(last.outcome, Outcome::RolledBack);
    load.stop().assert_clean().assert_kept();
}

fn scrape(target: &Target) -> Option<String> {
    let Target::Tcp(address) = target else {
        panic!("TCP");
    };
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n")
        .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    Some(text)
}

#[test]
fn metrics_answer_on_their_address_in_every_generation_and_follow_the_configuration() {
    let (first, second) = (Port::reserve(), Port::reserve());
    let on = |port: &Port| format!("{PATIENT}[metrics]\naddress = \"{}\"\n", port.address());
    let service = begin("metrics", &on(&first));
    let target = Target::Tcp(first.address());
    let says = |target: &Target, generation: u64| {
        let text = scrape(target).expect("an answer");
        let line = format!("handover_generation {generation}\n");
        assert!(text.contains(&line), "{text}");
    };
    says(&target, 1);
    replace(&service, 1);
    service.cli(&["upgrade"]).assert_code(0);
    says(&target, 2);
    service.cli(&["rollback"]).assert_code(0);
    says(&target, 1);
    service.wait_status("the end of the rollback", |s| {
        s.phase == Phase::Serving && s.upgrade.is_none()
    });
    // Nothing but metrics, and no orders.
    let Target::Tcp(address) = target else {
        panic!("TCP");
    };
    let mut stream = TcpStream::connect(address).expect("a listener");
    stream
        .write_all(b"POST /v1/stop HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
        .expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.1 404"), "{text}");
    // Another address.
    service.write_config(&on(&second));
    service.cli(&["reload"]).assert_code(0);
    says(&Target::Tcp(second.address()), 1);
    wait_until("the first address to be let go", || {
        TcpStream::connect(first.address()).is_err()
    });
    // One that is taken: the reload fails, the old one answers on.
    let taken = std::net::TcpListener::bind(first.address()).expect("a free port");
    service.write_config(&on(&first));
    let failed = service.cli(&["reload"]);
    failed.assert_code(1);
    assert!(
        failed.stderr.contains(&first.address().to_string()),
        "{failed}"
    );
    says(&Target::Tcp(second.address()), 1);
    drop(taken);
}

#[test]
fn every_answer_of_every_generation_has_a_line_in_the_access_log() {
    let service = begin("access", PATIENT);
    let log = service.dir().join("access.log");
    let on = format!("{PATIENT}[log]\naccess = \"{}\"\n", log.display());
    service.write_config(&on);
    service.cli(&["reload"]).assert_code(0);
    let load = Load::start(
        service
            .load("http")
            .app()
            .path("/big?bytes=17")
            .connections(4)
            .pause(Duration::from_millis(2)),
    );
    load.wait_answers(50, SOON);
    replace(&service, 1);
    service.cli(&["upgrade"]).assert_code(0);
    load.wait_server("workbench/2.0.0", 50, SOON);
    // A rotation, as logrotate does it.
    let old = service.dir().join("access.log.1");
    fs::rename(&log, &old).expect("a log");
    service.signal(service.master(2).pid, Signal::USR1);
    wait_until("the new log that USR1 makes", || log.exists());
    load.wait_answers(50, SOON);
    let report = load.stop();
    report.assert_clean().assert_kept();
    service.cli(&["stop"]).assert_code(0);
    let text = fs::read_to_string(&old).expect("a log") + &fs::read_to_string(&log).expect("a log");
    let ours = |line: &&str| {
        line.starts_with("127.0.0.1 - - [")
            && line.contains("] \"GET /big?bytes=17 HTTP/1.1\" 200 17 \"-\" \"")
    };
    let lines = text.lines().filter(ours).count() as u64;
    assert_eq!(lines, report.total.ok, "{text}");
    assert_eq!(text.lines().count() as u64, lines, "nothing else: {text}");
    for generation in [" g1", " g2"] {
        assert!(text.lines().any(|l| l.ends_with(generation)), "{text}");
    }
    assert!(!service.log_text().contains("/big?bytes=17"));
}

/// Whoever is told is the owner; a generation behind it that still answers somebody hears it too.
#[test]
fn a_rotation_reaches_every_generation_that_still_writes() {
    let service = begin("rotation", PATIENT);
    let log = service.dir().join("access.log");
    let on = format!("{PATIENT}[log]\naccess = \"{}\"\n", log.display());
    service.write_config(&on);
    service.cli(&["reload"]).assert_code(0);
    let committed_away = Download::begin(&service);
    upgrade_and_commit(&service, 2);
    let parked = Download::begin(&service);
    replace(&service, 3 + 1);
    service.cli(&["upgrade"]).assert_code(0);
    let status = service.wait_status("one that drains, one that is parked", |s| {
        s.generation == 3 && s.masters.iter().filter(|m| !m.workers.is_empty()).count() == 3
    });
    let old = service.dir().join("access.log.1");
    fs::rename(&log, &old).expect("a log");
    service.signal(service.master(3).pid, Signal::USR1);
    let workers = status.masters.iter().flat_map(|m| &m.workers);
    for worker in workers {
        let what = format!("worker {} to let go", worker.pid);
        wait_until(&what, || !holds(worker.pid, &old));
    }
    committed_away.finish();
    parked.finish();
    service.wait_status("the end of every drain", |s| {
        s.masters.iter().filter(|m| !m.workers.is_empty()).count() == 1
    });
    service.cli(&["stop"]).assert_code(0);
    assert_eq!(fs::read_to_string(&old).expect("a log"), "");
    let lines = fs::read_to_string(&log).expect("a log");
    for generation in [" g1", " g2"] {
        assert!(lines.lines().any(|l| l.ends_with(generation)), "{lines}");
    }
}

fn holds(pid: u32, file: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{pid}/fd"));
    let mut fds = fds.into_iter().flatten().flatten();
    fds.any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == file))
}

#[test]
fn an_access_log_that_cannot_be_written_and_a_group_that_is_not_there_are_errors_with_their_line() {
    let service = begin("unwritable", PATIENT);
    for (wrong, words) in [
        (
            "[log]\naccess = \"/nowhere/at/all.log\"\n",
            ["access = \"/nowhere/at/all.log\"", "no such directory"],
        ),
        (
            "[log]\naccess = \"/tmp\"\n",
            ["access = \"/tmp\"", "not a file"],
        ),
        (
            "[control]\ngroup = \"nobody-has-this-group\"\n",
            ["group = \"nobody-has-this-group\"", "there is no group"],
        ),
    ] {
        service.write_config(&format!("{PATIENT}{wrong}"));
        let config = service.config.to_str().expect("a path");
        let checked = service
            .client_start(&service.program, &["check", "--config", config])
            .finish(SOON);
        let reloaded = service.cli(&["reload"]);
        for output in [checked, reloaded] {
            output.assert_code(78);
            for word in words {
                assert!(output.stderr.contains(word), "no {word:?} in {output}");
            }
        }
    }
    // The old configuration serves on.
    let load = Load::start(service.load("http"));
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
}
