//! The configuration: what is wrong with one is shown with its line, and a reload or an upgrade
//! that brings another one loses no request.

mod kit;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use kit::build;
use kit::client::{Load, Running, Target};
use kit::port::Port;
use kit::service::{SOON, Service};
use rustix::process::Signal;

const TWO: &str = "2.0.0";

fn load_on(service: &Service, listener: &str) -> Running {
    let spec = || service.load(listener).pause(Duration::from_millis(2));
    let load = Load::start_all(vec![
        spec().keep_alive().connections(8),
        spec().fresh().connections(4),
        spec().pipelined(4).connections(2),
    ]);
    load.wait_connected(SOON);
    load.wait_answers(50, SOON);
    load
}

fn begin(test: &str, config: &str) -> (Service, Running) {
    let service = Service::setup(test).config(config).start();
    service.wait_owner(1, "serving");
    let load = load_on(&service, "http");
    (service, load)
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "a pause between two looks, until a deadline"
)]
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "waited {SOON:?} for {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn answers(address: SocketAddr) -> bool {
    use std::io::Write;
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200 ")
}

fn listener(name: &str, address: impl std::fmt::Display) -> String {
    format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

#[test]
fn a_reload_swaps_the_workers_and_loses_nothing() {
    let (service, load) = begin("reload", "workers = 2\n");
    for round in 0..5 {
        let before: Vec<u32> = service.workers(1).iter().map(|w| w.pid).collect();
        load.mark(&format!("reload {round}"));
        service.cli(&["reload"]).assert_code(0);
        service.wait_processes("other workers", |_| {
            let now = service.workers(1);
            now.len() == 2 && now.iter().all(|w| !before.contains(&w.pid))
        });
        load.wait_answers(50, SOON);
    }
    let pid = service.master(1).pid;
    let before: Vec<u32> = service.workers(1).iter().map(|w| w.pid).collect();
    service.signal(pid, Signal::HUP);
    service.wait_processes("other workers after HUP", |_| {
        let now = service.workers(1);
        now.len() == 2 && now.iter().all(|w| !before.contains(&w.pid))
    });
    let status = service.wait_owner(1, "serving");
    assert!(status.config.matches_disk);
    load.stop().assert_clean();
}

#[test]
fn a_bad_configuration_leaves_the_old_one_serving_and_ends_with_78() {
    let (service, load) = begin("bad_reload", "workers = 2\n");
    let before = service.census();
    let pids: Vec<u32> = service.processes().iter().map(|p| p.pid).collect();
    let good = fs::read_to_string(&service.config).expect("a file");
    fs::write(&service.config, format!("wrokers = 1\n{good}")).expect("a file");
    for verb in ["reload", "apply"] {
        let output = service.cli(&[verb]);
        output.assert_code(78);
        let place = format!("{}:1", service.config.display());
        says(&output.stderr, &[&place, "wrokers = 1", "(g1) serves on"]);
    }
    let status = service.wait_owner(1, "serving");
    assert!(!status.config.matches_disk);
    service.signal(service.master(1).pid, Signal::HUP);
    wait("the complaint in the log", || {
        service.log_text().matches("wrokers = 1").count() >= 1
    });
    service.wait_owner(1, "serving");
    service.wait_census(&before);
    let now: Vec<u32> = service.processes().iter().map(|p| p.pid).collect();
    assert_eq!(now, pids, "nobody was replaced");
    fs::write(&service.config, good).expect("a file");
    service.cli(&["reload"]).assert_code(0);
    assert!(service.wait_owner(1, "serving").config.matches_disk);
    load.stop().assert_clean();
}

#[test]
fn the_number_of_workers_grows_and_shrinks_by_reload() {
    let (service, load) = begin("count", "workers = 2\n");
    for count in [5, 1, 3, 2] {
        load.mark(&format!("{count} workers"));
        service.write_config(&format!("workers = {count}\n"));
        service.cli(&["reload"]).assert_code(0);
        service.wait_processes("so many workers", |_| service.workers(1).len() == count);
        let status = service.wait_owner(1, "serving");
        assert_eq!(status.masters[0].workers.len(), count);
        load.wait_answers(100, SOON);
    }
    load.stop().assert_clean();
}

#[test]
fn a_reload_adds_and_removes_listeners() {
    let (service, load) = begin("listeners", "workers = 2\n");
    let (a, b) = (Port::reserve(), Port::reserve());
    let fds = service.fd_count(service.master(1).pid);
    assert!(!answers(a.address()));
    service.write_config(&format!("workers = 2\n{}", listener("a", a.address())));
    service.cli(&["reload"]).assert_code(0);
    assert!(answers(a.address()));
    let names = |service: &Service| -> Vec<String> {
        let status = service.status().expect("an owner");
        let mut names: Vec<_> = status.listeners.into_iter().map(|l| l.name).collect();
        names.sort();
        names.dedup();
        names
    };
    assert_eq!(names(&service), ["a", "http"]);
    // Moved to another port.
    service.write_config(&format!("workers = 2\n{}", listener("a", b.address())));
    service.cli(&["reload"]).assert_code(0);
    assert!(answers(b.address()));
    wait("the old port to be free", || {
        TcpListener::bind(a.address()).is_ok()
    });
    // Gone.
    service.write_config("workers = 2\n");
    service.cli(&["reload"]).assert_code(0);
    wait("both to be free", || TcpListener::bind(b.address()).is_ok());
    assert_eq!(names(&service), ["http"]);
    wait("no descriptor too many", || {
        service.fd_count(service.master(1).pid) == fds
    });
    load.stop().assert_clean();
}

#[test]
fn a_reload_that_cannot_bind_changes_nothing_and_names_the_port() {
    let (service, load) = begin("reload_bind", "workers = 2\n");
    let before = service.census();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    service.write_config(&format!("workers = 3\n{}", listener("more", address)));
    let output = service.cli(&["reload"]);
    assert!(output.code == 1 || output.code == 78, "{output}");
    says(
        &output.stderr,
        &[&address.to_string(), "in use", "serves on"],
    );
    service.wait_owner(1, "serving");
    service.wait_census(&before);
    assert_eq!(service.workers(1).len(), 2);
    load.stop().assert_clean();
}

#[test]
fn an_upgrade_brings_a_listener_that_listens_from_the_takeover_and_keeps_a_dropped_one() {
    let (old, new) = (Port::reserve(), Port::reserve());
    let patient = "workers = 2\n[upgrade]\nprobation = \"10m\"\n";
    let service = Service::setup("upgrade_listeners")
        .config(&format!("{patient}{}", listener("old", old.address())))
        .start();
    service.wait_owner(1, "serving");
    let load = load_on(&service, "http");
    assert!(answers(old.address()));
    let swapped = format!("{patient}{}", listener("new", new.address()));
    for back in [true, false] {
        service.write_config(&swapped);
        assert!(!answers(new.address()));
        service.replace(&build::other_version(TWO));
        service.cli(&["upgrade"]).assert_code(0);
        // Listens from the takeover: a connect that comes now waits in the queue, if need be.
        assert!(
            answers(new.address()),
            "the new address from the takeover on"
        );
        service.wait_owner(2, "probation");
        // The dropped one is still ours: nobody else may take it, for a rollback needs it.
        assert!(TcpListener::bind(old.address()).is_err());
        if back {
            service.cli(&["rollback"]).assert_code(0);
            service.wait_owner(1, "serving");
            assert!(answers(old.address()), "the old one after a rollback");
            wait("the new port to be free", || {
                TcpListener::bind(new.address()).is_ok()
            });
        } else {
            service.cli(&["commit"]).assert_code(0);
            service.wait_owner(2, "serving");
            wait("the old port to be free", || {
                TcpListener::bind(old.address()).is_ok()
            });
            assert!(answers(new.address()));
        }
    }
    load.stop().assert_clean();
}

#[test]
fn a_unix_socket_has_the_mode_and_group_that_were_asked_for() {
    let service = Service::setup("unix")
        .config("workers = 2\n")
        .unix("local")
        .start();
    service.wait_owner(1, "serving");
    let root = rustix::process::geteuid().is_root();
    let path = service.dir().join("other.sock");
    let group = if root { "group = \"daemon\"\n" } else { "" };
    let more = listener("other", format!("unix:{}", path.display()));
    service.write_config(&format!("workers = 2\n{more}mode = \"0620\"\n{group}"));
    let load = load_on(&service, "local");
    service.cli(&["reload"]).assert_code(0);
    let meta = fs::metadata(&path).expect("a socket");
    assert_eq!(meta.permissions().mode() & 0o777, 0o620);
    if root {
        let daemon = nix::unistd::Group::from_name("daemon")
            .expect("groups")
            .expect("daemon");
        assert_eq!(meta.gid(), daemon.gid.as_raw());
    }
    let inode = meta.ino();
    let other = Load::start(kit::client::Spec::new(Target::Unix(path.clone())).connections(4));
    other.wait_answers(50, SOON);
    // An upgrade and a rollback leave it where it is.
    service.replace(&build::other_version(TWO));
    service.cli(&["upgrade"]).assert_code(0);
    other.wait_server("handover/2.0.0", 20, SOON);
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(1, "serving");
    assert_eq!(fs::metadata(&path).expect("still there").ino(), inode);
    other.stop().assert_clean();
    // Dropped: its path goes too.
    service.write_config("workers = 2\n");
    service.cli(&["reload"]).assert_code(0);
    wait("the path to go", || !path.exists());
    load.stop().assert_clean();
    service.cli(&["stop"]).assert_code(0);
    assert!(service.wait_exit().success());
    assert!(!service.dir().join("local.sock").exists());
}

#[test]
fn a_stale_unix_socket_is_taken_and_a_living_one_is_not() {
    let service = Service::setup("stale")
        .config("workers = 1\n")
        .unix("local")
        .prepare();
    let path = service.dir().join("local.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    service.start();
    service.wait_owner(1, "serving");
    service.cli(&["stop"]).assert_code(0);
    service.wait_exit();
    let _alive = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    service.start();
    assert_eq!(service.wait_exit().code(), Some(1));
    says(&service.log_text(), &["local.sock", "in use"]);
    assert!(path.exists());
}

#[test]
fn several_addresses_may_share_a_name() {
    let ports: Vec<Port> = (0..3).map(|_| Port::reserve()).collect();
    let text: String = ports.iter().map(|p| listener("web", p.address())).collect();
    let service = Service::setup("several")
        .config(&format!("workers = 2\n{text}"))
        .start();
    service.wait_owner(1, "serving");
    assert!(ports.iter().all(|p| answers(p.address())));
    let load = load_on(&service, "http");
    service.replace(&build::other_version(TWO));
    service.cli(&["upgrade"]).assert_code(0);
    assert!(ports.iter().all(|p| answers(p.address())));
    service.cli(&["commit"]).assert_code(0);
    service.wait_owner(2, "serving");
    // One of them goes.
    let text: String = ports[1..]
        .iter()
        .map(|p| listener("web", p.address()))
        .collect();
    service.write_config(&format!("workers = 2\n{text}"));
    service.cli(&["reload"]).assert_code(0);
    wait("the port to be free", || {
        TcpListener::bind(ports[0].address()).is_ok()
    });
    assert!(ports[1..].iter().all(|p| answers(p.address())));
    load.stop().assert_clean();
}

#[test]
fn v6_and_dual_stack_listeners_are_served_and_handed_over() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: no IPv6 here");
        return;
    }
    let (v6, dual) = (Port::reserve(), Port::reserve());
    let text = format!(
        "workers = 2\n{}{}",
        listener("six", format!("[::1]:{}", v6.number)),
        listener("dual", format!("[::]:{}", dual.number))
    );
    let service = Service::setup("v6").config(&text).start();
    service.wait_owner(1, "serving");
    let at = |ip: &str, port: &Port| -> SocketAddr {
        format!("{ip}:{}", port.number).parse().expect("an address")
    };
    let all = [at("[::1]", &v6), at("[::1]", &dual), at("127.0.0.1", &dual)];
    assert!(all.iter().all(|a| answers(*a)));
    assert!(!answers(at("127.0.0.1", &v6)), "v6 only");
    let loads: Vec<Running> = all
        .iter()
        .map(|address| {
            let spec = kit::client::Spec::new(*address).connections(4);
            Load::start(spec.pause(Duration::from_millis(2)))
        })
        .collect();
    service.replace(&build::other_version(TWO));
    service.cli(&["upgrade"]).assert_code(0);
    for load in &loads {
        load.wait_server("handover/2.0.0", 20, SOON);
    }
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(1, "serving");
    for load in loads {
        load.stop().assert_clean();
    }
}

#[test]
fn a_taken_port_at_a_cold_start_is_named() {
    let service = Service::setup("taken").config("workers = 1\n").prepare();
    let Target::Tcp(address) = service.target("http") else {
        unreachable!("a TCP listener")
    };
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, address.port())).expect("a free port");
    service.start();
    assert_eq!(service.wait_exit().code(), Some(1));
    says(
        &service.log_text(),
        &[&address.to_string(), "\"http\"", "in use"],
    );
    assert_eq!(service.processes(), []);
    assert_eq!(
        service.runtime_files(),
        [""; 0],
        "nothing is left of a failed start"
    );
}

#[test]
fn a_listener_without_an_address_says_which_unit_is_missing() {
    let service = Service::setup("no_address").passed("http").start();
    assert_ne!(service.wait_exit().code(), Some(0));
    says(&service.log_text(), &["\"http\"", ".socket"]);
}

#[test]
fn nothing_configured_at_all_serves_the_welcome_page() {
    let port = Port::reserve();
    let service = Service::setup("bare")
        .without_config()
        .arg("--listen")
        .arg(port.address().to_string())
        .start();
    service.wait_owner(1, "serving");
    assert!(answers(port.address()));
    service.replace(&build::other_version(TWO));
    service.cli(&["upgrade"]).assert_code(0);
    assert!(answers(port.address()));
    let status = service.wait_owner(2, "probation");
    assert_eq!(status.listeners[0].address, port.address().to_string());
}

#[test]
fn a_reload_in_probation_is_kept_out_of_the_rollback() {
    let (service, load) = begin(
        "reload_back",
        "workers = 2\n[upgrade]\nprobation = \"10m\"\n",
    );
    service.replace(&build::other_version(TWO));
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    service.write_config("workers = 4\n[upgrade]\nprobation = \"10m\"\n");
    service.cli(&["reload"]).assert_code(0);
    service.wait_processes("four workers", |_| service.workers(2).len() == 4);
    service.wait_owner(2, "probation");
    service.cli(&["rollback"]).assert_code(0);
    let status = service.wait_owner(1, "serving");
    service.wait_processes("the two that were", |_| service.workers(1).len() == 2);
    assert!(
        !status.config.matches_disk,
        "status says that it is not what is on disk"
    );
    load.stop().assert_clean();
}
