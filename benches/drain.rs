//! How fast idle connections go from one generation to the next, and what they cost:
//! `cargo bench --bench drain`. `COUNTS=100,10000` for other numbers of connections; `PROTOCOLS=TLS` for
//! those whose name has that in it alone.
//!
//! Each number is drained twice. Flat out: nothing but the idle connections. Busy: 16 more clients
//! ask all the time; their p99 during the drain is compared with before, and so is that of the moments
//! in which the new generation starts, which have nothing to do with the idle connections. Each of
//! those is asked once more afterwards, and must still be there.

use std::process::ExitCode;
use std::time::{Duration, Instant};

#[path = "../tests/kit/mod.rs"]
mod kit;

mod common;

use common::holder::{self, Idle, Kept, Protocol};
use common::load::latency;
use common::peers::{Handover, Haproxy, Nginx, Peer, Way};
use common::process::{self, Watch};
use common::table::{Table, headline, ms, verdict};
use common::{SOON, WORKERS, pause, quick, wanted};
use kit::client::{Load, Spec};

/// CPU a passed connection, on each side.
fn aim_us(protocol: Protocol) -> f64 {
    match protocol {
        Protocol::Http1 => 10.0,
        Protocol::Tls => 30.0,
        Protocol::Http2 | Protocol::Http2Tls => 60.0,
    }
}

/// So many are moved of the protocols other than plain HTTP/1.1: their client has a memory, too.
const OTHERS_MAX: usize = 10_000;
/// 10,000 idle connections, flat out.
const AIM_MS: f64 = 150.0;
/// p99 of active connections during the drain against steady.
const AIM_P99: f64 = 4.0;
/// Memory of an idle connection.
const AIM_KIB: f64 = 2.0;

/// What was seen with so many connections.
#[derive(Debug, Default)]
struct Drain {
    connections: usize,
    workers: usize,
    kib_each: f64,
    /// The order until the new generation serves.
    order: Duration,
    /// The order until nobody of the old generation is left.
    gone: Duration,
    /// As the service itself says: from the takeover until its last worker had gone.
    drained: Option<Duration>,
    passed: u64,
    old_cpu: Duration,
    new_cpu: Duration,
    kept: Kept,
    steady_p99: Duration,
    starting_p99: Duration,
    busy_p99: Duration,
    busy_failed: u64,
}

fn main() -> ExitCode {
    if let Some(code) = holder::play() {
        return code;
    }
    headline("Draining idle connections");
    let site = common::site();
    let counts = std::env::var("COUNTS").unwrap_or_else(|_| {
        let usual = if quick() {
            "100"
        } else {
            "100,1000,10000,50000"
        };
        usual.into()
    });
    let counts: Vec<usize> = counts
        .split(',')
        .map(|n| n.parse().expect("COUNTS"))
        .collect();
    if wanted("handover") {
        let only = std::env::var("PROTOCOLS").unwrap_or_default();
        for protocol in Protocol::ALL {
            if protocol.name().contains(&only) {
                ours(site.path(), &counts, protocol);
            }
        }
    }
    theirs(
        site.path(),
        counts.iter().copied().filter(|n| *n <= 10_000).max(),
    );
    ExitCode::SUCCESS
}

fn ours(site: &std::path::Path, counts: &[usize], protocol: Protocol) {
    println!("{}:\n", protocol.name());
    let mut table = Table::new(&[
        "idle connections",
        "workers",
        "KiB each",
        "order to serving ms",
        "drain ms",
        "passed",
        "kept",
        "old us each",
        "new us each",
        "drain ms, busy",
        "p99 steady ms",
        "p99 starting ms",
        "p99 draining ms",
        "failed",
    ]);
    let mut seen = Vec::new();
    let most = match protocol {
        Protocol::Http1 => usize::MAX,
        _ => OTHERS_MAX,
    };
    for count in counts.iter().filter(|count| **count <= most) {
        // As many workers as their limit of descriptors asks for.
        let workers = WORKERS.max(count.div_ceil(room() * 9 / 10));
        let base = once(site, 0, workers, false, protocol);
        let mut flat = once(site, *count, workers, false, protocol);
        flat.old_cpu = flat.old_cpu.saturating_sub(base.old_cpu);
        flat.new_cpu = flat.new_cpu.saturating_sub(base.new_cpu);
        // The busy clients speak no TLS.
        let busy = (!protocol.is_tls()).then(|| once(site, *count, workers, true, protocol));
        let of_busy = |figure: fn(&Drain) -> Option<Duration>| {
            busy.as_ref().and_then(figure).map_or("-".into(), ms)
        };
        let kept = busy.iter().map(|b| b.kept.kept).min();
        table.row([
            count.to_string(),
            workers.to_string(),
            format!("{:.2}", flat.kib_each),
            ms(flat.order),
            flat.drained.map_or("-".into(), ms),
            flat.passed.to_string(),
            flat.kept.kept.min(kept.unwrap_or(usize::MAX)).to_string(),
            format!("{:.1}", micros_each(flat.old_cpu, *count)),
            format!("{:.1}", micros_each(flat.new_cpu, *count)),
            of_busy(|b| b.drained),
            of_busy(|b| Some(b.steady_p99)),
            of_busy(|b| Some(b.starting_p99)),
            of_busy(|b| Some(b.busy_p99)),
            busy.as_ref().map_or(0, |b| b.busy_failed).to_string(),
        ]);
        seen.push((flat, busy));
    }
    table.print();
    for (flat, busy) in seen {
        if flat.connections != 10_000 {
            continue;
        }
        let drained = flat.drained.unwrap_or_default().as_secs_f64() * 1e3;
        if protocol == Protocol::Http1 {
            let name = "10,000 idle connections drained";
            verdict(name, drained, AIM_MS, true, "ms");
        }
        let each = |cpu| micros_each(cpu, flat.connections);
        verdict(
            "CPU of the old worker a connection",
            each(flat.old_cpu),
            aim_us(protocol),
            true,
            "us",
        );
        verdict(
            "CPU of the new worker a connection",
            each(flat.new_cpu),
            aim_us(protocol),
            true,
            "us",
        );
        if let Some(busy) = busy {
            let ratio = busy.busy_p99.as_secs_f64() / busy.steady_p99.as_secs_f64().max(1e-6);
            verdict(
                "p99 of active connections against steady",
                ratio,
                AIM_P99,
                true,
                "times",
            );
        }
        if protocol == Protocol::Http1 {
            verdict("an idle connection", flat.kib_each, AIM_KIB, true, "KiB");
        }
    }
    println!();
}

fn theirs(site: &std::path::Path, count: Option<usize>) {
    let Some(count) = count else { return };
    let mut table = Table::new(&[
        "",
        "idle connections",
        "KiB each",
        "order to old ones gone ms",
        "kept",
        "dropped",
    ]);
    let mut row = |peer: &mut dyn Peer| {
        let seen = drain(peer, count, false, Protocol::Http1);
        table.row([
            peer.name().into(),
            count.to_string(),
            format!("{:.2}", seen.kib_each),
            ms(seen.gone),
            seen.kept.kept.to_string(),
            seen.kept.dropped.to_string(),
        ]);
    };
    if wanted("handover") {
        row(&mut Handover::start(site, WORKERS, ""));
    }
    if wanted("nginx") && Nginx::is_installed() {
        row(&mut Nginx::start(site, WORKERS, Way::Reload));
        row(&mut Nginx::start(site, WORKERS, Way::Binary));
    }
    if wanted("haproxy") && Haproxy::is_installed() {
        row(&mut Haproxy::start(site, WORKERS));
    }
    table.print();
}

fn once(
    site: &std::path::Path,
    count: usize,
    workers: usize,
    busy: bool,
    protocol: Protocol,
) -> Drain {
    let mut peer = if protocol.is_tls() {
        Handover::start_tls(site, workers, "")
    } else {
        Handover::start(site, workers, "")
    };
    let mut seen = drain(&mut peer, count, busy, protocol);
    seen.workers = workers;
    let last = peer.status().last.expect("an upgrade has ended");
    seen.drained = last.drain_ms.map(Duration::from_millis);
    seen.passed = last.connections.passed;
    seen
}

fn drain(peer: &mut dyn Peer, count: usize, busy: bool, protocol: Protocol) -> Drain {
    let empty = memory(peer);
    let mut idle = Idle::open(peer.address(), count, protocol);
    let load = busy.then(|| {
        let spec = Spec::new(peer.address())
            .think(Duration::ZERO..=Duration::from_millis(4))
            .connections(16);
        let load = Load::start(spec);
        load.wait_connected(SOON);
        load
    });
    // Idle connections leave hyper's buffers after a moment.
    pause(Duration::from_millis(600));
    #[expect(clippy::cast_precision_loss, reason = "kibibytes are few for a float")]
    let kib_each = memory(peer).saturating_sub(empty) as f64 / count.max(1) as f64;
    peer.prepare();
    if let Some(load) = &load {
        load.mark("steady");
        pause(Duration::from_secs(2));
        load.mark("starting");
    }
    let old = peer.workers();
    let watch = Watch::start(old.clone());
    let began = Instant::now();
    peer.order();
    let order = began.elapsed();
    if let Some(load) = &load {
        load.mark("draining");
    }
    let new = peer.workers();
    peer.settle();
    let gone = began.elapsed();
    let new: Vec<u32> = if new.is_empty() { peer.workers() } else { new };
    let old_cpu = watch.used();
    let new_cpu = process::cpu_of(&new);
    let mut seen = Drain {
        connections: count,
        kib_each,
        order,
        gone,
        old_cpu,
        new_cpu,
        ..Drain::default()
    };
    if let Some(load) = load {
        load.mark("after");
        let report = load.stop();
        seen.steady_p99 = latency(&report, "steady").percentile(99.0);
        seen.starting_p99 = latency(&report, "starting").percentile(99.0);
        seen.busy_p99 = latency(&report, "draining").percentile(99.0);
        seen.busy_failed = report.failed();
    }
    seen.kept = idle.ask();
    seen
}

/// KiB that the workers have written to.
fn memory(peer: &dyn Peer) -> u64 {
    let workers = peer.workers();
    let dirty = workers.iter().filter_map(|pid| process::memory(*pid));
    dirty.map(|memory| memory.dirty).sum()
}

/// Connections a worker can hold: its limit of descriptors less an eighth.
fn room() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(hard - hard / 8).unwrap_or(usize::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand connections")]
fn micros_each(cpu: Duration, count: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / count.max(1) as f64
}
