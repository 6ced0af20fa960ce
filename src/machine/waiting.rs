//! What waits: orders for their verdict, signals for the other side.

use super::action::{Action, Note, Verdict};
use super::event::{Failure, OrderKind, Signal};
use super::master::{Machine, Step};
use super::phase::Phase;
use super::timing::Timer;

impl Machine {
    /// Answers an order, once.
    pub(super) fn settle(&mut self, kind: OrderKind, verdict: Verdict, s: &mut Step) {
        self.unsettled.retain(|k| *k != kind);
        s.act(Action::Settle(kind, verdict));
    }

    /// An order will be answered later.
    pub(super) fn pend(&mut self, kind: OrderKind) {
        if !self.unsettled.contains(&kind) {
            self.unsettled.push(kind);
        }
    }

    /// Answers an order that waits, if it does. One that is done is answered when nobody accepts any
    /// more but those who shall: who connects then meets them.
    pub(super) fn settle_pending(&mut self, kind: OrderKind, verdict: Verdict, s: &mut Step) {
        if !self.unsettled.contains(&kind) {
            return;
        }
        // So is one that goes on elsewhere: who asks there next is known there by then.
        if matches!(verdict, Verdict::Done | Verdict::Moved) {
            self.unsettled.retain(|k| *k != kind);
            self.when_closed(Action::Settle(kind, verdict));
        } else {
            self.settle(kind, verdict, s);
        }
    }

    /// To be said when those who leave accept no more, which may be so already at the end of this step.
    pub(super) fn when_closed(&mut self, action: Action) {
        self.held.push(action);
    }

    /// Says what was held back.
    pub(super) fn say_held(&mut self, s: &mut Step) {
        for action in std::mem::take(&mut self.held) {
            s.act(action);
        }
    }

    /// What was done is being undone: whoever waits for its answer waits on.
    pub(super) fn undo(&mut self, kind: OrderKind) {
        if self.is_held(kind) {
            self.held.retain(|one| *one != done(kind));
            self.pend(kind);
        }
    }

    /// Whether an order of this kind is done, and not answered yet.
    pub(super) fn is_held(&self, kind: OrderKind) -> bool {
        self.held.contains(&done(kind))
    }

    /// Answers whatever still waits; an order to stop is done only when everything has gone.
    pub(super) fn settle_rest(&mut self, why: &str, s: &mut Step) {
        let gone = self.phase == Phase::Draining;
        for kind in std::mem::take(&mut self.unsettled) {
            match kind {
                OrderKind::Stop if gone => s.act(Action::Settle(kind, Verdict::Done)),
                OrderKind::Stop => self.unsettled.push(kind),
                OrderKind::Upgrade
                | OrderKind::Commit
                | OrderKind::Rollback
                | OrderKind::Reload => {
                    s.act(Action::Settle(kind, Verdict::Failed(Failure::new(why))));
                }
            }
        }
    }

    /// A signal that comes before the other side accepts waits for that moment.
    pub(super) fn remember(&mut self, signal: Signal, s: &mut Step) {
        if !self.remembered.contains(&signal) {
            self.remembered.push(signal);
            s.act(Action::Note(Note::SignalRemembered(signal)));
            if self.timers.get(Timer::Remember).is_none() {
                self.arm(Timer::Remember, self.timing.start, s);
            }
        }
    }

    /// The moment for remembered signals did not come.
    pub(super) fn forget(&mut self, s: &mut Step) {
        self.timers.disarm(Timer::Remember);
        for signal in std::mem::take(&mut self.remembered) {
            s.act(Action::Note(Note::SignalDropped(signal)));
        }
    }

    /// The moment for remembered signals has come.
    pub(super) fn recall(&mut self, s: &mut Step) -> Vec<Signal> {
        self.timers.disarm(Timer::Remember);
        let signals = std::mem::take(&mut self.remembered);
        for signal in &signals {
            s.act(Action::Note(Note::SignalCarriedOut(*signal)));
        }
        signals
    }
}

fn done(kind: OrderKind) -> Action {
    Action::Settle(kind, Verdict::Done)
}
