//! What clients of the control socket ask: figures, orders; and who follows is told every step.

use super::control::{self, Answer, Request};
use super::disk::SETTLES;
use super::driver::Driver;
use super::orders::{Known, PutOff};
use super::{status, words};
use crate::api;
use crate::machine::{Event, Phase};

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
                self.ordered(order, answer).await;
            }
        }
    }

    /// An order, which waits when it would take a rejected program for a new one.
    pub(super) async fn ordered(&mut self, order: control::Order, answer: Answer) {
        if order.looks_at_disk() && self.waits_for_disk() {
            return self.put_off(PutOff::Order(order, answer));
        }
        if matches!(order, control::Order::Commit) && self.waking.waits() {
            return answer.end(api::Verdict {
                exit: api::exit::REFUSED,
                message:
                    "a rollback is under way: the generation before gets its application ready"
                        .into(),
                id: None,
            });
        }
        let no_way_back = self.workers.irreversible();
        if let Some(why) = no_way_back.filter(|_| matches!(order, control::Order::Rollback)) {
            return answer.end(api::Verdict {
                exit: api::exit::REFUSED,
                message: words::no_way_back(why),
                id: None,
            });
        }
        let (phase, id) = (self.machine.phase(), self.story.id().map(ToOwned::to_owned));
        let generation = self.fixed.me.generation;
        let tell = |message| step_event(phase, generation, id, message);
        let config = &self.configured.config;
        let mut hosted = self.releases.on_disk(config, &self.applications);
        if matches!(order, control::Order::Apply(_)) {
            let loaded = self.fixed.setup.sources.load_for_any_release();
            hosted.unusable = loaded.ok().and_then(|(_, unusable)| unusable);
        }
        let latest = self.story.latest();
        let known = Known {
            hosted,
            refused: self.state.refused_builds(),
            last: latest.as_ref(),
        };
        let order = self
            .orders
            .take(order, answer, &mut self.disk, &known, tell);
        let Some(order) = order else { return };
        if self.machine.gives_up_for(&order) {
            return self.look_first();
        }
        if self.machine.gives_back_for(&order) && self.can_wake() {
            return self.wake_first();
        }
        self.happen(Event::Order(order)).await;
    }

    /// It waits for the program on disk, but not for ever.
    pub(super) fn put_off(&mut self, one: PutOff) {
        self.orders.put_off(one);
        self.disk.late_in(SETTLES);
    }

    /// Something is being done to the program on disk: what begins now would look at it.
    pub(super) fn waits_for_disk(&self) -> bool {
        self.disk.is_working() && self.machine.may_begin()
    }

    /// What waited until the program on disk was put right.
    pub(super) async fn resume(&mut self) {
        if self.waits_for_disk() {
            return;
        }
        for one in self.orders.resume() {
            match one {
                PutOff::Order(order, answer) => self.ordered(order, answer).await,
                PutOff::Signal(signal) => self.happen(Event::Signal(signal)).await,
            }
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
