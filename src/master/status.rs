//! What `status` and `systemctl status` say.

use std::time::Instant;

use super::driver::Driver;
use super::record::api_time;
use super::unit;
use super::words::{self, Scene, Who};
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
            app: self.applications.report(),
        }
    }

    pub(super) fn describe(&self) -> api::Status {
        let mut masters = vec![self.describe_me()];
        masters.extend(self.others());
        masters.sort_by_key(|m| std::cmp::Reverse(m.generation));
        let mut disk = self.disk.store.disk();
        if disk.matches_running {
            disk.version = Some(self.fixed.me.version.clone());
        }
        let mut warnings = self.sockets.warnings().to_vec();
        warnings.extend(self.release_warning());
        warnings.extend(
            self.disk
                .trouble
                .iter()
                .map(|why| format!("{why}; it is tried again")),
        );
        warnings.extend(self.tls_warnings.iter().cloned());
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
        let drift = self.disk.store.drift(&self.fixed.me.version, &disk);
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
            metrics: Some(self.config.metrics.address.clone()).filter(|a| !a.is_empty()),
            masters,
            drift: Some(drift),
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
            old_releases: self.old_releases(),
            release: self.describe_release(),
            tls: self.describe_tls(),
            warnings,
        }
    }

    /// The other masters: what the one on the channel said, and those that only drain.
    pub(super) fn others(&self) -> Vec<api::Master> {
        let mut others: Vec<api::Master> = self.peer_status.iter().cloned().collect();
        let known: Vec<u32> = others.iter().map(|m| m.pid).collect();
        let mute = |pid: u32, generation: u64, version: &str, phase: Phase| api::Master {
            pid,
            generation,
            version: version.into(),
            phase: phase.to_string(),
            private_kib: process::private_kib(pid),
            workers: Vec::new(),
            app: None,
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
        let previous = self.disk.store.previous(&self.history.refused()).ok()?;
        let build_id = previous.build_id().to_owned();
        let version = match self.history.previous() {
            Ok(Some(previous)) if previous.build_id == build_id => Some(previous.version),
            _ => None,
        };
        Some(api::Build { version, build_id })
    }

    /// One line for `systemctl status`, the journal and whoever follows.
    pub(super) fn status_line(&self) -> String {
        let now = Instant::now();
        let scene = Scene {
            me: self.who(),
            phase: self.machine.phase(),
            predecessor: self.predecessor.as_ref().map(|link| Who {
                version: Some(&link.identity.version),
                generation: link.identity.generation,
            }),
            successor: self.successor_who(),
            left: self.machine.probation_left(now),
            unproved: self
                .disk
                .on_trial_until
                .map(|end| end.saturating_duration_since(now)),
        };
        words::status_line(&scene, jiff::Timestamp::now())
    }

    /// This master, in words.
    pub(super) fn who(&self) -> Who<'_> {
        Who {
            version: Some(&self.fixed.me.version),
            generation: self.fixed.me.generation,
        }
    }

    /// The successor there is, or was last, in words.
    pub(super) fn successor_who(&self) -> Who<'_> {
        let hello = self.successor.as_ref().and_then(|link| link.hello.as_ref());
        let told = self
            .upgrade
            .as_ref()
            .and_then(|record| record.to.as_deref());
        Who {
            version: hello.map(|hello| hello.version.as_str()).or(told),
            generation: self.next_generation,
        }
    }
}
