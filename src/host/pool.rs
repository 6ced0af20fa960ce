//! Connections to the application: dealt evenly over its instances, kept for a moment when their
//! answer is through.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::bodies::Upload;
use super::stream::Stream;
use crate::config::Upstream;

/// All instances of the application.
#[derive(Debug)]
pub(super) struct Pool {
    instances: Vec<Arc<Instance>>,
    /// Where the next search begins, so that equals take turns.
    turn: AtomicUsize,
}

/// One process of the application, as its clients see it.
#[derive(Debug)]
pub(super) struct Instance {
    upstream: Upstream,
    /// Requests that it has now.
    busy: AtomicUsize,
    idle: Mutex<IdleLinks>,
    idle_timeout: Duration,
}

#[derive(Debug, Default)]
struct IdleLinks {
    links: Vec<Idle>,
    /// A task looks for those that are too old.
    watched: bool,
}

#[derive(Debug)]
struct Idle {
    link: Link,
    since: Instant,
}

/// A connection to the application. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) sender: SendRequest<Upload>,
    driver: AbortHandle,
    /// How often it has answered.
    requests: u32,
    /// Bytes that the other side never read are an error of the next call on a Unix socket, and on
    /// no other one.
    pub(super) tells_unread: bool,
}

/// A request is with an instance as long as this exists.
#[derive(Debug)]
pub(super) struct Turn(Arc<Instance>);

/// More connections without a request are not kept, for each instance.
const IDLE_MOST: usize = 64;

/// After so many requests a connection is closed: programs with a thread a connection (puma) accept
/// nobody else while their threads have connections that are busy.
const REQUESTS_MOST: u32 = 100;

/// What hyper may hold of an answer that its reader does not take.
const BUFFER_MAX: usize = 64 * 1024;

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
            if let Some(link) = (!fresh).then(|| instance.take_idle()).flatten() {
                return Ok((link, turn));
            }
            match instance.open().await {
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

    async fn open(&self) -> io::Result<Link> {
        let stream = match &self.upstream {
            Upstream::Unix(path) => Stream::unix(UnixStream::connect(path).await?),
            Upstream::Port(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await?;
                stream.set_nodelay(true)?;
                Stream::tcp(stream)
            }
        };
        let tells_unread = matches!(self.upstream, Upstream::Unix(_));
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let driver = tokio::spawn(connection.with_upgrades());
        Ok(Link {
            sender,
            driver: driver.abort_handle(),
            requests: 0,
            tells_unread,
        })
    }

    /// The one that was used last: the others may get old and end.
    fn take_idle(&self) -> Option<Link> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut idle = self.idle();
        while let Some(Idle { mut link, since }) = idle.links.pop() {
            let young = since.elapsed() < self.idle_timeout;
            if young && matches!(link.sender.poll_ready(&mut cx), Poll::Ready(Ok(()))) {
                return Some(link);
            }
        }
        None
    }

    fn put_idle(self: &Arc<Self>, mut link: Link) {
        link.requests += 1;
        let enough = link.requests >= REQUESTS_MOST;
        if enough || self.idle_timeout.is_zero() || link.sender.is_closed() {
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

impl Link {
    /// It has answered before.
    pub(super) fn was_used(&self) -> bool {
        self.requests > 0
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
