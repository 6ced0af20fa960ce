//! The clients under which the stories are told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::host::BIG;
use crate::kit::client::{Kind, Load, Report, Running, Spec};

/// Eight keep-alive clients and two that open a connection each time. They go on through anything.
pub fn steady() -> Running {
    started(vec![
        Spec::new("127.0.0.1:80")
            .keep_alive()
            .connections(8)
            .pause(PAUSE),
        Spec::new("[::1]:80").fresh().connections(2).pause(PAUSE),
    ])
}

/// The same to another machine, with less force: there are several.
pub fn on(address: &str) -> Running {
    let spec = || Spec::new(address).pause(25 * PAUSE).label(address);
    started(vec![
        spec().keep_alive().connections(4),
        spec().fresh().connections(1),
    ])
}

/// Only clients that open a connection each time: for a service that goes away for a moment, which
/// closes idle connections as it may. Nobody is refused; what comes meanwhile waits, for several starts.
pub fn fresh() -> Running {
    let spec = |target| {
        let spec = Spec::new(target).fresh().pause(PAUSE);
        spec.timeout(Duration::from_secs(60))
    };
    started(vec![
        spec("127.0.0.1:80").connections(4),
        spec("[::1]:80").connections(2),
    ])
}

/// A request whose answer has begun and takes as long as the reader wants.
pub struct InFlight {
    stream: TcpStream,
    left: usize,
}

impl InFlight {
    /// Asks for a file that no socket buffer holds, and reads the answer's head.
    pub fn begin() -> Self {
        let mut stream = TcpStream::connect("127.0.0.1:80").expect("connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a deadline");
        stream
            .write_all(format!("GET /{BIG} HTTP/1.1\r\nHost: big\r\n\r\n").as_bytes())
            .expect("the request goes out");
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("the answer's head");
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let left = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.trim().parse().ok())
            .unwrap_or_else(|| panic!("no length in {head}"));
        Self { stream, left }
    }

    /// Reads the rest. Panics unless every byte comes.
    #[track_caller]
    pub fn finish(mut self) {
        let mut buffer = vec![0; 1 << 20];
        while self.left > 0 {
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the answer ended {} bytes too early", self.left),
                Ok(n) => self.left -= n,
                Err(e) => panic!("{} bytes of the answer are missing: {e}", self.left),
            }
        }
    }
}

/// Panics if anything failed but requests that a killed process had in flight, or its connections.
#[track_caller]
pub fn assert_only_cut(report: &Report) {
    let cut = [Kind::Eof, Kind::Reset, Kind::DroppedIdle]
        .iter()
        .map(|kind| report.count(*kind))
        .sum::<u64>();
    assert!(report.total.ok > 0, "nobody answered\n{report}");
    assert!(
        report.failed() == cut && cut <= report.connections as u64,
        "more failed than was in flight\n{report}"
    );
}

/// Waits until it was answered some hundred times more.
pub fn goes_on(load: &Running) {
    load.wait_answers(200, Duration::from_secs(30));
}

fn started(specs: Vec<Spec>) -> Running {
    let load = Load::start_all(specs);
    load.wait_answers(100, Duration::from_secs(30));
    load
}

/// Between two requests of a client: load for two cores, not a benchmark.
pub const PAUSE: Duration = Duration::from_millis(8);
