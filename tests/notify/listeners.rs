//! Listening sockets: from a socket unit, from the store, dropped, added; nobody is ever refused.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use handover::api::Phase;
use rustix::process::Signal;

use crate::kit::client::Load;
use crate::kit::manager::{Active, State, Unit, inode};
use crate::kit::proc;
use crate::kit::service::{Service, Setup};
use crate::scene::{
    Queued, SOON, assert_manners, commit, messages, next, position, rollback, serving_as, tcp,
    upgrade, wait_until,
};

pub fn patient(mut unit: Unit) -> Unit {
    // Time to look at what is there while nothing runs.
    unit.restart_after = Duration::from_millis(500);
    unit
}

/// Everything dies at once, clients come, and the manager starts the service again.
pub fn crash(service: &Service) {
    let manager = service.manager();
    let starts = manager.look(|s| s.starts);
    let addresses: Vec<_> = service.status().unwrap().listeners.into_iter().collect();
    let doomed = service.processes();
    for process in doomed.iter().filter(|p| !p.is_zombie()) {
        service.signal(process.pid, Signal::STOP);
    }
    for process in doomed {
        // The kernel wakes the stopped ones of a group whose last parent has gone (SIGHUP, SIGCONT).
        service.make_sure_of(process.pid);
    }
    let queued: Vec<_> = addresses
        .iter()
        .filter_map(|l| l.address.parse().ok())
        .map(|address| Queued::ask(address, 8))
        .collect();
    assert!(!queued.is_empty());
    manager.wait_for("the next start", |s| (s.starts > starts).then_some(()));
    for clients in queued {
        clients.assert_served();
    }
    service.wait_owner(1, "serving");
}

/// Serving, with a unit that the test has shaped.
fn started(service: Service, shape: impl FnOnce(&mut Unit)) -> Service {
    let service = service.start_under_manager(|mut unit| {
        shape(&mut unit);
        unit
    });
    service.manager().wait_ready();
    service.wait_owner(1, "serving");
    service
}

/// The listening socket as every process that has it sees it.
fn holders(service: &Service, inode: u64) -> usize {
    let name = format!("socket:[{inode}]");
    let all = service.processes();
    all.iter()
        .filter(|p| proc::fds(p.pid).iter().any(|(_, what)| *what == name))
        .count()
}

fn listener_at(address: std::net::SocketAddr) -> (OwnedFd, u64) {
    let fd: OwnedFd = TcpListener::bind(address).expect("a reserved port").into();
    let inode = inode(&fd).1;
    (fd, inode)
}

#[track_caller]
fn source_of(service: &Service, name: &str) -> String {
    let status = service.status().expect("somebody answers");
    let of_name: Vec<_> = status.listeners.iter().filter(|l| l.name == name).collect();
    assert_eq!(of_name.len(), 1, "{:?}", status.listeners);
    of_name[0].source.clone()
}

#[test]
fn a_socket_unit_s_listener_is_found_by_name_kept_by_upgrades_and_never_stored() {
    let setup = Service::setup("unit")
        .passed("web")
        .passed("admin")
        .tcp("own");
    let service = serving_as(setup, patient);
    assert_eq!(source_of(&service, "web"), "systemd");
    assert_eq!(source_of(&service, "own"), "own");
    let loads = ["web", "admin", "own"].map(|name| service.load(name).fresh());
    let load = Load::start_all(loads.into());
    load.wait_answers(30, SOON);
    upgrade(&service);
    assert_eq!(source_of(&service, "admin"), "systemd");
    commit(&service);
    load.wait_answers(30, SOON);
    load.stop().assert_clean();
    let manager = service.manager();
    assert_eq!(manager.look(|s| s.stored().join(" ")), "own.own own.own");
    crash(&service);
    assert_eq!(source_of(&service, "web"), "systemd");
    assert_eq!(manager.look(|s| s.stored().join(" ")), "own.own own.own");
}

#[test]
fn what_we_bound_ourselves_outlives_a_crash_of_everything_and_a_restart() {
    let service = serving_as(Service::setup("store").unix("local").tcp("http"), patient);
    let manager = service.manager();
    let stored = |s: &State| -> Vec<(String, (u64, u64))> {
        let mut all: Vec<_> = s
            .store
            .iter()
            .map(|x| (x.name.clone(), inode(&x.fd)))
            .collect();
        all.sort();
        all
    };
    let before = manager.look(stored);
    let names: Vec<_> = before.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        names.contains(&"own.http") && names.contains(&"own.local"),
        "{names:?}"
    );
    crash(&service);
    assert_eq!(manager.look(stored), before, "other sockets than before");
    let load = Load::start_all(vec![service.load("local"), service.load("http").fresh()]);
    load.wait_answers(20, SOON);
    load.stop().assert_clean();

    let load = Load::start(service.load("http").fresh().pause(Duration::from_millis(1)));
    load.wait_answers(20, SOON);
    manager.restart();
    service.wait_owner(1, "serving");
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
    assert_eq!(manager.look(stored), before);
}

#[test]
fn a_crash_of_everything_in_a_probation_refuses_nobody() {
    let service = serving_as(Service::setup("store_probation"), patient);
    upgrade(&service);
    crash(&service);
}

#[test]
fn the_same_socket_from_the_unit_and_from_the_store_is_one_listener() {
    let service = Service::setup("twice").prepare();
    let (fd, _) = listener_at(tcp(&service, "http"));
    let service = started(service, |unit| {
        let copy = fd.try_clone().expect("a copy");
        unit.sockets = vec![("http".into(), fd), ("own.http".into(), copy)];
    });
    assert_eq!(source_of(&service, "http"), "systemd");
    let load = Load::start(service.load("http").fresh());
    load.wait_answers(10, SOON);
    load.stop().assert_clean();
}

#[test]
fn what_nobody_configured_is_closed_and_removed_from_the_store() {
    let mut inodes = Vec::new();
    let service = started(Service::setup("unwanted").prepare(), |unit| {
        for name in ["extra", "own.gone"] {
            let (fd, inode) = listener_at(([127, 0, 0, 1], 0).into());
            inodes.push(inode);
            unit.sockets.push((name.into(), fd));
        }
        let memory = rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC);
        unit.sockets
            .push(("own.state".into(), memory.expect("a memfd")));
    });
    for name in ["extra", "own.gone", "own.state"] {
        let removed = messages(&service, |m| {
            m.has("FDSTOREREMOVE", "1") && m.has("FDNAME", name)
        });
        assert_eq!(removed.len(), 1, "{name}");
    }
    for inode in inodes {
        assert_eq!(holders(&service, inode), 0);
    }
    for process in service.processes() {
        let fds = proc::fds(process.pid);
        assert!(
            !fds.iter().any(|(_, what)| what.contains("memfd:state")),
            "{fds:?}"
        );
    }
    assert_eq!(
        service.manager().look(|s| s.stored().join(" ")),
        "own.http own.http"
    );
}

#[test]
fn an_address_that_the_socket_unit_passes_counts_and_the_status_warns() {
    let service = started(Service::setup("wins").prepare(), |unit| {
        let (fd, _) = listener_at(([127, 0, 0, 1], 0).into());
        unit.sockets.push(("http".into(), fd));
    });
    let status = service.status().unwrap();
    let configured = tcp(&service, "http");
    let passed = &status.listeners[0];
    assert_eq!(
        (status.listeners.len(), passed.source.as_str()),
        (1, "systemd")
    );
    assert_ne!(passed.address, configured.to_string());
    let warned = status.warnings.iter().any(|w| {
        w.contains(&configured.to_string()) && w.contains(&passed.address) && w.contains("http")
    });
    assert!(warned, "{:?}", status.warnings);
    Queued::ask(passed.address.parse().unwrap(), 4).assert_served();
    assert!(TcpStream::connect(configured).is_err());
    let shown = service.cli(&["status"]);
    assert!(
        shown
            .assert_code(0)
            .stdout
            .contains("the socket unit's address")
    );
}

#[test]
fn an_address_that_nobody_has_is_an_error_that_names_the_unit_to_enable_and_no_restart() {
    let service = Service::setup("missing")
        .passed("web")
        .start_under_manager(|mut unit| {
            unit.sockets.clear();
            unit
        });
    let manager = service.manager();
    let result = manager.wait_for("the end", |s| s.result);
    assert_eq!(result.code(), Some(78), "{}", service.log_text());
    let log = service.log_text();
    assert!(
        log.contains("FileDescriptorName=web") && log.contains(".socket"),
        "{log}"
    );
    manager.wait_for("no restart", |s| (s.active == Active::Dead).then_some(()));
}

/// Listeners, each with a name and an address, as the configuration's only content.
fn configure(service: &Service, listeners: &[(&str, std::net::SocketAddr)]) {
    let mut text = String::from("workers = 2\n");
    for (name, address) in listeners {
        text += &format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    std::fs::write(&service.config, text).expect("the configuration");
}

fn addresses(service: &Service) -> [std::net::SocketAddr; 3] {
    ["a", "b", "c"].map(|name| tcp(service, name))
}

fn listens(address: std::net::SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// What is stored, by name and address.
fn stored(service: &Service) -> Vec<(String, String)> {
    let of = |s: &State| {
        let address = |fd: &OwnedFd| {
            let fd = fd.try_clone().expect("a copy");
            TcpListener::from(fd)
                .local_addr()
                .expect("bound")
                .to_string()
        };
        let mut all: Vec<_> = s
            .store
            .iter()
            .map(|x| (x.name.clone(), address(&x.fd)))
            .collect();
        all.sort();
        all.dedup();
        all
    };
    service.manager().look(of)
}

fn pairs(all: &[(&str, std::net::SocketAddr)]) -> Vec<(String, String)> {
    let mut all: Vec<_> = all
        .iter()
        .map(|(n, a)| (format!("own.{n}"), a.to_string()))
        .collect();
    all.sort();
    all
}

fn three(test: &str) -> Setup {
    Service::setup(test).tcp("a").tcp("b").tcp("c")
}

/// The same name has two sockets: a goes, b comes, c stays.
#[test]
fn a_changed_address_of_ours_is_let_go_at_the_commit_and_others_of_that_name_stay_stored() {
    let service = three("moved").prepare();
    let [a, b, c] = addresses(&service);
    configure(&service, &[("http", a), ("http", c)]);
    let service = started(service, |_| ());
    let before = pairs(&[("http", a), ("http", c)]);
    assert_eq!(stored(&service), before);
    let load = Load::start(crate::kit::client::Spec::new(c).fresh());
    configure(&service, &[("http", b), ("http", c)]);
    upgrade(&service);
    Queued::ask(b, 4).assert_served();
    assert!(listens(a), "let go before the commit");
    assert_eq!(
        stored(&service),
        before,
        "the store is changed by the commit alone"
    );
    commit(&service);
    wait_until("the old address to be let go", || !listens(a));
    assert_eq!(stored(&service), pairs(&[("http", b), ("http", c)]));
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
    crash(&service);
    Queued::ask(b, 4).assert_served();
}

#[test]
fn a_rollback_finds_the_old_addresses_and_leaves_none_of_the_new_ones_behind() {
    let service = three("moved_back").prepare();
    let [a, b, c] = addresses(&service);
    configure(&service, &[("http", a), ("http", c)]);
    let service = started(service, |_| ());
    let before = pairs(&[("http", a), ("http", c)]);
    configure(&service, &[("http", b), ("more", c)]);
    upgrade(&service);
    Queued::ask(b, 4).assert_served();
    rollback(&service);
    Queued::ask(a, 4).assert_served();
    Queued::ask(c, 4).assert_served();
    wait_until("the new address to be refused again", || !listens(b));
    assert_eq!(stored(&service), before);
    // The same when the successor can do nothing about it any more.
    upgrade(&service);
    service.kill(service.master(2).pid);
    service.wait_owner(1, "serving");
    Queued::ask(a, 4).assert_served();
    wait_until("the new address to be refused again", || !listens(b));
    assert_eq!(stored(&service), before);
}

#[test]
fn a_new_generation_stores_what_it_added_when_it_is_the_main_process() {
    let service = three("added").prepare();
    let [a, b, _] = addresses(&service);
    configure(&service, &[("http", a)]);
    let service = started(service, |_| ());
    configure(&service, &[("http", a), ("more", b)]);
    upgrade(&service);
    let (g1, g2) = (service.master(1).pid, service.master(2).pid);
    commit(&service);
    assert_eq!(stored(&service), pairs(&[("http", a), ("more", b)]));
    service.manager().look(|s| {
        let main = position(s, |m| m.pid == g1 && m.has("MAINPID", &g2.to_string()));
        let store = position(s, |m| m.has("FDNAME", "own.more"));
        assert!(main.is_some() && main < store, "{main:?} {store:?}");
        assert_eq!(s.messages[store.unwrap()].pid, g2);
    });
    assert_manners(&service, &[g1, g2]);
}

/// The successor was ready and never told to take over: it owns the service by its predecessor's
/// death, and its additional listener outlives it too.
#[test]
fn what_was_added_is_stored_also_when_the_predecessor_dies_before_the_takeover() {
    let service = three("added_orphan").prepare();
    let [a, b, _] = addresses(&service);
    configure(&service, &[("http", a)]);
    let service = started(service, |_| ());
    configure(&service, &[("http", a), ("more", b)]);
    service.replace(&next());
    service.cli(&["upgrade", "--hold"]).assert_code(0);
    let g1 = service.master(1).pid;
    service.signal(g1, Signal::KILL);
    // Who is faster: the manager sees its main process die and starts everything anew, or the
    // successor says first that it is the main process now.
    let ended = |s: &State| s.main != Some(g1) && s.main.is_some() && s.active == Active::Running;
    service
        .manager()
        .wait_for("an owner", |s| ended(s).then_some(()));
    service.wait_phase("serving");
    Queued::ask(b, 4).assert_served();
    service.cli(&["commit"]).assert_code(0);
    wait_until("the store", || {
        stored(&service) == pairs(&[("http", a), ("more", b)])
    });
}

/// A reload in a probation lets nothing go that the parked master would need.
#[test]
fn a_reload_in_a_probation_lets_nothing_go() {
    let service = three("reloaded").prepare();
    let [a, b, c] = addresses(&service);
    configure(&service, &[("http", a), ("more", c)]);
    let service = started(service, |_| ());
    let before = stored(&service);
    upgrade(&service);
    configure(&service, &[("http", a), ("other", b)]);
    service.cli(&["reload"]).assert_code(0);
    Queued::ask(b, 4).assert_served();
    assert_eq!(stored(&service), before);
    rollback(&service);
    Queued::ask(c, 4).assert_served();
    wait_until("the new address to be refused again", || !listens(b));
    assert_eq!(stored(&service), before);
}

#[test]
fn a_reload_of_a_lone_generation_changes_the_store_at_once() {
    let service = three("reload_alone").prepare();
    let [a, b, c] = addresses(&service);
    configure(&service, &[("http", a), ("http", c)]);
    let service = started(service, |_| ());
    configure(&service, &[("http", b), ("http", c)]);
    service.cli(&["reload"]).assert_code(0);
    Queued::ask(b, 4).assert_served();
    wait_until("the old address to be let go", || !listens(a));
    assert_eq!(stored(&service), pairs(&[("http", b), ("http", c)]));
}

/// At a cold start a stored socket of ours whose address has changed is closed before the new one
/// is bound: the two may be in each other's way.
#[test]
fn a_changed_address_is_let_go_first_at_a_cold_start() {
    let service = three("widened").prepare();
    let [a, _, _] = addresses(&service);
    configure(&service, &[("http", a)]);
    let service = started(service, |_| ());
    let everywhere = std::net::SocketAddr::from(([0, 0, 0, 0], a.port()));
    configure(&service, &[("http", everywhere)]);
    service.manager().restart();
    service.wait_status("the new address", |status| {
        status.phase == Phase::Serving && status.listeners[0].address == everywhere.to_string()
    });
    Queued::ask(a, 4).assert_served();
    wait_until("the store", || {
        stored(&service) == pairs(&[("http", everywhere)])
    });
    assert_eq!(service.manager().look(|s| s.starts), 2);
}

#[test]
fn a_unit_that_passes_several_sockets_of_one_name_passes_them_for_all_entries_of_that_name() {
    let service = three("several").prepare();
    let [a, b, _] = addresses(&service);
    configure(&service, &[("http", a), ("http", b)]);
    let service = started(service, |unit| {
        for address in [a, b] {
            unit.sockets.push(("http".into(), listener_at(address).0));
        }
    });
    let status = service.status().unwrap();
    assert_eq!(status.listeners.len(), 2, "{:?}", status.listeners);
    assert!(status.listeners.iter().all(|l| l.source == "systemd"));
    assert_eq!(status.warnings, [""; 0]);
    Queued::ask(a, 4).assert_served();
    Queued::ask(b, 4).assert_served();
}

/// systemd before 254 does not say that there is a store.
#[test]
fn a_store_that_is_full_or_not_announced_is_no_reason_not_to_serve() {
    let service = serving_as(Service::setup("full"), |mut unit| {
        unit.fdstore_max = 0;
        unit.tell_fdstore = false;
        unit
    });
    let load = Load::start(service.load("http").fresh());
    load.wait_answers(10, SOON);
    upgrade(&service);
    commit(&service);
    load.stop().assert_clean();
}
