//! HTTPS: connections go on in other processes, and clients that come back resume there.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustls::version::{TLS12, TLS13};

use crate::kit::client::{Load, Spec};
use crate::kit::proc::{Process, Role};
use crate::kit::service::Service;
use crate::kit::tls::TlsRelay;
use crate::kit::wait::wait_until;
use crate::{LONG, begin, passed_and_cut, roll_back, server, upgrade};

fn relays(service: &Service) -> [TlsRelay; 2] {
    let authority = service.dir().join("tls/localhost.crt");
    [&TLS13, &TLS12].map(|version| TlsRelay::start(server(service), &authority, version))
}

/// Until the workers of before have left: on a busy machine an answer may last from one change to the next,
/// and its connection would move once for both.
pub fn changed(service: &Service, change: impl FnOnce()) {
    let workers = |all: &[Process]| -> Vec<Process> {
        let is_worker = |p: &&Process| matches!(p.role(), Role::Worker(_));
        all.iter().filter(is_worker).cloned().collect()
    };
    let before = workers(&service.processes());
    change();
    service.wait_processes("the workers of before have left", |all| {
        !workers(all).iter().any(|one| before.contains(one))
    });
}

#[test]
fn https_connections_live_through_ten_upgrades_ten_rollbacks_and_ten_reloads_under_load() {
    let service = begin("tls-load");
    let relays = relays(&service);
    let specs = relays.iter().flat_map(|relay| {
        let spec = || Spec::new(relay.address()).connections(6);
        [spec().keep_alive(), spec().pipelined(3), spec().torture()]
    });
    let load = Load::start_all(specs.collect());
    load.wait_connected(LONG);
    for round in 0..10 {
        load.mark(&format!("upgrade {round}"));
        load.wait_answers(300, LONG);
        changed(&service, || upgrade(&service));
        load.wait_answers(300, LONG);
        load.mark(&format!("rollback {round}"));
        changed(&service, || roll_back(&service));
        load.mark(&format!("reload {round}"));
        load.wait_answers(300, LONG);
        changed(&service, || {
            service.cli(&["reload"]).assert_code(0);
        });
    }
    load.wait_answers(300, LONG);
    let report = load.stop();
    report.assert_clean();
    let handshakes: u64 = relays
        .iter()
        .map(|r| r.handshakes().0 + r.handshakes().1)
        .sum();
    assert_eq!(handshakes, 36, "no client had to connect again\n{report}");
    let (passed, cut) = passed_and_cut(&service);
    assert!(passed >= 30 * 36 && cut == 0, "{passed} passed, {cut} cut");
    let status = service.status().expect("a status");
    let tls = status.tls.expect("a listener speaks TLS");
    assert_eq!(tls.certificates[0].names, ["localhost"]);
}

#[test]
fn clients_that_come_back_resume_in_every_generation() {
    let service = begin("tls-resume");
    let relays = relays(&service);
    let specs = relays
        .iter()
        .map(|relay| Spec::new(relay.address()).fresh());
    let load = Load::start_all(specs.collect());
    load.wait_answers(20, LONG);
    wait_until("the first handshake of both", || {
        relays.iter().all(|relay| relay.handshakes().0 > 0)
    });
    let full = |relays: &[TlsRelay]| relays.iter().map(|r| r.handshakes().0).sum::<u64>();
    let before = full(&relays);
    upgrade(&service);
    load.wait_answers(40, LONG);
    roll_back(&service);
    load.wait_answers(40, LONG);
    let resumed: u64 = relays.iter().map(|relay| relay.handshakes().1).sum();
    load.stop().assert_clean();
    assert!(resumed >= 80, "{resumed}");
    assert_eq!(
        full(&relays),
        before,
        "full handshakes after the first ones"
    );
}

/// A WebSocket that counts.
pub fn web_socket(relay: &TlsRelay) -> TcpStream {
    let mut socket = TcpStream::connect(relay.address()).expect("the relay");
    socket.set_read_timeout(Some(LONG)).expect("a socket");
    let ask = "GET /count HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\
               Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
               Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(ask.as_bytes()).expect("the relay");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let shown = head.escape_ascii();
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{shown}");
    socket
}

/// One message, and the number that the server gives it (RFC 6455, 5.2).
pub fn count(socket: &mut TcpStream) -> String {
    // Text, masked with zeros.
    socket.write_all(b"\x81\x81\0\0\0\0x").expect("the relay");
    let mut head = [0; 2];
    socket.read_exact(&mut head).expect("a frame");
    assert_eq!(head[0], 0x81, "a whole text: {head:?}");
    let mut text = vec![0; usize::from(head[1])];
    socket.read_exact(&mut text).expect("its text");
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn a_web_socket_over_tls_goes_on_in_every_generation() {
    let service = begin("tls-ws");
    let relays = relays(&service);
    let mut sockets = relays.each_ref().map(web_socket);
    let mut expected = 0;
    let mut all_count = || {
        expected += 1;
        for socket in &mut sockets {
            assert_eq!(count(socket), expected.to_string());
        }
    };
    all_count();
    for _ in 0..3 {
        upgrade(&service);
        all_count();
        roll_back(&service);
        all_count();
    }
    let handshakes: u64 = relays.iter().map(|r| r.handshakes().0).sum();
    assert_eq!(handshakes, 2);
}
