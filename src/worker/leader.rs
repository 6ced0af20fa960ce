//! Work that one worker of the owner does, and nobody else at the same time: whoever holds the lock
//! of its file leads. The kernel gives it up with the process that holds it, however that ends; so
//! no message can be lost, and no answer can be old.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::flock::hold;
use super::lock;
use crate::context::Context;
use crate::sys::runtime;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Work for a leader.
struct Leader {
    name: String,
    limit: Duration,
    task: Box<dyn Fn(Context) -> Running + Send + Sync>,
}

type Leaders = Arc<Mutex<Vec<Leader>>>;

/// Before work that failed is begun again.
const PAUSE: Duration = Duration::from_secs(1);

impl Context {
    /// Work that one worker of the service does at a time: a scheduler, a queue's consumer. Say it
    /// where the application is made.
    ///
    /// It begins in a worker of the generation that owns the service, after the takeover, when it
    /// has ended everywhere else: after an upgrade, a rollback, a reload, or the death of the
    /// worker that led. When its worker is to leave, `task` should end (it awaits
    /// [`draining`](Self::draining), between two steps best); after `limit` it is ended at its next
    /// `await`. A task that panics is begun again after a second; one that returns before is done
    /// for this worker, and another worker begins.
    ///
    /// ```
    /// # use handover::Context;
    /// # use std::time::Duration;
    /// # fn app(cx: &Context) {
    /// cx.leader("report", Duration::from_secs(10), async |cx: Context| {
    ///     while cx.drain().is_none() {
    ///         tokio::select! {
    ///             _ = cx.draining() => {}
    ///             () = tokio::time::sleep(Duration::from_secs(3600)) => { /* the report */ }
    ///         }
    ///     }
    /// });
    /// # }
    /// ```
    pub fn leader<F, R>(&self, name: &str, limit: Duration, task: F)
    where
        F: Fn(Context) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let leader = Leader {
            name: name.into(),
            limit,
            task: Box::new(move |context| Box::pin(task(context))),
        };
        lock(&self.keep(Leaders::default)).push(leader);
    }
}

/// This worker accepts: it may lead. A second call does nothing.
pub(super) fn compete(context: &Context, runtime: Option<&Path>) {
    let Some(leaders) = context.kept::<Leaders>() else {
        return;
    };
    for leader in std::mem::take(&mut *lock(&leaders)) {
        let file = runtime.map(|directory| directory.join(leader.file()));
        context.spawn(lead(leader, file, context.clone()));
    }
}

async fn lead(leader: Leader, file: Option<PathBuf>, context: Context) {
    let Leader { name, limit, task } = leader;
    let held = tokio::select! {
        biased;
        _ = context.draining() => return,
        held = held(file) => held,
    };
    let held = match held {
        Ok(held) => held,
        Err(e) => {
            tracing::error!("cannot lead {name:?} in this worker: {e}");
            return;
        }
    };
    tracing::info!("leads {name:?}");
    while context.drain().is_none() {
        // A task of its own: it may panic.
        let mut task = runtime::spawn(task(context.clone()));
        let overdue = async {
            context.draining().await;
            sleep(limit).await;
        };
        let ended = tokio::select! {
            ended = &mut task => ended,
            () = overdue => {
                tracing::warn!(
                    "{name:?} has not ended within {}: it is ended",
                    humantime::format_duration(limit)
                );
                task.abort();
                task.await
            }
        };
        match ended {
            Err(e) if e.is_panic() => {
                tracing::error!("{name:?} failed, and is begun again: {e}");
                tokio::select! {
                    _ = context.draining() => {}
                    () = sleep(PAUSE) => {}
                }
            }
            _ => break,
        }
    }
    drop(held);
}

/// `None`: there is no place for its file, so nobody else leads either.
async fn held(file: Option<PathBuf>) -> io::Result<Option<File>> {
    match file {
        Some(path) => hold(&path).await.map(Some),
        None => Ok(None),
    }
}

impl Leader {
    /// In the runtime directory.
    fn file(&self) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name = self.name.replace(|c| !fits(c), "_");
        format!("leader-{name}.lock")
    }
}
