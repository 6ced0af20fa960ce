//! Before a hosted service is given back by an order: the predecessor gets its application ready, which
//! takes time and may fail. Nothing is given up for one that could not serve.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::driver::Driver;
use super::hosting::{Happened, NotReady};
use super::input::Input;
use super::status::{predecessor_who, who};
use super::store::Found;
use super::waiter::Waiter;
use super::words;
use crate::api::exit;
use crate::machine::message::Message;
use crate::machine::{Event, Phase};

/// The orders that wait for the predecessor's word.
#[derive(Debug)]
pub(super) struct Waking {
    post: mpsc::Sender<Input>,
    /// How often the predecessor was asked.
    number: u64,
    asleep: Vec<Waiter>,
    /// For the machine.
    awake: Vec<Waiter>,
    /// What was at the path when an order that supersedes this generation was looked at.
    pub(super) looked: Option<Found>,
    /// The predecessor has an application, or may have one.
    there_is_one: bool,
    /// A parked master: its successor waits for our application.
    wanted: bool,
    /// A parked master: the service comes back at any moment.
    expects: bool,
}

/// A start has its own limit; this is for a predecessor that says nothing.
const MARGIN: Duration = Duration::from_secs(5);

impl Waking {
    pub(super) fn new(post: mpsc::Sender<Input>) -> Self {
        Self {
            post,
            number: 0,
            asleep: Vec::new(),
            awake: Vec::new(),
            looked: None,
            there_is_one: false,
            wanted: false,
            expects: false,
        }
    }

    /// What the predecessor runs, and what we do, which it may not have told because it was not ready.
    pub(super) fn predecessor_hosts(&mut self, its: bool, ours: bool) {
        self.there_is_one = its || ours;
    }

    /// Whether an order waits for the predecessor's word.
    pub(super) fn waits(&self) -> bool {
        !self.asleep.is_empty()
    }

    /// Nobody is waited for any more.
    fn all_awake(&mut self) {
        self.awake.append(&mut self.asleep);
    }
}

/// The owner.
impl Driver {
    /// Whether there is a predecessor that has an application to get ready. (Others are not asked: one that
    /// hangs would be waited for.)
    pub(super) fn can_wake(&self) -> bool {
        self.machine.may_give_back() && self.waking.there_is_one
    }

    /// Before the machine hears the order in hand.
    pub(super) fn wake_first(&mut self) {
        let Some(waiter) = self.orders.let_go() else {
            return;
        };
        let waking = &mut self.waking;
        waking.asleep.push(waiter);
        if waking.asleep.len() > 1 {
            return;
        }
        waking.number += 1;
        let limit = self.configured.config.upgrade.start_timeout + MARGIN;
        Input::WakeLate(waking.number).after(limit, &waking.post);
        // The probation does not end in between.
        self.machine
            .prolong_probation(Instant::now() + limit + MARGIN);
        self.manager.extend_timeout(limit);
        self.tell_predecessor(Message::Wake);
    }

    /// What the predecessor said.
    pub(super) fn awake(&mut self, reason: Option<String>) {
        // With an application that does not answer here either, nothing is lost.
        let reason = reason.filter(|_| self.applications.silence().is_none());
        let Some(reason) = reason else {
            return self.waking.all_awake();
        };
        let before = predecessor_who(self);
        let before = before.map_or_else(|| "the generation before".into(), |who| who.to_string());
        let message = format!(
            "{before} cannot take the service back: {reason}\n{} serves on, in its probation: \
             `rollback` tries again, `commit` keeps what runs",
            who(self)
        );
        tracing::error!("{message}");
        for waiter in std::mem::take(&mut self.waking.asleep) {
            // It failed: the program on disk is the one that serves.
            let looked = self.waking.looked.take().filter(|_| !waiter.goes_back());
            if let Some(found) = looked.filter(|_| !self.disk.store.disk().matches_running) {
                self.disk.reject(found);
            }
            waiter.end(exit::FAILED, message.clone());
        }
    }

    /// It does not know the question, or hangs: the machine has its ways.
    pub(super) fn wake_is_late(&mut self, number: u64) {
        if number == self.waking.number {
            self.waking.all_awake();
        }
    }

    /// The machine hears what waited for the predecessor's word, or for a predecessor that is no more.
    pub(super) async fn hear_what_waited(&mut self) {
        if !self.machine.may_give_back() {
            self.waking.all_awake();
        }
        for waiter in std::mem::take(&mut self.waking.awake) {
            if let Some(verdict) = self.no_way_back_any_more(&waiter) {
                waiter.end(verdict.0, verdict.1);
                continue;
            }
            let order = self.orders.hold(waiter);
            self.happen(Event::Order(order)).await;
        }
    }
}

/// What happened while an order waited.
impl Driver {
    /// For the machine of now the order of before may be another one.
    fn no_way_back_any_more(&self, waiter: &Waiter) -> Option<(u8, String)> {
        if !waiter.goes_back() {
            return None;
        }
        if let Some(why) = self.workers.irreversible() {
            return Some((exit::REFUSED, words::no_way_back(why)));
        }
        let phase = self.machine.phase();
        let alone = matches!(phase, Phase::Committing | Phase::Serving | Phase::Reloading);
        alone.then(|| {
            let message = format!(
                "the generation before is gone, and there is no way back in memory: {} serves on; \
                 `status` says what `rollback` goes back to now",
                who(self)
            );
            (exit::FAILED, message)
        })
    }
}

/// The parked predecessor.
impl Driver {
    /// Our successor wants to give the service back.
    pub(super) fn wake(&mut self) {
        self.waking.expects = true;
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
        self.waking.expects = reason.is_none();
        self.successor.say(Message::Awake { reason }, Vec::new());
    }

    /// Our last worker has gone: `parked = "stopped"` frees the application's memory, unless it is about to
    /// be needed.
    pub(super) fn rest(&mut self) {
        if self.machine.phase().may_serve_again() && !self.waking.expects {
            self.applications.rest();
        }
    }

    /// What was expected has come, or something else.
    pub(super) fn expect_nothing(&mut self) {
        self.waking.expects = false;
    }
}
