//! `READY=1`, `STATUS=`, `EXTEND_TIMEOUT_USEC=`.

use std::time::Duration;

use crate::kit::build::own_version;
use crate::kit::manager::State;
use crate::kit::service::Service;
use crate::scene::{
    APPLY, NEXT, assert_manners, commit, messages, next, position, rollback, serving, serving_as,
    upgrade,
};

#[test]
fn ready_is_said_once_by_the_first_master_and_names_it() {
    let service = serving(Service::setup("ready"));
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    commit(&service);
    let ready = messages(&service, |m| m.has("READY", "1"));
    assert_eq!(ready.len(), 1);
    assert_eq!(ready[0].pid, g1);
    assert!(ready[0].has("MAINPID", &g1.to_string()));
    let status = ready[0].get("STATUS").unwrap_or_default();
    // Nothing is known to be good beside it.
    let expected = format!("{} (g1) serves, on trial until 2", own_version());
    assert!(status.starts_with(&expected), "{status}");
    assert_manners(&service, &[g1, g2]);
}

#[test]
fn the_status_says_who_serves_in_which_phase_and_what_happens_next_and_when() {
    let service = serving(Service::setup("status"));
    let own = own_version();
    let manager = service.manager();
    upgrade(&service);
    let expected = format!("{NEXT} (g2) serves, in probation until 2");
    let shown = manager.wait_for("what the owner says", |s| {
        s.status.starts_with(&expected).then(|| s.status.clone())
    });
    assert!(
        shown.ends_with(&format!("`rollback` goes back to {own} (g1)")),
        "{shown}"
    );
    let launching = format!("{own} (g1) serves; g2 gets ready");
    assert!(manager.look(|s| s.statuses().contains(&launching.as_str())));

    rollback(&service);
    service.wait_processes("the rejected master to be gone", |all| {
        all.iter().all(|p| !p.comm.starts_with("g2"))
    });
    manager.wait_for("what the owner says", |s| {
        let serves = format!("{own} (g1) serves, on trial until 2");
        s.status.starts_with(&serves).then_some(())
    });
}

/// `systemctl status` shows what was said last: nobody but the owner may have the last word.
#[test]
fn only_who_answers_for_the_service_says_its_status() {
    let service = serving(Service::setup("status_owner"));
    let g1 = service.master(1).pid;
    upgrade(&service);
    let g2 = service.master(2).pid;
    commit(&service);
    service.wait_processes("one master", |all| all.iter().all(|p| p.pid != g1));
    service.manager().look(|s| {
        let taken = position(s, |m| m.pid == g1 && m.has("MAINPID", &g2.to_string()));
        let taken = taken.expect("a takeover");
        let before = s.messages[..taken].iter();
        let early: Vec<_> = before.filter(|m| m.pid == g2).collect();
        assert!(early.is_empty(), "{early:#?}");
        let after = s.messages[taken..].iter();
        let late: Vec<_> = after
            .filter(|m| m.pid == g1 && m.get("STATUS").is_some())
            .collect();
        assert!(late.is_empty(), "{late:#?}");
        assert_eq!(s.status, format!("{NEXT} (g2) serves"));
    });
}

#[test]
fn an_upgrade_gives_itself_the_time_that_its_configuration_allows() {
    let setup = Service::setup("extend").config("workers = 1\n[upgrade]\nstart_timeout = \"40s\"");
    let service = serving_as(setup, |mut unit| {
        unit.timeout_start = Duration::from_secs(10);
        unit
    });
    let g1 = service.master(1).pid;
    service.replace(&next());
    let reloaded = service.manager().reload(&APPLY);
    assert!(reloaded.status.is_some_and(|s| s.success()), "{reloaded:?}");
    let extended = messages(&service, |m| m.get("EXTEND_TIMEOUT_USEC").is_some());
    let micros: u64 = extended[0]
        .get("EXTEND_TIMEOUT_USEC")
        .unwrap()
        .parse()
        .unwrap();
    // Pre-flight and start, each with its own deadline.
    assert!(micros >= 80_000_000, "{micros}");
    assert_eq!(extended[0].pid, g1);
    let g2 = service.master(2).pid;
    service.manager().look(|s: &State| {
        let extend = position(s, |m| m.get("EXTEND_TIMEOUT_USEC").is_some());
        assert!(extend < position(s, |m| m.has("MAINPID", &g2.to_string())));
    });
    assert!(messages(&service, |m| m.get("RELOADING").is_some()).is_empty());
}

/// A master that was only just executed understands nothing but its inheritance.
#[test]
fn looking_at_the_status_all_the_time_does_not_disturb_an_upgrade() {
    let service = serving(Service::setup("curious_upgrade"));
    service.replace(&next());
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| service.cli(&["upgrade"]));
        while !upgrade.is_finished() {
            service.status();
        }
        upgrade.join().expect("the client ran").assert_code(0);
    });
    service.wait_owner(2, "probation");
}
