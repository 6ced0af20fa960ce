//! The state of the model: two masters, what is on its way between them, and systemd.

use std::cell::Cell;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::fingerprint::fingerprint;
use crate::machine::event::{FromPredecessor, FromSuccessor};
use crate::machine::{Machine, Phase};

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

/// Workers of one master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Workers {
    None,
    Starting,
    Ready,
    Accepting,
}

/// A generation that drained already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Older {
    Drains,
    /// It was told to hurry.
    Told,
    Gone,
}

/// Its master's number.
pub(super) const OLDER: u32 = 77;
/// That of A's own predecessor.
pub(super) const GHOST: u32 = 78;
/// Those of A and B.
pub(super) const PIDS: [u32; 2] = [1, 2];

/// What is wrong with a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Health {
    Well,
    /// SIGSTOP: it does nothing, silently.
    Hung,
    /// It says that it is alive, and does nothing else.
    Stuck,
}

#[expect(clippy::struct_excessive_bools, reason = "a state of a model")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Master {
    /// `None`: exec'd, no inheritance yet.
    pub(super) machine: Option<Machine>,
    pub(super) alive: bool,
    pub(super) health: Health,
    pub(super) workers: Workers,
    /// What the pool tells workers that come up: a respawned one goes on where the last one was.
    pub(super) accept: bool,
    pub(super) reloading: bool,
    pub(super) draining: bool,
    /// Workers that were told to leave still accept.
    pub(super) closing: bool,
    /// Our end of the channel to the other one.
    pub(super) open: bool,
    /// EOF of the other end was delivered; the other's exit was delivered.
    pub(super) saw_eof: bool,
    pub(super) saw_exit: bool,
    pub(super) said_hello: bool,
    pub(super) asked_to_leave: bool,
    /// Was sent away, or the whole service was asked to stop.
    pub(super) dismissed: bool,
    /// It knows that the oldest one has gone.
    pub(super) saw_older_gone: bool,
    /// Orders that a client of this master waits for, a bit a kind.
    pub(super) asked: u8,
}

impl Master {
    pub(super) fn new(machine: Option<Machine>) -> Self {
        Self {
            machine,
            alive: true,
            health: Health::Well,
            workers: Workers::None,
            accept: false,
            reloading: false,
            draining: false,
            closing: false,
            open: true,
            saw_eof: false,
            saw_exit: false,
            said_hello: false,
            asked_to_leave: false,
            dismissed: false,
            saw_older_gone: false,
            asked: 0,
        }
    }

    pub(super) fn phase(&self) -> Option<Phase> {
        self.machine.as_ref().map(Machine::phase)
    }

    pub(super) fn owns(&self) -> bool {
        self.alive && self.machine.as_ref().is_some_and(Machine::owns)
    }
}

/// A master in a state. Most moves change one of the two: the other one is that of the state before, neither
/// copied nor hashed again.
#[derive(Debug, Clone)]
pub(super) struct Shared(Rc<(Master, Cell<Option<u64>>)>);

impl Shared {
    pub(super) fn new(master: Master) -> Self {
        Self(Rc::new((master, Cell::new(None))))
    }
}

impl Deref for Shared {
    type Target = Master;

    fn deref(&self) -> &Master {
        &self.0.0
    }
}

impl DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut Master {
        let (master, hash) = Rc::make_mut(&mut self.0);
        hash.set(None);
        master
    }
}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (master, hash) = &*self.0;
        let known = hash.get().unwrap_or_else(|| fingerprint(master));
        hash.set(Some(known));
        state.write_u64(known);
    }
}

#[expect(clippy::struct_excessive_bools, reason = "a state of a model")]
#[derive(Debug, Clone, Hash)]
pub(super) struct World {
    pub(super) masters: [Option<Shared>; 2],
    pub(super) to_b: VecDeque<FromPredecessor>,
    pub(super) to_a: VecDeque<FromSuccessor>,
    pub(super) launching: bool,
    pub(super) main: usize,
    /// The next word about the main process does not reach the service manager.
    pub(super) deaf: bool,
    /// The story ends here: systemd saw its main process die and starts the service again (the
    /// file on disk is right); or B, serving, launches a third master, which is a new story.
    pub(super) over: bool,
    pub(super) stopping: bool,
    /// How much of the script was carried out.
    pub(super) script: usize,
    pub(super) accidents: u8,
    /// An accident has happened, or a deadline other than the probation's has passed.
    pub(super) late: bool,
    /// A start was given up, and there may be a process nevertheless.
    pub(super) stray: bool,
    /// A's own predecessor still drains.
    pub(super) ghost: bool,
    /// A generation before all of them, which drains for as long as it may.
    pub(super) older: Older,
    /// An upgrade has begun and is not concluded.
    pub(super) upgrading: bool,
    /// By whom the last one was.
    pub(super) concluded: Option<usize>,
    /// What B runs has served its time in health, or an operator made it final.
    pub(super) proved: bool,
    pub(super) bad: Option<&'static str>,
}

pub(super) fn me(world: &mut World, who: usize) -> &mut Master {
    world.masters[who].as_mut().unwrap()
}

/// A process ends, for whatever reason: its workers see EOF and leave, systemd may see it.
pub(super) fn die(world: &mut World, who: usize) {
    end(world, who, false);
}

pub(super) fn end(world: &mut World, who: usize, exits: bool) {
    let m = me(world, who);
    if !m.alive {
        return;
    }
    m.alive = false;
    m.open = false;
    m.workers = Workers::None;
    (m.draining, m.closing) = (false, false);
    let parent_is_systemd = who == A || !world.masters[A].as_ref().is_some_and(|a| a.alive);
    if world.main == who && parent_is_systemd {
        let this = &world.masters[who].as_ref().unwrap();
        let other = world.masters[1 - who].as_ref();
        let asked = world.stopping
            || ((this.asked_to_leave || this.dismissed)
                && other.is_none_or(|o| o.asked_to_leave || !o.alive));
        if exits && !asked {
            world.bad = Some("the main process exited by itself, and nobody asked for that");
        }
        if exits && world.stopping && world.older == Older::Drains {
            world.bad = Some("a stop leaves a generation behind that drains");
        }
        // A stop ends here too: what is left gets systemd's SIGTERM and SIGKILL.
        world.over = true;
    }
    // A's death reparents a dead, unreaped main process to systemd, which sees it now.
    if who == A && world.main == B && world.masters[B].as_ref().is_some_and(|b| !b.alive) {
        world.over = true;
    }
}

pub(super) fn name(who: usize) -> &'static str {
    ["A", "B"][who]
}

pub(super) fn sketch(world: &World) -> String {
    let one = |w: usize| {
        world.masters[w].as_ref().map_or("-".into(), |m| {
            let phase = m.phase().map_or("exec'd", Phase::as_str);
            let dead = if m.alive { "" } else { " DEAD" };
            let drain = if m.draining { "+drain" } else { "" };
            format!("{phase}/{:?}{drain}/{:?}{dead}", m.workers, m.health)
        })
    };
    format!("A {} | B {} | main {}", one(A), one(B), name(world.main))
}
