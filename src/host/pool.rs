//! Connections to the application: dealt evenly over its instances, kept for a moment when their
//! answer is through.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::link::Link;
use crate::config::Upstream;

/// All instances of the application.
pub(super) struct Pool {
    instances: Vec<Arc<Instance>>,
    /// Where the next search begins, so that equals take turns.
    turn: AtomicUsize,
}

/// One process of the application, as its clients see it.
pub(super) struct Instance {
    upstream: Upstream,
    /// Requests that it has now.
    busy: AtomicUsize,
    idle: Mutex<IdleLinks>,
    idle_timeout: Duration,
}

#[derive(Default)]
struct IdleLinks {
    links: Vec<Idle>,
    /// A task looks for those that are too old.
    watched: bool,
}

struct Idle {
    link: Link,
    since: Instant,
}

/// A request is with an instance as long as this exists.
pub(super) struct Turn(Arc<Instance>);

/// More connections without a request are not kept, for each instance. What a busy moment needed is kept
/// for the next one; what is not, gets old.
const IDLE_MOST: usize = 512;

/// After so many requests a connection is closed: programs with a thread a connection (puma) accept
/// nobody else while their threads have connections that are busy.
const REQUESTS_MOST: u32 = 100;

impl Pool {
    pub(super) fn new(upstreams: &[Upstream], idle_timeout: Duration) -> Self {
        let instance = |upstream: &Upstream| {
            Arc::new(Instance {
                upstream: upstream.clone(),
                busy: AtomicUsize::new(0),
                idle: Mutex::default(),
                idle_timeout,
            })
        };
        Self {
            instances: upstreams.iter().map(instance).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// A connection to the instance with the fewest requests that takes one. Only a new one when
    /// `fresh`. The error is the last instance's.
    pub(super) async fn connect(&self, fresh: bool) -> io::Result<(Link, Turn)> {
        let mut failed = io::Error::other("the application has no instance");
        for instance in self.by_load() {
            let turn = instance.enter();
            let kept =
                poll_fn(|cx| Poll::Ready((!fresh).then(|| instance.take_idle(cx)).flatten()));
            if let Some(link) = kept.await {
                return Ok((link, turn));
            }
            match Link::open(&instance.upstream).await {
                Ok(link) => return Ok((link, turn)),
                Err(e) => {
                    let at = &instance.upstream;
                    failed = io::Error::new(e.kind(), format!("{at}: {e}"));
                }
            }
        }
        Err(failed)
    }

    fn by_load(&self) -> Vec<&Arc<Instance>> {
        let count = self.instances.len();
        if count == 1 {
            return self.instances.iter().collect();
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut all: Vec<_> = (0..count)
            .map(|n| &self.instances[first.wrapping_add(n) % count])
            .collect();
        all.sort_by_key(|instance| instance.busy.load(Ordering::Relaxed));
        all
    }
}

impl Instance {
    fn enter(self: &Arc<Self>) -> Turn {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Turn(Arc::clone(self))
    }

    /// The one that was used last: the others may get old and end.
    fn take_idle(&self, cx: &mut Context<'_>) -> Option<Link> {
        let mut idle = self.idle();
        while let Some(Idle { mut link, since }) = idle.links.pop() {
            if since.elapsed() < self.idle_timeout && link.is_untouched(cx) {
                return Some(link);
            }
        }
        None
    }

    fn put_idle(self: &Arc<Self>, mut link: Link) {
        let enough = link.requests() >= REQUESTS_MOST || self.idle_timeout.is_zero();
        if enough || !link.is_ready(&mut Context::from_waker(Waker::noop())) {
            return;
        }
        let since = Instant::now();
        let mut idle = self.idle();
        if idle.links.len() < IDLE_MOST {
            idle.links.push(Idle { link, since });
        }
        if !std::mem::replace(&mut idle.watched, true) {
            tokio::spawn(Arc::clone(self).let_idle_go());
        }
    }

    /// Until none is left that nobody wants.
    async fn let_idle_go(self: Arc<Self>) {
        loop {
            sleep(self.idle_timeout).await;
            let mut idle = self.idle();
            let limit = self.idle_timeout;
            idle.links.retain(|one| one.since.elapsed() < limit);
            if idle.links.is_empty() {
                idle.watched = false;
                return;
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, IdleLinks> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Where its instance listens.
    pub(super) fn upstream(&self) -> &Upstream {
        &self.0.upstream
    }

    /// The answer is through: the connection may serve another request.
    pub(super) fn give_back(&self, link: Link) {
        self.0.put_idle(link);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
