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
use crate::worker::SilentInstances;

/// All instances of the application.
pub(super) struct Pool {
    instances: Vec<Arc<Instance>>,
    /// The others are asked first, as long as they are.
    silent: Arc<SilentInstances>,
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
    /// Until then the others are asked first: it did not answer in time, and has answered nobody since.
    avoided: Mutex<Option<Instant>>,
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

/// How long an instance that did not answer in time is asked last. One request tries it then.
const AVOIDED: Duration = Duration::from_secs(10);

impl Pool {
    pub(super) fn new(
        upstreams: &[Upstream],
        idle_timeout: Duration,
        silent: Arc<SilentInstances>,
    ) -> Self {
        let instance = |upstream: &Upstream| {
            Arc::new(Instance {
                upstream: upstream.clone(),
                busy: AtomicUsize::new(0),
                idle: Mutex::default(),
                idle_timeout,
                avoided: Mutex::default(),
            })
        };
        Self {
            instances: upstreams.iter().map(instance).collect(),
            silent,
            turn: AtomicUsize::new(0),
        }
    }

    /// A connection to the instance with the fewest requests that takes one. Only a new one when
    /// `fresh`. The error is the last instance's.
    pub(super) async fn connect(&self, fresh: bool) -> io::Result<(Link, Turn)> {
        let mut failed = io::Error::other("the application has no instance");
        let now = Instant::now();
        for instance in self.in_order(now) {
            let turn = instance.enter(now);
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

    /// Those with the fewest requests first; those that do not answer last.
    fn in_order(&self, now: Instant) -> Vec<&Arc<Instance>> {
        let count = self.instances.len();
        if count == 1 {
            return self.instances.iter().collect();
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut all: Vec<_> = (0..count)
            .map(|n| &self.instances[first.wrapping_add(n) % count])
            .collect();
        all.sort_by_key(|instance| {
            let avoided = instance.avoided().is_some_and(|until| now < until);
            let silent = self.silent.has(&instance.upstream);
            (silent, avoided, instance.busy.load(Ordering::Relaxed))
        });
        all
    }
}

impl Instance {
    fn enter(self: &Arc<Self>, now: Instant) -> Turn {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let mut avoided = self.avoided();
        if avoided.is_some_and(|until| until <= now) {
            // This one tries it; the others wait for what comes of it.
            *avoided = Some(now + AVOIDED);
        }
        drop(avoided);
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

    fn avoided(&self) -> MutexGuard<'_, Option<Instant>> {
        self.avoided.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether an answer came in time.
    pub(super) fn is_answered(&self, in_time: bool) {
        *self.0.avoided() = (!in_time).then(|| Instant::now() + AVOIDED);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_which_its_supervisor_gets_no_answer_is_not_tried_while_there_are_others() {
        let upstreams = ["0", "1"].map(|path| Upstream::Unix(path.into()));
        let silent = Arc::<SilentInstances>::default();
        let pool = Pool::new(&upstreams, Duration::ZERO, Arc::clone(&silent));
        let now = Instant::now();
        let asked = || [0; 20].map(|_| pool.in_order(now)[0].upstream == upstreams[0]);
        silent.tell(vec![upstreams[0].clone()]);
        assert!(!asked().contains(&true));
        // Of two alike one is as good as the other.
        for all in [&upstreams[..], &[]] {
            silent.tell(all.to_vec());
            assert!(asked().contains(&true) && asked().contains(&false));
        }
    }

    #[test]
    fn one_that_does_not_answer_is_tried_once_in_a_while() {
        let upstreams = ["0", "1"].map(|path| Upstream::Unix(path.into()));
        let pool = Pool::new(&upstreams, Duration::ZERO, Arc::default());
        let mut now = Instant::now();
        let asked = |now: Instant| {
            let first = Arc::clone(pool.in_order(now)[0]);
            let turn = first.enter(now);
            let hangs = first.upstream == upstreams[0];
            turn.is_answered(true);
            if hangs {
                *first.avoided() = Some(now + AVOIDED);
            }
            hangs
        };
        let hits = |now: Instant| (0..20).filter(|_| asked(now)).count();
        assert_eq!(hits(now), 1);
        for _ in 0..3 {
            now += AVOIDED;
            assert_eq!(hits(now), 1);
        }
    }
}
