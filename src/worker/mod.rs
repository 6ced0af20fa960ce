//! A worker process: accepts, serves, drains, and passes its connections on.
//!
//! It obeys its master over one channel (messages in [`crate::machine::link`]) and lives only as
//! long as that: EOF means that the master is gone or has let it go, and it drains. Signals do not
//! move it, because systemd and `kill` send them to everybody: the master decides.
//!
//! ```text
//! accept ─▶ connection (waits without hyper) ─▶ serve (HTTP/1.1) ─▶ connection ─▶ ...
//!              │        ▲                   └─▶ http2, upgraded: to their end
//!        handoff        receive
//!              ▼        │
//!       a worker of the owning generation
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::Router;
use tokio::runtime::{Builder, Runtime};

use crate::context::Context;
use crate::sys::runtime::block_on;
use crate::sys::signals;

mod accept;
mod access;
mod alone;
mod applications;
mod client;
mod connection;
mod connections;
mod context;
mod drain;
mod exchange;
mod fault;
mod flock;
#[cfg(fuzzing)]
pub mod fuzz;
mod gate;
mod gated;
mod guarded;
mod handoff;
mod handshake;
mod http1;
#[cfg(feature = "http2")]
mod http2;
#[cfg(not(feature = "http2"))]
#[path = "without_http2.rs"]
mod http2;
mod leader;
#[cfg(test)]
mod mutants;
mod obey;
mod order;
mod owners;
mod preface;
pub mod prepare;
mod proxied;
pub mod raw;
mod redirect;
mod rooms;
mod sendfile;
mod silent;
mod start;
pub mod state;
mod stream;
mod streaming;
mod tally;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
mod tls;
mod turns;
pub mod ws;

use context::Worker;
pub use owners::OwnersApplication;
pub use redirect::redirect_to_https;
pub use silent::SilentInstances;
pub use tally::Tally;
pub use tls::TlsInfo;
#[cfg(feature = "daemon")]
pub(crate) use {crate::context::Hop, client::hop_of};

/// What an application is made of: a router a listener, by the listener's name.
pub type Routers = HashMap<String, Router>;

/// Making the application; it may take its time and may fail.
pub type Loading =
    Pin<Box<dyn Future<Output = Result<Routers, Box<dyn std::error::Error + Send + Sync>>> + Send>>;

/// Why a worker could not begin.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error("cannot make a runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("cannot use the channel to the master: {0}")]
    Channel(#[source] io::Error),
    #[error(transparent)]
    Start(#[from] start::StartError),
}

/// Runs this process as a worker until its master sends it away: `channel` is the inherited end,
/// `load` makes the application, inside the runtime.
///
/// Signals are received and do nothing from then on.
pub fn run<F>(channel: OwnedFd, load: F) -> ExitCode
where
    F: FnOnce(Context) -> Loading,
{
    if let Err(e) = signals::ignore_in_worker() {
        tracing::warn!("cannot ignore signals: {e}");
    }
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

fn hooks() -> MutexGuard<'static, Vec<Hook>> {
    static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Vec::new());
    lock(&HOOKS)
}

fn work<F>(channel: OwnedFd, load: F) -> Result<ExitCode, WorkerError>
where
    F: FnOnce(Context) -> Loading,
{
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WorkerError::Runtime)?;
    // How many threads to make is in the first message.
    let copy = channel.try_clone().map_err(WorkerError::Channel)?;
    let beginning = block_on(&runtime, start::receive(copy))?;
    let runtime = match beginning.start.config.threads {
        0 | 1 => runtime,
        threads => many(threads).map_err(WorkerError::Runtime)?,
    };
    let done = block_on(&runtime, obey::obey(channel, beginning, load));
    // What the application still does in threads is not waited for.
    runtime.shutdown_background();
    done.map_err(WorkerError::Channel)
}

fn many(threads: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
}

/// Nothing is left half done by a panic in one of our critical sections.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
