//! `systemctl stop` and `restart`: systemd must not follow with SIGKILL, and nobody is refused who
//! need not be.

use super::load::{self, InFlight};
use crate::host::{Host, Listener, SOON, until};
use crate::release::{Bad, Build};

/// Its own child as main process.
pub fn while_serving(host: &mut Host) {
    host.start();
    host.assert_runs(Build::A);
    with_a_request_in_flight(host);
}

/// The main process is a stranger's child, and its parent is there too.
pub fn while_parked(host: &mut Host) {
    host.start();
    host.install(Build::B);
    host.reload().ok();
    host.assert_runs(Build::B);
    with_a_request_in_flight(host);
    // Nobody committed, nobody turned it down.
    assert_eq!(host.disk().program, Some(Build::B.id()));
}

/// The main process was a stranger's child.
pub fn after_a_commit(host: &mut Host) {
    host.start();
    host.install(Build::B);
    host.reload().ok();
    host.handover(&["commit"]).ok();
    host.assert_runs(Build::B);
    with_a_request_in_flight(host);
}

/// A successor that never gets ready holds nothing up.
pub fn during_an_upgrade(host: &mut Host) {
    host.start();
    host.install_file(&Bad::Hangs.path());
    let reload = ["systemctl", "reload", "handover.service"];
    let client = host.container.spawn(reload).expect("spawned");
    host.until_child(host.main_pid(), &Bad::Hangs.id());
    with_a_request_in_flight(host);
    let _ = client.wait_with_output().expect("waited");
}

/// What comes while nobody runs waits in the listener's queue.
pub fn a_restart_refuses_nobody(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::fresh();
    for build in [Build::A, Build::B] {
        host.install(build);
        host.systemctl(["restart", "handover.service"]).ok();
        assert_ne!(host.assert_runs(build), before);
        load::goes_on(&load);
    }
    // With a parked master, too.
    host.install(Build::C);
    host.reload().ok();
    host.assert_runs(Build::C);
    host.systemctl(["restart", "handover.service"]).ok();
    host.assert_runs(Build::C);
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// Stopped and started: the socket unit keeps its socket, and so does the fdstore where systemd can.
pub fn a_preserved_store_refuses_nobody(host: &mut Host) {
    if host.listener == Listener::Own && host.container.suite.systemd() < 254 {
        return;
    }
    host.start();
    let load = load::fresh();
    let stop = match host.listener {
        // A connection would start it again at once, which is as well.
        Listener::Passed | Listener::Own => ["stop", "handover.service"],
    };
    host.systemctl(stop).ok();
    host.systemctl(["start", "handover.service"]).ok();
    host.assert_runs(Build::A);
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// Stops it while an answer is on its way: every byte comes, systemd calls it a success, and
/// nothing of it is left.
#[track_caller]
pub fn with_a_request_in_flight(host: &Host) {
    // Or the next connection would start it again.
    if host.listener == Listener::Passed {
        host.systemctl(["stop", "handover.socket"]);
    }
    let main = host.main_pid();
    let in_flight = InFlight::begin();
    host.systemctl(["stop", "--no-block", "handover.service"])
        .ok();
    until("it is being stopped", SOON, || {
        (host.state() == "deactivating").then_some(())
    });
    assert!(host.build_of(main).is_some(), "it drains");
    in_flight.finish();
    until("stopped", SOON, || {
        (host.state() == "inactive").then_some(())
    });
    assert_eq!(host.property("Result"), "success");
    let left = host
        .container
        .run(["pgrep", "--list-full", "--euid", "handover"]);
    assert_eq!(left.stdout, "", "processes are left");
}
