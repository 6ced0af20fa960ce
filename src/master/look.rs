//! A file that shall supersede the generation in probation is looked at first.

use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::input::Input;
use super::launch;
use super::orders::Waiter;
use super::record::Record;
use super::store::Found;
use super::story::{self, Milestone};
use crate::api::{Outcome, UpgradeOrder};
use crate::machine::{Failure, OrderKind};

/// The file that shall supersede a generation in probation was looked at.
#[derive(Debug)]
pub struct Looked {
    order: UpgradeOrder,
    waiter: Waiter,
    found: Found,
    result: Result<(), Failure>,
}

impl Driver {
    /// The generation in probation is not given up for a file that cannot even pass its pre-flight.
    pub(super) fn look_first(&self, order: UpgradeOrder, waiter: Waiter) {
        let limit = self.config.upgrade.start_timeout + Duration::from_secs(10);
        self.manager.extend_timeout(limit);
        let (plan, post) = (self.plan(false, Arc::default()), self.post.clone());
        tokio::spawn(async move {
            let found = Arc::clone(&plan.found);
            let result = launch::look(&plan).await.map(drop);
            let looked = Looked {
                order,
                waiter,
                found: found.get().cloned().unwrap_or_default(),
                result,
            };
            let _ = post.send(Input::Looked(Box::new(looked))).await;
        });
    }

    pub(super) async fn looked(&mut self, looked: Looked) {
        let Looked {
            order,
            waiter,
            found,
            result,
        } = looked;
        let Err(failure) = result else {
            return self.begin_upgrade(&order, waiter).await;
        };
        let id = waiter.id.clone().unwrap_or_default();
        let text = format!("upgrade {id} failed: {}", failure.reason);
        let record = Record::new(id, &self.fixed.me.version, order.hold, false);
        Milestone {
            cast: record.cast(),
            reason: Some(&failure.reason),
            ..self.milestone(story::FAILED)
        }
        .warn(text);
        self.remember_end(&record.ended(Outcome::Failed, Some(failure.reason.clone())));
        self.remember_refused(found.build());
        self.disk.reject(found);
        let message = self.failed(OrderKind::Upgrade, &failure);
        waiter.end(failure.exit, message);
    }
}
