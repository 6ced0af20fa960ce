//! Large numbers: what the design carries works, what it cannot carry is refused with the numbers.

mod kit;

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kit::build;
use kit::client::{Load, Target};
use kit::service::{SOON, Service};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// More than fit into one message between processes, or into a pipe as lines.
const MANY: usize = 2_500;

fn many(number: usize) -> String {
    let mut config = String::from("workers = 2\n[upgrade]\nprobation = \"10m\"\n");
    for n in 0..number {
        let _ = write!(
            config,
            "[[listener]]\nname = \"listener-number-{n}-of-very-many\"\naddress = \"127.0.0.1:0\"\n"
        );
    }
    config
}

#[test]
fn thousands_of_listeners_are_checked_served_reloaded_upgraded_and_taken_back() {
    let service = Service::setup("many").config(&many(MANY)).start();
    service.wait_owner(1, "serving");
    let load = Load::start_all(vec![service.load("http").keep_alive().connections(4)]);
    load.wait_connected(SOON);
    let addresses = || {
        let status = service.status().expect("an owner");
        let mut all: Vec<_> = status.listeners.into_iter().map(|l| l.address).collect();
        all.sort();
        all
    };
    let before = addresses();
    assert_eq!(before.len(), MANY + 1);
    let config = service.config.to_str().expect("a path");
    let checked = service.cli(&["check", "--config", config]);
    checked.assert_code(0);
    // The line of every listener, more than a pipe holds.
    assert!(checked.stdout.len() > 65_536, "{}", checked.stdout.len());

    service.cli(&["reload"]).assert_code(0);
    assert_eq!(addresses(), before);
    service.replace(&build::other_version("2.0.0"));
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    assert_eq!(addresses(), before);
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(1, "serving");
    assert_eq!(addresses(), before);
    load.stop().assert_clean();

    // It is said once that they have no socket for each worker, not once each.
    let log = fs::read_to_string(&service.log).expect("a log");
    let said = log.matches("share").count();
    assert!((1..20).contains(&said), "{said} lines");
}

#[test]
fn more_listeners_than_open_files_are_refused_with_the_numbers() {
    let service = Service::setup("files").config(&many(1_000)).prepare();
    let (program, config) = (service.program.display(), service.config.display());
    let command = format!("ulimit -n 1500; exec {program} check --config {config}");
    let ran = Command::new("sh")
        .args(["-c", &command])
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(78), "{said}");
    for part in [
        "1001 listeners",
        "2258 open files",
        "may have 1500",
        "LimitNOFILE=",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn more_listeners_than_systemd_passes_again_are_refused_with_the_numbers() {
    let service = Service::setup("systemd").config(&many(700)).prepare();
    let ran = Command::new(&service.program)
        .args(["check", "--config"])
        .arg(&service.config)
        .env("NOTIFY_SOCKET", "@nobody")
        .output()
        .expect("a check");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(78), "{said}");
    assert!(said.contains("701 listeners are more than"), "{said}");
    assert!(said.contains("(640)") && said.contains("202/FDS"), "{said}");
}

#[test]
fn hundreds_of_sockets_go_through_the_keeper() {
    let service = Service::setup("keeper").prepare();
    service.start_activated_times("http", 300);
    service.wait_owner(1, "serving");
    let load = Load::start_all(vec![service.load("http").keep_alive().connections(4)]);
    load.wait_connected(SOON);
    load.stop().assert_clean();
}

/// Somebody tidies the runtime directory. The owner makes its socket again, and a client that comes
/// before says that the service runs.
#[test]
fn a_control_socket_that_was_removed_is_made_again() {
    let service = Service::setup("tidied").config("workers = 2\n").start();
    service.wait_owner(1, "serving");
    for what in ["control.sock", "handoff.sock", "handover.pid"] {
        fs::remove_file(service.runtime.join(what)).expect("it is there");
    }
    let end = Instant::now() + SOON;
    while !service.runtime.join("control.sock").exists() {
        assert!(Instant::now() < end, "it is not made again");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let status = service.cli(&["status"]);
    status.assert_code(0);
    // Another file in its place leads nobody here, either.
    let handoff = service.runtime.join("handoff.sock");
    let is_socket = || fs::metadata(&handoff).is_ok_and(|file| file.file_type().is_socket());
    while !is_socket() {
        assert!(Instant::now() < end, "it is not made again");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    fs::remove_file(&handoff).expect("it is there");
    fs::write(&handoff, "").expect("a file");
    while !is_socket() {
        assert!(Instant::now() < end + SOON, "it is not made again");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    fs::remove_dir_all(&service.runtime).expect("a directory");
    while !service.runtime.join("handover.pid").exists() {
        assert!(Instant::now() < end + SOON, "it is not made again");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    service.replace(&build::other_version("2.0.0"));
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    // The parked one holds the socket of before; it makes its own again when it takes back.
    fs::remove_file(service.runtime.join("control.sock")).expect("it is there");
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(1, "serving");
}

/// Its name is from its configuration, and the client was told its directory alone.
#[test]
fn what_runs_is_stopped_although_its_socket_is_gone_and_its_name_is_not_known() {
    let service = Service::setup("nameless")
        .config("name = \"blue\"\nworkers = 1\n")
        .start();
    service.wait_owner(1, "serving");
    assert!(service.runtime.join("blue.pid").exists());
    // Nor is every pid file there the service's.
    for name in ["a", "app", "gunicorn", "z"] {
        let file = service.runtime.join(name).with_extension("pid");
        fs::write(file, std::process::id().to_string()).expect("room for it");
    }
    fs::remove_file(service.runtime.join("control.sock")).expect("it is there");
    let ran = Command::new(&service.program)
        .arg("--runtime-dir")
        .args([service.runtime.as_path(), Path::new("stop")])
        .output()
        .expect("a client");
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert!(!said.contains("nothing is running"), "{said}");
    assert_eq!(ran.status.code(), Some(0), "{said}");
    // And not before the keeper has gone, too.
    let ended = service.exited().map(kit::service::code_of);
    assert_eq!(ended, Some(0), "{said}");
}

/// `check` and the start reckon alike: a socket is one open file of the master's, for however many
/// workers.
#[test]
fn as_many_listeners_as_check_lets_pass_are_served_by_any_number_of_workers() {
    let config = many(399).replace("workers = 2", "workers = 8");
    let service = Service::setup("many-workers").config(&config).prepare();
    let config = service.config.to_str().expect("a path");
    let limited = |args: &[&str]| {
        let mut command = Command::new("prlimit");
        command.arg("--nofile=1100:1100").arg(&service.program);
        command.args(args);
        command
    };
    let checked = limited(&["check", "--config", config]).output();
    let checked = checked.expect("a check");
    assert!(checked.status.success(), "{checked:?}");
    service.start_by(limited(&[]));
    service.wait_owner(1, "serving");
    let said = service.log_text();
    assert!(!said.contains("Too many open files"), "{said}");
    // Once a start, not whenever somebody looks.
    assert_eq!(said.matches("have one socket each").count(), 1, "{said}");
    service.cli(&["reload"]).assert_code(0);
    service.replace(&build::other_version("2.0.0"));
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    let said = service.log_text();
    assert!(!said.contains("Too many open files"), "{said}");
}

/// So many descriptors may this process have open, from now on.
fn allow_files(pid: u32, most: usize) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let limit = Rlimit {
        current: Some(most as u64),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    prlimit(pid, Resource::Nofile, limit).expect("a process of ours");
}

/// Out of descriptors for a while: each condition is said once, not a thousand times; and nothing that
/// failed then is given up: operators are answered, connections are accepted and passed on.
#[test]
fn out_of_descriptors_nothing_is_logged_in_a_loop_and_everybody_answers_again() {
    let service = Service::setup("exhausted").config("workers = 1\n").start();
    service.wait_owner(1, "serving");
    let load = Load::start_all(vec![service.load("http").keep_alive().connections(4)]);
    load.wait_connected(SOON);
    let said = || service.log_text().lines().count();
    let before = said();
    let short = [service.master(1).pid, service.workers(1)[0].pid];
    for pid in short {
        allow_files(pid, 1);
    }
    let Target::Tcp(http) = service.target("http") else {
        panic!("a TCP listener");
    };
    let control = service.runtime.join("control.sock");
    let handoff = SocketAddrUnix::new(service.runtime.join("handoff.sock")).expect("a path");
    let mut waiting = Vec::new();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        if waiting.len() < 60 {
            let asks = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
            let asks = asks.expect("a socket");
            rustix::net::connect(&asks, &handoff).expect("somebody listens");
            waiting.push((
                TcpStream::connect(http).expect("somebody listens"),
                UnixStream::connect(&control).expect("somebody listens"),
                asks,
            ));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let lines = said() - before;
    assert!(lines < 20, "{lines} lines:\n{}", service.log_text());
    assert!(lines > 0, "it is said");
    for pid in short {
        allow_files(pid, 1024);
    }
    drop(waiting);
    service.cli(&["status"]).assert_code(0);
    service.replace(&build::other_version("2.0.0"));
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    let log = service.log_text();
    assert!(log.contains("passes connections on to"), "{log}");
    load.stop().assert_clean();
}

/// Its end is seen without a new descriptor, and the master waits for nobody meanwhile.
#[test]
fn a_worker_that_ends_when_no_descriptor_is_left_is_replaced_when_there_is_one_again() {
    let service = Service::setup("short-of-workers")
        .config("workers = 2\n")
        .start();
    service.wait_owner(1, "serving");
    let (master, workers) = (service.master(1).pid, service.workers(1));
    allow_files(master, 1);
    service.kill(workers[0].pid);
    service.wait_log("cannot start a worker", 1);
    allow_files(master, 1024);
    let there = |pid| service.workers(1).iter().any(|worker| worker.pid == pid);
    let end = Instant::now() + SOON * 2;
    while service.workers(1).len() < 2 || there(workers[0].pid) {
        assert!(Instant::now() < end, "{}", service.log_text());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert!(there(workers[1].pid), "the other one was left alone");
    service.cli(&["status"]).assert_code(0);
}

/// With fewer descriptors than clients they are served in turn; it does not fill the disk with its log.
#[test]
fn with_hardly_any_descriptors_nothing_is_logged_in_a_loop() {
    let service = Service::setup("hardly-any")
        .config("workers = 1\n")
        .prepare();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=300:300").arg(&service.program);
    service.start_by(command);
    service.wait_owner(1, "serving");
    let Target::Tcp(http) = service.target("http") else {
        panic!("a TCP listener");
    };
    let control = service.runtime.join("control.sock");
    let mut waiting = Vec::new();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        if waiting.len() < 350 {
            waiting.push((
                TcpStream::connect(http).expect("somebody listens"),
                (waiting.len() < 80)
                    .then(|| UnixStream::connect(&control).expect("somebody listens")),
            ));
        } else {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
    let lines = service.log_text().lines().count();
    assert!(lines < 40, "{lines} lines:\n{}", service.log_text());
    drop(waiting);
    let load = Load::start_all(vec![service.load("http").keep_alive().connections(4)]);
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
    service.cli(&["status"]).assert_code(0);
}
