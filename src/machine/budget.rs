//! When to start a worker again that has died, and when to give up.

use std::time::{Duration, Instant};

/// A budget of failures in a sliding window, and the pause before the next start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Budget {
    allowed: usize,
    window: Duration,
    failures: Vec<Instant>,
}

impl Budget {
    /// So many failures within the window are forgiven.
    #[must_use]
    pub fn new(allowed: usize, window: Duration) -> Self {
        Self {
            allowed,
            window,
            failures: Vec::new(),
        }
    }

    /// A worker failed. Returns the pause before its next start, and whether the budget is spent.
    pub fn failed(&mut self, now: Instant) -> (Duration, bool) {
        let window = self.window;
        self.failures
            .retain(|at| now.saturating_duration_since(*at) < window);
        self.failures.push(now);
        let n = self.failures.len();
        // The first death is most likely a single accident: no pause, a request may be waiting.
        let pause = match n {
            0 | 1 => Duration::ZERO,
            _ => (FIRST * (1 << (n - 2).min(8))).min(LONGEST),
        };
        let spent = n > self.allowed;
        if n > 64 {
            self.failures.remove(0);
        }
        (pause, spent)
    }
}

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_the_budget_is_spent_only_by_failures_within_the_window() {
        let start = Instant::now();
        let mut budget = Budget::new(3, Duration::from_secs(10));
        assert_eq!(budget.failed(start), (Duration::ZERO, false));
        assert_eq!(budget.failed(start), (Duration::from_millis(50), false));
        assert_eq!(budget.failed(start), (Duration::from_millis(100), false));
        assert_eq!(budget.failed(start), (Duration::from_millis(200), true));
        let later = start + Duration::from_secs(11);
        assert_eq!(budget.failed(later), (Duration::ZERO, false));
    }
}
