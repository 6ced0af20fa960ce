//! What the driver may ask a master's machine between two steps.

use std::time::{Duration, Instant};

use super::action::Who;
use super::event::Order;
use super::master::Machine;
use super::phase::Phase;
use super::timing::Timer;

impl Machine {
    /// Where this master is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether signals drive the upgrade under way.
    #[must_use]
    pub fn hold(&self) -> bool {
        self.hold
    }

    /// Whether this master is responsible for the service now: it answers the control socket.
    #[must_use]
    pub fn owns(&self) -> bool {
        match self.phase {
            Phase::Probation
            | Phase::Committing
            | Phase::Yielded
            | Phase::Serving
            | Phase::Reloading
            | Phase::Launching
            | Phase::Beside
            | Phase::Evicting => true,
            Phase::Starting => self.predecessor.is_none(),
            Phase::Reclaiming => self.successor.is_none_or(|s| s.closed),
            Phase::Draining => self.stopping(),
            Phase::Standby | Phase::Parked | Phase::Done => false,
        }
    }

    /// Whether our workers can take connections of those that drain: they accept, and we answer for
    /// the service.
    #[must_use]
    pub fn receives(&self) -> bool {
        let accepts = !matches!(
            self.phase,
            Phase::Starting | Phase::Reclaiming | Phase::Draining
        );
        self.owns() && accepts
    }

    /// Whether an upgrade could begin now.
    #[must_use]
    pub fn may_begin(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Evicting)
    }

    /// Whether this order gives up a generation in probation for what is on disk: not for a file that
    /// cannot even pass its pre-flight.
    #[must_use]
    pub fn gives_up_for(&self, order: &Order) -> bool {
        let supersedes = matches!(
            order,
            Order::Upgrade {
                current: false,
                supersede: Some(_),
                ..
            }
        );
        supersedes && self.phase == Phase::Probation && self.may_have_room(order)
    }

    /// Whether an upgrade is not refused for the generations that still drain.
    fn may_have_room(&self, order: &Order) -> bool {
        let ends_one = matches!(
            order,
            Order::Upgrade {
                end_oldest: true,
                ..
            }
        );
        ends_one || !self.crowded()
    }

    /// Whether this order gives the service back to a predecessor that is parked.
    #[must_use]
    pub fn gives_back_for(&self, order: &Order) -> bool {
        let back = matches!(order, Order::Rollback { .. }) && self.phase == Phase::Probation;
        back || self.gives_up_for(order)
    }

    /// Whether this master could give the service back now.
    #[must_use]
    pub fn may_give_back(&self) -> bool {
        self.phase == Phase::Probation && self.predecessor_listens()
    }

    /// Whether there is no way back any more but by the disk.
    #[must_use]
    pub fn serves_alone(&self) -> bool {
        let phases = [Phase::Committing, Phase::Serving, Phase::Reloading];
        phases.contains(&self.phase)
    }

    /// Whether this master only drains, and another generation serves.
    #[must_use]
    pub fn drains_aside(&self) -> bool {
        self.phase == Phase::Draining && !self.stopping()
    }

    /// Who the service manager was told is the main process, when it is known.
    #[must_use]
    pub fn main(&self) -> Option<Who> {
        self.main.filter(|_| self.main_known)
    }

    /// How long whoever waits in `systemctl reload` or `stop` must wait for what has just begun.
    #[must_use]
    pub fn takes(&self) -> Option<Duration> {
        const MARGIN: Duration = Duration::from_secs(10);
        match self.phase {
            // The pre-flight and the start each have their time.
            Phase::Launching => Some(self.timing.start * 2 + MARGIN),
            Phase::Draining if self.stopping() => Some(self.timing.stop + MARGIN),
            _ => None,
        }
    }

    /// The masters of the generations that only drain, the oldest first; not those that were told to
    /// hurry, or are on their way out.
    #[must_use]
    pub fn drainers(&self) -> Vec<u32> {
        let rejected = self.successor.filter(|_| self.only_drains());
        let rejected = rejected.and_then(|successor| successor.pid);
        self.crowd.draining().chain(rejected).collect()
    }

    /// How long a master of this configuration is given when it only drains; `None`: no limit.
    #[must_use]
    pub fn own_drain(&self) -> Option<Duration> {
        self.timing.drain.map(|drain| drain + self.timing.commit)
    }

    /// What is left to a generation that drains (`None`: no limit), and whether it was told to hurry.
    #[must_use]
    pub fn drainer(&self, pid: u32, now: Instant) -> (Option<Duration>, bool) {
        let left = self.crowd.ends(pid);
        let left = left.map(|ends| ends.saturating_duration_since(now));
        (left, self.crowd.hurried(pid))
    }

    /// Whether the whole service stops.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether it leaves because the service stops, by another master's word.
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.released
    }

    /// Whether this master feeds the service manager's watchdog: while its workers answer, and from
    /// the moment it takes the service back, so that a hung successor is met by us and not by the
    /// watchdog; but not when its workers keep failing, for then nobody serves, and systemd must start
    /// the service anew. A parked one never does.
    #[must_use]
    pub fn feeds_watchdog(&self, workers_answer: bool) -> bool {
        match self.phase {
            Phase::Reclaiming => !self.failing,
            _ => self.owns() && workers_answer,
        }
    }

    /// Whether what we say of ourselves is shown: nobody speaks but who answers for the service.
    #[must_use]
    pub fn speaks(&self) -> bool {
        self.owns() || self.phase == Phase::Reclaiming
    }

    /// The next instant at which something must be done without being asked.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next().map(|(at, _)| at)
    }

    /// What that instant is about.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Timer> {
        self.timers
            .next()
            .filter(|(at, _)| *at <= now)
            .map(|(_, timer)| timer)
    }

    /// When the upgrade to us is final by itself.
    #[must_use]
    pub fn commits_at(&self) -> Option<Instant> {
        let alone = self.timers.get(Timer::ColdTrial);
        let alone = alone.filter(|_| self.alone_on_trial);
        self.timers.get(Timer::Probation).or(alone)
    }

    /// When a deadline is due.
    #[must_use]
    pub fn armed(&self, timer: Timer) -> Option<Instant> {
        self.timers.get(timer)
    }
}
