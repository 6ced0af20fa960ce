//! A hundred upgrades that are rolled back and a hundred that are committed, in a row, under 2,000
//! keep-alive connections, and eight with requests of all kinds: nobody notices, and the last generation
//! holds what the second held. So with HTTP/1.1 and HTTP/2, over TLS and without.
//! `cargo bench --bench endurance`; `ROUNDS=` and `CONNECTIONS=` for other numbers, `ONLY=Http2Tls` for one
//! protocol (`Http1`, `Tls13`, `Tls12`, `Http2`).
//!
//! Unlike the other programs here it fails when the promise is broken.

#[path = "../tests/kit/mod.rs"]
mod kit;

use std::time::Duration;

use kit::build;
use kit::endurance::{Plan, Protocol, run};

fn main() {
    let release = build::own()
        .parent()
        .is_some_and(|dir| dir.ends_with("release"));
    // `cargo test --benches` only wants to know whether it runs.
    let quick = std::env::args().any(|arg| arg == "--test") || !release;
    let number = |name: &str, otherwise| {
        let text = std::env::var(name).ok();
        text.and_then(|n| n.parse().ok()).unwrap_or(otherwise)
    };
    let workbench = build::other_version_of_example("workbench", "9.0.0-endurance");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%MZ");
    let build = if release { "release" } else { "DEBUG" };
    println!("{now}, {cores} cores, {build} builds, 2 workers");
    let only = std::env::var("ONLY").unwrap_or_default();
    for protocol in Protocol::ALL {
        let name = format!("{protocol:?}");
        if !only.is_empty() && only != name {
            continue;
        }
        let plan = Plan {
            rounds: number("ROUNDS", if quick { 1 } else { 100 }),
            connections: number("CONNECTIONS", if quick { 50 } else { 2000 }),
            think: Duration::from_secs(2),
            protocol,
        };
        let figures = run("endurance", workbench.clone(), plan, |round| {
            if round % 10 == 0 {
                eprintln!("{name}: round {round} of {}", plan.rounds);
            }
        });
        print!("\n# {name}\n{figures}");
        figures.assert_nothing_was_left();
    }
}
