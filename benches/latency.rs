//! What clients feel of an upgrade: `cargo bench --bench latency`. `ROUNDS=20` for another number
//! of upgrades.
//!
//! Seconds with an order in them and seconds without take turns; the latencies of each kind are
//! taken together. The load leaves the machine room, so that what is seen is the upgrade and not
//! the queue in front of a busy machine.

use std::process::ExitCode;
use std::time::{Duration, Instant};

#[path = "../tests/kit/mod.rs"]
mod kit;

mod common;

use common::load::latency;
use common::peers::{self, Peer};
use common::table::{Table, headline, ms, verdict};
use common::{SOON, WORKERS, pause, setting};
use kit::client::{Histogram, Load, Spec};

const SECOND: Duration = Duration::from_secs(1);
/// The order comes after so much of its second.
const BEFORE: Duration = Duration::from_millis(200);
const CONNECTIONS: usize = 64;
const THINK: Duration = Duration::from_millis(30);
/// p99.9 in the second of an upgrade against a steady one.
const AIM: f64 = 1.5;

fn main() -> ExitCode {
    let rounds = setting("ROUNDS", 15, 1);
    headline(&format!(
        "Latency in the second around {rounds} replacements: {CONNECTIONS} connections, think 0-30 ms, {WORKERS} workers"
    ));
    let site = common::site();
    let mut table = Table::new(&[
        "ms", "second", "requests", "p50", "p99", "p99.9", "max", "failed",
    ]);
    let mut ratios = Vec::new();
    peers::each(site.path(), WORKERS, |peer| {
        let (steady, around, failed) = measure(peer, rounds);
        table.row(row(peer.name(), "steady", &steady, ""));
        table.row(row("", "with an order", &around, &failed.to_string()));
        let ratio = |percent| {
            let of = |histogram: &Histogram| histogram.percentile(percent).as_secs_f64();
            of(&around) / of(&steady).max(1e-6)
        };
        let [p50, p99, p999, max] = [50.0, 99.0, 99.9, 100.0].map(ratio);
        let ratio = |r: f64| format!("{r:.2}x");
        let empty = String::new();
        table.row([
            empty.clone(),
            "ratio".into(),
            empty.clone(),
            ratio(p50),
            ratio(p99),
            ratio(p999),
            ratio(max),
            empty,
        ]);
        ratios.push((peer.name(), p999));
    });
    table.print();
    for (peer, p999) in ratios {
        if peer.starts_with("handover") {
            verdict("p99.9 against steady", p999, AIM, true, "times");
        }
    }
    ExitCode::SUCCESS
}

fn measure(peer: &mut dyn Peer, rounds: usize) -> (Histogram, Histogram, u64) {
    let spec = Spec::new(peer.address())
        .think(Duration::ZERO..=THINK)
        .connections(CONNECTIONS);
    let load = Load::start(spec);
    load.wait_connected(SOON);
    load.wait_answers(1000, SOON);
    for round in 0..rounds {
        peer.prepare();
        load.mark(&format!("steady {round}"));
        pause(SECOND);
        load.mark(&format!("around {round}"));
        let began = Instant::now();
        pause(BEFORE);
        peer.order();
        pause(SECOND.saturating_sub(began.elapsed()));
        load.mark(&format!("between {round}"));
        peer.settle();
    }
    let report = load.stop();
    (
        latency(&report, "steady"),
        latency(&report, "around"),
        report.failed(),
    )
}

fn row(peer: &str, what: &str, histogram: &Histogram, failed: &str) -> [String; 8] {
    let at = |percent| ms(histogram.percentile(percent));
    [
        peer.into(),
        what.into(),
        histogram.count().to_string(),
        at(50.0),
        at(99.0),
        at(99.9),
        ms(histogram.max()),
        failed.into(),
    ]
}
