//! Long random walks with many generations: what the explorer cannot reach, for whom the world ends with
//! a third master. The seeds are fixed, so every run walks the same ways, and a bad one is printed
//! with its last steps.
//!
//! Time passes only when nothing else can happen, so a deadline means that somebody hangs, drains for
//! long, or is dead.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

mod acts;

use super::{proves, world::Workers};
use crate::machine::event::{Event, Failure, FromSuccessor, Order, Signal};
use crate::machine::message::Supersede;
use crate::machine::{Machine, OrderKind, Phase, Timer, Timing};

const WALKS: u64 = 300;
const ORDERS: u32 = 40;
const MOST_STEPS: usize = 20_000;
const GENERATIONS: usize = 3;
const NO_LIMIT: Duration = Duration::from_secs(1 << 30);

/// One master. Its place in the list, from 1, is its process's number.
#[expect(clippy::struct_excessive_bools, reason = "a state of a model")]
struct Node {
    /// `None`: exec'd, no inheritance yet.
    machine: Option<Machine>,
    greeted: bool,
    before: Option<u32>,
    /// The successor that it looks after.
    after: Option<u32>,
    inbox: VecDeque<Event>,
    alive: bool,
    /// SIGSTOP.
    hangs: bool,
    workers: Workers,
    accept: bool,
    reloading: bool,
    launching: bool,
    /// Until when what its workers hold lasts at most, when they drain.
    drains: Option<Instant>,
    /// Those that were told to leave still accept.
    closing: bool,
    /// Its ends of the channels.
    open_before: bool,
    open_after: bool,
    asked: Vec<OrderKind>,
    before_is_gone: bool,
    /// It has served its time in health, or was made final.
    proved: bool,
    /// Those that drain without a channel, as far as it knows.
    drainers: Vec<u32>,
}

#[expect(clippy::struct_excessive_bools, reason = "a state of a model")]
struct Walk {
    random: u64,
    now: Instant,
    nodes: Vec<Node>,
    main: u32,
    orders: u32,
    faults: u32,
    /// systemd starts the service anew, or it has stopped.
    over: bool,
    stops: bool,
    /// It sends TERM to everybody.
    told_all: bool,
    /// It has heard that the service runs.
    heard_ready: bool,
    /// Since when everybody shall leave, and in which time all that are well have to.
    leaves: Option<(Instant, Duration)>,
    wrong: Option<String>,
    /// So many masters at a time.
    most: usize,
    steps: usize,
    log: VecDeque<String>,
}

enum Move {
    Hear(u32),
    WorkersReady(u32),
    Closed(u32),
    Drained(u32),
    Reloaded(u32),
    Launched(u32),
    Introduced(u32),
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut walk = Self {
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: Instant::now(),
            nodes: Vec::new(),
            main: 1,
            orders: ORDERS,
            faults: 2,
            over: false,
            stops: false,
            told_all: false,
            heard_ready: false,
            leaves: None,
            wrong: None,
            most: 1,
            steps: 0,
            log: VecDeque::new(),
        };
        let (machine, actions) = Machine::first(timing(), walk.now);
        walk.add(Some(machine), None);
        walk.perform(1, actions);
        walk
    }

    /// One in so many.
    fn chance(&mut self, of: u64) -> bool {
        self.pick(of) == 0
    }

    fn pick(&mut self, of: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % of
    }

    fn one_of(&mut self, pids: &[u32]) -> Option<u32> {
        let most = u64::try_from(pids.len()).unwrap().max(1);
        let at = usize::try_from(self.pick(most)).unwrap();
        pids.get(at).copied()
    }

    fn add(&mut self, machine: Option<Machine>, before: Option<u32>) -> u32 {
        self.nodes.push(Node {
            machine,
            greeted: false,
            before,
            after: None,
            inbox: VecDeque::new(),
            alive: true,
            hangs: false,
            workers: Workers::None,
            accept: false,
            reloading: false,
            launching: false,
            drains: None,
            closing: false,
            open_before: before.is_some(),
            open_after: false,
            asked: Vec::new(),
            before_is_gone: false,
            proved: false,
            drainers: Vec::new(),
        });
        u32::try_from(self.nodes.len()).unwrap()
    }

    fn node(&mut self, pid: u32) -> &mut Node {
        &mut self.nodes[pid as usize - 1]
    }

    fn pids(&self, which: impl Fn(&Node) -> bool) -> Vec<u32> {
        let all = self.nodes.iter().zip(1..);
        all.filter(|(node, _)| which(node))
            .map(|(_, pid)| pid)
            .collect()
    }

    /// Everything that can happen without waiting.
    fn moves(&self) -> Vec<Move> {
        let mut all = Vec::new();
        for (node, pid) in self.nodes.iter().zip(1..) {
            if !node.alive || node.hangs {
                continue;
            }
            if node.machine.is_none() {
                if node.open_before && !node.greeted {
                    all.push(Move::Introduced(pid));
                }
                continue;
            }
            if !node.inbox.is_empty() {
                all.push(Move::Hear(pid));
            }
            if node.workers == Workers::Starting {
                all.push(Move::WorkersReady(pid));
            }
            if node.reloading {
                all.push(Move::Reloaded(pid));
            }
            if node.launching {
                all.push(Move::Launched(pid));
            }
            if node.closing {
                all.push(Move::Closed(pid));
            }
            if node.drains.is_some() {
                all.push(Move::Drained(pid));
            }
        }
        all
    }

    fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        let quiet = self.moves().iter().all(|m| matches!(m, Move::Drained(_)));
        // A naming that was lost is said again in a second. Known and not walked: a service manager that is
        // deaf for a commit and the next takeover hears the older name last.
        let names_again = |m: &Machine| m.armed(Timer::Name).is_some();
        let mut living = self.nodes.iter().filter(|n| n.alive && !n.hangs);
        let lost = living.any(|n| n.machine.as_ref().is_some_and(names_again));
        let may_order = self.orders > 0 && !lost;
        if quiet {
            self.check()?;
            if may_order && self.chance(2) {
                self.orders -= 1;
                self.order();
                return Ok(());
            }
            if self.orders == 0 && self.chance(50) {
                // In hold mode nobody else brings it to an end.
                self.ask(Order::Commit);
                return Ok(());
            }
            if self.chance(3) || self.moves().is_empty() {
                self.time_passes();
                return Ok(());
            }
        } else if may_order && self.chance(40) {
            self.orders -= 1;
            self.order();
        }
        if self.faults > 0 && self.chance(400) {
            self.accident();
        }
        let moves = self.moves();
        if moves.is_empty() {
            return Ok(());
        }
        let at = self.pick(moves.len() as u64);
        match moves[usize::try_from(at).unwrap()] {
            Move::Hear(pid) => {
                if let Some(event) = self.node(pid).inbox.pop_front() {
                    self.happens(pid, event);
                }
            }
            Move::WorkersReady(pid) => {
                let fails = self.chance(30);
                let node = self.node(pid);
                node.workers = if node.accept {
                    Workers::Accepting
                } else {
                    Workers::Ready
                };
                if fails {
                    self.node(pid).workers = Workers::Starting;
                    self.happens(pid, Event::WorkersFailed("they keep dying".into()));
                } else {
                    self.happens(pid, Event::WorkersReady);
                }
            }
            Move::Closed(pid) => {
                self.node(pid).closing = false;
                self.happens(pid, Event::WorkersClosed);
            }
            Move::Drained(pid) => {
                // Who holds on to a generation does so for a while.
                if self.chance(60) {
                    self.drained(pid);
                }
            }
            Move::Reloaded(pid) => {
                self.node(pid).reloading = false;
                let fails = self.chance(3);
                self.node(pid).closing |= !fails;
                let failure = Failure::new("bad configuration");
                self.happens(
                    pid,
                    if fails {
                        Event::ReloadFailed(failure)
                    } else {
                        Event::Reloaded
                    },
                );
            }
            Move::Launched(pid) => {
                self.node(pid).launching = false;
                if self.chance(6) {
                    self.happens(pid, Event::LaunchFailed(Failure::new("bad program")));
                } else {
                    let new = self.add(None, Some(pid));
                    let node = self.node(pid);
                    node.after = Some(new);
                    node.open_after = true;
                    self.happens(pid, Event::Launched(new));
                }
            }
            Move::Introduced(pid) => {
                let before = self.node(pid).before.unwrap();
                self.node(pid).greeted = true;
                self.tell_before(before, pid, FromSuccessor::Hello);
            }
        }
        Ok(())
    }

    fn drained(&mut self, pid: u32) {
        let node = self.node(pid);
        (node.drains, node.closing) = (None, false);
        self.happens(pid, Event::WorkersGone);
    }

    /// To the next deadline of anybody.
    fn time_passes(&mut self) {
        let deadline = |node: &Node| {
            let machine = node.machine.as_ref().filter(|_| !node.hangs)?.deadline();
            [machine, node.drains].into_iter().flatten().min()
        };
        let living = self.nodes.iter().filter(|node| node.alive);
        let Some(next) = living.filter_map(deadline).min() else {
            return;
        };
        self.now = self.now.max(next);
        for pid in self.pids(|node| node.alive && !node.hangs) {
            let node = &self.nodes[pid as usize - 1];
            if node.drains.is_some_and(|at| at <= self.now) {
                self.drained(pid);
            }
            let due = |node: &Node, now| node.machine.as_ref()?.due(now);
            while let Some(timer) = due(&self.nodes[pid as usize - 1], self.now) {
                self.happens(pid, Event::Timer(timer));
                if !self.node(pid).alive {
                    break;
                }
            }
        }
    }

    fn owner(&self) -> Option<u32> {
        let owns = |node: &Node| node.machine.as_ref().is_some_and(Machine::owns);
        self.pids(|node| node.alive && !node.hangs && owns(node))
            .pop()
    }

    /// The owner is asked.
    fn ask(&mut self, order: Order) {
        let Some(owner) = self.owner() else { return };
        self.node(owner).asked.push(order.kind());
        self.happens(owner, Event::Order(order));
    }

    /// An operator says something.
    fn order(&mut self) {
        let (hold, end_oldest) = (self.chance(5), self.chance(2));
        let id = self.orders.to_string();
        let supersede = Some(Supersede {
            id,
            hold: false,
            probation_ms: None,
            release: false,
        });
        let supersede = supersede.filter(|_| self.chance(3));
        if self.chance(40) {
            return self.last_word();
        }
        let order = match self.pick(12) {
            0..=4 => Order::Upgrade {
                current: false,
                end_oldest,
                hold,
                supersede,
            },
            5 | 6 => Order::Commit,
            7 | 8 => Order::Rollback { nothing: None },
            9 => Order::Reload,
            _ => return self.signal(),
        };
        self.ask(order);
    }

    /// The service shall stop: by an order, by a signal to the owner, or by systemd, which tells everybody.
    fn last_word(&mut self) {
        let Some(owner) = self.owner() else { return };
        let Timing {
            evict,
            stop,
            commit,
            ..
        } = timing();
        self.orders = 0;
        let soon = stop + commit + evict;
        match self.pick(4) {
            0 => {
                self.leaves = Some((self.now, soon));
                self.ask(Order::Stop);
                if self.chance(2) {
                    self.leaves = Some((self.now, evict * 2));
                    self.happens(owner, Event::Signal(Signal::Int));
                }
            }
            1 => {
                self.told_all = true;
                for pid in self.pids(|node| node.alive && !node.hangs) {
                    if self.node(pid).machine.is_none() {
                        self.end(pid);
                    } else {
                        self.node(pid).inbox.push_back(Event::ManagerTerm);
                    }
                }
            }
            _ => {
                let all = [Signal::Term, Signal::Int, Signal::Quit];
                let signal = all[usize::try_from(self.pick(3)).unwrap()];
                self.happens(owner, Event::Signal(signal));
            }
        }
    }

    /// Signals, to whom they mean something.
    fn signal(&mut self) {
        let all = self.pids(|node| node.alive && !node.hangs && node.machine.is_some());
        let Some(pid) = self.one_of(&all) else { return };
        let phase = self.nodes[pid as usize - 1]
            .machine
            .as_ref()
            .unwrap()
            .phase();
        let signal = match phase {
            Phase::Serving => Signal::Usr2,
            Phase::Beside => Signal::Winch,
            Phase::Parked if self.chance(2) => Signal::Hup,
            Phase::Parked | Phase::Standby | Phase::Probation | Phase::Draining => {
                [Signal::Quit, Signal::Term, Signal::Int][usize::try_from(self.pick(3)).unwrap()]
            }
            _ => return,
        };
        self.happens(pid, Event::Signal(signal));
    }

    /// A process is killed, or stopped.
    fn accident(&mut self) {
        let all = self.pids(|node| node.alive);
        let Some(pid) = self.one_of(&all) else { return };
        self.faults -= 1;
        if self.chance(2) {
            self.say(pid, "is stopped");
            self.node(pid).hangs = true;
        } else {
            self.say(pid, "is killed");
            self.end(pid);
        }
    }

    fn say(&mut self, pid: u32, what: &str) {
        let all = self.nodes.iter().zip(1..).filter(|(node, _)| node.alive);
        let all: Vec<String> = all
            .map(|(node, pid)| {
                let phase = node
                    .machine
                    .as_ref()
                    .map_or("exec'd", |m| m.phase().as_str());
                format!("{pid} {phase}/{:?}", node.workers)
            })
            .collect();
        if self.log.len() == 60 {
            self.log.pop_front();
        }
        self.log.push_back(format!(
            "{pid}: {what:<60.60} {} main {}",
            all.join(" | "),
            self.main
        ));
    }

    fn happens(&mut self, pid: u32, event: Event) {
        self.say(pid, &format!("{event:?}"));
        let now = self.now;
        let node = self.node(pid);
        match event {
            Event::PredecessorClosed => {
                let before = node.before.filter(|_| !node.before_is_gone);
                node.drainers.extend(before);
            }
            Event::PredecessorExited => {
                node.before_is_gone = true;
                let before = node.before;
                node.drainers.retain(|one| Some(*one) != before);
            }
            Event::DrainerGone(one) => node.drainers.retain(|known| *known != one),
            _ => {}
        }
        let node = self.node(pid);
        let Some(machine) = &mut node.machine else {
            return;
        };
        node.proved |= proves(&event, machine.phase());
        let actions = machine.step(event, now);
        self.perform(pid, actions);
    }

    fn tell_before(&mut self, before: u32, pid: u32, word: FromSuccessor) {
        let node = self.node(before);
        if node.alive && node.open_after && node.after == Some(pid) {
            node.inbox.push_back(Event::Successor(word));
        }
    }

    /// Nothing is on its way, and nobody starts: what must be so then.
    fn check(&mut self) -> Result<(), String> {
        let living = self.nodes.iter().filter(|node| node.alive);
        self.most = self.most.max(living.clone().count());
        let well = living.clone().filter(|node| !node.hangs);
        let machines: Vec<&Machine> = well.clone().filter_map(|n| n.machine.as_ref()).collect();
        if self.nodes.len() > 1 && !self.heard_ready {
            return Err("an upgrade begins, and READY=1 was never heard".into());
        }
        // Who was asked to stop may have died since.
        let stops = self.stops || self.told_all || self.leaves.is_some();
        if machines.iter().any(|m| m.stopping()) || stops {
            return Ok(());
        }
        let hung = living.clone().any(|node| node.hangs);
        let owners = machines.iter().filter(|m| m.owns()).count();
        if owners != 1 && !hung {
            return Err(format!("{owners} masters own the service"));
        }
        let accepts = |n: &Node| matches!(n.workers, Workers::Accepting | Workers::Starting);
        if !well.clone().any(accepts) && !hung {
            return Err("nobody accepts".into());
        }
        let main = &self.nodes[self.main as usize - 1];
        if !main.alive && !hung && owners == 1 {
            let knows = machines.iter().any(|m| m.owns() && m.main().is_some());
            if knows {
                return Err("the main process is dead, and nobody names another".into());
            }
        }
        for machine in machines {
            let drain = machine.drainers().len();
            // The limit is asked for an order; one that was superseded, and one that failed after it, come
            // on top.
            if machine.owns() && drain > GENERATIONS + 2 {
                return Err(format!("{drain} generations drain"));
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), String> {
        loop {
            if let Some(wrong) = self.wrong.take() {
                return Err(wrong);
            }
            if self.nodes.iter().all(|node| !node.alive) {
                return match self.leaves {
                    Some((since, limit)) if self.now > since + limit => {
                        Err(format!("the stop takes {:?}", self.now - since))
                    }
                    Some(_) => Ok(()),
                    None if self.over || self.stops || self.told_all => Ok(()),
                    None => Err("nobody is left".into()),
                };
            }
            if self.over {
                return Ok(());
            }
            if self.steps >= MOST_STEPS {
                break;
            }
            let one_left = self.nodes.iter().filter(|node| node.alive).count() == 1;
            if self.orders == 0 && one_left && self.moves().is_empty() {
                // The last one answers for everything, and has nothing more to wait for.
                let pid = self.pids(|node| node.alive)[0];
                let node = &self.nodes[pid as usize - 1];
                if node.hangs || self.stops {
                    return Ok(());
                }
                if !node.asked.is_empty() {
                    return Err(format!("{:?} is never answered", node.asked));
                }
                if node.machine.as_ref().unwrap().phase() == Phase::Serving {
                    let heard = self.heard_ready;
                    return heard.then_some(()).ok_or("READY=1 was never heard".into());
                }
            }
            self.step()?;
        }
        if self.nodes.iter().any(|node| node.alive && node.hangs) {
            return Ok(());
        }
        Err("it never comes to an end".into())
    }
}

fn timing() -> Timing {
    Timing {
        generations: GENERATIONS,
        drain: Some(Duration::from_secs(300)),
        ..Timing::default()
    }
}

#[test]
fn many_generations_in_random_walks_keep_the_invariants() {
    let began = Instant::now();
    let (mut steps, mut masters, mut many) = (0, 0, 0);
    for seed in 1..=WALKS {
        let mut walk = Walk::new(seed);
        if let Err(wrong) = walk.run() {
            let log: Vec<String> = walk.log.into_iter().collect();
            panic!("walk {seed}:\n{}\n=> {wrong}", log.join("\n"));
        }
        steps += walk.steps;
        masters += walk.nodes.len();
        many += usize::from(walk.most >= 4);
    }
    eprintln!(
        "{WALKS} walks of {steps} steps with {masters} masters, {many} with four or more at a time, \
         in {:?}",
        began.elapsed()
    );
    assert!(
        many > 30,
        "only {many} walks have seen four masters at a time"
    );
}
