//! What the benches share: the peers that are measured side by side, idle connections by the ten
//! thousand, what a process costs, tables.
#![allow(
    dead_code,
    reason = "each bench uses the part of the common module that it needs"
)]

pub mod holder;
pub mod load;
pub mod peers;
pub mod process;
pub mod table;
pub mod tls;
pub mod wrk;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::kit::build;

/// The versions of the two programs that replace each other.
pub const VERSIONS: [&str; 2] = ["8.0.0-bench", "9.0.0-bench"];

/// Workers of everything that is measured.
pub const WORKERS: usize = 2;

/// For anything ordinary.
pub const SOON: Duration = Duration::from_secs(20);

/// Both programs, as `cargo build --release` makes them.
pub fn releases() -> [PathBuf; 2] {
    VERSIONS.map(build::other_version)
}

/// Whether this is only a try: `cargo test --benches`, or a debug build.
pub fn quick() -> bool {
    std::env::args().any(|arg| arg == "--test") || !release()
}

/// Whether the programs under test are release builds.
pub fn release() -> bool {
    build::own()
        .parent()
        .is_some_and(|dir| dir.ends_with("release"))
}

/// A number from the environment, to measure longer or more.
pub fn setting(name: &str, usual: usize, quick_one: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(if quick() { quick_one } else { usual })
}

/// Whether a peer is asked for: all are, unless `PEERS=nginx,handover` names some.
pub fn wanted(peer: &str) -> bool {
    std::env::var("PEERS").map_or(true, |names| {
        names.split(',').any(|name| peer.starts_with(name))
    })
}

/// Time passes: load is made, or a figure settles.
#[expect(
    clippy::disallowed_methods,
    reason = "a bench measures for a while; what it waits for is in `until`"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits for what must come; panics when it does not.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "waited {SOON:?} for {what}");
        pause(Duration::from_micros(500));
    }
}

/// The middle one.
pub fn median<T: Ord + Copy>(figures: &mut [T]) -> Option<T> {
    figures.sort_unstable();
    figures.get(figures.len() / 2).copied()
}

/// A site: a small page, a large file.
pub fn site() -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("bench-site-")
        .tempdir()
        .expect("a directory");
    let page = format!("<!doctype html>\n<p>{}</p>\n", "small ".repeat(160));
    std::fs::write(dir.path().join("index.html"), page).expect("a page");
    let large: Vec<u8> = (0..LARGE).map(|n| b'a' + (n % 23) as u8).collect();
    std::fs::write(dir.path().join("large.bin"), large).expect("a large file");
    dir
}

/// Bytes of the large file.
pub const LARGE: usize = 10_000_000;
