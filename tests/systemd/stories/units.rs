//! The unit files themselves.

use crate::container::Ran;
use crate::host::Host;
use crate::release::Build;

/// systemd finds nothing to say about them.
pub fn the_unit_files_are_clean(host: &mut Host) {
    for unit in UNITS {
        // --man=no: the manual is not installed here.
        let ran = host
            .container
            .run(["systemd-analyze", "verify", "--man=no", unit]);
        assert!(
            ran.code == 0 && ran.stdout.is_empty() && ran.stderr.is_empty(),
            "{ran}"
        );
    }
    // Nor when it loads and runs them.
    host.start();
    let journal = host
        .container
        .run(["journalctl", "--boot", "--output=cat", "_PID=1"]);
    for complaint in ["Unknown key", "Failed to parse", "ignoring"] {
        assert!(!journal.ok().contains(complaint), "{journal}");
    }
}

/// `systemd-analyze security`: the lower the better.
pub fn the_sandbox_scores(host: &mut Host) {
    let service = exposure(host, "handover.service");
    assert!(service <= 1.7, "with the port capability: {service}");
    for unit in ["handover-restore.service", "handover-restore@blog.service"] {
        let restore = exposure(host, unit);
        assert!(restore <= 1.7, "the root oneshot {unit}: {restore}");
    }
    let hosts = exposure(host, "handover@blog.service");
    assert!(hosts <= 2.2, "with an interpreter in it: {hosts}");
    host.drop_in(
        "no-port-capability",
        include_str!("../../../systemd/optional/no-port-capability.conf"),
    );
    let service = exposure(host, "handover.service");
    assert!(service <= 1.4, "without the port capability: {service}");
}

/// What a process is born with comes with the next restart; `status` says so until then.
pub fn a_newer_revision_waits_for_the_restart(host: &mut Host) {
    host.start();
    host.assert_runs(Build::A);
    let revisions = || {
        let status = host.status();
        let warned = status["warnings"].to_string().contains("next restart");
        let rev = |which: &str| status["unit_rev"][which].as_str().map(str::to_owned);
        let of = |which: &str| rev(which).and_then(|text| text.parse::<u32>().ok());
        (of("running"), of("installed"), warned)
    };
    let (shipped, installed, warned) = revisions();
    let newer = shipped.map(|rev| rev + 1);
    assert!(shipped.is_some() && installed == shipped && !warned);
    host.drop_in(
        "90-newer",
        &format!(
            "[Service]\nEnvironment=HANDOVER_UNIT_REV={}\n",
            newer.unwrap_or(0)
        ),
    );
    assert_eq!(revisions(), (shipped, newer, true));
    // A hot upgrade brings another program, not another environment.
    host.install(Build::B);
    host.reload().ok();
    host.handover(&["commit"]).ok();
    host.assert_runs(Build::B);
    assert_eq!(revisions(), (shipped, newer, true));
    host.systemctl(["restart", "handover.service"]).ok();
    host.assert_runs(Build::B);
    assert_eq!(revisions(), (newer, newer, false));
}

fn exposure(host: &Host, unit: &str) -> f32 {
    let ran = host
        .container
        .run(["systemd-analyze", "security", "--no-pager", unit]);
    overall(&ran).unwrap_or_else(|| panic!("no overall exposure level in {ran}"))
}

fn overall(ran: &Ran) -> Option<f32> {
    let line = ran
        .stdout
        .lines()
        .find(|l| l.contains("Overall exposure level"))?;
    line.rsplit_once(": ")?.1.split(' ').next()?.parse().ok()
}

const UNITS: [&str; 7] = [
    "handover.service",
    "handover.socket",
    "handover-restore.path",
    "handover-restore.service",
    "handover@blog.service",
    "handover-restore@blog.path",
    "handover-restore@blog.service",
];
