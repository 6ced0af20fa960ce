//! A release that comes as a system extension (systemd-sysext(8)): `/usr` is an overlay that nobody
//! can write while it is merged.

use super::load;
use crate::host::{Host, SOON, until};
use crate::release::Build;

const PLACE: &str = "/var/lib/extensions/release";

/// Merged, it is a hot upgrade; with it gone, a hot way back.
pub fn a_merged_release_is_an_upgrade(host: &mut Host) {
    host.start();
    let first = host.assert_runs(Build::A);
    bring(host, Build::B);
    let load = load::steady();

    sysext(host, "merge");
    let second = host.until_another_main(first, SOON);
    assert_eq!(host.assert_runs(Build::B), second);
    load::goes_on(&load);
    let refused = host.handover(&["commit"]);
    // It serves for good, though nobody can keep its file beside the program.
    until("the first master has left", SOON, || {
        host.titled("handover: master process g1")
            .is_empty()
            .then_some(())
    });
    assert_eq!(refused.code, 1, "{refused}");
    assert!(
        refused.stderr.contains("Read-only file system"),
        "{refused}"
    );

    sysext(host, "unmerge");
    host.until_another_main(second, SOON);
    host.assert_runs(Build::A);
    load::goes_on(&load);
    host.handover(&["commit"]).ok();
    host.until_disk_is(Build::A);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

/// Lays the extension down; it is not in use yet.
fn bring(host: &Host, build: Build) {
    host.container.write(
        &format!("{PLACE}/usr/lib/extension-release.d/extension-release.release"),
        "ID=_any\nEXTENSION_RELOAD_OR_RESTART_UNITS=handover.service\n",
    );
    let from = build.path();
    let script = format!(
        "mkdir -p {PLACE}/usr/lib/handover/bin && cp -p {from} {PLACE}/usr/lib/handover/bin/handover"
    );
    host.container.sh(&script).ok();
}

/// Systemd reloads the units that the extension names since version 258; before that a person does.
fn sysext(host: &Host, verb: &str) {
    host.container.run(["systemd-sysext", verb]).ok();
    if host.container.suite.systemd() < 258 {
        host.reload().ok();
    }
}
