//! The operator's words, and how anything reaches a master.

use super::perform::too_early;
use super::world::{A, B, Health, Older, World, die, me};
use super::{Explorer, Move, Next, Plant, What, Word, proves, text};
use crate::machine::event::{Event, Order, Signal};
use crate::machine::{Action, Verdict};

impl Explorer {
    pub(super) fn operator(&self, world: &World, out: &mut Next) {
        let Some(next_word) = self.script.get(world.script) else {
            return;
        };
        let mut base = world.clone();
        base.script += 1;
        match next_word {
            Word::Order(order) => {
                // The owner answers the control socket; in the middle of a hand-over both may.
                for who in [A, B] {
                    if base.masters[who]
                        .as_ref()
                        .is_some_and(|m| m.owns() && m.health == Health::Well)
                    {
                        let mut next = base.clone();
                        if *order == Order::Stop {
                            for m in next.masters.iter_mut().flatten() {
                                m.asked_to_leave = true;
                            }
                        }
                        self.deliver(next, who, Event::Order(order.clone()), out);
                    }
                }
            }
            Word::Signal(who, signal) => {
                let there = base.masters[*who]
                    .as_ref()
                    .is_some_and(|m| m.alive && m.health == Health::Well);
                if there && base.masters[*who].as_ref().unwrap().machine.is_some() {
                    self.signal(base, *who, *signal, out);
                } else {
                    out.push((text(*who, "is not there for the signal"), base));
                }
            }
            Word::TermAll => {
                if world.older == Older::Drains {
                    base.older = Older::Told;
                }
                // Two steps: first to one, then to the other, whatever happens in between.
                for who in [A, B] {
                    let Some(m) = &world.masters[who] else {
                        continue;
                    };
                    if !m.alive || m.asked_to_leave || m.health != Health::Well {
                        continue;
                    }
                    let mut next = world.clone();
                    next.older = base.older;
                    if m.machine.is_none() {
                        next.masters[who].as_mut().unwrap().asked_to_leave = true;
                        die(&mut next, who);
                        out.push((text(B, "SIGTERM before the inheritance"), next));
                    } else {
                        self.signal(next, who, Signal::Term, out);
                    }
                }
            }
        }
    }

    pub(super) fn signal(&self, mut next: World, who: usize, signal: Signal, out: &mut Next) {
        if matches!(signal, Signal::Term | Signal::Quit | Signal::Int) {
            next.masters[who].as_mut().unwrap().asked_to_leave = true;
        }
        self.deliver(next, who, Event::Signal(signal), out);
    }

    pub(super) fn deliver(&self, mut world: World, who: usize, event: Event, out: &mut Next) {
        let Some(machine) = world.masters[who].as_mut().and_then(|m| m.machine.as_mut()) else {
            return;
        };
        world.proved |= who == B && proves(&event, machine.phase());
        let actions = machine.step(event.clone(), self.start);
        // Reasons are for people: two states that differ in nothing else are one.
        if let Some(why) = &mut machine.why {
            why.reason.clear();
        }
        let mut asked = match &event {
            Event::Order(order) => Some(order.kind()),
            _ => None,
        };
        for action in actions {
            match action {
                Action::Settle(..) if self.plant == Plant::ForgetsAVerdict => {}
                Action::Settle(kind, ref verdict)
                    if asked == Some(kind) && *verdict != Verdict::Moved =>
                {
                    too_early(&mut world, who, kind, verdict);
                    let alone = matches!(
                        verdict,
                        Verdict::Refused(_) | Verdict::Already(_) | Verdict::Full
                    );
                    if !alone {
                        me(&mut world, who).asked &= !(1 << kind as u8);
                    }
                    asked = None;
                }
                _ => self.perform(&mut world, who, action),
            }
        }
        if let Some(kind) = asked {
            me(&mut world, who).asked |= 1 << kind as u8;
        }
        let what = What::Event(event);
        out.push((
            Move {
                who,
                what,
                unlikely: false,
            },
            world,
        ));
    }
}
