//! A release that misbehaves, for `tests/bad_releases.rs`. What it does wrong stands in the file
//! `behaviour` above the directory it was installed in: one word, so that one build of it serves
//! every test. Without that file it is a good release.
//!
//! It is a program of its own on purpose: the running generation must get along with anything
//! that is put in its place, not only with what is made from the same source.

#![expect(
    clippy::disallowed_methods,
    reason = "a bad release does what a good one may not"
)]

use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use handover::machine::message::{Hello, Message, PROTOCOL, Protocol};
use handover::sys::inherited::{Role, inherit};
use handover::{BoxError, Context, Service};
use rustix::net::{SendFlags, Shutdown};

/// What is run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Preflight,
    Successor,
    Worker,
    Other,
}

fn main() -> ExitCode {
    let behaviour = behaviour();
    let part = part();
    eprintln!("bad release: {part:?}, {behaviour:?}");
    match (behaviour.as_str(), part) {
        ("exits 0", _) => ExitCode::SUCCESS,
        ("exits 3", _) | ("exits 3 as master", Part::Successor) => ExitCode::from(3),
        ("complains", Part::Preflight) => {
            let lines = (1..=2000).fold(String::new(), |mut text, n| {
                let _ = writeln!(text, "complaint {n}");
                text
            });
            eprintln!("{lines}the real reason is here");
            ExitCode::from(9)
        }
        ("bad configuration", Part::Preflight) => {
            eprintln!("/etc/bad.toml:7: this release wants another configuration");
            ExitCode::from(78)
        }
        ("segfaults", _) => {
            // As a real one would: a signal that kills, with the default disposition.
            // (The first one only ends Rust's own handler, which looks for a stack overflow.)
            let me = rustix::process::getpid();
            loop {
                let _ = rustix::process::kill_process(me, rustix::process::Signal::SEGV);
            }
        }
        ("is cut", Part::Preflight) => {
            // As one of whose pages the kernel can read none.
            let me = rustix::process::getpid();
            loop {
                let _ = rustix::process::kill_process(me, rustix::process::Signal::BUS);
            }
        }
        ("hangs at pre-flight", Part::Preflight) => hang(),
        (_, Part::Successor) => successor(&behaviour),
        _ => good(),
    }
}

/// The worker parts of misbehaviour are in the application; the masters' are here.
fn successor(behaviour: &str) -> ExitCode {
    let answers = |major: u16| {
        Message::Hello(Hello {
            protocol: Protocol { major, minor: 0 },
            version: "bad".into(),
            build_id: "0123".into(),
            pid: std::process::id(),
        })
    };
    match behaviour {
        "hangs before hello" => hang(),
        "hangs after hello" => {
            let channel = channel();
            say(&channel, &answers(PROTOCOL.major));
            hang()
        }
        "is deaf" => {
            let channel = channel();
            let all = nix::sys::signal::SigSet::all();
            all.thread_block().expect("blocked");
            say(&channel, &answers(PROTOCOL.major));
            hang()
        }
        "speaks a newer protocol" => {
            let channel = channel();
            say(&channel, &answers(PROTOCOL.major + 1));
            hang()
        }
        "talks rubbish" => {
            let channel = channel();
            let _ = rustix::net::send(&channel, b"\xff\xfenot json", SendFlags::NOSIGNAL);
            hang()
        }
        "floods" => {
            let channel = channel();
            say(&channel, &answers(PROTOCOL.major));
            loop {
                say(&channel, &Message::Heartbeat);
            }
        }
        "floods unknown" => {
            let channel = channel();
            loop {
                let _ = rustix::net::send(
                    &channel,
                    br#"{"type":"something new"}"#,
                    SendFlags::NOSIGNAL,
                );
            }
        }
        "closes the channel" => {
            let channel = channel();
            say(&channel, &answers(PROTOCOL.major));
            let _ = rustix::net::shutdown(&channel, Shutdown::Both);
            hang()
        }
        _ => good(),
    }
}

/// The library, with an application that may misbehave in its workers.
fn good() -> ExitCode {
    Service::new("handover")
        .version("bad")
        .worker_per_core()
        .every_listener("http", "127.0.0.1:8080", application)
        .run()
}

async fn application(_: Context) -> Result<Router, BoxError> {
    match behaviour().as_str() {
        "workers crash at start" => std::process::abort(),
        "workers exit at start" => std::process::exit(4),
        "workers cannot start" => return Err("the database is not there".into()),
        "workers are never ready" => std::future::pending().await,
        "workers die later" => {
            // Long enough to be ready and to take over, short enough to fail in probation.
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(400));
                std::process::abort();
            });
        }
        _ => {}
    }
    Ok(Router::new().route("/", get(async || ([("server", "handover/bad")], "bad\n"))))
}

/// The channel to the predecessor.
fn channel() -> OwnedFd {
    match inherit().expect("an inheritance").role {
        Role::Successor(channel) => channel,
        other => panic!("{other:?}"),
    }
}

fn say(channel: impl AsFd, message: &Message) {
    let bytes = serde_json::to_vec(message).expect("plain data");
    // Blocks while the buffer is full; a peer that has gone is no concern of a bad release.
    let _ = rustix::net::send(channel, &bytes, SendFlags::NOSIGNAL);
}

fn hang() -> ExitCode {
    loop {
        std::thread::park();
    }
}

fn part() -> Part {
    let is = |name: &str| std::env::var_os(name).is_some();
    if is("HANDOVER_CHANNEL") {
        Part::Successor
    } else if is("HANDOVER_WORKER") {
        Part::Worker
    } else if std::env::args().nth(1).as_deref() == Some("check") {
        Part::Preflight
    } else {
        Part::Other
    }
}

fn behaviour() -> String {
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let dir = program.parent().and_then(|bin| bin.parent());
    dir.map(|dir: &std::path::Path| PathBuf::from(dir).join("behaviour"))
        .and_then(|file| std::fs::read_to_string(file).ok())
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}
