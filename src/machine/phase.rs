//! The phases of one master's life. A predecessor and a successor are the same machine in the
//! first and the last half of that life.

use std::fmt;

/// Where a master is in its life (ARCHITECTURE.md, Phases).
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

impl Phase {
    /// All of them, for tests that walk the whole table.
    pub const ALL: [Self; 14] = [
        Self::Starting,
        Self::Standby,
        Self::Probation,
        Self::Committing,
        Self::Yielded,
        Self::Serving,
        Self::Reloading,
        Self::Launching,
        Self::Beside,
        Self::Parked,
        Self::Reclaiming,
        Self::Evicting,
        Self::Draining,
        Self::Done,
    ];

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
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
