//! From one release to the next, and back.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::kit::build;
use crate::kit::client::Target;
use crate::kit::service::SOON;
use crate::kit::wait::wait_until;
use crate::scene::{Scene, gone, pid, wait_gone};
use handover::api::Phase;
use rustix::process::Signal;

const SOCKET: &str = "{socket}";

/// Release 1 serves, release 2 lies beside it.
fn two(test: &str, app: &str) -> Scene {
    let scene = Scene::begin(test, SOCKET, app);
    scene.release("2", "");
    scene
}

#[test]
fn a_deploy_loses_no_request_and_the_link_follows() {
    let scene = two("deploy", "");
    let before = pid(&scene);
    let load = scene.load();
    load.wait_server("app/1", 50, SOON);
    scene.deploy("2").assert_code(0);
    assert_eq!(scene.pointed(), "2");
    load.wait_server("app/2", 100, SOON);
    assert_eq!(scene.get("/"), "2");
    // What ran before is ready for the way back.
    assert!(!gone(before));
    let status = scene.service.cli(&["status"]).stdout;
    for (who, release) in [("app", "2"), ("parked", "1")] {
        let line = status.lines().find(|line| line.starts_with(who));
        let line = line.unwrap_or_else(|| panic!("{who}: {status}"));
        let is_told = format!("releases/{release}, 1 instance, ");
        assert!(line.contains(&is_told) && line.contains(" MiB"), "{line}");
    }
    scene.service.cli(&["commit"]).assert_code(0);
    wait_gone(before);
    load.wait_server("app/2", 50, SOON);
    load.stop().assert_clean().assert_kept();
    assert_eq!(scene.pointed(), "2");
    let history = scene.service.cli(&["history"]).stdout;
    assert!(history.contains("committed"), "{history}");
    let waited = scene.service.cli(&["wait"]).stdout;
    assert!(waited.contains("from 1 to 2 was committed"), "{waited}");
    scene.wait_log("the upgrade from 1 to 2 is committed");
    let status = scene.service.cli(&["status"]).stdout;
    assert!(status.contains("releases/2"), "{status}");
}

#[test]
fn the_files_beside_it_are_those_of_its_release() {
    let scene = Scene::prepare(
        "static",
        SOCKET,
        "[site]\nroot = \"static\"\nat = \"/static\"\n",
    );
    let files = |release: &str| {
        let files = scene.release(release, "").join("static");
        fs::create_dir_all(files.join("css")).unwrap();
        fs::write(files.join("a.txt"), format!("file {release}")).unwrap();
    };
    files("1");
    scene.service.start();
    scene.service.wait_owner(1, "serving");
    let ask = |path: &str| {
        scene.ask(&format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
    };
    let is = |release: &str| {
        assert_eq!(ask("/static/a.txt"), (200, format!("file {release}")));
        for others in ["/", "/statically", "/a.txt"] {
            assert_eq!(ask(others), (200, release.into()), "{others}");
        }
        for nothing in [
            "/static/b.txt",
            "/static/../app.py",
            "/static/%2e%2e/app.py",
        ] {
            let (status, body) = ask(nothing);
            assert!(
                status >= 400 || body == release,
                "{nothing}: {status} {body}"
            );
        }
    };
    is("1");
    let raw = scene.raw("GET /static/css HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(raw.contains("\r\nlocation: /static/css/\r\n"), "{raw}");
    // A release without them is refused.
    scene.release("bare", "");
    let refused = scene.deploy("bare").stderr;
    assert!(refused.contains("site.root"), "{refused}");
    // Not by the link, which leads elsewhere again.
    assert!(refused.contains("releases/bare/static"), "{refused}");
    is("1");
    files("2");
    scene.deploy("2").assert_code(0);
    // What was in their sockets is answered by those who leave.
    let service = &scene.service;
    service.wait_processes("no worker of g1", |_| service.workers(1).is_empty());
    is("2");
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(1, "serving");
    service.wait_processes("no worker of g2", |_| service.workers(2).is_empty());
    is("1");
}

#[test]
fn a_rollback_goes_to_the_application_that_still_runs() {
    let scene = two("rollback", "");
    let before = pid(&scene);
    let load = scene.load();
    load.wait_server("app/1", 50, SOON);
    for _ in 0..2 {
        scene.deploy("2").assert_code(0);
        load.wait_server("app/2", 50, SOON);
        let second = pid(&scene);
        scene.service.cli(&["rollback"]).assert_code(0);
        assert_eq!(scene.pointed(), "1");
        load.wait_server("app/1", 50, SOON);
        assert_eq!(pid(&scene), before);
        wait_gone(second);
    }
    load.stop().assert_clean().assert_kept();
    // A program that is as it was is not thought ill of: it is what runs.
    let files = scene.service.bin_files();
    assert!(!files.iter().any(|f| f.ends_with(".rejected")), "{files:?}");
}

#[test]
fn a_parked_application_may_be_stopped_and_a_rollback_starts_it_again() {
    let scene = two("stopped", "parked = \"stopped\"\n");
    let before = pid(&scene);
    let load = scene.load();
    load.wait_server("app/1", 50, SOON);
    scene.deploy("2").assert_code(0);
    load.wait_server("app/2", 50, SOON);
    wait_gone(before);
    scene.service.cli(&["rollback"]).assert_code(0);
    load.wait_server("app/1", 50, SOON);
    assert_ne!(pid(&scene), before);
    load.stop().assert_clean().assert_kept();
}

#[test]
fn a_release_that_listens_elsewhere_is_told_where_it_should() {
    let scene = Scene::begin("elsewhere", "{port}", "");
    scene.configure_with("5s", "{port}", "");
    scene.service.cli(&["reload"]).assert_code(0);
    scene.release("2", "elsewhere");
    let refused = scene.deploy("2");
    assert_eq!(refused.code, 1, "{refused}");
    let words = "it must listen on the port that it is told, at 127.0.0.1";
    assert!(refused.stderr.contains(words), "{refused}");
}

/// Four ends in a minute are more than there are in a short probation, and at its end it answers.
#[test]
fn a_release_that_ended_twice_in_a_short_probation_is_taken_back() {
    let scene = two("keeps-ending", "");
    fs::write(scene.releases().join("2/fault"), "dies").unwrap();
    scene.probation("4s");
    scene.service.cli(&["reload"]).assert_code(0);
    let load = scene.load();
    load.wait_server("app/1", 50, SOON);
    scene.deploy("2").assert_code(0);
    let end = scene.service.cli(&["wait"]);
    assert_eq!(end.code, 1, "{end}");
    assert!(end.to_string().contains("exited with code 7"), "{end}");
    load.wait_server("app/1", 50, SOON);
    load.stop();
    assert_eq!(scene.pointed(), "1");
}

/// Deployed; it ends with 0 in its probation, as `uvicorn --limit-max-requests` does, and has closed its socket a
/// while before.
fn deployed_to_renew(test: &str, fault: &str) -> Scene {
    let scene = two(test, "");
    fs::write(scene.releases().join("2/fault"), fault).unwrap();
    scene.probation("18s");
    scene.service.cli(&["reload"]).assert_code(0);
    scene.deploy("2").assert_code(0);
    scene
}

#[test]
fn a_release_that_renews_its_process_proves_itself() {
    let scene = deployed_to_renew("renews", "renews");
    let before = pid(&scene);
    scene.service.cli(&["wait"]).assert_code(0);
    wait_gone(before);
    assert_eq!(scene.get("/"), "2");
    scene.wait_log("ended by itself, with exit code 0, after 1");
    let log = scene.service.log_text();
    assert!(!log.contains("is not ready any more"), "{log}");
    let status = scene.service.cli(&["status"]).stdout;
    assert!(!status.contains("the last fault"), "{status}");
}

/// Nobody answers since.
#[test]
fn a_release_that_renews_its_process_in_vain_is_taken_back() {
    let scene = deployed_to_renew("renews-in-vain", "renews-once");
    let end = scene.service.cli(&["wait"]);
    assert_eq!(end.code, 1, "{end}");
    assert!(end.to_string().contains("answers at this moment"), "{end}");
    assert_eq!(scene.get("/"), "1");
    assert_eq!(scene.pointed(), "1");
}

#[test]
fn nothing_is_given_back_to_a_release_that_cannot_start_again() {
    let scene = two("cannot-go-back", "parked = \"stopped\"\n");
    scene.release("3", "");
    let before = pid(&scene);
    let load = scene.load();
    load.wait_server("app/1", 50, SOON);
    scene.deploy("2").assert_code(0);
    load.wait_server("app/2", 50, SOON);
    wait_gone(before);
    let second = pid(&scene);
    let fault = scene.releases().join("1/fault");
    fs::write(&fault, "import").unwrap();
    let third = scene.releases().join("3");
    let orders = [
        vec!["rollback"],
        vec!["deploy", "--supersede", third.to_str().unwrap()],
    ];
    for mut order in orders {
        let config = scene.service.config().to_str().unwrap();
        order.splice(0..0, ["--config", config]);
        let refused = scene.service.cli(&order);
        assert_eq!(refused.code, 1, "{refused}");
        for words in [
            "No module named 'no_such_module'",
            "cannot take the service back",
        ] {
            assert!(refused.stderr.contains(words), "{words}: {refused}");
        }
        scene.service.wait_owner(2, "probation");
        assert_eq!((pid(&scene), &*scene.pointed()), (second, "2"));
    }
    let history = scene.service.cli(&["history"]).stdout;
    assert!(!history.contains("committed"), "{history}");
    // When the cause is gone the way back is there.
    fs::remove_file(fault).unwrap();
    scene.service.cli(&["rollback"]).assert_code(0);
    load.wait_server("app/1", 50, SOON);
    load.stop().assert_clean().assert_kept();
    assert_eq!(scene.pointed(), "1");
}

/// The program on disk is what serves, then.
#[test]
fn a_program_that_cannot_supersede_is_not_left_on_disk() {
    let scene = two("cannot-supersede", "parked = \"stopped\"\n");
    let before = pid(&scene);
    scene.deploy("2").assert_code(0);
    wait_gone(before);
    fs::write(scene.releases().join("1/fault"), "import").unwrap();
    let service = &scene.service;
    service.replace(&build::twin(&build::own()));
    let refused = service.cli(&["upgrade", "--supersede"]);
    assert_eq!(refused.code, 1, "{refused}");
    let words = "release 1 (g1) cannot take the service back";
    assert!(refused.stderr.contains(words), "{refused}");
    service.wait_status("what runs on disk", |s| s.disk.matches_running);
    let files = service.bin_files();
    assert!(files.iter().any(|f| f.ends_with(".rejected")), "{files:?}");
    service.wait_owner(2, "probation");
}

/// Nor by a generation that hosts nothing itself.
#[test]
fn nothing_is_given_back_to_an_application_that_only_the_generation_before_has() {
    let scene = Scene::begin("only-before", SOCKET, "parked = \"stopped\"\n");
    let before = pid(&scene);
    let service = &scene.service;
    service.replace(&build::twin(&build::own()));
    service.write_config("workers = 2\n[upgrade]\nprobation = \"10m\"\n");
    service.cli(&["upgrade"]).assert_code(0);
    wait_gone(before);
    fs::write(scene.releases().join("1/fault"), "import").unwrap();
    let refused = service.cli(&["rollback"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(refused.stderr.contains("no_such_module"), "{refused}");
    service.wait_owner(2, "probation");
}

/// The release that is to go is not committed in between, neither by time nor by somebody.
#[test]
fn a_probation_lasts_while_the_release_before_gets_ready() {
    let stopped = "parked = \"stopped\"\n";
    let scene = two("slow-way-back", stopped);
    scene.configure_with("1m", SOCKET, stopped);
    scene.service.cli(&["reload"]).assert_code(0);
    let before = pid(&scene);
    let release = scene.releases().join("2");
    let service = &scene.service;
    let order = |words: &[&str]| {
        let config = ["--config", service.config().to_str().unwrap()];
        service.cli(&[&config[..], words].concat())
    };
    let release = release.to_str().unwrap();
    order(&["deploy", "--probation", "8s", release]).assert_code(0);
    wait_gone(before);
    fs::write(scene.releases().join("1/fault"), "late").unwrap();
    std::thread::scope(|scope| {
        let back = scope.spawn(|| order(&["rollback"]));
        scene.wait_log("rollback: ordered");
        let refused = order(&["commit"]);
        assert_eq!(refused.code, 75, "{refused}");
        assert!(
            refused.stderr.contains("a rollback is under way"),
            "{refused}"
        );
        back.join().unwrap().assert_code(0);
    });
    assert_eq!((scene.get("/"), scene.pointed()), ("1".into(), "1".into()));
    let history = order(&["history"]).stdout;
    assert!(
        history.contains("rolled back") && !history.contains("committed"),
        "{history}"
    );
}

#[test]
fn nothing_is_given_back_to_an_application_that_is_gone() {
    let scene = two("gone-while-parked", "");
    let before = pid(&scene);
    scene.deploy("2").assert_code(0);
    let service = &scene.service;
    service.wait_processes("no worker of g1", |_| service.workers(1).is_empty());
    fs::write(scene.releases().join("1/fault"), "exit").unwrap();
    service.kill(before);
    scene.wait_log("the application exited with code 3");
    let refused = service.cli(&["rollback"]);
    assert_eq!(refused.code, 1, "{refused}");
    let words = "cannot take the service back: no instance of the application answers";
    assert!(refused.stderr.contains(words), "{refused}");
    service.wait_owner(2, "probation");
    assert_eq!(scene.get("/"), "2");
}

/// Nothing of them was begun, and they wait in workers that leave.
#[test]
fn requests_that_wait_for_an_application_that_died_are_answered_by_the_one_that_serves() {
    for (test, app) in [
        ("waiters", ""),
        ("waiters-stopped", "parked = \"stopped\"\n"),
        ("waiters-kept", "[drain]\npass_connections = false\n"),
    ] {
        // Nobody sits that out.
        let scene = two(test, &format!("connect_timeout = \"10m\"\n{app}"));
        scene.deploy("2").assert_code(0);
        let service = &scene.service;
        service.wait_processes("no worker of g1", |_| service.workers(1).is_empty());
        let second = pid(&scene);
        fs::remove_file(scene.releases().join("2/app.py")).unwrap();
        service.kill(second);
        std::thread::scope(|scope| {
            let ask = || scene.ask("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let all: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            for one in all {
                assert_eq!(one.join().unwrap(), (200, "1".into()), "{test}");
            }
        });
        service.wait_owner(1, "serving");
    }
}

/// The workers of a master that was killed have asked for it all along.
#[test]
fn requests_that_wait_are_answered_by_an_owner_that_takes_long() {
    let app = "connect_timeout = \"10m\"\nparked = \"stopped\"\n";
    let scene = two("waiters-long", app);
    scene.configure_with("1m", SOCKET, app);
    scene.service.cli(&["reload"]).assert_code(0);
    let before = pid(&scene);
    scene.deploy("2").assert_code(0);
    wait_gone(before);
    let (service, second) = (&scene.service, pid(&scene));
    fs::write(scene.releases().join("1/fault"), "very-late").unwrap();
    fs::remove_file(scene.releases().join("2/app.py")).unwrap();
    service.kill(second);
    std::thread::scope(|scope| {
        let ask = || {
            let Target::Tcp(address) = service.target("http") else {
                panic!("not a TCP listener");
            };
            let mut client = TcpStream::connect(address).unwrap();
            client.set_read_timeout(Some(3 * SOON)).unwrap();
            write!(
                client,
                "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            )
            .unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        };
        let all: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let owner = service.wait_status("the way back", |s| s.phase == Phase::Yielded);
        service.kill(owner.owner_pid);
        for one in all {
            let answer = one.join().unwrap();
            assert!(answer.ends_with("\r\n\r\n1"), "{answer}");
        }
    });
    service.wait_owner(1, "serving");
}

#[test]
fn a_bad_release_is_refused_with_its_last_lines() {
    let scene = Scene::begin("refused", SOCKET, "");
    let before = pid(&scene);
    let load = scene.load();
    load.wait_server("app/1", 50, SOON);
    for (fault, words) in [
        ("import", "No module named 'no_such_module'"),
        ("exit", "the application exited with code 3"),
        ("sick", "is not ready: GET /healthz is answered 500"),
        ("away", "an application stays in the foreground"),
        ("hang", "was not ready within"),
    ] {
        scene.configure_with(if fault == "hang" { "4s" } else { "10s" }, SOCKET, "");
        scene.service.cli(&["reload"]).assert_code(0);
        scene.release(fault, fault);
        let refused = scene.deploy(fault);
        assert_eq!(refused.code, 1, "{fault}: {refused}");
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains(words), "{fault}: {said}");
        assert_eq!(scene.pointed(), "1", "{fault}");
        assert_eq!(pid(&scene), before, "{fault}");
    }
    load.wait_server("app/1", 50, SOON);
    load.stop().assert_clean().assert_kept();
    let history = scene.service.cli(&["history"]).stdout;
    assert!(history.contains("import"), "{history}");
}

#[test]
fn a_cold_start_runs_what_served_though_the_link_leads_to_what_was_refused() {
    let scene = Scene::begin("refused-cold", SOCKET, "");
    scene.release("sick", "sick");
    assert_eq!(scene.deploy("sick").code, 1);
    // Where neither the service nor who deployed could point it back.
    scene.point("sick");
    scene.service.cli(&["stop"]).assert_code(0);
    scene.service.wait_exit();
    scene.service.start();
    scene.service.wait_owner(1, "serving");
    assert_eq!(scene.get("/"), "1");
    scene.wait_log("sick, which was refused");
    let status = scene.service.cli(&["status"]).stdout;
    assert!(status.contains("which was refused; "), "{status}");
}

#[test]
fn a_release_that_was_superseded_in_its_probation_is_nothing_to_go_back_to() {
    let scene = two("superseded", "");
    scene.release("sick", "sick");
    scene.deploy("2").assert_code(0);
    let sick = scene.releases().join("sick");
    let config = scene.service.config().to_str().unwrap();
    let order = [
        "--config",
        config,
        "deploy",
        "--supersede",
        sick.to_str().unwrap(),
    ];
    assert_eq!(scene.service.cli(&order).code, 1);
    assert_eq!(scene.get("/"), "1");
    assert_eq!(scene.pointed(), "1");
    let kept = std::fs::read_link(scene.current().with_file_name("current.old")).unwrap();
    assert_eq!(kept, scene.releases().join("1"));
}

/// Whether its new start fails within the probation or the probation ends before that.
#[test]
fn a_release_whose_application_does_not_come_back_has_not_proved_itself() {
    for (start, probation, why) in [
        ("6s", "10m", "does not come back"),
        (
            "20s",
            "8s",
            "1 of 1 instances of the application do not answer",
        ),
    ] {
        let scene = Scene::prepare("comes-back", SOCKET, "");
        scene.timing(start, probation);
        scene.release("once", "once");
        scene.service.start();
        scene.service.wait_owner(1, "serving");
        scene.deploy("once").assert_code(0);
        let _ = scene.ask("GET /crash HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        scene.wait_back();
        assert_eq!(scene.get("/"), "1");
        assert_eq!(scene.pointed(), "1");
        let history = scene.service.cli(&["history"]).stdout;
        assert!(history.contains(why), "{history}");
    }
}

#[test]
fn a_release_that_hangs_at_the_end_of_its_probation_has_not_proved_itself() {
    let scene = Scene::prepare("sticks", SOCKET, "");
    scene.probation("14s");
    scene.release("2", "");
    scene.service.start();
    scene.service.wait_owner(1, "serving");
    scene.deploy("2").assert_code(0);
    assert_eq!(scene.get("/stick"), "done");
    scene.wait_log("is not ready any more: GET /healthz: no answer within 3s");
    let status = scene.service.cli(&["status"]).stdout;
    assert!(status.contains("0 of 1 instance answer"), "{status}");
    scene.wait_back();
    assert_eq!(scene.pointed(), "1");
    let history = scene.service.cli(&["history"]).stdout;
    assert!(history.contains("do not answer: "), "{history}");
    // It is not ended, and may come back.
    assert_eq!(scene.get("/stick"), "done");
    scene.wait_log("g1 the application is not ready any more");
    assert_eq!(scene.get("/unstick"), "done");
    scene.wait_log("g1 the application answers GET /healthz again");
}

#[test]
fn what_a_restart_would_start_is_said_when_the_release_that_runs_is_gone() {
    let scene = two("gone", "");
    let status = || scene.service.cli(&["status"]).stdout;
    let gone = |release: &str| fs::remove_dir_all(scene.releases().join(release)).unwrap();
    scene.deploy("2").assert_code(0);
    scene.service.cli(&["commit"]).assert_code(0);
    scene.service.wait_owner(2, "serving");
    gone("2");
    let said = status();
    assert!(said.contains("after a restart nothing does"), "{said}");
    assert_eq!(scene.get("/"), "2");
    // One that is on trial is not what a restart falls back to.
    scene.release("2", "");
    scene.release("3", "");
    scene.point("3");
    scene.service.cli(&["stop"]).assert_code(0);
    scene.service.wait_exit();
    scene.service.start();
    scene.service.wait_owner(1, "serving");
    assert_eq!(scene.get("/"), "3");
    gone("3");
    let said = status();
    assert!(
        said.contains("after a restart what last proved itself"),
        "{said}"
    );
}

#[test]
fn apply_says_that_a_link_leads_nowhere() {
    let scene = Scene::begin("nowhere", SOCKET, "");
    scene.point("none");
    for order in ["apply", "upgrade"] {
        let ordered = scene.service.cli(&[order]);
        ordered.assert_code(78);
        let said = &ordered.stderr;
        assert!(said.contains("directory"), "{said}");
    }
    assert_eq!(scene.get("/"), "1");
    scene.service.cli(&["reload"]).assert_code(0);
}

/// The service that went back at night could not write the link's directory.
#[test]
fn a_release_that_was_refused_is_nothing_to_go_back_to_though_the_link_leads_to_it() {
    let scene = two("refused-link", "");
    scene.release("3", "");
    scene.deploy("2").assert_code(0);
    scene.service.cli(&["rollback"]).assert_code(0);
    assert_eq!(scene.get("/"), "1");
    scene.point("2");
    scene.deploy("3").assert_code(0);
    let kept = std::fs::read_link(scene.current().with_file_name("current.old")).unwrap();
    assert_eq!(kept, scene.releases().join("1"));
}

#[test]
fn a_link_that_the_service_cannot_point_back_is_told_of_once() {
    let scene = two("left", "");
    let owner = scene.service.status().expect("an owner").owner_pid;
    scene.deploy("2").assert_code(0);
    // In the way of the new link.
    let new = format!("current.new.{owner}");
    std::fs::create_dir(scene.current().with_file_name(new)).unwrap();
    scene.service.cli(&["rollback"]).assert_code(0);
    scene.wait_back();
    let history = scene.service.cli(&["history"]).stdout;
    assert!(history.contains("rolled back"), "{history}");
    let log = scene.service.log_text();
    let told = log.matches("still leads to the release that was refused");
    assert_eq!(told.count(), 1, "{log}");
}

#[test]
fn a_deploy_while_another_release_gets_ready_is_told_how_to_go_on() {
    let scene = two("launching", "");
    scene.release("hang", "hang");
    std::thread::scope(|scope| {
        let hangs = scope.spawn(|| scene.deploy("hang"));
        scene.service.wait_owner(1, "launching");
        let config = scene.service.config().to_str().unwrap();
        let second = scene.releases().join("2");
        let order = ["--config", config, "deploy", "--supersede"];
        let order = [&order[..], &[second.to_str().unwrap()]].concat();
        let refused = scene.service.cli(&order);
        assert_eq!(refused.code, 75, "{refused}");
        assert!(
            refused.stderr.contains("rollback` gives it up"),
            "{refused}"
        );
        scene.service.cli(&["rollback"]).assert_code(0);
        assert_eq!(hangs.join().unwrap().code, 1);
    });
    assert_eq!(scene.pointed(), "1");
    scene.deploy("2").assert_code(0);
}

/// As `systemctl stop` does: every master is told, the one that gets ready, too.
#[test]
fn a_stop_while_a_release_gets_ready_leaves_the_link_where_it_was() {
    let scene = two("stopped-early", "");
    scene.release("hang", "hang");
    std::thread::scope(|scope| {
        let hangs = scope.spawn(|| scene.deploy("hang"));
        wait_until("a second master", || scene.service.masters().len() == 2);
        assert_eq!(scene.pointed(), "hang");
        for master in scene.service.masters() {
            scene.service.signal(master.pid, Signal::TERM);
        }
        scene.service.wait_exit();
        let told = hangs.join().unwrap();
        assert_eq!(told.code, 1, "{told}");
        assert!(!told.stderr.contains("serves on"), "{told}");
    });
    assert_eq!(scene.pointed(), "1");
}

/// Whoever waits for the end of a probation holds nobody up who goes on.
#[test]
fn a_deploy_that_is_followed_to_its_end_can_be_superseded() {
    let scene = two("followed", "");
    scene.release("3", "");
    let config = scene.service.config().to_str().unwrap().to_owned();
    let deploy = |release: &str, how: &[&str]| {
        let release = scene.releases().join(release);
        let mut words = vec!["--config", &config, "deploy", release.to_str().unwrap()];
        words.extend(how);
        scene.service.cli(&words)
    };
    std::thread::scope(|scope| {
        let followed = scope.spawn(|| deploy("2", &["--until", "commit"]));
        scene.service.wait_owner(2, "probation");
        let lock = scene.current().with_file_name(".current.lock");
        wait_until("the lock to go with the takeover", || !lock.exists());
        deploy("3", &["--supersede"]).assert_code(0);
        let followed = followed.join().unwrap();
        assert_eq!(followed.code, 1, "{followed}");
    });
    assert_eq!(scene.get("/"), "3");
    assert_eq!(scene.pointed(), "3");
    // What served before both.
    scene.service.cli(&["rollback"]).assert_code(0);
    assert_eq!(scene.get("/"), "1");
    assert_eq!(scene.pointed(), "1");
    let again = deploy("1", &["--until", "commit"]);
    again.assert_code(0);
    assert!(again.to_string().contains("already"), "{again}");
}

#[test]
fn an_application_can_read_what_it_is_for() {
    let scene = two("phase", "");
    let first = scene.get("/phase");
    let says = |file: &str, word: &str| {
        let read = || std::fs::read_to_string(file).unwrap_or_default();
        let wanted = format!("{word}\n");
        wait_until(&format!("{file} to say {word}"), || read() == wanted);
    };
    says(&first, "serving");
    scene.deploy("2").assert_code(0);
    let second = scene.get("/phase");
    assert_ne!(first, second);
    says(&first, "parked");
    says(&second, "serving");
    scene.service.cli(&["rollback"]).assert_code(0);
    says(&first, "serving");
    wait_until(&format!("the end of {second}"), || {
        !std::path::Path::new(&second).exists()
    });
    // An upgrade of ours hands the application over, and its file with it.
    scene
        .service
        .replace(&crate::kit::build::twin(&crate::kit::build::own()));
    scene.service.cli(&["upgrade"]).assert_code(0);
    assert_eq!(scene.get("/phase"), first);
    scene.service.cli(&["commit"]).assert_code(0);
    says(&first, "serving");
}

#[test]
fn a_request_in_flight_finishes_at_the_release_that_began_it() {
    let scene = two("in-flight", "");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| scene.get("/slow"));
        scene.wait_log("slow begins");
        scene.deploy("2").assert_code(0);
        assert_eq!(scene.get("/"), "2");
        assert_eq!(slow.join().unwrap(), "1");
    });
}

#[test]
fn a_release_that_keeps_ending_in_probation_is_taken_back() {
    let scene = two("keeps-ending", "");
    let load = scene.load();
    load.wait_server("app/1", 50, SOON);
    scene.deploy("2").assert_code(0);
    load.wait_server("app/2", 20, SOON);
    let report = load.stop();
    report.assert_clean().assert_kept();
    let end = Instant::now() + Duration::from_secs(60);
    while scene.get("/") != "1" {
        assert!(Instant::now() < end, "nothing was taken back");
        let _ = scene.ask("GET /crash HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    }
    scene.service.wait_owner(1, "serving");
    assert_eq!(scene.pointed(), "1");
}

#[test]
fn what_apply_does_follows_from_the_link() {
    let scene = two("apply", "");
    let before = pid(&scene);
    scene.service.cli(&["apply"]).assert_code(0);
    assert_eq!(pid(&scene), before);
    scene.point("2");
    scene.service.cli(&["apply"]).assert_code(0);
    assert_eq!(scene.get("/"), "2");
    scene.service.cli(&["rollback"]).assert_code(0);
    // The link leads back, so that a restart starts what serves.
    assert_eq!(scene.pointed(), "1");
    assert_eq!(scene.get("/"), "1");
    // Pointed back in a probation it is a rollback, and no third start.
    scene.deploy("2").assert_code(0);
    scene.point("1");
    scene.service.cli(&["apply"]).assert_code(0);
    scene.service.wait_owner(1, "serving");
    assert_eq!(scene.get("/"), "1");
    assert_eq!(pid(&scene), before);
    assert_eq!(scene.pointed(), "1");
}

#[test]
fn a_web_socket_is_tunnelled_and_stays_with_its_release() {
    let scene = two("tunnel", "");
    let Target::Tcp(address) = scene.service.target("http") else {
        panic!("not a TCP listener");
    };
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
        .write_all(
            b"GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        head.escape_ascii()
    );
    let mut echo = |word: &[u8]| {
        socket.write_all(word).unwrap();
        let mut answer = vec![0; word.len() + 2];
        socket.read_exact(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    };
    assert_eq!(echo(b"hello"), "1:hello");
    scene.deploy("2").assert_code(0);
    assert_eq!(scene.get("/"), "2");
    assert_eq!(echo(b"again"), "1:again");
}
