//! What masters do to the world of a random walk.

use super::{NO_LIMIT, Walk, timing};
use crate::machine::event::{Event, Failure, Signal};
use crate::machine::explore::world::Workers;
use crate::machine::{Action, Machine, OrderKind, Phase, Verdict, Who};

impl Walk {
    pub(super) fn perform(&mut self, pid: u32, actions: Vec<Action>) {
        for action in actions {
            if self.node(pid).alive {
                self.perform_one(pid, action);
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm an action")]
    fn perform_one(&mut self, pid: u32, action: Action) {
        let now = self.now;
        let (before, after) = (self.node(pid).before, self.node(pid).after);
        let node = self.node(pid);
        match action {
            Action::StartWorkers => (node.workers, node.accept) = (Workers::Starting, false),
            Action::Accept => {
                node.accept = true;
                if node.workers == Workers::Ready {
                    node.workers = Workers::Accepting;
                }
            }
            Action::Quiesce => (node.workers, node.accept) = (Workers::Ready, false),
            Action::DrainWorkers { limit, .. } => {
                node.drains = Some(now + limit.unwrap_or(NO_LIMIT));
                self.told_to_leave(pid);
            }
            Action::KillWorkers => {
                node.drains = Some(now);
                self.told_to_leave(pid);
            }
            Action::Enter { to, .. } => node.proved &= to != Phase::Yielded,
            Action::KeepDisk | Action::Proved if !node.proved => {
                self.wrong = Some("what has not proved itself becomes the good one".into());
            }
            Action::Reload => node.reloading = true,
            Action::AbandonReload(_) => node.reloading = false,
            Action::Launch { next, .. } => {
                node.launching = true;
                if next.is_some() {
                    node.asked.push(OrderKind::Upgrade);
                }
            }
            Action::CancelLaunch => node.launching = false,
            Action::Inherit => {
                let me = node.machine.as_ref().unwrap();
                // As the driver: all that are there, whether they count or not.
                let drainers: Vec<_> = node.drainers.clone();
                let drainers = drainers.into_iter().map(|one| (one, me.drainer(one, now)));
                let drainers: Vec<_> = drainers.collect();
                let hold = me.hold();
                let limit = me.own_drain();
                let (mut machine, actions) = Machine::succeeding(timing(), hold, (pid, limit), now);
                let known = drainers.iter().map(|(one, _)| *one).collect();
                for (one, (left, hurried)) in drainers {
                    machine.know_drainer(one, left, hurried, now);
                }
                if let Some(after) = after.filter(|after| self.nodes[*after as usize - 1].alive) {
                    let successor = self.node(after);
                    successor.drainers = known;
                    successor.machine = Some(machine);
                    self.perform(after, actions);
                }
            }
            Action::ToSuccessor(word) => {
                if let Some(after) = after.filter(|_| node.open_after) {
                    let successor = self.node(after);
                    if successor.alive && successor.open_before && successor.machine.is_some() {
                        successor.inbox.push_back(Event::Predecessor(word));
                    }
                }
            }
            Action::ToPredecessor(word) => {
                if let Some(before) = before.filter(|_| node.open_before) {
                    self.tell_before(before, pid, word);
                }
            }
            Action::CloseSuccessor => self.close_after(pid),
            Action::ClosePredecessor => self.close_before(pid),
            Action::EndSuccessor(how) => {
                if let Some(after) = after {
                    self.kill_with(after, how);
                }
            }
            Action::KillSuccessor => {
                if let Some(after) = after {
                    self.end(after);
                }
            }
            Action::KillPredecessor => {
                if let Some(before) = before {
                    self.end(before);
                }
            }
            Action::EndDrainer(one, how) => self.kill_with(one, how),
            Action::KillDrainer(one) => self.end(one),
            Action::ReapSuccessor | Action::LetLinger => {
                node.after = None;
                let lingers = after.filter(|_| action == Action::LetLinger);
                node.drainers.extend(lingers);
                // What it says from now on nobody hears; its end is that of one that drains.
                let inbox = std::mem::take(&mut node.inbox).into_iter();
                let heard = inbox.filter_map(|event| match event {
                    Event::Successor(_) | Event::SuccessorClosed(_) => None,
                    Event::SuccessorExited(_) => lingers.map(Event::DrainerGone),
                    event => Some(event),
                });
                node.inbox = heard.collect();
            }
            Action::NameMain(who) => {
                let done = !self.chance(20);
                if done {
                    let whom = if who == Who::Me { Some(pid) } else { after };
                    self.main = whom.unwrap_or(self.main);
                }
                self.happens(pid, Event::MainNamed { who, done });
            }
            Action::NotifyReady => {
                let done = !self.chance(20);
                if done {
                    self.heard_ready = true;
                    self.happens(pid, Event::ReadyHeard);
                }
                self.happens(pid, Event::MainNamed { who: Who::Me, done });
            }
            Action::Reclaim => {
                let done = !self.chance(20);
                if done {
                    self.main = pid;
                }
                self.happens(pid, Event::MainNamed { who: Who::Me, done });
            }
            Action::SeekOwner => {
                let may_serve = |one: &super::Node| {
                    let phase = one.machine.as_ref().map(Machine::phase);
                    phase.is_some_and(|phase| !matches!(phase, Phase::Draining | Phase::Done))
                };
                let others = self.nodes.iter().zip(1..);
                let owned = others.filter(|(one, other)| *other != pid && one.alive && !one.hangs);
                let owned = owned.map(|(one, _)| one).any(may_serve);
                self.happens(pid, Event::OwnerAnswered(owned));
            }
            Action::AskOwner => {
                let owned = self.owner().is_some_and(|owner| owner != pid);
                self.happens(pid, Event::OwnerAnswered(owned));
            }
            Action::NotifyStopping => self.stops = true,
            Action::Settle(kind, verdict) => {
                let one = |kind: &OrderKind, asked: &mut Vec<OrderKind>| {
                    let at = asked.iter().position(|k| k == kind);
                    if let Some(at) = at {
                        asked.remove(at);
                    }
                };
                match verdict {
                    Verdict::Refused(_) | Verdict::Already(_) | Verdict::Full => {
                        one(&kind, &mut node.asked);
                    }
                    _ => node.asked.retain(|k| *k != kind),
                }
            }
            Action::Exit(code) => {
                let machine = node.machine.as_ref().unwrap();
                let stops = machine.stopping();
                if !node.asked.is_empty() {
                    self.wrong = Some(format!("{:?} is never answered", node.asked));
                }
                let asked = self.stops || self.told_all || stops || self.leaves.is_some();
                self.say(pid, "exits");
                // Whose predecessor lives stays a zombie until another one is named.
                let parent = before.is_some_and(|b| self.nodes[b as usize - 1].alive);
                // What has not come to serve may end by itself, and what fails is started anew.
                if self.main == pid && !asked && !parent && self.heard_ready && code == 0 {
                    self.wrong = Some("the main process exits by itself".into());
                }
                self.end(pid);
            }
            _ => {}
        }
    }

    fn told_to_leave(&mut self, pid: u32) {
        let node = self.node(pid);
        node.closing |= node.workers == Workers::Accepting;
        node.workers = Workers::None;
        if !node.closing {
            self.happens(pid, Event::WorkersClosed);
        }
    }

    fn close_after(&mut self, pid: u32) {
        if !std::mem::take(&mut self.node(pid).open_after) {
            return;
        }
        if let Some(after) = self.node(pid).after {
            let successor = self.node(after);
            if successor.alive && successor.open_before {
                if successor.machine.is_none() {
                    return self.end(after);
                }
                successor.inbox.push_back(Event::PredecessorClosed);
            }
        }
    }

    fn close_before(&mut self, pid: u32) {
        if !std::mem::take(&mut self.node(pid).open_before) {
            return;
        }
        if let Some(before) = self.node(pid).before {
            let node = self.node(before);
            if node.alive && node.open_after && node.after == Some(pid) {
                let failure = Failure::new("it closed its channel");
                node.inbox.push_back(Event::SuccessorClosed(failure));
            }
        }
    }

    /// A signal from another master, with SIGCONT.
    pub(super) fn kill_with(&mut self, pid: u32, signal: Signal) {
        let node = self.node(pid);
        if !node.alive {
            return;
        }
        node.hangs = false;
        if node.machine.is_none() {
            self.end(pid);
        } else {
            node.inbox.push_back(Event::Signal(signal));
        }
    }

    /// The process ends: who looks at it sees that.
    pub(super) fn end(&mut self, pid: u32) {
        if !std::mem::take(&mut self.node(pid).alive) {
            return;
        }
        self.close_before(pid);
        self.close_after(pid);
        let node = self.node(pid);
        (node.workers, node.drains, node.closing) = (Workers::None, None, false);
        let (before, after) = (node.before, node.after);
        let parent = before.filter(|before| self.nodes[*before as usize - 1].alive);
        if self.main == pid && parent.is_none() {
            self.over = true;
        }
        // Its zombie, should that be the main process, is systemd's now.
        let main_is_dead = !self.nodes[self.main as usize - 1].alive;
        if main_is_dead && self.nodes[self.main as usize - 1].before == Some(pid) {
            self.over = true;
        }
        for other in self.pids(|node| node.alive) {
            let event = if before == Some(other) && self.node(other).after == Some(pid) {
                Event::SuccessorExited("ended".into())
            } else if after == Some(other) {
                Event::PredecessorExited
            } else {
                Event::DrainerGone(pid)
            };
            // Its end is seen by another descriptor than what it said last, and may be heard before it.
            let waiting = self.node(other).inbox.len();
            let overtaken = usize::try_from(self.pick(4)).unwrap().min(waiting);
            self.node(other).inbox.insert(waiting - overtaken, event);
        }
    }
}
