//! Everything that can happen to a master.

use super::action::Who;
use super::message::Supersede;
use super::timing::Timer;

/// One thing that happened. The driver makes these; the machine answers every one in every phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// All workers of the set last started are ready.
    WorkersReady,
    /// The set last started, or the one that serves, spent its failure budget.
    WorkersFailed(String),
    /// No worker process is left.
    WorkersGone,
    /// Of the workers that were told to leave, none accepts any more.
    WorkersClosed,
    /// The new configuration's workers accept, the old ones drain.
    Reloaded,
    /// The new configuration was not taken; the old workers serve on.
    ReloadFailed(Failure),
    /// The health check before the takeover has passed.
    Healthy,
    /// The health check fails.
    Unhealthy(String),
    /// The service manager (or the keeper) knows the main process; or it could not be told.
    MainNamed {
        /// Whom it was to be told.
        who: Who,
        /// Whether it was.
        done: bool,
    },
    /// The service manager has heard that the service runs.
    ReadyHeard,
    /// It said its last word, and is on its way out.
    DrainerDone(u32),
    /// Its master's process has gone.
    DrainerGone(u32),
    /// Whether another generation owns the service ([`Action::AskOwner`](super::Action::AskOwner)).
    OwnerAnswered(bool),
    /// A successor's process exists: this one.
    Launched(u32),
    /// No successor could be started.
    LaunchFailed(Failure),
    /// The successor said something.
    Successor(FromSuccessor),
    /// EOF on the successor's channel, or it broke the protocol.
    SuccessorClosed(Failure),
    /// The successor's process is gone (its pidfd).
    SuccessorExited(String),
    /// The predecessor said something.
    Predecessor(FromPredecessor),
    /// EOF on the predecessor's channel.
    PredecessorClosed,
    /// The predecessor's process is gone (its pidfd).
    PredecessorExited,
    /// An operator asks.
    Order(Order),
    /// A process sent a signal.
    Signal(Signal),
    /// The service manager sent SIGTERM, as it does to every process of the unit.
    ManagerTerm,
    /// A deadline has come.
    Timer(Timer),
}

/// What no phase answers by itself but for the arms that say so: it has been noted, or answered, alike in
/// all of them. A new event is still to be answered by every phase.
macro_rules! dealt_with {
    () => {
        Event::MainNamed { .. }
            | Event::ReadyHeard
            | Event::WorkersClosed
            | Event::DrainerDone(_)
            | Event::DrainerGone(_)
            | Event::OwnerAnswered(_)
            | Event::ManagerTerm
            | Event::Healthy
            | Event::Signal(Signal::Usr1)
            | Event::Timer(_)
    };
}
pub(super) use dealt_with;

/// Of our own workers, where nothing that they do begins or ends anything. (Failing is another matter.)
macro_rules! ours {
    () => {
        Event::WorkersReady
            | Event::WorkersGone
            | Event::Reloaded
            | Event::ReloadFailed(_)
            | Event::Unhealthy(_)
    };
}
pub(super) use ours;

/// Of a successor, where there is none.
macro_rules! of_successor {
    () => {
        Event::Launched(_)
            | Event::LaunchFailed(_)
            | Event::Successor(_)
            | Event::SuccessorClosed(_)
            | Event::SuccessorExited(_)
    };
}
pub(super) use of_successor;

/// Of a predecessor that has no say any more.
macro_rules! of_predecessor {
    () => {
        Event::Predecessor(_) | Event::PredecessorClosed
    };
}
pub(super) use of_predecessor;

/// What a successor says to its predecessor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FromSuccessor {
    /// It speaks our protocol.
    Hello,
    /// Its workers are ready.
    Ready,
    /// It is alive.
    Heartbeat,
    /// It is final.
    Commit,
    /// It gives up.
    Yield {
        /// Why.
        reason: String,
        /// Whether it shall be sent away even in hold mode.
        retire: bool,
        /// What to do when the service is back.
        then: Option<Supersede>,
    },
    /// The service stops (it owned it).
    Release,
    /// It does not own the service, a signal told it to leave, and it does.
    Leaving,
}

/// What a predecessor says to its successor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FromPredecessor {
    /// You own the service.
    Takeover,
    /// I accept again (hold mode).
    Ready,
    /// I was told to leave: make it final.
    Commit,
    /// Leave, the service stops.
    Release,
    /// Leave, I serve.
    Retire(String),
}

/// What an operator can ask of the owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Order {
    /// Run what is on disk now.
    Upgrade {
        /// What is on disk runs already.
        current: bool,
        /// When too many generations drain, the oldest is ended.
        end_oldest: bool,
        /// Signals decide about the rest.
        hold: bool,
        /// How to go on when a successor in probation is to be taken back first.
        supersede: Option<Supersede>,
    },
    /// Make it final.
    Commit,
    /// Go back.
    Rollback {
        /// Why there is no program on disk to go back to; `None`: there is one.
        nothing: Option<String>,
    },
    /// New configuration, same program.
    Reload,
    /// Drain and leave, parked masters too.
    Stop,
}

/// Which order a verdict is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderKind {
    /// [`Order::Upgrade`].
    Upgrade,
    /// [`Order::Commit`].
    Commit,
    /// [`Order::Rollback`].
    Rollback,
    /// [`Order::Reload`].
    Reload,
    /// [`Order::Stop`].
    Stop,
}

impl Order {
    /// Which one it is.
    #[must_use]
    pub const fn kind(&self) -> OrderKind {
        match self {
            Self::Upgrade { .. } => OrderKind::Upgrade,
            Self::Commit => OrderKind::Commit,
            Self::Rollback { .. } => OrderKind::Rollback,
            Self::Reload => OrderKind::Reload,
            Self::Stop => OrderKind::Stop,
        }
    }
}

crate::api::listed! {
    /// nginx's signals.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum Signal {
        /// Reload; or, parked: go back.
        Hup,
        /// Reopen log files.
        Usr1,
        /// Upgrade; or, to the new one: stop accepting.
        Usr2,
        /// Drain the workers.
        Winch,
        /// Drain and leave.
        Quit,
        /// Drain with a deadline and leave.
        Term,
        /// Leave now.
        Int,
    }
}

impl Signal {
    /// As `kill -l` names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Winch => "WINCH",
            Self::Quit => "QUIT",
            Self::Term => "TERM",
            Self::Int => "INT",
        }
    }
}

/// Something that was tried and failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Failure {
    /// The client's exit code.
    pub exit: u8,
    /// What failed, and what to do.
    pub reason: String,
}

impl Failure {
    /// Exit code 1.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            exit: crate::api::exit::FAILED,
            reason: reason.into(),
        }
    }
}
