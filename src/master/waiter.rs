//! Who waits for the answer to an order, and what the order means to the machine.

use std::time::Duration;

use super::control::{self, Answer};
use super::disk::Disk;
use super::record::new_id;
use super::releases::OnDisk;
use super::store::{Found, StoreError};
use super::words;
use crate::api::{self, Last, Until, UpgradeOrder, exit};
use crate::config::ConfigError;
use crate::machine::Order;
use crate::machine::message::Supersede;
use crate::sys::image::Image;

/// Who gave an order, and how it is to be answered.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) order: Order,
    pub(super) until: Until,
    /// Of an upgrade.
    pub(super) upgrade: Option<Upcoming>,
    pub(super) answer: Answer,
}

/// An upgrade that was ordered.
#[derive(Debug, Clone)]
pub(super) struct Upcoming {
    pub(super) id: String,
    /// Instead of the configured one.
    pub(super) probation: Option<Duration>,
    /// For its release.
    pub(super) release: bool,
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

impl Waiter {
    /// Of an order; `None`: it is answered already. `tell` makes a step of what is said on the way.
    pub(super) fn of(
        order: control::Order,
        answer: Answer,
        disk: &mut Disk,
        known: &Known<'_>,
        tell: impl FnOnce(String) -> api::Event,
    ) -> Option<Self> {
        let Known {
            hosted, refused, ..
        } = known;
        let order = match order {
            control::Order::Upgrade(order) => return Self::of_upgrade(order, answer, disk, hosted),
            control::Order::Apply(mut order) => {
                let opened = disk.store.open();
                let image = opened.as_ref().ok();
                let running = image.map(Image::build_id) == Some(disk.store.running().build_id());
                let same = running && !hosted.new;
                let rejected = image.is_some_and(|image| disk.store.was_refused(image, refused));
                if !same && !rejected {
                    // A successor in probation is taken back first.
                    order.supersede = true;
                    return Self::of_upgrade(order, answer, disk, hosted);
                }
                if rejected {
                    let message = words::refused_before(disk.store.path());
                    tracing::warn!("{message}");
                    answer.step(tell(message));
                    // Not to be started at the next boot either.
                    disk.reject(Found::of(&opened));
                }
                if let Some(why) = &hosted.unusable {
                    end_without_release(answer, why);
                    return None;
                }
                Order::Reload
            }
            control::Order::Commit => Order::Commit,
            control::Order::Rollback => Order::Rollback {
                nothing: no_way_back(disk, known),
            },
            control::Order::Reload => Order::Reload,
            control::Order::Stop => Order::Stop,
        };
        Some(Self {
            order,
            until: Until::Takeover,
            upgrade: None,
            answer,
        })
    }

    fn of_upgrade(
        order: UpgradeOrder,
        answer: Answer,
        disk: &Disk,
        hosted: &OnDisk,
    ) -> Option<Self> {
        let id = order.id.unwrap_or_else(new_id);
        let current = disk.store.disk().matches_running && !hosted.other;
        if let Some(why) = hosted.unusable.as_ref().filter(|_| current) {
            end_without_release(answer, why);
            return None;
        }
        let supersede = order.supersede.then(|| Supersede {
            id: id.clone(),
            hold: order.hold,
            probation_ms: order.probation_ms,
            release: order.release.is_some(),
        });
        let elsewhere = order.release.as_ref();
        let elsewhere = elsewhere.and_then(|one| hosted.leads_elsewhere(one));
        let waiter = Self {
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
        Some(waiter)
    }

    /// The upgrade's id, if it is about one.
    pub(super) fn id(&self) -> Option<&str> {
        self.upgrade.as_ref().map(|upgrade| &*upgrade.id)
    }

    /// Whether it is a rollback.
    pub(super) fn goes_back(&self) -> bool {
        matches!(self.order, Order::Rollback { .. })
    }

    pub(super) fn end(self, exit: u8, message: String) {
        self.answer.end(api::Verdict {
            exit,
            message,
            id: self.upgrade.map(|upgrade| upgrade.id),
        });
    }
}

/// There is nothing new but a link to what cannot be started.
fn end_without_release(answer: Answer, why: &ConfigError) {
    answer.end(api::Verdict {
        exit: exit::CONFIG,
        message: words::no_release(why),
        id: None,
    });
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
