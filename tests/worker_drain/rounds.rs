//! Fifty generations under every kind of traffic, by clients that never connect twice, never retry
//! and check every answer.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use handover::config::Config;
use handover::machine::link::Report;
use handover::sys::handoff;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::worker::{TestWorker, checksum, config, pattern};

const ROUNDS: u64 = 50;
const CLIENTS: u64 = 32;

/// xorshift: the same traffic every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn size(&mut self, n: u64) -> usize {
        usize::try_from(self.below(n)).unwrap()
    }
}

/// A client that sends what it is told in pieces, with pauses in unlucky places.
struct Torturer {
    client: Client,
    random: Random,
    requests: Arc<AtomicU64>,
    id: u64,
}

/// What an answer must be.
enum Expected {
    Text(String),
    Bytes(Vec<u8>),
    Empty,
}

impl Torturer {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let depth = 1 + self.random.below(8);
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for _ in 0..depth {
                expected.push(self.request(&mut bytes));
            }
            self.send(&bytes).await;
            for expected in expected {
                self.check(expected).await;
            }
            if self.random.below(3) == 0 {
                sleep(Duration::from_millis(self.random.below(40))).await;
            }
        }
    }

    /// Appends a request.
    fn request(&mut self, to: &mut Vec<u8>) -> Expected {
        self.id += 1;
        let mut head = |text: String| to.extend_from_slice(text.as_bytes());
        match self.random.below(10) {
            0 | 1 => {
                let id = self.id;
                head(format!("GET /echo/{id} HTTP/1.1\r\nHost: t\r\n\r\n"));
                Expected::Text(id.to_string())
            }
            2 => {
                let body = pattern(self.random.size(20_000));
                let len = body.len();
                head(format!(
                    "POST /upload HTTP/1.1\r\nHost: t\r\nContent-Length: {len}\r\n\r\n"
                ));
                to.extend_from_slice(&body);
                Expected::Text(checksum(&body))
            }
            3 => {
                let body = pattern(1 + self.random.size(20_000));
                head(
                    "POST /upload HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
                );
                self.chunked(&body, to);
                Expected::Text(checksum(&body))
            }
            4 => {
                // Nobody reads the body; what it holds must never be taken for a request.
                let body = "GET /echo/smuggled HTTP/1.1\r\nHost: t\r\n\r\n"
                    .repeat(1 + self.random.size(50));
                if self.random.below(2) == 0 {
                    let len = body.len();
                    head(format!(
                        "POST /ignore HTTP/1.1\r\nHost: t\r\nContent-Length: {len}\r\n\r\n{body}"
                    ));
                } else {
                    head(
                        "POST /ignore HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
                            .into(),
                    );
                    self.chunked(body.as_bytes(), to);
                }
                Expected::Text("ignored".into())
            }
            5 => {
                let (n, ms) = (self.random.below(5), self.random.below(8));
                head(format!("GET /stream/{n}/{ms} HTTP/1.1\r\nHost: t\r\n\r\n"));
                Expected::Text((0..n).map(|n| format!("chunk {n};")).collect())
            }
            6 => {
                let len = self.random.size(300_000);
                head(format!("GET /download/{len} HTTP/1.1\r\nHost: t\r\n\r\n"));
                Expected::Bytes(pattern(len))
            }
            7 => {
                // Another task has the body, and drops it half-way after the answer.
                let body = "GET /echo/smuggled HTTP/1.1\r\nHost: t\r\n\r\n"
                    .repeat(1 + self.random.size(500));
                let len = body.len();
                head(format!(
                    "POST /background HTTP/1.1\r\nHost: t\r\nContent-Length: {len}\r\n\r\n{body}"
                ));
                Expected::Text("later".into())
            }
            8 => {
                let ms = self.random.below(20);
                head(format!("GET /slow/{ms} HTTP/1.1\r\nHost: t\r\n\r\n"));
                Expected::Text(format!("after {ms}"))
            }
            _ => {
                head("HEAD /download/5000 HTTP/1.1\r\nHost: t\r\n\r\n".into());
                Expected::Empty
            }
        }
    }

    fn chunked(&mut self, mut body: &[u8], to: &mut Vec<u8>) {
        while !body.is_empty() {
            let len = (1 + self.random.size(5000)).min(body.len());
            to.extend_from_slice(format!("{len:x}\r\n").as_bytes());
            to.extend_from_slice(&body[..len]);
            to.extend_from_slice(b"\r\n");
            body = &body[len..];
        }
        to.extend_from_slice(b"0\r\n\r\n");
    }

    async fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let most = if self.random.below(3) == 0 {
                40
            } else {
                30_000
            };
            let len = (1 + self.random.size(most)).min(bytes.len());
            self.client.send(&bytes[..len]).await;
            bytes = &bytes[len..];
            if self.random.below(4) == 0 {
                sleep(Duration::from_millis(self.random.below(6))).await;
            }
        }
    }

    async fn check(&mut self, expected: Expected) {
        match expected {
            Expected::Empty => {
                let head = self.client.head().await;
                assert!(head.contains("content-length: 5000\r\n"), "{head}");
            }
            Expected::Text(text) => {
                let answer = self.client.answer().await;
                assert_eq!((answer.status, answer.text()), (200, text));
                assert!(!answer.says_close());
            }
            Expected::Bytes(bytes) => {
                let answer = self.client.answer().await;
                assert!(answer.body == bytes, "{} bytes", bytes.len());
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two workers that accept on one listener, and the sending ends to them.
async fn generation(
    listener: &std::net::TcpListener,
    number: u64,
) -> (Vec<TestWorker>, Vec<OwnedFd>) {
    let (mut workers, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (sending, receiving) = handoff::pair().unwrap();
        let listener = listener.try_clone().unwrap();
        let config = Config {
            // Every other generation has a runtime of several threads.
            threads: if number % 2 == 0 { 2 } else { 1 },
            ..config()
        };
        let mut worker = TestWorker::begin(config, listener, number, None, Some(receiving)).await;
        worker.accept().await;
        workers.push(worker);
        ends.push(sending);
    }
    (workers, ends)
}

#[tokio::test]
async fn fifty_generations_answer_every_request_on_the_first_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mut workers, _) = generation(&listener, 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let requests = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let torturer = Torturer {
            client: Client::new(stream),
            random: Random(0x9e37_79b9_7f4a_7c15 ^ (n + 1)),
            requests: Arc::clone(&requests),
            id: n * 1_000_000,
        };
        clients.push(tokio::spawn(torturer.run(Arc::clone(&stop))));
    }
    let mut sum = Report::default();
    let mut longest = Duration::ZERO;
    for round in 0..ROUNDS {
        sleep(Duration::from_millis(60)).await;
        let (new, ends) = generation(&listener, round + 2).await;
        let ends: Vec<_> = ends.iter().collect();
        let begun = Instant::now();
        for old in &workers {
            old.pass_to(&ends).await;
        }
        for old in &mut workers {
            let report = old.drained().await;
            sum.passed += report.passed;
            sum.finished += report.finished;
            sum.cut += report.cut;
            sum.disagreements += report.disagreements;
            sum.accepted += report.accepted;
        }
        longest = longest.max(begun.elapsed());
        workers = new;
        if let Some(broken) = clients.iter_mut().find(|client| client.is_finished()) {
            broken.await.unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    println!(
        "{} requests, longest drain {longest:?}; {sum:?}",
        requests.load(Ordering::Relaxed)
    );
    assert_eq!(sum.accepted, CLIENTS, "nobody ever had to connect again");
    assert_eq!((sum.finished, sum.cut, sum.disagreements), (0, 0, 0));
    assert_eq!(sum.passed, CLIENTS * ROUNDS);
    for worker in &workers {
        worker.end().await;
    }
}
