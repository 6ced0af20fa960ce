//! What `status` and `systemctl status` say.

use std::time::{Duration, Instant};

use super::driver::Driver;
use super::record::api_time;
use super::unit;
use crate::api;
use crate::machine::Phase;
use crate::sys::process;

impl Driver {
    /// This master, for the other one and for `status`.
    pub(super) fn describe_me(&self) -> api::Master {
        api::Master {
            pid: self.fixed.pid,
            generation: self.fixed.me.generation,
            version: self.fixed.me.version.clone(),
            phase: self.machine.phase().to_string(),
            private_kib: process::private_kib(self.fixed.pid),
            workers: self.workers.report(),
        }
    }

    pub(super) fn describe(&self) -> api::Status {
        let mut masters = vec![self.describe_me()];
        masters.extend(self.others());
        masters.sort_by_key(|m| std::cmp::Reverse(m.generation));
        let mut disk = self.store.disk();
        if disk.matches_running {
            disk.version = Some(self.fixed.me.version.clone());
        }
        let mut warnings = self.warnings.clone();
        warnings.extend(self.sockets.warnings().iter().cloned());
        if !disk.matches_running && self.upgrade.is_none() {
            warnings.push(match &disk.build_id {
                Some(_) => "the file on disk is not what runs: `upgrade` would run it".into(),
                None => format!("{} is missing or no program", disk.path.display()),
            });
        }
        let unit_rev = self.fixed.unit_rev.clone().map(|running| api::UnitRev {
            installed: unit::installed_revision().unwrap_or_else(|| running.clone()),
            running,
        });
        warnings.extend(unit_rev.as_ref().and_then(unit::restart_due));
        let disagreements = self.workers.disagreements();
        if disagreements > 0 {
            warnings.push(format!(
                "{disagreements} connections looked idle and were not (they were not passed on): \
                 please report this"
            ));
        }
        let phase = self.machine.phase();
        let left = self.machine.probation_left(Instant::now());
        api::Status {
            schema: 1,
            name: self.fixed.name.clone(),
            owner_pid: self.fixed.pid,
            generation: self.fixed.me.generation,
            version: self.fixed.me.version.clone(),
            build_id: self.fixed.me.build_id.clone(),
            phase: phase.to_string(),
            started_at: api_time(self.fixed.started_at),
            systemd_main_pid: self.main_pid.filter(|_| self.manager.is_systemd()),
            listeners: self.sockets.report(),
            masters,
            disk,
            rollback_to: self.rollback_to(),
            config: api::ConfigState {
                path: self.fixed.config_path.clone(),
                matches_disk: self.fixed.sources.matches(&self.config),
            },
            unit_rev,
            upgrade: self
                .upgrade
                .as_ref()
                .map(|record| record.report(phase.as_str(), left)),
            last: self.last.clone(),
            warnings,
        }
    }

    /// The other masters: what the one on the channel said, and those that only drain.
    fn others(&self) -> Vec<api::Master> {
        let mut others: Vec<api::Master> = self.peer_status.iter().cloned().collect();
        let known: Vec<u32> = others.iter().map(|m| m.pid).collect();
        let mute = |pid: u32, generation: u64, version: &str, phase: Phase| api::Master {
            pid,
            generation,
            version: version.into(),
            phase: phase.to_string(),
            private_kib: process::private_kib(pid),
            workers: Vec::new(),
        };
        if let Some(link) = &self.successor {
            let pid = link.process.pid();
            if !known.contains(&pid) {
                let version = link.hello.as_ref().map_or("", |h| h.version.as_str());
                let generation = self.next_generation;
                let phase = match self.machine.phase() {
                    Phase::Evicting => Phase::Draining,
                    _ => Phase::Starting,
                };
                let told = self.news.get(&pid).cloned();
                others.push(told.unwrap_or_else(|| mute(pid, generation, version, phase)));
            }
        }
        if let Some(link) = self.predecessor.as_ref().filter(|p| p.line.is_some()) {
            if !known.contains(&link.pid) {
                let who = &link.identity;
                let phase = match self.machine.phase() {
                    Phase::Starting | Phase::Standby => Phase::Launching,
                    _ => Phase::Parked,
                };
                others.push(mute(link.pid, who.generation, &who.version, phase));
            }
        }
        for lingering in &self.lingering {
            let pid = lingering.pid;
            if !known.contains(&pid) {
                let who = &lingering.identity;
                let told = self.news.get(&pid).cloned();
                others.push(
                    told.unwrap_or_else(|| {
                        mute(pid, who.generation, &who.version, Phase::Draining)
                    }),
                );
            }
        }
        others
    }

    fn rollback_to(&self) -> Option<api::Build> {
        let parked = self
            .predecessor
            .as_ref()
            .filter(|p| p.line.is_some() && self.machine.phase() != Phase::Serving);
        if let Some(link) = parked {
            return Some(api::Build {
                version: Some(link.identity.version.clone()),
                build_id: link.identity.build_id.clone(),
            });
        }
        let build_id = self.store.rollback_to()?;
        let version = match self.history.previous() {
            Ok(Some(previous)) if previous.build_id == build_id => Some(previous.version),
            _ => None,
        };
        Some(api::Build { version, build_id })
    }

    /// One line: version, generation, phase, what happens next and when.
    pub(super) fn status_line(&self) -> String {
        let me = &self.fixed.me;
        let phase = self.machine.phase();
        let mut line = format!("g{} {} {phase}", me.generation, me.version);
        let other = |generation: u64| format!("g{generation}");
        let next = match phase {
            Phase::Starting => ": workers start".to_owned(),
            Phase::Standby => ": ready, waits for the takeover".into(),
            Phase::Probation => match self.machine.probation_left(Instant::now()) {
                Some(left) => {
                    format!(
                        ": commits by itself at {}; `rollback` goes back to {}",
                        clock(left),
                        self.predecessor
                            .as_ref()
                            .map_or("the previous one", |p| p.identity.version.as_str())
                    )
                }
                None => ": `commit` or `rollback` (or nginx's signals) decide".into(),
            },
            Phase::Committing => ": the predecessor leaves".into(),
            Phase::Yielded => ": serves until the predecessor takes back".into(),
            Phase::Serving => match self.cold_trial {
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    format!(": started cold on trial, is kept at {}", clock(left))
                }
                None => String::new(),
            },
            Phase::Reloading => ": workers with the new configuration start".into(),
            Phase::Launching => format!(": {} gets ready", other(self.next_generation)),
            Phase::Beside => format!(
                ": accepts beside {}; WINCH goes on, QUIT to the new one goes back",
                other(self.next_generation)
            ),
            Phase::Parked => format!(": {} serves; HUP takes back", other(self.next_generation)),
            Phase::Reclaiming => ": workers start again".into(),
            Phase::Evicting => format!(": the rejected {} leaves", other(self.next_generation)),
            Phase::Draining => ": finishes what it has".into(),
            Phase::Done => ": leaves".into(),
        };
        line.push_str(&next);
        line
    }
}

/// The time of day then.
fn clock(left: Duration) -> String {
    jiff::Timestamp::now()
        .checked_add(left)
        .map_or_else(|_| "soon".into(), |at| format!("{at:.0}"))
}
