//! Upgrades that nobody watches.

use super::manager::{assert_serves, commit, configure, outcomes, within};
use crate::host::Host;
use crate::stories::load;

/// As unattended-upgrades and a timer do it: apt takes the newest, needrestart restarts by itself
/// whatever runs a program that was replaced. The parked master does.
pub fn an_upgrade_at_night_stays_hot(host: &mut Host) {
    configure(host);
    host.container.write(
        "/etc/apt/sources.list",
        "deb [trusted=yes] file:/opt/packages ./\n",
    );
    host.container.write(
        "/etc/needrestart/conf.d/automatic.conf",
        "$nrconf{restart} = 'a';\n$nrconf{kernelhints} = 0;\n$nrconf{ucodehints} = 0;\n",
    );
    apt(host, "update");
    apt(host, "install handover=1.0.0-1");
    let before = assert_serves(host, "1.0.0");
    let load = load::steady();
    apt(host, "upgrade");
    let after = assert_serves(host, "3.0.0");
    assert_ne!(after, before);
    // apt has run it already; the parked master is there for certain.
    let masters = host.status()["masters"].as_array().map(Vec::len);
    assert_eq!(masters, Some(2));
    let ran = within(host, &["needrestart", "-r", "a", "-v"]);
    assert!(
        ran.stderr.contains("handover.service") || ran.stdout.contains("handover.service"),
        "it saw the parked master: {ran}"
    );
    assert_eq!(assert_serves(host, "3.0.0"), after);
    load::goes_on(&load);
    commit(host, "3.0.0");
    load::goes_on(&load);
    load.stop().assert_clean();
    assert_eq!(outcomes(host), ["1.0.0 -> 3.0.0 committed"]);
    assert_eq!(host.restarts(), "0");
}

#[track_caller]
fn apt(host: &Host, what: &str) {
    let script = format!("export DEBIAN_FRONTEND=noninteractive; apt-get -qy {what}");
    within(host, &["sh", "-euc", &script]).ok();
}
