//! HTTPS under systemd: certificates that only systemd can read, renewals, and clients that stay through
//! upgrades and rollbacks.

use std::path::Path;
use std::process::Command;

use rustls::version::{TLS12, TLS13};

use super::load;
use crate::host::Host;
use crate::kit::client::{Load, Running, Spec};
use crate::kit::tls::{TlsRelay, make_certificate};
use crate::release::Build;

const LISTENER: &str = "[[listener]]\nname = \"https\"\naddress = \"[::]:443\"\ntls = true\n";

/// Root's alone: systemd reads them for the service.
const ROOTS: &str = "/root/tls";
/// The service's group reads them.
const SHARED: &str = "/etc/handover/tls";

/// Clients over TLS 1.3 and 1.2, each of which keeps its connection.
struct Clients {
    relays: [TlsRelay; 2],
    load: Running,
}

impl Clients {
    fn begin(authority: &Path) -> Self {
        let https = ([127, 0, 0, 1], 443).into();
        let relays = [&TLS13, &TLS12].map(|version| TlsRelay::start(https, authority, version));
        let specs = relays.iter().flat_map(|relay| {
            let spec = || Spec::new(relay.address()).pause(load::PAUSE);
            [
                spec().keep_alive().connections(4),
                spec().pipelined(3).connections(2),
            ]
        });
        let load = Load::start_all(specs.collect());
        load::goes_on(&load);
        Self { relays, load }
    }

    /// No request failed, and nobody connected again.
    fn end(self) {
        load::goes_on(&self.load);
        let report = self.load.stop();
        report.assert_clean();
        let handshakes = self.relays.iter().map(TlsRelay::handshakes);
        let all: u64 = handshakes.map(|(full, resumed)| full + resumed).sum();
        assert_eq!(all, 12, "{report}");
    }
}

/// A new certificate and its key in a directory of the container; the certificate's file here.
fn renew(host: &Host, directory: &str, here: &Path) {
    let made = here.join("made");
    make_certificate(&made, &["localhost"]);
    for file in ["localhost.crt", "localhost.key"] {
        let text = std::fs::read_to_string(made.join(file)).expect("a file of TLS");
        host.container.write(&format!("{directory}/{file}"), &text);
    }
    let rights = match directory {
        ROOTS => format!("chmod 0700 {ROOTS} && chmod 0600 {ROOTS}/*"),
        shared => format!("chgrp handover {shared}/* && chmod 0640 {shared}/*"),
    };
    host.container.sh(&rights).ok();
}

/// The serial number of the certificate that is shown.
fn shown() -> String {
    let script = "openssl s_client -connect 127.0.0.1:443 -servername localhost </dev/null 2>/dev/null \
                  | openssl x509 -noout -serial";
    let output = Command::new("sh").args(["-c", script]).output();
    let serial = String::from_utf8(output.expect("openssl").stdout).expect("text");
    assert!(serial.starts_with("serial="), "{serial}");
    serial
}

fn credentials(host: &Host) {
    let mut text = String::from("[Service]\n");
    for file in ["localhost.crt", "localhost.key"] {
        text += &format!("LoadCredential={file}:{ROOTS}/{file}\n");
    }
    if host.refreshes() {
        text += "RefreshOnReload=credentials\n";
    }
    host.drop_in("60-certificates", &text);
    host.configure(&format!(
        "{LISTENER}[tls]\ndirectory = \"$CREDENTIALS_DIRECTORY\"\n"
    ));
}

/// The service's user cannot read them on the disk; an upgrade and a rollback have them too.
pub fn certificates_of_roots_are_served_by_load_credential(host: &mut Host) {
    let here = tempfile::tempdir().expect("a directory");
    renew(host, ROOTS, here.path());
    credentials(host);
    host.start();
    host.assert_runs(Build::A);
    let clients = Clients::begin(&here.path().join("made/localhost.crt"));
    for build in [Build::B, Build::C] {
        host.install(build);
        host.reload().ok();
        host.assert_runs(build);
        load::goes_on(&clients.load);
        host.handover(&["rollback"]).ok();
        host.assert_runs(Build::A);
        host.until_disk_is(Build::A);
        load::goes_on(&clients.load);
    }
    // A person's `check` finds them where systemd has put them.
    let checked = host.handover(&["check"]);
    assert!(checked.ok().contains("localhost.crt for localhost"));
    clients.end();
}

/// A renewal is a reload, where systemd refreshes credentials; where it does not, a restart.
pub fn a_renewed_credential_is_served_after_a_reload_or_a_restart(host: &mut Host) {
    let here = tempfile::tempdir().expect("a directory");
    renew(host, ROOTS, here.path());
    credentials(host);
    host.start();
    let first = shown();
    let clients = Clients::begin(&here.path().join("made/localhost.crt"));
    renew(host, ROOTS, here.path());
    host.reload().ok();
    let second = shown();
    assert_eq!(second != first, host.refreshes());
    clients.end();
    host.systemctl(["restart", "handover.service"]).ok();
    assert_ne!(shown(), first);
}

/// Old connections live on beside the new certificate; a bad one is refused with what is wrong with it.
pub fn a_renewed_certificate_is_a_reload_and_a_bad_one_is_refused(host: &mut Host) {
    let here = tempfile::tempdir().expect("a directory");
    renew(host, SHARED, here.path());
    host.configure(&format!("{LISTENER}[tls]\ndirectory = \"tls\"\n"));
    host.start();
    let first = shown();
    let clients = Clients::begin(&here.path().join("made/localhost.crt"));
    let before = host.assert_runs(Build::A);
    renew(host, SHARED, here.path());
    host.reload().ok();
    let second = shown();
    assert_ne!(second, first);
    load::goes_on(&clients.load);

    for (script, reason) in [
        (
            "openssl ecparam -name prime256v1 -genkey -noout",
            "is not the one of the certificate",
        ),
        ("echo nothing", "there is no BEGIN PRIVATE KEY"),
    ] {
        let output = Command::new("sh").args(["-c", script]).output();
        let key = String::from_utf8(output.expect(script).stdout).expect("text");
        host.container
            .write(&format!("{SHARED}/localhost.key"), &key);
        let mark = format!("now comes a bad key: {reason}");
        host.mark_journal(&mark);
        assert_ne!(host.reload().code, 0, "{reason}");
        assert!(host.journal_since(&mark).contains(reason), "{reason}");
        assert_eq!(shown(), second, "{reason}");
        load::goes_on(&clients.load);
    }
    renew(host, SHARED, here.path());
    host.reload().ok();
    let third = shown();
    assert!(third != second && third != first);
    assert_eq!(host.assert_runs(Build::A), before);
    clients.end();
}
