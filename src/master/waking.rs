//! Before a hosted service is given back by an order: the predecessor gets its application ready, which
//! takes time and may fail. Nothing is given up for one that could not serve.

use std::time::{Duration, Instant};

use super::driver::Driver;
use super::hosting::{Happened, NotReady};
use super::orders::Waits;
use super::status::{predecessor_who, who};
use super::store::Found;
use super::waiter::Waiter;
use super::words;
use crate::api::exit;
use crate::machine::message::Message;

/// What is known of the two generations' applications.
#[derive(Debug, Default)]
pub(super) struct Waking {
    /// The predecessor has an application, or may have one.
    there_is_one: bool,
    /// A parked master: its successor waits for our application.
    wanted: bool,
    /// A parked master: the service comes back at any moment, until then.
    expects: Option<Instant>,
}

/// The probation lasts so much longer than a start, and a parked master expects the service for so long.
const MARGIN: Duration = Duration::from_secs(10);

impl Waking {
    /// What the predecessor runs, and what we do, which it may not have told because it was not ready.
    pub(super) fn predecessor_hosts(&mut self, its: bool, ours: bool) {
        self.there_is_one = its || ours;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.expects
    }

    /// What was expected has come, or something else.
    pub(super) fn expect_nothing(&mut self) {
        self.expects = None;
    }
}

/// The owner.
impl Driver {
    /// Before the machine hears the order: it waits for a predecessor that has an application to get ready.
    /// (Others are not asked: one that hangs would be waited for.)
    pub(super) fn wake_first(&mut self, waiter: Waiter, looked: Option<Found>) {
        if !self.machine.may_give_back() || !self.waking.there_is_one {
            return self.wait(Waits::Turn(waiter));
        }
        let limit = self.configured.config.upgrade.start_timeout + MARGIN;
        // The probation does not end in between.
        self.machine.prolong_probation(Instant::now() + limit);
        self.manager.extend_timeout(limit);
        self.tell_predecessor(Message::Wake);
        self.wait(Waits::Wake(waiter, looked));
    }

    /// What the predecessor said.
    pub(super) fn awake(&mut self, reason: Option<String>) {
        let sleepers = self.orders.take_waking();
        // With an application that does not answer here either, nothing is lost.
        let reason = reason.filter(|_| self.applications.silence().is_none());
        let Some(reason) = reason else {
            for waiter in sleepers.filter_map(Waits::waiter) {
                self.woken(waiter);
            }
            return;
        };
        let before = predecessor_who(self);
        let before = before.map_or_else(|| "the generation before".into(), |who| who.to_string());
        let message = format!(
            "{before} cannot take the service back: {reason}\n{} serves on, in its probation: \
             `rollback` tries again, `commit` keeps what runs",
            who(self)
        );
        for one in sleepers {
            let Waits::Wake(waiter, looked) = one else {
                continue;
            };
            tracing::error!("{message}");
            // It failed: the program on disk is the one that serves.
            if let Some(found) = looked.filter(|_| !self.disk.store.disk().matches_running) {
                self.disk.reject(found);
            }
            waiter.end(exit::FAILED, message.clone());
        }
    }

    /// Nobody is waited for any more. For the machine of now the order of before may be another one.
    pub(super) fn woken(&mut self, waiter: Waiter) {
        let no_way_back = self.workers.irreversible().map(words::no_way_back);
        match no_way_back.filter(|_| waiter.goes_back()) {
            Some(why) => waiter.end(exit::REFUSED, why),
            None if waiter.goes_back() && self.machine.serves_alone() => {
                let message = format!(
                    "the generation before is gone, and there is no way back in memory: {} serves on; \
                     `status` says what `rollback` goes back to now",
                    who(self)
                );
                waiter.end(exit::FAILED, message);
            }
            None => self.wait(Waits::Turn(waiter)),
        }
    }
}

/// The parked predecessor.
impl Driver {
    /// Our successor wants to give the service back.
    pub(super) fn wake(&mut self) {
        let config = &self.configured.config;
        match self.applications.hold(config) {
            Ok(_) => self.say_awake(self.applications.silence()),
            Err(NotReady) => match self.applications.start(config) {
                Ok(()) => self.waking.wanted = true,
                Err(why) => self.say_awake(Some(why)),
            },
        }
    }

    /// What our application did, if somebody waits for that.
    pub(super) fn say_whether_awake(&mut self, happened: &Happened) {
        let reason = match happened {
            Happened::Ready => None,
            Happened::NotReady(why) => Some(why.clone()),
            _ => return,
        };
        if std::mem::take(&mut self.waking.wanted) {
            self.say_awake(reason);
        }
    }

    fn say_awake(&mut self, reason: Option<String>) {
        self.waking.expects = reason.is_none().then(|| Instant::now() + MARGIN);
        self.successor.say(Message::Awake { reason }, Vec::new());
    }

    /// Our last worker has gone: `parked = "stopped"` frees the application's memory, unless it is about to
    /// be needed.
    pub(super) fn rest(&mut self) {
        let needed = self.waking.wanted || self.waking.expects.is_some();
        if self.machine.phase().may_serve_again() && !needed {
            self.applications.rest();
        }
    }

    /// It was not needed. (Workers of ours that still drain may need it: whoever leaves last lets it rest.)
    pub(super) fn rest_if_late(&mut self, now: Instant) {
        let late = self.waking.expects.take_if(|until| *until <= now);
        if late.is_some() && self.workers.have_left() {
            self.rest();
        }
    }
}
