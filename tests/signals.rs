//! Every signal to every kind of master, from processes and from a terminal, and the keeper that
//! stands between a terminal and the masters.
#![allow(
    clippy::disallowed_methods,
    reason = "a poll waits for its next look, until a deadline"
)]

mod kit;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kit::build;
use kit::client::{Kind, Load, Running, Target};
use kit::proc::{Process, Role};
use kit::service::{SOON, Service, Setup};
use kit::terminal::{CTRL_BACKSLASH, CTRL_C, Terminal};
use kit::wait::wait_until;
use rustix::process::Signal;

const ALONE: &str = "g1 1.0.0 serving: 2 accepting, owner, pid";
const BESIDE: [&str; 2] = [
    "g1 1.0.0 beside: 2 accepting, owner, pid.oldbin",
    "g2 2.0.0 standby: 2 accepting, pid",
];
const PARKED: [&str; 2] = [
    "g1 1.0.0 parked: no workers, pid.oldbin",
    "g2 2.0.0 probation: 2 accepting, owner, pid",
];
const COMMITTED: &str = "g2 2.0.0 serving: 2 accepting, owner, pid";

fn setup(test: &str) -> Setup {
    let image = build::other_version_of_example("workbench", "1.0.0");
    Service::setup(test).name("workbench").image(image)
}

fn serving(test: &str) -> Service {
    let service = setup(test).start();
    service.wait_picture(&[ALONE]);
    service
}

/// Both generations accept.
fn beside(test: &str) -> Service {
    let service = serving(test);
    begin(&service);
    service.wait_picture(&BESIDE);
    service
}

fn begin(service: &Service) {
    service.replace(&build::other_version_of_example("workbench", "2.0.0"));
    service.signal(service.master(1).pid, Signal::USR2);
}

/// The new one serves, the old one waits.
fn parked(test: &str) -> Service {
    let service = beside(test);
    service.signal(service.master(1).pid, Signal::WINCH);
    service.wait_picture(&PARKED);
    service
}

fn light(service: &Service) -> Running {
    let http = || service.load("http").app().pause(Duration::from_millis(5));
    let load = Load::start_all(vec![
        http().fresh().connections(2),
        http().keep_alive().connections(2),
    ]);
    load.wait_answers(10, SOON);
    load
}

/// A signal that changes nothing, but is logged.
#[track_caller]
fn refused(service: &Service, generation: u64, signal: Signal, name: &str, picture: &[&str]) {
    let words = format!("{name} is refused");
    let before = service.log_text().matches(&words).count();
    service.signal(service.master(generation).pid, signal);
    service.wait_log(&words, before + 1);
    service.wait_picture(picture);
}

/// A request whose answer has begun.
struct InFlight {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl InFlight {
    /// An answer of so many pieces, one every 100 ms.
    fn begin(service: &Service, pieces: usize) -> Self {
        Self::ask(service, &format!("chunks={pieces}&size=100&ms=100"))
    }

    /// One that is too long to end before it is read.
    fn held(service: &Service) -> Self {
        Self::ask(service, "chunks=6000&size=4096")
    }

    fn ask(service: &Service, answer: &str) -> Self {
        let Target::Tcp(address) = service.target("http") else {
            panic!("a TCP listener");
        };
        let mut stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(SOON)).expect("a deadline");
        let request = format!("GET /stream?{answer} HTTP/1.1\r\nHost: kit.test\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a connection");
        let mut answer = vec![0; 17];
        stream.read_exact(&mut answer).expect("an answer's begin");
        assert_eq!(answer, b"HTTP/1.1 200 OK\r\n");
        Self { stream, answer }
    }

    /// Whether it was answered in full.
    fn completes(mut self) -> bool {
        let mut bytes = [0; 4096];
        while !self.answer.ends_with(b"\r\n0\r\n\r\n") {
            match self.stream.read(&mut bytes) {
                Ok(n @ 1..) => self.answer.extend_from_slice(&bytes[..n]),
                Ok(_) => return false,
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return false,
                Err(e) => panic!("{e}"),
            }
        }
        true
    }
}

/// The end of everything: the exit code, no process, no file that names one.
#[track_caller]
fn ended(service: &Service, code: i32) {
    let status = service.wait_exit();
    assert_eq!(status.code(), Some(code), "{status}");
    service.wait_processes("nobody", <[Process]>::is_empty);
    assert_eq!(service.runtime_files(), Vec::<String>::new());
}

// --- the one that serves ---

#[test]
fn hup_takes_a_new_configuration_and_loses_no_request() {
    let dir = tempfile::tempdir().expect("a directory");
    let site = |name: &str| {
        let root = dir.path().join(name);
        fs::create_dir(&root).expect("a site");
        fs::write(root.join("index.html"), name).expect("a page");
        format!("workers = 2\n[site]\nroot = \"{}\"", root.display())
    };
    let service = Service::setup("hup").config(&site("first")).start();
    service.wait_phase("serving");
    let http = || service.load("http").pause(Duration::from_millis(5));
    let load = Load::start_all(vec![http().fresh().connections(3), http().connections(3)]);
    load.wait_answers(10, SOON);
    let (master, before) = (service.master(1), service.workers(1));
    let wait_page = |page: &str| {
        service.wait_processes("two other workers", |all| {
            let is_worker = |p: &&Process| p.role() == Role::Worker(1);
            let mut workers = all.iter().filter(is_worker);
            workers.clone().count() == 2 && workers.all(|w| !before.contains(w))
        });
        let asked = Load::start(http().fresh().body(page.to_owned()));
        asked.wait_answers(5, SOON);
        asked.stop().assert_clean();
    };

    service.write_config(&site("second"));
    service.signal(master.pid, Signal::HUP);
    wait_page("second");
    assert_eq!(service.master(1).started, master.started);

    // A bad one: the reason is in the log, the old one serves on.
    let workers = service.workers(1);
    service.write_config("workers = 2\nwrong = 1");
    service.signal(master.pid, Signal::HUP);
    service.wait_log("wrong", 1);
    let status = service.wait_phase("serving");
    assert!(!status.config.matches_disk);
    assert_eq!(service.workers(1), workers);

    // By way of the keeper.
    let before = service.workers(1);
    service.write_config(&site("third"));
    service.signal(service.keeper(), Signal::HUP);
    service.wait_processes("two other workers", |all| {
        let workers: Vec<_> = all.iter().filter(|p| p.role() == Role::Worker(1)).collect();
        workers.len() == 2 && workers.iter().all(|w| !before.contains(w))
    });
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
}

#[test]
fn usr1_and_winch_change_nothing_and_workers_obey_none_of_them() {
    let service = serving("usr1");
    let load = light(&service);
    let before = service.processes();
    refused(&service, 1, Signal::WINCH, "SIGWINCH", &[ALONE]);
    service.signal(service.master(1).pid, Signal::USR1);
    service.wait_log("SIGUSR1 from process", 1);
    for worker in service.workers(1) {
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::WINCH] {
            service.signal(worker.pid, signal);
        }
    }
    load.wait_answers(30, SOON);
    service.wait_picture(&[ALONE]);
    let pids = |all: &[Process]| all.iter().map(|p| p.pid).collect::<Vec<_>>();
    assert_eq!(pids(&service.processes()), pids(&before));
    load.stop().assert_clean();
}

#[test]
fn term_lets_requests_finish_however_often_it_comes() {
    let service = serving("term");
    let request = InFlight::held(&service);
    let master = service.master(1).pid;
    service.signal(master, Signal::TERM);
    service.wait_processes("the drain", |all| {
        all.iter().any(|p| p.comm == "g1 draining")
    });
    service.signal(master, Signal::TERM);
    service.signal(service.keeper(), Signal::TERM);
    assert!(request.completes());
    ended(&service, 0);
}

#[test]
fn term_cuts_what_takes_longer_than_the_stop_timeout() {
    let service = setup("term-cut")
        .config("workers = 2\n[drain]\nstop_timeout = \"1s\"")
        .start();
    service.wait_phase("serving");
    let request = InFlight::begin(&service, 600);
    let began = Instant::now();
    service.signal(service.master(1).pid, Signal::TERM);
    assert!(!request.completes());
    ended(&service, 0);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");
    assert!(
        took < Duration::from_secs(15),
        "{took:?}; all of it is a minute"
    );
}

#[test]
fn quit_waits_longer_than_the_stop_timeout() {
    let service = setup("quit")
        .config("workers = 2\n[drain]\nstop_timeout = \"100ms\"")
        .start();
    service.wait_phase("serving");
    let request = InFlight::begin(&service, 15);
    service.signal(service.master(1).pid, Signal::QUIT);
    assert!(request.completes());
    ended(&service, 0);
}

#[test]
fn int_ends_at_once_also_a_drain() {
    let service = serving("int");
    let request = InFlight::begin(&service, 600);
    service.signal(service.master(1).pid, Signal::QUIT);
    service.wait_processes("the drain", |all| {
        all.iter().any(|p| p.comm == "g1 draining")
    });
    let began = Instant::now();
    service.signal(service.master(1).pid, Signal::INT);
    assert!(!request.completes());
    ended(&service, 0);
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(15),
        "{took:?}; all of it is a minute"
    );
}

#[test]
fn term_to_everybody_is_a_stop_like_any_other() {
    // `systemctl kill`, a container's end, a shutdown: workers and masters get it in any order.
    for (test, start) in [
        ("all-serving", serving as fn(&str) -> Service),
        ("all-beside", beside),
        ("all-parked", parked),
    ] {
        let service = start(test);
        let request = InFlight::begin(&service, 10);
        for process in service.processes() {
            // One that obeyed the first of them may have gone already.
            if let Some(pinned) = kit::proc::Pinned::open(process.pid) {
                let _ = pinned.signal(Signal::TERM);
            }
        }
        assert!(request.completes(), "{test}");
        ended(&service, 0);
    }
}

// --- the old one and the new one ---

#[test]
fn beside_each_other_what_makes_no_sense_is_refused() {
    let service = beside("beside");
    let load = light(&service);
    for (signal, name) in [(Signal::USR2, "SIGUSR2"), (Signal::HUP, "SIGHUP")] {
        refused(&service, 1, signal, name, &BESIDE);
    }
    for generation in [1, 2] {
        service.signal(service.master(generation).pid, Signal::USR1);
    }
    service.wait_log("SIGUSR1 from process", 2);
    // The new one takes its configuration again.
    let before = service.workers(2);
    service.signal(service.master(2).pid, Signal::HUP);
    service.wait_processes("other workers of the new one", |all| {
        let workers: Vec<_> = all.iter().filter(|p| p.role() == Role::Worker(2)).collect();
        workers.len() == 2 && workers.iter().all(|w| !before.contains(w))
    });
    service.wait_picture(&BESIDE);
    load.stop().assert_clean();
}

#[test]
fn while_the_old_one_is_parked_what_makes_no_sense_is_refused() {
    let service = parked("parked");
    let load = light(&service);
    for (signal, name) in [(Signal::USR2, "SIGUSR2"), (Signal::WINCH, "SIGWINCH")] {
        refused(&service, 1, signal, name, &PARKED);
    }
    for generation in [1, 2] {
        service.signal(service.master(generation).pid, Signal::USR1);
    }
    service.wait_log("SIGUSR1 from process", 2);
    let before = service.workers(2);
    service.signal(service.master(2).pid, Signal::HUP);
    service.wait_processes("other workers of the new one", |all| {
        let workers: Vec<_> = all.iter().filter(|p| p.role() == Role::Worker(2)).collect();
        workers.len() == 2 && workers.iter().all(|w| !before.contains(w))
    });
    service.wait_picture(&PARKED);
    // Too early: they wait for the old one.
    for (signal, name) in [(Signal::USR2, "SIGUSR2"), (Signal::WINCH, "SIGWINCH")] {
        service.signal(service.master(2).pid, signal);
        service.wait_log(&format!("{name} waits until"), 1);
        service.wait_picture(&PARKED);
    }
    service.signal(service.master(1).pid, Signal::HUP);
    service.wait_picture(&[BESIDE[0], "g2 2.0.0 standby: no workers, pid"]);
    load.stop().assert_clean();
}

#[test]
fn a_signal_that_waits_is_dropped_when_its_moment_does_not_come() {
    let service = setup("dropped")
        .config("workers = 2\n[upgrade]\nstart_timeout = \"4s\"")
        .start();
    service.wait_phase("serving");
    begin(&service);
    service.wait_picture(&BESIDE);
    service.signal(service.master(1).pid, Signal::WINCH);
    service.wait_picture(&PARKED);
    service.signal(service.master(2).pid, Signal::WINCH);
    service.wait_log("SIGWINCH is dropped", 1);
    service.wait_picture(&PARKED);
}

#[test]
fn quit_term_and_int_to_the_old_one_commit() {
    for (test, start, signal) in [
        ("old-quit", parked as fn(&str) -> Service, Signal::QUIT),
        ("old-term", parked, Signal::TERM),
        ("old-int", parked, Signal::INT),
        ("old-term-beside", beside, Signal::TERM),
    ] {
        let service = start(test);
        let load = light(&service);
        service.signal(service.master(1).pid, signal);
        service.wait_picture(&[COMMITTED]);
        load.wait_answers(10, SOON);
        load.stop().assert_clean();
    }
}

#[test]
fn quit_and_term_to_the_new_one_go_back() {
    for (test, start, signal) in [
        ("new-quit", parked as fn(&str) -> Service, Signal::QUIT),
        ("new-term", parked, Signal::TERM),
        ("new-quit-beside", beside, Signal::QUIT),
        ("new-term-beside", beside, Signal::TERM),
    ] {
        let service = start(test);
        let load = light(&service);
        service.signal(service.master(2).pid, signal);
        service.wait_picture(&[ALONE]);
        load.wait_answers(10, SOON);
        load.stop().assert_clean();
    }
}

/// They were told to step back, hang, and accept perhaps when they come to themselves.
#[test]
fn a_rollback_waits_for_workers_that_may_not_have_stepped_back_yet() {
    let service = beside("rollback-quiesced");
    let hung = service.workers(2);
    for worker in &hung {
        service.signal(worker.pid, Signal::STOP);
    }
    service.signal(service.master(2).pid, Signal::USR2);
    service.wait_picture(&[BESIDE[0], "g2 2.0.0 standby: 2 quiesced, pid"]);
    let begun = Instant::now();
    service.cli(&["rollback"]).assert_code(0);
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(900), "{waited:?}");
    for worker in &hung {
        service.signal(worker.pid, Signal::CONT);
    }
    service.wait_picture(&[ALONE]);
}

#[test]
fn int_to_one_of_two_leaves_the_service_to_the_other() {
    for (test, start, generation, left) in [
        (
            "int-old-beside",
            beside as fn(&str) -> Service,
            1,
            COMMITTED,
        ),
        ("int-new-beside", beside, 2, ALONE),
        ("int-new-parked", parked, 2, ALONE),
    ] {
        let service = start(test);
        let load = light(&service);
        service.signal(service.master(generation).pid, Signal::INT);
        service.wait_picture(&[left]);
        load.wait_answers(10, SOON);
        let report = load.stop();
        // What it held is cut; nobody is turned away, and nobody waits in vain.
        for kind in [Kind::Refused, Kind::Timeout] {
            assert_eq!(report.count(kind), 0, "{test}: {report}");
        }
    }
}

// --- the keeper ---

#[test]
fn the_keeper_exits_as_the_owner_does() {
    let failed = setup("code-fail")
        .config("workers = 2\n[upgrade]\nstart_timeout = \"300ms\"")
        .env("WORKBENCH_GATE", "/")
        .start();
    ended(&failed, 1);
    let config = setup("code-config").config("wrong = 1").start();
    ended(&config, 78);
    let killed = serving("code-kill");
    killed.signal(killed.master(1).pid, Signal::KILL);
    assert_eq!(kit::service::code_of(killed.wait_exit()), 128 + 9);
    killed.wait_processes("nobody", <[Process]>::is_empty);
    // After a commit, the owner is another one.
    let service = parked("code-second");
    service.signal(service.master(1).pid, Signal::QUIT);
    service.wait_picture(&[COMMITTED]);
    service.signal(service.master(2).pid, Signal::KILL);
    assert_eq!(kit::service::code_of(service.wait_exit()), 128 + 9);
}

/// The keeper stays for it, and nobody ends it; `stop` says so instead of waiting for ever.
#[test]
fn stop_is_done_although_an_application_left_a_program_running() {
    let service = serving("leaves-one");
    let keeper = service.keeper();
    let Target::Tcp(address) = service.target("http") else {
        unreachable!("it listens on TCP")
    };
    let mut client = TcpStream::connect(address).expect("a worker");
    client
        .write_all(b"GET /left HTTP/1.0\r\n\r\n")
        .expect("a worker that reads");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    let left: u32 = answer
        .lines()
        .last()
        .and_then(|pid| pid.parse().ok())
        .expect("a pid");
    let stopped = service.cli(&["stop"]);
    stopped.assert_code(0);
    let says = format!("stopped; process {keeper}, which started it, waits");
    assert!(stopped.to_string().contains(&says), "{stopped}");
    service.signal(left, Signal::KILL);
    assert_eq!(kit::service::code_of(service.wait_exit()), 0);
}

/// A worker that hangs, and one that drains with nobody to hurry it, are nobody's but the keeper's when
/// the last master has died: they get the time that a stop gives, or none when somebody stops the job.
#[test]
fn what_a_dead_owner_leaves_ends_in_time_or_when_it_is_told_to() {
    let limits = "workers = 2\n[drain]\nstop_timeout = \"1s\"\ntimeout = \"0s\"";
    for (test, stopped) in [("left-alone", false), ("left-stopped", true)] {
        let config = if stopped {
            "workers = 2\n[drain]\nstop_timeout = \"10m\""
        } else {
            limits
        };
        let service = setup(test).config(config).start();
        service.wait_owner(1, "serving");
        service.signal(service.workers(1)[0].pid, Signal::STOP);
        service.signal(service.master(1).pid, Signal::KILL);
        if stopped {
            service.wait_processes("the other worker to be gone", |_| {
                service.workers(1).len() == 1
            });
            service.signal(service.keeper(), Signal::TERM);
        }
        assert_eq!(kit::service::code_of(service.wait_exit()), 128 + 9);
        service.wait_processes("nobody", <[Process]>::is_empty);
        let said = service.log_text();
        assert!(said.contains("nobody serves"), "{said}");
    }
    let service = setup("left-draining").config(limits).start();
    service.wait_owner(1, "serving");
    let _reads_no_more = InFlight::held(&service);
    begin(&service);
    service.wait_picture(&BESIDE);
    service.signal(service.master(1).pid, Signal::WINCH);
    service.wait_owner(2, "probation");
    service.signal(service.master(1).pid, Signal::QUIT);
    service.wait_owner(2, "serving");
    service.signal(service.master(2).pid, Signal::KILL);
    assert_eq!(kit::service::code_of(service.wait_exit()), 128 + 9);
    service.wait_processes("nobody", <[Process]>::is_empty);
}

/// Reads an answer that ends so.
fn read_to(stream: &mut TcpStream, end: &[u8]) {
    let mut answer = Vec::new();
    while !answer.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.extend(byte);
    }
}

/// A worker of the first generation reads this request, and does nothing else meanwhile. Its master dies
/// while it waits for the second generation.
fn blocked_and_left(service: &Service, target: &str) -> TcpStream {
    service.wait_picture(&[ALONE]);
    let Target::Tcp(address) = service.target("http") else {
        panic!("a TCP listener");
    };
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(SOON)).expect("a deadline");
    let ask = |mut stream: &TcpStream, target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: kit.test\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a connection");
    };
    // Both generations accept soon: from now on one of the first has this connection.
    ask(&stream, "/");
    read_to(&mut stream, b"hello\n");
    begin(service);
    service.wait_picture(&BESIDE);
    ask(&stream, target);
    service.wait_log("this thread is blocked", 1);
    service.signal(service.master(1).pid, Signal::WINCH);
    service.wait_owner(2, "probation");
    service.wait_processes("the one that hangs to be alone", |_| {
        service.workers(1).len() == 1
    });
    service.signal(service.master(1).pid, Signal::KILL);
    stream
}

/// Nobody asks it any more, and nobody replaces it: its master is dead, another one serves.
#[test]
fn a_worker_that_hangs_ends_after_its_master() {
    let service = setup("hangs-alone")
        .config("workers = 2\n[drain]\nstop_timeout = \"1s\"\ntimeout = \"10s\"")
        .start();
    let mut waits = blocked_and_left(&service, "/block");
    service.wait_processes("nobody of the first generation", |_| {
        service.workers(1).is_empty()
    });
    assert!(
        !matches!(waits.read(&mut [0]), Ok(1..)),
        "its connection has ended"
    );
    service.wait_owner(2, "serving");
    let said = service.log_text();
    assert!(said.contains("its master has gone: it ends"), "{said}");
}

/// It looks like one that hangs, and has the time of a drain: somebody else serves.
#[test]
fn a_request_that_holds_up_its_worker_is_answered_though_the_master_dies() {
    let service = setup("busy-alone")
        .config("workers = 2\n[drain]\nstop_timeout = \"1s\"\ntimeout = \"1m\"")
        .start();
    let mut waits = blocked_and_left(&service, "/block?ms=8000");
    read_to(&mut waits, b"over\n");
    service.wait_processes("nobody of the first generation", |_| {
        service.workers(1).is_empty()
    });
}

/// The one that accepts beside it can have the service at once.
#[test]
fn an_owner_that_hangs_beside_a_ready_successor_is_named() {
    let service = beside("hangs-beside");
    let owner = service.master(1).pid;
    service.signal(owner, Signal::STOP);
    let asked = service.cli(&["status"]);
    asked.assert_code(1);
    let words = format!("`kill -9 {owner}` leaves the service to that one");
    assert!(asked.stderr.contains(&words), "{asked}");
    service.kill(owner);
    service.wait_picture(&[COMMITTED]);
}

/// The keeper knows who owns the service, also when it was given back, and when the one that was
/// named first is dead.
#[test]
fn the_keeper_follows_the_owner_forth_and_back_and_over_a_death() {
    let service = parked("keeper-follows");
    service.signal(service.master(1).pid, Signal::HUP);
    service.wait_picture(&BESIDE);
    service.signal(service.master(1).pid, Signal::KILL);
    service.wait_picture(&[COMMITTED]);
    service.signal(service.keeper(), Signal::TERM);
    ended(&service, 0);
}

/// As a container's first process, with a service manager outside (`podman --sdnotify=container`):
/// the container must not end with the first commit, and what is inside has no numbers outside.
#[test]
fn a_containers_first_process_stays_and_passes_on_what_its_manager_must_know() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let outside = UnixDatagram::bind(&path).expect("a socket");
    outside.set_nonblocking(true).expect("a socket");
    let service = setup("first-process").env("NOTIFY_SOCKET", &path).prepare();
    service.start_as_first_process();
    service.wait_owner(1, "serving");
    begin(&service);
    for (signal, generation, phase) in [
        (None, 1, "beside"),
        (Some(Signal::WINCH), 2, "probation"),
        (Some(Signal::QUIT), 2, "serving"),
    ] {
        if let Some(signal) = signal {
            service.signal(service.master(1).pid, signal);
        }
        service.wait_owner(generation, phase);
    }
    service.wait_processes("the first master to be gone", |all| {
        all.iter().all(|p| p.role() != kit::proc::Role::Master(1))
    });
    assert_eq!(service.exited(), None, "the container goes on");
    let inside = service.processes();
    let keeper = inside.iter().find(|p| p.comm == "keeper");
    service.signal(keeper.expect("a keeper").pid, Signal::TERM);
    assert_eq!(kit::service::code_of(service.wait_exit()), 0);
    let mut said = String::new();
    let mut message = [0; 4096];
    while let Ok(n) = outside.recv(&mut message) {
        said.push_str(&String::from_utf8_lossy(&message[..n]));
        said.push('\n');
    }
    for word in [
        "READY=1",
        "STATUS=1.0.0 (g1) serves",
        "STATUS=2.0.0 (g2) serves",
        "STOPPING=1",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    for word in ["MAINPID", "FDSTORE", "BARRIER"] {
        assert!(!said.contains(word), "{word}: {said}");
    }
}

/// Log files are opened again at any moment: also while a successor is executed, which does not know
/// the signal yet.
#[test]
fn usr1_all_through_an_upgrade_harms_nobody() {
    let service = serving("reopen");
    let g1 = rustix::process::Pid::from_raw(service.master(1).pid as i32).expect("a pid");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                rustix::process::kill_process(g1, Signal::USR1).expect("it is there");
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let rounds = std::panic::catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..3 {
                service.replace(&build::other_version_of_example("workbench", "2.0.0"));
                service.cli(&["upgrade"]).assert_code(0);
                service.cli(&["rollback"]).assert_code(0);
                service.wait_picture(&[ALONE]);
            }
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = rounds {
            std::panic::resume_unwind(panic);
        }
    });
}

/// `systemd-socket-activate`, with a name for the socket and without.
#[test]
fn a_socket_passed_to_the_keeper_is_the_service_s() {
    for names in ["http", ""] {
        let service = setup("activated")
            .passed("http")
            .env("LISTEN_FDNAMES", names)
            .prepare();
        service.start_activated("http");
        service.wait_picture(&[ALONE]);
        let status = service.status().expect("an answer");
        let sources: Vec<&str> = status.listeners.iter().map(|l| &*l.source).collect();
        assert_eq!(sources, ["systemd"]);
        let load = light(&service);
        service.replace(&build::other_version_of_example("workbench", "2.0.0"));
        service.cli(&["upgrade"]).assert_code(0);
        service.cli(&["commit"]).assert_code(0);
        service.wait_picture(&[COMMITTED]);
        load.wait_answers(20, SOON);
        load.stop().assert_clean();
        // Nobody else holds it, above all not the keeper.
        let Target::Tcp(address) = service.target("http") else {
            panic!("TCP");
        };
        service.signal(service.master(2).pid, Signal::TERM);
        assert_eq!(kit::service::code_of(service.wait_exit()), 0);
        let refused = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn without_its_keeper_the_service_lives_on() {
    let service = serving("keeperless");
    let load = light(&service);
    service.kill(service.keeper());
    load.wait_answers(20, SOON);
    // Nobody is missed: forward, back, forward and on.
    let picture = |wanted: &[&str]| {
        let end = Instant::now() + SOON;
        // Not `wait_picture`: the process that was started has ended.
        while service.picture() != wanted {
            assert!(Instant::now() < end, "{:?}", service.picture());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    begin(&service);
    picture(&BESIDE);
    service.signal(service.master(1).pid, Signal::WINCH);
    picture(&PARKED);
    service.signal(service.master(1).pid, Signal::QUIT);
    picture(&[COMMITTED]);
    load.stop().assert_clean();
    service.cli(&["stop"]).assert_code(0);
    service.wait_processes("nobody", |all| all.iter().all(Process::is_zombie));
}

#[test]
fn term_to_the_keeper_in_the_middle_of_an_upgrade_ends_everything() {
    // Given a way to keep those who start from getting ready: nobody waits for them.
    type Story = (&'static str, fn(&Service, &dyn Fn()));
    fn parks(s: &Service) {
        begin(s);
        s.wait_picture(&BESIDE);
        s.signal(s.master(1).pid, Signal::WINCH);
        s.wait_picture(&PARKED);
    }

    let stories: [Story; 5] = [
        ("mid-now", |s, _| begin(s)),
        ("mid-launching", |s, shut| {
            shut();
            begin(s);
            s.wait_phase("launching");
        }),
        ("mid-beside", |s, _| {
            begin(s);
            s.wait_picture(&BESIDE);
        }),
        ("mid-parked", |s, _| parks(s)),
        ("mid-back", |s, shut| {
            parks(s);
            shut();
            s.signal(s.master(1).pid, Signal::HUP);
        }),
    ];
    for (test, until) in stories {
        let gate = tempfile::NamedTempFile::new().expect("a gate");
        let path = gate.path().to_owned();
        let opened = path.with_extension("open");
        let patient = "[upgrade]\nstart_timeout = \"10m\"";
        let service = setup(test).config(patient).env("WORKBENCH_GATE", &path);
        let service = service.prepare();
        fs::rename(&path, &opened).expect("an open gate");
        service.start();
        service.wait_picture(&[ALONE]);
        until(&service, &|| {
            fs::rename(&opened, &path).expect("a shut gate");
        });
        service.signal(service.keeper(), Signal::TERM);
        ended(&service, 0);
        let _ = fs::remove_file(&opened);
    }
}

// --- a terminal ---

#[test]
fn a_terminal_s_resize_and_hang_up_mean_nothing() {
    let terminal = Terminal::open();
    let service = setup("terminal").prepare();
    service.start_on(&terminal);
    service.wait_picture(&[ALONE]);
    let keeper = Process::look(service.keeper()).expect("a keeper");
    assert_eq!(keeper.session, keeper.pid);
    for process in service.processes() {
        let own = process.pid == keeper.pid;
        assert_eq!(process.session == keeper.session, own, "{process}");
    }
    let load = light(&service);
    terminal.resize(120);
    terminal.resize(60);
    load.wait_answers(20, SOON);
    service.wait_picture(&[ALONE]);
    // The foreground job stays what it was, over a commit too.
    begin(&service);
    service.wait_picture(&BESIDE);
    terminal.resize(120);
    load.wait_answers(10, SOON);
    service.wait_picture(&BESIDE);
    service.signal(service.master(1).pid, Signal::WINCH);
    service.wait_picture(&PARKED);
    service.signal(service.master(1).pid, Signal::QUIT);
    service.wait_picture(&[COMMITTED]);
    wait_until("the commit on the terminal", || {
        terminal.text().contains("is committed")
    });
    terminal.hang_up();
    load.wait_answers(20, SOON);
    service.wait_picture(&[COMMITTED]);
    // With nobody to write to, another upgrade and its way back.
    service.cli(&["rollback"]).assert_code(0);
    service.wait_status("the first version", |s| s.version == "1.0.0");
    load.stop().assert_clean();
    assert!(Process::look(keeper.pid).is_some_and(|p| p.started == keeper.started));
    service.signal(keeper.pid, Signal::TERM);
    ended(&service, 0);
}

#[test]
fn a_terminal_s_interrupt_key_stops_the_service() {
    let mut terminal = Terminal::open();
    let service = setup("ctrl-c").prepare();
    service.start_on(&terminal);
    service.wait_picture(&[ALONE]);
    let request = InFlight::begin(&service, 600);
    terminal.press(CTRL_C);
    assert!(!request.completes());
    ended(&service, 0);
}

#[test]
fn a_terminal_s_quit_key_lets_requests_finish() {
    let mut terminal = Terminal::open();
    let service = setup("ctrl-backslash").prepare();
    service.start_on(&terminal);
    service.wait_picture(&[ALONE]);
    let request = InFlight::begin(&service, 8);
    terminal.press(CTRL_BACKSLASH);
    assert!(request.completes());
    ended(&service, 0);
}
