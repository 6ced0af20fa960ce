//! One listening socket a worker, opened by the master and never closed while its address is
//! served: connections are dealt out, and none is lost when workers die, hang, fill up, become more
//! or fewer, by reload, upgrade or rollback.

mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use handover::api::Worker;
use kit::build;
use kit::client::{Load, Running, Target};
use kit::port::Port;
use kit::proc;
use kit::queued::Queued;
use kit::service::{SOON, Service, Setup};
use kit::wait::{look_again, wait_until};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

const TWO: &str = "2.0.0";
const PATIENT: &str = "[upgrade]\nprobation = \"10m\"\n";

fn address(service: &Service) -> SocketAddr {
    match service.target("http") {
        Target::Tcp(address) => address,
        Target::Unix(path) => panic!("{} is no TCP address", path.display()),
    }
}

/// The sockets that listen on a port, as the kernel knows them.
fn slots(port: u16) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = format!(":{port:04X}");
            if fields.len() > 9 && fields[1].ends_with(&local) && fields[3] == "0A" {
                found.insert(fields[9].parse().expect("an inode"));
            }
        }
    }
    found
}

/// Which of these sockets each worker of a generation has.
fn hands(service: &Service, generation: u64, of: &BTreeSet<u64>) -> BTreeMap<u32, BTreeSet<u64>> {
    let hand = |pid| {
        let fds = proc::fds(pid).into_iter();
        let inode = |what: String| {
            what.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        };
        fds.filter_map(|(_, what)| inode(what))
            .filter(|inode| of.contains(inode))
            .collect()
    };
    let workers = service.workers(generation).into_iter();
    workers.map(|w| (w.pid, hand(w.pid))).collect()
}

/// Waits until each of so many workers has so many sockets, all of them together all sockets.
#[track_caller]
fn wait_dealt(service: &Service, generation: u64, sizes: &[usize]) -> BTreeSet<u64> {
    let mut last = String::new();
    let end = Instant::now() + SOON;
    loop {
        let all = slots(address(service).port());
        let hands = hands(service, generation, &all);
        let mut now: Vec<usize> = hands.values().map(BTreeSet::len).collect();
        now.sort_unstable();
        let held: BTreeSet<u64> = hands.values().flatten().copied().collect();
        if now == sizes && held == all {
            return all;
        }
        assert!(
            Instant::now() < end,
            "waited {SOON:?} for {sizes:?}: {last}"
        );
        last = format!("{hands:?} of {all:?}");
        look_again();
    }
}

fn counts(service: &Service, generation: u64) -> Vec<u64> {
    let status = service.status().expect("somebody answers");
    let master = status
        .masters
        .into_iter()
        .find(|m| m.generation == generation);
    let workers: Vec<Worker> = master.expect("its master").workers;
    workers.iter().map(|w| w.connections).collect()
}

/// Opens connections that stay, and says who has how many when all are accepted.
#[track_caller]
fn spread<S>(service: &Service, number: u64, connect: impl Fn() -> S) -> Vec<u64> {
    wait_until("earlier clients to be gone", || {
        counts(service, 1).iter().sum::<u64>() == 0
    });
    let _open: Vec<S> = (0..number).map(|_| connect()).collect();
    let mut now = Vec::new();
    wait_until("all connections to be accepted", || {
        now = counts(service, 1);
        now.iter().sum::<u64>() == number
    });
    now
}

/// Of 64 connections to one socket no worker takes more than `most`. One that a busy machine keeps from
/// running for a moment leaves its share to the others: three rounds.
#[track_caller]
fn shares<S>(service: &Service, most: u64, connect: impl Fn() -> S) {
    let mut rounds = Vec::new();
    while rounds.len() < 3 {
        let dealt = spread(service, 64, &connect);
        if dealt.iter().all(|n| *n <= most) {
            return;
        }
        rounds.push(dealt);
    }
    panic!("{rounds:?}");
}

/// Fresh connections, and some that stay.
fn load(service: &Service) -> Running {
    let spec = || service.load("http").pause(Duration::from_millis(1));
    let load = Load::start_all(vec![
        spec().fresh().connections(12),
        spec().keep_alive().connections(4),
    ]);
    load.wait_connected(SOON);
    load.wait_answers(50, SOON);
    load
}

fn begin(setup: Setup) -> Service {
    let service = setup.start();
    service.wait_owner(1, "serving");
    service
}

fn workers(count: usize) -> String {
    format!("workers = {count}\n{PATIENT}")
}

#[test]
fn connections_are_dealt_out_and_every_worker_has_a_socket_of_its_own() {
    let setup = Service::setup("dealt").tcp("http").unix("local");
    let service = begin(setup.config(&workers(4)));
    assert_eq!(wait_dealt(&service, 1, &[1; 4]).len(), 4);
    let status = service.status().expect("an owner");
    let names: Vec<_> = status.listeners.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["http", "local"], "a listener once, not once a slot");
    // By the kernel's hash: a hundred each, more or less.
    let to = address(&service);
    let dealt = spread(&service, 400, || {
        TcpStream::connect(to).expect("a connection")
    });
    assert!(dealt.iter().all(|n| (50..=150).contains(n)), "{dealt:?}");
    // Shared, and balanced.
    let path = service.dir().join("local.sock");
    let connect = || std::os::unix::net::UnixStream::connect(&path).expect("a connection");
    shares(&service, 24, connect);
}

/// The workbench, whose workers do not get ready while the gate is shut.
fn workbench(test: &str, config: &str) -> (Service, PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = dir.path().join("gate");
    let setup = Service::setup(test)
        .name("workbench")
        .image(build::example("workbench"))
        .env("WORKBENCH_GATE", &gate);
    let service = begin(setup.config(config));
    (service, gate, dir)
}

#[test]
fn a_dead_worker_s_full_queue_is_served_at_once_by_another() {
    let (service, gate, _dir) = workbench("dead", &workers(3));
    let all = wait_dealt(&service, 1, &[1; 3]);
    // Its replacement does not get ready.
    fs::write(&gate, "").expect("a gate");
    let victim = service.workers(1)[1].pid;
    service.signal(victim, Signal::STOP);
    let queued = Queued::ask(address(&service), 150);
    service.kill(victim);
    queued.assert_served();
    let status = service.status().expect("an owner");
    let starting = |w: &&Worker| w.state == "starting";
    assert_eq!(status.masters[0].workers.iter().filter(starting).count(), 1);
    // The two others share it, and give it back.
    let clients = Load::start(service.load("http").fresh().connections(8));
    clients.wait_answers(500, SOON);
    fs::remove_file(&gate).expect("a gate");
    assert_eq!(wait_dealt(&service, 1, &[1; 3]), all);
    clients.wait_answers(500, SOON);
    clients.stop().assert_clean();
}

#[test]
fn what_comes_to_a_worker_that_hangs_is_served_by_another() {
    let service = begin(Service::setup("hangs").config(&workers(2)));
    let all = wait_dealt(&service, 1, &[1; 2]);
    let victim = service.workers(1)[0].pid;
    service.signal(victim, Signal::STOP);
    Queued::ask(address(&service), 40).assert_served();
    service.signal(victim, Signal::CONT);
    assert_eq!(wait_dealt(&service, 1, &[1; 2]), all);
}

#[test]
fn what_comes_to_a_full_worker_is_served_by_another() {
    let config = format!("{}[http]\nmax_connections = 20\n", workers(2));
    let service = begin(Service::setup("full").config(&config));
    let all = wait_dealt(&service, 1, &[1; 2]);
    // As many as fit in both. The hash does not deal them twenty each.
    let to = address(&service);
    let connect = || TcpStream::connect(to).expect("a connection");
    for _ in 0..3 {
        assert_eq!(spread(&service, 40, connect), [20; 2]);
        assert_eq!(wait_dealt(&service, 1, &[1; 2]), all, "given back");
    }
}

#[test]
fn the_number_of_workers_grows_and_shrinks_by_reload_and_no_socket_is_closed() {
    let service = begin(Service::setup("reload").config(&workers(2)));
    let load = load(&service);
    let mut all = wait_dealt(&service, 1, &[1, 1]);
    for (count, dealt) in [
        (4, vec![1, 1, 1, 1]),
        (1, vec![4]),
        // One each, and the fourth is everybody's.
        (3, vec![2, 2, 2]),
        (2, vec![2, 2]),
        (4, vec![1, 1, 1, 1]),
    ] {
        load.mark(&format!("{count} workers"));
        service.write_config(&workers(count));
        service.cli(&["reload"]).assert_code(0);
        load.wait_answers(300, SOON);
        let now = wait_dealt(&service, 1, &dealt);
        assert!(now.is_superset(&all), "{now:?} {all:?}");
        assert_eq!(now.len(), 4);
        all = now;
        load.wait_answers(300, SOON);
    }
    load.stop().assert_clean();
}

#[test]
fn the_number_of_workers_grows_and_shrinks_by_upgrade_and_rollback() {
    let releases = [build::own(), build::other_version(TWO)];
    let service = begin(Service::setup("upgrade").config(&workers(2)));
    let load = load(&service);
    let two = wait_dealt(&service, 1, &[1, 1]);
    // More workers than sockets: they share them till there is no way back.
    let upgrade = |generation: u64, count: usize| {
        load.mark(&format!("g{generation} with {count} workers"));
        service.write_config(&workers(count));
        service.replace(&releases[usize::from(generation % 2 == 0)]);
        service.cli(&["upgrade"]).assert_code(0);
        service.wait_owner(generation, "probation");
        load.wait_answers(300, SOON);
    };
    upgrade(2, 4);
    assert_eq!(wait_dealt(&service, 2, &[2; 4]), two);
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(1, "serving");
    load.wait_answers(300, SOON);
    assert_eq!(wait_dealt(&service, 1, &[1, 1]), two);
    upgrade(2, 4);
    service.cli(&["commit"]).assert_code(0);
    let four = wait_dealt(&service, 2, &[1; 4]);
    assert!(four.len() == 4 && four.is_superset(&two));
    upgrade(3, 1);
    assert_eq!(wait_dealt(&service, 3, &[4]), four);
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(2, "serving");
    assert_eq!(wait_dealt(&service, 2, &[1; 4]), four);
    upgrade(3, 1);
    service.cli(&["commit"]).assert_code(0);
    service.wait_owner(3, "serving");
    load.wait_answers(300, SOON);
    upgrade(4, 3);
    assert_eq!(wait_dealt(&service, 4, &[2; 3]), four);
    service.cli(&["commit"]).assert_code(0);
    service.wait_owner(4, "serving");
    load.wait_answers(300, SOON);
    assert_eq!(wait_dealt(&service, 4, &[2; 3]), four);
    load.stop().assert_clean();
}

#[test]
fn twenty_upgrades_leave_every_master_and_worker_with_as_many_descriptors() {
    let releases = [build::own(), build::other_version(TWO)];
    let config = "workers = 2\n[upgrade]\nprobation = \"0s\"\n";
    let service = begin(Service::setup("twenty").config(config));
    let load = Load::start(service.load("http").fresh().pause(Duration::from_millis(2)));
    let all = wait_dealt(&service, 1, &[1, 1]);
    let mut census = None;
    for generation in 2..=21 {
        service.replace(&releases[usize::from(generation % 2 == 0)]);
        service
            .cli(&["upgrade", "--until", "commit"])
            .assert_code(0);
        service.wait_owner(generation, "serving");
        load.wait_answers(5, SOON);
        assert_eq!(wait_dealt(&service, generation, &[1, 1]), all);
        if generation == 3 {
            service.wait_processes("one generation", |_| service.masters().len() == 1);
            census = Some(service.census());
        }
    }
    service.wait_census(&census.expect("taken"));
    load.stop().assert_clean();
}

#[test]
fn an_address_that_an_upgrade_brings_has_all_its_slots_when_it_listens() {
    let port = Port::reserve();
    let service = begin(Service::setup("brings").config(&workers(3)));
    let to = port.address();
    service.write_config(&format!(
        "{}[[listener]]\nname = \"more\"\naddress = \"{to}\"\nbacklog = 7\n",
        workers(3)
    ));
    service.replace(&build::other_version(TWO));
    service.cli(&["upgrade"]).assert_code(0);
    service.wait_owner(2, "probation");
    wait_until("all slots to listen", || slots(port.number).len() == 3);
    Queued::ask(to, 30).assert_served();
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(1, "serving");
    wait_until("the new address to be let go", || {
        slots(port.number).is_empty()
    });
}

/// Of our own user, and with the option: it could share the port, and must not.
#[test]
fn a_port_that_another_program_would_share_is_in_use() {
    let service = Service::setup("foreign").config(&workers(2)).prepare();
    let foreign = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    foreign.set_reuse_address(true).expect("an option");
    foreign.set_reuse_port(true).expect("an option");
    let to = address(&service);
    foreign.bind(&to.into()).expect("a reserved port");
    foreign.listen(16).expect("a listener");
    service.start();
    assert_eq!(service.wait_exit().code(), Some(1));
    let log = service.log_text();
    assert!(
        log.contains(&to.to_string()) && log.contains("in use"),
        "{log}"
    );
    drop(foreign);
    service.start();
    service.wait_owner(1, "serving");
    // And another copy of ours is as strict.
    let second = Service::setup("foreign_2").config(&workers(2)).prepare();
    let text = format!("workers = 2\n[[listener]]\nname = \"http\"\naddress = \"{to}\"\n");
    fs::write(&second.config, text).expect("a configuration");
    second.start();
    assert_eq!(second.wait_exit().code(), Some(1));
    assert!(
        second.log_text().contains("in use"),
        "{}",
        second.log_text()
    );
}

/// What the socket of another program keeps us from opening.
#[test]
fn a_slot_that_cannot_be_opened_is_shared_and_logged() {
    let service = Service::setup("shared").config(&workers(3)).prepare();
    let to = address(&service);
    let socket = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.bind(&to.into()).expect("a reserved port");
        socket
    };
    let (ours, foreign) = (socket(), socket());
    ours.listen(64).expect("a listener");
    // It is bound beside ours, and shares with nobody else.
    foreign.set_reuse_address(false).expect("an option");
    let service = service.start_under_manager(|mut unit| {
        unit.sockets.push(("own.http".into(), OwnedFd::from(ours)));
        unit
    });
    service.manager().wait_ready();
    service.wait_owner(1, "serving");
    let shared = wait_dealt(&service, 1, &[1; 3]);
    assert_eq!(shared.len(), 1);
    let log = service.log_text();
    assert!(log.contains("cannot open another socket on"), "{log}");
    shares(&service, 32, || {
        TcpStream::connect(to).expect("a connection")
    });
    drop(foreign);
    let load = load(&service);
    service.cli(&["reload"]).assert_code(0);
    assert!(wait_dealt(&service, 1, &[1; 3]).is_superset(&shared));
    load.wait_answers(100, SOON);
    load.stop().assert_clean();
}

/// A queue of one holds two (the kernel's way of counting).
#[test]
fn the_backlog_is_the_configured_one_also_after_a_reload() {
    let service = begin(Service::setup("backlog").config("workers = 1\n"));
    let to = address(&service);
    let fits = |number: usize| {
        let worker = service.workers(1)[0].pid;
        service.signal(worker, Signal::STOP);
        let connect = |_| TcpStream::connect_timeout(&to, Duration::from_millis(300));
        let queued: Vec<_> = (0..number).map_while(|n| connect(n).ok()).collect();
        service.signal(worker, Signal::CONT);
        queued.len()
    };
    assert_eq!(fits(20), 20);
    let listener = format!("[[listener]]\nname = \"http\"\naddress = \"{to}\"\n");
    for (backlog, held) in [("backlog = 1\n", 2), ("backlog = 9\n", 10), ("", 20)] {
        let text = format!("workers = 1\n{listener}{backlog}");
        fs::write(&service.config, text).expect("a configuration");
        service.cli(&["reload"]).assert_code(0);
        service.wait_processes("one worker", |_| service.workers(1).len() == 1);
        assert_eq!(fits(20), held, "{backlog:?}");
    }
}
