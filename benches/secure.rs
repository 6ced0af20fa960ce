//! What TLS and HTTP/2 cost: `cargo bench --bench secure`. `SECONDS=4 ROUNDS=5` for longer ones, `ONLY=idle`
//! for the cases whose name has that in it.
//!
//! Servers take turns, as in `throughput`; the medians are compared. The daemon against nginx with the
//! same certificate: handshakes, a small page and a large file over TLS 1.3, and HTTP/2. Our records
//! against tokio-rustls': the same router, served by the library and by bare hyper, each without TLS and
//! with it, so that the difference is TLS alone. And what an idle connection weighs.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

#[path = "../tests/kit/mod.rs"]
mod kit;

mod common;

use common::holder::{self, Idle, Protocol};
use common::peers::{Handover, Nginx, Peer, Way};
use common::process;
use common::table::{Table, headline, ms, verdict};
use common::tls::{self, Handshakes};
use common::wrk::{self, Speaks, Speed};
use common::{VERSIONS, median, pause, setting, until};
use kit::build;
use kit::client::Target;
use kit::port::Port;
use kit::service::Service;
use kit::tls::make_certificate;

/// Of nginx's answers and handshakes a second.
const AIM_NGINX: f64 = 1.0;
/// Of tokio-rustls' answers a second.
const AIM_RECORDS: f64 = 0.98;
/// What an idle connection over TLS may weigh more than a plain one.
const AIM_TLS_KIB: f64 = 4.0;
/// What the ledger of an idle HTTP/2 connection may weigh.
const AIM_LEDGER_KIB: f64 = 2.0;

/// Whom to measure.
struct Server {
    name: String,
    address: SocketAddr,
    pids: Vec<u32>,
    /// Ends with it.
    _owner: Box<dyn std::any::Any>,
}

impl Server {
    fn of(peer: impl Peer + 'static, name: &str) -> Self {
        Self {
            name: name.into(),
            address: peer.address(),
            pids: peer.workers(),
            _owner: Box::new(peer),
        }
    }
}

/// What is asked, and how.
struct Case {
    name: &'static str,
    speaks: Speaks,
    path: &'static str,
    connections: usize,
}

const CASES: [Case; 3] = [
    Case {
        name: "page of 1 KB, TLS 1.3",
        speaks: Speaks::Https,
        path: "/index.html",
        connections: 64,
    },
    Case {
        name: "file of 10 MB, TLS 1.3",
        speaks: Speaks::Https,
        path: "/large.bin",
        connections: 8,
    },
    Case {
        name: "page of 1 KB, HTTP/2, 32 streams",
        speaks: Speaks::Http2(32),
        path: "/index.html",
        connections: 8,
    },
];

fn main() -> ExitCode {
    if let Some(code) = holder::play() {
        return code;
    }
    let rounds = setting("ROUNDS", 3, 1);
    let time = Duration::from_secs(u64::try_from(setting("SECONDS", 2, 1)).unwrap_or(2));
    headline(&format!(
        "TLS and HTTP/2: {rounds} rounds of {time:?}, medians"
    ));
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = |name: &str| name.contains(&only);
    let site = common::site();
    if Nginx::is_installed() && wrk::is_installed() {
        for workers in [1, 2] {
            let servers = web_servers(site.path(), workers);
            if wanted("handshakes") {
                shake_hands(&servers, workers, rounds, time);
            }
            for case in CASES.iter().filter(|case| wanted(case.name)) {
                serve(&servers, case, workers, rounds, time);
            }
        }
    } else {
        println!("skipped: nginx, wrk or h2load is not installed");
    }
    if wanted("records") && wrk::is_installed() {
        for path in ["/", "/large"] {
            records(path, rounds, time);
        }
    }
    if wanted("idle") {
        idle(site.path(), setting("CONNECTIONS", 2000, 50));
    }
    ExitCode::SUCCESS
}

/// The daemon and nginx, with one certificate.
fn web_servers(site: &Path, workers: usize) -> [Server; 2] {
    let ours = Handover::start_tls(site, workers, "");
    let certificate = ours.service.dir().join("tls");
    let nginx = Nginx::start_tls(site, workers, Way::Reload, &certificate);
    [Server::of(ours, "handover"), Server::of(nginx, "nginx")]
}

/// Each server in turn, so many rounds: what each round gave, by server.
fn in_turn<T>(
    servers: &[Server],
    rounds: usize,
    mut measure: impl FnMut(&Server) -> T,
) -> Vec<Vec<T>> {
    let mut all: Vec<Vec<T>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (server, seen) in servers.iter().zip(&mut all) {
            seen.push(measure(server));
        }
    }
    all
}

fn middle<T>(all: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    // Positive floats sort as their bits do.
    let mut bits: Vec<u64> = all.iter().map(|one| figure(one).to_bits()).collect();
    median(&mut bits).map_or(0.0, f64::from_bits)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn shake_hands(servers: &[Server], workers: usize, rounds: usize, time: Duration) {
    for (name, resume) in [("full", false), ("resumed", true)] {
        println!("{name} handshakes, each with one request, {workers} workers:\n");
        let seen = in_turn(servers, rounds, |server| {
            tls::handshakes(server.address, resume, time, &server.pids)
        });
        let mut table = Table::new(&["server", "a second", "ratio", "CPU us each", "ratio"]);
        let rate = |seen: &[Handshakes]| middle(seen, |one| one.rate);
        let cpu = |seen: &[Handshakes]| middle(seen, |one| micros(one.cpu_each));
        let (rates, cpus) = (rate(&seen[1]), cpu(&seen[1]));
        for (server, seen) in servers.iter().zip(&seen) {
            table.row([
                server.name.clone(),
                format!("{:.0}", rate(seen)),
                format!("{:.2}", rate(seen) / rates),
                format!("{:.0}", cpu(seen)),
                format!("{:.2}", cpu(seen) / cpus),
            ]);
        }
        table.print();
        let name = format!("{name} handshakes a second, {workers} workers, against nginx");
        verdict(&name, rate(&seen[0]) / rates, AIM_NGINX, false, "times");
        println!();
    }
}

fn rate_of(seen: &[Speed]) -> f64 {
    middle(seen, |speed| speed.rate)
}

fn cpu_of(seen: &[Speed]) -> f64 {
    middle(seen, |speed| micros(speed.cpu_per_request))
}

fn serve(servers: &[Server], case: &Case, workers: usize, rounds: usize, time: Duration) {
    println!("{}, {workers} workers:\n", case.name);
    let seen = in_turn(servers, rounds, |server| {
        let (address, pids) = (server.address, &server.pids);
        wrk::measure_as(
            case.speaks,
            address,
            case.path,
            case.connections,
            time,
            pids,
        )
    });
    let mut table = Table::new(&[
        "server",
        "requests/s",
        "ratio",
        "CPU us/request",
        "ratio",
        "p99 ms",
        "ratio",
    ]);
    let p99 = |seen: &[Speed]| middle(seen, |speed| speed.p99.as_secs_f64());
    let others = &seen[1];
    for (server, seen) in servers.iter().zip(&seen) {
        table.row([
            server.name.clone(),
            format!("{:.0}", rate_of(seen)),
            format!("{:.2}", rate_of(seen) / rate_of(others)),
            format!("{:.2}", cpu_of(seen)),
            format!("{:.2}", cpu_of(seen) / cpu_of(others)),
            ms(Duration::from_secs_f64(p99(seen))),
            format!("{:.2}", p99(seen) / p99(others)),
        ]);
    }
    table.print();
    let name = format!("{}, {workers} workers, against nginx", case.name);
    let ratio = rate_of(&seen[0]) / rate_of(others);
    verdict(&name, ratio, AIM_NGINX, false, "times");
    println!();
}

/// The same router four times: on bare hyper and by the library, without TLS and with it.
fn records(path: &str, rounds: usize, time: Duration) {
    let certificate = tempfile::tempdir().expect("a directory");
    make_certificate(certificate.path(), &["localhost"]);
    let servers = [
        bare("router", None),
        bare("router", Some(certificate.path())),
        library(false),
        library(true),
    ];
    println!("records, {path}:\n");
    let connections = if path == "/" { 64 } else { 8 };
    let seen = in_turn(&servers, rounds, |server| {
        let speaks = if server.name.contains("TLS") {
            Speaks::Https
        } else {
            Speaks::Http
        };
        let (address, pids) = (server.address, &server.pids);
        wrk::measure_as(speaks, address, path, connections, time, pids)
    });
    let mut table = Table::new(&["server", "requests/s", "CPU us/request"]);
    for (server, seen) in servers.iter().zip(&seen) {
        table.row([
            server.name.clone(),
            format!("{:.0}", rate_of(seen)),
            format!("{:.2}", cpu_of(seen)),
        ]);
    }
    table.print();
    let [plain, tls, our_plain, our_tls] = [0, 1, 2, 3].map(|n| cpu_of(&seen[n]));
    let (theirs, ours) = (tls - plain, our_tls - our_plain);
    println!("TLS of a request: {ours:.2} us of CPU, tokio-rustls' {theirs:.2} us");
    // As if the same server had both.
    let name = format!("records of {path} against tokio-rustls, answers of a CPU's second");
    verdict(&name, tls / (plain + ours), AIM_RECORDS, false, "times");
    println!();
}

/// The router of `examples/bare.rs` by the library, with one worker of one thread.
fn library(tls: bool) -> Server {
    let setup = Service::setup("bench")
        .image(build::other_version_of_example("bare", VERSIONS[0]))
        .config("workers = 1\nthreads = 1\n[log]\nlevel = \"warn\"\n");
    let setup = if tls { setup.tls() } else { setup };
    let service = setup.start();
    let status = service.wait_phase("serving");
    let Target::Tcp(address) = service.target("http") else {
        panic!("it listens on a port")
    };
    Server {
        name: if tls { "library, TLS" } else { "library" }.into(),
        address,
        pids: status.masters[0].workers.iter().map(|w| w.pid).collect(),
        _owner: Box::new(service),
    }
}

/// The same on hyper alone; over TLS by tokio-rustls.
fn bare(how: &str, certificate: Option<&Path>) -> Server {
    let program = build::other_version_of_example("bare", VERSIONS[0]);
    let port = Port::reserve();
    let address = port.address();
    let child = Command::new(program)
        .args([&address.to_string(), how])
        .args(certificate)
        .stdin(Stdio::null())
        .spawn()
        .expect("the example runs");
    until("bare hyper", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    let tls = certificate.map_or("", |_| ", tokio-rustls' TLS");
    Server {
        name: format!("bare hyper, {how}{tls}"),
        address,
        pids: vec![child.id()],
        _owner: Box::new((Killed(child), port)),
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

/// What a connection weighs that has had one answer.
fn idle(site: &Path, count: usize) {
    let certificate = tempfile::tempdir().expect("a directory");
    make_certificate(certificate.path(), &["localhost"]);
    let mut table = Table::new(&["server", "protocol", "KiB a connection"]);
    let mut weigh = |server: &Server, protocol: Protocol| {
        let kib = weight(server, protocol, count);
        let name = server.name.clone();
        table.row([name, protocol.name().into(), format!("{kib:.1}")]);
        kib
    };
    let ours = Protocol::ALL.map(|protocol| weigh(&library(protocol.is_tls()), protocol));
    let theirs = Protocol::ALL.map(|protocol| {
        let certificate = protocol.is_tls().then(|| certificate.path());
        let how = match protocol {
            Protocol::Http1 | Protocol::Tls => "router",
            Protocol::Http2 | Protocol::Http2Tls => "http2",
        };
        weigh(&bare(how, certificate), protocol)
    });
    if Nginx::is_installed() {
        let nginx = Nginx::start_tls(site, 1, Way::Reload, certificate.path());
        let nginx = Server::of(nginx, "nginx");
        weigh(&nginx, Protocol::Tls);
        weigh(&nginx, Protocol::Http2Tls);
    }
    table.print();
    let [plain, tls, http2, http2_tls] = ours;
    let name = "an idle connection over TLS, more than a plain one";
    verdict(name, tls - plain, AIM_TLS_KIB, true, "KiB");
    let name = "an idle HTTP/2 connection over TLS, more than a plain one";
    verdict(name, http2_tls - http2, AIM_TLS_KIB, true, "KiB");
    // What the library adds to hyper is a little of everything.
    let name = "an idle HTTP/2 connection, more than on bare hyper";
    verdict(name, http2 - theirs[2], AIM_LEDGER_KIB, true, "KiB");
}

#[expect(clippy::cast_precision_loss, reason = "kibibytes are few for a float")]
fn weight(server: &Server, protocol: Protocol, count: usize) -> f64 {
    let dirty = || -> u64 {
        let memory = server.pids.iter().filter_map(|pid| process::memory(*pid));
        memory.map(|memory| memory.dirty).sum()
    };
    // What the first ones need is kept for those that follow.
    drop(Idle::open(server.address, count / 10, protocol));
    pause(SETTLES);
    let empty = dirty();
    let idle = Idle::open(server.address, count, protocol);
    pause(SETTLES);
    let kib = dirty().saturating_sub(empty);
    drop(idle);
    kib as f64 / count.max(1) as f64
}

/// Idle connections leave hyper's buffers after a moment.
const SETTLES: Duration = Duration::from_millis(600);
