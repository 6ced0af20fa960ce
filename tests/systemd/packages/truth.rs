//! What tools learn of an upgrade: by a transaction's exit code where they wish so, by `wait --version`
//! and by `status` in any case.

use super::made::{BAD, VERSIONS};
use super::manager::{
    assert_says, assert_serves, commit, configure, dpkg_install, rpm_upgrade, until_disk_is, within,
};
use super::{made, manager};
use crate::container::Ran;
use crate::host::{Host, until};

/// By default a transaction succeeds and `wait` says what came of it, to everybody, also later.
pub fn a_refusal_is_told_to_those_who_ask(host: &mut Host) {
    let [one, two, _] = VERSIONS;
    configure(host);
    dpkg_install(host, one).ok();
    until_disk_is(host, one);
    assert_says(&wait(host, one, "10s", 0), "1.0.0 serves for good");
    assert_drift(host, "1.0.0-1", &[]);

    dpkg_install(host, BAD).ok();
    refused(host);
    host.systemctl(["restart", "handover.service"]).ok();
    refused(host);
    // Something else was tried since, and failed otherwise.
    dpkg_install(host, two).ok();
    assert_drift(host, "2.0.0-1", &["good"]);
    assert_says(
        &wait(host, two, "1s", 75),
        "2.0.0 (g2) serves, in probation",
    );
    host.handover(&["rollback"]).ok();
    assert_says(&wait(host, two, "10s", 1), "rolled back");
    assert_drift(host, "2.0.0-1", &["installed"]);

    // The wish of this one transaction.
    let ran = with_wish(host, "fail", BAD);
    assert_eq!(ran.code, 1, "{ran}");
    assert_says(&ran, "1.0.0 serves as before");
    assert_serves(host, one);
    refused_before(host);
    // A second try of what dpkg has left half done finds the program that was put back.
    within(host, &["dpkg", "--configure", "--pending"]).ok();
    refused_before(host);

    // The administrator's, for all of them; the transaction's own wish goes before.
    host.container
        .write("/etc/handover/package.conf", "HANDOVER_REFUSED=fail\n");
    assert_eq!(dpkg_install(host, BAD).code, 1);
    with_wish(host, "ignore", BAD).ok();
    with_wish(host, "fail", "3.0.0").ok();
    commit(host, "3.0.0");
    assert_says(&wait(host, "3.0.0", "10s", 0), "3.0.0 serves for good");
    host.systemctl(["restart", "handover.service"]).ok();
    assert_says(&wait(host, "3.0.0", "10s", 0), "3.0.0 serves for good");
    assert_drift(host, "3.0.0-1", &[]);

    // The power goes between the files and the scripts: it was never tried hot.
    within(host, &["dpkg", "--unpack", &made::deb(BAD)]).ok();
    host.container.power_cycle().expect("it boots");
    until("3.0.0 serves again", manager::IN_TIME, || {
        (host.state() == "active").then_some(())
    });
    until_disk_is(host, "3.0.0");
    with_wish(host, "ignore", "pending").ok();
    refused_before(host);
}

/// A release that came with an image, or just before the power went: the boot is complete when it has
/// proved itself, and is not when it was put back.
pub fn a_boot_is_complete_when_the_release_serves_for_good(host: &mut Host) {
    configure(host);
    host.container.write(
        "/etc/handover/conf.d/trial.toml",
        "[upgrade]\nprobation = \"6s\"\n",
    );
    dpkg_install(host, "1.0.0").ok();
    let committed = "handover-committed.service";
    let enabled = host.systemctl(["is-enabled", committed]);
    assert_eq!(enabled.stdout.trim(), "disabled");
    host.systemctl(["enable", committed]).ok();

    let boots_with = |host: &mut Host, version: &str| {
        within(host, &["dpkg", "--unpack", &made::deb(version)]).ok();
        // As an image is made: the scripts write down what is installed, and nothing runs.
        let script =
            "unshare --mount sh -euc 'mount -t tmpfs tmpfs /run; dpkg --configure --pending'";
        host.container.sh(script).ok();
        host.container.power_cycle().expect("it boots");
        let complete = within(host, &["systemctl", "start", "boot-complete.target"]);
        (complete, host.status())
    };
    let (complete, status) = boots_with(host, "2.0.0");
    complete.ok();
    assert_eq!(status["version"], "2.0.0", "{status:#}");
    assert_eq!(
        status["drift"]["differ"],
        serde_json::json!([]),
        "{status:#}"
    );

    let (complete, status) = boots_with(host, BAD);
    assert_eq!(complete.code, 1, "{complete}");
    assert_eq!(status["version"], "2.0.0", "{status:#}");
    assert_eq!(
        host.systemctl(["is-active", "boot-complete.target"])
            .stdout
            .trim(),
        "inactive"
    );
    let said = host
        .container
        .run(["journalctl", "--unit", committed, "--output=cat"]);
    assert_says(&said, "4.0.0 is installed but was refused before");
}

/// The files are rpm's, the words and codes the same.
pub fn as_rpm_tells_it(host: &mut Host) {
    configure(host);
    rpm_upgrade(host, "1.0.0", &[]).ok();
    host.systemctl(["enable", "--now", "handover.service"]).ok();
    assert_drift(host, "1.0.0-1", &[]);
    rpm_upgrade(host, BAD, &[]).ok();
    refused(host);
    rpm_upgrade(host, "2.0.0", &["--oldpackage"]).ok();
    commit(host, "2.0.0");
    wait(host, "2.0.0", "10s", 0);
    assert_drift(host, "2.0.0-1", &[]);
    host.container
        .write("/etc/handover/package.conf", "HANDOVER_REFUSED=fail\n");
    // rpm's own exit code does not tell: the files are there, and it goes on.
    let ran = rpm_upgrade(host, BAD, &[]);
    assert_says(&ran, "HANDOVER_REFUSED=fail");
    assert_says(&ran, "scriptlet failed");
    refused_before(host);
}

/// What everybody can learn when the bad release was refused, with the reason.
#[track_caller]
fn refused(host: &Host) {
    assert_says(&wait(host, BAD, "30s", 1), "failed: ");
    refused_before(host);
}

/// The same when something else was tried since.
#[track_caller]
fn refused_before(host: &Host) {
    wait(host, BAD, "30s", 1);
    assert_drift(host, "4.0.0-1", &["installed"]);
}

/// As nobody in particular.
#[track_caller]
fn wait(host: &Host, version: &str, limit: &str, code: i32) -> Ran {
    let command = ["handover", "wait", "--version", version, "--timeout", limit];
    let ran = host.container.run(AS_NOBODY.iter().chain(&command));
    assert_eq!(ran.code, code, "{ran}");
    ran
}

/// In `status` and in the metrics.
#[track_caller]
fn assert_drift(host: &Host, installed: &str, differ: &[&str]) {
    let status = host.status();
    let drift = &status["drift"];
    assert_eq!(drift["installed"], installed, "{status:#}");
    assert_eq!(drift["differ"], serde_json::json!(differ), "{status:#}");
    let socket = "/run/handover/control.sock";
    let metrics = host
        .container
        .run(["curl", "-s", "--unix-socket", socket, "http://x/metrics"]);
    for place in ["installed", "disk", "good"] {
        let value = u8::from(differ.contains(&place));
        let line = format!("handover_drift{{of=\"{place}\"}} {value}");
        assert!(metrics.ok().lines().any(|l| l == line), "{line}: {metrics}");
    }
}

/// `dpkg -i` of that version (`pending`: what is left to do) with a wish in its environment.
fn with_wish(host: &Host, wish: &str, version: &str) -> Ran {
    let wish = format!("HANDOVER_REFUSED={wish}");
    let deb = made::deb(version);
    let what = match version {
        "pending" => ["--configure", "--pending"],
        _ => ["--install", &*deb],
    };
    within(host, ["env", &wish, "dpkg"].iter().chain(&what))
}

const AS_NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];
