//! Certificates that a service is given while it runs, and when it starts.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::kit::build;
use crate::kit::service::Service;
use crate::kit::tls::{make_certificate, make_expired};
use crate::{begin, server};
use handover::api::Phase;

/// The serial number of the certificate that is shown.
fn shown(service: &Service) -> String {
    let script = format!(
        "openssl s_client -connect {} -servername localhost </dev/null 2>/dev/null \
         | openssl x509 -noout -serial",
        server(service)
    );
    let output = Command::new("sh").args(["-c", &script]).output();
    String::from_utf8(output.expect("openssl").stdout).expect("text")
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).expect("a file of TLS");
}

#[test]
fn a_bad_certificate_is_refused_at_a_reload_and_the_one_before_serves_on() {
    let service = begin("tls-bad");
    let directory = service.dir().join("tls");
    let first = shown(&service);
    assert!(first.starts_with("serial="), "{first}");
    let read = |name: &str| fs::read_to_string(directory.join(name)).expect("a file of TLS");
    let (certificate, key) = (read("localhost.crt"), read("localhost.key"));
    let other = service.dir().join("other");
    make_certificate(&other, &["localhost"]);
    let other_key = fs::read_to_string(other.join("localhost.key")).expect("a key");
    let other_certificate = fs::read_to_string(other.join("localhost.crt")).expect("one");

    let refused = |what: &str| {
        let reload = service.cli(&["reload"]);
        assert_eq!(reload.code, 78, "{reload}");
        assert!(reload.stderr.contains(what), "{what}: {reload}");
        assert_eq!(shown(&service), first, "{what}");
    };
    write(&directory, "localhost.key", &other_key);
    refused("is not the one of the certificate");
    write(&directory, "localhost.key", "");
    refused("there is no BEGIN PRIVATE KEY");
    fs::remove_file(directory.join("localhost.key")).expect("the key");
    refused("beside it");
    write(&directory, "localhost.key", &key);
    write(
        &directory,
        "localhost.crt",
        &format!("{certificate}{other_certificate}"),
    );
    refused("out of order");
    fs::remove_dir_all(&directory).expect("the certificates");
    make_expired(&directory, "localhost");
    refused("expired on 2020-");
    // And a good one is shown at once.
    fs::remove_dir_all(&directory).expect("the certificates");
    make_certificate(&directory, &["localhost"]);
    service.cli(&["reload"]).assert_code(0);
    let second = shown(&service);
    assert!(second.starts_with("serial=") && second != first);
    let log = service.log_text();
    assert!(!log.contains("PRIVATE KEY-----\nM"), "a key in the log");
}

/// Two certificates, one of them with the key of another.
fn spoil(directory: &Path, name: &str) {
    let other = directory.with_file_name("other");
    make_certificate(&other, &["localhost"]);
    fs::copy(
        other.join("localhost.key"),
        directory.join(format!("{name}.key")),
    )
    .expect("a key");
}

#[test]
fn a_bad_certificate_does_not_keep_a_service_from_starting_with_the_others() {
    let service = Service::setup("tls-one-bad").tls().prepare();
    let directory = service.dir().join("tls");
    make_certificate(&directory, &["bad.test"]);
    spoil(&directory, "bad.test");
    let check = service.cli(&["check", "--config", "handover.toml"]);
    assert!(
        check.code == 78 && check.stderr.contains("is not the one of the certificate"),
        "{check}"
    );
    service.start();
    let status = service.wait_owner(1, "serving");
    let told = "is not the one of the certificate";
    assert!(
        status.warnings.iter().any(|w| w.contains(told)),
        "{:?}",
        status.warnings
    );
    assert_eq!(status.tls.expect("TLS").certificates.len(), 1);
    assert!(shown(&service).starts_with("serial="));
    let reload = service.cli(&["reload"]);
    assert!(
        reload.code == 78 && reload.stderr.contains(told),
        "{reload}"
    );
    // Without any the listeners are there, and say no.
    spoil(&directory, "localhost");
    service.cli(&["stop"]).assert_code(0);
    service.wait_exit();
    service.start();
    service.wait_owner(1, "serving");
    assert_eq!(shown(&service), "");
    fs::remove_dir_all(&directory).expect("the certificates");
    make_certificate(&directory, &["localhost"]);
    service.cli(&["reload"]).assert_code(0);
    assert!(shown(&service).starts_with("serial="));
}

/// The program is not to blame: it serves with what the one before it served with.
#[test]
fn a_bad_certificate_on_disk_rejects_no_release_and_burns_no_way_back() {
    let service = begin("tls-bad-at-upgrade");
    let directory = service.dir().join("tls");
    let first = shown(&service);
    spoil(&directory, "localhost");
    service.replace(&build::other_version_of_example("workbench", "2.0.0"));
    let upgrade = ["upgrade", "--probation", "0s", "--until", "commit"];
    service.cli(&upgrade).assert_code(0);
    let status = service.wait_status("the new program", |s| {
        s.version == "2.0.0" && s.phase == Phase::Serving
    });
    assert_eq!(shown(&service), first);
    assert!(
        status.warnings.iter().any(|w| w.contains("reload")),
        "{:?}",
        status.warnings
    );
    // Back after the commit, with a configuration whose certificates are gone.
    fs::remove_dir_all(&directory).expect("the certificates");
    service.cli(&["rollback"]).assert_code(0);
    service.wait_status("the old program", |s| {
        s.version == "1.0.0" && s.phase != Phase::Launching
    });
    assert_eq!(shown(&service), first);
}

#[test]
fn an_expired_certificate_does_not_keep_a_service_from_starting() {
    let service = Service::setup("tls-expired").tls().prepare();
    let directory = service.dir().join("tls");
    fs::remove_dir_all(&directory).expect("the certificate");
    make_expired(&directory, "localhost");
    let check = service.cli(&["check", "--config", "handover.toml"]);
    assert!(
        check.code == 78 && check.stderr.contains("expired on"),
        "{check}"
    );
    service.start();
    let status = service.wait_owner(1, "serving");
    let warned = status
        .warnings
        .iter()
        .any(|w| w.contains("is not valid now"));
    assert!(warned, "{:?}", status.warnings);
    assert!(
        shown(&service).starts_with("serial="),
        "it is shown all the same"
    );
    // A reload for another reason makes nothing worse.
    service.cli(&["reload"]).assert_code(0);
}
