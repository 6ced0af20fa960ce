//! The end of a package.

use std::net::TcpStream;

use super::made::deb;
use super::manager::{assert_serves, dpkg, dpkg_install};
use crate::host::{BIG, Host, SOON, until};
use crate::stories::load::InFlight;

/// What was begun is finished, ports are free, and what is left is nobody's.
pub fn a_removal_finishes_requests_and_a_purge_leaves_nothing(host: &mut Host) {
    site(host);
    dpkg_install(host, "1.0.0").ok();
    dpkg_install(host, "2.0.0").ok();
    assert_serves(host, "2.0.0");
    // In its probation, with a master parked and an answer in the middle.
    let in_flight = InFlight::begin();
    let remove = host
        .container
        .spawn(["dpkg", "--remove", "handover"])
        .expect("spawned");
    in_flight.finish();
    let out = remove.wait_with_output().expect("waited");
    assert!(out.status.success(), "{out:?}");
    assert_gone(host);
    assert!(host.container.path("/etc/handover/handover.toml").exists());
    assert!(host.container.path("/var/lib/handover").exists());

    dpkg_install(host, "1.0.0").ok();
    assert_serves(host, "1.0.0");
    let ran = dpkg(host, &["--purge", "handover"]);
    ran.ok();
    assert_gone(host);
    assert_eq!(host.container.sh(LEFT).ok(), "");
    assert!(!deb("1.0.0").is_empty());
}

/// Nobody listens, nothing runs, nothing is where the program was.
#[track_caller]
pub fn assert_gone(host: &Host) {
    // The service manager closes what it has kept in a thread of its own.
    let refused = until("nobody listens", SOON, || {
        TcpStream::connect("127.0.0.1:80").err()
    });
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(host.titled("handover:"), Vec::<u32>::new());
    for path in [
        "/usr/lib/handover",
        "/usr/bin/handover",
        "/usr/share/handover",
    ] {
        let path = host.container.path(path);
        assert!(
            std::fs::symlink_metadata(&path).is_err(),
            "{}",
            path.display()
        );
    }
}

/// A site with a file that no socket buffer holds.
pub fn site(host: &Host) {
    host.container
        .sh(&format!(
            "mkdir -p /srv/www; echo hello >/srv/www/index.html; truncate -s 64M /srv/www/{BIG}"
        ))
        .ok();
    host.container.write(
        "/etc/handover/conf.d/site.toml",
        "workers = 2\n[site]\nroot = \"/srv/www\"\n",
    );
}

/// Anything of ours that is still there. The journal is the machine's, not ours.
pub const LEFT: &str = "
find / /run /tmp -xdev \\( -path /opt -o -path /proc -o -path /sys -o -path /var/log/journal \\
    -o -path /handover-tree \\) -prune -o -name '*handover*' -print
getent passwd handover || :
getent group handover || :
";
