//! What an application knows of the process that it runs in: who it is, that it ends, and what its
//! end waits for. A worker makes one [`Context`]; its connections have copies that also know their
//! listener and their client.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{Extensions, StatusCode};
use tokio::sync::watch;

use crate::config::Config;

mod drain;
mod work;

pub use crate::machine::link::DrainReason;
pub use drain::Drain;
pub(crate) use drain::Ending;
use drain::Watched;
use work::Work;

/// What an application may want to know, and what it may want to say about its end.
///
/// The function that makes an application gets one, once in every worker; a handler gets it as an
/// extractor, and then it also knows the request's listener and client. Copies are cheap.
///
/// ```
/// use axum::{Router, routing::{get, post}};
/// use handover::{BoxError, Context};
///
/// async fn app(cx: Context) -> Result<Router, BoxError> {
///     let flush = cx.clone();
///     cx.on_drain(std::time::Duration::from_secs(2), move |drain| async move {
///         println!("g{} ends ({}): pools are closed", flush.generation(), drain.reason());
///     });
///     Ok(Router::new()
///         .route("/", get(async |cx: Context| format!("generation {}\n", cx.generation())))
///         .route("/jobs", post(async |cx: Context| {
///             cx.spawn(async { /* a drain waits for this */ });
///             axum::http::StatusCode::ACCEPTED
///         })))
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    worker: Arc<Shared>,
    listener: Option<String>,
    peer: Option<Peer>,
    hop: Hop,
}

/// The other end of a connection, which may ask for somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Its address; `None`: a Unix socket, or nobody.
    pub(crate) address: Option<IpAddr>,
    /// Whether what it says of others is believed.
    pub(crate) trusted: bool,
}

impl Hop {
    /// Of what came through no connection.
    pub(crate) const NOBODY: Self = Self {
        address: None,
        trusted: false,
    };
}

/// The same for all of a worker.
#[derive(Debug)]
struct Shared {
    name: String,
    version: String,
    generation: u64,
    config: Config,
    /// The command line of its master.
    typed: Vec<OsString>,
    /// Why nobody goes back from this generation.
    irreversible: watch::Sender<Option<String>>,
    drain: Watched,
    work: Work,
    /// What the worker has said, by its type.
    kept: Mutex<Extensions>,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// An address: the client's, also where a trusted proxy has said it. Its port is 0 where only the
    /// fields of a request name it.
    Tcp(SocketAddr),
    /// A process of this host.
    Unix(UnixPeer),
}

/// The process at the other end of a Unix socket. It is also an extension of every request that
/// came through one (TCP has axum's `ConnectInfo<SocketAddr>`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnixPeer {
    /// Its process id, where the kernel knows it.
    pub pid: Option<i32>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Context {
    /// Of a worker.
    pub(crate) fn new(
        name: String,
        version: String,
        generation: u64,
        config: Config,
        typed: Vec<OsString>,
    ) -> Self {
        let worker = Shared {
            name,
            version,
            generation,
            config,
            typed,
            irreversible: watch::Sender::new(None),
            drain: Watched::default(),
            work: Work::default(),
            kept: Mutex::default(),
        };
        Self(Arc::new(Inner {
            worker: Arc::new(worker),
            listener: None,
            peer: None,
            hop: Hop::NOBODY,
        }))
    }

    /// The same for what comes through a listener.
    pub(crate) fn at(&self, listener: &str, peer: Peer) -> Self {
        Self(Arc::new(Inner {
            worker: Arc::clone(&self.0.worker),
            listener: Some(listener.into()),
            peer: Some(peer),
            hop: Hop::NOBODY,
        }))
    }

    /// The same for the requests of a connection with this other end.
    pub(crate) fn through(&self, listener: &str, peer: Peer, hop: Hop) -> Self {
        Self(Arc::new(Inner {
            worker: Arc::clone(&self.0.worker),
            listener: Some(listener.into()),
            peer: Some(peer),
            hop,
        }))
    }

    /// The same for a request that somebody else has made through this client.
    pub(crate) fn from(&self, client: Peer) -> Self {
        Self(Arc::new(Inner {
            worker: Arc::clone(&self.0.worker),
            listener: self.0.listener.clone(),
            peer: Some(client),
            hop: self.0.hop,
        }))
    }

    /// The same for all that comes through a listener.
    pub(crate) fn on(&self, listener: &str) -> Self {
        Self(Arc::new(Inner {
            worker: Arc::clone(&self.0.worker),
            listener: Some(listener.into()),
            peer: None,
            hop: Hop::NOBODY,
        }))
    }

    /// The service's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.worker.name
    }

    /// The program's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.worker.version
    }

    /// The generation of this worker: 1 for the first one, and one more with every upgrade.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.worker.generation
    }

    /// The service's own configuration, as this generation runs with it.
    #[must_use]
    pub fn settings(&self) -> &Config {
        &self.0.worker.config
    }

    /// The program's own part of the configuration, `[application]`, as
    /// [`Service::config`](crate::Service::config) has it.
    ///
    /// # Panics
    /// When the service was not given this type.
    #[must_use]
    pub fn config<T: Send + Sync + 'static>(&self) -> Arc<T> {
        let kept = self.kept::<Arc<T>>();
        kept.expect("the type that Service::config was called with")
    }

    /// The program's own arguments, as [`Service::arguments`](crate::Service::arguments) has them.
    ///
    /// # Panics
    /// When the service was not given this type.
    #[must_use]
    pub fn arguments<A: Send + Sync + 'static>(&self) -> Arc<A> {
        let kept = self.kept::<Arc<A>>();
        kept.expect("the type that Service::arguments was called with")
    }

    /// The command line of its master, without the program.
    pub(crate) fn typed(&self) -> &[OsString] {
        &self.0.worker.typed
    }

    /// The listener that the request came through; `None` outside of requests.
    #[must_use]
    pub fn listener(&self) -> Option<&str> {
        self.0.listener.as_deref()
    }

    /// Who sent the request; `None` outside of requests.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        self.0.peer
    }

    /// The other end of the connection that a request came through.
    pub(crate) fn hop(&self) -> Hop {
        self.0.hop
    }

    /// Waits until this worker is told to leave. For ever, if it never is.
    ///
    /// From then on it accepts nothing new; requests and connections that are there go on, and so
    /// does what [`spawn`](Self::spawn) has started, until [`Drain::until`].
    pub fn draining(&self) -> impl Future<Output = Drain> + Send + use<> {
        let worker = Arc::clone(&self.0.worker);
        async move { worker.drain.begun().await }
    }

    /// The drain under way.
    #[must_use]
    pub fn drain(&self) -> Option<Drain> {
        self.0.worker.drain.now()
    }

    /// Runs `work` in the background. A drain waits for it, until [`Drain::until`]; what is not done
    /// by then is ended, and the log says how many there were. What `tokio::spawn` runs is not
    /// waited for.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn spawn<F>(&self, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.worker.work.spawn(work);
    }

    /// What to do last: when the last connection of this worker has ended and what
    /// [`spawn`](Self::spawn) has started is done, or when their time is up. Here pools are closed
    /// and buffers written.
    ///
    /// It may take `limit`; that much of the time of a drain (half of it at most) is kept for it.
    /// All of them run at the same time. A worker that is killed, or whose machine loses its power,
    /// does none of this.
    pub fn on_drain<H, F>(&self, limit: Duration, hook: H)
    where
        H: FnOnce(Drain) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let hook = Box::new(move |drain| Box::pin(hook(drain)) as _);
        self.0.worker.work.at_the_end(limit, hook);
    }

    /// What this generation has done cannot be undone: from now on a `rollback` from it is refused
    /// with this reason, such as "schema 42". The place to say so is
    /// [`Service::prepare`](crate::Service::prepare), every time: a service that is started anew knows
    /// nothing of it.
    ///
    /// Orders are refused. A generation that fails by itself in its probation is still taken back,
    /// since it serves nobody; and nginx's signals do what they say.
    pub fn irreversible(&self, reason: impl Into<String>) {
        self.0.worker.irreversible.send_replace(Some(reason.into()));
    }

    /// What was said so.
    pub(crate) fn irreversibles(&self) -> watch::Receiver<Option<String>> {
        let mut said = self.0.worker.irreversible.subscribe();
        // What was said before is new, too.
        said.mark_changed();
        said
    }

    /// Something that the parts of a worker find here; the first of its type is made by `first`.
    pub(crate) fn keep<T>(&self, first: impl FnOnce() -> T) -> T
    where
        T: Clone + Send + Sync + 'static,
    {
        let kept = self.0.worker.kept.lock();
        let mut kept = kept.unwrap_or_else(PoisonError::into_inner);
        kept.get_or_insert_with(first).clone()
    }

    /// It, when it is there.
    pub(crate) fn kept<T>(&self) -> Option<T>
    where
        T: Clone + Send + Sync + 'static,
    {
        let kept = self.0.worker.kept.lock();
        let kept = kept.unwrap_or_else(PoisonError::into_inner);
        kept.get().cloned()
    }

    /// A drain begins, or one under way has less time.
    pub(crate) fn begin_drain(&self, reason: DrainReason, limit: Option<Duration>) {
        self.0.worker.drain.begin(reason, limit);
    }

    /// Waits until the connections' part of a drain's time is over.
    pub(crate) async fn connections_overdue(&self) {
        let worker = &self.0.worker;
        worker.drain.passed(&worker.work).await;
    }

    /// Waits until everything that was spawned is done; for ever, if it never is.
    pub(crate) async fn work_done(&self) {
        self.0.worker.work.done().await;
    }

    /// How much that was spawned is not done.
    pub(crate) fn work_left(&self) -> usize {
        self.0.worker.work.left()
    }

    /// Does what shall be done last, each within its limit.
    pub(crate) async fn run_hooks(&self) {
        if let Some(drain) = self.drain() {
            self.0.worker.work.run_hooks(drain).await;
        }
    }

    /// Waits until everybody who waits in [`draining`](Self::draining) has heard of it.
    pub(crate) async fn drain_heard(&self) {
        self.0.worker.drain.heard().await;
    }

    /// For a stream that knows nothing of drains: when it is to end.
    pub(crate) fn ending(&self) -> Ending {
        Ending::new(self.clone())
    }
}

/// A handler's context. It answers 500 where there is none: the router is served by something else
/// than this library, and has no `axum::Extension` of a context of `handover::testing` either.
impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or((
            StatusCode::INTERNAL_SERVER_ERROR,
            "no handover::Context: this router is not served by handover",
        ))
    }
}

/// The client of a request, over TCP or a Unix socket. As [`Context`].
impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let context = Context::from_request_parts(parts, state).await?;
        let nobody = (StatusCode::INTERNAL_SERVER_ERROR, "no client is known");
        context.peer().ok_or(nobody)
    }
}
