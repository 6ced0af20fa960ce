//! HTTP/2, over TLS and with prior knowledge: such a connection moves between two streams, and its client
//! does not notice. It repeats nothing.

use std::time::Duration;

use handover::api::Connections;

use crate::kit::client::{Load, Spec};
use crate::kit::service::Service;
use crate::kit::tls::TlsRelay;
use crate::kit::wait::wait_until;
use crate::{LONG, begin, begin_with, metric, roll_back, server, upgrade};

/// Streams that one client has open at a time.
const STREAMS: usize = 8;
const CLIENTS: usize = 4;

#[test]
fn over_tls_nothing_is_lost_and_nobody_connects_again_in_ten_upgrades_and_ten_rollbacks() {
    let service = begin("tls-h2");
    let authority = service.dir().join("tls/localhost.crt");
    let relay = TlsRelay::http2(server(&service), &authority);
    let last = ten_and_ten(&service, Spec::new(relay.address()));
    assert_eq!(last.http2.passed, last.tls.passed);
    // The first ticket may come before the last of them connects.
    let (full, resumed) = relay.handshakes();
    assert_eq!(full + resumed, CLIENTS as u64);
}

#[test]
fn without_tls_nothing_is_lost_and_nobody_connects_again_in_ten_upgrades_and_ten_rollbacks() {
    let service = begin_with("h2c", false);
    let last = ten_and_ten(&service, Spec::new(server(&service)));
    assert_eq!(last.tls.passed, 0);
}

/// Ten upgrades, each taken back, under clients that ask all the time; what the last one did with the
/// connections.
fn ten_and_ten(service: &Service, spec: Spec) -> Connections {
    let spec = spec.http2(STREAMS, Duration::ZERO..=Duration::ZERO);
    let load = Load::start(spec.connections(CLIENTS).timeout(LONG));
    load.wait_connected(LONG);
    load.wait_answers(200, LONG);
    for round in 0..10 {
        for (change, name) in [
            (upgrade as fn(&Service), "upgrade"),
            (roll_back, "rollback"),
        ] {
            let before = passed(service);
            load.mark(&format!("{name} {round}"));
            change(service);
            load.wait_answers(200, LONG);
            // All of them, and none twice.
            let all = before + CLIENTS as u64;
            wait_until(&format!("moves of {name} {round}"), || {
                passed(service) >= all
            });
            assert_eq!(passed(service), all, "{name} {round}");
        }
    }
    load.stop().assert_clean().assert_kept();
    let status = service.status().expect("a status");
    status.last.expect("an upgrade").connections
}

/// HTTP/2 connections that were passed on so far, by all generations.
fn passed(service: &Service) -> u64 {
    metric(service, "handover_http2_drained_total{result=\"passed\"}")
}
