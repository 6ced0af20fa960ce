//! The phases of one master's life. A predecessor and a successor are the same machine in the
//! first and the last half of that life.

use std::fmt;

crate::api::listed! {
/// Where a master is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Our workers start; nobody relies on us.
    Starting,
    /// Ready; the predecessor owns the service.
    Standby,
    /// We own the service; the predecessor is parked behind us.
    Probation,
    /// The commit was sent; only the predecessor's EOF makes it true.
    Committing,
    /// We gave up, but accept until the predecessor is ready.
    Yielded,
    /// We own the service alone.
    Serving,
    /// New workers with the new configuration start; the old ones accept until they are ready.
    Reloading,
    /// We own the service; a successor gets ready.
    Launching,
    /// Hold mode: both generations accept, we own the service.
    Beside,
    /// The successor owns the service; we keep the listeners, watch it, and wait.
    Parked,
    /// Our workers start again.
    Reclaiming,
    /// We own the service; the failed successor leaves.
    Evicting,
    /// Our workers finish; then we leave.
    Draining,
    /// Nothing is left to do but to exit.
    Done,
}
}

impl Phase {
    /// The name in `status`, the journal and the thread name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Probation => "probation",
            Self::Committing => "committing",
            Self::Yielded => "yielded",
            Self::Serving => "serving",
            Self::Reloading => "reloading",
            Self::Launching => "launching",
            Self::Beside => "beside",
            Self::Parked => "parked",
            Self::Reclaiming => "reclaiming",
            Self::Evicting => "evicting",
            Self::Draining => "draining",
            Self::Done => "done",
        }
    }

    /// What a successor and a predecessor are in while we are in this phase, as far as we know.
    #[must_use]
    pub const fn of_the_others(self) -> (Self, Self) {
        let successor = match self {
            Self::Evicting => Self::Draining,
            _ => Self::Starting,
        };
        let predecessor = match self {
            Self::Starting | Self::Standby => Self::Launching,
            _ => Self::Parked,
        };
        (successor, predecessor)
    }

    /// When a successor ends in this phase, at the end of a sentence.
    #[must_use]
    pub const fn of_a_successors_end(self) -> &'static str {
        match self {
            Self::Launching => " before it was ready",
            Self::Parked => " while it owned the service",
            _ => "",
        }
    }

    /// Nobody else might have to take the service back, so what this configuration wants of our
    /// sockets can be done.
    #[must_use]
    pub const fn settles_sockets(self) -> bool {
        matches!(self, Self::Serving)
    }

    /// No upgrade is under way: what begins from here is a story of its own.
    #[must_use]
    pub const fn rests(self) -> bool {
        matches!(self, Self::Serving)
    }

    /// Workers of ours serve, or shall serve.
    #[must_use]
    pub const fn has_workers(self) -> bool {
        !matches!(self, Self::Parked | Self::Draining | Self::Done)
    }

    /// Without workers, which may be wanted again.
    #[must_use]
    pub const fn may_serve_again(self) -> bool {
        matches!(self, Self::Parked)
    }

    /// What does not work is tried again: nobody would serve instead of us.
    #[must_use]
    pub const fn tries_again(self) -> bool {
        !matches!(self, Self::Starting)
    }

    /// Our workers prove themselves, so their health is watched.
    #[must_use]
    pub const fn proves_health(self) -> bool {
        matches!(self, Self::Probation)
    }

    /// Whoever begins to answer for the service feeds the watchdog at once: it is not met by the
    /// deadline of the one before.
    #[must_use]
    pub const fn feeds_at_once(self) -> bool {
        matches!(self, Self::Probation | Self::Reclaiming | Self::Serving)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
