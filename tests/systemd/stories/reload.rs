//! `systemctl reload`: what is on disk becomes what runs, or the exit code says that it did not.

use std::time::Duration;

use crate::host::{Host, until};
use crate::kit::client::{Load, Running, Spec};
use crate::release::{Build, PROGRAM};

/// Exit 0, another main process, not one request failed.
pub fn an_upgrade_makes_the_successor_the_main_process(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load();
    for build in [Build::B, Build::C] {
        host.install(build);
        host.reload().ok();
        let after = host.assert_runs(build);
        assert_ne!(after, before);
        load.wait_answers(200, Duration::from_secs(10));
        host.handover(&["commit"]).ok();
        assert_eq!(host.assert_runs(build), after, "the commit changes nothing");
    }
    load.stop().assert_clean();
    let disk = host.disk();
    assert_eq!(disk.program, Some(Build::C.id()));
    assert_eq!(disk.old, Some(Build::B.id()));
    assert_eq!(disk.rejected, None);
    until(
        "the mark is gone after the commit",
        Duration::from_secs(5),
        || host.disk().trial.is_none().then_some(()),
    );
}

/// Nothing new on disk: the same main process, with the configuration that is there now.
pub fn the_same_build_reloads_the_configuration(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load();
    host.configure("[http]\nkeepalive_timeout = \"60s\"");
    assert_eq!(host.status()["config"]["matches_disk"], false);
    host.reload().ok();
    assert_eq!(host.status()["config"]["matches_disk"], true);
    assert_eq!(host.assert_runs(Build::A), before);
    load.wait_answers(200, Duration::from_secs(10));
    load.stop().assert_clean();
    assert_eq!(host.disk().old, None, "no upgrade, nothing to go back to");
}

/// Every kind of file that cannot serve: exit non-zero, the old one serves on, the disk is back.
pub fn a_bad_release_fails_and_the_old_one_serves(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let load = load();
    for (kind, script) in BAD {
        // Each kind for itself: a build that was rejected before is not even tried.
        let script = format!("rm -rf $P.rejected; {script}")
            .replace("$B", &Build::B.path())
            .replace("$P", PROGRAM);
        host.container.sh(&script).ok();
        let ran = host.reload();
        assert!(ran.code != 0, "{kind}: {ran}");
        assert_eq!(host.assert_runs(Build::A), before, "{kind}");
        until(
            &format!("{kind}: the disk is back"),
            Duration::from_secs(5),
            || {
                let disk = host.disk();
                (disk.program == Some(Build::A.id()) && disk.trial.is_none()).then_some(())
            },
        );
        host.systemctl(["reset-failed", "handover-restore.service"]);
    }
    load.wait_answers(200, Duration::from_secs(10));
    load.stop().assert_clean();
    // And a good one still gets in.
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

/// Eight keep-alive clients and two that open a connection each time.
fn load() -> Running {
    let pause = Duration::from_millis(2);
    let load = Load::start_all(vec![
        Spec::new("127.0.0.1:80")
            .keep_alive()
            .connections(8)
            .pause(pause),
        Spec::new("[::1]:80").fresh().connections(2).pause(pause),
    ]);
    load.wait_answers(100, Duration::from_secs(10));
    load
}

/// Kinds of bad files, and how one comes to be: `$P` the program, `$B` a good release.
const BAD: &[(&str, &str)] = &[
    ("missing", "rm $P"),
    ("a directory", "rm -f $P; mkdir -p $P/x"),
    ("empty", "rm -rf $P; : >$P; chmod 755 $P"),
    (
        "truncated",
        "head -c 100000 $B >$P.tmp; chmod 755 $P.tmp; mv $P.tmp $P",
    ),
    (
        "a script",
        "printf '#!/bin/sh\\nexit 0\\n' >$P.tmp; chmod 755 $P.tmp; mv $P.tmp $P",
    ),
    (
        "for another machine",
        "cp $B $P.tmp; printf '\\267\\0' | dd of=$P.tmp bs=1 seek=18 conv=notrunc status=none; mv $P.tmp $P",
    ),
    ("not executable", "install -m 644 $B $P.tmp; mv $P.tmp $P"),
    (
        "writable by others",
        "install -m 777 $B $P.tmp; mv $P.tmp $P",
    ),
    (
        "somebody else's",
        "install -m 755 -o games $B $P.tmp; mv $P.tmp $P",
    ),
    ("exits 0 at once", "cp /bin/true $P.tmp; mv $P.tmp $P"),
    ("exits 1 at once", "cp /bin/false $P.tmp; mv $P.tmp $P"),
];
