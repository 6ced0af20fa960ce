//! Connections on their way to our workers from those that drain: nothing that lies in a queue is
//! lost when its receiver dies.

use std::os::fd::OwnedFd;

use super::{LAST_WORDS, State, Workers};
use crate::machine::link::ToWorker;
use crate::master::input::Input;
use crate::sys::handoff::{self, Targets};

/// A copy of the receiving end that the worker of a slot has.
#[derive(Debug)]
pub(super) struct Held {
    slot: u16,
    /// The worker; `None`: it died.
    receiver: Option<u64>,
    /// The process that sends; 0: it has gone.
    drainer: u32,
    end: OwnedFd,
}

impl Workers {
    /// Makes a pair for every worker that accepts, for one that drains: returns the sending ends.
    pub fn receive_from(&mut self, drainer: u32) -> Targets {
        let mut targets = Targets::default();
        let Some(set) = self.current.as_ref().map(|set| set.id) else {
            return targets;
        };
        let receivers = self
            .all
            .iter()
            .filter(|(_, w)| w.set == set && w.state == State::Accepting);
        for (id, worker) in receivers {
            let made = handoff::pair().and_then(|(tx, rx)| Ok((tx, rx.try_clone()?, rx)));
            match made {
                Ok((tx, copy, rx)) => {
                    worker.line.say(ToWorker::ReceiveFrom, vec![rx]);
                    self.held.push(Held {
                        slot: worker.slot,
                        receiver: Some(*id),
                        drainer,
                        end: copy,
                    });
                    targets.extend(Targets {
                        ends: vec![tx],
                        reads: worker.reads,
                        ..Targets::default()
                    });
                }
                Err(e) => tracing::error!("cannot make a pair for connections: {e}"),
            }
        }
        targets
    }

    /// A draining worker has gone: nothing more comes from it. What it has sent may still lie in a
    /// queue, and goes to a replacement should the receiver die before it has taken it.
    pub fn drainer_gone(&mut self, drainer: u32) {
        for held in self.held.iter_mut().filter(|h| h.drainer == drainer) {
            held.drainer = 0;
        }
        self.let_queues_go();
        self.looks_again &= drainer != 0;
        if !self.looks_again && self.held.iter().any(|held| held.drainer == 0) {
            // Not taken yet, in a moment it is.
            self.looks_again = true;
            Input::DrainerGone(0).after(LAST_WORDS, &self.inbox);
        }
    }

    /// A worker has gone that took connections.
    pub(super) fn receiver_gone(&mut self, id: u64) {
        for held in self.held.iter_mut().filter(|h| h.receiver == Some(id)) {
            held.receiver = None;
        }
        self.let_queues_go();
        self.settle_queues();
    }

    /// Lets go of the queues that nobody sends to any longer and that are empty.
    fn let_queues_go(&mut self) {
        self.held.retain(|held| {
            held.drainer != 0 || rustix::io::ioctl_fionread(&held.end).is_ok_and(|n| n > 0)
        });
    }

    /// What was queued for a worker that died goes to its replacement; where there will be none
    /// (its set is another one, or was larger), to another worker.
    pub(super) fn settle_queues(&mut self) {
        let Some((set, count)) = self.current.as_ref().map(|set| (set.id, set.count)) else {
            return;
        };
        for held in self.held.iter_mut().filter(|h| h.receiver.is_none()) {
            let mut takers = self
                .all
                .iter()
                .filter(|(_, w)| w.set == set && w.state == State::Accepting);
            let taker = takers.find(|(_, w)| w.slot == held.slot || held.slot >= count);
            let Some((id, worker)) = taker else { continue };
            match held.end.try_clone() {
                Ok(end) => {
                    worker.line.say(ToWorker::ReceiveFrom, vec![end]);
                    held.receiver = Some(*id);
                }
                Err(e) => tracing::error!("cannot hand a queue of connections on: {e}"),
            }
        }
    }

    /// A drain begins: queues of workers that are not there go to one that is, which passes on
    /// what is in them with its own.
    pub(super) fn rescue_queues(&mut self) {
        for held in std::mem::take(&mut self.held) {
            if held.receiver.is_some() {
                continue;
            }
            if let Some(worker) = self.all.values().find(|w| w.state.may_accept()) {
                worker.line.say(ToWorker::ReceiveFrom, vec![held.end]);
            }
        }
    }
}
