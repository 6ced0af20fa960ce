//! What the manager knows, for tests to look at.

use std::fmt::Write as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::Reloaded;
use super::message::Message;
use super::store::Stored;

/// The unit's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Active {
    /// Started, `READY=1` has not come.
    Activating,
    /// `active (running)`
    Running,
    /// `ExecReload=` runs.
    Reloading,
    /// Everything was told to leave.
    Deactivating,
    /// Waits for `RestartSec=`.
    AutoRestart,
    /// Nothing runs.
    Dead,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The unit's state changed.
    Active(Active),
    /// `ExecStart=` was run.
    Started { pid: u32 },
    /// The main process is another one; `alien`: it was not our child at that moment.
    Main { pid: u32, alien: bool },
    /// A process of the unit that was our child ended, and we reaped it.
    Exited {
        pid: u32,
        status: ExitStatus,
        main: bool,
    },
    /// The main process ended as somebody else's child: systemd notices nothing.
    AlienMainDied { pid: u32 },
    /// `STOPPING=1`, final for the whole unit; `others`: processes of the unit that lived then.
    Stopping { pid: u32, others: Vec<u32> },
    /// Nobody fed the watchdog in time.
    WatchdogMissed,
    /// On stop the main process was alien and alone: TERM and KILL at once.
    KilledAtOnce { pid: u32 },
    /// KILL after `TimeoutStopSec=`.
    Killed { pid: u32 },
    /// A stored descriptor was dropped because its other end was closed.
    HungUp { name: String },
}

/// What the manager knows.
#[derive(Debug)]
pub struct State {
    pub(super) began: Instant,
    /// The unit's state.
    pub active: Active,
    /// The main process.
    pub main: Option<u32>,
    /// Whether it was not our child when it was named.
    pub main_is_alien: bool,
    /// How often `ExecStart=` was run.
    pub starts: u32,
    /// Who said `READY=1`, in this run.
    pub ready_by: Option<u32>,
    /// The last `STATUS=`.
    pub status: String,
    /// All datagrams.
    pub messages: Vec<Message>,
    /// All events, since the manager was started.
    pub events: Vec<(Duration, Event)>,
    /// The file-descriptor store.
    pub store: Vec<Stored>,
    /// `WATCHDOG=1` that were accepted.
    pub watchdog_pings: u64,
    /// Processes that had to be killed.
    pub killed: Vec<u32>,
    /// Reloads that ended.
    pub reloads: Vec<Reloaded>,
    /// Barriers that were closed.
    pub barriers: u64,
    /// No message is read.
    pub frozen: bool,
    /// How the last run of the main process ended.
    pub result: Option<ExitStatus>,
}

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            active: Active::Dead,
            main: None,
            main_is_alien: false,
            starts: 0,
            ready_by: None,
            status: String::new(),
            messages: Vec::new(),
            events: Vec::new(),
            store: Vec::new(),
            watchdog_pings: 0,
            killed: Vec::new(),
            reloads: Vec::new(),
            barriers: 0,
            frozen: false,
            result: None,
        }
    }

    /// Every `STATUS=` in order.
    pub fn statuses(&self) -> Vec<&str> {
        self.messages
            .iter()
            .filter_map(|m| m.get("STATUS"))
            .collect()
    }

    /// Every process that became the main one, in order.
    pub fn mains(&self) -> Vec<u32> {
        let main = |event: &Event| match event {
            Event::Main { pid, .. } => Some(*pid),
            _ => None,
        };
        self.events.iter().filter_map(|(_, e)| main(e)).collect()
    }

    /// The names in the store, in the order of storing.
    pub fn stored(&self) -> Vec<&str> {
        self.store.iter().map(|s| s.name.as_str()).collect()
    }

    /// Whether something like it happened.
    pub fn happened(&self, mut like: impl FnMut(&Event) -> bool) -> bool {
        self.events.iter().any(|(_, event)| like(event))
    }

    pub(super) fn happen(&mut self, event: Event) {
        self.events.push((self.began.elapsed(), event));
    }

    pub(super) fn become_active(&mut self, active: Active) {
        if self.active != active {
            self.active = active;
            self.happen(Event::Active(active));
        }
    }

    /// Messages and events in the order of time.
    pub fn story(&self) -> String {
        let mut lines: Vec<(Duration, String)> = self
            .messages
            .iter()
            .map(|m| (m.at, m.to_string()))
            .chain(
                self.events
                    .iter()
                    .map(|(at, event)| (*at, format!("{at:>9.3?} {event:?}"))),
            )
            .collect();
        lines.sort_by_key(|(at, _)| *at);
        let mut story = format!(
            "{:?}, main process {:?} (alien: {}), {} starts, stored {:?}\n",
            self.active,
            self.main,
            self.main_is_alien,
            self.starts,
            self.stored()
        );
        for (_, line) in lines {
            let _ = writeln!(story, "  {line}");
        }
        story
    }
}
