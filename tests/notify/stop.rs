//! Stopping: nothing in flight is lost, nothing has to be killed, and `STOPPING=1` is said once, by
//! the last one.

use std::time::Duration;

use rustix::process::Signal;

use crate::kit::build;
use crate::kit::client::Load;
use crate::kit::manager::{Active, Event, Unit};
use crate::kit::proc::Process;
use crate::kit::service::{Service, Setup};
use crate::scene::{
    Download, Queued, SOON, commit, exec_stop, messages, next, rollback, serving_as, tcp, upgrade,
    wait_until, with_site,
};

fn site(test: &str) -> Setup {
    // So that a long answer stays with the worker that began it.
    with_site(Service::setup(test).config("workers = 2\n[drain]\npass_connections = false"))
}

fn plain(unit: Unit) -> Unit {
    unit
}

/// Stops it with a download under way, which must end well.
#[track_caller]
fn stop_in_flight(service: &Service, download: Download) {
    let manager = service.manager();
    let finished = std::thread::scope(|scope| {
        let stopped = scope.spawn(|| manager.stop());
        wait_until("the service to stop", || {
            manager.look(|s| s.active == Active::Deactivating)
                || service
                    .masters()
                    .iter()
                    .any(|p| p.comm.ends_with("draining"))
        });
        let finished = download.finish();
        assert!(
            stopped.join().expect("stopped"),
            "something had to be killed"
        );
        finished
    });
    assert!(finished, "the answer was cut");
    assert_end(service);
}

/// Nothing was killed, nobody but the last master said STOPPING, nothing is left.
#[track_caller]
fn assert_end(service: &Service) {
    let manager = service.manager();
    manager.look(|s| {
        assert_eq!((s.killed.len(), s.active), (0, Active::Dead));
        assert!(!s.happened(|e| matches!(e, Event::KilledAtOnce { .. })));
    });
    assert_eq!(service.processes(), []);
    assert_eq!(manager.refused(), []);
    let log = service.log_text();
    assert!(!log.contains("panicked"), "{log}");
}

/// `STOPPING=1` is final for the whole unit: not while one of these lives.
#[track_caller]
fn assert_said_alone(service: &Service, others: &[u32]) {
    let said: Vec<Vec<u32>> = service.manager().look(|s| {
        let stopping = |e: &Event| match e {
            Event::Stopping { others, .. } => Some(others.clone()),
            _ => None,
        };
        s.events.iter().filter_map(|(_, e)| stopping(e)).collect()
    });
    assert!(said.len() <= 1, "said {} times", said.len());
    for living in said {
        let masters: Vec<_> = living.iter().filter(|pid| others.contains(pid)).collect();
        assert!(masters.is_empty(), "STOPPING=1 while {masters:?} live");
    }
}

#[test]
fn stop_while_serving_finishes_what_is_in_flight() {
    let service = serving_as(site("stop_serving"), exec_stop);
    let download = Download::begin(&service);
    stop_in_flight(&service, download);
    assert_eq!(messages(&service, |m| m.has("STOPPING", "1")).len(), 1);
    assert_eq!(
        service.manager().look(|s| s.result.and_then(|r| r.code())),
        Some(0)
    );
}

#[test]
fn stop_while_a_predecessor_is_parked_finishes_what_both_have_in_flight() {
    let service = serving_as(site("stop_parked"), exec_stop);
    let g1 = service.master(1).pid;
    let old = Download::begin(&service);
    upgrade(&service);
    let new = Download::begin(&service);
    std::thread::scope(|scope| {
        let finished = scope.spawn(|| {
            // The old one's answer goes on only when the service stops already.
            wait_until("the end", || {
                service.masters().iter().any(|p| p.comm == "g2 draining")
            });
            old.finish()
        });
        stop_in_flight(&service, new);
        assert!(
            finished.join().expect("read"),
            "the old generation's answer was cut"
        );
    });
    assert_said_alone(&service, &[g1]);
}

#[test]
fn stop_after_a_commit_finishes_what_is_in_flight() {
    let service = serving_as(site("stop_committed"), exec_stop);
    upgrade(&service);
    commit(&service);
    let download = Download::begin(&service);
    stop_in_flight(&service, download);
    assert_eq!(messages(&service, |m| m.has("STOPPING", "1")).len(), 1);
}

/// The predecessor is committed away, but drains a long answer still.
#[test]
fn stop_while_a_committed_predecessor_drains_waits_for_it_too() {
    let service = serving_as(site("stop_lingering"), exec_stop);
    let g1 = service.master(1).pid;
    let download = Download::begin(&service);
    upgrade(&service);
    service.cli(&["commit"]).assert_code(0);
    service.wait_owner(2, "serving");
    stop_in_flight(&service, download);
    assert_said_alone(&service, &[g1]);
}

/// Without `ExecStop=`: systemd sends TERM, and would send KILL at once were the main process an
/// alien still.
#[test]
fn after_the_commit_a_bare_term_drains_too() {
    let service = serving_as(site("stop_alien"), plain);
    upgrade(&service);
    commit(&service);
    let download = Download::begin(&service);
    stop_in_flight(&service, download);
}

#[test]
fn a_rollback_does_not_say_that_the_service_stops() {
    let service = serving_as(Service::setup("not_stopping"), plain);
    upgrade(&service);
    rollback(&service);
    service.wait_processes("one master", |_| service.masters().len() == 1);
    upgrade(&service);
    commit(&service);
    service.wait_processes("one master", |_| service.masters().len() == 1);
    assert!(messages(&service, |m| m.has("STOPPING", "1")).is_empty());
    let state = service.manager().look(|s| (s.active, s.starts));
    assert_eq!(state, (Active::Running, 1));
}

/// TERM to everybody at one moment of an upgrade; nobody waits for anybody for ever. A release that
/// hangs in a certain way makes a short moment a long one.
fn term_at(test: &str, release: Release, moment: &str) {
    let setup = Service::setup(test).config("workers = 2\n[drain]\nstop_timeout = \"5s\"");
    let service = serving_as(setup, plain);
    let g1 = service.master(1).pid;
    match release {
        Release::Good => service.replace(&next()),
        Release::Bad(behaviour) => {
            std::fs::write(service.dir().join("behaviour"), behaviour).expect("a file");
            service.replace(&build::example("bad"));
        }
    }
    let pending = service.cli_start(&["upgrade"]);
    wait_until(moment, || {
        service.masters().iter().any(|p| p.comm == moment)
    });
    assert!(service.manager().stop(), "something had to be killed");
    drop(pending);
    assert_end(&service);
    assert_said_alone(&service, &[g1]);
    assert_eq!(service.manager().look(|s| s.starts), 1);
}

enum Release {
    Good,
    /// `examples/bad.rs`, and what it does wrong.
    Bad(&'static str),
}

#[test]
fn term_to_everybody_while_the_new_one_is_launched_ends_everything() {
    term_at(
        "term_launch",
        Release::Bad("hangs at pre-flight"),
        "g1 launching",
    );
}

#[test]
fn term_to_everybody_while_the_new_one_starts_ends_everything() {
    term_at(
        "term_start",
        Release::Bad("workers are never ready"),
        "g2 starting",
    );
}

#[test]
fn term_to_everybody_right_after_the_takeover_ends_everything() {
    term_at("term_takeover", Release::Good, "g1 parked");
}

#[test]
fn term_to_everybody_in_the_probation_ends_everything() {
    term_at("term_probation", Release::Good, "g2 probation");
}

#[test]
fn term_to_everybody_in_hold_mode_ends_everything() {
    let service = serving_as(Service::setup("term_hold"), plain);
    let g1 = service.master(1).pid;
    service.replace(&next());
    service.signal(g1, Signal::USR2);
    service.wait_owner(1, "beside");
    assert!(service.manager().stop(), "something had to be killed");
    assert_end(&service);
    assert_said_alone(&service, &[g1]);
}

#[test]
fn a_restart_with_a_predecessor_parked_refuses_nobody() {
    let service = serving_as(Service::setup("restart_parked"), exec_stop);
    upgrade(&service);
    let load = Load::start(service.load("http").fresh().pause(Duration::from_millis(1)));
    load.wait_answers(20, SOON);
    service.manager().restart();
    service.wait_owner(1, "serving");
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
    assert_eq!(service.manager().look(|s| s.killed.len()), 0);
}

/// Nobody is parked: the workers leave within a second or two, clients wait, the next one serves.
#[test]
fn after_the_crash_of_a_lone_master_the_clients_that_waited_are_served() {
    let service = serving_as(Service::setup("lone"), plain);
    let manager = service.manager();
    let g1 = service.master(1).pid;
    let workers = service.workers(1);
    let address = tcp(&service, "http");
    service.signal(g1, Signal::KILL);
    // The manager reaps only whom it has met: they may leave before that.
    wait_until("the workers to leave", || {
        workers
            .iter()
            .all(|w| Process::look(w.pid).is_none_or(|p| p.is_zombie()))
    });
    let queued = Queued::ask(address, 16);
    manager.wait_for("the next start", |s| (s.starts == 2).then_some(()));
    queued.assert_served();
    service.wait_owner(1, "serving");
    assert_eq!(manager.look(|s| s.killed.len()), 0);
}
