//! Requests a second and processor time a request: `cargo bench --bench throughput`.
//! `SECONDS=4 ROUNDS=5` for longer ones.
//!
//! Servers take turns, several rounds of each; the medians are compared. With one worker, so that
//! the load (wrk, where it is installed) has the other core of a small machine to itself, and with
//! two. A small answer: an application of the library against the same one on bare hyper with the
//! same runtime, and as the library runs it by default (a thread a core) against `axum::serve`.
//! Files: the daemon against nginx.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

#[path = "../tests/kit/mod.rs"]
mod kit;

mod common;

use common::peers::{Handover, Haproxy, Nginx, Peer, Way};
use common::process;
use common::table::{Table, headline, ms, verdict};
use common::wrk::{self, Speaks, Speed};
use common::{SOON, VERSIONS, median, quick, setting, until, wanted};
use kit::build;
use kit::client::Target;
use kit::port::Port;
use kit::service::Service;

/// Of bare hyper's requests a second, with a small answer.
const AIM_BARE: f64 = 0.98;
/// Of nginx's, with a small file and with a large one.
const AIM_SMALL: f64 = 1.0;
const AIM_LARGE: f64 = 0.5;
/// Of nginx's processor time for a large file.
const AIM_LARGE_CPU: f64 = 1.2;
/// Of what `axum::serve` takes for the slowest of a hundred answers, and of its memory.
const AIM_P99: f64 = 1.1;
const AIM_MEMORY: f64 = 2.0;

const DEFAULT: &str = "small answer, a thread a core";
/// How soon answers come where the load leaves room. Flat out, with the load on one of two cores, p99
/// tells for how long the kernel lets one of two threads wait for the other.
const PACED: &str = "small answer, a thread a core, paced";

/// A server that is asked in turn with others.
struct Server {
    name: &'static str,
    address: SocketAddr,
    pids: Vec<u32>,
    /// Ends with it.
    _owner: Box<dyn std::any::Any>,
    speeds: Vec<Speed>,
}

impl Server {
    fn of(peer: impl Peer + 'static, name: &'static str) -> Self {
        Self {
            name,
            address: peer.address(),
            pids: peer.workers(),
            _owner: Box::new(peer),
            speeds: Vec::new(),
        }
    }

    fn rate(&self) -> f64 {
        let mut rates: Vec<u64> = self.speeds.iter().map(|s| s.rate.to_bits()).collect();
        // Positive floats sort as their bits do.
        median(&mut rates).map_or(0.0, f64::from_bits)
    }

    fn p99(&self) -> Duration {
        let mut p99: Vec<_> = self.speeds.iter().map(|s| s.p99).collect();
        median(&mut p99).unwrap_or_default()
    }

    /// KiB that nobody shares, after the load.
    fn memory(&self) -> u64 {
        let private = |pid: &u32| process::memory(*pid).map_or(0, |memory| memory.private);
        self.pids.iter().map(private).sum()
    }

    fn cpu(&self) -> Duration {
        let mut cpu: Vec<_> = self.speeds.iter().map(|s| s.cpu_per_request).collect();
        median(&mut cpu).unwrap_or_default()
    }
}

fn main() -> ExitCode {
    let rounds = setting("ROUNDS", 3, 1);
    let time = Duration::from_secs(u64::try_from(setting("SECONDS", 2, 1)).unwrap_or(2));
    let tool = if wrk::is_installed() {
        "wrk -t1"
    } else {
        "the strict client (wrk is not installed)"
    };
    headline(&format!(
        "Throughput by {tool}, 64 connections: {rounds} rounds of {time:?}, medians"
    ));
    let site = common::site();
    let mut table = Table::new(&[
        "what",
        "server",
        "workers",
        "requests/s",
        "ratio",
        "CPU us/request",
        "ratio",
        "p99 ms",
        "ratio",
        "private KiB",
    ]);
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut verdicts = Vec::new();
    let cases: [(&str, &str, usize, usize); 7] = [
        ("small answer", "/", 1, 64),
        (DEFAULT, "/", 1, 64),
        (PACED, "/", 1, 64),
        ("small file", "/index.html", 1, 64),
        ("small file", "/index.html", 2, 64),
        ("10 MB file", "/large.bin", 1, 8),
        ("10 MB file", "/large.bin", 2, 8),
    ];
    for (what, path, workers, connections) in cases {
        if !what.contains(&only) {
            continue;
        }
        let mut servers = match what {
            "small answer" => small_answer(),
            DEFAULT | PACED => vec![hello(""), bare("axum::serve", "axum")],
            _ => files(site.path(), workers, what == "small file"),
        };
        let how = match what {
            PACED => Speaks::Paced,
            _ => Speaks::Http,
        };
        for _ in 0..rounds {
            for server in &mut servers {
                let (address, pids) = (server.address, &server.pids);
                let speed = wrk::measure_as(how, address, path, connections, time, pids);
                server.speeds.push(speed);
            }
        }
        let Some(other) = servers.get(1) else {
            continue;
        };
        let (rate, cpu) = (other.rate(), other.cpu().as_secs_f64());
        let p99 = other.p99().as_secs_f64();
        for server in &servers {
            table.row([
                what.into(),
                server.name.into(),
                workers.to_string(),
                format!("{:.0}", server.rate()),
                format!("{:.2}", server.rate() / rate),
                format!("{:.2}", server.cpu().as_secs_f64() * 1e6),
                format!("{:.2}", server.cpu().as_secs_f64() / cpu),
                ms(server.p99()),
                format!("{:.2}", server.p99().as_secs_f64() / p99),
                server.memory().to_string(),
            ]);
        }
        let ours = &servers[0];
        let against = format!("{what}, {workers} workers, against {}", other.name);
        let aim = match what {
            "small file" => AIM_SMALL,
            "10 MB file" => AIM_LARGE,
            _ => AIM_BARE,
        };
        let mut judge = |figure: &str, ratio: f64, aim: f64, less: bool| {
            verdicts.push((format!("{against}: {figure}"), ratio, aim, less));
        };
        if what != PACED {
            judge("requests/s", ours.rate() / rate, aim, false);
        }
        if what == "10 MB file" {
            let ratio = ours.cpu().as_secs_f64() / cpu;
            judge("CPU a request", ratio, AIM_LARGE_CPU, true);
        }
        if matches!(what, DEFAULT | PACED) {
            judge("p99", ours.p99().as_secs_f64() / p99, AIM_P99, true);
        }
        if what == DEFAULT {
            #[expect(clippy::cast_precision_loss, reason = "KiB are few for a float")]
            let ratio = ours.memory() as f64 / other.memory() as f64;
            judge("private memory", ratio, AIM_MEMORY, true);
        }
    }
    table.print();
    for (name, ratio, aim, less_is_better) in verdicts {
        verdict(&name, ratio, aim, less_is_better, "times");
    }
    ExitCode::SUCCESS
}

/// The library's smallest application, and the same without the library.
fn small_answer() -> Vec<Server> {
    let ours = hello("workers = 1\nthreads = 1\n");
    let same = bare("hyper, the same router", "router");
    let bare = bare("hyper, a function", "function");
    vec![ours, same, bare]
}

fn hello(config: &str) -> Server {
    let hello = Service::setup("bench")
        .image(build::other_version_of_example("hello", VERSIONS[0]))
        .config(&format!("{config}[log]\nlevel = \"warn\"\n"))
        .start();
    let status = hello.wait_phase("serving");
    let Target::Tcp(address) = hello.target("http") else {
        panic!("it listens on a port")
    };
    Server {
        name: "handover, hello",
        address,
        pids: status.masters[0].workers.iter().map(|w| w.pid).collect(),
        _owner: Box::new(hello),
        speeds: Vec::new(),
    }
}

fn bare(name: &'static str, how: &str) -> Server {
    let program = build::other_version_of_example("bare", VERSIONS[0]);
    let port = Port::reserve();
    let address = port.address();
    let child = Command::new(program)
        .args([&address.to_string(), how])
        .stdin(Stdio::null())
        .spawn()
        .expect("the example runs");
    until("bare hyper", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    Server {
        name,
        address,
        pids: vec![child.id()],
        _owner: Box::new((Killed(child), port)),
        speeds: Vec::new(),
    }
}

/// Ends with this.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn files(site: &Path, workers: usize, small: bool) -> Vec<Server> {
    let mut servers = vec![Server::of(Handover::start(site, workers, ""), "handover")];
    if wanted("nginx") && Nginx::is_installed() {
        servers.push(Server::of(
            Nginx::start(site, workers, Way::Reload),
            "nginx",
        ));
    } else if !quick() {
        println!("skipped: nginx is not installed");
    }
    // It answers with a small file as a fixed text, and serves no other.
    if small && wanted("haproxy") {
        if Haproxy::is_installed() {
            let haproxy = Haproxy::start(site, workers);
            servers.push(Server::of(haproxy, "haproxy, a fixed text"));
        } else {
            println!("skipped: haproxy is not installed");
        }
    }
    let _ = SOON;
    servers
}
