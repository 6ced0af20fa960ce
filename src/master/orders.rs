//! Orders: taken from the control socket, put into the machine's words, answered when it says so.

use std::time::{Duration, Instant};

use super::control::{Answer, Order as Asked};
use super::disk::{Disk, SETTLES};
use super::record::new_id;
use super::releases::OnDisk;
use super::store::{Found, StoreError};
use super::waiter::{Reply, Upcoming, Waiter};
use super::words;
use crate::api::{self, Last, Outcome, Until, UpgradeOrder, exit};
use crate::machine::message::Supersede;
use crate::machine::{Order, OrderKind, Signal};
use crate::sys::image::Image;

/// Those who wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// The order this step is about: a refusal is for it alone.
    in_hand: Option<Waiter>,
    waiting: Vec<Waiter>,
    /// `--until commit`: taken over, not yet final.
    until_commit: Vec<Waiter>,
    /// What waits until the program on disk is put right.
    put_off: Vec<(Instant, PutOff)>,
    /// The upgrade that the next launch is.
    upcoming: Option<Upcoming>,
}

/// What an order may depend on.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) hosted: OnDisk,
    /// The builds that were refused.
    pub(super) refused: Vec<String>,
    /// The upgrade under way, else the one that ended last.
    pub(super) last: Option<&'a Last>,
}

/// What would take a rejected program for a new one, if it began now.
#[derive(Debug)]
pub(super) enum PutOff {
    Order(Asked, Answer),
    Signal(Signal),
}

impl Orders {
    /// Takes an order; `None`: it is answered already. `tell` makes a step of what is said on the way.
    pub(super) fn take(
        &mut self,
        order: Asked,
        answer: Answer,
        disk: &mut Disk,
        known: &Known<'_>,
        tell: impl FnOnce(String) -> api::Event,
    ) -> Option<Order> {
        let Known {
            hosted, refused, ..
        } = known;
        let order = match order {
            Asked::Upgrade(order) => return self.take_upgrade(order, answer, disk, hosted),
            Asked::Apply(mut order) => {
                let opened = disk.store.open();
                let build = opened.as_ref().ok().map(Image::build_id);
                let running = build == Some(disk.store.running().build_id());
                let same = running && !hosted.new;
                let rejected = build.is_some_and(|build| disk.store.was_refused(build, refused));
                if !same && !rejected {
                    // A successor in probation is taken back first.
                    order.supersede = true;
                    return self.take_upgrade(order, answer, disk, hosted);
                }
                if rejected {
                    let message = words::refused_before(disk.store.path());
                    tracing::warn!("{message}");
                    answer.step(tell(message));
                    // Not to be started at the next boot either.
                    disk.reject(Found::of(&opened));
                }
                if let Some(why) = &hosted.unusable {
                    answer.end(api::Verdict {
                        exit: exit::CONFIG,
                        message: words::no_release(why),
                        id: None,
                    });
                    return None;
                }
                Order::Reload
            }
            Asked::Commit => Order::Commit,
            Asked::Rollback => Order::Rollback {
                nothing: no_way_back(disk, known),
            },
            Asked::Reload => Order::Reload,
            Asked::Stop => Order::Stop,
        };
        Some(self.hold(Waiter {
            order,
            until: Until::Takeover,
            upgrade: None,
            answer,
        }))
    }

    /// Takes an order in hand for the machine to hear.
    pub(super) fn hold(&mut self, waiter: Waiter) -> Order {
        let order = waiter.order.clone();
        if waiter.upgrade.is_some() {
            self.upcoming.clone_from(&waiter.upgrade);
        }
        self.in_hand = Some(waiter);
        order
    }

    fn take_upgrade(
        &mut self,
        order: UpgradeOrder,
        answer: Answer,
        disk: &Disk,
        hosted: &OnDisk,
    ) -> Option<Order> {
        let id = order.id.unwrap_or_else(new_id);
        let current = disk.store.disk().matches_running && !hosted.other;
        let supersede = order.supersede.then(|| Supersede {
            id: id.clone(),
            hold: order.hold,
            probation_ms: order.probation_ms,
            release: order.release.is_some(),
        });
        let elsewhere = order.release.as_ref();
        let elsewhere = elsewhere.and_then(|one| hosted.leads_elsewhere(one));
        let waiter = Waiter {
            order: Order::Upgrade {
                current,
                end_oldest: order.end_oldest,
                hold: order.hold,
                supersede,
            },
            until: order.until,
            upgrade: Some(Upcoming {
                id,
                probation: order.probation_ms.map(Duration::from_millis),
                release: order.release.is_some(),
            }),
            answer,
        };
        if let Some(elsewhere) = elsewhere {
            waiter.end(exit::REFUSED, elsewhere);
            return None;
        }
        Some(self.hold(waiter))
    }

    /// The machine has heard the order. Not answered in this step: it waits.
    pub(super) fn given(&mut self) {
        let waits = self.in_hand.take();
        if waits.is_none() {
            // Refused: the next launch is not this one.
            self.upcoming = None;
        }
        self.waiting.extend(waits);
    }

    /// The order in hand, for somebody who looks at something before the machine hears it.
    pub(super) fn let_go(&mut self) -> Option<Waiter> {
        self.upcoming = None;
        self.in_hand.take()
    }

    pub(super) fn put_off(&mut self, one: PutOff) {
        self.put_off.push((Instant::now(), one));
    }

    /// What was put off, in order.
    pub(super) fn resume(&mut self) -> impl Iterator<Item = PutOff> + use<> {
        let all = std::mem::take(&mut self.put_off).into_iter();
        all.map(|(_, one)| one)
    }

    /// What has waited for too long is not done.
    pub(super) fn refuse_put_off(&mut self) {
        let late = |(since, _): &(Instant, PutOff)| since.elapsed() >= SETTLES;
        let (late, rest) = std::mem::take(&mut self.put_off)
            .into_iter()
            .partition::<Vec<_>, _>(late);
        self.put_off = rest;
        for (_, one) in late {
            match one {
                PutOff::Order(_, answer) => answer.end(api::Verdict {
                    exit: exit::REFUSED,
                    message: words::DISK_BUSY.into(),
                    id: None,
                }),
                PutOff::Signal(signal) => {
                    tracing::warn!("SIG{} is refused: {}", signal.as_str(), words::DISK_BUSY);
                }
            }
        }
    }

    /// The upgrade that is launched now, if it was ordered.
    pub(super) fn upcoming(&mut self) -> Option<Upcoming> {
        self.upcoming.take()
    }

    /// For the one who asked now, not for those who wait already.
    pub(super) fn answer(&mut self, exit: u8, message: String) {
        if let Some(waiter) = self.in_hand.take() {
            waiter.end(exit, message);
        }
    }

    /// The answers for all orders of a kind. `until_commit`: who wants to know the end waits on.
    pub(super) fn settle(
        &mut self,
        kind: OrderKind,
        exit: u8,
        message: &str,
        until_commit: bool,
    ) -> Vec<Reply> {
        let (wait, answered): (Vec<_>, Vec<_>) = self
            .take_waiters(kind)
            .into_iter()
            .partition(|waiter| until_commit && waiter.until == Until::Commit);
        self.until_commit.extend(wait);
        let reply = |waiter| Reply {
            waiter,
            exit,
            message: message.to_owned(),
        };
        answered.into_iter().map(reply).collect()
    }

    /// Dropped without a verdict: the client asks the next owner, by id.
    pub(super) fn moved(&mut self, kind: OrderKind) {
        drop(self.take_waiters(kind));
    }

    fn take_waiters(&mut self, kind: OrderKind) -> Vec<Waiter> {
        if kind == OrderKind::Upgrade {
            self.upcoming = None;
        }
        let now = self.in_hand.take_if(|w| w.order.kind() == kind);
        let (of_kind, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|w| w.order.kind() == kind);
        self.waiting = rest;
        now.into_iter().chain(of_kind).collect()
    }

    /// An upgrade ended: those who waited for it.
    pub(super) fn ended(&mut self, last: &Last) {
        let text = words::ended(last);
        let exit = match last.outcome {
            Outcome::Committed => exit::OK,
            _ => exit::FAILED,
        };
        for waiter in std::mem::take(&mut self.until_commit) {
            waiter.end(exit, text.clone());
        }
    }

    /// This master leaves: whoever still waits asks again, by the upgrade's id.
    pub(super) fn hang_up(&mut self) {
        self.in_hand = None;
        self.waiting.clear();
        self.until_commit.clear();
        self.put_off.clear();
    }

    /// A step, for everybody who waits.
    pub(super) fn tell(&self, event: &api::Event) {
        let all = self.in_hand.iter().chain(&self.waiting);
        for waiter in all.chain(&self.until_commit) {
            waiter.answer.step(event.clone());
        }
    }
}

/// Why a rollback goes nowhere when no predecessor is parked; `None`: to the program of before.
fn no_way_back(disk: &Disk, known: &Known<'_>) -> Option<String> {
    let decided = known.last.and_then(words::release_is_decided);
    match (decided, disk.store.previous(&known.refused)) {
        (None, Ok(_)) => None,
        (Some(why), Ok(program)) => Some(words::program_of_before(&why, program.path())),
        (Some(why), Err(_)) => Some(why),
        (None, Err(StoreError::NoOld(_))) => Some(words::nothing_to_go_back_to(known.last)),
        (None, Err(e)) => Some(format!("there is nothing to go back to: {e}")),
    }
}
