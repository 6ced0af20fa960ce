//! Messages: who may send them, and what they do.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::Pid1;
use crate::kit::manager::message::{Datagram, Message, Verdict};
use crate::kit::manager::state::{Active, Event};
use crate::kit::manager::store;
use crate::kit::manager::unit::NotifyAccess;
use crate::kit::proc::{Pinned, Process};

impl Pid1 {
    pub(super) fn hear(&mut self, datagram: Datagram) {
        let count = datagram.fds.len();
        let at = self.state().began.elapsed();
        let (pid, uid) = (datagram.pid, datagram.uid);
        let fields = datagram.fields.clone();
        let is_barrier = fields.iter().any(|(k, v)| k == "BARRIER" && v == "1");
        let (verdict, barrier) = if is_barrier {
            // Answered whoever sent it: it proves "processed", not "accepted".
            Self::barrier(datagram)
        } else {
            let allowed = datagram
                .broken
                .clone()
                .map_or_else(|| self.may_speak(pid), Err);
            (allowed.and_then(|()| self.obey(datagram)), Vec::new())
        };
        let mut state = self.state();
        state.barriers += u64::from(is_barrier && verdict.is_ok());
        state.messages.push(Message {
            at,
            pid,
            uid,
            fields,
            fds: count,
            verdict: verdict.map_or_else(Verdict::Refused, |()| Verdict::Accepted),
        });
        drop(state);
        self.shared.changed.notify_all();
        // Only now: the sender may rely on everything before it being visible.
        drop(barrier);
    }

    pub(super) fn barrier(datagram: Datagram) -> (Result<(), String>, Vec<OwnedFd>) {
        if datagram.fields.len() != 1 {
            let why = "extra messages sent with BARRIER=1, ignoring everything";
            return (Err(why.into()), datagram.fds);
        }
        if datagram.fds.len() != 1 {
            return (Err("BARRIER=1 without exactly one fd".into()), datagram.fds);
        }
        (Ok(()), datagram.fds)
    }

    pub(super) fn may_speak(&mut self, pid: u32) -> Result<(), String> {
        let main = self.state().main;
        if main != Some(pid) && !self.is_member(pid) {
            return Err(format!("cannot find the unit of process {pid}"));
        }
        let control = self.control.as_ref().map(|c| c.pid);
        let allowed = match self.unit.access {
            NotifyAccess::All => true,
            NotifyAccess::Main => main == Some(pid),
            NotifyAccess::Exec => main == Some(pid) || control == Some(pid),
        };
        if allowed {
            Ok(())
        } else {
            Err(format!(
                "reception only permitted for main process {main:?}"
            ))
        }
    }

    pub(super) fn obey(&mut self, datagram: Datagram) -> Result<(), String> {
        let mut trouble = Ok(());
        let field = |key: &str| {
            let mut fields = datagram.fields.iter().rev();
            fields.find(|(k, _)| k == key).map(|(_, v)| v.clone())
        };
        let is = |key: &str| field(key).as_deref() == Some("1");
        if let Some(value) = field("MAINPID") {
            trouble = self.change_main(&value, field("MAINPIDFDID").as_deref());
        }
        if let Some(status) = field("STATUS") {
            self.state().status = status;
        }
        if let Some(micros) = field("EXTEND_TIMEOUT_USEC").and_then(|v| v.parse().ok()) {
            let extended = Instant::now() + Duration::from_micros(micros);
            self.deadline = self.deadline.map(|at| at.max(extended));
        }
        if let Some(micros) = field("WATCHDOG_USEC").and_then(|v| v.parse().ok()) {
            self.watchdog = (micros > 0).then_some(Duration::from_micros(micros));
            self.fed = Instant::now();
        }
        if is("WATCHDOG") {
            self.fed = Instant::now();
            self.state().watchdog_pings += 1;
        }
        if is("READY") && self.state().active == Active::Activating {
            self.deadline = None;
            self.fed = Instant::now();
            let mut state = self.state();
            state.ready_by = Some(datagram.pid);
            state.become_active(Active::Running);
        }
        if is("FDSTOREREMOVE") {
            match field("FDNAME") {
                Some(name) => {
                    store::remove(&mut self.state().store, &name);
                }
                None => trouble = trouble.and(Err("FDSTOREREMOVE=1 without FDNAME=".into())),
            }
        } else if is("FDSTORE") {
            let polled = field("FDPOLL").as_deref() != Some("0");
            let max = self.unit.fdstore_max;
            let name = field("FDNAME");
            let added = store::add(
                &mut self.state().store,
                max,
                name.as_deref(),
                polled,
                datagram.fds,
            );
            trouble = trouble.and(added);
        } else if !datagram.fds.is_empty() {
            trouble = trouble.and(Err("got extra auxiliary fds, closing them".into()));
        }
        if is("STOPPING") {
            self.search(true);
            let others: Vec<u32> = self
                .living()
                .into_iter()
                .filter(|p| *p != datagram.pid)
                .collect();
            self.state().happen(Event::Stopping {
                pid: datagram.pid,
                others,
            });
            self.stop_by_notify();
        }
        trouble
    }

    /// `STOPPING=1`: the unit deactivates, everything gets TERM when its main process goes or the
    /// time is over. It is a stop that the service asked for itself.
    pub(super) fn stop_by_notify(&mut self) {
        let active = self.state().active;
        if matches!(active, Active::Running | Active::Reloading) {
            self.terminate(false);
        }
    }

    pub(super) fn change_main(&mut self, value: &str, inode: Option<&str>) -> Result<(), String> {
        let pid: u32 = value
            .parse()
            .map_err(|_| format!("cannot parse MAINPID={value}"))?;
        if pid <= 1 {
            return Err(format!("MAINPID={pid} is the manager, refusing"));
        }
        let process = Process::look(pid).filter(|p| !p.is_zombie());
        if process.is_none() {
            return Err(format!("new main PID {pid} does not exist or is a zombie"));
        }
        if !self.is_member(pid) {
            return Err(format!("new main PID {pid} does not belong to the service"));
        }
        let pinned = Pinned::open(pid).ok_or("the new main process has just gone")?;
        if inode.is_some_and(|id| id.parse() != Ok(pinned.inode())) {
            return Err(format!(
                "PIDFD ID mismatch: told {inode:?}, is {}; not changing main PID",
                pinned.inode()
            ));
        }
        self.set_main(pid);
        Ok(())
    }
}
