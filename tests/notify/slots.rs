//! Slots in the store: every worker's socket outlives a crash of everything with its queue, also
//! when there are more or fewer workers afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::kit::client::Load;
use crate::kit::manager::inode;
use crate::kit::service::Service;
use crate::listeners::{crash, patient};
use crate::scene::{SOON, commit, rollback, serving_as, upgrade, wait_until};

fn stored(service: &Service) -> BTreeSet<u64> {
    service.manager().look(|s| {
        let own = s.store.iter().filter(|x| x.name == "own.http");
        own.map(|x| inode(&x.fd).1).collect()
    })
}

/// Together they have a socket each; nobody is left out and no socket is.
#[track_caller]
fn wait_stored(service: &Service, count: usize) -> BTreeSet<u64> {
    wait_until("so many stored slots", || stored(service).len() == count);
    stored(service)
}

fn workers(service: &Service, count: usize) {
    service.write_config(&format!("workers = {count}\n"));
}

#[test]
fn slots_outlive_a_crash_of_everything_with_what_is_queued_on_them() {
    let setup = Service::setup("slots_crash").config("workers = 4\n");
    let service = serving_as(setup, patient);
    let four = wait_stored(&service, 4);
    crash(&service);
    assert_eq!(stored(&service), four);
    // Fewer workers: what is queued on the others' sockets is accepted all the same.
    workers(&service, 3);
    crash(&service);
    workers(&service, 1);
    crash(&service);
    assert_eq!(stored(&service), four);
    // More: those that are missing are opened and stored before anybody is turned away.
    workers(&service, 6);
    crash(&service);
    let six = wait_stored(&service, 6);
    assert!(six.is_superset(&four), "{six:?} {four:?}");
    crash(&service);
    assert_eq!(stored(&service), six);
    let status = service.status().expect("an owner");
    assert_eq!(status.listeners.len(), 1, "{:?}", status.listeners);
    let load = Load::start(service.load("http").fresh().connections(8));
    load.wait_answers(200, SOON);
    load.stop().assert_clean();
}

/// The predecessor must be able to take everything back, so nothing is added before the commit.
#[test]
fn slots_are_added_and_stored_by_the_commit_and_by_a_reload() {
    let service = serving_as(
        Service::setup("slots_grow").config("workers = 2\n"),
        patient,
    );
    let load = Load::start(service.load("http").fresh().pause(Duration::from_millis(1)));
    let two = wait_stored(&service, 2);
    workers(&service, 4);
    upgrade(&service);
    load.wait_answers(50, SOON);
    assert_eq!(stored(&service), two);
    rollback(&service);
    assert_eq!(stored(&service), two);
    upgrade(&service);
    commit(&service);
    let four = wait_stored(&service, 4);
    workers(&service, 5);
    service.cli(&["reload"]).assert_code(0);
    let five = wait_stored(&service, 5);
    assert!(five.is_superset(&four) && four.is_superset(&two));
    load.wait_answers(50, SOON);
    load.stop().assert_clean();
    crash(&service);
    assert_eq!(stored(&service), five);
}
