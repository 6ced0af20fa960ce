//! What a master's actions do to the world, and the bugs that are planted there.

use super::world::{A, B, Health, OLDER, Older, PIDS, Shared, Workers, World, die, end, me};
use super::{Explorer, Plant};
use crate::machine::event::{Event, FromPredecessor, FromSuccessor};
use crate::machine::{Action, Machine, OrderKind, Phase, Timing, Verdict, Who};

impl Explorer {
    #[expect(clippy::too_many_lines, reason = "one arm an action")]
    pub(super) fn perform(&self, world: &mut World, who: usize, action: Action) {
        match action {
            Action::Enter { from, to } => self.entered(world, who, (from, to)),
            Action::KeepDisk | Action::Proved => {
                if !world.proved {
                    world.bad = Some("what has not proved itself becomes the good one");
                }
            }
            Action::StartWorkers => {
                me(world, who).workers = Workers::Starting;
                me(world, who).accept = false;
            }
            Action::Accept => {
                me(world, who).accept = true;
                if me(world, who).workers == Workers::Ready {
                    me(world, who).workers = Workers::Accepting;
                }
            }
            Action::Quiesce => {
                me(world, who).accept = false;
                me(world, who).workers = Workers::Ready;
            }
            Action::DrainWorkers { .. } | Action::KillWorkers => {
                let m = me(world, who);
                m.draining = true;
                m.closing |= m.workers == Workers::Accepting;
                m.workers = Workers::None;
                if !m.closing || self.plant == Plant::ClosedTooEarly {
                    self.answer(world, who, Event::WorkersClosed);
                }
            }
            Action::Launch { .. } if who == B => world.over = true,
            Action::Launch { next, .. } => {
                world.launching = true;
                (world.upgrading, world.concluded) = (true, None);
                if next.is_some() {
                    // The client asks here, by the upgrade's id.
                    me(world, A).asked |= 1 << OrderKind::Upgrade as u8;
                }
            }
            Action::CancelLaunch => {
                world.stray = world.launching;
                world.launching = false;
            }
            Action::Conclude(..) => {
                // Who outlives the one whose word it was has the last one.
                let alive = |by: usize| world.masters[by].as_ref().is_some_and(|m| m.alive);
                let again = world.concluded.is_none_or(|by| by == who || alive(by));
                world.concluded = Some(who);
                if !std::mem::take(&mut world.upgrading) && again {
                    world.bad = Some("an upgrade that has ended was concluded again");
                }
            }
            Action::Settle(kind, verdict) => {
                too_early(world, who, kind, &verdict);
                let bit = 1 << kind as u8;
                if me(world, who).asked & bit == 0 {
                    world.bad = Some("a verdict that nobody waits for");
                }
                me(world, who).asked &= !bit;
                if verdict == Verdict::Moved {
                    me(world, A).asked |= bit;
                }
            }
            Action::Inherit => {
                let hold = me(world, A).machine.as_ref().unwrap().hold();
                let timing = Timing::default();
                let (mut machine, _) =
                    Machine::succeeding(timing, hold, (PIDS[A], timing.drain), self.start);
                if world.older != Older::Gone {
                    machine.know_drainer(OLDER, timing.drain, false, self.start);
                }
                if let Some(b) = world.masters[B].as_mut().filter(|b| b.alive) {
                    b.machine = Some(machine);
                    b.workers = Workers::Starting;
                }
            }
            Action::ToSuccessor(FromPredecessor::Release)
                if self.plant == Plant::ReleasesNobody => {}
            Action::ToPredecessor(FromSuccessor::Leaving)
                if self.plant == Plant::LeavesWithoutAWord => {}
            Action::ToSuccessor(said) => {
                if world.masters[B].as_ref().is_some_and(|b| b.alive && b.open) && me(world, A).open
                {
                    if matches!(said, FromPredecessor::Release) {
                        me(world, B).dismissed = true;
                    }
                    // What it says in words makes no difference here.
                    world.to_b.push_back(match said {
                        FromPredecessor::Retire(_) => FromPredecessor::Retire(String::new()),
                        said => said,
                    });
                }
            }
            Action::ToPredecessor(said) => {
                if world.masters[A].as_ref().is_some_and(|a| a.alive && a.open) && me(world, B).open
                {
                    let commit = said == FromSuccessor::Commit;
                    world.to_a.push_back(match said {
                        FromSuccessor::Yield { retire, then, .. } => FromSuccessor::Yield {
                            reason: String::new(),
                            retire,
                            then,
                        },
                        said => said,
                    });
                    if commit && self.plant == Plant::CommitBelievedBeforeEof {
                        let machine = me(world, B).machine.as_mut().unwrap();
                        let actions = machine.step(Event::PredecessorClosed, self.start);
                        me(world, B).saw_eof = true;
                        for action in actions {
                            self.perform(world, B, action);
                        }
                    }
                }
            }
            Action::CloseSuccessor | Action::ClosePredecessor => me(world, who).open = false,
            Action::EndSuccessor(_) => {
                let Some(b) = world.masters[B].as_mut() else {
                    return;
                };
                if b.alive && b.machine.is_none() && b.health == Health::Well {
                    die(world, B);
                }
                let stops = |m: &Machine| m.stopping();
                let stops = me(world, A).machine.as_ref().is_some_and(stops);
                let smooth = !world.late && !stops;
                let served = |m: &Machine| m.successor.is_some_and(|x| x.ready);
                let served = me(world, A).machine.as_ref().is_some_and(served);
                let b = world.masters[B].as_ref().unwrap();
                if served && b.alive && b.draining && !b.dismissed && smooth {
                    world.bad = Some("SIGTERM cuts short one that leaves by itself");
                }
            }
            Action::KillSuccessor => {
                if world.masters[B].is_some() {
                    die(world, B);
                }
            }
            Action::KillPredecessor if who == A => {} // the ghost, which exits anyway
            Action::KillPredecessor => die(world, A),
            Action::ReapSuccessor => {
                // The driver drops the link: what is still in it belongs to nobody.
                world.to_a.clear();
                let a = me(world, A);
                (a.saw_eof, a.saw_exit) = (true, true);
                if world.main == B {
                    world.bad =
                        Some("the dead main process was reaped before the service was ours");
                }
            }
            Action::LetLinger => {
                let served = world.masters[B]
                    .as_ref()
                    .is_some_and(|b| b.alive && b.owns());
                if world.main == B || served {
                    world.bad = Some("one that owns the service was left to itself");
                }
                // What follows is the story of A and a third master.
                world.over = true;
            }
            Action::NameMain(whom) => {
                let done = !std::mem::take(&mut world.deaf);
                let lost = whom == Who::Me && self.plant == Plant::ReapsWithoutReclaiming;
                if done && !lost {
                    let pid = if whom == Who::Me { who } else { B };
                    self.name_main(world, who, pid);
                }
                self.answer(world, who, Event::MainNamed { who: whom, done });
            }
            Action::AskOwner | Action::SeekOwner => {
                self.answer(world, who, Event::OwnerAnswered(false));
            }
            Action::Reclaim => {
                if !me(world, who).owns() {
                    world.bad = Some("MAINPID is claimed back by one who does not own the service");
                }
                let done = !std::mem::take(&mut world.deaf);
                if done {
                    self.name_main(world, who, who);
                }
                self.answer(world, who, Event::MainNamed { who: Who::Me, done });
            }
            Action::NotifyStopping => {
                if world.masters[1 - who]
                    .as_ref()
                    .is_some_and(|o| o.alive && o.open && o.workers == Workers::Accepting)
                {
                    world.bad = Some("STOPPING=1 while another generation lives");
                }
                world.stopping = true;
            }
            // What fails is started anew.
            Action::Exit(code) => end(world, who, code == 0),
            // It says that it told the drainer, and forgets it.
            Action::EndDrainer(OLDER, _) if self.plant == Plant::ForgetsWhoDrains => {
                self.answer(world, who, Event::DrainerGone(OLDER));
            }
            Action::EndDrainer(OLDER, _) => world.older = Older::Told,
            Action::KillDrainer(OLDER) => world.older = Older::Gone,
            Action::KillDrainer(pid) if pid == PIDS[A] => die(world, A),
            // They leave anyway.
            Action::EndDrainer(..)
            | Action::KillDrainer(_)
            | Action::WritePids
            | Action::OwnPid
            | Action::DropListeners
            | Action::ReopenLogs
            | Action::Note(_)
            | Action::AdoptReload
            | Action::Committed
            | Action::RestoreDisk
            | Action::ProveAlone
            | Action::AbandonReload(_)
            | Action::CheckHealth
            | Action::DrainEnded
            | Action::StartedCold
            | Action::NotifyReady => {}
            Action::Reload => me(world, who).reloading = true,
        }
    }

    /// What an action is answered at once.
    pub(super) fn answer(&self, world: &mut World, who: usize, event: Event) {
        let Some(machine) = me(world, who).machine.as_mut() else {
            return;
        };
        for action in machine.step(event, self.start) {
            self.perform(world, who, action);
        }
    }

    fn entered(&self, world: &mut World, who: usize, (from, to): (Phase, Phase)) {
        // What was said of it before does not count any longer.
        world.proved &= to != Phase::Yielded;
        if from == Phase::Yielded && to == Phase::Serving && self.plant == Plant::YieldedIsGood {
            self.perform(world, who, Action::KeepDisk);
        }
        if who == B && to == Phase::Probation && self.plant == Plant::SuccessorClaimsMain {
            self.name_main(world, B, B);
        }
        if to == Phase::Parked && self.plant == Plant::ParkedExits {
            die(world, who);
        }
        if to == Phase::Yielded && self.plant == Plant::YieldedStopsAccepting {
            me(world, who).workers = Workers::None;
        }
    }

    pub(super) fn name_main(&self, world: &mut World, by: usize, whom: usize) {
        let a_there = world.masters[A].as_ref().is_some_and(|a| a.alive && a.open);
        if by == B && a_there && !world.masters[B].as_ref().unwrap().saw_eof {
            world.bad =
                Some("two writers of MAINPID: the successor claims it while its predecessor lives");
        }
        if by == B && a_there && self.plant == Plant::CommitBelievedBeforeEof {
            world.bad = Some("two writers of MAINPID");
        }
        if world.masters[whom].as_ref().is_some_and(|m| m.alive) {
            world.main = whom;
        }
    }
}

/// What is done is answered when those who leave accept no more.
pub(super) fn too_early(world: &mut World, who: usize, kind: OrderKind, verdict: &Verdict) {
    let accepts = |m: &Shared| m.alive && (m.closing || m.workers == Workers::Accepting);
    let master = |who: usize| world.masters[who].as_ref();
    let hold = master(who).and_then(|m| m.machine.as_ref());
    let early = match kind {
        // Both accept, and shall.
        OrderKind::Upgrade if hold.is_some_and(Machine::hold) => false,
        OrderKind::Upgrade | OrderKind::Commit | OrderKind::Rollback => {
            master(1 - world.main).is_some_and(accepts)
        }
        OrderKind::Reload => master(who).is_some_and(|m| m.closing),
        OrderKind::Stop => false,
    };
    if *verdict == Verdict::Done && early && !world.late {
        world.bad = Some("an order is answered while those who leave accept");
    }
}
