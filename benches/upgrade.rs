//! How fast an upgrade and the way back are, and what the processes weigh:
//! `cargo bench --bench upgrade`. `ROUNDS=100` for more rounds than twenty.
//!
//! Two workers, a strict client that asks all the time over a fresh connection each. What it saw
//! counts: the order (the operator's command, or the signal) until the first answer of a worker
//! that was not there before; beside it what the command took, and what the service says itself.
//! Peers the same way: nginx's `reload`, its `USR2` and the way back by `HUP` to the parked master,
//! `HAProxy`'s reload.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use handover::api::{Outcome, Phase, Status};

#[path = "../tests/kit/mod.rs"]
mod kit;

mod common;

use common::peers::{Handover, Haproxy, Nginx, Peer, Way};
use common::process::{Memory, memory};
use common::table::{Table, headline, ms, verdict};
use common::{SOON, WORKERS, median, setting, wanted};
use kit::client::{Load, Running, Spec};

/// An order given, until the other generation serves.
const AIM_MS: f64 = 15.0;
/// Private memory of a parked master, and of a worker.
const AIM_PARKED_KIB: f64 = 3.0 * 1024.0;
const AIM_WORKER_KIB: f64 = 6.0 * 1024.0;

fn main() -> ExitCode {
    let rounds = setting("ROUNDS", 20, 1);
    headline(&format!("Upgrades: {rounds} rounds, {WORKERS} workers"));
    let site = common::site();
    let mut times = Table::new(&["ms", "least", "median", "most"]);
    let mut weights = Table::new(&["private memory, KiB (median)", "all", "written to"]);
    let mut verdicts = Vec::new();
    if wanted("handover") {
        let figures = ours(site.path(), rounds);
        verdicts = figures.verdicts();
        figures.print(&mut times, &mut weights);
    }
    theirs(site.path(), rounds, &mut times, &mut weights);
    times.print();
    weights.print();
    for (name, figure, aim, unit) in verdicts {
        verdict(name, figure, aim, true, unit);
    }
    ExitCode::SUCCESS
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
}

fn ours(site: &std::path::Path, rounds: usize) -> Figures {
    let mut peer = Handover::start(site, WORKERS, "[upgrade]\nprobation = \"10m\"\n");
    let mut figures = Figures::default();
    for _ in 0..rounds {
        figures.alone.push(peer.service.cli(&["--version"]).took);

        let mut took = Duration::ZERO;
        peer.prepare();
        let seen = first_answer(&mut peer, |peer| took = peer.upgrade().took);
        figures.upgrade.push(took);
        figures.upgrade_seen.push(seen);
        // The drain is over when nobody of the old generation but its master is left.
        let status = peer.service.wait_status("a parked master", |status| {
            let parked = |m: &&handover::api::Master| m.phase == Phase::Parked;
            let found = status.masters.iter().find(parked);
            found.is_some_and(|master| master.workers.is_empty())
        });
        figures.measure(&status);

        let seen = first_answer(&mut peer, |peer| took = peer.rollback().took);
        figures.rollback.push(took);
        figures.rollback_seen.push(seen);
        let status = peer
            .service
            .wait_status("the end of the rollback", |status| {
                let last = status.last.as_ref();
                status.phase == Phase::Serving
                    && status.masters.len() == 1
                    && last.is_some_and(|last| last.outcome == Outcome::RolledBack)
            });
        let takeover = status.last.and_then(|last| last.takeover_ms);
        figures.takeover.extend(takeover.map(Duration::from_millis));
    }
    figures
}

fn theirs(site: &std::path::Path, rounds: usize, times: &mut Table, weights: &mut Table) {
    if wanted("nginx") {
        if Nginx::is_installed() {
            let mut seen: [Vec<Duration>; 3] = Default::default();
            let mut master = Vec::new();
            let mut worker = Vec::new();
            let mut reloaded = Nginx::start(site, WORKERS, Way::Reload);
            let mut replaced = Nginx::start(site, WORKERS, Way::Binary);
            for _ in 0..rounds {
                seen[0].push(first_answer(&mut reloaded, Peer::order));
                reloaded.settle();
                let mut parked = 0;
                let upgraded = first_answer(&mut replaced, |peer| parked = peer.upgrade_and_park());
                seen[1].push(upgraded);
                master.extend(memory(parked));
                worker.extend(replaced.workers().into_iter().filter_map(memory));
                seen[2].push(first_answer(&mut replaced, |peer| peer.back(parked)));
                replaced.settle();
            }
            let [reload, upgrade, back] = &mut seen;
            spread(times, "nginx reload: first answer", reload);
            spread(times, "nginx USR2: first answer", upgrade);
            spread(times, "nginx HUP to the parked master: first answer", back);
            weigh(weights, "nginx, parked master", &master);
            weigh(weights, "nginx, worker", &worker);
        } else {
            println!("skipped: nginx is not installed");
        }
    }
    if wanted("haproxy") {
        if Haproxy::is_installed() {
            let mut peer = Haproxy::start(site, WORKERS);
            let mut seen = Vec::new();
            let mut worker = Vec::new();
            for _ in 0..rounds {
                seen.push(first_answer(&mut peer, Peer::order));
                peer.settle();
                worker.extend(peer.workers().into_iter().filter_map(memory));
            }
            let master: Vec<_> = peer.masters().into_iter().filter_map(memory).collect();
            spread(times, "haproxy reload: first answer", &mut seen);
            weigh(weights, "haproxy, master", &master);
            weigh(weights, "haproxy, worker (two threads)", &worker);
        } else {
            println!("skipped: haproxy is not installed");
        }
    }
}

/// Gives an order while the client asks: the time until the first answer of somebody who was not
/// there before.
fn first_answer<P: Peer>(peer: &mut P, order: impl FnOnce(&mut P)) -> Duration {
    let spec = Spec::new(peer.address())
        .fresh()
        .pause(Duration::from_micros(200));
    let load = Load::start(spec);
    load.wait_answers(20, SOON);
    // Every worker has answered, or will be taken for a new one.
    wait_for_all(&load, peer);
    let before = peer.who(&load.report());
    load.mark("order");
    order(peer);
    let end = Instant::now() + SOON;
    while peer.first_of_others(&load.report(), &before).is_none() {
        assert!(Instant::now() < end, "{}: nobody new answers", peer.name());
        common::pause(Duration::from_millis(1));
    }
    let report = load.stop();
    let began = report.phases.iter().find(|(name, ..)| name == "order");
    let first = peer.first_of_others(&report, &before);
    first
        .expect("seen above")
        .saturating_sub(began.expect("marked").1)
}

fn wait_for_all<P: Peer>(load: &Running, peer: &P) {
    let workers = peer.workers().len();
    // One name for all of ours.
    if peer.name().starts_with("handover") || peer.name().starts_with("haproxy") {
        return;
    }
    common::until("an answer of each worker", || {
        peer.who(&load.report()).len() >= workers
    });
}

impl Figures {
    fn measure(&mut self, status: &Status) {
        for master in &status.masters {
            let into = match master.phase.known() {
                Some(Phase::Parked) => &mut self.parked,
                _ => &mut self.owner,
            };
            into.extend(memory(master.pid));
            self.worker
                .extend(master.workers.iter().filter_map(|w| memory(w.pid)));
        }
    }

    fn verdicts(&self) -> Vec<(&'static str, f64, f64, &'static str)> {
        let time = |times: &[Duration]| {
            let middle = median(&mut times.to_vec()).unwrap_or_default();
            middle.as_secs_f64() * 1e3
        };
        vec![
            (
                "upgrade, first answer",
                time(&self.upgrade_seen),
                AIM_MS,
                "ms",
            ),
            (
                "rollback, first answer",
                time(&self.rollback_seen),
                AIM_MS,
                "ms",
            ),
            (
                "parked master",
                private(&self.parked),
                AIM_PARKED_KIB,
                "KiB",
            ),
            ("worker", private(&self.worker), AIM_WORKER_KIB, "KiB"),
        ]
    }

    fn print(mut self, times: &mut Table, weights: &mut Table) {
        let rows = [
            ("upgrade: first answer", &mut self.upgrade_seen),
            ("upgrade: the command", &mut self.upgrade),
            (
                "upgrade: order to takeover, by the service",
                &mut self.takeover,
            ),
            ("rollback: first answer", &mut self.rollback_seen),
            ("rollback: the command", &mut self.rollback),
            ("of a command: starting it", &mut self.alone),
        ];
        for (what, figures) in rows {
            spread(times, what, figures);
        }
        weigh(weights, "parked master", &self.parked);
        weigh(weights, "master that owns the service", &self.owner);
        weigh(weights, "worker", &self.worker);
    }
}

fn spread(table: &mut Table, what: &str, figures: &mut [Duration]) {
    let Some(middle) = median(figures) else {
        return;
    };
    let [Some(least), Some(most)] = [figures.first(), figures.last()] else {
        return;
    };
    table.row([what.into(), ms(*least), ms(middle), ms(*most)]);
}

fn weigh(table: &mut Table, what: &str, figures: &[Memory]) {
    let dirty = median(&mut figures.iter().map(|m| m.dirty).collect::<Vec<_>>());
    let dirty = dirty.map_or("-".into(), |dirty| dirty.to_string());
    table.row([what.into(), format!("{:.0}", private(figures)), dirty]);
}

#[expect(clippy::cast_precision_loss, reason = "kibibytes are few for a float")]
fn private(figures: &[Memory]) -> f64 {
    let mut private: Vec<_> = figures.iter().map(|m| m.private).collect();
    median(&mut private).unwrap_or_default() as f64
}
