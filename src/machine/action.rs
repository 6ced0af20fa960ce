//! What a master does: returned by the machine, carried out by the driver, in order.

use std::time::Duration;

use super::event::{Failure, FromPredecessor, FromSuccessor, OrderKind, Signal};
use super::message::Supersede;
use super::phase::Phase;
use crate::api::Outcome;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The one door for phase changes: log it once.
    Enter {
        /// The phase before.
        from: Phase,
        /// The phase now.
        to: Phase,
    },
    /// Start a set of workers; they do not accept yet.
    StartWorkers,
    /// Our workers accept.
    Accept,
    /// Our workers stop accepting and keep what they hold.
    Quiesce,
    /// Our workers accept no more, finish or pass on what they hold, and leave.
    DrainWorkers {
        /// Because the service stops, so there is nobody to pass on to.
        stop: bool,
        /// When what is left is cut; `None`: no limit. A second, shorter one counts.
        limit: Option<Duration>,
    },
    /// Our workers leave now; what they hold is cut.
    KillWorkers,
    /// Read the configuration again and swap the workers.
    Reload,
    /// The new configuration counts from now on.
    AdoptReload,
    /// The new configuration is given up: say why.
    AbandonReload(Failure),
    /// Ask whether our workers are in good health: once, before the takeover.
    CheckHealth,
    /// Our last worker has gone, after a drain.
    DrainEnded,
    /// Ask, on the hand-off socket, whether another generation owns the service.
    AskOwner,
    /// The same, with the patience that somebody needs who takes the service back just now.
    SeekOwner,
    /// Start a successor.
    Launch {
        /// Restore the previous binary first (a rollback after the commit).
        back: bool,
        /// The order that was waiting for the eviction.
        next: Option<Supersede>,
    },
    /// Give up a start that has no process yet.
    CancelLaunch,
    /// Send the inheritance.
    Inherit,
    /// Say something to the successor.
    ToSuccessor(FromPredecessor),
    /// Say something to the predecessor.
    ToPredecessor(FromSuccessor),
    /// Let the successor's channel go: EOF.
    CloseSuccessor,
    /// Let the predecessor's channel go: EOF.
    ClosePredecessor,
    /// TERM or INT (and SIGCONT) to the successor.
    EndSuccessor(Signal),
    /// SIGKILL to the successor.
    KillSuccessor,
    /// Reap the successor: the service is ours again.
    ReapSuccessor,
    /// The service is ours again, and the successor only drains: it goes on beside us, out of this
    /// machine's sight.
    LetLinger,
    /// SIGKILL to a predecessor that does not leave.
    KillPredecessor,
    /// TERM or INT to a generation that only drains.
    EndDrainer(u32, Signal),
    /// SIGKILL to a generation that drains for too long.
    KillDrainer(u32),
    /// Tell the service manager (or the keeper) who the main process is, and wait until it knows.
    NameMain(Who),
    /// MAINPID to a worker and back, so that systemd drops the "alien" mark. Answered like `NameMain`.
    Reclaim,
    /// We serve, and nobody did before us: what is on trial proves itself from now on.
    StartedCold,
    /// READY=1.
    NotifyReady,
    /// STOPPING=1: final for the whole unit.
    NotifyStopping,
    /// Write the pid files: successor and predecessor.
    WritePids,
    /// The pid file names us alone.
    OwnPid,
    /// Put the running build back on disk, the other one aside.
    RestoreDisk,
    /// What runs is good: it is kept as that on disk.
    KeepDisk,
    /// The predecessor has gone without a word: what runs stays on trial, and proves itself alone.
    ProveAlone,
    /// What nobody is parked behind, and was on trial, is good.
    Proved,
    /// Listening sockets that the configuration no longer has are let go.
    DropListeners,
    /// Answer an order. A refusal is for the one whose step this is, everything else for all of
    /// that kind.
    Settle(OrderKind, Verdict),
    /// The successor has made it final, and writes it down: whoever waits for that here learns it.
    Committed,
    /// The upgrade ended: write it down.
    Conclude(Outcome, Option<Failure>),
    /// Open the log files again.
    ReopenLogs,
    /// Something for the log.
    Note(Note),
    /// Exit with this code.
    Exit(u8),
}

/// Who shall be the main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// This master.
    Me,
    /// Its successor.
    Successor,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Done.
    Done,
    /// It was so already.
    Already(&'static str),
    /// It makes no sense now; nothing has changed.
    Refused(String),
    /// Another master answers it, under the same id: ask again.
    Moved,
    /// Too many generations drain; nothing has changed.
    Full,
    /// Tried and failed; the previous generation serves.
    Failed(Failure),
}

impl Verdict {
    /// Whether it is true only when the program on disk is as the order must leave it.
    #[must_use]
    pub const fn follows_disk(&self, kind: OrderKind) -> bool {
        match kind {
            OrderKind::Upgrade => matches!(self, Self::Failed(_)),
            OrderKind::Rollback | OrderKind::Commit => matches!(self, Self::Failed(_) | Self::Done),
            OrderKind::Reload | OrderKind::Stop => false,
        }
    }
}

/// Something for the log that is not a phase change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Note {
    /// A signal that makes no sense now.
    SignalRefused(Signal, &'static str),
    /// A signal that waits for the other side.
    SignalRemembered(Signal),
    /// A remembered signal is carried out.
    SignalCarriedOut(Signal),
    /// A remembered signal whose moment did not come.
    SignalDropped(Signal),
    /// Our workers keep failing; they are started again, for ever.
    WorkersFail(String),
    /// The oldest generation that drains is ended, because another upgrade begins.
    OldestEnded(u32),
    /// Nobody is parked who could take back what was given up: the way back is from the disk.
    GoesBack,
}
