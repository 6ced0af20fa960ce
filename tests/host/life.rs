//! An application starts, ends, is started again and handed on.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::kit::build;
use crate::kit::client::Load;
use crate::kit::service::SOON;
use crate::scene::{Scene, pid, wait_gone};

const SOCKET: &str = "{socket}";

#[test]
fn it_listens_where_its_command_says() {
    for listens in [SOCKET, "{port}", "fd:{fd}"] {
        let scene = Scene::begin("listens", listens, "");
        assert_eq!(scene.get("/"), "1", "{listens}");
        let release = scene.current().canonicalize().unwrap();
        assert_eq!(scene.get("/cwd"), release.to_str().unwrap());
    }
}

#[test]
fn a_program_may_know_listen_fds_alone() {
    let scene = Scene::begin("listen-fds", "fd:3", "listen = \"fd\"\n");
    assert_eq!(scene.get("/"), "1");
    let env = scene.get("/env");
    assert!(env.lines().any(|line| line == "LISTEN_FDS=1"), "{env}");
    assert!(!env.contains("PORT="), "{env}");
}

#[test]
fn its_environment_is_ours_without_what_is_about_us_and_with_its_files() {
    let scene = Scene::prepare("env", "{port}", "env_files = [\"env\"]\n");
    std::fs::write(scene.service.dir().join("env"), "SECRET='a b'\nPORT=1\n").unwrap();
    scene.service.start();
    scene.service.wait_owner(1, "serving");
    let env = scene.get("/env");
    let has = |line: &str| env.lines().any(|l| l == line);
    assert!(has("SECRET=a b"), "{env}");
    assert!(has("HANDOVER_GENERATION=1"), "{env}");
    assert!(has("HANDOVER_INSTANCE=0"), "{env}");
    assert!(!has("PORT=1"), "{env}");
    for ours in [
        "NOTIFY_SOCKET",
        "HANDOVER_SUPERVISOR",
        "LISTEN_FDS",
        "WATCHDOG_USEC",
    ] {
        assert!(!env.contains(ours), "{ours}: {env}");
    }
}

#[test]
fn what_it_prints_is_in_the_log_with_its_generation() {
    let scene = Scene::begin("prints", SOCKET, "");
    let log = scene.service.log_text();
    assert!(log.contains("g1 app: release 1 starts"), "{log}");
}

#[test]
fn a_flood_of_output_is_cut_and_harms_nobody() {
    let scene = Scene::prepare("flood", SOCKET, "");
    scene.release("1", "flood");
    scene.service.start();
    scene.service.wait_owner(1, "serving");
    assert_eq!(scene.get("/"), "1");
    scene.wait_log("lines are left out");
}

#[test]
fn clients_wait_for_an_application_that_crashed_and_starts_again() {
    for listens in [SOCKET, "{port}", "fd:{fd}"] {
        let scene = Scene::begin("crash", listens, "");
        let before = pid(&scene);
        // The one that asks for it gets no answer that could be one.
        let (status, _) = scene.ask("GET /crash HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        assert_eq!(status, 502, "{listens}");
        if listens == "{port}" {
            // A connection in the queue of a dying process is lost, and TCP does not say whether
            // its request was read.
            scene.wait_log("the application exited with code 7");
        }
        assert_eq!(scene.get("/"), "1", "{listens}");
        assert_ne!(pid(&scene), before);
        let log = scene.service.log_text();
        assert!(log.contains("the application exited with code 7"), "{log}");
    }
}

#[test]
fn its_supervisor_may_die_and_it_is_started_anew_in_its_place() {
    let scene = Scene::begin("supervisor", SOCKET, "");
    let before = pid(&scene);
    let supervisor = supervisor(&scene);
    scene.service.kill(supervisor);
    let end = Instant::now() + SOON;
    while scene
        .ask("GET /pid HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .1
        == before.to_string()
    {
        assert!(Instant::now() < end, "process {before} still answers");
    }
    assert_eq!(scene.get("/"), "1");
    wait_gone(before);
}

fn supervisor(scene: &Scene) -> u32 {
    let all = scene.service.processes();
    let found = all
        .iter()
        .find(|p| p.args.concat().contains("application g"));
    found
        .unwrap_or_else(|| panic!("no supervisor: {all:#?}"))
        .pid
}

#[test]
fn an_application_that_never_gets_ready_is_no_service() {
    for (fault, words) in [
        ("import", "No module named 'no_such_module'"),
        (
            "exit",
            // As a line of the log has it.
            "the application exited with code 3; its last lines:\\n  release 1 starts",
        ),
        ("sick", "is not ready: GET /healthz is answered 500"),
        ("away", "an application stays in the foreground"),
    ] {
        let scene = Scene::prepare("never", SOCKET, "");
        scene.release("1", fault);
        scene.service.start();
        let code = scene.service.wait_exit();
        assert_eq!(code.code(), Some(1), "{fault}");
        let log = scene.service.log_text();
        assert!(log.contains(words), "{fault}: {log}");
        scene.service.wait_processes("nobody", |all| all.is_empty());
    }
}

#[test]
fn several_instances_have_even_shares() {
    let scene = Scene::begin("instances", SOCKET, "instances = 3\n");
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..60 {
        *seen.entry(pid(&scene)).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.values().all(|n| (10..=30).contains(n)), "{seen:?}");
}

#[test]
fn a_stop_lets_requests_finish_and_leaves_no_process() {
    let scene = Scene::begin("stop", SOCKET, "");
    let pid = pid(&scene);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| scene.get("/slow"));
        scene.wait_log("slow begins");
        scene.service.cli(&["stop"]).assert_code(0);
        assert_eq!(slow.join().unwrap(), "1");
    });
    scene.service.wait_exit();
    wait_gone(pid);
    scene.service.wait_processes("nobody", |all| all.is_empty());
    let left = std::fs::read_dir(scene.service.dir().join("run/app")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn an_upgrade_of_ours_hands_the_running_application_over() {
    let scene = Scene::begin("ours", SOCKET, "");
    let before = pid(&scene);
    let load = scene.load();
    load.wait_server("app/1", 20, SOON);
    let own = build::own();
    for (n, build) in [build::twin(&own), own].iter().enumerate() {
        scene.service.replace(build);
        scene.service.cli(&["upgrade"]).assert_code(0);
        load.wait_server("app/1", 50, SOON);
        assert_eq!(pid(&scene), before);
        if n == 0 {
            scene.service.cli(&["commit"]).assert_code(0);
            scene.service.wait_owner(2, "serving");
            load.wait_server("app/1", 50, SOON);
        }
    }
    scene.service.cli(&["rollback"]).assert_code(0);
    scene.service.wait_owner(2, "serving");
    load.wait_server("app/1", 50, SOON);
    load.stop().assert_clean().assert_kept();
    assert_eq!(pid(&scene), before);
    scene.service.cli(&["stop"]).assert_code(0);
    scene.service.wait_exit();
    wait_gone(before);
}

#[test]
fn a_reload_with_another_application_starts_it_before_its_workers() {
    let scene = Scene::begin("reload", SOCKET, "");
    let before = pid(&scene);
    let load = scene.load();
    load.wait_server("app/1", 20, SOON);
    // Nothing about the application: it stays.
    scene.service.cli(&["reload"]).assert_code(0);
    assert_eq!(pid(&scene), before);
    // Nor is it started again for what its front alone has to know.
    scene.configure(SOCKET, "answer_timeout = \"1s\"\nparked = \"stopped\"\n");
    scene.service.cli(&["reload"]).assert_code(0);
    let late = scene.ask("GET /bad/late HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert_eq!(late.0, 504);
    assert_eq!(pid(&scene), before);
    scene.configure(SOCKET, "instances = 2\n");
    scene.service.cli(&["reload"]).assert_code(0);
    wait_gone(before);
    assert_ne!(pid(&scene), before);
    // One that cannot start changes nothing.
    scene.configure(
        SOCKET,
        "instances = 2\nwarmup = [\"/\"]\nready = \"/crash\"\n",
    );
    let refused = scene.service.cli(&["reload"]);
    assert_ne!(refused.code, 0);
    load.wait_server("app/1", 50, SOON);
    load.stop().assert_clean().assert_kept();
}

#[test]
fn the_client_is_named_to_the_application() {
    let scene = Scene::begin("named", SOCKET, "");
    let (status, told) = scene.ask(
        "GET /headers HTTP/1.1\r\nhost: shop.example\r\nx-forwarded-for: 10.0.0.1\r\n\
         connection: close\r\n\r\n",
    );
    assert_eq!(status, 200);
    assert!(told.contains("x-forwarded-for: 127.0.0.1\n"), "{told}");
    assert!(told.contains("host: shop.example\n"), "{told}");
    assert!(told.contains("x-forwarded-proto: http\n"), "{told}");
}

#[test]
fn large_bodies_and_many_clients_go_through() {
    let scene = Scene::begin("large", SOCKET, "");
    let body = "x".repeat(5_000_000);
    let (status, told) = scene.ask(&format!(
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!((status, told.as_str()), (200, "5000000"));
    let spec = scene.service.load("http").keep_alive().connections(64);
    let load = Load::start(spec);
    load.wait_answers(2000, Duration::from_secs(30));
    load.stop().assert_clean().assert_kept();
}

/// Whatever else is wrong with it.
#[test]
fn a_configuration_says_which_service_is_asked() {
    let scene = Scene::prepare("which", "{socket}", "");
    let file = scene.service.dir().join("shop.toml");
    fs::write(&file, "name = \"no-such-shop\"\nno_such_key = 1\n").unwrap();
    let ran = Command::new(build::own())
        .arg("--config")
        .args([file.as_os_str(), "status".as_ref()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(said.contains("/no-such-shop/control.sock"), "{said}");
}
