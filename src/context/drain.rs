//! A drain as an application sees it: why, until when, and when a stream that takes no part ends.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::work::Work;
use super::{Context, DrainReason};

/// A drain: this worker is told to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    reason: DrainReason,
    since: Instant,
    until: Option<Instant>,
}

impl Drain {
    /// Why.
    #[must_use]
    pub fn reason(&self) -> DrainReason {
        self.reason
    }

    /// When it began.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When what is left then is cut; `None`: no limit (`[drain] timeout = "0s"`). A later stop may
    /// bring it nearer: [`Context::drain`] knows.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// How much time is left.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let now = now();
        self.until.map(|until| until.saturating_duration_since(now))
    }
}

/// Of the runtime's clock, which a test may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// For a task that was woken to get its turn, on a busy machine. Less than what a worker has over its limit
/// before its master kills it.
const POLLED: Duration = Duration::from_millis(500);

/// The drain of a worker, once there is one.
#[derive(Debug)]
pub(super) struct Watched {
    drain: watch::Sender<Option<Drain>>,
    /// Streams that asked when to end.
    streams: AtomicU32,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            drain: watch::Sender::new(None),
            streams: AtomicU32::new(0),
        }
    }
}

impl Watched {
    pub(super) fn now(&self) -> Option<Drain> {
        *self.drain.borrow()
    }

    pub(super) async fn begun(&self) -> Drain {
        let mut changes = self.drain.subscribe();
        loop {
            let drain = *changes.borrow_and_update();
            if let Some(drain) = drain {
                return drain;
            }
            // It cannot fail, the sender is borrowed.
            let _ = changes.changed().await;
        }
    }

    /// A drain in a drain can only end sooner.
    pub(super) fn begin(&self, reason: DrainReason, limit: Option<Duration>) {
        let now = now();
        let until = limit.map(|limit| now + limit);
        self.drain.send_modify(|drain| match drain {
            None => {
                *drain = Some(Drain {
                    reason,
                    since: now,
                    until,
                });
            }
            Some(drain) => {
                drain.until = [drain.until, until].into_iter().flatten().min();
            }
        });
    }

    /// Waits for those who wait for it: each has a receiver until it has been polled. One that nobody polls
    /// any more is not waited for.
    pub(super) async fn heard(&self) {
        let _ = timeout(POLLED, self.drain.closed()).await;
    }

    /// Waits until this part of the drain's time has passed, wherever its end moves. The last part
    /// belongs to the hooks.
    async fn part_passed(&self, work: Option<&Work>, part: f64) {
        let mut changes = self.drain.subscribe();
        loop {
            let drain = *changes.borrow_and_update();
            let at = drain.and_then(|drain| {
                let whole = drain.until?.saturating_duration_since(drain.since);
                let kept = work.map_or(Duration::ZERO, |work| work.kept(whole));
                Some(drain.since + whole.saturating_sub(kept).mul_f64(part))
            });
            let comes = async {
                match at {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = comes => return,
                Ok(()) = changes.changed() => {}
            }
        }
    }

    /// Waits until the time is up for everything but the hooks.
    pub(super) async fn passed(&self, work: &Work) {
        self.part_passed(Some(work), 1.0).await;
    }

    /// The next stream's part of the time: they end one after the other, evenly. What takes part
    /// ends by itself in the first tenth; the last tenth is for what goes wrong.
    fn next_part(&self) -> f64 {
        // Multiples of the golden ratio, without their whole parts, are spread evenly however many
        // there are.
        let number = f64::from(self.streams.fetch_add(1, Ordering::Relaxed));
        0.1 + 0.8 * (number * 0.618_033_988_749_895).fract()
    }
}

/// When a stream that takes no part in a drain is to end: some time after it has begun, each one at
/// another time, so that not all their clients come back at once.
pub(crate) struct Ending(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Ending {
    pub(super) fn new(context: Context) -> Self {
        Self(Some(Box::pin(async move {
            let worker = &context.0.worker;
            worker.drain.begun().await;
            let part = worker.drain.next_part();
            worker.drain.part_passed(Some(&worker.work), part).await;
        })))
    }

    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self(Some(Box::pin(std::future::pending())))
    }

    /// Whether its time has come.
    pub(crate) fn poll(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if let Some(due) = &mut self.0 {
            std::task::ready!(due.as_mut().poll(cx));
            self.0 = None;
        }
        Poll::Ready(())
    }
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ending").field(&self.0.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn the_ends_of_streams_are_spread_evenly_over_the_middle() {
        let watched = Watched::default();
        let mut parts: Vec<f64> = (0..100).map(|_| watched.next_part()).collect();
        parts.sort_by(f64::total_cmp);
        assert!(parts[0] >= 0.1 && parts[99] <= 0.9);
        let widest = parts.windows(2).map(|two| two[1] - two[0]);
        assert!(widest.fold(0.0, f64::max) < 0.02);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_drain_hears_of_it_before_the_end() {
        let watched = Arc::new(Watched::default());
        let heard = Arc::new(AtomicBool::new(false));
        let (other, said) = (Arc::clone(&watched), Arc::clone(&heard));
        tokio::spawn(async move {
            other.begun().await;
            said.store(true, Ordering::Relaxed);
        });
        tokio::task::yield_now().await;
        watched.begin(DrainReason::Stop, None);
        watched.heard().await;
        assert!(heard.load(Ordering::Relaxed));
        // One that is never polled again holds nobody up for long.
        let other = Watched::default();
        let mut forgotten = Box::pin(other.begun());
        let at_once = timeout(Duration::ZERO, &mut forgotten).await;
        assert!(at_once.is_err());
        other.begin(DrainReason::Stop, None);
        other.heard().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_in_a_drain_can_only_end_sooner() {
        let watched = Watched::default();
        let seconds = |n| Some(Duration::from_secs(n));
        watched.begin(DrainReason::Upgrade, None);
        assert_eq!(watched.now().unwrap().until(), None);
        watched.begin(DrainReason::Stop, seconds(8));
        let until = watched.now().unwrap().until();
        watched.begin(DrainReason::Stop, seconds(600));
        let drain = watched.now().unwrap();
        assert_eq!(drain.until(), until);
        assert_eq!(drain.reason(), DrainReason::Upgrade);
    }
}
