//! `examples/greeter`: what an author's package of an application does.

use super::manager::IN_TIME;
use super::manager::{assert_says, rpm_upgrade_of, within};
use crate::container::Ran;
use crate::host::{Host, until};
use crate::kit::client::{Load, Running, Spec};
use crate::stories::load::PAUSE;

/// Its two lines make an upgrade of it a hot upgrade, and a rollback one command.
pub fn a_package_of_an_application_is_upgraded_like_any(host: &mut Host) {
    let install = |version: &str| {
        let deb = format!("/opt/packages/greeter_{version}-1_amd64.deb");
        let ran = within(host, &["dpkg", "--install", &deb]);
        ran.ok();
        ran
    };
    assert_says(&install("1.0.0"), "greeter: 1.0.0 serves");
    forward_and_back(host, &install).stop().assert_clean();
    within(host, &["dpkg", "--purge", "greeter"]).ok();
    assert_eq!(host.container.sh(LEFT).ok(), "");
}

/// The same as an rpm, by `packaging/package` and its scriptlets of one line; and needrestart, told
/// by the package, leaves the parked master alone.
pub fn as_an_rpm_too(host: &mut Host) {
    let install = |version: &str| {
        let ran = rpm_upgrade_of("greeter", host, version, &[]);
        ran.ok();
        ran
    };
    install("1.0.0");
    host.systemctl(["start", "greeter.service"]).ok();
    let load = forward_and_back(host, &install);
    let ran = within(host, &["needrestart", "-r", "a", "-v"]);
    assert!(
        ran.stderr.contains("greeter.service") || ran.stdout.contains("greeter.service"),
        "it saw the parked master: {ran}"
    );
    load.wait_answers(200, IN_TIME);
    load.stop().assert_clean();
    within(host, &["rpm", "--erase", "greeter"]).ok();
    host.container
        .sh("rm -rf /etc/greeter /var/lib/greeter /var/log/greeter; userdel greeter")
        .ok();
    assert_eq!(host.container.sh(LEFT).ok(), "");
}

/// Up to 3.0.0 in its probation; the clients go on.
fn forward_and_back(host: &Host, install: &dyn Fn(&str) -> Ran) -> Running {
    let load = Load::start_all(vec![
        Spec::new("127.0.0.1:8080")
            .keep_alive()
            .connections(4)
            .pause(PAUSE),
        Spec::new("127.0.0.1:8080")
            .fresh()
            .connections(2)
            .pause(PAUSE),
    ]);
    load.wait_answers(100, IN_TIME);
    let ran = install("2.0.0");
    assert_says(&ran, "greeter: 2.0.0 serves, in probation until 20");
    load.wait_answers(200, IN_TIME);
    host.container.run(["greeter", "rollback"]).ok();
    load.wait_answers(200, IN_TIME);
    let program = "/usr/lib/greeter/bin/greeter";
    until("1.0.0 is back on disk", IN_TIME, || {
        let version = host.container.run([program, "-v"]);
        version.stdout.contains("/1.0.0").then_some(())
    });
    assert_says(&install("3.0.0"), "goes back to 1.0.0");
    load.wait_answers(200, IN_TIME);
    load
}

/// Anything of it that is still there.
const LEFT: &str = "
find / /run -xdev \\( -path /opt -o -path /var/log/journal \\) -prune -o -name '*greeter*' -print
getent passwd greeter || :
";
