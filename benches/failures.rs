//! What clients lose while a service is replaced again and again:
//! `cargo bench --bench failures`. `ROUNDS=20` for another number of replacements a row.
//!
//! The strict client never retries, and looks whether its connection was closed right before it
//! asks. A request without its whole, right answer has failed; a connection that was closed while
//! nothing was asked has been dropped: this client opens another one, a client that had just begun
//! to write would have lost a request.

use std::process::ExitCode;
use std::time::Duration;

#[path = "../tests/kit/mod.rs"]
mod kit;

mod common;

use common::peers::{self, Peer};
use common::table::{Table, headline};
use common::{SOON, WORKERS, holder, pause, setting};
use kit::client::{Kind, Load, Report, Spec};

fn main() -> ExitCode {
    if let Some(code) = holder::play() {
        return code;
    }
    let rounds = setting("ROUNDS", 10, 1);
    headline(&format!(
        "Failed requests across {rounds} replacements, {WORKERS} workers"
    ));
    let site = common::site();
    let mut table = Table::new(&[
        "",
        "load",
        "requests",
        "failed",
        "refused",
        "dropped idle",
        "closed politely",
        "opened again",
    ]);
    peers::each(site.path(), WORKERS, |peer| {
        for (name, spec) in loads(peer) {
            let report = measure(peer, spec, rounds);
            table.row(row(peer.name(), name, &report));
        }
    });
    table.print();
    ExitCode::SUCCESS
}

fn loads(peer: &dyn Peer) -> Vec<(&'static str, Spec)> {
    let spec = || Spec::new(peer.address());
    let think = |n, ms| {
        let pauses = Duration::ZERO..=Duration::from_millis(ms);
        spec().think(pauses).connections(n)
    };
    let mut loads = vec![
        ("64 back-to-back", spec().keep_alive().connections(64)),
        ("1,000, think 0-0.4 s", think(1_000, 400)),
        ("10,000, think 0-4 s", think(10_000, 4_000)),
        ("16, fresh connections", spec().fresh().connections(16)),
    ];
    if common::quick() {
        loads.truncate(1);
    }
    loads
}

fn measure(peer: &mut dyn Peer, spec: Spec, rounds: usize) -> Report {
    let load = Load::start(spec);
    load.wait_connected(SOON * 3);
    load.wait_answers(100, SOON);
    for _ in 0..rounds {
        peer.prepare();
        peer.order();
        peer.settle();
        // Clients are in every state again when the next one comes.
        pause(Duration::from_millis(200));
        load.wait_answers(100, SOON);
    }
    load.stop()
}

fn row(peer: &str, load: &str, report: &Report) -> Vec<String> {
    let counts = &report.total;
    let dropped = counts.count(Kind::DroppedIdle);
    let again = if load.contains("fresh") {
        "-".into()
    } else {
        (counts.opened - (report.connections as u64).min(counts.opened)).to_string()
    };
    vec![
        peer.into(),
        load.into(),
        counts.requests.to_string(),
        common::load::failed_requests(counts).to_string(),
        counts.count(Kind::Refused).to_string(),
        dropped.to_string(),
        counts.closed_politely.to_string(),
        again,
    ]
}
