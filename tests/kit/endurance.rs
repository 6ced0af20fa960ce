//! Many upgrades and rollbacks in a row under keep-alive connections, and what is left of them:
//! `benches/endurance.rs` in full, `tests/upgrade.rs` a little of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use handover::api::{Connections, Phase};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::version::{TLS12, TLS13};

use super::build;
use super::client::{FILLING, Load, Report, Spec, Target};
use super::proc;
use super::service::Service;
use super::tls::TlsRelay;

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Each is an upgrade that is rolled back, and one that is committed.
    pub rounds: usize,
    /// Keep-alive clients.
    pub connections: usize,
    /// The longest pause of a client.
    pub think: Duration,
    /// What the clients speak.
    pub protocol: Protocol,
}

/// HTTP, and what is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 without TLS.
    Http1,
    /// Over TLS 1.3.
    Tls13,
    /// Over TLS 1.2.
    Tls12,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2 over TLS 1.3.
    Http2Tls,
}

impl Protocol {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Http1,
        Self::Tls13,
        Self::Tls12,
        Self::Http2,
        Self::Http2Tls,
    ];

    fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }

    fn is_tls(self) -> bool {
        matches!(self, Self::Tls13 | Self::Tls12 | Self::Http2Tls)
    }

    /// The clients speak no TLS: what does it for them.
    fn relay(self, service: &Service) -> Option<TlsRelay> {
        let Target::Tcp(server) = service.target("http") else {
            panic!("it listens on a port");
        };
        let authority = service.dir().join("tls/localhost.crt");
        match self {
            Self::Http1 | Self::Http2 => None,
            Self::Tls13 => Some(TlsRelay::start(server, &authority, &TLS13)),
            Self::Tls12 => Some(TlsRelay::start(server, &authority, &TLS12)),
            Self::Http2Tls => Some(TlsRelay::http2(server, &authority)),
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Figures {
    /// The clients' side: those that ask and think, and those whose requests are of all kinds.
    pub report: Report,
    pub torture: Report,
    /// Handshakes of TLS, full and resumed ones, if the clients speak it.
    pub handshakes: Option<u64>,
    /// The service after the first round, and after the last.
    pub second: Holding,
    pub last: Holding,
    /// Of all upgrades and rollbacks.
    pub drained: Connections,
    pub upgrades: usize,
    pub rollbacks: usize,
    pub took: Duration,
    /// The slowest upgrade and rollback, by the command.
    pub slowest: Duration,
}

/// What a service holds.
#[derive(Debug, Clone, Default)]
pub struct Holding {
    /// Kinds of processes.
    pub kinds: BTreeMap<String, usize>,
    /// Descriptors of the master, and of all workers together.
    pub master_fds: usize,
    pub worker_fds: usize,
    /// Private memory of the master, and of all workers together, in KiB.
    pub master_kib: u64,
    pub worker_kib: u64,
    /// Connections, as the workers have it.
    pub connections: u64,
}

/// For everything that must come.
const SOON: Duration = Duration::from_secs(60);

const CONFIG: &str = "workers = 2\n[upgrade]\nprobation = \"1h\"\n[log]\nlevel = \"warn\"\n";

/// So many clients beside those of the plan send bodies, offer HTTP/2 by `Upgrade: h2c`, and ask for more
/// before they have read an answer; with HTTP/2 as many have so many streams each.
const TORTURE: usize = 8;

/// Does it, with the workbench that is there. `say` hears of each round.
pub fn run(test: &str, workbench: PathBuf, plan: Plan, mut say: impl FnMut(usize)) -> Figures {
    raise_limit();
    let builds = [build::twin(&workbench), workbench];
    let setup = Service::setup(test).image(&builds[0]).config(CONFIG);
    let setup = if plan.protocol.is_tls() {
        setup.tls()
    } else {
        setup
    };
    let service = setup.start();
    service.wait_owner(1, "serving");
    let relay = plan.protocol.relay(&service);
    let [load, torture] = loads(plan, &service, relay.as_ref()).map(Load::start);
    load.wait_connected(SOON);
    torture.wait_connected(SOON);
    let connections = plan.connections + TORTURE;
    // Header tables take memory until they are full, whatever is upgraded.
    let fill = || {
        let filling = if plan.protocol.is_http2() { FILLING } else { 0 };
        let wanted = filling * plan.connections as u64;
        load.wait_answers(wanted.saturating_sub(load.answers()), 10 * SOON);
    };
    // A connection that was passed on and not asked yet holds less than others.
    let all_ask = || load.wait_answers(2 * plan.connections as u64, SOON);
    let began = Instant::now();
    let mut second = Holding::default();
    let mut drained = Connections::default();
    let mut slowest = Duration::ZERO;
    for round in 1..=plan.rounds {
        let next = &builds[round % 2];
        for verb in ["rollback", "commit"] {
            service.replace(next);
            for order in ["upgrade", verb] {
                let output = service.cli(&[order]);
                output.assert_code(0);
                if order != "commit" {
                    slowest = slowest.max(output.took);
                }
            }
            let status = service.wait_status("one generation that serves", |s| {
                s.phase == Phase::Serving && s.masters.len() == 1 && s.upgrade.is_none()
            });
            let last = status.last.expect("an upgrade");
            drained += last.connections;
            assert_eq!(status.warnings, [""; 0]);
        }
        load.wait_answers(plan.connections as u64 / 10, SOON);
        torture.wait_answers(TORTURE as u64, SOON);
        if round == 1 {
            fill();
            all_ask();
            second = hold(&service, connections, None);
        }
        say(round);
    }
    let took = began.elapsed();
    all_ask();
    let last = hold(&service, connections, Some(&second));
    let (report, torture) = (load.stop(), torture.stop());
    if report.failed() + torture.failed() > 0 {
        eprintln!("--- the service's log\n{}", service.log_text());
    }
    Figures {
        report,
        torture,
        handshakes: relay.map(|relay| relay.handshakes().0 + relay.handshakes().1),
        second,
        last,
        drained,
        upgrades: plan.rounds * 2,
        rollbacks: plan.rounds,
        took,
        slowest,
    }
}

/// Those that ask and think, and those that ask at random, all the time.
fn loads(plan: Plan, service: &Service, relay: Option<&TlsRelay>) -> [Spec; 2] {
    let spec = |connections| {
        let target = relay.map_or_else(|| service.target("http"), |r| r.address().into());
        Spec::new(target).connections(connections).timeout(SOON)
    };
    let (load, torture) = (spec(plan.connections), spec(TORTURE));
    let think = Duration::ZERO..=plan.think;
    if plan.protocol.is_http2() {
        [
            load.http2(1, think),
            torture.http2(TORTURE, Duration::ZERO..=Duration::from_millis(20)),
        ]
    } else {
        [load.think(think).app(), torture.torture()]
    }
}

/// Waits until everything has settled, and looks. A question of the test's own may still be open
/// in the master: what it holds for longer than that it has kept.
fn hold(service: &Service, connections: usize, before: Option<&Holding>) -> Holding {
    let status = service.wait_status("everybody's connection", |s| {
        let workers = s.masters.iter().flat_map(|m| &m.workers);
        s.masters.len() == 1 && workers.map(|w| w.connections).sum::<u64>() == connections as u64
    });
    let master = &status.masters[0];
    let pids: Vec<u32> = master.workers.iter().map(|w| w.pid).collect();
    let fds = || {
        let workers = pids.iter().map(|pid| proc::fds(*pid).len()).sum();
        (proc::fds(master.pid).len(), workers)
    };
    let (mut master_fds, mut worker_fds) = fds();
    let deadline = Instant::now() + SOON;
    while before.is_some_and(|b| master_fds > b.master_fds || worker_fds > b.worker_fds)
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(5));
        (master_fds, worker_fds) = fds();
    }
    Holding {
        kinds: service.census().kinds,
        master_fds,
        worker_fds,
        master_kib: private_kib(master.pid),
        worker_kib: pids.iter().map(|pid| private_kib(*pid)).sum(),
        connections: connections as u64,
    }
}

fn private_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let private = text.lines().filter(|line| line.starts_with("Private_"));
    private
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

impl Figures {
    /// Panics unless nobody noticed and nothing was left behind.
    #[track_caller]
    pub fn assert_nothing_was_left(&self) {
        self.report.assert_clean().assert_kept();
        self.torture.assert_clean().assert_kept();
        let connections = self.report.connections + self.torture.connections;
        if let Some(handshakes) = self.handshakes {
            assert_eq!(handshakes, connections as u64, "{self}");
        }
        assert_eq!(self.drained.cut, 0, "{self}");
        assert_eq!(self.last.kinds, self.second.kinds, "{self}");
        assert!(self.last.master_fds <= self.second.master_fds, "{self}");
        assert!(self.last.worker_fds <= self.second.worker_fds, "{self}");
        // Which buffers are there is chance; a leak grows with every round.
        let near = |now: u64, then: u64| now <= then + then / 4 + 512;
        let (now, then) = (&self.last, &self.second);
        assert!(near(now.master_kib, then.master_kib), "{self}");
        assert!(near(now.worker_kib, then.worker_kib), "{self}");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} upgrades and {} rollbacks in {:.1?}, the slowest {:.1?}; {}",
            self.upgrades, self.rollbacks, self.took, self.slowest, self.drained
        )?;
        writeln!(f, "clients: {}", self.report.total)?;
        writeln!(f, "requests of all kinds: {}", self.torture.total)?;
        if let Some(handshakes) = self.handshakes {
            writeln!(f, "handshakes: {handshakes}")?;
        }
        writeln!(f, "{:<34}{:>16}{:>16}", "", "second", "last")?;
        let (a, b) = (&self.second, &self.last);
        let kinds = |h: &Holding| h.kinds.values().sum::<usize>() as u64;
        let rows = [
            ("processes", kinds(a), kinds(b)),
            ("connections", a.connections, b.connections),
            (
                "descriptors of the master",
                a.master_fds as u64,
                b.master_fds as u64,
            ),
            (
                "descriptors of the workers",
                a.worker_fds as u64,
                b.worker_fds as u64,
            ),
            (
                "private memory of the master, KiB",
                a.master_kib,
                b.master_kib,
            ),
            (
                "private memory of the workers, KiB",
                a.worker_kib,
                b.worker_kib,
            ),
        ];
        for (what, second, last) in rows {
            writeln!(f, "{what:<34}{second:>16}{last:>16}")?;
        }
        Ok(())
    }
}

/// Thousands of clients are in this process.
fn raise_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
