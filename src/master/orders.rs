//! The orders on their way. Each waits for one thing at a time; what that is, and for how long at most,
//! stands here.

use std::time::{Duration, Instant};
use std::vec::IntoIter;

use super::control::{self, Answer};
use super::disk::SETTLES;
use super::driver::Driver;
use super::look;
use super::store::Found;
use super::waiter::{Upcoming, Waiter};
use super::words;
use crate::api::{self, Last, Outcome, exit};
use crate::machine::{Event, OrderKind, Signal};

/// What it waits for.
#[derive(Debug)]
pub(super) enum Waits {
    /// The end of what is being done to the program on disk: it would look at that.
    Disk(Wanted),
    /// The pre-flight of the program that is to supersede this generation.
    Look(Waiter),
    /// The predecessor's application. With what was at the path when that was looked at.
    Wake(Waiter, Option<Found>),
    /// Its turn: the machine hears it next.
    Turn(Waiter),
    /// The machine's verdict.
    Verdict(Waiter),
    /// The end of the upgrade, which has taken over.
    Commit(Waiter),
    /// The program on disk, which must be as the verdict says before that is told.
    Answer(Waiter, u8, String),
}

impl Waits {
    pub(super) fn waiter(self) -> Option<Waiter> {
        match self {
            Self::Disk(_) => None,
            Self::Look(waiter)
            | Self::Wake(waiter, _)
            | Self::Turn(waiter)
            | Self::Verdict(waiter)
            | Self::Commit(waiter)
            | Self::Answer(waiter, ..) => Some(waiter),
        }
    }
}

/// What somebody wants to begin.
#[derive(Debug)]
pub(super) enum Wanted {
    Order(control::Order, Answer),
    Signal(Signal),
}

impl Wanted {
    /// Whether it would take a rejected program for a new one, if it began in between.
    fn looks_at_disk(&self) -> bool {
        match self {
            Self::Order(order, _) => order.looks_at_disk(),
            Self::Signal(signal) => *signal == Signal::Usr2,
        }
    }
}

/// For who says nothing, beside the limit that a start has.
const MARGIN: Duration = Duration::from_secs(5);

/// Those who wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// In the order in which they began to wait, and until when at most.
    waiting: Vec<(Waits, Option<Instant>)>,
    /// The order this step is about: a refusal is for it alone.
    heard: Option<Waiter>,
}

impl Orders {
    /// When the next one has waited for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|(_, until)| *until).min()
    }

    /// The machine has heard the order. Not answered in this step: it waits.
    pub(super) fn given(&mut self) {
        let heard = self.heard.take();
        let waits = heard.map(|waiter| (Waits::Verdict(waiter), None));
        self.waiting.extend(waits);
    }

    /// For the one who asked now, not for those who wait already.
    pub(super) fn answer(&mut self, exit: u8, message: String) {
        if let Some(waiter) = self.heard.take() {
            waiter.end(exit, message);
        }
    }

    /// All whose order is of a kind that the machine has decided about.
    pub(super) fn decided(&mut self, kind: OrderKind) -> Vec<Waiter> {
        let heard = self.heard.take_if(|waiter| waiter.order.kind() == kind);
        let is_it =
            |one: &Waits| matches!(one, Waits::Verdict(waiter) if waiter.order.kind() == kind);
        let before = self.take(is_it).filter_map(Waits::waiter);
        heard.into_iter().chain(before).collect()
    }

    /// The upgrade that is launched now, if it was ordered.
    pub(super) fn upcoming(&self) -> Option<Upcoming> {
        let before = self.waiting.iter().rev().filter_map(|(one, _)| match one {
            Waits::Verdict(waiter) => Some(waiter),
            _ => None,
        });
        let mut all = self.heard.iter().chain(before);
        all.find_map(|waiter| waiter.upgrade.clone())
    }

    /// Whether an order waits for the predecessor's application.
    pub(super) fn wait_for_application(&self) -> bool {
        let mut all = self.waiting.iter();
        all.any(|(one, _)| matches!(one, Waits::Wake(..)))
    }

    /// Those who do.
    pub(super) fn take_waking(&mut self) -> IntoIter<Waits> {
        self.take(|one| matches!(one, Waits::Wake(..)))
    }

    /// Those for whom this upgrade was looked at.
    pub(super) fn take_looked_at(&mut self, id: &str) -> Vec<Waiter> {
        let is_it = |one: &Waits| matches!(one, Waits::Look(waiter) if waiter.id() == Some(id));
        self.take(is_it).filter_map(Waits::waiter).collect()
    }

    /// An upgrade ended: those who waited for it.
    pub(super) fn ended(&mut self, last: &Last) {
        let text = words::ended(last);
        let exit = match last.outcome {
            Outcome::Committed => exit::OK,
            _ => exit::FAILED,
        };
        let all = self.take(|one| matches!(one, Waits::Commit(_)));
        for waiter in all.filter_map(Waits::waiter) {
            waiter.end(exit, text.clone());
        }
    }

    /// This master leaves: whoever still waits asks again, by the upgrade's id.
    pub(super) fn hang_up(&mut self) {
        *self = Self::default();
    }

    /// A step, for everybody whose order it may be about.
    pub(super) fn tell(&self, event: &api::Event) {
        let before = self.waiting.iter().filter_map(|(one, _)| match one {
            Waits::Verdict(waiter) | Waits::Commit(waiter) => Some(waiter),
            _ => None,
        });
        for waiter in self.heard.iter().chain(before) {
            waiter.answer.step(event.clone());
        }
    }

    fn take(&mut self, which: impl Fn(&Waits) -> bool) -> IntoIter<Waits> {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (taken, rest) = all.partition::<Vec<_>, _>(|(one, _)| which(one));
        self.waiting = rest;
        let taken: Vec<_> = taken.into_iter().map(|(one, _)| one).collect();
        taken.into_iter()
    }
}

impl Driver {
    /// It waits from now on.
    pub(super) fn wait(&mut self, waits: Waits) {
        let limit = match &waits {
            Waits::Disk(_) => Some(SETTLES),
            Waits::Wake(..) => Some(self.configured.config.upgrade.start_timeout + MARGIN),
            Waits::Look(_) => {
                Some(self.configured.config.upgrade.start_timeout + look::EXTRA + MARGIN)
            }
            // What they wait for has a limit of its own, or is not to have one.
            Waits::Turn(_) | Waits::Verdict(_) | Waits::Commit(_) | Waits::Answer(..) => None,
        };
        let until = limit.map(|limit| Instant::now() + limit);
        self.orders.waiting.push((waits, until));
    }

    /// Whether what it waits for has come.
    fn has_come(&self, waits: &Waits) -> bool {
        match waits {
            Waits::Disk(_) => !self.waits_for_disk(),
            // Nobody is there any more who could get it ready.
            Waits::Wake(..) => !self.machine.may_give_back(),
            Waits::Turn(_) => true,
            Waits::Answer(..) => !self.disk.is_busy(),
            Waits::Look(_) | Waits::Verdict(_) | Waits::Commit(_) => false,
        }
    }

    /// Something happened: those go on whose wait is over.
    pub(super) async fn go_on(&mut self) {
        while let Some(one) = self.next_to_go_on(Instant::now()) {
            match one {
                Waits::Disk(wanted) if self.waits_for_disk() => refuse_for_disk(wanted),
                Waits::Disk(wanted) => self.begin(wanted).await,
                // A predecessor that is late does not know the question, or hangs: the machine has its ways.
                Waits::Wake(waiter, _) => self.woken(waiter),
                Waits::Turn(waiter) => {
                    let order = waiter.order.clone();
                    self.orders.heard = Some(waiter);
                    self.happen(Event::Order(order)).await;
                }
                Waits::Answer(waiter, exit, message) => self.answer(waiter, exit, message),
                Waits::Look(waiter) => waiter.end(exit::FAILED, words::NOT_LOOKED_AT.into()),
                other @ (Waits::Verdict(_) | Waits::Commit(_)) => self.wait(other),
            }
        }
    }

    fn next_to_go_on(&mut self, now: Instant) -> Option<Waits> {
        let is_over = |(waits, until): &(Waits, Option<Instant>)| {
            until.is_some_and(|until| until <= now) || self.has_come(waits)
        };
        let at = self.orders.waiting.iter().position(is_over)?;
        Some(self.orders.waiting.remove(at).0)
    }

    /// It waits when it would take a rejected program for a new one.
    pub(super) async fn begin(&mut self, wanted: Wanted) {
        if wanted.looks_at_disk() && self.waits_for_disk() {
            return self.wait(Waits::Disk(wanted));
        }
        match wanted {
            Wanted::Order(order, answer) => self.ordered(order, answer),
            Wanted::Signal(signal) => self.happen(Event::Signal(signal)).await,
        }
    }

    /// Something is being done to the program on disk: what begins now would look at it.
    fn waits_for_disk(&self) -> bool {
        self.disk.is_working() && self.machine.may_begin()
    }

    /// Says what was decided, whatever the disk does.
    pub(super) fn say_decided(&mut self) {
        for one in self.orders.take(|one| matches!(one, Waits::Answer(..))) {
            if let Waits::Answer(waiter, exit, message) = one {
                self.answer(waiter, exit, message);
            }
        }
    }

    /// It may be done; but a restart would start something else.
    fn answer(&self, waiter: Waiter, exit: u8, message: String) {
        match self.disk.differs(waiter.order.kind()) {
            Some(why) => waiter.end(exit.max(exit::FAILED), format!("{message}\n{why}")),
            None => waiter.end(exit, message),
        }
    }
}

/// The disk takes too long for what would look at it.
fn refuse_for_disk(wanted: Wanted) {
    match wanted {
        Wanted::Order(_, answer) => answer.refuse(words::DISK_BUSY.into()),
        Wanted::Signal(signal) => {
            tracing::warn!("SIG{} is refused: {}", signal.as_str(), words::DISK_BUSY);
        }
    }
}
