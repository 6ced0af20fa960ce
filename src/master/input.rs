//! What reaches the driver: one queue for everything that its tasks see.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::disk::Finished;
use super::launch::Launched;
use super::line::Heard;
use super::look::Looked;
use crate::machine::{Event, Failure};
use crate::sys::process::Other;
use crate::sys::runtime;

/// One thing for the driver.
#[derive(Debug)]
pub enum Input {
    /// A worker said something, or its channel ended.
    Worker(u64, Heard),
    /// A worker's process has ended.
    WorkerExited(u64),
    /// A draining worker outlived its limit.
    WorkerOverdue(u64),
    /// The successor of this number said something.
    Successor(u64, Heard),
    /// The successor of this number has ended.
    SuccessorExited(u64),
    /// The predecessor said something.
    Predecessor(Heard),
    /// The predecessor's process has gone.
    PredecessorExited,
    /// An earlier generation that only drained has gone.
    DrainerExited(u32),
    /// The supervisor of the application of this number said something.
    #[cfg_attr(
        not(feature = "daemon"),
        expect(dead_code, reason = "nobody is hosted")
    )]
    Application(u64, Heard),
    /// The pause before the application's next start is over.
    StartApplication,
    /// The start of a successor came to an end.
    Launch(u64, Result<Box<Launched>, Failure>),
    /// The pre-flight of a file that shall supersede a generation in probation came to an end.
    Looked(Box<Looked>),
    /// What was wanted of the program on disk is done, or why not.
    Disk(Finished),
    /// What could not be done there is to be tried again.
    DiskAgain,
    /// The owner is told how our drain goes, should it still go.
    TellNews,
    /// The inquiry of this number must be answered now.
    StatusDue(u64),
    /// A draining worker asks who takes its connections, or its master tells how it goes.
    Drainer(crate::sys::handoff::Asker),
    /// A draining worker that got an answer has gone.
    DrainerGone(u32),
    /// The health check wants a connection to every worker.
    Probe(tokio::sync::oneshot::Sender<Vec<(u32, std::os::unix::net::UnixStream)>>),
    /// Something for the machine.
    Event(Event),
}

impl Input {
    /// Whether another generation has ended.
    pub(super) const fn ends_a_master(&self) -> bool {
        matches!(
            self,
            Self::SuccessorExited(_) | Self::PredecessorExited | Self::DrainerExited(_)
        )
    }

    /// Reaches the driver in a while.
    pub(super) fn after(self, pause: Duration, post: &mpsc::Sender<Self>) {
        let post = post.clone();
        runtime::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = post.send(self).await;
        });
    }

    /// Reaches the driver when this process has gone; at once when there is none.
    pub(super) fn when_gone(self, process: Option<Arc<Other>>, post: &mpsc::Sender<Self>) {
        let post = post.clone();
        runtime::spawn(async move {
            if let Some(process) = process {
                let _ = process.gone().await;
            }
            let _ = post.send(self).await;
        });
    }
}
