//! Cold starts: what is on disk must be a program that starts.

use super::load;
use crate::host::{Host, SOON, until};
use crate::release::{Bad, Build, PROGRAM};

/// It ends with a status that systemd does not restart (usage, permission, configuration): the first
/// failed start is the last.
pub fn a_release_that_systemd_would_not_restart_is_replaced(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    on_trial(host, Bad::Exits78);
    host.kill("KILL", before);
    host.until_another_main(before, SOON);
    host.until_disk_is(Build::A);
    load::fresh().stop().assert_clean();
}

/// Taken over hot, it would never start cold: after the third failed run the previous binary is
/// back, systemd starts it, and nobody was refused meanwhile.
pub fn a_release_that_cannot_start_is_replaced(host: &mut Host) {
    host.start();
    let load = load::fresh();
    for bad in [Bad::Exits3, Bad::Aborts] {
        let before = host.assert_runs(Build::A);
        on_trial(host, bad);
        host.kill("KILL", before);
        host.until_another_main(before, SOON);
        host.until_disk_is(Build::A);
        assert_eq!(host.disk().rejected, Some(bad.id()), "{bad:?}");
        load::goes_on(&load);
    }
    load.stop().assert_clean();
    until("no counter is left", SOON, || {
        let counter = host.container.path("/run/handover-rescue/failed-runs");
        (!counter.exists()).then_some(())
    });
}

/// The disk was put back when the upgrade was refused.
pub fn a_refused_release_is_not_started_at_the_next_boot(host: &mut Host) {
    host.start();
    host.install_file(&Bad::Exits3.path());
    assert!(host.reload().code != 0);
    host.until_disk_is(Build::A);
    host.container.power_cycle().expect("boots again");
    until("the service runs", SOON, || {
        (host.state() == "active").then_some(())
    });
    host.assert_runs(Build::A);
    load::fresh().stop().assert_clean();
}

/// Neither committed nor turned down when the power went: it starts, and proves itself alone.
pub fn a_release_on_trial_survives_a_power_cut(host: &mut Host) {
    host.configure("[upgrade]\nprobation = \"3s\"");
    host.start();
    host.install(Build::B);
    host.reload().ok();
    host.assert_runs(Build::B);
    assert_eq!(host.disk().trial, Some(Build::B.id()));
    host.container.power_cycle().expect("boots again");
    until("the service runs", SOON, || {
        (host.state() == "active").then_some(())
    });
    host.assert_runs(Build::B);
    host.until_disk_is(Build::B);
    load::fresh().stop().assert_clean();
}

/// Puts it in place and marks it, as the reload of an upgrade does.
fn on_trial(host: &Host, bad: Bad) {
    host.install_file(&bad.path());
    let main = host.main_pid();
    let trial = format!("sh /usr/lib/handover/guard trial {PROGRAM} /run/handover {main}");
    host.container.sh(&trial).ok();
    assert_eq!(host.disk().trial, Some(bad.id()));
}
