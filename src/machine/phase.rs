//! What a phase means to the driver. A predecessor and a successor are the same machine in the
//! first and the last half of its life.

pub use crate::api::Phase;

impl Phase {
    /// What a successor and a predecessor are in while we are in this phase, as far as we know.
    #[must_use]
    pub(crate) const fn of_the_others(self) -> (Self, Self) {
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
    pub(crate) const fn of_a_successors_end(self) -> &'static str {
        match self {
            Self::Launching => " before it was ready",
            Self::Parked => " while it owned the service",
            _ => "",
        }
    }

    /// Nobody else might have to take the service back, so what this configuration wants of our
    /// sockets can be done.
    #[must_use]
    pub(crate) const fn settles_sockets(self) -> bool {
        matches!(self, Self::Serving)
    }

    /// No upgrade is under way: what begins from here is a story of its own.
    #[must_use]
    pub(crate) const fn rests(self) -> bool {
        matches!(self, Self::Serving)
    }

    /// Workers of ours serve, or shall serve.
    #[must_use]
    pub(crate) const fn has_workers(self) -> bool {
        !matches!(self, Self::Parked | Self::Draining | Self::Done)
    }

    /// Without workers, which may be wanted again.
    #[must_use]
    pub(crate) const fn may_serve_again(self) -> bool {
        matches!(self, Self::Parked)
    }

    /// What does not work is tried again: nobody would serve instead of us.
    #[must_use]
    pub(crate) const fn tries_again(self) -> bool {
        !matches!(self, Self::Starting)
    }

    /// Our workers prove themselves, so their health is watched.
    #[must_use]
    pub(crate) const fn proves_health(self) -> bool {
        matches!(self, Self::Probation)
    }

    /// Whoever begins to answer for the service feeds the watchdog at once: it is not met by the
    /// deadline of the one before.
    #[must_use]
    pub(crate) const fn feeds_at_once(self) -> bool {
        matches!(self, Self::Probation | Self::Reclaiming | Self::Serving)
    }
}
