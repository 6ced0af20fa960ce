//! Requests a second: by wrk where it is installed, else by the strict client.

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
    /// The time that 99 of 100 answers took at most.
    pub p99: Duration,
}

pub fn is_installed() -> bool {
    process::version("wrk", "-v").is_some()
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
    let before = process::cpu_of(pids);
    let began = std::time::Instant::now();
    let (requests, p99) = if is_installed() {
        wrk(address, path, connections, time)
    } else {
        strict(address, path, connections, time)
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

fn wrk(address: SocketAddr, path: &str, connections: usize, time: Duration) -> (u64, Duration) {
    let output = Command::new("wrk")
        .args(["-t1", "--latency", &format!("-c{connections}")])
        .arg(format!("-d{}s", time.as_secs().max(1)))
        .arg(format!("http://{address}{path}"))
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

fn strict(address: SocketAddr, path: &str, connections: usize, time: Duration) -> (u64, Duration) {
    let spec = Spec::new(address).connections(connections).path(path);
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
