//! Who is the main process: one writer, in the right order, with a barrier.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::kit::client::Load;
use crate::kit::manager::{Active, Event, State};
use crate::kit::proc::Process;
use crate::kit::service::Service;
use crate::kit::wait::look_again;
use crate::scene::{
    Download, NEXT, SOON, assert_manners, commit, messages, next, position, rollback, serving,
    serving_as, upgrade, wait_until, with_site,
};

/// Every MAINPID is followed, before its sender says anything else, by a barrier alone; but for that
/// of a moment, which the sender's own follows in the same breath.
#[track_caller]
fn assert_barriers(state: &State) {
    for (i, message) in state.messages.iter().enumerate() {
        if message.get("MAINPID").is_none() || message.get("READY").is_some() {
            continue;
        }
        let next = state.messages[i + 1..]
            .iter()
            .find(|m| m.pid == message.pid)
            .unwrap_or_else(|| panic!("nothing follows {message}"));
        let own = message.pid.to_string();
        if !message.has("MAINPID", &own) && next.has("MAINPID", &own) {
            continue;
        }
        assert!(next.has("BARRIER", "1"), "{message} is followed by {next}");
        assert_eq!((next.fields.len(), next.fds), (1, 1), "{next}");
    }
}

#[test]
fn the_predecessor_names_the_ready_successor_and_nothing_drains_before_the_manager_knows() {
    let service = serving(Service::setup("named").config("workers = 2"));
    let manager = service.manager();
    let g1 = service.master(1).pid;
    let load = Load::start(service.load("http").fresh().connections(4));
    load.wait_answers(20, SOON);
    service.replace(&next());

    manager.freeze(true);
    let pending = service.cli_start(&["upgrade"]);
    service.wait_processes("a successor that is ready", |all| {
        all.iter().any(|p| p.comm == "g2 standby")
    });
    // The manager has not read a word: the predecessor serves, alone.
    load.wait_answers(100, SOON);
    let server = format!("handover/{NEXT}");
    assert_eq!(load.report().answers_of(&server), 0);
    manager.freeze(false);

    load.wait_server(&server, 20, SOON);
    pending.finish(SOON).assert_code(0);
    load.stop().assert_clean();
    let g2 = service.master(2).pid;
    manager.look(|s| {
        assert_eq!(s.mains(), [g1, g2]);
        assert!(s.main_is_alien);
        assert_barriers(s);
        let named = position(s, |m| m.has("MAINPID", &g2.to_string())).unwrap();
        assert_eq!(s.messages[named].pid, g1);
        // The successor speaks only when it owns the service.
        assert!(s.messages[..named].iter().all(|m| m.pid != g2));
    });
    assert_manners(&service, &[g1, g2]);
}

#[test]
fn a_rollback_moves_it_back_by_the_predecessor_s_word() {
    let service = serving(Service::setup("back"));
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    rollback(&service);
    let gone = |all: &[Process]| all.iter().all(|p| p.pid != g2);
    service.wait_processes("the successor to be gone", gone);
    service.manager().look(|s| {
        assert_eq!(s.mains(), [g1, g2, g1]);
        assert!(!s.main_is_alien);
        assert_barriers(s);
        let back = position(s, |m| {
            m.has("MAINPID", &g1.to_string()) && !m.has("READY", "1")
        });
        assert_eq!(s.messages[back.unwrap()].pid, g1);
    });
    assert_manners(&service, &[g1, g2]);
}

#[test]
fn a_dead_successor_stays_a_zombie_until_the_manager_knows_who_serves() {
    let service = serving(Service::setup("zombie"));
    let manager = service.manager();
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    service.wait_processes("parked without workers", |_| service.workers(1).is_empty());

    manager.freeze(true);
    let killed = Instant::now();
    service.kill(g2);
    // The barrier is not answered: for 2 s, whatever else happens, the dead one is not reaped.
    loop {
        let dead = Process::look(g2);
        if killed.elapsed() > Duration::from_secs(1) {
            break;
        }
        assert!(dead.expect("not reaped").is_zombie());
        look_again();
    }
    manager.freeze(false);
    manager.wait_main(g1);
    service.wait_owner(1, "serving");
    wait_until("the zombie to be reaped", || Process::look(g2).is_none());
    manager.look(|s| {
        assert_eq!(s.mains(), [g1, g2, g1]);
        assert!(s.happened(|e| *e == Event::AlienMainDied { pid: g2 }));
        assert_eq!((s.starts, s.active), (1, Active::Running));
        assert_barriers(s);
    });
    Load::start(service.load("http")).wait_answers(5, SOON);
}

#[test]
fn after_the_commit_the_survivor_takes_the_alien_mark_off_by_naming_a_worker_and_itself() {
    let service = serving(Service::setup("reclaim"));
    let manager = service.manager();
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    assert!(manager.look(|s| s.main_is_alien));
    let load = Load::start(service.load("http").fresh());
    commit(&service);
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
    let workers: Vec<u32> = service.workers(2).iter().map(|p| p.pid).collect();
    manager.look(|s| {
        let mains = s.mains();
        assert_eq!([mains[0], mains[1], mains[3]], [g1, g2, g2], "{mains:?}");
        assert!(
            workers.contains(&mains[2]),
            "{mains:?}, workers {workers:?}"
        );
        assert_eq!(mains.len(), 4);
        assert_barriers(s);
    });
    // And now its death is noticed.
    service.kill(g2);
    manager.wait_for("the next start", |s| (s.starts == 2).then_some(()));
    service.wait_owner(1, "serving");
    assert_eq!(manager.refused(), []);
}

/// The predecessor goes while it still drains a long answer: only then the mark comes off.
#[test]
fn the_mark_stays_while_the_predecessor_drains() {
    let setup = Service::setup("linger").config("workers = 1\n[drain]\npass_connections = false");
    let service = serving(with_site(setup));
    let manager = service.manager();
    let g1 = service.master(1).pid;
    let download = Download::begin(&service);
    upgrade(&service);
    let g2 = service.master(2).pid;
    service.cli(&["commit"]).assert_code(0);
    service.wait_owner(2, "serving");
    assert_eq!(service.master(1).comm, "g1 draining");
    assert!(manager.look(|s| s.main_is_alien && s.main == Some(g2)));
    assert!(download.finish());
    service.wait_processes("the predecessor to leave", |all| {
        all.iter().all(|p| p.pid != g1)
    });
    manager.wait_for("the re-claim", |s| {
        (s.main == Some(g2) && !s.main_is_alien).then_some(())
    });
}

/// In one lab run a rolled-back candidate was reparented and stole the main process.
#[test]
fn a_rejected_successor_that_is_orphaned_claims_nothing() {
    let setup = Service::setup("thief").config("workers = 1\n[drain]\npass_connections = false");
    let service = serving(with_site(setup));
    let manager = service.manager();
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    let download = Download::begin(&service);
    service.cli(&["rollback"]).assert_code(0);
    service.wait_owner(1, "evicting");
    wait_until("the rejected one to drain", || {
        service.master(2).comm == "g2 draining"
    });
    service.signal(g1, Signal::KILL);
    assert!(download.finish());
    manager.wait_for("the next start", |s| (s.starts == 2).then_some(()));
    service.wait_owner(1, "serving");
    let claims = messages(&service, |m| m.pid == g2 && m.get("MAINPID").is_some());
    assert_eq!(claims, []);
}

#[test]
fn a_successor_whose_predecessor_dies_names_itself_and_the_service_goes_on() {
    let service = serving(Service::setup("orphan"));
    let manager = service.manager();
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    let load = Load::start(service.load("http").fresh().connections(2));
    load.wait_answers(20, SOON);
    service.signal(g1, Signal::KILL);
    service.wait_owner(2, "serving");
    manager.wait_for("the re-claim", |s| {
        (s.main == Some(g2) && !s.main_is_alien).then_some(())
    });
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
    assert_eq!(manager.look(|s| (s.starts, s.active)), (1, Active::Running));
}

#[test]
fn an_abstract_notify_socket_is_as_good_as_a_path() {
    let service = serving_as(Service::setup("abstract"), |mut unit| {
        unit.abstract_socket = true;
        unit
    });
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    rollback(&service);
    service.manager().wait_main(g1);
    assert_manners(&service, &[g1, g2]);
    service.manager().look(assert_barriers);
}
