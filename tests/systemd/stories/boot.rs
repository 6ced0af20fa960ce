//! Cold starts: what is on disk must be a program that starts.

use super::load;
use crate::host::{Host, Listener, SOON, until};
use crate::release::{Bad, Build, PROGRAM};

/// It ends with a status that systemd does not restart (usage, permission, configuration): the first
/// failed start is the last.
pub fn a_release_that_systemd_would_not_restart_is_replaced(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    host.install_file(&Bad::Exits78.path());
    host.kill("KILL", before);
    host.until_another_main(before, SOON);
    host.until_disk_is(Build::A);
    load::fresh().stop().assert_clean();
}

/// Copied in by anybody, at any time: after the third failed start the good program is back, systemd
/// starts it, and nobody was refused meanwhile.
pub fn a_release_that_cannot_start_is_replaced(host: &mut Host) {
    host.start();
    // 252 forgets the sockets of a unit that it does not restart (RestartPreventExitStatus=).
    let forgets = host.listener == Listener::Own && host.container.suite.systemd() < 254;
    for (bad, when) in [
        (Bad::Exits3, "on a fresh installation"),
        (Bad::Aborts, "after a commit"),
        (Bad::Exits78, "after a rollback"),
    ] {
        let load = (bad != Bad::Exits78 || !forgets).then(load::fresh);
        let before = host.main_pid();
        let good = host.build_of(before);
        host.install_file(&bad.path());
        host.kill("KILL", before);
        host.until_another_main(before, SOON);
        until(&format!("the good one is back {when}"), SOON, || {
            let disk = host.disk();
            (disk.program == good && disk.good == good).then_some(())
        });
        assert_eq!(host.disk().rejected, Some(bad.id()), "{bad:?} {when}");
        if let Some(load) = load {
            load::goes_on(&load);
            load.stop().assert_clean();
        }
        // For the next time.
        if bad == Bad::Exits3 {
            host.install(Build::B);
            host.reload().ok();
            host.handover(&["commit"]).ok();
            host.until_disk_is(Build::B);
        } else if bad == Bad::Aborts {
            host.install(Build::C);
            host.reload().ok();
            host.handover(&["rollback"]).ok();
            host.until_disk_is(Build::B);
        }
    }
    load::fresh().stop().assert_clean();
    assert_eq!(host.state(), "active");
    let tries = host.container.path(&format!("{PROGRAM}.tries"));
    assert!(!tries.exists(), "no count is left");
}

/// In a probation, when both masters die; and no file at all.
pub fn whatever_lies_on_disk_the_good_one_starts(host: &mut Host) {
    host.start();
    let first = host.assert_runs(Build::A);
    host.install(Build::B);
    host.reload().ok();
    let second = host.assert_runs(Build::B);
    host.install_file(&Bad::Exits3.path());
    host.kill_at_once(&[second, first]);
    host.until_disk_is(Build::A);
    host.until_another_main(second, SOON);
    host.assert_runs(Build::A);
    for spoil in ["rm $P", "rm $P; mkdir $P", "echo >$P", "chmod 777 $P"] {
        let before = host.main_pid();
        let script =
            format!("P={PROGRAM}; rm -rf $P.rejected; cp -p $P.good $P.x; mv $P.x $P; {spoil}");
        host.container.sh(&script).ok();
        host.kill("KILL", before);
        host.until_another_main(before, SOON);
        host.until_disk_is(Build::A);
    }
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

/// Neither committed nor turned down when the power went: it starts, and proves itself alone. The
/// upgrade was interrupted, and is committed then.
pub fn a_release_on_trial_survives_a_power_cut(host: &mut Host) {
    host.configure("[upgrade]\nprobation = \"10m\"");
    host.start();
    host.install(Build::B);
    host.reload().ok();
    host.assert_runs(Build::B);
    assert_eq!(host.disk().good, Some(Build::A.id()), "B is on trial");
    let id = host.status()["upgrade"]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert!(host.handover(&["history"]).ok().contains("under way"));
    host.configure("[upgrade]\nprobation = \"4s\"");
    host.container.power_cycle().expect("boots again");
    until("the service runs", SOON, || {
        (host.state() == "active").then_some(())
    });
    host.assert_runs(Build::B);
    let waited = host.handover(&["wait", &id]);
    let history = host.handover(&["history", "--json"]);
    if host.disk().good == Some(Build::A.id()) {
        assert!(history.ok().contains("interrupted"), "{history}");
        assert_eq!(waited.code, 1, "{waited}");
    }
    host.until_disk_is(Build::B);
    until("it is committed", SOON, || {
        let ran = host.handover(&["wait", &id]);
        (ran.code == 0).then_some(())
    });
    load::fresh().stop().assert_clean();
}

/// A `/usr` that cannot be written, for a while: what serves is not held up, it is said at once, and
/// put right when it can be. Nor is a good program lost when a rollback goes to one that cannot start.
pub fn a_disk_that_cannot_be_written_is_said_and_put_right_later(host: &mut Host) {
    let bin = "/usr/lib/handover/bin";
    host.container.sh(&format!("mount --bind {bin} {bin}")).ok();
    host.start();
    host.assert_runs(Build::A);
    host.install(Build::B);
    host.reload().ok();
    let second = host.assert_runs(Build::B);
    host.container
        .sh(&format!("mount -o remount,bind,ro {bin}"))
        .ok();
    let began = std::time::Instant::now();
    let ran = host.handover(&["commit"]);
    assert_eq!(ran.code, 1, "{ran}");
    assert!(
        ran.stderr.contains("is committed and serves\n"),
        "a line of its own: {ran}"
    );
    assert!(ran.stderr.contains("Read-only file system"), "{ran}");
    assert!(began.elapsed() < std::time::Duration::from_secs(20));
    assert_eq!(host.assert_runs(Build::B), second);
    let warned = |host: &Host| {
        host.status()["warnings"]
            .to_string()
            .contains("handover.good is not")
    };
    assert!(warned(host));
    host.container
        .sh(&format!("mount -o remount,bind,rw {bin}"))
        .ok();
    host.until_disk_is(Build::B);
    until("nothing is left to warn of", SOON, || {
        (!warned(host)).then_some(())
    });

    // C on a cold trial; what a rollback would go to cannot start.
    host.install(Build::C);
    host.kill("KILL", second);
    let third = host.until_another_main(second, SOON);
    host.assert_runs(Build::C);
    host.container
        .sh(&format!(
            "cp {} {PROGRAM}.x; mv {PROGRAM}.x {PROGRAM}.good",
            Bad::Exits3.path()
        ))
        .ok();
    let ran = host
        .container
        .run([&Build::C.path(), "--name", "handover", "rollback"]);
    assert_eq!(ran.code, 1, "{ran}");
    assert_eq!(host.assert_runs(Build::C), third);
    assert_eq!(
        host.disk().program,
        Some(Build::C.id()),
        "what runs stays on disk"
    );
}
