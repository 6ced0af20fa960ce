//! Which processes belong to the unit, and what their ends mean.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Control, Pid1, SEARCH};
use crate::kit::manager::Reloaded;
use crate::kit::manager::state::{Active, Event};
use crate::kit::manager::unit::Restart;
use crate::kit::proc::{self, Pinned, Process};

impl Pid1 {
    /// Everything of the unit that lives, zombies not counted.
    pub(super) fn living(&self) -> Vec<u32> {
        let lives = |(pid, started): (&u32, &u64)| {
            Process::look(*pid)
                .filter(|p| p.started == *started && !p.is_zombie())
                .map(|p| p.pid)
        };
        self.members.iter().filter_map(lives).collect()
    }

    pub(super) fn remember(&mut self, pid: u32) {
        if let Some(process) = Process::look(pid) {
            self.members.insert(pid, process.started);
        }
    }

    pub(super) fn signal(&self, pid: u32, signal: Signal) {
        let same = |p: &Process| self.members.get(&pid) == Some(&p.started);
        if let Some(pinned) =
            Pinned::open(pid).filter(|_| Process::look(pid).is_some_and(|p| same(&p)))
        {
            pinned.signal(signal);
        }
    }

    /// Looks for processes of the unit that nobody told us of.
    pub(super) fn search(&mut self, now: bool) {
        if !now && self.searched.elapsed() < SEARCH {
            return;
        }
        self.searched = Instant::now();
        let pids = proc::pids();
        for pid in &pids {
            let Some(process) = Process::look(*pid) else {
                continue;
            };
            if self.members.get(pid) == Some(&process.started)
                || self.strangers.contains(&(*pid, process.started))
            {
                continue;
            }
            if proc::is_marked(*pid, &self.unit.marker) {
                self.members.insert(*pid, process.started);
            } else if age(&process) > Duration::from_secs(2) {
                self.strangers.insert((*pid, process.started));
            }
        }
        self.members.retain(|pid, _| pids.contains(pid));
        self.strangers.retain(|(pid, _)| pids.contains(pid));
    }

    pub(super) fn is_member(&mut self, pid: u32) -> bool {
        let Some(process) = Process::look(pid) else {
            return false;
        };
        if self.members.get(&pid) == Some(&process.started) {
            return true;
        }
        let marked = proc::is_marked(pid, &self.unit.marker);
        if marked {
            self.members.insert(pid, process.started);
        }
        marked
    }

    /// Reaps what is ours, and draws the conclusions.
    pub(super) fn bury(&mut self) {
        let main = self.state().main;
        for pid in self.members.keys().copied().collect::<Vec<_>>() {
            let Some(status) = proc::reap(pid) else {
                continue;
            };
            self.members.remove(&pid);
            let is_main = main == Some(pid);
            if let Some(control) = self.control.take_if(|c| c.pid == pid) {
                self.control_ended(&control, Some(status));
                continue;
            }
            let mut state = self.state();
            state.happen(Event::Exited {
                pid,
                status,
                main: is_main,
            });
            if is_main {
                state.result = Some(status);
                state.main = None;
                let deactivating = state.active == Active::Deactivating && self.control.is_none();
                drop(state);
                self.main = None;
                self.main_ended = true;
                if deactivating {
                    // systemd sends what remains a second TERM.
                    for pid in self.living() {
                        self.signal(pid, Signal::TERM);
                        self.signal(pid, Signal::CONT);
                    }
                }
                let code = status.code();
                self.failed |= code != Some(0);
                self.restart_asked |= match self.unit.restart {
                    Restart::No => false,
                    Restart::OnFailure => self.failed,
                    Restart::Always => true,
                } && !self.stop_asked
                    && !code.is_some_and(|c| self.unit.restart_prevent.contains(&c));
            }
        }
        let dead_alien = !self.told_alien && self.main.as_ref().is_some_and(Pinned::has_ended);
        if let Some(pid) = main.filter(|_| dead_alien) {
            self.told_alien = true;
            self.state().happen(Event::AlienMainDied { pid });
        }
        let active = self.state().active;
        let stopped = matches!(
            active,
            Active::Deactivating | Active::Dead | Active::AutoRestart
        );
        // No conclusion while ExecReload= or ExecStop= runs.
        if self.main_ended && self.control.is_none() && !stopped {
            self.terminate(true);
        }
        if active == Active::Deactivating && self.control.is_none() {
            self.finish_stop();
        }
    }

    pub(super) fn finish_stop(&mut self) {
        self.search(true);
        // Zombies too: their parents are gone, so they are ours, and the main one's status counts.
        let exists = |(pid, started): (&u32, &u64)| {
            Process::look(*pid).is_some_and(|p| p.started == *started)
        };
        if self.members.iter().any(exists) {
            return;
        }
        self.deadline = None;
        self.main = None;
        let restart = self.restart_asked;
        let mut state = self.state();
        state.main = None;
        if !restart {
            state.store.clear();
            state.become_active(Active::Dead);
            return;
        }
        state.become_active(Active::AutoRestart);
        drop(state);
        let after = if self.stop_asked {
            Duration::ZERO
        } else {
            self.unit.restart_after
        };
        self.restart_at = Some(Instant::now() + after);
    }

    pub(super) fn control_ended(
        &mut self,
        control: &Control,
        status: Option<std::process::ExitStatus>,
    ) {
        if control.stop {
            self.terminate(true);
            return;
        }
        self.deadline = None;
        let mut state = self.state();
        state.reloads.push(Reloaded {
            status,
            took: control.began.elapsed(),
        });
        if state.active == Active::Reloading {
            state.become_active(Active::Running);
        }
    }
}

fn age(process: &Process) -> Duration {
    let uptime = std::fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .unwrap_or(0.0);
    Duration::from_secs_f64((uptime - process.started as f64 / 100.0).max(0.0))
}
