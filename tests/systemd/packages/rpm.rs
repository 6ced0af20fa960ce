//! rpm, in a Debian: its scriptlets run under systemd as anywhere.

use super::gone::{self, LEFT, assert_gone};
use super::made::BAD;
use super::manager::{
    assert_says, assert_serves, commit, configure, outcomes, rpm_upgrade, until_disk_is,
    version_at, within,
};
use crate::host::Host;
use crate::release::PROGRAM;
use crate::stories::load::{self, InFlight};

/// As with dpkg; but rpm starts nothing by itself.
pub fn an_upgrade_is_one_hot_upgrade(host: &mut Host) {
    configure(host);
    install(host);
    let first = assert_serves(host, "1.0.0");
    let load = load::steady();
    let ran = rpm_upgrade(host, "2.0.0", &[]);
    ran.ok();
    assert_says(&ran, "handover: 2.0.0 serves, in probation until 20");
    assert_says(&ran, "`handover rollback` goes back to 1.0.0");
    assert_ne!(assert_serves(host, "2.0.0"), first);
    load::goes_on(&load);

    let ran = rpm_upgrade(host, "3.0.0", &[]);
    ran.ok();
    assert_says(&ran, "goes back to 1.0.0");
    assert_serves(host, "3.0.0");
    assert_eq!(version_at(host, ".good").as_deref(), Some("1.0.0"));
    commit(host, "3.0.0");

    rpm_upgrade(host, "2.0.0", &["--oldpackage"]).ok();
    commit(host, "2.0.0");
    assert_eq!(version_at(host, ".old").as_deref(), Some("3.0.0"));

    let before = assert_serves(host, "2.0.0");
    let ran = rpm_upgrade(host, "2.0.0", &["--replacepkgs"]);
    ran.ok();
    assert_says(&ran, "handover: 2.0.0 serves: the program is the same");
    assert_eq!(assert_serves(host, "2.0.0"), before);
    until_disk_is(host, "2.0.0");
    assert_eq!(version_at(host, ".old").as_deref(), Some("3.0.0"));
    load::goes_on(&load);
    load.stop().assert_clean();
    assert_eq!(
        outcomes(host),
        [
            "1.0.0 -> 2.0.0 rolled_back",
            "1.0.0 -> 3.0.0 committed",
            "3.0.0 -> 2.0.0 committed",
        ]
    );
    assert_eq!(host.restarts(), "0");
    assert_eq!(rpm(host, &["--verify", "--nodeps", "handover"]).ok(), "");
}

/// The transaction succeeds, and what served serves; after a rollback `rpm -V` differs and `status`
/// says why.
pub fn a_bad_release_is_refused_and_a_rollback_is_explained(host: &mut Host) {
    configure(host);
    install(host);
    let before = assert_serves(host, "1.0.0");
    let load = load::steady();
    let ran = rpm_upgrade(host, BAD, &[]);
    ran.ok();
    assert_says(
        &ran,
        "handover: the new program was refused; 1.0.0 serves as before",
    );
    assert_eq!(assert_serves(host, "1.0.0"), before);
    until_disk_is(host, "1.0.0");

    rpm_upgrade(host, "2.0.0", &["--oldpackage"]).ok();
    assert_serves(host, "2.0.0");
    host.handover(&["rollback"]).ok();
    assert_eq!(assert_serves(host, "1.0.0"), before);
    until_disk_is(host, "1.0.0");
    let verified = rpm(host, &["--verify", "--nodeps", "handover"]);
    assert_says(&verified, PROGRAM);
    assert_says(&host.handover(&["status"]), "`rpm -V`");

    rpm_upgrade(host, "3.0.0", &[]).ok();
    assert_eq!(version_at(host, ".good").as_deref(), Some("1.0.0"));
    commit(host, "3.0.0");
    load::goes_on(&load);
    load.stop().assert_clean();
    assert_eq!(host.restarts(), "0");
    assert_eq!(rpm(host, &["--verify", "--nodeps", "handover"]).ok(), "");
}

/// While it serves. What the service wrote stays, as rpm has no purge; the user, too.
pub fn erased_it_leaves_nothing(host: &mut Host) {
    gone::site(host);
    install(host);
    rpm_upgrade(host, "2.0.0", &[]).ok();
    assert_serves(host, "2.0.0");
    let in_flight = InFlight::begin();
    let erase = host
        .container
        .spawn(["rpm", "--erase", "handover"])
        .expect("spawned");
    in_flight.finish();
    let out = erase.wait_with_output().expect("waited");
    assert!(out.status.success(), "{out:?}");
    assert_gone(host);
    host.container
        .sh("rm -rf /etc/handover /var/lib/handover /var/log/handover; userdel handover")
        .ok();
    assert_eq!(host.container.sh(LEFT).ok(), "");
}

fn install(host: &Host) {
    let ran = rpm_upgrade(host, "1.0.0", &[]);
    ran.ok();
    assert_eq!(host.state(), "inactive", "rpm starts nothing");
    host.systemctl(["enable", "--now", "handover.service"]).ok();
}

fn rpm(host: &Host, args: &[&str]) -> crate::container::Ran {
    within(host, ["rpm"].iter().chain(args))
}
