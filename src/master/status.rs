//! What `status` says: a look at all parts, which changes none.

use std::time::{Duration, Instant};

use super::configured::Configured;
use super::driver::Driver;
use super::predecessor::Predecessor;
use super::record::api_time;
use super::words::{self, Scene, Who};
use super::{tls, unit};
use crate::api;
use crate::machine::message::Identity;
use crate::machine::{self, Phase, Timer};
use crate::sys::process;

/// This master, for the other one and for `status`.
pub(super) fn me(driver: &Driver) -> api::Master {
    api::Master {
        pid: driver.fixed.pid,
        generation: driver.fixed.me.generation,
        version: driver.fixed.me.version.clone(),
        phase: driver.machine.phase().into(),
        private_kib: process::private_kib(driver.fixed.pid),
        workers: driver.workers.report(),
        app: driver.applications.report(),
    }
}

/// The document of `status --json`.
pub(super) fn document(driver: &Driver) -> api::Status {
    let mut masters = vec![me(driver)];
    masters.extend(others(driver));
    masters.sort_by_key(|m| std::cmp::Reverse(m.generation));
    let mut disk = driver.disk.store.disk();
    if disk.matches_running {
        disk.version = Some(driver.fixed.me.version.clone());
    }
    let Configured {
        config, sockets, ..
    } = &driver.configured;
    let mut warnings = sockets.warnings().to_vec();
    let upgrade = driver.story.upgrade();
    if upgrade.is_none() {
        warnings.extend(
            driver
                .releases
                .warning(&driver.configured.config, &driver.applications),
        );
    }
    let trouble = driver.disk.trouble().into_iter();
    warnings.extend(trouble.map(|why| format!("{why}; it is tried again")));
    warnings.extend(driver.applications.silence());
    warnings.extend(driver.tls.warnings().iter().cloned());
    if !disk.matches_running && upgrade.is_none() {
        warnings.push(match &disk.build_id {
            Some(_) => "the file on disk is not what runs: `upgrade` would run it".into(),
            None => format!("{} is missing or no program", disk.path.display()),
        });
    }
    let unit_rev = driver
        .fixed
        .setup
        .unit_rev
        .clone()
        .map(|running| api::UnitRev {
            installed: unit::installed_revision().unwrap_or_else(|| running.clone()),
            running,
        });
    warnings.extend(unit_rev.as_ref().and_then(unit::restart_due));
    let served = driver.workers.served();
    let disagreements = served.disagreements;
    if disagreements > 0 {
        warnings.push(format!(
            "{disagreements} connections looked idle and were not (they were not passed on): \
             please report this"
        ));
    }
    let drift = driver.disk.store.drift(&driver.fixed.me.version, &disk);
    let tried = upgrade.and_then(|record| record.releases.as_ref());
    let old_releases = driver.releases.old(config, &masters, tried);
    let phase = driver.machine.phase();
    let until = driver.machine.commits_at();
    let left = until.map(|at| at.saturating_duration_since(Instant::now()));
    api::Status {
        schema: 1,
        name: driver.fixed.setup.name.clone(),
        owner_pid: driver.fixed.pid,
        generation: driver.fixed.me.generation,
        version: driver.fixed.me.version.clone(),
        build_id: driver.fixed.me.build_id.clone(),
        phase: phase.into(),
        started_at: api_time(driver.fixed.started_at),
        systemd_main_pid: main_pid(driver).filter(|_| driver.manager.is_systemd()),
        listeners: sockets.report(),
        metrics: Some(config.metrics.address.clone()).filter(|a| !a.is_empty()),
        masters,
        drift: Some(drift),
        disk,
        rollback_to: rollback_to(driver),
        config: api::ConfigState {
            path: driver.fixed.config_path.clone(),
            matches_disk: driver.fixed.setup.sources.matches(config),
        },
        unit_rev,
        upgrade: upgrade.map(|record| record.report(phase, left)),
        last: driver.story.last().cloned(),
        old_releases,
        release: driver.releases.report(config, &driver.applications),
        tls: tls::report(config, served.tls.handshakes),
        warnings,
    }
}

fn main_pid(driver: &Driver) -> Option<u32> {
    match driver.machine.main() {
        Some(machine::Who::Me) => Some(driver.fixed.pid),
        Some(machine::Who::Successor) => driver.successor.pid(),
        None => driver.predecessor.as_ref().map(Predecessor::pid),
    }
}

/// The other masters: what the one on the channel said, and those that only drain.
fn others(driver: &Driver) -> Vec<api::Master> {
    let mut others: Vec<api::Master> = driver.inquiry.other().cloned().into_iter().collect();
    // One that did not answer is shown as far as we know it.
    let mut add = |pid: u32, who: &Identity, phase: Phase| {
        if others.iter().any(|m| m.pid == pid) {
            return;
        }
        let told = driver.drainers.news_of(pid).cloned();
        others.push(told.unwrap_or_else(|| api::Master {
            pid,
            generation: who.generation,
            version: who.version.clone(),
            phase: phase.into(),
            private_kib: process::private_kib(pid),
            workers: Vec::new(),
            app: None,
        }));
    };
    let (of_successor, of_predecessor) = driver.machine.phase().of_the_others();
    if let (Some(pid), Some(who)) = (driver.successor.pid(), driver.successor.identity()) {
        add(pid, &who, of_successor);
    }
    if let Some(link) = driver.predecessor.as_ref().filter(|p| p.listens()) {
        add(link.pid(), link.identity(), of_predecessor);
    }
    for (pid, identity) in driver.drainers.all() {
        add(pid, identity, Phase::Draining);
    }
    others
}

pub(super) fn rollback_to(driver: &Driver) -> Option<api::Build> {
    if let Some(link) = driver.predecessor.as_ref().filter(|p| p.listens()) {
        return Some(api::Build {
            version: Some(link.identity().version.clone()),
            build_id: link.identity().build_id.clone(),
        });
    }
    let refused = driver.state.refused_builds();
    let previous = driver.disk.store.previous(&refused).ok()?;
    let build_id = previous.build_id().to_owned();
    Some(api::Build {
        version: driver.story.previous(&build_id).map(|p| p.version),
        build_id,
    })
}

/// One line for `systemctl status`, the journal and whoever follows.
pub(super) fn line(driver: &Driver) -> String {
    line_in(driver, driver.machine.phase())
}

/// The same, of a step.
pub(super) fn line_of(driver: &Driver, from: Phase, to: Phase) -> String {
    let name = &driver.fixed.setup.name;
    match (from, to) {
        (Phase::Starting, Phase::Serving) => {
            words::started(name, who(driver), &driver.configured.sockets.report())
        }
        (Phase::Starting, Phase::Done) => words::not_started(name, who(driver)),
        _ => line_in(driver, to),
    }
}

fn line_in(driver: &Driver, phase: Phase) -> String {
    let scene = Scene {
        me: who(driver),
        phase,
        predecessor: predecessor_who(driver),
        successor: successor_who(driver),
        hold: driver.machine.hold(),
        left: left(driver, Timer::Probation),
        unproved: left(driver, Timer::ColdTrial),
        stopping: driver.machine.stopping(),
    };
    words::status_line(&scene, jiff::Timestamp::now())
}

/// How long it is until then.
fn left(driver: &Driver, timer: Timer) -> Option<Duration> {
    let at = driver.machine.armed(timer)?;
    Some(at.saturating_duration_since(Instant::now()))
}

/// This master, in words: by its release, unless the upgrade under way is one of the program.
pub(super) fn who(driver: &Driver) -> Who<'_> {
    let upgrade = driver.story.upgrade();
    let of_program = upgrade.is_some_and(|record| differ(record.releases.as_ref()).is_none());
    let hosts = driver.configured.config.app.is_some();
    let release = driver.applications.keeps().filter(|_| hosts && !of_program);
    Who::from(&driver.fixed.me).runs(release)
}

fn differ(releases: Option<&api::Releases>) -> Option<&api::Releases> {
    releases.filter(|both| both.differ())
}

/// The predecessor, in words.
pub(super) fn predecessor_who(driver: &Driver) -> Option<Who<'_>> {
    let releases = driver.story.upgrade().and_then(|r| r.releases.as_ref());
    let identity = driver.predecessor.as_ref().map(Predecessor::identity)?;
    Some(Who::from(identity).runs(differ(releases).map(|both| &*both.from)))
}

/// The successor that there is, was last, or is about to be, in words.
pub(super) fn successor_who(driver: &Driver) -> Who<'_> {
    let (upgrade, successor) = (driver.story.upgrade(), &driver.successor);
    let before = driver.story.last().filter(|_| successor.is_there());
    let releases = match upgrade {
        Some(record) => record.releases.as_ref(),
        None => before.and_then(|last| last.releases.as_ref()),
    };
    let generation = if upgrade.is_some() || successor.is_there() {
        successor.generation()
    } else {
        driver.next_generation()
    };
    let told = upgrade.and_then(|record| record.to.as_deref());
    let who = Who {
        release: None,
        version: successor.version().or(told),
        generation,
    };
    who.runs(differ(releases).map(|both| &*both.to))
}
