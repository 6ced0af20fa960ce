//! Requests a second: by wrk where it is installed, else by the strict client; HTTP/2 by h2load.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use super::{SOON, pause, process};
use crate::kit::client::{Load, Spec};

/// What a server did in a while.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Requests a second.
    pub rate: f64,
    /// Of all its processes.
    pub cpu_per_request: Duration,
    /// The time that 99 of 100 answers took at most (HTTP/2: all of them).
    pub p99: Duration,
}

pub fn is_installed() -> bool {
    process::version("wrk", "-v").is_some()
}

/// What the load speaks, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http,
    /// With a pause of 0 to 2 ms after each answer: less than the server could do.
    Paced,
    Https,
    /// HTTP/2 over TLS, so many streams at a time on each connection.
    Http2(usize),
}

/// Asks for `path` over so many connections for so long. Panics when an answer was wrong.
#[track_caller]
pub fn measure(
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
    pids: &[u32],
) -> Speed {
    measure_as(Speaks::Http, address, path, connections, time, pids)
}

/// The same in another protocol.
#[track_caller]
pub fn measure_as(
    speaks: Speaks,
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
    pids: &[u32],
) -> Speed {
    let spec = || Spec::new(address).connections(connections).path(path);
    let before = process::cpu_of(pids);
    let began = std::time::Instant::now();
    let (requests, p99) = match speaks {
        Speaks::Http2(streams) => h2load(address, path, (connections, streams), time),
        Speaks::Https => wrk("https", address, path, connections, time),
        Speaks::Http if is_installed() => wrk("http", address, path, connections, time),
        Speaks::Http => strict(spec(), time),
        Speaks::Paced => strict(
            spec().think(Duration::ZERO..=Duration::from_millis(2)),
            time,
        ),
    };
    let elapsed = began.elapsed().min(time.max(Duration::from_millis(1)));
    let used = process::cpu_of(pids) - before;
    #[expect(
        clippy::cast_precision_loss,
        reason = "millions of requests are few for a float"
    )]
    let rate = requests as f64 / elapsed.as_secs_f64();
    let each = u32::try_from(requests.max(1)).unwrap_or(u32::MAX);
    Speed {
        rate,
        cpu_per_request: used / each,
        p99,
    }
}

/// Its count of whole answers, and the slowest of them.
fn h2load(
    address: SocketAddr,
    path: &str,
    (connections, streams): (usize, usize),
    time: Duration,
) -> (u64, Duration) {
    let output = Command::new("h2load")
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-m{streams}"),
            &format!("-D{}", time.as_secs().max(1)),
        ])
        .arg(format!("https://{address}{path}"))
        .output()
        .expect("h2load runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let count = text.lines().find_map(|line| {
        // requests: N total, N started, N done, N succeeded, 0 failed, 0 errored, 0 timeout
        let line = line.strip_prefix("requests: ")?;
        assert!(line.contains(" 0 failed, 0 errored, 0 timeout"), "{text}");
        let (_, done) = line.split_once(" started, ")?;
        done.split_once(" done")?.0.parse().ok()
    });
    // min, max, mean; it tells no percentiles.
    let worst = text
        .lines()
        .find_map(|line| line.strip_prefix("time for request:"))
        .and_then(|line| as_duration(line.split_whitespace().nth(1)?));
    count
        .zip(worst)
        .unwrap_or_else(|| panic!("h2load said {text}"))
}

fn wrk(
    scheme: &str,
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> (u64, Duration) {
    let output = Command::new("wrk")
        .args(["-t1", "--latency", &format!("-c{connections}")])
        .arg(format!("-d{}s", time.as_secs().max(1)))
        .arg(format!("{scheme}://{address}{path}"))
        .output()
        .expect("wrk runs");
    let text = String::from_utf8_lossy(&output.stdout);
    for bad in ["Socket errors", "Non-2xx"] {
        assert!(!text.contains(bad), "{address}{path}: {text}");
    }
    let count = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .and_then(|(count, _)| count.parse().ok());
    let p99 = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("99%"))
        .and_then(|time| as_duration(time.trim()));
    count.zip(p99).unwrap_or_else(|| panic!("wrk said {text}"))
}

/// `1.23ms`, as wrk writes it.
fn as_duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    let seconds = match &text[unit..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        _ => return None,
    };
    Some(Duration::from_secs_f64(seconds))
}

fn strict(spec: Spec, time: Duration) -> (u64, Duration) {
    let load = Load::start(spec);
    load.wait_connected(SOON);
    load.mark("measured");
    pause(time);
    load.mark("rest");
    let report = load.stop();
    report.assert_clean();
    let measured = report.phase("measured");
    (measured.ok, measured.latency.percentile(99.0))
}
