//! Workers that leave out one condition of the gate, and the proof that every one of them is needed:
//! without it a client gets a wrong answer, a body is taken for a request, an answer is cut short.
//!
//! A worker becomes a mutant by its service's name, and only in this crate's own tests: nothing of
//! this is compiled into a program.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use handover::machine::link::Report;
use handover::sys::handoff;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout};

use super::gate::{BODY_PENDING, DIRTY, IN_FLIGHT, STICKY};
use client::Client;
use worker::{TestWorker, config, pattern};

#[expect(
    dead_code,
    clippy::pedantic,
    reason = "the integration test uses all of it, and has its own lints"
)]
#[path = "../../tests/worker_drain/client.rs"]
mod client;
#[expect(
    dead_code,
    unreachable_pub,
    reason = "the integration test uses all of it, and has its own lints"
)]
#[path = "../../tests/worker_drain/worker.rs"]
mod worker;

thread_local! {
    /// Of the worker whose thread this is.
    static MUTANT: Cell<Mutant> = const { Cell::new(Mutant { left_out: 0, forgets: false, oracle: true }) };
}

#[derive(Debug, Clone, Copy)]
struct Mutant {
    /// Marks that do not count.
    left_out: u32,
    /// What was read does not travel along.
    forgets: bool,
    /// Whether hyper is asked for its opinion.
    oracle: bool,
}

/// The worker of this thread is called so.
pub(super) fn awake(name: &str) {
    let left_out = match name.split('+').next() {
        Some("in-flight") => IN_FLIGHT,
        Some("body-pending") => BODY_PENDING,
        Some("dirty") => DIRTY,
        Some("sticky") => STICKY,
        _ => 0,
    };
    MUTANT.set(Mutant {
        left_out,
        forgets: name.starts_with("leftover"),
        oracle: !name.ends_with("+blind"),
    });
}

/// Marks that do not count in this thread.
pub(super) fn left_out() -> u32 {
    MUTANT.get().left_out
}

/// Whether hyper is asked.
pub(super) fn asks_the_oracle() -> bool {
    MUTANT.get().oracle
}

/// What is left of what was read.
pub(super) fn remembered(leftover: Bytes) -> Bytes {
    if MUTANT.get().forgets {
        Bytes::new()
    } else {
        leftover
    }
}

/// What a client saw.
#[derive(Debug, PartialEq, Eq)]
enum Saw {
    WhatItShould,
    /// What it should up to some answer, and then a clean end.
    Ended,
    /// Something else, or nothing.
    Wrong(String),
}

/// How long the old worker waits for the rest of what a client has begun.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// A worker of this name, about to pass its connections on; and the one that takes them.
struct Pair {
    old: TestWorker,
    new: TestWorker,
    client: Client,
    sending: std::os::fd::OwnedFd,
    patience: Duration,
}

impl Pair {
    async fn of(condition: &str, name: &str) -> Self {
        let mut mutant = config();
        mutant.name = name.into();
        if condition == "sticky" {
            mutant.http.header_timeout = GIVEN_UP;
        }
        let old = TestWorker::with(mutant).await;
        let (sending, receiving) = handoff::pair().unwrap();
        let listener = old.listener.try_clone().unwrap();
        let mut new = TestWorker::begin(config(), listener, 2, None, Some(receiving)).await;
        let client = Client::accepted(&old).await;
        new.accept().await;
        let wrong = name != "whole";
        Self {
            old,
            new,
            client,
            sending,
            // What is wrong may be that nothing comes.
            patience: Duration::from_secs(if wrong { 3 } else { 20 }),
        }
    }

    /// Gives the order, and time to carry it out at once where that is wrong.
    async fn pass(&self) {
        self.old.pass_to(&[&self.sending]).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(300) {
            if self.new.report().await.received > 0 {
                break;
            }
        }
    }

    /// Whether these are the next answers.
    async fn expect(&mut self, bodies: &[&[u8]]) -> Saw {
        for body in bodies {
            // The client knows no mercy with an end.
            let head = AssertUnwindSafe(self.client.head()).catch_unwind();
            let head = match timeout(self.patience, head).await {
                Ok(Ok(head)) => head,
                Ok(Err(_)) => return Saw::Ended,
                Err(_) => return Saw::Wrong("no answer".into()),
            };
            let length = |line: &str| line.strip_prefix("content-length: ")?.parse().ok();
            let Some(length) = head.lines().find_map(length) else {
                return Saw::Wrong(head);
            };
            match timeout(self.patience, self.client.exactly(length)).await {
                Ok(got) if got == *body => {}
                Ok(got) => {
                    let got = String::from_utf8_lossy(&got[..got.len().min(200)]).into_owned();
                    return Saw::Wrong(got);
                }
                Err(_) => return Saw::Wrong("half an answer".into()),
            }
        }
        Saw::WhatItShould
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")
}

/// An answer is being made when the order comes.
async fn answer_under_way(pair: &mut Pair) -> Saw {
    pair.client.send(get("/slow/600")).await;
    while pair.old.report().await.requests == 0 {}
    pair.pass().await;
    pair.client.send(get("/echo/next")).await;
    pair.expect(&[b"after 600", b"next"]).await
}

/// A body that the application did not want is still to come. It looks like a request.
async fn body_to_come(pair: &mut Pair) -> Saw {
    let body = get("/echo/smuggled");
    let head = format!(
        "POST /ignore HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    pair.client.send(head).await;
    let saw = pair.expect(&[b"ignored"]).await;
    if saw != Saw::WhatItShould {
        return saw;
    }
    pair.pass().await;
    pair.client.send(body).await;
    pair.client.send(get("/echo/next")).await;
    pair.expect(&[b"next"]).await
}

/// The answer is in hyper's buffer, the client does not read.
async fn answer_not_flushed(pair: &mut Pair) -> Saw {
    pair.client.send(get("/download/20000000")).await;
    while pair.old.report().await.requests == 0 {}
    pair.pass().await;
    pair.client.send(get("/echo/next")).await;
    pair.expect(&[&pattern(20_000_000), b"next"]).await
}

/// A body that nobody reads stops coming: the connection must end, and nothing behind the body's beginning
/// may be taken for a request.
async fn body_given_up(pair: &mut Pair) -> Saw {
    pair.client
        .send("POST /ignore HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n")
        .await;
    let saw = pair.expect(&[b"ignored"]).await;
    if saw != Saw::WhatItShould {
        return saw;
    }
    pair.pass().await;
    let ended = pair.client.stream.read_u8();
    if let Ok(Err(_)) = timeout(pair.patience, ended).await {
        return Saw::WhatItShould;
    }
    pair.client.send(get("/echo/smuggled")).await;
    let saw = pair.expect(&[b"smuggled"]).await;
    Saw::Wrong(format!("no end, and then {saw:?}"))
}

/// Half of the next request was read with the one before it.
async fn half_a_head_read(pair: &mut Pair) -> Saw {
    let both = get("/slow/300") + "GET /echo/ne";
    pair.client.send(both).await;
    while pair.old.report().await.requests == 0 {}
    pair.pass().await;
    let saw = pair.expect(&[b"after 300"]).await;
    if saw != Saw::WhatItShould {
        return saw;
    }
    pair.client.send("xt HTTP/1.1\r\nHost: t\r\n\r\n").await;
    pair.expect(&[b"next"]).await
}

/// Runs the scene that needs the condition, in a worker of this name.
async fn scene(condition: &str, name: &str) -> (Saw, Report) {
    let mut pair = Pair::of(condition, name).await;
    let saw = match condition {
        "in-flight" => answer_under_way(&mut pair).await,
        "body-pending" => body_to_come(&mut pair).await,
        "dirty" => answer_not_flushed(&mut pair).await,
        "sticky" => body_given_up(&mut pair).await,
        "leftover" => half_a_head_read(&mut pair).await,
        other => panic!("{other:?}"),
    };
    drop(pair.client);
    let report = pair.old.drained().await;
    (saw, report)
}

/// What must be caught without hyper's opinion; and with it, where hyper has one.
async fn is_needed(condition: &str, oracle_catches: bool) {
    let (saw, report) = scene(condition, "whole").await;
    assert_eq!(saw, Saw::WhatItShould, "{condition}");
    assert_eq!(report.disagreements, 0, "{condition}");

    let (saw, _) = scene(condition, &format!("{condition}+blind")).await;
    println!("without {condition}: {saw:?}");
    assert!(matches!(saw, Saw::Wrong(_)), "nobody misses {condition}");

    let (saw, report) = scene(condition, condition).await;
    if oracle_catches {
        // hyper knows better; the connection is not passed on, and ends after its answer.
        let right = matches!(saw, Saw::WhatItShould | Saw::Ended);
        assert!(right, "{condition}, and hyper was asked: {saw:?}");
        assert!(report.disagreements > 0, "{condition}: it is counted");
    }
}

#[tokio::test]
async fn a_connection_whose_answer_is_under_way_must_not_leave() {
    is_needed("in-flight", true).await;
}

#[tokio::test]
async fn a_connection_whose_request_has_a_body_to_come_must_not_leave() {
    is_needed("body-pending", true).await;
}

#[tokio::test]
async fn a_connection_whose_answer_is_not_flushed_must_not_leave() {
    is_needed("dirty", true).await;
}

#[tokio::test]
async fn a_connection_that_must_end_must_not_leave() {
    is_needed("sticky", false).await;
}

#[tokio::test]
async fn what_was_read_must_travel_along() {
    is_needed("leftover", false).await;
}
