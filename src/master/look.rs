//! A file that shall supersede the generation in probation is looked at first: that one is not given up
//! for a file that cannot even pass its pre-flight.

use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::input::Input;
use super::launch;
use super::store::Found;
use super::waiter::Waiter;
use crate::machine::{Event, Failure, OrderKind};
use crate::sys::runtime;

/// It was looked at.
#[derive(Debug)]
pub struct Looked {
    waiter: Waiter,
    found: Found,
    result: Result<(), Failure>,
}

impl Driver {
    /// Before the machine hears the order in hand.
    pub(super) fn look_first(&mut self) {
        let Some(waiter) = self.orders.let_go() else {
            return;
        };
        let limit = self.configured.config.upgrade.start_timeout + Duration::from_secs(10);
        self.manager.extend_timeout(limit);
        let (plan, post) = (self.plan(false, Arc::default()), self.successor.post());
        runtime::spawn(async move {
            let found = Arc::clone(&plan.found);
            let result = launch::look(&plan).await.map(drop);
            let looked = Looked {
                waiter,
                found: found.get().cloned().unwrap_or_default(),
                result,
            };
            let _ = post.send(Input::Looked(Box::new(looked))).await;
        });
    }

    /// The machine hears the order then.
    pub(super) fn looked(&mut self, looked: Looked) -> Option<Event> {
        let Looked {
            waiter,
            found,
            result,
        } = looked;
        let Err(failure) = result else {
            let order = self.orders.hold(waiter);
            if self.can_wake() {
                self.waking.looked = Some(found);
                self.wake_first();
                return None;
            }
            return Some(Event::Order(order));
        };
        let id = waiter.id().unwrap_or_default().to_owned();
        let phase = self.machine.phase();
        self.story.refused(id, &failure, &found, phase);
        self.disk.reject(found);
        let message = self.failed(OrderKind::Upgrade, &failure);
        waiter.end(failure.exit, message);
        None
    }
}
