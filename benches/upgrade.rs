//! How fast an upgrade and a rollback are, and what a parked master costs. A program, not a timed
//! test: `cargo bench --bench upgrade` prints a table, and whether the aims are met; nothing fails.
//!
//! Two release builds, two workers, a strict client that asks all the time over a fresh connection
//! each: what it saw counts, beside what the operator's command and the service say themselves.
//! `ROUNDS=100` for more rounds than twenty.

use std::time::Duration;

use handover::api::{Outcome, Status};

#[path = "../tests/kit/mod.rs"]
mod kit;

use kit::build;
use kit::client::{Load, Report};
use kit::service::Service;

/// The new version's number.
const NEXT: &str = "9.0.0-bench";
/// An order given, until the other generation serves.
const AIM: Duration = Duration::from_millis(15);
/// Private memory of a parked master.
const AIM_KIB: u64 = 3 * 1024;
/// For the client's answers before an order, and after it.
const SOON: Duration = Duration::from_secs(10);

fn main() {
    // `cargo test --benches` only wants to know whether it runs.
    let quick = std::env::args().any(|arg| arg == "--test") || !release();
    let rounds = std::env::var("ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(if quick { 1 } else { 20 });
    let old = format!("handover/{}", build::own_version());
    let new = format!("handover/{NEXT}");
    let next = build::other_version(NEXT);

    let service = Service::setup("bench")
        .config("workers = 2\n[upgrade]\nprobation = \"10m\"\n[log]\nlevel = \"warn\"\n")
        .start();
    service.wait_phase("serving");

    let mut figures = Figures::default();
    for _ in 0..rounds {
        figures.alone.push(service.cli(&["--version"]).took);

        service.replace(&next);
        let (took, seen, _) = order(&service, &["upgrade"], &new);
        figures.upgrade.push(took);
        figures.upgrade_seen.push(seen);
        // The drain is over when nobody of the old generation but its master is left.
        let status = service.wait_status("a parked master", |status| {
            let parked = |m: &&handover::api::Master| m.phase == "parked";
            let found = status.masters.iter().find(parked);
            found.is_some_and(|master| master.workers.is_empty())
        });
        figures.measure(&status);

        let (took, seen, report) = order(&service, &["rollback"], &old);
        figures.rollback.push(took);
        figures.rollback_seen.push(seen);
        figures.failed += report.failed();
        figures.answers += report.total.ok;
        let status = service.wait_status("the end of the rollback", |status| {
            let last = status.last.as_ref();
            status.phase == "serving"
                && status.masters.len() == 1
                && last.is_some_and(|last| last.outcome == Outcome::RolledBack)
        });
        let takeover = status.last.and_then(|last| last.takeover_ms);
        figures.takeover.extend(takeover.map(Duration::from_millis));
    }
    figures.print(rounds);
}

/// Gives an order while the client asks: how long the command took, and when the first answer of
/// the other version was complete, both since the order.
fn order(service: &Service, order: &[&str], other: &str) -> (Duration, Duration, Report) {
    let spec = service
        .load("http")
        .fresh()
        .pause(Duration::from_micros(200));
    let load = Load::start(spec);
    load.wait_answers(20, SOON);
    load.mark("order");
    let output = service.cli(order);
    output.assert_code(0);
    load.wait_server(other, 1, SOON);
    let report = load.stop();
    report.assert_clean();
    let (_, began, _) = report
        .phases
        .iter()
        .find(|(name, ..)| name == "order")
        .expect("marked");
    let first = report.servers.get(other).expect("it answered").first;
    (output.took, first.saturating_sub(*began), report)
}

#[derive(Debug, Default)]
struct Figures {
    alone: Vec<Duration>,
    upgrade: Vec<Duration>,
    upgrade_seen: Vec<Duration>,
    takeover: Vec<Duration>,
    rollback: Vec<Duration>,
    rollback_seen: Vec<Duration>,
    parked: Vec<Memory>,
    owner: Vec<Memory>,
    worker: Vec<Memory>,
    failed: u64,
    answers: u64,
}

/// KiB that go back to the system when the process ends.
#[derive(Debug, Clone, Copy)]
struct Memory {
    /// All of it, pages of the program that nobody else maps included.
    private: u64,
    /// Of it: written to, so that it cannot be had again from a file.
    dirty: u64,
}

impl Figures {
    fn measure(&mut self, status: &Status) {
        for master in &status.masters {
            let into = match &*master.phase {
                "parked" => &mut self.parked,
                _ => &mut self.owner,
            };
            into.extend(memory(master.pid));
            self.worker
                .extend(master.workers.iter().filter_map(|w| memory(w.pid)));
        }
    }

    fn print(mut self, rounds: usize) {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%MZ");
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let build = if release() { "release" } else { "DEBUG" };
        println!(
            "{now}, {cores} cores, Linux {}, load {}, {build} builds, 2 workers, {rounds} rounds",
            kernel.trim(),
            load.split(' ').next().unwrap_or("?"),
        );
        println!(
            "strict client: {} answers, {} failed\n",
            self.answers, self.failed
        );
        println!(
            "{:<46}{:>9}{:>9}{:>9}",
            "milliseconds since the order", "min", "median", "max"
        );
        let rows = [
            (
                &mut self.upgrade_seen,
                "upgrade: first answer of the new version",
                true,
            ),
            (&mut self.upgrade, "upgrade: the command returns", false),
            (
                &mut self.takeover,
                "upgrade: takeover, as the service has it",
                false,
            ),
            (
                &mut self.rollback_seen,
                "rollback: first answer of the old version",
                true,
            ),
            (&mut self.rollback, "rollback: the command returns", false),
            (&mut self.alone, "for comparison: handover --version", false),
        ];
        for (figures, what, aim) in rows {
            let Some([min, median, max]) = spread(figures) else {
                continue;
            };
            let ms = |d: Duration| format!("{:.2}", d.as_secs_f64() * 1000.0);
            let verdict = match aim {
                true if median <= AIM => format!("  aim {} ms: met", AIM.as_millis()),
                true => format!("  aim {} ms: MISSED", AIM.as_millis()),
                false => String::new(),
            };
            let (min, median, max) = (ms(min), ms(median), ms(max));
            println!("{what:<46}{min:>9}{median:>9}{max:>9}{verdict}");
        }
        println!(
            "\n{:<46}{:>9}{:>9}{:>9}",
            "private memory, KiB (of it written to)", "min", "median", "max"
        );
        let rows = [
            (&self.parked, "parked master", true),
            (&self.owner, "master", false),
            (&self.worker, "worker", false),
        ];
        for (figures, what, aim) in rows {
            let private = spread(&mut figures.iter().map(|m| m.private).collect::<Vec<_>>());
            let dirty = spread(&mut figures.iter().map(|m| m.dirty).collect::<Vec<_>>());
            let (Some([min, median, max]), Some([_, dirty, _])) = (private, dirty) else {
                continue;
            };
            let verdict = match aim {
                true if median <= AIM_KIB => format!("  aim {AIM_KIB} KiB: met"),
                true => format!("  aim {AIM_KIB} KiB: MISSED"),
                false => String::new(),
            };
            let what = format!("{what} ({dirty})");
            println!("{what:<46}{min:>9}{median:>9}{max:>9}{verdict}");
        }
    }
}

/// The least, the middle one, the most.
fn spread<T: Ord + Copy>(figures: &mut [T]) -> Option<[T; 3]> {
    figures.sort_unstable();
    let middle = figures.get(figures.len() / 2)?;
    Some([*figures.first()?, *middle, *figures.last()?])
}

fn memory(pid: u32) -> Option<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let dirty = field("Private_Dirty:")?;
    Some(Memory {
        private: field("Private_Clean:")? + dirty,
        dirty,
    })
}

/// Whether the programs under test are.
fn release() -> bool {
    build::own()
        .parent()
        .is_some_and(|dir| dir.ends_with("release"))
}
