//! The machine's verdicts and an upgrade's end: in words, to those who wait. What says that an upgrade
//! is over is said when the program on disk is as that upgrade must leave it, or cannot be made so.

use std::time::Instant;

use super::disk::{Done, Finished, LASTS};
use super::driver::Driver;
use super::milestone::{self, Milestone};
use super::orders::Waits;
use super::status::{self, predecessor_who, successor_who, who};
use super::words;
use crate::api::{self, Outcome, Until, exit};
use crate::machine::message::Message;
use crate::machine::{Failure, OrderKind, Verdict};

/// What is said of an upgrade when the program on disk is put right.
#[derive(Debug, Default)]
pub(super) struct Held {
    conclusion: Option<(Outcome, Option<Failure>)>,
    /// Why the successor is sent away, and when the disk has kept it for too long.
    retire: Option<(String, Instant)>,
}

impl Held {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.retire.as_ref().map(|(_, until)| *until)
    }
}

impl Driver {
    /// The machine's verdict on an order.
    pub(super) fn settle(&mut self, kind: OrderKind, verdict: Verdict) {
        let waits_for_disk = verdict.follows_disk(kind);
        let (exit, message) = match verdict {
            Verdict::Done => (exit::OK, self.done(kind)),
            Verdict::Failed(failure) => (failure.exit, self.failed(kind, &failure)),
            Verdict::Already(what) => {
                let so = match kind {
                    OrderKind::Upgrade => {
                        let release = self.applications.release();
                        let release = release.map(|one| one.path.as_path());
                        words::runs_already(&self.fixed.me.version, release)
                    }
                    _ => what.to_owned(),
                };
                return self.orders.answer(exit::OK, so);
            }
            Verdict::Full => {
                let most = self.configured.config.drain.generations;
                let full = words::full(
                    most.into(),
                    &self.drainers.who_holds_what(&self.machine.drainers()),
                );
                return self.orders.answer(exit::REFUSED, full);
            }
            Verdict::Refused(why) => return self.orders.answer(exit::REFUSED, why),
            // Dropped without a verdict: the client asks the next owner, by id.
            Verdict::Moved => return drop(self.orders.decided(kind)),
        };
        let done = exit == exit::OK && kind == OrderKind::Upgrade;
        let goes_on = done && self.story.upgrade().is_some();
        for waiter in self.orders.decided(kind) {
            if goes_on && waiter.until == Until::Commit {
                self.wait(Waits::Commit(waiter));
            } else if waits_for_disk {
                self.wait(Waits::Answer(waiter, exit, message.clone()));
            } else {
                waiter.end(exit, message.clone());
            }
        }
    }

    /// The upgrade ended: once, by the master whose word it is. What is committed is so whatever the
    /// disk says.
    pub(super) fn conclude(&mut self, outcome: Outcome, failure: Option<Failure>) {
        if self.disk.is_busy() && outcome != Outcome::Committed {
            self.held.conclusion = Some((outcome, failure));
        } else {
            self.conclude_now(outcome, failure);
        }
    }

    fn conclude_now(&mut self, outcome: Outcome, failure: Option<Failure>) {
        // Taken back before it was over: so far it counts.
        let back = outcome != Outcome::Committed && self.drain.given_up();
        let so_far = back.then(|| self.workers.tally());
        let phase = self.machine.phase();
        if let Some(record) = self.story.upgrade() {
            let tried = record.release.as_ref();
            self.releases.ended(&self.applications, outcome, tried);
        }
        let Some(last) = self.story.ended(outcome, failure, so_far, phase) else {
            return;
        };
        self.orders.ended(&last);
        self.desk.publish(api::Event::Ended(Box::new(last)));
        self.set_timing();
    }

    /// The successor is sent away. It answers its operator when it hears this: the disk first, for a
    /// moment.
    pub(super) fn retire_successor(&mut self, reason: String) {
        // Who ordered it is answered when the successor hears this: the link leads back by then. (If it
        // cannot, that is said when the upgrade is concluded.)
        let tried = self.story.upgrade().and_then(|one| one.release.as_ref());
        if let Some(tried) = tried {
            let _ = self.applications.point_back(tried);
        }
        if self.disk.is_busy() {
            self.held.retire = Some((reason, Instant::now() + LASTS));
        } else {
            self.say_retire(reason);
        }
    }

    /// The disk takes too long for a successor that shall leave.
    pub(super) fn disk_is_late(&mut self, now: Instant) {
        if let Some((reason, _)) = self.held.retire.take_if(|(_, until)| *until <= now) {
            self.say_retire(reason);
        }
    }

    fn say_retire(&self, reason: String) {
        let disk = self.disk.trouble().cloned();
        self.successor
            .say(Message::Retire { reason, disk }, Vec::new());
    }

    /// A piece of work on the program on disk came to its end: those who waited learn it.
    pub(super) fn disk_done(&mut self, finished: Finished) {
        match self.disk.done(finished) {
            Done::Partly => return,
            Done::Trouble(Some(why)) => Milestone {
                reason: Some(&why),
                ..self.milestone(milestone::DISK_DIFFERS)
            }
            .error(format_args!("{why}; it is tried again")),
            Done::Trouble(None) | Done::All => {}
        }
        self.say_held();
    }

    /// Says what was held back, whatever the disk does: what begins next is another story.
    pub(super) fn say_held(&mut self) {
        if let Some((reason, _)) = self.held.retire.take() {
            self.say_retire(reason);
        }
        self.say_decided();
        if let Some((outcome, failure)) = self.held.conclusion.take() {
            self.conclude_now(outcome, failure);
        }
    }

    /// An order was carried out.
    fn done(&self, kind: OrderKind) -> String {
        let (me, successor) = (who(self), successor_who(self));
        match kind {
            OrderKind::Upgrade if self.machine.hold() => status::line(self),
            OrderKind::Upgrade => {
                let ordered = self.story.probation();
                let probation = ordered.unwrap_or(self.configured.config.upgrade.probation);
                words::took_over(me, successor, probation)
            }
            OrderKind::Commit => {
                let newest = if self.successor.is_there() {
                    successor
                } else {
                    me
                };
                format!("{newest} is committed and serves")
            }
            OrderKind::Rollback => match predecessor_who(self) {
                Some(before) => format!("{before} serves again"),
                None if !self.machine.owns() => {
                    format!("{successor} serves: the program of before")
                }
                None => format!("{me} serves"),
            },
            OrderKind::Reload => "the new configuration is in use".into(),
            OrderKind::Stop => "stopped".into(),
        }
    }

    /// An order was tried, and failed.
    pub(super) fn failed(&self, kind: OrderKind, failure: &Failure) -> String {
        let (why, who) = (&failure.reason, who(self));
        match kind {
            OrderKind::Upgrade | OrderKind::Rollback if self.machine.stopping() => why.clone(),
            OrderKind::Upgrade | OrderKind::Rollback => {
                words::nevertheless(why, &format!("{who} serves on"))
            }
            OrderKind::Reload => format!("{why}\n{who} serves on with the configuration of before"),
            OrderKind::Commit | OrderKind::Stop => format!("{why}\n{who} serves on as before"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_sent_away_has_time_left_when_the_disk_was_slow() {
        let timing = crate::machine::Timing::default();
        assert!(LASTS < timing.evict);
    }
}
