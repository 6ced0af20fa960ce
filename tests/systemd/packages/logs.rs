//! The access log on a host that rotates it.

use super::manager::{IN_TIME, assert_serves, commit, dpkg_install, within};
use crate::host::{Host, until};
use crate::stories::load;

/// The package's own file for logrotate, under load and through an upgrade: every answer has its
/// line, in one of the files, each of which is the service's.
pub fn a_rotation_loses_no_line(host: &mut Host) {
    host.container.write(
        "/etc/handover/conf.d/test.toml",
        "workers = 2\n[log]\naccess = \"/var/log/handover/access.log\"\n",
    );
    dpkg_install(host, "1.0.0").ok();
    assert_serves(host, "1.0.0");
    let load = load::steady();
    rotate(host, 1);
    load::goes_on(&load);
    dpkg_install(host, "2.0.0").ok();
    assert_serves(host, "2.0.0");
    // The parked master's workers, should one be left, are told as well.
    rotate(host, 2);
    load::goes_on(&load);
    commit(host, "2.0.0");
    rotate(host, 3);
    load::goes_on(&load);
    let report = load.stop();
    report.assert_clean();
    let answers = report.total.ok;
    // Written behind the answer, by the second at the latest.
    until("a line an answer", IN_TIME, || {
        let lines = host.container.sh(LINES);
        (lines.ok().trim() == answers.to_string()).then_some(())
    });
    let owners = "stat -c %U:%G /var/log/handover/* | sort -u";
    assert_eq!(host.container.sh(owners).ok(), "handover:handover");
    assert_eq!(host.restarts(), "0");
}

/// Returns when lines go to a new file.
#[track_caller]
fn rotate(host: &Host, time: u32) {
    let written = || {
        let log = host.container.path("/var/log/handover/access.log");
        std::fs::metadata(log)
            .is_ok_and(|m| m.len() > 0)
            .then_some(())
    };
    // An empty one is left alone.
    until("lines to rotate", IN_TIME, written);
    let file = "/etc/logrotate.d/handover";
    let ran = within(host, &["logrotate", "--force", "--verbose", file]);
    ran.ok();
    until("lines in the new file", IN_TIME, written);
    let rotated = host.container.sh("ls /var/log/handover | wc -l");
    assert_eq!(rotated.ok().trim(), (time + 1).to_string(), "{ran}");
}

const LINES: &str = "
cd /var/log/handover
{ cat access.log access.log.1; zcat access.log.*.gz; } | grep -c ' g[0-9]*$'
";
