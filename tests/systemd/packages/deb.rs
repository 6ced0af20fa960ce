//! dpkg.

use std::net::TcpListener;

use super::made::{BAD, deb};
use super::manager::{
    IN_TIME, assert_says, assert_serves, commit, configure, dpkg, dpkg_install, outcomes,
    until_disk_is, version_at,
};
use crate::host::{Host, until};
use crate::release::PROGRAM;
use crate::stories::load;

/// It serves, it is enabled, and all of it is root's and well formed.
pub fn an_installation_serves(host: &mut Host) {
    configure(host);
    let ran = dpkg_install(host, "1.0.0");
    ran.ok();
    assert_says(&ran, "handover: 1.0.0 serves");
    assert_serves(host, "1.0.0");
    host.systemctl(["is-enabled", "handover.service"]).ok();
    load::steady().stop().assert_clean();
    assert_eq!(dpkg(host, &["--verify", "handover"]).ok(), "");
    assert_eq!(host.container.sh(NOT_AS_SHIPPED).ok(), "");
    let explained = "/usr/share/doc/handover/examples/handover.toml";
    host.handover(&["check", "--config", explained]).ok();
    host.handover(&["check"]).ok();
    let verified = host
        .container
        .run(["systemd-analyze", "verify", "handover.service"]);
    let said: Vec<_> = verified
        .stderr
        .lines()
        .filter(|line| line.contains("handover") && !line.contains("man "))
        .collect();
    assert!(said.is_empty(), "{said:?}");
    let catalog = host.container.run(["journalctl", "--list-catalog"]);
    assert!(catalog.ok().contains("gives the service back"));
    let account = host.container.run(["getent", "passwd", "handover"]);
    assert!(account.ok().ends_with("/nologin"), "{account}");
    // 252 does not know the setting, and says so at each load.
    let known = host.container.suite.systemd() >= 254;
    let expected = if known { "yes" } else { "" };
    assert_eq!(host.property("FileDescriptorStorePreserve"), expected);
    // And when systemd itself is upgraded some day.
    host.container.sh(SYSTEMD_UPGRADED).ok();
    assert_eq!(host.property("FileDescriptorStorePreserve"), expected);
}

/// Forward, forward again while the first is in probation, backward, and the same again: each time
/// at most one upgrade, and not one request failed.
pub fn an_upgrade_is_one_hot_upgrade(host: &mut Host) {
    configure(host);
    dpkg_install(host, "1.0.0").ok();
    let first = assert_serves(host, "1.0.0");
    let load = load::steady();
    let ran = dpkg_install(host, "2.0.0");
    ran.ok();
    assert_says(&ran, "handover: 2.0.0 serves, in probation until 20");
    assert_says(&ran, "`handover rollback` goes back to 1.0.0");
    assert_ne!(assert_serves(host, "2.0.0"), first);
    load::goes_on(&load);

    let ran = dpkg_install(host, "3.0.0");
    ran.ok();
    assert_says(&ran, "handover: 3.0.0 serves, in probation until 20");
    assert_says(&ran, "goes back to 1.0.0");
    assert_serves(host, "3.0.0");
    assert_eq!(version_at(host, ".good").as_deref(), Some("1.0.0"));
    commit(host, "3.0.0");
    load::goes_on(&load);

    let ran = dpkg_install(host, "2.0.0");
    ran.ok();
    assert_says(&ran, "handover: 2.0.0 serves, in probation");
    commit(host, "2.0.0");
    assert_eq!(version_at(host, ".old").as_deref(), Some("3.0.0"));
    load::goes_on(&load);

    let before = assert_serves(host, "2.0.0");
    let ran = dpkg_install(host, "2.0.0");
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
    assert_eq!(dpkg(host, &["--verify", "handover"]).ok(), "");
}

/// The transaction succeeds, says so, and what served serves; also when it is tried again, and
/// after the power has gone. Where somebody has broken everything, a good package heals it.
pub fn a_bad_release_is_refused_and_nothing_is_lost(host: &mut Host) {
    configure(host);
    dpkg_install(host, "1.0.0").ok();
    let before = assert_serves(host, "1.0.0");
    let load = load::steady();
    let ran = dpkg_install(host, BAD);
    ran.ok();
    assert_says(
        &ran,
        "handover: the new program was refused; 1.0.0 serves as before",
    );
    assert_eq!(assert_serves(host, "1.0.0"), before);
    until_disk_is(host, "1.0.0");
    let rejected = host.disk().rejected;
    assert!(rejected.is_some(), "the bad one is kept aside");
    assert_says(&dpkg(host, &["--verify", "handover"]), PROGRAM);

    let ran = dpkg_install(host, BAD);
    ran.ok();
    assert_says(
        &ran,
        "was rejected before and is not tried again; 1.0.0 serves as before",
    );
    until_disk_is(host, "1.0.0");
    assert_eq!(assert_serves(host, "1.0.0"), before);
    load::goes_on(&load);
    load.stop().assert_clean();

    host.container.power_cycle().expect("it boots");
    until("1.0.0 serves again", IN_TIME, || {
        (host.state() == "active" && version_at(host, "").as_deref() == Some("1.0.0")).then_some(())
    });
    assert_serves(host, "1.0.0");
    let load = load::steady();
    dpkg_install(host, "2.0.0").ok();
    assert_serves(host, "2.0.0");
    load::goes_on(&load);
    load.stop().assert_clean();

    let script = format!(
        "for f in {PROGRAM} {PROGRAM}.good {PROGRAM}.old; do cp /bin/false $f.x; mv $f.x $f; done
         systemctl restart handover.service || :"
    );
    host.container.sh(&script).ok();
    until("systemd gives up", 2 * IN_TIME, || {
        (host.state() == "failed").then_some(())
    });
    let ran = dpkg_install(host, "2.0.0");
    ran.ok();
    assert_says(&ran, "handover: 2.0.0 serves");
    assert_serves(host, "2.0.0");
}

/// dpkg's database says one version, the disk has another: on purpose, and `status` says so.
pub fn a_rollback_is_explained_and_the_next_upgrade_is_as_any(host: &mut Host) {
    configure(host);
    dpkg_install(host, "1.0.0").ok();
    let before = assert_serves(host, "1.0.0");
    let load = load::steady();
    dpkg_install(host, "2.0.0").ok();
    host.handover(&["rollback"]).ok();
    assert_eq!(assert_serves(host, "1.0.0"), before);
    until_disk_is(host, "1.0.0");
    let verified = dpkg(host, &["--verify", "handover"]);
    assert_says(&verified, PROGRAM);
    let status = host.handover(&["status"]);
    assert_says(&status, "2.0.0 rolled back");
    assert_says(&status, "`dpkg --verify`");
    load::goes_on(&load);

    dpkg_install(host, "3.0.0").ok();
    assert_eq!(version_at(host, ".good").as_deref(), Some("1.0.0"));
    commit(host, "3.0.0");
    assert_eq!(dpkg(host, &["--verify", "handover"]).ok(), "");

    // And back once more, when nobody is parked any more.
    host.handover(&["rollback"]).ok();
    assert_serves(host, "1.0.0");
    load::goes_on(&load);
    load.stop().assert_clean();
    assert_eq!(host.restarts(), "0");
}

/// A taken port, a stopped service, a policy, a mask, a conffile: nothing of that fails a
/// transaction, and nothing is overruled. What a hot upgrade cannot change is said.
pub fn what_the_administrator_decided_is_respected(host: &mut Host) {
    configure(host);
    let taken = TcpListener::bind("[::]:80").expect("the port is free");
    let ran = dpkg_install(host, "1.0.0");
    ran.ok();
    assert_says(&ran, "handover: the service does not start");
    assert_ne!(host.state(), "active");
    // Twenty starts within a minute.
    until("systemd gives up", 2 * IN_TIME, || {
        (host.state() == "failed").then_some(())
    });
    drop(taken);
    // Once more, and a start limit is no obstacle.
    let ran = dpkg_install(host, "1.0.0");
    ran.ok();
    assert_says(&ran, "handover: 1.0.0 serves");
    host.systemctl(["stop", "handover.service"]).ok();
    let ran = dpkg_install(host, "2.0.0");
    ran.ok();
    assert_eq!(host.state(), "inactive");
    assert!(!ran.stdout.contains("serves"), "{ran}");

    host.systemctl(["start", "handover.service"]).ok();
    let before = assert_serves(host, "2.0.0");
    let policy = "/usr/sbin/policy-rc.d";
    host.container.write(policy, "#!/bin/sh\nexit 101\n");
    host.container.run(["chmod", "755", policy]).ok();
    let ran = dpkg_install(host, "3.0.0");
    ran.ok();
    assert_says(&ran, "installed but not run; 2.0.0 serves as before");
    assert_eq!(assert_serves(host, "2.0.0"), before);
    host.container.run(["rm", policy]).ok();

    host.systemctl(["mask", "--runtime", "handover.service"])
        .ok();
    dpkg_install(host, "3.0.0").ok();
    assert_eq!(host.main_pid(), before, "a masked service is left alone");
    host.systemctl(["unmask", "--runtime", "handover.service"])
        .ok();

    let newer = "[Service]\nEnvironment=HANDOVER_UNIT_REV=2\n";
    let drop_in = "/etc/systemd/system/handover.service.d/newer.conf";
    host.container.write(drop_in, newer);
    let local = "# mine\n[[listener]]\nname = \"http\"\naddress = \"[::]:80\"\n";
    host.container
        .write("/etc/handover/conf.d/mine.toml", local);
    let load = load::steady();
    let ran = dpkg_install(host, "3.0.0");
    ran.ok();
    assert_says(&ran, "handover: 3.0.0 serves");
    assert_says(&ran, "(revision 1 runs, 2 is installed)");
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// dpkg dies when the files are there and its scripts did not run.
pub fn cut_off_in_the_middle_it_is_brought_to_its_end(host: &mut Host) {
    configure(host);
    dpkg_install(host, "1.0.0").ok();
    let before = assert_serves(host, "1.0.0");
    let load = load::steady();
    dpkg(host, &["--unpack", &deb("2.0.0")]).ok();
    assert_eq!(assert_serves(host, "1.0.0"), before);
    assert_ne!(
        host.disk().program,
        host.disk().good,
        "what comes is on trial"
    );
    dpkg(host, &["--configure", "--pending"]).ok();
    assert_serves(host, "2.0.0");
    assert_eq!(version_at(host, ".good").as_deref(), Some("1.0.0"));
    commit(host, "2.0.0");
    load::goes_on(&load);
    load.stop().assert_clean();
    assert_eq!(outcomes(host), ["1.0.0 -> 2.0.0 committed"]);

    // A bad one, and the power goes: it is started cold, three times, then never again.
    dpkg(host, &["--unpack", &deb(BAD)]).ok();
    host.container.power_cycle().expect("it boots");
    until("2.0.0 serves again", IN_TIME, || {
        (host.state() == "active").then_some(())
    });
    assert_serves(host, "2.0.0");
    until_disk_is(host, "2.0.0");
    let after = host.main_pid();
    dpkg(host, &["--configure", "--pending"]).ok();
    assert_eq!(assert_serves(host, "2.0.0"), after);
    dpkg_install(host, "3.0.0").ok();
    assert_serves(host, "3.0.0");
}

/// Somebody copies a bad file over the program; a package repairs that. The way back is what had
/// proved itself, never the bad file.
pub fn a_repair_does_not_make_the_bad_file_the_way_back(host: &mut Host) {
    configure(host);
    dpkg_install(host, "1.0.0").ok();
    host.install_file("/bin/false");
    let ran = dpkg_install(host, "2.0.0");
    ran.ok();
    assert_says(&ran, "handover: 2.0.0 serves, in probation");
    assert_says(&ran, "goes back to 1.0.0");
    assert_eq!(version_at(host, ".good").as_deref(), Some("1.0.0"));
    commit(host, "2.0.0");
    assert_eq!(version_at(host, ".old").as_deref(), Some("1.0.0"));
    host.handover(&["rollback"]).ok();
    assert_serves(host, "1.0.0");
    until_disk_is(host, "1.0.0");
    assert_eq!(host.restarts(), "0");
}

/// dpkg says what is wrong and takes everything back.
pub fn a_disk_that_is_full_or_read_only_changes_nothing(host: &mut Host) {
    configure(host);
    // Room for two programs and a half.
    let script = format!(
        "dpkg --fsys-tarfile {deb} | tar -x -C /tmp ./usr/lib/handover/bin/handover
         size=$(stat -c %s /tmp/usr/lib/handover/bin/handover)
         mkdir -p /usr/lib/handover
         mount -t tmpfs -o mode=755,size=$((size * 5 / 2)) small /usr/lib/handover",
        deb = deb("1.0.0")
    );
    host.container.sh(&script).ok();
    dpkg_install(host, "1.0.0").ok();
    let before = assert_serves(host, "1.0.0");
    let listing =
        "ls -A /usr/lib/handover /usr/lib/handover/bin; sha256sum /usr/lib/handover/bin/*";
    let clean = host.container.sh(listing).ok().to_owned();
    let load = load::steady();
    for (how, reason) in [
        ("true", "No space left on device"),
        (
            "mount -o remount,ro /usr/lib/handover",
            "Read-only file system",
        ),
    ] {
        host.container.sh(how).ok();
        let ran = dpkg_install(host, "2.0.0");
        assert_ne!(ran.code, 0, "{ran}");
        assert_says(&ran, reason);
        host.container
            .sh("mount -o remount,rw /usr/lib/handover")
            .ok();
        assert_eq!(assert_serves(host, "1.0.0"), before);
        dpkg(host, &["--configure", "--pending"]).ok();
        assert_eq!(host.container.sh(listing).ok(), clean, "after {how}");
        load::goes_on(&load);
    }
    host.container
        .sh("mount -o remount,size=90% /usr/lib/handover")
        .ok();
    dpkg_install(host, "2.0.0").ok();
    assert_serves(host, "2.0.0");
    load::goes_on(&load);
    load.stop().assert_clean();
}

/// A chroot, a container image: the user is there, the service is enabled, nothing is started.
pub fn without_systemd_it_is_only_installed(host: &mut Host) {
    configure(host);
    let script = format!(
        "unshare --mount sh -euc 'mount -t tmpfs tmpfs /run; dpkg -i {one}; dpkg -i {two}'",
        one = deb("1.0.0"),
        two = deb("2.0.0")
    );
    let ran = host.container.sh(&script);
    ran.ok();
    assert!(!ran.stdout.contains("handover:"), "{ran}");
    assert_eq!(host.state(), "inactive");
    host.container.run(["getent", "passwd", "handover"]).ok();
    assert_eq!(version_at(host, ".good").as_deref(), Some("1.0.0"));
    host.container.power_cycle().expect("it boots");
    until("it serves", IN_TIME, || {
        (host.state() == "active").then_some(())
    });
    assert_serves(host, "2.0.0");
}

/// What dpkg does after the files of a new systemd have come.
const SYSTEMD_UPGRADED: &str = "
rm -rf /usr/lib/systemd/system/handover.service.d
systemctl daemon-reload
dpkg-trigger --by-package=systemd /usr/lib/systemd/systemd
dpkg --triggers-only --pending
";

/// Files of the package that others could change, or that are not what a package has.
const NOT_AS_SHIPPED: &str = "
dpkg -L handover | while read -r file; do
    case $(stat -c '%U:%G %A' -- \"$file\") in
    'root:root -rw-r--r--' | 'root:root -rwxr-xr-x' | 'root:root drwxr-xr-x' | 'root:root lrwxrwxrwx') ;;
    *) ls -ld -- \"$file\" ;;
    esac
done
test -x /usr/lib/handover/bin/handover
test \"$(readlink -f /usr/bin/handover)\" = /usr/lib/handover/bin/handover.good
";
