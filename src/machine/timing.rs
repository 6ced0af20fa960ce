//! Durations and armed deadlines. Time is an argument here, never asked for.

use std::time::{Duration, Instant};

/// The durations a master works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Pre-flight and readiness of a successor; also how long a signal is remembered.
    pub start: Duration,
    /// How long the predecessor stays parked; zero commits at once.
    pub probation: Duration,
    /// What the dead-man's switch waits on top of the probation.
    pub margin: Duration,
    /// Silence of a successor that counts as its yield.
    pub silence: Duration,
    /// From the commit to the predecessor's EOF.
    pub commit: Duration,
    /// From Retire (and `close`, for its EOF) to SIGTERM, and from SIGTERM to SIGKILL.
    pub evict: Duration,
    /// Draining; `None`: no limit.
    pub drain: Option<Duration>,
    /// Draining when the service stops.
    pub stop: Duration,
    /// Until the service manager is told again who the main process is.
    pub name: Duration,
    /// How long an order waits, when it is done, until those who leave accept no more.
    pub close: Duration,
    /// So many generations may drain beside the one that serves.
    pub generations: usize,
    /// There is a health check, which must pass before the takeover.
    pub health: bool,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            probation: Duration::from_secs(60),
            margin: Duration::from_secs(15),
            silence: Duration::from_secs(10),
            commit: Duration::from_secs(5),
            evict: Duration::from_secs(3),
            drain: Some(Duration::from_secs(600)),
            stop: Duration::from_secs(8),
            name: Duration::from_secs(1),
            close: Duration::from_secs(1),
            generations: 8,
            health: false,
        }
    }
}

crate::api::listed! {
/// What a deadline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The successor (or we ourselves, at a cold start) must be ready by then.
    Start,
    /// The successor said nothing for too long.
    Silence,
    /// The parked master's own deadline: no commit came.
    DeadMan,
    /// The probation is over.
    Probation,
    /// Say that we are alive.
    Heartbeat,
    /// The predecessor must have let go by then.
    Commit,
    /// The next step against a successor that does not leave.
    Evict,
    /// A remembered signal is dropped.
    Remember,
    /// The workers of a new configuration must be ready.
    Reload,
    /// A program that was started cold on trial has proved itself.
    ColdTrial,
    /// The service manager is told again who the main process is.
    Name,
    /// A generation that drains must have gone.
    Drainer,
    /// What waits until those who leave accept no more is said.
    Close,
}
}

impl Timer {
    /// Whether what runs has proved itself by then.
    #[must_use]
    pub const fn proves(self) -> bool {
        matches!(self, Self::Probation | Self::ColdTrial)
    }

    /// Whether it outlives the phase in which it was armed; every other one belongs to its phase.
    pub(super) const fn outlives_its_phase(self) -> bool {
        match self {
            Self::Heartbeat
            | Self::Remember
            | Self::Reload
            | Self::ColdTrial
            | Self::Name
            | Self::Drainer
            | Self::Close => true,
            Self::Start
            | Self::Silence
            | Self::DeadMan
            | Self::Probation
            | Self::Commit
            | Self::Evict => false,
        }
    }
}

/// The armed deadlines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Timers {
    armed: [Option<Instant>; Timer::ALL.len()],
}

impl Timers {
    pub(super) fn arm(&mut self, timer: Timer, at: Instant) {
        self.armed[timer as usize] = Some(at);
    }

    pub(super) fn disarm(&mut self, timer: Timer) {
        self.set(timer, None);
    }

    pub(super) fn set(&mut self, timer: Timer, at: Option<Instant>) {
        self.armed[timer as usize] = at;
    }

    pub(super) fn get(&self, timer: Timer) -> Option<Instant> {
        self.armed[timer as usize]
    }

    /// The earliest one.
    pub(super) fn next(&self) -> Option<(Instant, Timer)> {
        Timer::ALL
            .into_iter()
            .filter_map(|timer| self.get(timer).map(|at| (at, timer)))
            .min()
    }
}
