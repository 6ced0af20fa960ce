//! A worker process: accepts, serves, drains, and passes its connections on.
//!
//! It obeys its master over one channel (messages in [`crate::machine::link`]) and lives only as
//! long as that: EOF means that the master is gone or has let it go, and it drains. Signals do not
//! move it, because systemd and `kill` send them to everybody: the master decides.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1 as hyper1, http2 as hyper2};
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{SigSet, Signal};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::config;
use crate::machine::link::{FromWorker, Start, ToWorker};
use crate::sys::channel::{Channel, ChannelError, Received};

mod accept;
mod connection;
mod connections;
mod drain;
mod exchange;
mod gate;
mod gated;
mod http2;
mod serve;
mod stream;

use accept::{Acceptor, Listener};
use connection::{Connection, Served};
use connections::Connections;
use drain::{Draining, Terms};
pub use stream::UnixPeer;

/// What an application is made of: a router a listener, by the listener's name.
pub type Routers = HashMap<String, Router>;

/// Making the application; it may take its time and may fail.
pub type Loading =
    Pin<Box<dyn Future<Output = Result<Routers, Box<dyn std::error::Error + Send + Sync>>> + Send>>;

/// Why a worker could not work.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error("cannot make a runtime: {0}")]
    Runtime(io::Error),
    #[error("cannot hear the master: {0}")]
    Channel(#[from] ChannelError),
    #[error("cannot answer the master: {0}")]
    Answer(io::Error),
    #[error("the master has gone before it said what to do")]
    Orphaned,
    #[error("expected the first message to be `start` and then {0} listeners, got {1}")]
    Unexpected(usize, &'static str),
}

/// Runs this process as a worker until its master sends it away: `channel` is the inherited end,
/// `load` makes the application, inside the runtime.
///
/// Signals are blocked for the calling thread and all it starts; call it on the first thread.
pub fn run<F>(channel: OwnedFd, load: F) -> ExitCode
where
    F: FnOnce(Start) -> Loading,
{
    ignore_signals();
    match work(channel, load) {
        Ok(code) => code,
        Err(e) => {
            tracing::error!("a worker leaves: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Calls `hook` whenever the log files shall be opened again (`USR1`).
pub fn on_reopen_logs(hook: impl Fn() + Send + 'static) {
    hooks().push(Box::new(hook));
}

type Hook = Box<dyn Fn() + Send>;

fn hooks() -> std::sync::MutexGuard<'static, Vec<Hook>> {
    static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Vec::new());
    HOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn work<F>(channel: OwnedFd, load: F) -> Result<ExitCode, WorkerError>
where
    F: FnOnce(Start) -> Loading,
{
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WorkerError::Runtime)?;
    // How many threads to make is in the first message.
    let copy = channel.try_clone().map_err(WorkerError::Runtime)?;
    let orders = runtime.block_on(receive(copy))?;
    let runtime = match orders.start.config.threads {
        0 | 1 => runtime,
        n => many(n).map_err(WorkerError::Runtime)?,
    };
    let done = runtime.block_on(obey(channel, orders, load));
    // What the application still does in threads is not waited for.
    runtime.shutdown_background();
    done
}

fn many(threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
}

/// Blocked, not handled: a blocked signal stays with this process and is lost with it.
fn ignore_signals() {
    let ours: SigSet = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
    ]
    .into_iter()
    .collect();
    if let Err(e) = ours.thread_block() {
        tracing::warn!("cannot block signals: {e}");
    }
}

/// The first messages.
struct Orders {
    start: Start,
    listeners: Vec<(String, OwnedFd)>,
}

async fn receive(channel: OwnedFd) -> Result<Orders, WorkerError> {
    let channel = Channel::from_fd(channel).map_err(WorkerError::Runtime)?;
    let first = channel.recv().await?.ok_or(WorkerError::Orphaned)?;
    let ToWorker::Start(start) = first.decode()? else {
        return Err(WorkerError::Unexpected(0, "something else"));
    };
    let mut listeners = Vec::with_capacity(start.listeners);
    while listeners.len() < start.listeners {
        let batch = channel.recv().await?.ok_or(WorkerError::Orphaned)?;
        let ToWorker::Listeners { listeners: names } = batch.decode()? else {
            return Err(WorkerError::Unexpected(start.listeners, "another message"));
        };
        if names.len() != batch.fds.len() || names.is_empty() {
            return Err(WorkerError::Unexpected(start.listeners, "a broken batch"));
        }
        listeners.extend(names.into_iter().map(|n| n.name).zip(batch.fds));
    }
    Ok(Orders {
        start: *start,
        listeners,
    })
}

/// What every part of a worker needs.
#[derive(Debug)]
pub(crate) struct Worker {
    connections: Arc<Connections>,
    http: config::Http,
    http1: hyper1::Builder,
    http2: hyper2::Builder<TokioExecutor>,
    max_connections: usize,
    /// Since when idle connections are on their grace time, and how long it is.
    polite: OnceLock<(Instant, Duration)>,
}

impl Worker {
    fn new(start: &Start) -> Self {
        Self {
            connections: Connections::new(),
            http: start.config.http.clone(),
            http1: serve::builder(),
            http2: http2::builder(),
            max_connections: room(start.config.http.max_connections),
            polite: OnceLock::new(),
        }
    }

    fn be_polite(&self, grace: Duration) {
        let _ = self.polite.set((Instant::now(), grace));
    }

    /// Until when a connection that is idle since then may bring one more request.
    fn polite_until(&self, idle_since: Instant) -> Instant {
        match self.polite.get() {
            Some((since, grace)) => idle_since.max(*since) + *grace,
            None => idle_since + self.http.keepalive_timeout,
        }
    }

    /// Gives a connection to another worker, or back.
    fn give(
        &self,
        connection: Connection,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), Box<Connection>> {
        drop(permit);
        Err(Box::new(connection))
    }
}

/// How many connections there may be: as configured, and never more than the limit of open files
/// allows, less an eighth for the application.
fn room(configured: u64) -> usize {
    let (files, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .unwrap_or((1024, 1024));
    let allowed = files.saturating_sub((files / 8).max(64)).max(1);
    let room = match configured {
        0 => allowed,
        n => n.min(allowed),
    };
    usize::try_from(room).unwrap_or(usize::MAX)
}

async fn obey<F>(channel: OwnedFd, orders: Orders, load: F) -> Result<ExitCode, WorkerError>
where
    F: FnOnce(Start) -> Loading,
{
    let channel = Channel::from_fd(channel).map_err(WorkerError::Runtime)?;
    let worker = Arc::new(Worker::new(&orders.start));
    let stop_timeout = orders.start.config.drain.stop_timeout;

    let mut waiting = VecDeque::new();
    let loading = load(orders.start);
    let routers = tokio::select! {
        loaded = loading => loaded,
        () = until_sent_away(&channel, &worker, &mut waiting) => return Ok(ExitCode::SUCCESS),
    };
    let listeners = routers
        .map_err(|e| e.to_string())
        .and_then(|routers| pair_up(orders.listeners, &routers));
    let mut acceptor = match listeners {
        Ok(listeners) => Acceptor::new(listeners),
        Err(reason) => {
            tracing::error!("cannot serve: {reason}");
            let _ = channel.send(&FromWorker::Failed { reason }, &[]).await;
            return Ok(ExitCode::FAILURE);
        }
    };
    say(&channel, &FromWorker::Ready).await?;

    let mut draining: Option<Draining> = None;
    let mut alone = false;
    loop {
        let received = tokio::select! {
            report = ended(&mut draining) => {
                // The master may have gone; that changes nothing.
                let _ = channel.send(&FromWorker::Drained(report), &[]).await;
                return Ok(ExitCode::SUCCESS);
            }
            received = next(&channel, &mut waiting), if !alone => received?,
        };
        let Some(received) = received else {
            alone = true;
            if draining.is_none() {
                tracing::info!("the master has gone");
                acceptor.close().await;
                let terms = Terms::orphaned(stop_timeout);
                draining = Some(Draining::start(Arc::clone(&worker), terms));
            }
            continue;
        };
        match received.decode()? {
            ToWorker::Accept if draining.is_none() => {
                if let Err(e) = acceptor.start(&worker) {
                    let reason = format!("cannot accept: {e}");
                    say(&channel, &FromWorker::Failed { reason }).await?;
                }
            }
            ToWorker::Quiesce => acceptor.stop().await,
            ToWorker::Drain { timeout_ms } => {
                let limit = timeout_ms.map(Duration::from_millis);
                if let Some(draining) = &draining {
                    draining.hurry(limit);
                } else {
                    acceptor.close().await;
                    let terms = Terms::ordered(limit);
                    draining = Some(Draining::start(Arc::clone(&worker), terms));
                }
            }
            ToWorker::Report => {
                say(&channel, &FromWorker::Report(worker.connections.report())).await?;
            }
            ToWorker::Exit => return Ok(ExitCode::SUCCESS),
            ToWorker::ReopenLogs => hooks().iter().for_each(|hook| hook()),
            ToWorker::PassTo { .. }
            | ToWorker::Accept
            | ToWorker::Start(_)
            | ToWorker::Listeners { .. } => {}
        }
    }
}

async fn say(channel: &Channel, message: &FromWorker) -> Result<(), WorkerError> {
    match channel.send(message, &[]).await {
        // The master has gone: the next read says so.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent.map_err(WorkerError::Answer),
    }
}

async fn next(
    channel: &Channel,
    waiting: &mut VecDeque<Received>,
) -> Result<Option<Received>, ChannelError> {
    match waiting.pop_front() {
        Some(received) => Ok(Some(received)),
        None => channel.recv().await,
    }
}

/// While the application loads: returns when the master has gone or says so; keeps the rest.
async fn until_sent_away(channel: &Channel, worker: &Worker, waiting: &mut VecDeque<Received>) {
    while let Ok(Some(received)) = channel.recv().await {
        match received.decode() {
            Ok(ToWorker::Exit) => return,
            Ok(ToWorker::Report) => {
                let report = FromWorker::Report(worker.connections.report());
                let _ = channel.send(&report, &[]).await;
            }
            _ => waiting.push_back(received),
        }
    }
}

async fn ended(draining: &mut Option<Draining>) -> crate::machine::link::Report {
    match draining {
        Some(draining) => draining.ended().await,
        None => std::future::pending().await,
    }
}

/// Finds the application of every listener.
fn pair_up(listeners: Vec<(String, OwnedFd)>, routers: &Routers) -> Result<Vec<Listener>, String> {
    let mut known: HashMap<String, Arc<Served>> = HashMap::new();
    listeners
        .into_iter()
        .map(|(name, fd)| {
            // Several sockets may share a name.
            if let Some(served) = known.get(&name) {
                let served = Arc::clone(served);
                return Ok(Listener { fd, served });
            }
            let Some(router) = routers.get(&name).cloned() else {
                return Err(format!("there is no application for the listener {name:?}"));
            };
            let served = Arc::new(Served {
                name: name.clone(),
                router,
            });
            known.insert(name, Arc::clone(&served));
            Ok(Listener { fd, served })
        })
        .collect()
}
