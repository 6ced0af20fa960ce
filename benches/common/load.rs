//! The strict client's figures, summed over phases of one kind.

use crate::kit::client::{Counts, Histogram, Kind, Report};

/// Latencies of all phases whose name begins so.
pub fn latency(report: &Report, name: &str) -> Histogram {
    let mut sum = Histogram::default();
    for (phase, _, counts) in &report.phases {
        if phase.starts_with(name) {
            sum.merge(&counts.latency);
        }
    }
    sum
}

/// Requests that got no answer, or a wrong one.
pub fn failed_requests(counts: &Counts) -> u64 {
    counts.failures() - counts.count(Kind::DroppedIdle)
}
