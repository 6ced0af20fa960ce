//! What happens by itself: workers, messages, ends, deadlines; and accidents.

use super::world::{A, B, Health, Master, OLDER, Older, PIDS, Shared, Workers, World, die, me};
use super::{Explorer, Move, Next, Plant, text};
use crate::machine::Timer;
use crate::machine::event::{Event, Failure, FromSuccessor};

impl Explorer {
    /// What the world itself does to one living master.
    #[expect(clippy::too_many_lines, reason = "a list of what can happen")]
    pub(super) fn progress(&self, world: &World, who: usize, out: &mut Next) {
        let me = world.masters[who].as_ref().unwrap();
        let other = world.masters[1 - who].as_ref();
        if me.draining && me.health == Health::Well {
            let mut next = world.clone();
            let m = next.masters[who].as_mut().unwrap();
            (m.draining, m.closing) = (false, false);
            // Where a new set has been started since, this is a word about the old one.
            self.deliver(next, who, Event::WorkersGone, out);
        }
        if me.health != Health::Well {
            return;
        }
        if me.closing {
            let mut next = world.clone();
            next.masters[who].as_mut().unwrap().closing = false;
            self.deliver(next, who, Event::WorkersClosed, out);
        }
        if me.machine.is_none() {
            if !me.said_hello {
                let mut next = world.clone();
                next.masters[who].as_mut().unwrap().said_hello = true;
                next.to_a.push_back(FromSuccessor::Hello);
                out.push((text(B, "says hello"), next));
            }
            if other.is_none_or(|o| !o.alive || !o.open) {
                let mut next = world.clone();
                die(&mut next, who);
                out.push((text(B, "leaves, its predecessor has gone"), next));
            }
            return;
        }
        if me.workers == Workers::Starting {
            let mut next = world.clone();
            let m = next.masters[who].as_mut().unwrap();
            m.workers = if m.accept {
                Workers::Accepting
            } else {
                Workers::Ready
            };
            self.deliver(next, who, Event::WorkersReady, out);
        }
        if me.reloading {
            let mut next = world.clone();
            next.masters[who].as_mut().unwrap().reloading = false;
            let failure = Failure::new("bad configuration");
            self.deliver(next.clone(), who, Event::ReloadFailed(failure), out);
            next.masters[who].as_mut().unwrap().closing = true;
            self.deliver(next, who, Event::Reloaded, out);
        }
        if world.older == Older::Told {
            let mut next = world.clone();
            next.older = Older::Gone;
            out.push((text(who, "sees the oldest one leave"), next));
        }
        if world.older == Older::Gone && !me.saw_older_gone && self.ghost {
            let mut next = world.clone();
            next.masters[who].as_mut().unwrap().saw_older_gone = true;
            self.deliver(next, who, Event::DrainerGone(OLDER), out);
        }
        if who == A && world.ghost {
            let mut next = world.clone();
            next.ghost = false;
            self.deliver(next, A, Event::PredecessorExited, out);
        }
        let free = world.masters[B].as_ref().is_none_or(|b| !b.alive);
        if who == A && world.stray && free && !world.launching {
            self.launched(world, out);
            out.last_mut().unwrap().0.unlikely = true;
        }
        if who == A && world.launching {
            self.launched(world, out);
            let mut next = world.clone();
            next.launching = false;
            self.deliver(next, A, Event::LaunchFailed(Failure::new("bad")), out);
        }
        if who == A && me.open && !world.to_a.is_empty() {
            let mut next = world.clone();
            let said = next.to_a.pop_front().unwrap();
            self.deliver(next, A, Event::Successor(said), out);
        }
        if who == B && me.open && !world.to_b.is_empty() {
            let mut next = world.clone();
            let said = next.to_b.pop_front().unwrap();
            self.deliver(next, B, Event::Predecessor(said), out);
        }
        let queue_empty = if who == A {
            world.to_a.is_empty()
        } else {
            world.to_b.is_empty()
        };
        if let Some(other) = other {
            if me.open && !me.saw_eof && queue_empty && (!other.alive || !other.open) {
                let mut next = world.clone();
                next.masters[who].as_mut().unwrap().saw_eof = true;
                let event = if who == A {
                    Event::SuccessorClosed(Failure::new("eof"))
                } else {
                    Event::PredecessorClosed
                };
                self.deliver(next, who, event, out);
            }
            if !me.saw_exit && !other.alive {
                let mut next = world.clone();
                next.masters[who].as_mut().unwrap().saw_exit = true;
                let event = if who == A {
                    Event::SuccessorExited("died".into())
                } else {
                    Event::PredecessorExited
                };
                self.deliver(next, who, event, out);
            }
        }
        self.deadlines(world, who, out);
    }

    pub(super) fn deadlines(&self, world: &World, who: usize, out: &mut Next) {
        let me = world.masters[who].as_ref().unwrap();
        let other = world.masters[1 - who].as_ref();
        let machine = me.machine.as_ref().unwrap();
        for timer in Timer::ALL {
            if machine.armed(timer).is_none() || timer == Timer::Heartbeat {
                continue;
            }
            // Somebody who says that he is alive is not silent.
            if timer == Timer::Silence && other.is_some_and(|o| o.health == Health::Stuck) {
                continue;
            }
            if timer == Timer::DeadMan && self.plant == Plant::NoDeadMan {
                continue;
            }
            let mut next = world.clone();
            next.late |= timer != Timer::Probation;
            self.deliver(next, who, Event::Timer(timer), out);
            let well = other.is_some_and(|o| o.alive && o.health == Health::Well);
            if timer == Timer::Silence && well {
                out.last_mut().unwrap().0.unlikely = true;
            }
        }
    }

    pub(super) fn launched(&self, world: &World, out: &mut Next) {
        let mut next = world.clone();
        next.launching = false;
        next.stray = false;
        next.masters[B] = Some(Shared::new(Master::new(None)));
        let a = me(&mut next, A);
        (a.saw_eof, a.saw_exit, a.open) = (false, false, true);
        next.to_a.clear();
        next.to_b.clear();
        self.deliver(next, A, Event::Launched(PIDS[B]), out);
    }

    pub(super) fn accidents(&self, world: &World, who: usize, out: &mut Next) {
        if world.accidents == 0 {
            return;
        }
        let mut base = world.clone();
        base.accidents -= 1;
        base.late = true;
        if self.deafness && !base.deaf && who == world.main {
            let mut next = base.clone();
            next.deaf = true;
            out.push((accident(who, "is not heard by the service manager"), next));
        }
        let me = base.masters[who].as_ref().unwrap();
        let mut killed = base.clone();
        die(&mut killed, who);
        out.push((accident(who, "killed"), killed));
        if me.health == Health::Well {
            for health in [Health::Hung, Health::Stuck] {
                let mut next = base.clone();
                next.masters[who].as_mut().unwrap().health = health;
                let what = match health {
                    Health::Hung => "hangs, silently",
                    _ => "does nothing but say that it is alive",
                };
                out.push((accident(who, what), next));
            }
            if me.machine.is_some() && me.workers != Workers::None {
                let mut next = base.clone();
                next.masters[who].as_mut().unwrap().workers = Workers::Starting;
                let event = Event::WorkersFailed("crash loop".into());
                self.deliver(next, who, event, out);
                out.last_mut().unwrap().0.unlikely = true;
            }
        }
    }
}

fn accident(who: usize, what: &'static str) -> Move {
    Move {
        unlikely: true,
        ..text(who, what)
    }
}
