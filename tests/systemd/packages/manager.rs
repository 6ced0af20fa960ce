//! What the stories of both kinds of packages do and ask.

use std::time::Duration;

use super::made;
use crate::container::Ran;
use crate::host::{Host, until};
use crate::release::PROGRAM;

/// For whatever a daemon or systemd does on its own: this may be a loaded machine.
pub const IN_TIME: Duration = Duration::from_secs(30);

/// A transaction with a boot's worth of scripts and an upgrade in it.
const TRANSACTION: Duration = Duration::from_secs(150);

/// Nobody waits for a commit: what is asked of a probation takes its time here.
const PATIENT: &str = "workers = 2\n[upgrade]\nprobation = \"10m\"\n";

/// What this machine's administrator says about the service.
pub fn configure(host: &Host) {
    host.container
        .write("/etc/handover/conf.d/test.toml", PATIENT);
}

/// `dpkg -i`. Nobody is there to answer questions.
pub fn dpkg_install(host: &Host, version: &str) -> Ran {
    dpkg(host, &["--install", &made::deb(version)])
}

pub fn dpkg(host: &Host, args: &[&str]) -> Ran {
    within(host, ["dpkg"].iter().chain(args))
}

/// `rpm -U`: whatever Debian's packages provide is not in rpm's database.
pub fn rpm_upgrade(host: &Host, version: &str, flags: &[&str]) -> Ran {
    rpm_upgrade_of("handover", host, version, flags)
}

pub fn rpm_upgrade_of(package: &str, host: &Host, version: &str, flags: &[&str]) -> Ran {
    let file = made::rpm(package, version);
    within(
        host,
        ["rpm", "--upgrade", "--nodeps"]
            .iter()
            .chain(flags)
            .chain([&&*file]),
    )
}

pub fn within<'a>(host: &Host, command: impl IntoIterator<Item = &'a &'a str>) -> Ran {
    host.container.run_within(TRANSACTION, command)
}

/// Panics unless this version is the main process's; it.
#[track_caller]
pub fn assert_serves(host: &Host, version: &str) -> u32 {
    let status = host.status();
    assert_eq!(status["version"], version, "{status:#}");
    let pid = host.main_pid();
    assert_eq!(status["owner_pid"], pid, "{status:#}");
    assert_eq!(host.state(), "active");
    pid
}

/// The version of a program beside the one on disk ("": of that one), as it says itself.
pub fn version_at(host: &Host, suffix: &str) -> Option<String> {
    let ran = host.container.run([&*format!("{PROGRAM}{suffix}"), "-v"]);
    let version = ran.stdout.split('/').nth(1)?;
    Some(version.trim_end().to_owned())
}

/// Waits until this version is on disk, and good.
#[track_caller]
pub fn until_disk_is(host: &Host, version: &str) {
    until(&format!("{version} on disk, and good"), IN_TIME, || {
        let disk = host.disk();
        (disk.program == disk.good && version_at(host, "").as_deref() == Some(version))
            .then_some(())
    });
}

#[track_caller]
pub fn commit(host: &Host, version: &str) {
    host.handover(&["commit"]).ok();
    until_disk_is(host, version);
    assert_serves(host, version);
}

/// What came of each upgrade, oldest first.
pub fn outcomes(host: &Host) -> Vec<String> {
    let ran = host.handover(&["history", "--json"]);
    ran.ok()
        .lines()
        .map(|line| {
            let last: serde_json::Value = serde_json::from_str(line).expect("a line of history");
            let word = |key: &str| last[key].as_str().unwrap_or("?").to_owned();
            format!("{} -> {} {}", word("from"), word("to"), word("outcome"))
        })
        .collect()
}

#[track_caller]
pub fn assert_says(ran: &Ran, what: &str) {
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains(what), "no {what:?} in: {ran}");
}
