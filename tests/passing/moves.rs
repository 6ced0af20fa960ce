//! Everything that can be under way, through everything that moves connections.

use std::time::{Duration, Instant};

use handover::api::Phase;
use rustix::process::Signal;

use crate::cases::{CASES, PATIENT, Rest, begin, nothing_was_wrong, upgrade};
use crate::kit::build;
use crate::kit::client::Load;
use crate::kit::service::{SOON, Service};
use crate::raw::Raw;

fn everything(service: &Service) -> Vec<Rest> {
    CASES.iter().map(|case| case(service)).collect()
}

fn goes_on(service: &Service, rests: Vec<Rest>, generation: u64) {
    for rest in rests {
        rest(service, generation);
    }
}

/// The workers are all others than these.
#[track_caller]
fn wait_others(service: &Service, generation: u64, before: &[u32], count: usize) {
    service.wait_status("other workers", |status| {
        let owner = status.masters.iter().find(|m| m.generation == generation);
        owner.is_some_and(|m| {
            let accepting = || m.workers.iter().filter(|w| w.state == "accepting");
            accepting().count() == count && accepting().all(|w| !before.contains(&w.pid))
        })
    });
}

fn workers(service: &Service, generation: u64) -> Vec<u32> {
    let workers = service.workers(generation);
    workers.iter().map(|w| w.pid).collect()
}

#[test]
fn an_upgrade_a_rollback_and_an_upgrade_again_move_everything_at_once() {
    let service = begin("moves-upgrade", PATIENT);
    let rests = everything(&service);
    upgrade(&service);
    goes_on(&service, rests, 2);
    let rests = everything(&service);
    service.cli(&["rollback"]).assert_code(0);
    goes_on(&service, rests, 1);
    service.wait_status("the end of the rollback", |s| {
        s.phase == Phase::Serving && s.upgrade.is_none()
    });
    let rests = everything(&service);
    upgrade(&service);
    service.cli(&["commit"]).assert_code(0);
    goes_on(&service, rests, 2);
    nothing_was_wrong(&service);
}

#[test]
fn a_reload_and_other_numbers_of_workers_move_everything_at_once() {
    let service = begin("moves-reload", PATIENT);
    for count in [2, 4, 1] {
        let before = workers(&service, 1);
        let rests = everything(&service);
        let text = PATIENT.replace("workers = 2", &format!("workers = {count}"));
        service.write_config(&text);
        service.cli(&["reload"]).assert_code(0);
        wait_others(&service, 1, &before, count);
        goes_on(&service, rests, 1);
    }
    nothing_was_wrong(&service);
}

/// Held still by the master's death, not by an order.
#[test]
fn orphans_give_everything_to_the_generation_that_lives() {
    let service = begin("moves-orphans", PATIENT);
    let new = build::other_version_of_example("workbench", "2.0.0");
    service.replace(&new);
    service.cli(&["upgrade", "--hold"]).assert_code(0);
    service.wait_owner(1, "beside");
    // Both generations accept: only connections of the first are of interest here.
    let rests = by_generation(&service, "g1");
    service.kill(service.master(1).pid);
    service.wait_owner(2, "serving");
    for mut raw in rests {
        raw.wait_moved(&service, 2);
        let answer = raw.get("/who");
        assert_eq!(answer.generation(), "g2");
    }
    service.wait_processes("the end of the orphans", |_| service.workers(1).is_empty());
}

#[test]
fn orphans_of_a_successor_in_probation_give_everything_back() {
    let service = begin("moves-orphans-back", PATIENT);
    upgrade(&service);
    service.wait_owner(2, "probation");
    let rests = everything(&service);
    service.kill(service.master(2).pid);
    service.wait_owner(1, "serving");
    goes_on(&service, rests, 1);
    service.wait_processes("the end of the orphans", |_| service.workers(2).is_empty());
}

#[test]
fn a_worker_that_is_killed_takes_nobody_else_s_connections_along() {
    let service = begin("moves-worker", PATIENT);
    let mut all: Vec<_> = (0..16).map(|_| Raw::connect(&service, "http")).collect();
    let pids: Vec<u32> = all.iter_mut().map(pid_of).collect();
    let killed = pids[0];
    service.kill(killed);
    for (raw, pid) in all.iter_mut().zip(pids) {
        if pid != killed {
            assert_eq!(pid_of(raw), pid);
        }
    }
}

#[test]
fn torture_through_upgrades_rollbacks_and_reloads() {
    let service = begin("moves-torture", PATIENT);
    let relay = crate::kit::relay::Relay::start(service.target("http"), Duration::from_millis(10));
    let spec = || service.load("http");
    let far = crate::kit::client::Spec::new(relay.target());
    let load = Load::start_all(vec![
        spec().torture().connections(12),
        far.torture().connections(12),
    ]);
    load.wait_connected(SOON);
    let new = build::other_version_of_example("workbench", "2.0.0");
    for _ in 0..3 {
        service.replace(&new);
        service.cli(&["upgrade"]).assert_code(0);
        load.wait_answers(150, SOON);
        service.cli(&["reload"]).assert_code(0);
        load.wait_answers(150, SOON);
        service.cli(&["rollback"]).assert_code(0);
        service.wait_status("the end of the rollback", |s| {
            s.phase == Phase::Serving && s.upgrade.is_none()
        });
        load.wait_answers(150, SOON);
    }
    load.stop().assert_clean().assert_kept();
    nothing_was_wrong(&service);
}

/// So many idle connections of this generation, where two accept.
fn by_generation(service: &Service, generation: &str) -> Vec<Raw> {
    let end = Instant::now() + SOON;
    let mut found = Vec::new();
    while found.len() < 8 {
        assert!(Instant::now() < end, "{generation} accepts no more");
        let mut raw = Raw::connect(service, "http");
        let answer = raw.get("/who");
        if answer.generation() == generation {
            found.push(raw);
        }
    }
    found
}

pub fn pid_of(raw: &mut Raw) -> u32 {
    let answer = raw.get("/who");
    let pid = answer.text().split(' ').next().expect("a pid");
    pid.parse().expect("a number")
}

#[test]
fn signals_move_connections_as_orders_do() {
    let service = begin("moves-signals", PATIENT);
    let rests = everything(&service);
    let old = service.master(1).pid;
    let new = build::other_version_of_example("workbench", "2.0.0");
    service.replace(&new);
    service.signal(old, Signal::USR2);
    service.wait_owner(1, "beside");
    service.signal(old, Signal::WINCH);
    service.wait_owner(2, "probation");
    goes_on(&service, rests, 2);
    let rests = everything(&service);
    let before = workers(&service, 2);
    service.signal(old, Signal::HUP);
    service.wait_owner(1, "beside");
    let new = service.master(2).pid;
    service.signal(new, Signal::WINCH);
    goes_on(&service, rests, 1);
    service.wait_processes("the end of the new workers", |_| {
        workers(&service, 2).iter().all(|w| !before.contains(w))
    });
    service.signal(new, Signal::QUIT);
    service.wait_owner(1, "serving");
    nothing_was_wrong(&service);
}
