//! The watchdog: fed by who answers for the service, while its workers answer.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::kit::build;
use crate::kit::client::Load;
use crate::kit::manager::{Event, Unit};
use crate::kit::proc::Process;
use crate::kit::service::Service;
use crate::scene::{
    Queued, SOON, assert_manners, messages, position, serving_as, tcp, upgrade, wait_until,
};

fn watched(seconds: u64) -> impl FnOnce(Unit) -> Unit {
    move |mut unit| {
        unit.watchdog = Some(Duration::from_secs(seconds));
        unit
    }
}

fn missed(service: &Service) -> bool {
    let manager = service.manager();
    manager.look(|s| s.happened(|e| *e == Event::WatchdogMissed))
}

/// So many more meals from this process.
#[track_caller]
fn wait_fed(service: &Service, by: u32, meals: usize) {
    let fed = |s: &crate::kit::manager::State| {
        let meals = s.messages.iter();
        meals
            .filter(|m| m.pid == by && m.has("WATCHDOG", "1"))
            .count()
    };
    let before = service.manager().look(fed);
    service
        .manager()
        .wait_for(&format!("{meals} meals from {by}"), |s| {
            (fed(s) >= before + meals || s.happened(|e| *e == Event::WatchdogMissed)).then_some(())
        });
    assert!(!missed(service), "the watchdog was not fed in time");
}

#[test]
fn the_owner_feeds_it_and_a_parked_master_never_does() {
    let service = serving_as(Service::setup("fed"), watched(4));
    let g1 = service.master(1).pid;
    wait_fed(&service, g1, 3);
    upgrade(&service);
    let g2 = service.master(2).pid;
    wait_fed(&service, g2, 4);
    service.manager().look(|s| {
        let taken = position(s, |m| m.has("MAINPID", &g2.to_string())).unwrap();
        let parked = s.messages[taken..].iter();
        let meals = parked.filter(|m| m.pid == g1 && m.has("WATCHDOG", "1"));
        assert_eq!(meals.count(), 0, "fed by the parked master");
    });
    assert_manners(&service, &[g1, g2]);
}

#[test]
fn who_takes_over_feeds_it_at_once() {
    // Between two meals of the routine there would be 5 s.
    let service = serving_as(Service::setup("first_meal"), watched(60));
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    service
        .manager()
        .wait_within("a meal", Duration::from_secs(3), |s| {
            position(s, |m| m.pid == g2 && m.has("WATCHDOG", "1"))
        });
    let before = messages(&service, |m| m.pid == g1 && m.has("WATCHDOG", "1")).len();
    service.cli(&["rollback"]).assert_code(0);
    service
        .manager()
        .wait_within("a meal", Duration::from_secs(3), |s| {
            let meals = s
                .messages
                .iter()
                .filter(|m| m.pid == g1 && m.has("WATCHDOG", "1"));
            (meals.count() > before).then_some(())
        });
}

#[test]
fn a_hung_successor_is_met_by_its_predecessor_before_the_watchdog_shoots_them_both() {
    let service = serving_as(Service::setup("hung"), watched(6));
    let manager = service.manager();
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    let load = Load::start(service.load("http").fresh().connections(2));
    load.wait_answers(10, SOON);
    // The worst moment: everything it says comes before the silence begins.
    wait_fed(&service, g2, 2);
    service.signal(g2, Signal::STOP);
    manager.wait_for("the predecessor to take back", |s| {
        (s.main == Some(g1) || s.happened(|e| *e == Event::WatchdogMissed)).then_some(())
    });
    wait_until("the hung one to be gone", || Process::look(g2).is_none());
    service.wait_owner(1, "serving");
    wait_fed(&service, g1, 4);
    load.wait_answers(20, SOON);
    load.stop().assert_clean();
    assert_eq!(manager.look(|s| s.starts), 1);
}

#[test]
fn an_owner_whose_workers_are_all_stopped_is_not_fed_and_shot() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = dir.path().join("gate");
    // They would be replaced before it is missed.
    let setup = Service::setup("deaf")
        .name("workbench")
        .image(build::other_version_of_example("workbench", "1.0.0"))
        .env("WORKBENCH_GATE", &gate)
        .config("workers = 2");
    let service = serving_as(setup, watched(4));
    let manager = service.manager();
    let g1 = service.master(1).pid;
    wait_fed(&service, g1, 2);
    fs::write(&gate, "").expect("a gate");
    let workers = service.workers(1);
    // One that answers is enough.
    service.signal(workers[0].pid, Signal::STOP);
    wait_fed(&service, g1, 3);
    service.signal(workers[1].pid, Signal::STOP);
    manager.wait_for("the watchdog", |s| {
        s.happened(|e| *e == Event::WatchdogMissed).then_some(())
    });
    fs::remove_file(&gate).expect("a gate");
    manager.wait_for("the next start", |s| (s.starts >= 2).then_some(()));
    let main = manager.wait_ready();
    service.wait_owner(1, "serving");
    assert_ne!(main, g1);
}

#[test]
fn a_busy_operator_does_not_starve_it() {
    let service = serving_as(Service::setup("curious").config("workers = 1"), watched(6));
    let g1 = service.master(1).pid;
    // Questions that the worker answers late; none of them is the watchdog's. It hangs for less
    // than the time between two meals, and lives in between: at most one meal in a row is late.
    let worker = service.workers(1)[0].pid;
    for _ in 0..5 {
        service.signal(worker, Signal::STOP);
        for _ in 0..2 {
            service.status().expect("the master answers");
        }
        service.signal(worker, Signal::CONT);
        Queued::ask(tcp(&service, "http"), 1).assert_served();
    }
    wait_fed(&service, g1, 3);
}

/// A worker that hangs while the service is taken back is no reason to shoot the predecessor.
#[test]
fn a_predecessor_feeds_it_while_it_takes_the_service_back() {
    let service = serving_as(
        Service::setup("taking_back").config("workers = 1"),
        watched(5),
    );
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    service.wait_processes("parked without workers", |_| service.workers(1).is_empty());
    // Parked for longer than it would be forgiven as an owner.
    wait_fed(&service, g2, 4);
    service.kill(g2);
    service.manager().wait_main(g1);
    wait_fed(&service, g1, 4);
}

/// systemd would see "active" with nobody there, for ever.
#[test]
fn a_predecessor_whose_workers_do_not_come_up_again_is_not_fed_and_shot() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = dir.path().join("gate");
    let next = build::other_version_of_example("workbench", "2.0.0");
    let setup = Service::setup("taking_back_in_vain")
        .name("workbench")
        .image(build::other_version_of_example("workbench", "1.0.0"))
        .env("WORKBENCH_GATE", &gate)
        .config("workers = 1\n[upgrade]\nstart_timeout = \"4s\"\nprobation = \"10m\"\n");
    let service = serving_as(setup, watched(4));
    let g1 = service.master(1).pid;
    service.replace(&next);
    service.cli(&["upgrade"]).assert_code(0);
    let g2 = service.wait_owner(2, "probation").owner_pid;
    wait_fed(&service, g2, 2);
    fs::write(&gate, "").expect("a gate");
    service.kill(g2);
    let manager = service.manager();
    manager.wait_main(g1);
    manager.wait_for("the watchdog", |s| {
        s.happened(|e| *e == Event::WatchdogMissed).then_some(())
    });
    fs::remove_file(&gate).expect("a gate");
    manager.wait_for("the next start", |s| (s.starts >= 2).then_some(()));
    service.wait_owner(1, "serving");
}
