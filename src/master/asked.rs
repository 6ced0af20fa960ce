//! What clients of the control socket ask: figures, orders; and who follows is told every step.

use super::control::{Answer, Order, Request};
use super::driver::Driver;
use super::orders::{Waits, Wanted};
use super::waiter::{Known, Waiter};
use super::{status, words};
use crate::api;
use crate::machine::Phase;

impl Driver {
    pub(super) async fn asked(&mut self, request: Request) {
        match request {
            Request::Figures(asked) => self.ask_figures(asked),
            Request::Order {
                order,
                peer,
                answer,
            } => {
                tracing::info!("{}: ordered by {peer}", order.verb());
                self.begin(Wanted::Order(order, answer)).await;
            }
        }
    }

    /// An order, which waits for what must be so before the machine hears it.
    pub(super) fn ordered(&mut self, order: Order, answer: Answer) {
        let order = match order {
            Order::Apply(_) if self.leads_back() => Order::Rollback,
            order => order,
        };
        if let Some(why) = self.refuses(&order) {
            return answer.refuse(why);
        }
        let (phase, id) = (self.machine.phase(), self.story.id().map(ToOwned::to_owned));
        let generation = self.fixed.me.generation;
        let tell = |message| step_event(phase, generation, id, message);
        let config = &self.configured.config;
        let mut hosted = self.releases.on_disk(config, &self.applications);
        if matches!(order, Order::Apply(_) | Order::Upgrade(_)) {
            let loaded = self.fixed.setup.sources.load_for_any_release();
            hosted.unusable = loaded.ok().and_then(|(_, unusable)| unusable);
        }
        let latest = self.story.latest();
        let known = Known {
            hosted,
            refused: self.state.refused_builds(),
            last: latest.as_ref(),
        };
        let Some(waiter) = Waiter::of(order, answer, &mut self.disk, &known, tell) else {
            return;
        };
        if self.machine.gives_up_for(&waiter.order) {
            self.look_first(waiter);
        } else if self.machine.gives_back_for(&waiter.order) {
            self.wake_first(waiter, None);
        } else {
            self.wait(Waits::Turn(waiter));
        }
    }

    /// In a probation: what is on disk is what the parked master has, link and program.
    fn leads_back(&self) -> bool {
        let (Some(predecessor), Some(record)) = (&self.predecessor, self.story.upgrade()) else {
            return false;
        };
        let disk = self.disk.store.disk();
        let same = disk.build_id.as_ref() == Some(&predecessor.identity().build_id);
        let config = &self.configured.config;
        let hosted = self.releases.on_disk(config, &self.applications);
        let before = record.releases.as_ref().map(|releases| &*releases.from);
        same && before.is_some_and(|before| hosted.leads_elsewhere(before).is_none())
    }

    /// Why it is not even asked of the machine.
    fn refuses(&self, order: &Order) -> Option<String> {
        match order {
            Order::Commit if self.orders.wait_for_application() => {
                let why =
                    "a rollback is under way: the generation before gets its application ready";
                Some(why.into())
            }
            Order::Rollback => self.workers.irreversible().map(words::no_way_back),
            _ => None,
        }
    }

    /// Everybody who follows learns of a phase change.
    pub(super) fn tell_step(&self) {
        let id = self.story.id().map(ToOwned::to_owned);
        let (phase, generation) = (self.machine.phase(), self.fixed.me.generation);
        let event = step_event(phase, generation, id, status::line(self));
        self.orders.tell(&event);
        self.desk.publish(event);
    }
}

fn step_event(phase: Phase, generation: u64, id: Option<String>, message: String) -> api::Event {
    api::Event::Step {
        id,
        generation,
        phase: phase.into(),
        message,
    }
}
