//! What curl finds at a listener that speaks TLS: the certificate of the name it asks for, the
//! protocol, files, and whoever must show a certificate.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use handover::api::Handshakes;

use crate::kit::build;
use crate::kit::service::Service;
use crate::kit::tls::{Authority, make_certificate};
use crate::kit::wait::wait_until;
use crate::server;

fn curl(to: SocketAddr, name: &str, path: &str, more: &[&str]) -> Output {
    let port = to.port();
    Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60"])
        .args(["--resolve", &format!("{name}:{port}:{}", to.ip())])
        .args(more)
        .arg(format!("https://{name}:{port}{path}"))
        .output()
        .expect("curl")
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// The daemon with a directory of files.
fn site(test: &str, more: &str) -> Service {
    let service = Service::setup(test).tls().prepare();
    let root = service.dir().join("www");
    fs::create_dir(&root).expect("a new directory");
    // More than one read of the disk, and enough for `sendfile` where it may be used.
    let bytes: Vec<u8> = (0_u32..3_000_000).flat_map(u32::to_le_bytes).collect();
    fs::write(root.join("big.bin"), bytes).expect("a file");
    service.write_config(&format!("workers = 1\n{more}\n[site]\nroot = {root:?}\n"));
    service.start();
    service.wait_owner(1, "serving");
    service
}

/// A worker reports now and then.
pub fn wait_handshakes(service: &Service, wanted: impl Fn(&Handshakes) -> bool) {
    service.wait_status("the handshakes", |status| {
        status
            .tls
            .as_ref()
            .is_some_and(|tls| wanted(&tls.handshakes))
    });
}

pub fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn files_come_whole_over_either_version_and_through_an_upgrade_meanwhile() {
    let service = site("tls-files", "[upgrade]\nprobation = \"0s\"\n");
    let big = fs::read(service.dir().join("www/big.bin")).expect("the file");
    let authority = service.dir().join("tls/localhost.crt");
    let ca = ["--cacert", path(&authority)];
    for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"], &["--http2"]] {
        let got = curl(
            server(&service),
            "localhost",
            "/big.bin",
            &[&ca[..], version].concat(),
        );
        assert!(got.status.success(), "{version:?}: {}", text(&got));
        assert!(got.stdout == big, "{version:?}: {} bytes", got.stdout.len());
    }
    let other = build::other_version("9.9.9");
    let slow = std::thread::spawn({
        let (to, ca) = (server(&service), ca.map(str::to_owned));
        move || {
            let more = [&*ca[0], &*ca[1], "--http1.1", "--limit-rate", "6M"];
            curl(to, "localhost", "/big.bin", &more)
        }
    });
    wait_until("the download", || {
        service.status().is_some_and(|s| {
            s.masters
                .iter()
                .flat_map(|m| &m.workers)
                .any(|w| w.connections > 0)
        })
    });
    service.replace(&other);
    service.cli(&["upgrade"]).assert_code(0);
    let got = slow.join().expect("curl");
    assert!(got.status.success() && got.stdout == big, "{}", text(&got));
}

#[test]
fn a_client_sees_the_certificate_of_the_name_it_asks_for() {
    let service = site("tls-names", "");
    let directory = service.dir().join("tls");
    fs::remove_dir_all(&directory).expect("the first certificate");
    make_certificate(&directory, &["a.test", "*.wild.test"]);
    make_certificate(&directory, &["b.test"]);
    service.cli(&["reload"]).assert_code(0);
    for (name, file, trusted) in [
        ("a.test", "a.test.crt", true),
        ("b.test", "b.test.crt", true),
        ("b.test", "a.test.crt", false),
        ("x.wild.test", "a.test.crt", true),
        ("A.TEST", "a.test.crt", true),
        // Nobody has it: the first one is shown.
        ("c.test", "a.test.crt", false),
    ] {
        let file = directory.join(file);
        let got = curl(
            server(&service),
            name,
            "/big.bin",
            &["--cacert", path(&file), "--head"],
        );
        assert_eq!(
            got.status.success(),
            trusted,
            "{name} {}: {}",
            file.display(),
            text(&got)
        );
    }
    wait_handshakes(&service, |h| h.done >= 4 && h.refused_by_client >= 1);
}

#[test]
fn the_protocol_is_agreed_on_and_a_client_without_tls_is_told_so() {
    let service = site("tls-protocols", "");
    let authority = service.dir().join("tls/localhost.crt");
    let ca = path(&authority);
    let write = ["--output", "/dev/null", "--write-out", "%{http_version}"];
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let more = [&["--cacert", ca, flag], &write[..]].concat();
        let got = curl(server(&service), "localhost", "/", &more);
        assert_eq!(text(&got), version);
    }
    let plain = Command::new("curl")
        .args([
            "--silent",
            "--include",
            &format!("http://{}/", server(&service)),
        ])
        .output()
        .expect("curl");
    let plain = text(&plain);
    assert!(
        plain.starts_with("HTTP/1.1 400 ") && plain.contains("HTTPS"),
        "{plain}"
    );
}

#[test]
fn whoever_must_show_a_certificate_and_has_none_gets_no_answer() {
    let service = site("tls-clients-ca", "");
    let directory = service.dir().join("clients");
    fs::create_dir(&directory).expect("a new directory");
    let authority = Authority::new(&directory, "ca.pem");
    authority.client(&directory, "client");
    let root = service.dir().join("www");
    let ca_file = directory.join("ca.pem");
    // After a reload, so that a connection from before is asked, too.
    let config = format!("workers = 1\n[site]\nroot = {root:?}\n");
    service.write_config(&format!("{config}[tls]\nclient_ca = {ca_file:?}\n"));
    service.cli(&["reload"]).assert_code(0);
    let server_ca = service.dir().join("tls/localhost.crt");
    let (certificate, key) = (directory.join("client.crt"), directory.join("client.key"));
    let own = ["--cert", path(&certificate), "--key", path(&key)];
    for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
        let more = [&["--cacert", path(&server_ca), "--head"], version].concat();
        let got = curl(server(&service), "localhost", "/big.bin", &more);
        assert!(!got.status.success(), "{version:?}: {}", text(&got));
        let got = curl(
            server(&service),
            "localhost",
            "/big.bin",
            &[&more[..], &own].concat(),
        );
        assert!(got.status.success(), "{version:?}: {}", text(&got));
    }
    wait_handshakes(&service, |h| h.bad_client_certificate == 2);
}
