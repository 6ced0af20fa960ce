//! Supervisors that are killed, applications that keep ending, variables that change: who starts an
//! application again, and as what.

use std::fs;
use std::time::Instant;

use handover::api::Phase;
use rustix::process::Signal;

use crate::kit::build;
use crate::kit::service::SOON;
use crate::kit::wait::wait_until;
use crate::scene::{Scene, gone, pid, wait_gone};

const SOCKET: &str = "{socket}";
const ASK: &str = "GET /pid HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// The supervisors that there are.
fn supervisors(scene: &Scene) -> Vec<u32> {
    let all = scene.service.processes();
    let ours = |args: &[String]| args.concat().contains(": application g");
    let found = all.iter().filter(|p| !p.is_zombie() && ours(&p.args));
    found.map(|p| p.pid).collect()
}

fn the_supervisor(scene: &Scene) -> u32 {
    let found = supervisors(scene);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

/// Until somebody else than `before` answers; whoever that is.
fn wait_another(scene: &Scene, before: u32) -> u32 {
    let end = Instant::now() + SOON;
    loop {
        let (status, body) = scene.ask(ASK);
        if status == 200 && body != before.to_string() {
            return body.parse().unwrap();
        }
        assert!(Instant::now() < end, "{status} {body}: nobody but {before}");
    }
}

/// Both masters hear of its end, and one of them starts it again.
#[test]
fn a_supervisor_that_two_masters_held_is_started_again_once() {
    let scene = Scene::begin("held-by-two", SOCKET, "");
    scene.service.replace(&build::twin(&build::own()));
    scene.service.cli(&["upgrade"]).assert_code(0);
    let before = pid(&scene);
    scene.service.kill(the_supervisor(&scene));
    let now = wait_another(&scene, before);
    wait_gone(before);
    the_supervisor(&scene);
    scene.service.cli(&["commit"]).assert_code(0);
    scene.service.wait_owner(2, "serving");
    scene
        .service
        .wait_processes("one master", |_| scene.service.masters().len() == 1);
    // Whoever left has not taken the socket with it.
    assert_eq!(pid(&scene), now);
    the_supervisor(&scene);
}

#[test]
fn the_workers_find_an_application_whose_first_new_start_failed() {
    for listens in [SOCKET, "{port}"] {
        let scene = Scene::begin("second-start", listens, "");
        let before = pid(&scene);
        let fault = scene.releases().join("1/fault");
        fs::write(&fault, "exit").unwrap();
        scene.service.kill(the_supervisor(&scene));
        scene.wait_log("the application exited with code 3");
        fs::remove_file(&fault).unwrap();
        wait_another(&scene, before);
        assert_eq!(scene.get("/"), "1");
    }
}

/// It would never leave then.
#[test]
fn a_parked_master_starts_no_workers_when_its_application_comes_back() {
    let scene = Scene::begin("parked", SOCKET, "");
    scene.release("2", "");
    let parked = scene.service.master(1).pid;
    let first = the_supervisor(&scene);
    scene.deploy("2").assert_code(0);
    scene
        .service
        .wait_processes("no worker of g1", |_| scene.service.workers(1).is_empty());
    scene.service.kill(first);
    scene.wait_log(&format!("application (process {first}) is gone"));
    // Time enough for what must not happen.
    for _ in 0..500 {
        assert_eq!(scene.get("/"), "2");
        assert!(scene.service.workers(1).is_empty());
    }
    scene.service.cli(&["commit"]).assert_code(0);
    wait_gone(parked);
    assert!(scene.service.workers(1).is_empty());
    assert_eq!(scene.get("/"), "2");
}

/// systemd tells every process of a unit: who is still there after that was told alone.
#[test]
fn a_supervisor_that_was_told_to_leave_alone_starts_its_application_again() {
    let scene = Scene::begin("told-alone", SOCKET, "");
    let before = pid(&scene);
    let tell = |pid: u32| {
        let told = std::process::Command::new("kill")
            .arg(pid.to_string())
            .status();
        assert!(told.unwrap().success());
    };
    tell(the_supervisor(&scene));
    scene.wait_log("SIGTERM: every process");
    tell(before);
    wait_another(&scene, before);
    scene.wait_log("the service is still there");
}

#[test]
fn a_stop_ends_though_the_supervisor_dies_in_it() {
    let scene = Scene::begin("dies-in-stop", SOCKET, "");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| scene.ask("GET /held HTTP/1.1\r\nhost: x\r\n\r\n"));
        scene.wait_log("it is held");
        let supervisor = the_supervisor(&scene);
        let stop = scope.spawn(|| scene.service.cli(&["stop"]));
        scene.wait_log("stops: it finishes what it has");
        scene.service.kill(supervisor);
        fs::write(scene.releases().join("1/let-go"), "").unwrap();
        stop.join().unwrap().assert_code(0);
        let _ = slow.join();
    });
    scene.service.wait_exit();
    scene.service.wait_processes("nobody", |all| all.is_empty());
}

#[test]
fn a_file_of_variables_that_is_edited_changes_nothing_for_the_generation_that_runs() {
    let scene = Scene::prepare("edited", SOCKET, "env_files = [\"env\"]\n");
    let env = scene.service.dir().join("env");
    fs::write(&env, "SECRET=first\n").unwrap();
    scene.service.start();
    scene.service.wait_owner(1, "serving");
    for text in ["SECRET=second\n", "no assignment\n"] {
        fs::write(&env, text).unwrap();
        let before = pid(&scene);
        let _ = scene.ask("GET /crash HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        wait_another(&scene, before);
        let all = scene.get("/env");
        assert!(all.lines().any(|line| line == "SECRET=first"), "{all}");
    }
}

/// Going back would help nothing: it is the same application.
#[test]
fn an_application_that_was_taken_over_is_no_verdict_on_the_new_program() {
    let scene = Scene::begin("no-verdict", SOCKET, "");
    scene.service.replace(&build::twin(&build::own()));
    scene.service.cli(&["upgrade"]).assert_code(0);
    let end = Instant::now() + SOON;
    while !scene
        .service
        .log_text()
        .contains("the application keeps ending")
    {
        assert!(Instant::now() < end, "it was never said");
        let _ = scene.ask("GET /crash HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    }
    wait_another(&scene, 0);
    let status = scene.service.wait_status("an owner", |_| true);
    assert_eq!(status.generation, 2);
    assert_eq!(status.phase, Phase::Probation);
    scene.service.cli(&["commit"]).assert_code(0);
    scene.service.wait_owner(2, "serving");
}

#[test]
fn what_an_instance_left_in_another_session_ends_with_it() {
    for app in ["", "instances = 2\n"] {
        let scene = Scene::begin("left", SOCKET, app);
        let before = pid(&scene);
        let left: u32 = scene.get("/leave").parse().unwrap();
        assert!(!gone(left));
        for _ in 0..2 {
            let _ = scene.ask("GET /crash HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        }
        wait_gone(left);
        wait_another(&scene, before);
    }
}

#[test]
fn an_instance_that_holds_too_much_memory_is_started_again() {
    let scene = Scene::begin("memory", SOCKET, "memory = \"64M\"\n");
    let before = pid(&scene);
    let load = scene.load();
    load.wait_server("app/1", 50, SOON);
    assert_eq!(scene.get("/eat"), "eaten");
    wait_another(&scene, before);
    wait_gone(before);
    load.wait_server("app/1", 50, SOON);
    load.stop();
    let log = scene.service.log_text();
    let words = log
        .split("the application held ")
        .nth(1)
        .expect("the reason");
    let mib: u64 = words.split(' ').next().unwrap().parse().unwrap();
    assert!((96..200).contains(&mib), "{words}");
    assert!(words.contains("MiB, [app] memory is 64M"), "{words}");
    wait_counted(&scene, "app_restarts_total{reason=\"memory\"} 1");
}

#[test]
fn what_made_an_instance_start_again_is_counted() {
    let scene = Scene::begin("restarts", SOCKET, "");
    let crash = || {
        let before = pid(&scene);
        let _ = scene.ask("GET /crash HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        wait_another(&scene, before);
    };
    crash();
    wait_counted(&scene, "app_restarts_total{reason=\"crash\"} 1");
    // Nor is what ended it last the reason of the time before.
    let fault = scene.releases().join("1/fault");
    fs::write(&fault, "sick").unwrap();
    let _ = scene.ask("GET /crash HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    scene.wait_log("GET /healthz is answered 500");
    fs::remove_file(fault).unwrap();
    wait_another(&scene, 0);
    wait_counted(&scene, "app_restarts_total{reason=\"crash\"} 2");
    wait_counted(&scene, "app_restarts_total{reason=\"memory\"} 0");
    let metrics = metrics(&scene);
    let none = "handover_app_restarts_total{reason=\"not_ready\"} 0\n";
    assert!(!metrics.contains(none), "{metrics}");
}

#[test]
fn what_an_instance_left_in_another_session_counts_for_its_memory() {
    for app in ["memory = \"64M\"\n", "instances = 2\nmemory = \"64M\"\n"] {
        let scene = Scene::begin("left-memory", SOCKET, app);
        let left: u32 = scene.get("/leave-and-eat").parse().unwrap();
        wait_gone(left);
        scene.wait_log("MiB, [app] memory is 64M");
    }
}

/// Its name never comes again, so nobody would remove it.
#[test]
fn a_start_that_failed_leaves_no_socket_behind() {
    for listens in [SOCKET, "fd:{fd}"] {
        let scene = Scene::begin("no-socket-left", listens, "");
        let phase = scene.get("/phase");
        let dir = std::path::Path::new(&phase).parent().unwrap();
        let files = || {
            let all = fs::read_dir(dir).unwrap();
            let mut names: Vec<_> = all.map(|one| one.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = files();
        assert!(!before.is_empty());
        // It listens, and answers that it is not well.
        scene.release("2", "sick");
        scene.deploy("2").assert_code(1);
        wait_until(&format!("{before:?} alone"), || files() == before);
    }
}

/// Each loses memory with each answer, and so all reach the limit together.
#[test]
fn instances_over_their_limit_are_started_again_one_after_the_other() {
    // A start takes three seconds: without the other instance requests would fail.
    let app = "instances = 2\nmemory = \"64M\"\nconnect_timeout = \"300ms\"\n";
    let scene = Scene::prepare("one-by-one", SOCKET, app);
    scene.release("1", "leaks");
    scene.service.start();
    scene.service.wait_owner(1, "serving");
    let load = scene.load();
    let held = |log: &str, number: u8| {
        let words = format!("instance {number} of the application held ");
        log.matches(&words).count()
    };
    let end = Instant::now() + 2 * SOON;
    let log = loop {
        let log = scene.service.log_text();
        if held(&log, 0) >= 2 && held(&log, 1) >= 2 {
            break log;
        }
        assert!(Instant::now() < end, "{log}");
        load.wait_answers(100, SOON);
    };
    let totals = load.stop();
    totals.assert_clean().assert_kept();
    let waits = "it is started again when instance ";
    assert!(log.contains(waits), "nobody waited for the other: {log}");
}

/// Neither for the workers that are there nor for one that is started meanwhile.
#[test]
fn an_instance_that_hangs_is_asked_for_nothing_while_another_one_answers() {
    let app = "instances = 2\nanswer_timeout = \"30s\"\n";
    let scene = Scene::begin("one-hangs", SOCKET, app);
    let hangs = pid(&scene);
    let other = wait_another(&scene, hangs);
    let wait_answering = |count: u16| {
        scene.service.wait_status("instances that answer", |s| {
            let owner = s.masters.iter().find(|one| one.pid == s.owner_pid);
            let app = owner.and_then(|owner| owner.app.as_ref());
            app.is_some_and(|app| app.answering == Some(count))
        });
    };
    let all_by = |pid: u32| {
        for _ in 0..20 {
            assert_eq!(scene.ask(ASK), (200, pid.to_string()));
        }
    };
    scene.service.signal(hangs, Signal::STOP);
    wait_answering(1);
    all_by(other);
    let workers = scene.service.workers(1);
    for worker in &workers {
        scene.service.kill(worker.pid);
    }
    scene.service.wait_status("other workers", |s| {
        let all = s.masters.iter().flat_map(|one| &one.workers);
        let accept = all.filter(|one| one.state == "accepting");
        let others = accept.filter(|one| workers.iter().all(|killed| killed.pid != one.pid));
        others.count() == workers.len()
    });
    all_by(other);
    scene.service.signal(hangs, Signal::CONT);
    wait_answering(2);
    wait_another(&scene, other);
}

#[test]
fn what_it_does_not_answer_is_counted_by_what_the_client_got() {
    let scene = Scene::begin("counted", SOCKET, "answer_timeout = \"3s\"\n");
    let ask = |path: &str| {
        scene
            .ask(&format!(
                "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            ))
            .0
    };
    for (path, status, reason) in [
        ("/bad/nothing", 502, "no_answer"),
        ("/bad/late", 504, "timed_out"),
        ("/bad/too-short", 200, "broken_off"),
    ] {
        assert_eq!(ask(path), status, "{path}");
        let counted = format!("app_unanswered_total{{reason=\"{reason}\"}} 1");
        wait_counted(&scene, &counted);
    }
}

#[test]
fn a_request_that_nobody_could_read_is_counted() {
    let scene = Scene::begin("unparsed", SOCKET, "");
    for target in ["/<", "/a`b"] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(scene.ask(&request).0, 400, "{target}");
    }
    wait_counted(&scene, "unparsed_total 2");
}

fn metrics(scene: &Scene) -> String {
    let metrics = scene.service.control("/metrics").expect("metrics");
    String::from_utf8_lossy(&metrics).into_owned()
}

#[track_caller]
fn wait_counted(scene: &Scene, counted: &str) {
    let end = Instant::now() + SOON;
    loop {
        let metrics = metrics(scene);
        if metrics.contains(&format!("handover_{counted}\n")) {
            return;
        }
        assert!(Instant::now() < end, "{counted} is not in {metrics}");
    }
}

/// As systemd does when the main process has died, and `systemctl kill`.
#[test]
fn an_application_that_was_told_to_leave_with_everybody_is_not_started_again() {
    let scene = Scene::begin("everybody", SOCKET, "");
    let app = pid(&scene);
    let supervisor = the_supervisor(&scene);
    scene.service.signal(app, Signal::TERM);
    scene.service.signal(supervisor, Signal::TERM);
    scene.wait_log("every process of the service was told to leave");
    assert!(gone(app));
    let starts = scene
        .service
        .log_text()
        .matches("app: release 1 starts")
        .count();
    assert_eq!(starts, 1);
    scene.service.cli(&["stop"]).assert_code(0);
    scene.service.wait_exit();
    scene.service.wait_processes("nobody", |all| all.is_empty());
}
