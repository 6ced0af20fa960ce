//! How fast connections leave a worker: flat out when nothing else is asked of it; a few at a time
//! with rests in between once a request has come during the drain, so that those who wait for an
//! answer hardly notice. (`cargo bench --bench drain` has both.)

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::frame::BATCH;
use crate::worker::connections::Connections;

/// So many in one go while others wait for answers, on whichever side: a receiver takes them in one
/// go, too.
const FEW: usize = 8;

/// As short as the runtime's timer can: it counts in milliseconds.
const REST: Duration = Duration::from_micros(1);

/// The pace of one drain.
#[derive(Debug)]
pub(super) struct Pace {
    /// Requests that the worker had served before.
    requests: u64,
}

impl Pace {
    pub(super) fn begin(connections: &Connections) -> Self {
        Self {
            requests: requests(connections),
        }
    }

    /// How many connections leave in the next step.
    pub(super) fn step(&self, connections: &Connections) -> usize {
        if self.is_disturbed(connections) {
            FEW
        } else {
            BATCH
        }
    }

    /// Between two steps.
    pub(super) async fn rest(&self, connections: &Connections) {
        if self.is_disturbed(connections) {
            sleep(REST).await;
        }
    }

    fn is_disturbed(&self, connections: &Connections) -> bool {
        requests(connections) != self.requests
    }
}

fn requests(connections: &Connections) -> u64 {
    connections.figures.requests.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::worker::rooms::Rooms;

    #[tokio::test(start_paused = true)]
    async fn it_slows_down_once_somebody_asks_for_something() {
        let connections = Connections::new(None, 8, Rooms::new(8, 8));
        connections.figures.requests.store(5, Ordering::Relaxed);
        let pace = Pace::begin(&connections);
        let began = Instant::now();
        assert_eq!(pace.step(&connections), BATCH);
        pace.rest(&connections).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody asks");
        connections.figures.requests.fetch_add(1, Ordering::Relaxed);
        assert_eq!(pace.step(&connections), FEW);
        pace.rest(&connections).await;
        assert!(began.elapsed() >= Duration::from_millis(1), "from then on");
    }
}
