//! The manager's thread.

mod hear;
mod members;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::state::{Active, Event, State};
use super::unit::{Restart, Unit};
use super::{Order, Shared, message, store};
use crate::kit::proc::Pinned;

/// Between two looks when nothing wakes us.
const TICK: Duration = Duration::from_millis(10);

/// Between two searches for new processes of the unit.
const SEARCH: Duration = Duration::from_millis(100);

/// PID 1, as far as one unit is concerned.
pub struct Pid1 {
    unit: Unit,
    socket: OwnedFd,
    notify_socket: String,
    shared: Arc<Shared>,
    /// Processes of the unit that are known, and when they were started.
    members: BTreeMap<u32, u64>,
    /// Processes that are not, so that nobody looks twice.
    strangers: BTreeSet<(u32, u64)>,
    searched: Instant,
    main: Option<Pinned>,
    /// The death of an alien main process was told.
    told_alien: bool,
    control: Option<Control>,
    /// What a start, reload or stop must be over by.
    deadline: Option<Instant>,
    restart_at: Option<Instant>,
    restart_asked: bool,
    stop_asked: bool,
    failed: bool,
    watchdog: Option<Duration>,
    fed: Instant,
    main_ended: bool,
}

/// `ExecReload=` or `ExecStop=` while it runs.
struct Control {
    pid: u32,
    began: Instant,
    stop: bool,
}

impl Pid1 {
    pub fn new(unit: Unit, socket: OwnedFd, notify_socket: String, shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            watchdog: unit.watchdog,
            unit,
            socket,
            notify_socket,
            shared,
            members: BTreeMap::new(),
            strangers: BTreeSet::new(),
            searched: now,
            main: None,
            told_alien: false,
            control: None,
            deadline: None,
            restart_at: None,
            restart_asked: false,
            stop_asked: false,
            failed: false,
            fed: now,
            main_ended: false,
        }
    }

    pub fn run(mut self, orders: &mpsc::Receiver<Order>, woken: &OwnedFd) {
        let shared = self.shared.clone();
        let gate = shared.pass();
        self.start();
        drop(gate);
        loop {
            self.wait(woken);
            let _gate = shared.pass();
            while let Ok(order) = orders.try_recv() {
                match order {
                    Order::Abandon => return,
                    Order::Freeze(frozen) => self.state().frozen = frozen,
                    Order::Start => self.start(),
                    Order::Stop { restart } => self.stop(restart),
                    Order::Reload { command } => self.reload(&command),
                }
            }
            // Messages before deaths: systemd reads the socket first.
            while !self.state().frozen {
                let Some(datagram) = message::receive(&self.socket) else {
                    break;
                };
                self.hear(datagram);
            }
            self.search(false);
            self.bury();
            self.watch_clock();
            let hung_up = store::drop_hung_up(&mut self.state().store);
            for name in hung_up {
                self.state().happen(Event::HungUp { name });
            }
            self.shared.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    fn wait(&self, woken: &OwnedFd) {
        let mut fds = vec![PollFd::new(woken, PollFlags::IN)];
        if !self.state().frozen {
            fds.push(PollFd::new(&self.socket, PollFlags::IN));
        }
        if let Some(main) = self.main.as_ref().filter(|_| !self.told_alien) {
            fds.push(PollFd::new(main.fd(), PollFlags::IN));
        }
        let timeout = Timespec::try_from(TICK).expect("a short time");
        let _ = poll(&mut fds, Some(&timeout));
        let mut bytes = [0; 64];
        let _ = rustix::io::read(woken, &mut bytes);
    }

    fn watch_clock(&mut self) {
        let now = Instant::now();
        if self.restart_at.is_some_and(|at| at <= now) {
            self.start();
        }
        let active = self.state().active;
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            match (self.control.take(), active) {
                (Some(control), _) => {
                    self.signal(control.pid, Signal::KILL);
                    self.control_ended(&control, None);
                }
                (None, Active::Activating) => {
                    self.failed = true;
                    self.restart_asked = self.unit.restart != Restart::No;
                    self.terminate(true);
                }
                (None, Active::Deactivating) => self.kill_all(),
                (None, _) => {}
            }
        }
        let watched = matches!(active, Active::Running | Active::Reloading);
        if self
            .watchdog
            .is_some_and(|w| watched && self.fed + w <= now)
        {
            self.state().happen(Event::WatchdogMissed);
            self.failed = true;
            self.restart_asked = self.unit.restart != Restart::No;
            self.search(true);
            for pid in self.living() {
                self.signal(pid, Signal::ABORT);
            }
            self.deadline = Some(now + self.unit.timeout_stop);
            self.state().become_active(Active::Deactivating);
        }
    }
}
