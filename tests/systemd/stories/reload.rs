//! `systemctl reload`: what is on disk becomes what runs, or the exit code says that it did not.

use std::io::{BufRead, BufReader};
use std::process::Child;

use super::load::{self, InFlight};
use crate::host::{Host, SOON, until};
use crate::release::{Bad, Build, PROGRAM};

/// Exit 0, another main process, not one request failed.
pub fn an_upgrade_makes_the_successor_the_main_process(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    for build in [Build::B, Build::C] {
        host.install(build);
        host.reload().ok();
        let after = host.assert_runs(build);
        assert_ne!(after, before);
        load::goes_on(&load);
        host.handover(&["commit"]).ok();
        assert_eq!(host.assert_runs(build), after, "the commit changes nothing");
    }
    load.stop().assert_clean();
    host.until_disk_is(Build::C);
    let disk = host.disk();
    assert_eq!(disk.old, Some(Build::B.id()));
    assert_eq!(disk.rejected, None);
}

/// Nothing new on disk: the same main process, with the configuration that is there now.
pub fn the_same_build_reloads_the_configuration(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    host.configure("[http]\nkeepalive_timeout = \"60s\"");
    assert_eq!(host.status()["config"]["matches_disk"], false);
    host.reload().ok();
    assert_eq!(host.status()["config"]["matches_disk"], true);
    assert_eq!(host.assert_runs(Build::A), before);
    load::goes_on(&load);
    load.stop().assert_clean();
    assert_eq!(host.disk().old, None, "no upgrade, nothing to go back to");
}

/// Every kind of file that cannot serve: exit non-zero, the old one serves on, the disk is back.
pub fn a_bad_release_fails_and_the_old_one_serves(host: &mut Host) {
    host.configure("[upgrade]\nstart_timeout = \"10s\"");
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    for (kind, reason, script) in BAD {
        // Each kind for itself: a build that was rejected before is not even tried.
        let script = format!("rm -rf $P.rejected /var/lib/handover/refused; {script}")
            .replace("$B", &Build::B.path())
            .replace("$P", PROGRAM);
        host.container.sh(&script).ok();
        let mark = format!("now comes a release that is bad: {kind}");
        host.mark_journal(&mark);
        let ran = host.reload();
        assert!(ran.code != 0, "{kind}: {ran}");
        assert_eq!(host.assert_runs(Build::A), before, "{kind}");
        let journal = host.journal_since(&mark);
        assert!(
            journal.contains(reason),
            "{kind}: no {reason:?} in the journal"
        );
        host.until_disk_is(Build::A);
    }
    for bad in Bad::ALL {
        host.install_file(&bad.path());
        let ran = host.reload();
        assert!(ran.code != 0, "{bad:?}: {ran}");
        assert_eq!(host.assert_runs(Build::A), before, "{bad:?}");
        host.until_disk_is(Build::A);
        assert_eq!(host.disk().rejected, Some(bad.id()));
    }
    load::goes_on(&load);
    load.stop().assert_clean();
    // And a good one still gets in, though it was for another machine once.
    host.container.sh("rm /var/lib/handover/refused").ok();
    host.install(Build::B);
    host.reload().ok();
    assert_ne!(host.assert_runs(Build::B), before);
}

/// A file that says yes to everything is no successor.
pub fn a_release_that_answers_for_itself_is_not_believed(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    host.install_file("/bin/true");
    let ran = host.reload();
    assert!(ran.code != 0, "{ran}");
    assert_eq!(host.assert_runs(Build::A), before);
}

/// `handover upgrade` by root is as good as a reload: the way back is kept on disk.
pub fn an_order_of_roots_keeps_the_way_back(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    host.install(Build::B);
    host.handover(&["upgrade"]).ok();
    let after = host.assert_runs(Build::B);
    assert_eq!(host.disk().good, Some(Build::A.id()), "B is on trial");
    host.kill("KILL", after);
    host.until_main_is(before);
    host.until_disk_is(Build::A);
    // One that cannot even be asked; another copy is the client.
    host.install_file(&Bad::Exits3.path());
    let ran = host.container.run([&Build::A.path(), "upgrade"]);
    assert_eq!(ran.code, 1, "{ran}");
    assert_eq!(host.assert_runs(Build::A), before);
    host.until_disk_is(Build::A);
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// While B must still prove itself, a file comes that cannot serve: B is not given up for it. Then C
/// replaces it; the way back is to A, not to B.
pub fn a_third_release_may_come_during_a_probation(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    host.install(Build::B);
    host.reload().ok();
    let second = host.assert_runs(Build::B);
    host.install_file("/bin/false");
    let ran = host.reload();
    assert!(ran.code != 0, "{ran}");
    assert_eq!(host.assert_runs(Build::B), second, "it was not given up");
    assert_eq!(host.status()["phase"], "probation");
    until("B is on disk again", SOON, || {
        (host.disk().program == Some(Build::B.id())).then_some(())
    });
    host.install(Build::C);
    host.reload().ok();
    let third = host.assert_runs(Build::C);
    assert!(third != before && third != second);
    load::goes_on(&load);
    host.handover(&["rollback"]).ok();
    assert_eq!(host.assert_runs(Build::A), before);
    host.until_disk_is(Build::A);
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// systemd runs one after the other; the second finds it done.
pub fn two_at_once_are_one_upgrade(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    host.install(Build::B);
    let reload = ["systemctl", "reload", "handover.service"];
    let both = [0, 1].map(|_| host.container.spawn(reload).expect("spawned"));
    for client in both {
        let out = client.wait_with_output().expect("waited");
        assert!(out.status.success(), "{out:?}");
    }
    assert_ne!(host.assert_runs(Build::B), before);
    host.handover(&["rollback"]).ok();
    assert_eq!(host.assert_runs(Build::A), before, "the parked one is A");
    load.stop().assert_clean();
}

/// Whatever was done by then, the next reload brings it to its end.
pub fn a_client_killed_in_the_middle_changes_nothing(host: &mut Host) {
    host.start();
    let load = load::steady();
    for build in [Build::B, Build::C] {
        host.install(build);
        let (client, control) = reloading(host);
        host.container.run(["kill", "-KILL", &control.to_string()]);
        let _ = client.wait_with_output().expect("waited");
        assert_eq!(host.state(), "active");
        host.reload().ok();
        host.assert_runs(build);
        load::goes_on(&load);
        host.handover(&["commit"]).ok();
        host.until_disk_is(build);
    }
    load.stop().assert_clean();
}

/// daemon-reload while the successor starts.
pub fn systemd_may_read_its_units_again_in_the_middle(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    host.install(Build::B);
    let (client, _) = reloading(host);
    host.systemctl(["daemon-reload"]).ok();
    let out = client.wait_with_output().expect("waited");
    assert!(out.status.success(), "{out:?}");
    assert_ne!(host.assert_runs(Build::B), before);
    host.systemctl(["daemon-reload"]).ok();
    host.handover(&["rollback"]).ok();
    assert_eq!(host.assert_runs(Build::A), before);
    load.stop().assert_clean();
}

/// daemon-reexec: `systemctl` may lose its connection, the upgrade does not.
pub fn systemd_may_start_anew_in_the_middle(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load::steady();
    host.install(Build::B);
    let (client, _) = reloading(host);
    host.systemctl(["daemon-reexec"]);
    let _ = client.wait_with_output().expect("waited");
    let after = host.until_another_main(before, SOON);
    assert_eq!(host.assert_runs(Build::B), after);
    host.handover(&["commit"]).ok();
    load::goes_on(&load);
    load.stop().assert_clean();
    // systemd has not lost sight of it.
    let in_flight = InFlight::begin();
    host.systemctl(["stop", "--no-block", "handover.service"])
        .ok();
    in_flight.finish();
    until("stopped", SOON, || {
        (host.state() == "inactive").then_some(())
    });
    assert_eq!(host.property("Result"), "success");
}

/// A `systemctl reload` that runs, and the process that systemd runs for it.
fn reloading(host: &Host) -> (Child, u32) {
    // It is over in a tenth of a second: it is looked for from within, from before it begins, and without
    // a process a look. The next one in the unit's cgroup that PID 1 has started is what systemd runs.
    let look = "procs=/sys/fs/cgroup/system.slice/handover.service/cgroup.procs
        known=\" $(tr '\\n' ' ' <$procs) \"
        echo ready
        while :; do
            while read -r p; do
                case $known in *\" $p \"*) continue ;; esac
                while read -r field parent; do
                    case $field$parent in PPid:1) echo $p; exit ;; esac
                done 2>/dev/null </proc/$p/status
            done <$procs
        done";
    let looks = ["timeout", "30", "sh", "-c", look];
    let mut looks = host.container.spawn(looks).expect("spawned");
    let mut said = BufReader::new(looks.stdout.take().expect("a pipe")).lines();
    let mut line = || said.next().expect("a line").expect("read");
    assert_eq!(line(), "ready");
    let reload = ["systemctl", "reload", "handover.service"];
    let client = host.container.spawn(reload).expect("spawned");
    let control = line().parse().expect("a process");
    looks.wait().expect("waited");
    (client, control)
}

/// Kinds of bad files, what the journal must say about each, and how one comes to be: `$P` the
/// program, `$B` a good release.
const BAD: &[(&str, &str, &str)] = &[
    ("missing", "there is no such file", "rm $P"),
    (
        "a directory",
        "it is a directory",
        "rm -f $P; mkdir -p $P/x",
    ),
    ("empty", "it is empty", "rm -rf $P; : >$P; chmod 755 $P"),
    (
        "truncated",
        "it is truncated",
        "head -c 100000 $B >$P.tmp; chmod 755 $P.tmp; mv $P.tmp $P",
    ),
    (
        "a script",
        "it is no ELF program",
        r"printf '#!/bin/sh\nexit 0\n' >$P.tmp; chmod 755 $P.tmp; mv $P.tmp $P",
    ),
    (
        "for another machine",
        "it is built for",
        r"cp $B $P.tmp; printf '\267\0' | dd of=$P.tmp bs=1 seek=18 conv=notrunc status=none; mv $P.tmp $P",
    ),
    (
        "not executable",
        "it is not executable",
        "install -m 644 $B $P.tmp; mv $P.tmp $P",
    ),
    (
        "writable by others",
        "lets group or others write to it",
        "install -m 777 $B $P.tmp; mv $P.tmp $P",
    ),
    (
        "of another user",
        "it belongs to uid",
        "install -m 755 -o games $B $P.tmp; mv $P.tmp $P",
    ),
    ("exits 0 at once", "", "cp /bin/true $P.tmp; mv $P.tmp $P"),
    ("exits 1 at once", "", "cp /bin/false $P.tmp; mv $P.tmp $P"),
];
