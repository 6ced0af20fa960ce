//! Requests that a hosted application did not answer, as its front counts them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::machine::link::Unanswered;

/// By what their clients got instead.
#[derive(Debug, Default)]
pub struct Tally {
    /// 502
    pub no_answer: AtomicU64,
    /// 503
    pub no_connection: AtomicU64,
    /// 504
    pub timed_out: AtomicU64,
    /// An answer that is not whole.
    pub broken_off: AtomicU64,
}

impl Tally {
    pub(super) fn now(&self) -> Unanswered {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Unanswered {
            no_answer: get(&self.no_answer),
            no_connection: get(&self.no_connection),
            timed_out: get(&self.timed_out),
            broken_off: get(&self.broken_off),
        }
    }
}
