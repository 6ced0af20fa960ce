//! Who waits for the answer to an order.

use std::time::Duration;

use super::control::Answer;
use crate::api::{self, Until, exit};
use crate::machine::{Order, OrderKind};

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

/// An answer that is due.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) waiter: Waiter,
    pub(super) exit: u8,
    pub(super) message: String,
}

impl Reply {
    pub(super) fn kind(&self) -> OrderKind {
        self.waiter.order.kind()
    }

    /// `differs`: it is done; but a restart would start something else.
    pub(super) fn end(self, differs: Option<&str>) {
        match differs {
            Some(why) => self.waiter.end(
                self.exit.max(exit::FAILED),
                format!("{}\n{why}", self.message),
            ),
            None => self.waiter.end(self.exit, self.message),
        }
    }
}

impl Waiter {
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
