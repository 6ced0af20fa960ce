//! A connection that was begun under another configuration: what was checked or agreed on before
//! counts for nothing.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustls::version::{TLS12, TLS13};

use crate::clients::{openssl, openssl_with};
use crate::kit::build;
use crate::kit::service::Service;
use crate::kit::tls::{Authority, TlsRelay, make_certificate};
use crate::kit::wait::wait_until;
use crate::moving::{count, web_socket};
use crate::serving::{path, wait_handshakes};
use crate::{LONG, PATIENT, begin, server, upgrade};

/// Two authorities, each with the certificate of a client, in a directory of their own.
fn authorities(service: &Service) -> PathBuf {
    let directory = service.dir().join("clients");
    fs::create_dir(&directory).expect("a new directory");
    for name in ["first", "second"] {
        Authority::new(&directory, &format!("{name}.pem")).client(&directory, name);
    }
    directory
}

fn reload(service: &Service, config: &str) {
    service.write_config(config);
    service.cli(&["reload"]).assert_code(0);
}

fn asks_for(service: &Service, authority: &str) {
    let file = service.dir().join("clients").join(authority);
    reload(service, &format!("{PATIENT}[tls]\nclient_ca = {file:?}\n"));
}

#[test]
fn a_connection_that_is_passed_on_is_asked_for_the_certificate_that_is_wanted_now() {
    let service = begin("tls-new-ca");
    let directory = authorities(&service);
    let trusted = service.dir().join("tls/localhost.crt");
    for version in ["-tls1_3", "-tls1_2"] {
        reload(&service, PATIENT);
        let mut anybody = openssl(&service, &trusted, version);
        anybody.ask();
        asks_for(&service, "first.pem");
        anybody.turned_away();
        let files = ["first.crt", "first.key"].map(|name| directory.join(name));
        let own = ["-cert", path(&files[0]), "-key", path(&files[1])];
        let mut first = openssl_with(&service, &trusted, version, &own);
        first.ask();
        service.cli(&["reload"]).assert_code(0);
        first.ask();
        asks_for(&service, "second.pem");
        first.turned_away();
    }
    wait_handshakes(&service, |h| h.bad_client_certificate == 4);
}

#[test]
fn a_web_socket_is_asked_for_it_too() {
    let service = begin("tls-ws-ca");
    authorities(&service);
    let trusted = service.dir().join("tls/localhost.crt");
    let relay = TlsRelay::start(server(&service), &trusted, &TLS13);
    let mut socket = web_socket(&relay);
    assert_eq!(count(&mut socket), "1");
    asks_for(&service, "first.pem");
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).expect("an end");
    assert_eq!(rest, b"", "{}", rest.escape_ascii());
}

#[test]
fn an_older_version_of_tls_gets_one_more_answer_when_it_is_not_wanted_any_longer() {
    let service = begin("tls-min-version");
    let trusted = service.dir().join("tls/localhost.crt");
    let relay = TlsRelay::start(server(&service), &trusted, &TLS12);
    let mut socket = web_socket(&relay);
    let mut old = openssl(&service, &trusted, "-tls1_2");
    let mut new = openssl(&service, &trusted, "-tls1_3");
    old.ask();
    new.ask();
    reload(
        &service,
        &format!("{PATIENT}[tls]\nmin_version = \"1.3\"\n"),
    );
    old.ask();
    old.turned_away();
    new.ask();
    // A WebSocket's client is told to come again.
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).expect("an end");
    assert_eq!(rest, b"\x88\x11\x03\xf4service restart");
}

/// What a plain connection reads until its end, when its listener speaks TLS from now on, and asks for
/// certificates or not.
fn plain_on_a_listener_that_speaks_tls_now(test: &str, client_ca: bool) -> String {
    let service = Service::setup(test)
        .name("workbench")
        .image(build::other_version_of_example("workbench", "1.0.0"))
        .config(PATIENT)
        .start();
    service.wait_owner(1, "serving");
    let directory = service.dir().join("tls");
    make_certificate(&directory, &["localhost"]);
    authorities(&service);
    let mut plain = TcpStream::connect(server(&service)).expect("the service");
    plain.set_read_timeout(Some(LONG)).expect("a socket");
    let ask = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    plain.write_all(ask).expect("the service");
    let mut first = Vec::new();
    while !first.ends_with(b"hello\n") {
        let mut byte = [0];
        plain.read_exact(&mut byte).expect("an answer");
        first.push(byte[0]);
    }
    let asks = if client_ca {
        format!(
            "client_ca = {:?}\n",
            service.dir().join("clients/first.pem")
        )
    } else {
        String::new()
    };
    service.write_config(&format!(
        "{PATIENT}[tls]\ndirectory = {directory:?}\n{asks}"
    ));
    // The listener's table is the last one.
    let mut file = OpenOptions::new()
        .append(true)
        .open(service.dir().join("workbench.toml"))
        .expect("the configuration");
    file.write_all(b"tls = true\n").expect("the configuration");
    service.cli(&["reload"]).assert_code(0);
    // When it has been passed on, so that the generation before does not answer.
    wait_until("the end of the drain", || {
        service.log_text().matches("drained passed=1").count() == 1
    });
    let _ = plain.write_all(ask);
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = plain.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

#[test]
fn a_plain_connection_of_a_listener_that_speaks_tls_now_gets_one_more_answer() {
    let rest = plain_on_a_listener_that_speaks_tls_now("tls-was-plain", false);
    assert!(
        rest.starts_with("HTTP/1.1 200 ") && rest.ends_with("hello\n"),
        "{rest}"
    );
    assert!(rest.contains("connection: close"), "{rest}");
}

#[test]
fn and_none_where_clients_must_show_certificates() {
    let rest = plain_on_a_listener_that_speaks_tls_now("tls-was-plain-ca", true);
    assert_eq!(rest, "");
}

/// It is the master who asks, not a client.
#[test]
fn a_health_check_needs_no_certificate() {
    let service = begin("tls-health");
    let directory = authorities(&service);
    let file = directory.join("first.pem");
    let config = PATIENT.replace("[upgrade]\n", "[upgrade]\nhealth = \"/who\"\n");
    assert_ne!(config, PATIENT);
    reload(&service, &format!("{config}[tls]\nclient_ca = {file:?}\n"));
    upgrade(&service);
}

/// A ticket would bring along the certificate of the session's beginning.
#[test]
fn whoever_must_show_a_certificate_shows_it_each_time() {
    let service = begin("tls-resume-ca");
    let directory = authorities(&service);
    let authority = Authority::new(&directory, "third.pem");
    let trusted = service.dir().join("tls/localhost.crt");
    let session = |version: &str, kind: &str, name: &str| {
        let mut script = Command::new("sh");
        script.args([
            "-c",
            "printf 'GET / HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' \
             | openssl s_client -ign_eof \"$@\" 2>&1",
            "s_client",
        ]);
        script
            .args(["-connect", &server(&service).to_string(), version])
            .args(["-servername", "localhost", "-CAfile", path(&trusted)])
            .args(["-cert", path(&directory.join(format!("{name}.crt")))])
            .args(["-key", path(&directory.join(format!("{name}.key")))])
            .args([kind, path(&directory.join(format!("session{version}")))]);
        let output = script.output().expect("openssl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let answered = |printed: &str, how: &str| printed.contains(how) && printed.contains("hello\n");
    let versions = ["-tls1_3", "-tls1_2"];
    for version in versions {
        let printed = session(version, "-sess_out", "first");
        assert!(answered(&printed, "New, "), "{printed}");
        let printed = session(version, "-sess_in", "first");
        assert!(answered(&printed, "Reused, "), "{printed}");
    }
    asks_for(&service, "third.pem");
    let end = SystemTime::now() + Duration::from_secs(8);
    authority.client_until(&directory, "brief", end);
    for version in versions {
        // The session of before is worth nothing.
        let printed = session(version, "-sess_in", "first");
        assert!(!printed.contains("hello\n"), "{printed}");
        for kind in ["-sess_out", "-sess_in"] {
            let printed = session(version, kind, "brief");
            assert!(answered(&printed, "New, "), "{printed}");
        }
    }
    let over = end + Duration::from_secs(1);
    wait_until("the end of the certificate", || SystemTime::now() > over);
    authority.client(&directory, "renewed");
    for version in versions {
        let printed = session(version, "-sess_in", "brief");
        assert!(!printed.contains("hello\n"), "{printed}");
        let printed = session(version, "-sess_in", "renewed");
        assert!(answered(&printed, "New, "), "{printed}");
    }
}
