//! Waiting for what nobody tells us about.

use std::time::{Duration, Instant};

use super::service::SOON;

/// Looks again and again until this is true. Panics when it is not in time.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "waited {SOON:?} for {what}");
        look_again();
    }
}

/// A pause between two looks.
pub fn look_again() {
    std::thread::sleep(Duration::from_millis(2));
}
