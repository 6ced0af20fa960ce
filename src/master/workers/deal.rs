//! Who accepts on which socket: dealt by [`slots`], and dealt anew whenever a worker comes or goes.
//! Only the difference is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Set, State, Worker, Workers};
use crate::machine::link::{ToWorker, WorkerListener};
use crate::machine::pool;
use crate::master::slots::{self, Accepts};
use crate::sys::channel::MAX_FDS;
use crate::sys::listeners::Listener;

/// The sockets a worker has, by their numbers.
pub(super) type Hand = BTreeMap<u64, Accepts>;

impl Set {
    /// What the worker of this slot gets when nobody is missing.
    pub(super) fn first_hand(&self, slot: u16) -> Hand {
        hand(&self.sockets.homes(self.count), slot, |_| false)
    }
}

fn hand(homes: &[(u64, Option<u16>)], slot: u16, missing: impl Fn(u16) -> bool) -> Hand {
    let accepts = |(id, home): &(u64, Option<u16>)| {
        let how = slots::accepts(*home, slot, &missing)?;
        Some((*id, how))
    };
    homes.iter().filter_map(accepts).collect()
}

impl Worker {
    fn accepts(&self) -> bool {
        self.state == State::Accepting
    }

    fn is_there(&self) -> bool {
        self.accepts() && !self.full
    }

    /// These sockets are for this worker.
    pub(super) fn give<'a>(&self, listeners: impl Iterator<Item = &'a Listener>, hand: &Hand) {
        let mut listeners = listeners.peekable();
        while listeners.peek().is_some() {
            let batch: Vec<_> = listeners.by_ref().take(MAX_FDS).collect();
            let what = batch
                .iter()
                .map(|l| WorkerListener {
                    id: l.id(),
                    name: l.name.clone(),
                    address: l.address().to_string(),
                    shared: hand.get(&l.id()) == Some(&Accepts::Shared),
                })
                .collect();
            let fds = batch.into_iter().map(Listener::fd);
            self.line
                .send(ToWorker::Listeners { listeners: what }, fds.collect());
        }
    }
}

impl Workers {
    /// A worker lives. If it hung until now, it gets its own back.
    pub(super) fn answered(&mut self, id: u64) {
        let Some(worker) = self.all.get(&id).filter(|w| w.state != State::Draining) else {
            return;
        };
        let (set, slot) = (worker.set, worker.slot);
        let hung = |set: &Set| set.pool.hangs(slot, Instant::now());
        let hung = self.set(set).is_some_and(hung);
        self.pool_hears(set, slot, pool::Event::Answered);
        if hung {
            self.deal();
        }
    }

    /// Deals the sockets of the set that accepts anew.
    pub(super) fn deal(&mut self) {
        let Some(set) = &self.current else { return };
        let now = Instant::now();
        let of_set = |w: &&mut Worker| w.set == set.id && w.accepts();
        let there: BTreeSet<u16> = self
            .all
            .values()
            .filter(|w| w.set == set.id && w.is_there() && !set.pool.hangs(w.slot, now))
            .map(|w| w.slot)
            .collect();
        let missing = |slot: u16| !there.contains(&slot);
        let homes = set.sockets.homes(set.count);
        for worker in self.all.values_mut().filter(of_set) {
            let hand = hand(&homes, worker.slot, missing);
            worker.play(set, hand);
        }
    }
}

impl Worker {
    fn play(&mut self, set: &Set, hand: Hand) {
        let changed = |a: &Hand, b: &Hand| -> Vec<u64> {
            let differs = |(id, how): &(&u64, &Accepts)| b.get(id) != Some(how);
            a.iter().filter(differs).map(|(id, _)| *id).collect()
        };
        let (ids, new) = (changed(&self.hand, &hand), changed(&hand, &self.hand));
        if ids.is_empty() && new.is_empty() {
            return;
        }
        if !ids.is_empty() {
            self.line.say(ToWorker::LetGo { ids }, Vec::new());
        }
        self.give(set.sockets.some(|id| new.contains(&id)), &hand);
        self.hand = hand;
    }
}
