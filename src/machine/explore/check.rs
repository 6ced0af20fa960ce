//! The invariants of one state.

use super::world::{A, B, Health, Older, Workers, World};
use super::{Explorer, Next, What};
use crate::machine::event::Event;
use crate::machine::{Phase, Timer};

impl Explorer {
    pub(super) fn check(&self, world: &World, nexts: &Next) -> Option<String> {
        if let Some(bad) = world.bad {
            return Some(bad.into());
        }
        if world.over {
            return None;
        }
        let living: Vec<usize> = [A, B]
            .into_iter()
            .filter(|w| world.masters[*w].as_ref().is_some_and(|m| m.alive))
            .collect();
        let a = world.masters[A].as_ref().unwrap();
        let asked = world.masters.iter().flatten().any(|m| m.asked_to_leave)
            && world.masters.iter().flatten().all(|m| {
                m.asked_to_leave || m.dismissed || !m.alive || m.phase() == Some(Phase::Draining)
            });
        if living.is_empty() && !asked && !world.stopping {
            return Some("nobody is left, and nobody asked for that".into());
        }
        if let Some(b) = &world.masters[B] {
            let sole = matches!(
                b.phase(),
                Some(Phase::Serving | Phase::Reloading | Phase::Launching)
            );
            let a_stays =
                a.alive && a.open && !matches!(a.phase(), Some(Phase::Draining | Phase::Done));
            if b.alive && sole && a_stays {
                return Some(
                    "two owners: the successor is alone while its predecessor stays".into(),
                );
            }
        }
        if let Some(b) = &world.masters[B] {
            let early = matches!(b.phase(), Some(Phase::Standby | Phase::Probation));
            let by_itself =
                world.accidents == self.accidents && !a.asked_to_leave && !world.stopping;
            if b.alive && early && !a.alive && by_itself && !b.asked_to_leave {
                return Some("the predecessor left before any commit: there is no way back".into());
            }
        }
        // Something that is on its way may change who accepts: then look again when it has arrived.
        let moving = !world.to_a.is_empty() || !world.to_b.is_empty() || {
            [A, B].into_iter().any(|w| {
                let (Some(m), Some(o)) = (&world.masters[w], &world.masters[1 - w]) else {
                    return false;
                };
                let eof = m.open && !m.saw_eof && (!o.alive || !o.open);
                m.alive && m.health == Health::Well && (eof || (!m.saw_exit && !o.alive))
            })
        };
        let accepts = world.masters.iter().flatten().any(|m| {
            m.alive && (m.workers == Workers::Accepting || m.workers == Workers::Starting)
        });
        // The one who should act hangs: the watchdog's case.
        let well = |w: &&usize| world.masters[**w].as_ref().unwrap().health == Health::Well;
        let watchdog = living.iter().any(|w| !well(&w))
            && living
                .iter()
                .filter(well)
                .all(|w| world.masters[*w].as_ref().unwrap().phase() == Some(Phase::Draining));
        if !accepts && !moving && !watchdog && !asked && !world.stopping {
            return Some("nobody accepts, and no living master is starting workers".into());
        }
        if !world.late && !world.ghost {
            let only_deadlines = nexts.iter().all(|(what, _)| {
                what.unlikely || matches!(what.what, What::Event(Event::Timer(_)))
            });
            if only_deadlines && self.script.len() == world.script {
                return waits(world).map(Into::into);
            }
        }
        let internal = nexts.iter().any(|(what, _)| !what.unlikely);
        if !internal && self.script.len() == world.script {
            return settled(world, &living);
        }
        None
    }
}

/// All are well, and nothing but time will change anything: deadlines are for accidents.
fn waits(world: &World) -> Option<&'static str> {
    for m in world.masters.iter().flatten().filter(|m| m.alive) {
        let Some(machine) = &m.machine else {
            return Some("nobody accepts the new master");
        };
        let armed = |t| machine.armed(t).is_some();
        let drainer = armed(Timer::Drainer) && world.older == Older::Gone;
        if drainer
            || [Timer::Start, Timer::Commit, Timer::Evict]
                .into_iter()
                .any(armed)
        {
            return Some("all are well, and somebody waits for a deadline");
        }
        if m.asked != 0 {
            return Some("an order is never answered");
        }
    }
    let alone = world.masters.iter().flatten().filter(|m| m.alive).count() == 1;
    (alone && world.upgrading).then_some("an upgrade ended without being concluded")
}

/// Nothing will happen any more by itself: is that a good end?
fn settled(world: &World, living: &[usize]) -> Option<String> {
    let hung = |w: usize| world.masters[w].as_ref().unwrap().health != Health::Well;
    if living.is_empty() {
        return None;
    }
    // Nobody who could feeds the watchdog: systemd kills what is left and starts again.
    if living.iter().all(|w| hung(*w)) {
        return None;
    }
    if !living.contains(&world.main) {
        return Some("MAINPID names a dead process and nobody will change that".into());
    }
    if living.len() == 1 {
        let m = world.masters[living[0]].as_ref().unwrap();
        // A lone hung master is for the watchdog; a leaving one was asked.
        let fine = m.phase() == Some(Phase::Serving) && m.workers == Workers::Accepting;
        return (!fine && !hung(living[0])).then(|| "the last master does not serve".into());
    }
    let phases = (
        world.masters[A].as_ref().unwrap().phase(),
        world.masters[B].as_ref().unwrap().phase(),
    );
    match phases {
        (Some(Phase::Parked), Some(Phase::Probation))
        | (Some(Phase::Beside), Some(Phase::Standby))
            if world.masters[A]
                .as_ref()
                .unwrap()
                .machine
                .as_ref()
                .unwrap()
                .hold() =>
        {
            None
        }
        // A stuck new one that says it is alive: in hold mode the operator decides.
        (Some(Phase::Beside | Phase::Parked), _)
            if world.masters[B].as_ref().unwrap().health == Health::Stuck
                && world.masters[A]
                    .as_ref()
                    .unwrap()
                    .machine
                    .as_ref()
                    .unwrap()
                    .hold() =>
        {
            None
        }
        // Hold mode: a hung old one is in nobody's way until somebody says more (`commit`
        // removes it).
        (_, Some(Phase::Probation)) if hung(A) && world.main == B => None,
        // The owner hangs and nobody can take over: the watchdog's case.
        _ if hung(world.main) && !hung(1 - world.main) && world.main == A => None,
        // Both told to leave, one of them hangs: systemd's SIGKILL.
        _ if world.stopping => None,
        _ => Some(format!("both masters stay for ever: {phases:?}")),
    }
}
