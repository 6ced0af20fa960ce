//! How fast connections leave a worker: flat out when nothing else is asked of it, half the time
//! once a request has come during the drain, so that those who wait for an answer do not notice.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::connections::Connections;

/// Work in one go. (The runtime's timer counts in milliseconds: shorter rests are not to be had.)
const SPELL: Duration = Duration::from_micros(200);

/// Waiting for a receiver is no work.
const MOST: Duration = Duration::from_millis(3);

/// The pace of one drain.
#[derive(Debug)]
pub(super) struct Pace {
    /// Requests that the worker had served before.
    requests: u64,
    since: Instant,
}

impl Pace {
    pub(super) fn begin(connections: &Connections) -> Self {
        Self {
            requests: requests(connections),
            since: Instant::now(),
        }
    }

    /// Between two steps: after a spell of work, rests as long if anybody asks for anything.
    pub(super) async fn rest(&mut self, connections: &Connections) {
        let worked = self.since.elapsed();
        if worked < SPELL {
            return;
        }
        if requests(connections) != self.requests {
            sleep(worked.min(MOST)).await;
        }
        self.since = Instant::now();
    }
}

fn requests(connections: &Connections) -> u64 {
    connections.figures.requests.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rests_as_long_as_it_worked_once_somebody_asks_for_something() {
        let connections = Connections::new(None, 8);
        let mut pace = Pace::begin(&connections);
        let work = Duration::from_millis(2);
        let mut took = async |work: Duration| {
            let began = Instant::now();
            tokio::time::advance(work).await;
            pace.rest(&connections).await;
            began.elapsed()
        };
        // The timer rounds up to a millisecond.
        let tick = Duration::from_millis(1);
        let about = |time: Duration| time..=time + tick;
        assert_eq!(took(work).await, work, "nobody asks");
        connections.figures.requests.fetch_add(1, Ordering::Relaxed);
        for _ in 0..3 {
            assert!(about(2 * work).contains(&took(work).await), "from then on");
        }
        assert_eq!(took(SPELL / 2).await, SPELL / 2, "not worth a rest");
        let long = Duration::from_secs(2);
        assert!(about(long + MOST).contains(&took(long).await));
    }
}
