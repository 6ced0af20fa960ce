//! Who is no root: members of `[control] group` order, everybody reads; and what a configuration may
//! ask of systemd.

use std::fmt::Write as _;

use crate::host::{Host, SOON, until};
use crate::release::Build;

/// A user of the host, in these groups.
fn as_user(host: &Host, user: &str, groups: &str, args: &[&str]) -> crate::container::Ran {
    let reuid = format!("--reuid={user}");
    let groups = match groups {
        "" => "--clear-groups".to_owned(),
        groups => format!("--groups={groups}"),
    };
    let setpriv = [
        "setpriv",
        &reuid,
        "--regid=games",
        &groups,
        "/usr/bin/handover",
    ];
    host.container.run(setpriv.iter().chain(args))
}

/// The service may not change a file's group and sees no other user in /proc; neither is needed.
pub fn a_member_of_the_group_orders_and_everybody_reads(host: &mut Host) {
    host.container.sh("groupadd --system operators").ok();
    host.configure("[control]\ngroup = \"operators\"");
    host.start();
    host.assert_runs(Build::A);
    for args in [&["status"][..], &["status", "--json"], &["wait"]] {
        as_user(host, "nobody", "", args).ok();
    }
    let metrics = "curl --silent --fail --unix-socket /run/handover/control.sock http://x/metrics";
    let reads = format!("setpriv --reuid=nobody --regid=games --clear-groups {metrics}");
    assert!(host.container.sh(&reads).ok().contains("handover_"));
    let stranger = as_user(host, "nobody", "", &["reload"]);
    assert_eq!(stranger.code, 77, "{stranger}");
    assert!(
        stranger.stderr.contains("members of group operators"),
        "{stranger}"
    );
    host.install(Build::B);
    as_user(host, "nobody", "operators", &["upgrade"]).ok();
    host.assert_runs(Build::B);
    as_user(host, "nobody", "operators", &["rollback"]).ok();
    host.assert_runs(Build::A);
    // A worker has the service's user: no group helps it.
    let worker = as_user(host, "handover", "operators", &["reload"]);
    assert_eq!(worker.code, 77, "{worker}");
    host.systemctl(["restart", "handover.service"]).ok();
    as_user(host, "nobody", "operators", &["reload"]).ok();
}

/// `check`, a reload and a start say the same of it.
pub fn a_group_that_nobody_has_is_refused_before_it_harms(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    host.configure("[control]\ngroup = \"nobodys\"");
    let checked = host.handover(&["check"]);
    assert_eq!(checked.code, 78, "{checked}");
    assert!(
        checked.stderr.contains("there is no group \"nobodys\""),
        "{checked}"
    );
    assert_ne!(host.reload().code, 0);
    assert_eq!(host.assert_runs(Build::A), before);
}

/// As many as are allowed; systemd passes them all to the next start.
pub fn hundreds_of_listeners_survive_a_restart(host: &mut Host) {
    let mut more = String::new();
    for n in 1..640 {
        let _ = write!(
            more,
            "[[listener]]\nname = \"n{n}\"\naddress = \"127.0.0.1:{}\"\n",
            10_000 + n
        );
    }
    host.configure(&more);
    host.start();
    host.assert_runs(Build::A);
    for _ in 0..2 {
        host.systemctl(["restart", "handover.service"]).ok();
        host.assert_runs(Build::A);
    }
    let pid = host.main_pid().to_string();
    host.container.run(["kill", "-KILL", &pid]).ok();
    until("it runs again", SOON, || {
        let now = host.main_pid();
        (now != 0 && now.to_string() != pid).then_some(())
    });
    host.container
        .sh("curl --silent --fail http://127.0.0.1:10639/ >/dev/null")
        .ok();
    // One more would be lost at the next start: it is refused now.
    more += "[[listener]]\nname = \"n640\"\naddress = \"127.0.0.1:10640\"\n";
    host.configure(&more);
    assert_ne!(host.reload().code, 0);
}
