//! Orders: taken from the control socket, given to the machine, answered when it says so.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::control::{Answer, Order as Asked, Peer};
use super::disk::DISK_BUSY;
use super::driver::Driver;
use super::record::new_id;
use super::store::{Found, StoreError};
use super::words::{self, Who};
use crate::api::{self, Last, Outcome, Until, UpgradeOrder, exit};
use crate::machine::message::Supersede;
use crate::machine::trial::Name;
use crate::machine::{Event, Failure, Order, OrderKind, Phase, Verdict};

/// Those who wait for an answer, and what waits for the disk.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// The order this step is about: a refusal is for it alone.
    in_hand: Option<Waiter>,
    waiting: Vec<Waiter>,
    /// `--until commit`: taken over, not yet final.
    until_commit: Vec<Waiter>,
    /// The upgrade that the next launch is.
    pub(super) upcoming: Option<Upcoming>,
    /// Verdicts that are true when the disk is as it should be.
    pub(super) after_disk: Vec<(OrderKind, Verdict)>,
    pub(super) conclusion: Option<(Outcome, Option<Failure>)>,
    /// What the predecessor could not do to the program on disk.
    pub(super) disk_elsewhere: Option<String>,
    /// A Retire that waits for the disk.
    pub(super) retire: Option<String>,
    /// Control sockets that still answer what was taken.
    pub(super) doors: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    kind: OrderKind,
    until: Until,
    pub(super) id: Option<String>,
    answer: Answer,
}

/// An upgrade that was ordered.
#[derive(Debug)]
pub(super) struct Upcoming {
    pub(super) id: String,
    pub(super) probation: Option<Duration>,
    /// For its release.
    pub(super) release: bool,
}

impl Orders {
    fn take(&mut self, kind: OrderKind) -> Vec<Waiter> {
        let mut taken: Vec<Waiter> = self
            .in_hand
            .take_if(|w| w.kind == kind)
            .into_iter()
            .collect();
        let (of_kind, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|w| w.kind == kind);
        self.waiting = rest;
        taken.extend::<Vec<_>>(of_kind);
        taken
    }

    /// Those who waited for the commit learn it.
    pub(super) fn committed(&mut self, last: &Last) {
        for waiter in std::mem::take(&mut self.until_commit) {
            let text = words::ended(Outcome::Committed, &last.from, last.to.as_deref());
            waiter.end(exit::OK, text);
        }
    }

    /// An upgrade ended: those who waited for it.
    pub(super) fn ended(&mut self, last: &Last) {
        if last.outcome == Outcome::Committed {
            return self.committed(last);
        }
        let mut text = words::ended(last.outcome, &last.from, last.to.as_deref());
        if let Some(why) = &last.reason {
            text = format!("{text}: {why}");
        }
        for waiter in std::mem::take(&mut self.until_commit) {
            waiter.end(exit::FAILED, text.clone());
        }
    }

    /// This master leaves: whoever still waits asks again, by the upgrade's id.
    pub(super) fn hang_up(&mut self) {
        self.in_hand = None;
        self.waiting.clear();
        self.until_commit.clear();
    }

    fn tell(&self, event: &api::Event) {
        let all = self.in_hand.iter().chain(&self.waiting);
        for waiter in all.chain(&self.until_commit) {
            waiter.answer.step(event.clone());
        }
    }
}

impl Waiter {
    pub(super) fn end(self, exit: u8, message: String) {
        self.answer.end(api::Verdict {
            exit,
            message,
            id: self.id,
        });
    }
}

impl Driver {
    pub(super) async fn order(&mut self, order: Asked, peer: Peer, answer: Answer) {
        tracing::info!("{}: ordered by {peer}", order.verb());
        let begins = matches!(order, Asked::Upgrade(_) | Asked::Apply(_) | Asked::Rollback);
        if begins && !self.disk_settles().await {
            return answer.end(api::Verdict {
                exit: exit::REFUSED,
                message: DISK_BUSY.into(),
                id: None,
            });
        }
        match order {
            Asked::Upgrade(order) => self.order_upgrade(order, answer).await,
            Asked::Apply(order) => self.order_apply(order, answer).await,
            Asked::Commit => self.give(OrderKind::Commit, Order::Commit, answer).await,
            Asked::Rollback => self.order_rollback(answer).await,
            Asked::Reload => self.give(OrderKind::Reload, Order::Reload, answer).await,
            Asked::Stop => self.give(OrderKind::Stop, Order::Stop, answer).await,
        }
    }

    async fn give(&mut self, kind: OrderKind, order: Order, answer: Answer) {
        let waiter = Waiter {
            kind,
            until: Until::Takeover,
            id: None,
            answer,
        };
        self.give_as(waiter, order).await;
    }

    async fn give_as(&mut self, waiter: Waiter, order: Order) {
        self.orders.in_hand = Some(waiter);
        self.happen(Event::Order(order)).await;
        // Not answered in this step: it waits.
        let pending = self.orders.in_hand.take();
        self.orders.waiting.extend(pending);
    }

    async fn order_upgrade(&mut self, order: UpgradeOrder, answer: Answer) {
        let id = order.id.clone().unwrap_or_else(new_id);
        let waiter = Waiter {
            kind: OrderKind::Upgrade,
            until: order.until,
            id: Some(id.clone()),
            answer,
        };
        if let Err(reason) = check_id(&id) {
            return waiter.end(exit::USAGE, reason);
        }
        if let Some(elsewhere) = order
            .release
            .as_ref()
            .and_then(|one| self.leads_elsewhere(one))
        {
            return waiter.end(exit::REFUSED, elsewhere);
        }
        let running = self.disk.store.running().build_id();
        let disk = self.disk.store.disk();
        // One that gives the service back does not answer for what will run.
        let stays = self.machine.phase() != Phase::Yielded;
        let same = disk.build_id.as_deref() == Some(running);
        if same && stays && self.applications.other_release().is_none() {
            let version = &self.fixed.me.version;
            let what = match self.applications.release() {
                Some(release) => format!(
                    "{version} runs already with {}: they are the program and the release on disk",
                    release.path.display()
                ),
                None => format!("{version} runs already: it is the program on disk"),
            };
            return waiter.end(exit::OK, what);
        }
        if let Some(full) = self.too_many_draining() {
            return waiter.end(exit::REFUSED, full);
        }
        if order.supersede && self.machine.phase() == Phase::Probation {
            return self.look_first(order, waiter);
        }
        self.begin_upgrade(&order, waiter).await;
    }

    pub(super) async fn begin_upgrade(&mut self, order: &UpgradeOrder, waiter: Waiter) {
        let id = waiter.id.clone().unwrap_or_default();
        let supersede = order.supersede.then(|| Supersede {
            id: id.clone(),
            hold: order.hold,
            probation_ms: order.probation_ms,
            release: order.release.is_some(),
        });
        self.orders.upcoming = Some(Upcoming {
            id,
            probation: order.probation_ms.map(Duration::from_millis),
            release: order.release.is_some(),
        });
        let machine_order = Order::Upgrade {
            hold: order.hold,
            supersede,
        };
        self.give_as(waiter, machine_order).await;
        // Refused: the next launch is not this one.
        self.orders.upcoming = None;
    }

    /// Make what is on disk be what runs.
    async fn order_apply(&mut self, mut order: UpgradeOrder, answer: Answer) {
        let opened = self.disk.store.open();
        let build = opened
            .as_ref()
            .ok()
            .map(|image| image.build_id().to_owned());
        let same = build.as_deref() == Some(self.disk.store.running().build_id())
            && self.new_release().is_none();
        let rejected = build.is_some_and(|build| self.was_refused(&build));
        if !same && !rejected {
            order.supersede |= self.machine.phase() == Phase::Probation;
            return self.order_upgrade(order, answer).await;
        }
        if rejected {
            let message = format!(
                "the program on disk was refused before and is {}.rejected now: only the \
                 configuration is reloaded (`upgrade --binary {0}.rejected` tries it again)",
                self.disk.store.path().display()
            );
            tracing::warn!("{message}");
            // Not to be started at the next boot either.
            self.disk.reject(Found::of(&opened));
            answer.step(self.step_event(self.machine.phase(), message));
        }
        self.give(OrderKind::Reload, Order::Reload, answer).await;
    }

    async fn order_rollback(&mut self, answer: Answer) {
        if let Some(reason) = self.workers.irreversible() {
            return answer.end(api::Verdict {
                exit: exit::REFUSED,
                message: format!("the application says that there is no way back: {reason}"),
                id: None,
            });
        }
        let previous = || self.disk.store.previous(&self.history.refused());
        if self.machine.phase() == Phase::Serving {
            // One that failed has changed nothing: what is gone back from is the program.
            let last = self.last.as_ref();
            let last = last.filter(|last| last.outcome == Outcome::Committed);
            if let Some(releases) = last.and_then(|last| last.releases.as_ref()) {
                return answer.end(api::Verdict {
                    exit: exit::REFUSED,
                    message: format!(
                        "the last upgrade was another release, and it has ended: `deploy {}` goes \
                         back",
                        releases.from.display()
                    ),
                    id: None,
                });
            }
            if let Err(e) = previous() {
                return answer.end(api::Verdict {
                    exit: exit::REFUSED,
                    message: match e {
                        StoreError::NoOld(_) => "there is nothing to go back to: no upgrade is in \
                             probation, and no program of before is kept beside the one on disk"
                            .into(),
                        e => format!("there is nothing to go back to: {e}"),
                    },
                    id: None,
                });
            }
        }
        self.give(OrderKind::Rollback, Order::Rollback, answer)
            .await;
    }

    /// Draining generations pile up when clients hold on for long.
    pub(super) fn too_many_draining(&self) -> Option<String> {
        // One that was rejected drains on when the next one starts.
        let evicted = self.machine.phase() == Phase::Evicting;
        let draining = self.still_draining() + usize::from(evicted);
        (draining >= usize::from(self.config.drain.generations)).then(|| {
            format!(
                "{draining} generations are still draining; try again when `status` shows fewer, \
                 or shorten [drain] timeout"
            )
        })
    }

    /// The machine's verdict on an order.
    pub(super) fn settle(&mut self, kind: OrderKind, verdict: Verdict) {
        let changes_disk = match kind {
            OrderKind::Upgrade => matches!(verdict, Verdict::Failed(_)),
            OrderKind::Rollback | OrderKind::Commit => {
                matches!(verdict, Verdict::Failed(_) | Verdict::Done)
            }
            OrderKind::Reload | OrderKind::Stop => false,
        };
        if self.disk.is_busy() && changes_disk {
            self.orders.after_disk.push((kind, verdict));
            return;
        }
        let (exit, message) = match verdict {
            Verdict::Done => (exit::OK, self.done(kind)),
            Verdict::Already(what) => (exit::OK, what.to_owned()),
            Verdict::Refused(why) => {
                // For the one who asked now, not for those who wait already.
                if let Some(waiter) = self.orders.in_hand.take() {
                    waiter.end(exit::REFUSED, why);
                }
                return;
            }
            Verdict::Failed(failure) => (failure.exit, self.failed(kind, &failure)),
            Verdict::Moved => {
                // Dropped without a verdict: the client asks the next owner, by id.
                drop(self.orders.take(kind));
                return;
            }
        };
        let (exit, message) = match self.disk_differs().filter(|_| changes_disk) {
            // It serves; but what a restart would start is something else.
            Some(why) => (exit.max(exit::FAILED), format!("{message}\n{why}")),
            None => (exit, message),
        };
        for waiter in self.orders.take(kind) {
            let done = exit == exit::OK && kind == OrderKind::Upgrade;
            if done && waiter.until == Until::Commit && self.upgrade.is_some() {
                self.orders.until_commit.push(waiter);
            } else {
                waiter.end(exit, message.clone());
            }
        }
    }

    /// Why the program on disk is not as an order has left it.
    fn disk_differs(&self) -> Option<String> {
        let elsewhere = self.orders.disk_elsewhere.as_ref();
        let why = self.disk.trouble.as_ref().or(elsewhere)?;
        Some(format!(
            "{why}; it is tried again, `status` says when it is done"
        ))
    }

    /// By this service, or by a cold start.
    fn was_refused(&self, build: &str) -> bool {
        let rejected = self.disk.store.build(Name::Rejected);
        rejected.as_deref() == Some(build) || self.history.refused().iter().any(|b| b == build)
    }

    fn done(&self, kind: OrderKind) -> String {
        match kind {
            OrderKind::Upgrade => {
                if self.machine.phase() == Phase::Beside {
                    return self.status_line();
                }
                let record = self.upgrade.as_ref();
                let probation = record
                    .and_then(|r| r.probation)
                    .unwrap_or(self.config.upgrade.probation);
                words::took_over(self.who(), self.successor_who(), probation)
            }
            OrderKind::Commit => format!("{} is committed and serves", self.newest()),
            OrderKind::Rollback => match &self.predecessor {
                Some(link) => format!(
                    "{} (g{}) serves again",
                    link.identity.version, link.identity.generation
                ),
                None if self.machine.phase() == Phase::Parked => {
                    format!("{} serves: the program of before", self.successor_who())
                }
                None => format!("{} serves", self.who()),
            },
            OrderKind::Reload => "the new configuration is in use".into(),
            OrderKind::Stop => "stopped".into(),
        }
    }

    fn newest(&self) -> Who<'_> {
        match &self.successor {
            Some(_) => self.successor_who(),
            None => self.who(),
        }
    }

    pub(super) fn failed(&self, kind: OrderKind, failure: &Failure) -> String {
        let (why, who) = (&failure.reason, self.who());
        match kind {
            OrderKind::Upgrade | OrderKind::Rollback => format!("{why}; {who} serves on"),
            OrderKind::Reload => format!("{why}\n{who} serves on with the configuration of before"),
            OrderKind::Commit | OrderKind::Stop => format!("{why}\n{who} serves on as before"),
        }
    }

    /// Everybody who follows learns of a phase change.
    pub(super) fn tell_step(&self, phase: Phase, message: &str) {
        let event = self.step_event(phase, message.to_owned());
        self.orders.tell(&event);
        self.desk.publish(event);
    }

    fn step_event(&self, phase: Phase, message: String) -> api::Event {
        api::Event::Step {
            id: self.upgrade_id().map(ToOwned::to_owned),
            generation: self.fixed.me.generation,
            phase: phase.to_string(),
            message,
        }
    }
}

fn check_id(id: &str) -> Result<(), String> {
    if id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(())
    } else {
        Err(format!("an upgrade's id has 32 hex digits, not {id:?}"))
    }
}
