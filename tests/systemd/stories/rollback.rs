//! Going back, by a command and by nginx's signals.

use super::load;
use crate::host::{Host, SOON, until};
use crate::release::{Build, PROGRAM};

/// The parked master serves again, systemd follows, the previous binary is back on disk.
pub fn one_command_goes_back(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    host.install(Build::B);
    host.reload().ok();
    host.assert_runs(Build::B);
    assert_eq!(host.disk().good, Some(Build::A.id()), "B is on trial");
    host.handover(&["rollback"]).ok();
    assert_eq!(host.assert_runs(Build::A), before);
    host.until_disk_is(Build::A);
    assert_eq!(host.disk().rejected, Some(Build::B.id()));
    load::goes_on(&load);
    // The rejected build is not tried again by a mere reload.
    host.install(Build::B);
    host.reload().ok();
    assert_eq!(host.assert_runs(Build::A), before);
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// Nobody is parked any more: what was kept on disk is upgraded to, and put in place. At once after
/// the commit, too: root's guard may not even have begun.
pub fn after_a_commit(host: &mut Host) {
    host.start();
    let first = host.assert_runs(Build::A);
    let load = load::steady();
    host.install(Build::B);
    host.reload().ok();
    host.handover(&["commit"]).ok();
    let second = host.assert_runs(Build::B);
    host.handover(&["rollback"]).ok();
    let third = host.assert_runs(Build::A);
    assert!(third != first && third != second);
    host.until_disk_is(Build::A);
    assert_eq!(host.disk().rejected, Some(Build::B.id()));
    load::goes_on(&load);
    host.handover(&["commit"]).ok();
    assert_eq!(host.assert_runs(Build::A), third);
    let disk = host.disk();
    assert_eq!(
        (disk.program, disk.good),
        (Some(Build::A.id()), Some(Build::A.id()))
    );
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// Root's guard is slow to put the previous binary back: what is on disk meanwhile is the rejected
/// one, and not to be taken for the next release.
pub fn an_upgrade_waits_for_the_disk_of_the_one_before(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    host.install(Build::B);
    host.reload().ok();
    host.systemctl(["stop", "handover-restore.path"]).ok();
    let rollback = host
        .container
        .spawn(["/usr/bin/handover", "rollback"])
        .expect("spawned");
    until("the parked one to serve again", SOON, || {
        let status = host.status();
        let phase = status["phase"].as_str()?;
        let serves = status["owner_pid"] == before && ["serving", "evicting"].contains(&phase);
        serves.then_some(())
    });
    // For a moment it may be the one that gives the service back who answers, with a reason of its
    // own.
    until("the one that serves to answer", SOON, || {
        let refused = host.handover(&["upgrade"]);
        assert_eq!(refused.code, 75, "{refused}");
        refused.stderr.contains("put right").then_some(())
    });
    host.systemctl(["start", "handover-restore.path"]).ok();
    let out = rollback.wait_with_output().expect("waited");
    assert!(out.status.success(), "{out:?}");
    host.until_disk_is(Build::A);
    assert_eq!(host.assert_runs(Build::A), before);
    assert_eq!(host.disk().rejected, Some(Build::B.id()));
    let history = host.handover(&["history", "--json"]);
    assert_eq!(history.ok().lines().count(), 1, "{history}");
}

/// The sequence of nginx's manual, by `systemctl kill`: nothing happens but what a signal says.
pub fn nginx_s_signals_go_back(host: &mut Host) {
    host.start();
    let old = host.assert_runs(Build::A);
    let load = load::steady();
    host.container
        .sh(&format!("cp -p {PROGRAM} {PROGRAM}.old"))
        .ok();
    host.install(Build::B);
    let new = beside(host, old);
    host.systemctl([
        "kill",
        "--kill-whom=main",
        "--signal=WINCH",
        "handover.service",
    ])
    .ok();
    assert_eq!(host.until_another_main(old, SOON), new);
    load::goes_on(&load);
    host.container
        .sh(&format!(
            "cp -fp {PROGRAM}.old {PROGRAM}.tmp; mv {PROGRAM}.tmp {PROGRAM}"
        ))
        .ok();
    host.kill("HUP", old);
    host.kill("USR2", new);
    host.kill("WINCH", new);
    host.kill("QUIT", new);
    until("one master is left", SOON, || {
        (masters(host) == [old]).then_some(())
    });
    assert_eq!(host.assert_runs(Build::A), old);
    assert_eq!(host.disk().program, Some(Build::A.id()));
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// `QUIT` to the old one is a commit.
pub fn nginx_s_signals_make_it_final(host: &mut Host) {
    host.start();
    let old = host.assert_runs(Build::A);
    let load = load::steady();
    host.install(Build::B);
    let new = beside(host, old);
    host.systemctl([
        "kill",
        "--kill-whom=main",
        "--signal=WINCH",
        "handover.service",
    ])
    .ok();
    host.until_another_main(old, SOON);
    host.kill("QUIT", old);
    until("one master is left", SOON, || {
        (masters(host) == [new]).then_some(())
    });
    assert_eq!(host.assert_runs(Build::B), new);
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// `USR2`: the new master stands beside the old one, which stays the main process.
fn beside(host: &Host, old: u32) -> u32 {
    host.systemctl([
        "kill",
        "--kill-whom=main",
        "--signal=USR2",
        "handover.service",
    ])
    .ok();
    let new = until("a second master", SOON, || {
        masters(host).into_iter().find(|pid| *pid != old)
    });
    assert_eq!(host.main_pid(), old);
    new
}

fn masters(host: &Host) -> Vec<u32> {
    let mut pids = vec![];
    for master in host.status()["masters"].as_array().expect("masters") {
        pids.extend(
            master["pid"]
                .as_u64()
                .and_then(|pid| u32::try_from(pid).ok()),
        );
    }
    pids
}
