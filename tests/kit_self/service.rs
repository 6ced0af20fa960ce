//! The service's directory, processes and clients, with programs that stand in for the real one.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::kit::build;
use crate::kit::proc::{self, Process};
use crate::kit::service::{Service, install};

/// A program that is a shell script.
fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let text_file = dir.path().join("text");
    std::fs::write(&text_file, format!("#!/bin/sh\n{text}\n")).expect("a script");
    let path = dir.path().join("script");
    install(&text_file, &path);
    (dir, path)
}

fn wait_sleeper(service: &Service) {
    service.wait_processes("the sleeper", |all| {
        all.iter()
            .any(|p| p.args.first().is_some_and(|a| a == "sleep"))
    });
}

fn played_by(test: &str, text: &str) -> Service {
    let (_dir, path) = script(text);
    Service::setup(test).image(path).start()
}

#[test]
fn every_process_is_found_also_in_another_session_and_dead_and_none_survives_the_test() {
    // A child in a session of its own, one that ignores TERM, and one that is never reaped.
    let service = played_by(
        "sweep",
        "setsid sleep 1000 & (trap '' TERM; exec sleep 1001) & sleep 0 & exec sleep 1002",
    );
    service.wait_processes("a zombie and three sleepers", |all| {
        all.len() == 4 && all.iter().filter(|p| p.is_zombie()).count() == 1
    });
    assert!(service.exited().is_none());
    let all = service.processes();
    assert!(service.fd_count(service.keeper()) >= 3);
    drop(service);
    for process in all {
        let same = Process::look(process.pid).is_some_and(|p| p.started == process.started);
        assert!(!same, "{process} survived");
    }
}

#[test]
fn the_exit_of_what_was_started_and_its_log_are_seen() {
    let service = played_by("exit", "echo I cannot >&2; exit 5");
    assert_eq!(service.wait_exit().code(), Some(5));
    assert_eq!(service.log_text(), "I cannot\n");
}

#[test]
fn signals_reach_only_the_service_s_own_processes() {
    let service = played_by("signals", "exec sleep 1000");
    let keeper = service.keeper();
    wait_sleeper(&service);
    service.signal(keeper, Signal::TERM);
    assert!(!service.wait_exit().success());
    let own = std::process::id();
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        service.signal(own, Signal::CONT);
    }));
    assert!(refused.is_err());
}

#[test]
fn masters_and_workers_are_known_by_their_names() {
    let text = "sh -c 'bash -c \"exec -a \\\"handover: worker process g12\\\" sleep 1000\"' &
        exec bash -c 'exec -a \"handover: master process g12\" sleep 1000'";
    let service = played_by("roles", text);
    service.wait_processes("both", |_| {
        service.workers(12).len() == 1 && service.masters().len() == 1
    });
    assert_eq!(service.master(12).pid, service.keeper());
    assert_eq!(service.workers(11), []);
}

#[test]
fn clients_get_the_service_s_directories_and_their_codes_and_words_come_back() {
    let service = Service::setup("client").prepare();
    let (_dir, path) = script("echo \"$@\"; echo oh >&2; exit 75");
    let output = service
        .client_start(&path, &["status", "--json"])
        .finish(Duration::from_secs(10));
    output.assert_code(75);
    assert_eq!(output.stderr, "oh\n");
    let expected = format!(
        "--name handover --runtime-dir {} --state-dir {} status --json\n",
        service.runtime.display(),
        service.state.display()
    );
    assert_eq!(output.stdout, expected);
    let (_dir, path) = script("kill -KILL $$");
    let killed = service
        .client_start(&path, &[])
        .finish(Duration::from_secs(10));
    assert_eq!(killed.code, 137);
}

#[test]
fn a_client_that_hangs_fails_the_test_in_time() {
    let service = Service::setup("hang").prepare();
    let (_dir, path) = script("exec sleep 1000");
    let began = Instant::now();
    let pending = service.client_start(&path, &[]);
    let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        pending.finish(Duration::from_millis(100))
    }));
    assert!(finished.is_err());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_configuration_names_the_listeners() {
    let service = Service::setup("config")
        .config("workers = 3\n[upgrade]\nprobation = \"1s\"")
        .tcp("http")
        .passed("passed")
        .unix("local")
        .prepare();
    let text = std::fs::read_to_string(&service.config).expect("a file");
    let config: handover::config::Config = toml::from_str(&text).expect("a configuration");
    let names: Vec<_> = config.listeners.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["http", "passed", "local"]);
    let http = Some(service.target("http").to_string());
    assert_eq!(config.listeners[0].address, http);
    assert_eq!(config.listeners[1].address, None);
    assert_eq!(config.upgrade.probation, Duration::from_secs(1));
    drop(service.socket("passed"));
}

#[test]
fn the_status_is_asked_over_the_control_socket() {
    let service = Service::setup("status").prepare();
    assert_eq!(service.status(), None);
    let listener = UnixListener::bind(service.runtime.join("control.sock")).expect("a socket");
    let status = include_str!("status.json");
    let answers = [
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{status}",
            status.len()
        ),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{status}\r\n0\r\n\r\n",
            status.len()
        ),
    ];
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let n = stream.read(&mut request).expect("a request");
            assert!(request[..n].starts_with(b"GET /v1/status HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).expect("a client");
        }
    });
    for _ in 0..2 {
        assert_eq!(service.wait_owner(6, "serving").owner_pid, 4711);
    }
    server.join().expect("no panic");
}

#[test]
fn the_program_on_disk_can_be_replaced_while_it_runs() {
    let service = played_by("replace", "exec sleep 1000");
    // A shell opens its script by name, a moment after it was started.
    wait_sleeper(&service);
    service.replace(&build::own());
    assert_eq!(service.bin_files(), ["handover"]);
    service.shell("cp handover handover.old; cp -f handover.old handover");
    assert_eq!(service.bin_files(), ["handover", "handover.old"]);
    service.replace_with_text("", 0o644);
    assert!(service.exited().is_none());
}

#[test]
fn another_version_is_another_build_and_the_second_time_costs_nothing() {
    let two = build::other_version("2.0.0-kit");
    let three = build::other_version("3.0.0-kit");
    assert!(two.exists() && three.exists() && two != three);
    assert!(build::own().exists());
    let built = || {
        two.metadata()
            .and_then(|two| two.modified())
            .expect("a time")
    };
    let before = built();
    assert_eq!(build::other_version("2.0.0-kit"), two);
    assert_eq!(built(), before);
}

#[test]
fn a_service_under_the_manager_is_one_unit() {
    let (_dir, path) = script(
        "echo args $@; echo $RUNTIME_DIRECTORY $STATE_DIRECTORY $LISTEN_FDNAMES; exec sleep 1000",
    );
    let service = Service::setup("unit")
        .image(path)
        .passed("http")
        .start_under_manager(|unit| unit);
    wait_sleeper(&service);
    let expected = format!(
        "args run --config {}\n{} {} http\n",
        service.config.display(),
        service.runtime.display(),
        service.state.display()
    );
    assert_eq!(service.log_text(), expected);
    assert_eq!(service.processes().len(), 1);
    assert_eq!(service.manager().main(), Some(service.processes()[0].pid));
    assert!(service.manager().stop());
    assert_eq!(service.processes(), []);
    let pids = proc::pids();
    assert!(!pids.is_empty());
}
