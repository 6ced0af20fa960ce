//! Upgrades that nobody watches.

use super::manager::{assert_serves, commit, configure, outcomes, within};
use crate::host::Host;
use crate::stories::load;

/// The timer's service runs unattended-upgrades, which takes the newest; then needrestart restarts by
/// itself whatever runs a program that was replaced. The parked master does.
pub fn an_upgrade_at_night_stays_hot(host: &mut Host) {
    configure(host);
    host.container.sh(REPOSITORY).ok();
    for (file, text) in [
        (
            "apt/sources.list",
            "deb [trusted=yes] file:/opt/packages ./\n",
        ),
        ("apt/apt.conf.d/99test", UNATTENDED),
        ("needrestart/conf.d/automatic.conf", AUTOMATIC),
    ] {
        host.container.write(&format!("/etc/{file}"), text);
    }
    apt(host, "update");
    apt(host, "install handover=1.0.0-1");
    let load = load::steady();
    // By day, by hand.
    apt(host, "install handover=2.0.0-1");
    commit(host, "2.0.0");
    let before = assert_serves(host, "2.0.0");
    within(host, &["systemctl", "start", "apt-daily-upgrade.service"]).ok();
    let after = assert_serves(host, "3.0.0");
    assert_ne!(after, before);
    let log = "/var/log/unattended-upgrades/unattended-upgrades.log";
    let log = host.container.run(["cat", log]);
    assert!(
        log.ok()
            .contains("Packages that will be upgraded: handover"),
        "{log}"
    );
    assert!(log.ok().contains("All upgrades installed"), "{log}");
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
    assert_eq!(
        outcomes(host),
        ["1.0.0 -> 2.0.0 committed", "2.0.0 -> 3.0.0 committed"]
    );
    assert_eq!(host.restarts(), "0");
}

#[track_caller]
fn apt(host: &Host, what: &str) {
    let script = format!("export DEBIAN_FRONTEND=noninteractive; apt-get -qy {what}");
    within(host, &["sh", "-euc", &script]).ok();
}

/// unattended-upgrades asks where a package comes from.
const REPOSITORY: &str = "
cd /opt/packages
{
    echo 'Origin: Example'
    echo 'SHA256:'
    echo \" $(sha256sum Packages | cut -d ' ' -f 1) $(stat -c %s Packages) Packages\"
} >Release
";

/// Every night, and of that origin.
const UNATTENDED: &str = r#"
APT::Periodic::Unattended-Upgrade "1";
#clear Unattended-Upgrade::Origins-Pattern;
Unattended-Upgrade::Origins-Pattern { "origin=Example"; };
"#;

const AUTOMATIC: &str =
    "$nrconf{restart} = 'a';\n$nrconf{kernelhints} = 0;\n$nrconf{ucodehints} = 0;\n";
