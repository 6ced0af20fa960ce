//! What a drain waits for besides connections: work in the background, and what is to be done last.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::drain::Drain;

/// The work of one worker.
#[derive(Default)]
pub(super) struct Work {
    running: Arc<Running>,
    hooks: Mutex<Vec<(Duration, Hook)>>,
}

pub(super) type Hook =
    Box<dyn FnOnce(Drain) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + 'static>;

#[derive(Debug, Default)]
struct Running {
    count: AtomicUsize,
    ended: Notify,
}

/// One of them; gone when it ends, panics or is dropped with its runtime.
struct One(Arc<Running>);

impl Drop for One {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}

impl Work {
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.running.count.fetch_add(1, Ordering::AcqRel);
        let one = One(Arc::clone(&self.running));
        // Behind a pointer: what runs it is compiled once then.
        let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            let _one = one;
            work.await;
        });
        tokio::spawn(work);
    }

    pub(super) fn left(&self) -> usize {
        self.running.count.load(Ordering::Acquire)
    }

    pub(super) async fn done(&self) {
        loop {
            let mut ended = std::pin::pin!(self.running.ended.notified());
            ended.as_mut().enable();
            if self.left() == 0 {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn at_the_end(&self, limit: Duration, hook: Hook) {
        self.lock().push((limit, hook));
    }

    /// So much of a drain's time is the hooks'.
    pub(super) fn kept(&self, whole: Duration) -> Duration {
        let longest = self.lock().iter().map(|(limit, _)| *limit).max();
        longest.unwrap_or_default().min(whole / 2)
    }

    pub(super) async fn run_hooks(&self, drain: Drain) {
        let hooks = std::mem::take(&mut *self.lock());
        let mut running = JoinSet::new();
        for (limit, hook) in hooks {
            // What is kept for all of them is all there is.
            let limit = drain.left().map_or(limit, |left| limit.min(left));
            running.spawn(async move { timeout(limit, hook(drain)).await.map_err(|_| limit) });
        }
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(limit)) => tracing::error!(
                    "what was to be done at the end of the drain was not done within {}: it is cut",
                    humantime::format_duration(limit)
                ),
                Err(e) => {
                    tracing::error!("what was to be done at the end of the drain failed: {e}");
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Duration, Hook)>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("running", &self.left())
            .field("hooks", &self.lock().len())
            .finish()
    }
}
