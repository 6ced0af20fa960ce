//! A file that shall supersede the generation in probation is looked at first: that one is not given up
//! for a file that cannot even pass its pre-flight.

use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::input::Input;
use super::launch;
use super::orders::Waits;
use super::store::Found;
use super::waiter::Waiter;
use crate::machine::{Failure, OrderKind};
use crate::sys::runtime;

/// It was looked at.
#[derive(Debug)]
pub struct Looked {
    /// For this upgrade.
    id: String,
    found: Found,
    result: Result<(), Failure>,
}

/// Beside the limit that a start has.
pub(super) const EXTRA: Duration = Duration::from_secs(10);

impl Driver {
    /// Before the machine hears the order.
    pub(super) fn look_first(&mut self, waiter: Waiter) {
        let limit = self.configured.config.upgrade.start_timeout + EXTRA;
        self.manager.extend_timeout(limit);
        let (plan, post) = (self.plan(false, Arc::default()), self.successor.post());
        let id = waiter.id().unwrap_or_default().to_owned();
        self.wait(Waits::Look(waiter));
        runtime::spawn(async move {
            let found = Arc::clone(&plan.found);
            let result = launch::look(&plan).await.map(drop);
            let looked = Looked {
                id,
                found: found.get().cloned().unwrap_or_default(),
                result,
            };
            let _ = post.send(Input::Looked(Box::new(looked))).await;
        });
    }

    pub(super) fn looked(&mut self, looked: Looked) {
        let Looked { id, found, result } = looked;
        let waiters = self.orders.take_looked_at(&id);
        let Err(failure) = result else {
            for waiter in waiters {
                self.wake_first(waiter, Some(found.clone()));
            }
            return;
        };
        let phase = self.machine.phase();
        self.story.refused(id, &failure, &found, phase);
        self.disk.reject(found);
        let message = self.failed(OrderKind::Upgrade, &failure);
        for waiter in waiters {
            waiter.end(failure.exit, message.clone());
        }
    }
}
