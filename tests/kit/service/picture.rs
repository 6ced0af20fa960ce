//! What a person sees of a service: `ps`, `status --json` and the pid files, in one picture, a line
//! a master. Whatever does not fit together (a zombie, a worker without a master, two stories about
//! one process) is a line of its own, so that no test can miss it.
//!
//! ```text
//! g1 1.0.0 parked: no workers, pid.oldbin
//! g2 2.0.0 probation: 2 accepting, owner, pid
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use handover::api;

use super::{SOON, Service};
use crate::kit::proc::{Process, Role};

impl Service {
    /// The picture now.
    pub fn picture(&self) -> Vec<String> {
        let Some(status) = self.status() else {
            return vec!["nobody answers".into()];
        };
        let processes = self.processes();
        let mut lines = self.masters_of(&status, &processes);
        lines.extend(self.what_does_not_fit(&status, &processes));
        lines
    }

    /// Waits until the picture is exactly this.
    #[track_caller]
    pub fn wait_picture(&self, wanted: &[&str]) {
        self.wait_picture_within(wanted, SOON);
    }

    /// The same with a deadline of its own.
    #[track_caller]
    pub fn wait_picture_within(&self, wanted: &[&str], deadline: Duration) {
        let end = Instant::now() + deadline;
        loop {
            let picture = self.picture();
            if picture == wanted {
                self.note(&format!("picture {wanted:?}"));
                return;
            }
            assert!(
                Instant::now() < end,
                "waited {deadline:?} for\n  {}\nthe picture is\n  {}",
                wanted.join("\n  "),
                picture.join("\n  ")
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn masters_of(&self, status: &api::Status, processes: &[Process]) -> Vec<String> {
        let mut masters: Vec<&api::Master> = status.masters.iter().collect();
        masters.sort_by_key(|m| m.generation);
        let mut lines = Vec::new();
        for master in masters {
            let mut line = format!(
                "g{} {} {}: ",
                master.generation, master.version, master.phase
            );
            line.push_str(&workers(master));
            if status.owner_pid == master.pid {
                line.push_str(", owner");
            }
            for file in ["pid", "pid.oldbin"] {
                if self.pid_file(&format!(".{file}")) == Some(master.pid) {
                    line.push_str(", ");
                    line.push_str(file);
                }
            }
            let process = processes.iter().find(|p| p.pid == master.pid);
            match process {
                Some(p) if p.role() != Role::Master(master.generation) => {
                    line.push_str(&format!(", ps says {:?}", p.args.first()));
                }
                Some(p) if p.comm != format!("g{} {}", master.generation, master.phase) => {
                    line.push_str(&format!(", ps says [{}]", p.comm));
                }
                Some(_) => {}
                None => line.push_str(", ps knows no such process"),
            }
            lines.push(line);
        }
        lines
    }

    fn what_does_not_fit(&self, status: &api::Status, processes: &[Process]) -> Vec<String> {
        let mut lines = Vec::new();
        for process in processes {
            if process.is_zombie() {
                lines.push(format!("zombie: {process}"));
                continue;
            }
            match process.role() {
                Role::Master(_) if !status.masters.iter().any(|m| m.pid == process.pid) => {
                    lines.push(format!("not in status: {process}"));
                }
                Role::Worker(_) => {
                    let workers = || status.masters.iter().flat_map(|m| &m.workers);
                    if !workers().any(|w| w.pid == process.pid) {
                        lines.push(format!("not in status: {process}"));
                    }
                }
                Role::Master(_) | Role::Other => {}
            }
        }
        for file in [".pid", ".pid.oldbin"] {
            if let Some(pid) = self.pid_file(file) {
                if !status.masters.iter().any(|m| m.pid == pid) {
                    lines.push(format!("{file} names {pid}, which is no master"));
                }
            }
        }
        lines
    }
}

fn workers(master: &api::Master) -> String {
    let mut by_state: BTreeMap<&str, usize> = BTreeMap::new();
    for worker in &master.workers {
        *by_state.entry(&worker.state).or_default() += 1;
    }
    if by_state.is_empty() {
        return "no workers".into();
    }
    let counts: Vec<String> = by_state.iter().map(|(s, n)| format!("{n} {s}")).collect();
    counts.join(", ")
}
