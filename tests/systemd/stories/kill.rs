//! Processes that die or hang. Who owns the service afterwards, and who noticed.

use super::load;
use crate::host::{Host, SOON, until};
use crate::release::{Bad, Build};

/// Nothing has changed by then: the reload fails, the old one serves on.
pub fn the_successor_before_it_is_ready(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    host.install_file(&Bad::Hangs.path());
    let reload = ["systemctl", "reload", "handover.service"];
    let client = host.container.spawn(reload).expect("spawned");
    let successor = host.until_child(before, &Bad::Hangs.id());
    host.kill("KILL", successor);
    let out = client.wait_with_output().expect("waited");
    assert!(!out.status.success(), "{out:?}");
    assert_eq!(host.assert_runs(Build::A), before);
    host.until_disk_is(Build::A);
    assert_eq!(host.disk().rejected, Some(Bad::Hangs.id()));
    assert_eq!(host.restarts(), "0");
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// The parked master takes back before anybody notices; the disk follows.
pub fn the_successor_in_probation(host: &mut Host) {
    let (load, before, after) = upgraded(host);
    host.kill("KILL", after);
    host.until_main_is(before);
    assert_eq!(host.assert_runs(Build::A), before);
    host.until_disk_is(Build::A);
    load::goes_on(&load);
    assert_eq!(host.restarts(), "0");
    load.stop().assert_clean();
    // From here it is an ordinary service again: systemd sees its death.
    host.kill("KILL", before);
    host.until_another_main(before, SOON);
}

/// The successor serves on, on trial, and systemd does not mind.
pub fn the_parked_master(host: &mut Host) {
    let (load, before, after) = upgraded(host);
    host.kill("KILL", before);
    load::goes_on(&load);
    assert_eq!(host.assert_runs(Build::B), after);
    assert_eq!(
        host.disk().good,
        Some(Build::A.id()),
        "the way back does not die with it"
    );
    host.handover(&["commit"]).ok();
    host.until_disk_is(Build::B);
    assert_eq!(host.restarts(), "0");
    load.stop().assert_clean();
    stops_gracefully(host);
}

/// Nobody is parked: systemd starts the next one, what comes meanwhile waits.
pub fn the_owner_alone(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::fresh();
    host.kill("KILL", before);
    host.until_another_main(before, SOON);
    host.assert_runs(Build::A);
    assert_eq!(host.restarts(), "1");
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// systemd was told that the successor is the main process, so it sees its death.
pub fn the_owner_after_a_commit(host: &mut Host) {
    host.start();
    host.install(Build::B);
    host.reload().ok();
    host.handover(&["commit"]).ok();
    let before = host.assert_runs(Build::B);
    host.until_disk_is(Build::B);
    let load = load::fresh();
    host.kill("KILL", before);
    host.until_another_main(before, SOON);
    host.assert_runs(Build::B);
    assert_eq!(host.restarts(), "1");
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// The second dies before it can take back; systemd starts what is on disk.
pub fn both_masters_at_once(host: &mut Host) {
    let (load, before, after) = upgraded(host);
    load.stop().assert_clean();
    let load = load::fresh();
    host.kill_at_once(&[after, before]);
    until("systemd started another", SOON, || {
        let (main, state) = host.main_and_state();
        (main > 0 && main != before && main != after && state == "active").then_some(())
    });
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// They are replaced; nothing failed but what they had in flight.
pub fn every_worker(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    let workers = host.titled("handover: worker process");
    assert_eq!(workers.len(), 2);
    // A client that lost the first would find the second, and lose that, too.
    host.kill_at_once(&workers);
    until("two other workers", SOON, || {
        let now = host.titled("handover: worker process");
        (now.len() == 2 && now.iter().all(|pid| !workers.contains(pid))).then_some(())
    });
    load::goes_on(&load);
    assert_eq!(host.assert_runs(Build::A), before);
    assert_eq!(host.restarts(), "0");
    load::assert_only_cut(&load.stop());
}

/// The last net: everything of the unit is shot and started again.
pub fn a_hung_owner_is_shot_by_the_watchdog(host: &mut Host) {
    host.drop_in("watchdog", "[Service]\nWatchdogSec=9\n");
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::fresh();
    host.kill("STOP", before);
    host.until_another_main(before, SOON);
    assert_eq!(host.restarts(), "1");
    load::goes_on(&load);
    load::assert_only_cut(&load.stop());
}

/// A third of the watchdog's time without a heartbeat, and the predecessor has it back.
pub fn a_hung_successor_is_met_by_its_predecessor(host: &mut Host) {
    host.drop_in("watchdog", "[Service]\nWatchdogSec=9\n");
    let (load, before, after) = upgraded(host);
    host.kill("STOP", after);
    host.until_main_is(before);
    load::goes_on(&load);
    host.until_disk_is(Build::A);
    assert_eq!(host.assert_runs(Build::A), before);
    assert_eq!(host.restarts(), "0");
    load.stop().assert_clean();
}

/// A serves, B takes over, A is parked.
fn upgraded(host: &Host) -> (crate::kit::client::Running, u32, u32) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    host.install(Build::B);
    host.reload().ok();
    let after = host.assert_runs(Build::B);
    load::goes_on(&load);
    (load, before, after)
}

/// `systemctl stop` lets a request in flight finish.
fn stops_gracefully(host: &Host) {
    super::stop::with_a_request_in_flight(host);
}
