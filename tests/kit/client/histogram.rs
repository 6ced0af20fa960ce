//! Latencies in buckets of 1.6 % width, so that a long load stays small.

use std::time::Duration;

/// Microseconds, log-linear.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

const EXACT: u64 = 128;
const SUB: u64 = 64;

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let index = index_of(micros);
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] += 1;
        self.count += 1;
        self.max = self.max.max(micros);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }

    /// The latency that `percent` of all did not exceed; zero when there is none.
    pub fn percentile(&self, percent: f64) -> Duration {
        let wanted = ((percent / 100.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return Duration::from_micros(highest_of(index).min(self.max));
            }
        }
        self.max()
    }
}

fn index_of(micros: u64) -> usize {
    if micros < EXACT {
        return micros as usize;
    }
    let exponent = u64::from(micros.ilog2());
    (EXACT + (exponent - 7) * SUB + ((micros >> (exponent - 6)) - SUB)) as usize
}

fn highest_of(index: usize) -> u64 {
    let index = index as u64;
    if index < EXACT {
        return index;
    }
    let exponent = (index - EXACT) / SUB + 7;
    let sub = (index - EXACT) % SUB + SUB;
    ((sub + 1) << (exponent - 6)) - 1
}
