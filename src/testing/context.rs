//! A context without a worker, for tests of handlers and of what a drain waits for.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Config;
use crate::context::{Context, DrainReason, Peer};

/// Makes a [`Context`] and plays the worker behind it.
///
/// ```
/// use std::time::Duration;
/// use handover::{DrainReason, testing::TestContext};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let test = TestContext::new(7);
/// let cx = test.context();
/// assert_eq!(cx.generation(), 7);
/// cx.spawn(async { /* ... */ });
/// test.drain(DrainReason::Upgrade, Some(Duration::from_secs(10)));
/// assert_eq!(cx.draining().await.reason(), DrainReason::Upgrade);
/// test.finish().await;
/// # }
/// ```
///
/// A handler gets it as an extension: `app.layer(axum::Extension(test.request("http", peer)))`.
#[derive(Debug)]
pub struct TestContext(Context);

impl TestContext {
    /// Of a worker of this generation of a service `test`, with the settings of an empty file.
    #[must_use]
    pub fn new(generation: u64) -> Self {
        let (name, version) = ("test".into(), "0.0.0".into());
        Self(Context::new(
            name,
            version,
            generation,
            Config::default(),
            Vec::new(),
        ))
    }

    /// As the function that makes the application gets it.
    #[must_use]
    pub fn context(&self) -> Context {
        self.0.clone()
    }

    /// What [`Context::config`] and [`Context::arguments`] give.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(self, own: T) -> Self {
        let own = std::sync::Arc::new(own);
        self.0.keep(|| own);
        self
    }

    /// As a handler gets it.
    #[must_use]
    pub fn request(&self, listener: &str, peer: SocketAddr) -> Context {
        self.0.at(listener, Peer::Tcp(peer))
    }

    /// The drain begins; later calls can only shorten it.
    pub fn drain(&self, reason: DrainReason, limit: Option<Duration>) {
        self.0.begin_drain(reason, limit);
    }

    /// The end of a drain that has no more connections: waits for what was spawned, or until its
    /// time is up, then does what was to be done last. Returns how much that was spawned was not
    /// done.
    pub async fn finish(self) -> usize {
        tokio::select! {
            () = self.0.work_done() => {}
            () = self.0.connections_overdue() => {}
        }
        let left = self.0.work_left();
        self.0.run_hooks().await;
        left
    }
}
