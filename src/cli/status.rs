//! `status` for people: one headline that says what is, what comes next and when; then who does
//! it, and what does not fit together. Pure: the document, the time, and how to print are given.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;

use super::text::{self, Paint, ago, count, short, table};
use crate::api::{App, Build, Last, Master, Outcome, Phase, Releases, Status, Upgrade};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look<'a> {
    /// The command an operator would type ("handover", "handover --name blue").
    pub command: &'a str,
    /// For a terminal.
    pub colour: bool,
}

/// The whole picture. Ends with a line feed.
#[must_use]
pub fn render(status: &Status, now: Timestamp, look: Look<'_>) -> String {
    let paint = Paint(look.colour);
    let mut out = headline(status, now, look);
    out.push('\n');
    for warning in &status.warnings {
        let warning = text::one_line(warning);
        let _ = writeln!(out, "{} {warning}", paint.attention("warning:"));
    }
    out.push('\n');
    out += &table(&masters(&status.masters, status.owner_pid), paint);
    out.push('\n');
    for (label, line) in facts(status, now, look) {
        let _ = writeln!(out, "{} {line}", paint.dim(&format!("{label:9}")));
    }
    out
}

/// One line: who serves, how it stands, what happens next and what can be done about it.
#[must_use]
pub fn headline(status: &Status, now: Timestamp, look: Look<'_>) -> String {
    let paint = Paint(look.colour);
    let (how, next) = phase(status, now, look.command);
    let how = match status.phase.known() {
        Some(Phase::Serving) => paint.good(&how),
        Some(Phase::Yielded | Phase::Reclaiming | Phase::Evicting) => paint.bad(&how),
        _ => paint.attention(&how),
    };
    let who = format!("{}: {} (g{})", status.name, runs(status), status.generation);
    let who = paint.bold(&who);
    match next {
        Some(next) => format!("{who} {how}; {next}"),
        None => format!("{who} {how}"),
    }
}

/// What the owner is called: by its release, unless the upgrade under way is one of the program.
fn runs(status: &Status) -> String {
    let by_release = status.upgrade.as_ref().is_none_or(is_of_releases);
    let app = owner(status).and_then(|owner| owner.app.as_ref());
    let name = app.and_then(|app| app.release.file_name());
    match name.filter(|_| by_release) {
        Some(name) => format!("release {}", text::one_line(&name.to_string_lossy())),
        None => status.version.clone(),
    }
}

/// From one release to another, and not from one program to another.
fn is_of_releases(upgrade: &Upgrade) -> bool {
    upgrade.releases.as_ref().is_some_and(Releases::differ)
}

fn owner(status: &Status) -> Option<&Master> {
    status.masters.iter().find(|m| m.pid == status.owner_pid)
}

/// How it stands, and what to know or do next.
fn phase(status: &Status, now: Timestamp, command: &str) -> (String, Option<String>) {
    let upgrade = status.upgrade.as_ref();
    let (from, to) = called(upgrade);
    let rejected = match &to {
        Some(to) => format!("the rejected {to}"),
        None => "its rejected successor".into(),
    };
    let to = to.unwrap_or_else(|| "its successor".into());
    let back = status.rollback_to.as_ref().map(|build| {
        let release = upgrade.filter(|upgrade| is_of_releases(upgrade));
        let before = release.map_or_else(|| named(build), |_| from.clone());
        format!("`{command} rollback` goes back to {before}")
    });
    let Some(phase) = status.phase.known() else {
        // Of a newer version.
        return (
            format!("is {}", status.phase.to_string().replace('_', " ")),
            back,
        );
    };
    let how = match phase {
        Phase::Starting => "starts".into(),
        Phase::Standby => format!("is ready and waits until {from} hands over"),
        Phase::Probation => {
            let how = match upgrade.and_then(|u| u.probation_left_ms) {
                Some(ms) => format!("serves, in probation; it is final in {}", text::left(ms)),
                None => format!("serves, in probation until `{command} commit`"),
            };
            return (how, back);
        }
        Phase::Committing => format!("serves and is final when {from} has left"),
        Phase::Yielded => format!("gives the service back and serves until {from} is ready"),
        Phase::Serving => {
            let how = match upgrade.and_then(|u| u.probation_left_ms) {
                Some(ms) => format!(
                    "serves alone, on trial: {from} is gone; it is final in {}",
                    text::left(ms)
                ),
                None => format!("serves, started {} ago", ago(&status.started_at, now)),
            };
            return (how, back);
        }
        Phase::Reloading => "serves; workers with the new configuration start".into(),
        Phase::Launching => format!("serves; {to} gets ready"),
        Phase::Beside => {
            let next =
                format!("`{command} commit` keeps the new one, `{command} rollback` this one");
            return (format!("and {to} both serve (hold)"), Some(next));
        }
        Phase::Parked => format!("stays ready to take over again; {to} serves"),
        Phase::Reclaiming => format!("takes the service back from {to}"),
        Phase::Evicting => format!("serves again; {rejected} leaves"),
        Phase::Draining => {
            let rest = count(connections(&status.masters), "connection");
            return ("leaves".into(), Some(format!("{rest} to finish")));
        }
        Phase::Done => "has left".into(),
    };
    (how, None)
}

/// Both sides of the upgrade under way; the second one is not always known.
fn called(upgrade: Option<&Upgrade>) -> (String, Option<String>) {
    let Some(upgrade) = upgrade else {
        return ("its predecessor".into(), None);
    };
    if !is_of_releases(upgrade) {
        return (upgrade.from.clone(), upgrade.to.clone());
    }
    let (from, to) = upgrade.ends();
    let name = |name: String| format!("release {}", text::one_line(&name));
    (name(from), Some(name(to)))
}

fn connections(masters: &[Master]) -> u64 {
    let workers = masters.iter().flat_map(|m| &m.workers);
    workers.map(|w| w.connections).sum()
}

fn masters(masters: &[Master], owner: u32) -> Vec<Vec<String>> {
    let heading = [
        "MASTER", "", "VERSION", "PHASE", "MEMORY", "CONNS", "REQUESTS", "WORKERS",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(masters.iter().map(|master| {
        let requests: u64 = master.workers.iter().map(|w| w.requests).sum();
        let mark = if master.pid == owner { "owner" } else { "" };
        vec![
            format!("{} g{}", master.pid, master.generation),
            mark.into(),
            master.version.clone(),
            master.phase.to_string(),
            text::memory(master.private_kib),
            connections(std::slice::from_ref(master)).to_string(),
            requests.to_string(),
            workers(master),
        ]
    }));
    rows
}

/// "2 accepting, 1 starting"; a worker of an other generation than its master's is named by it.
fn workers(master: &Master) -> String {
    let mut states: BTreeMap<(u64, &str), u64> = BTreeMap::new();
    for worker in &master.workers {
        *states
            .entry((worker.generation, &worker.state))
            .or_default() += 1;
    }
    if states.is_empty() {
        return "none".into();
    }
    let said = states.iter().rev().map(|(&(generation, state), n)| {
        if generation == master.generation {
            format!("{n} {state}")
        } else {
            format!("{n} {state} (g{generation})")
        }
    });
    said.collect::<Vec<_>>().join(", ")
}

fn facts(status: &Status, now: Timestamp, look: Look<'_>) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(upgrade) = &status.upgrade {
        let (from, to) = upgrade.ends();
        let hold = if upgrade.hold { ", hold" } else { "" };
        let id = &upgrade.id;
        let since = ago(&upgrade.started_at, now);
        let line = format!("{id}: {from} -> {to}, ordered {since} ago{hold}");
        facts.push(("upgrade", line));
    }
    for (number, listener) in status.listeners.iter().enumerate() {
        let label = if number == 0 { "listens" } else { "" };
        let (name, address, source) = (&listener.name, &listener.address, &listener.source);
        facts.push((label, format!("{address} ({name}, {source})")));
    }
    facts.extend(app(status).map(|line| ("app", line)));
    facts.extend(parked(status).map(|line| ("parked", line)));
    facts.push(("disk", disk(status, look)));
    facts.push(("config", config(status, look)));
    if let Some(unit) = &status.unit_rev {
        let line = if unit.running == unit.installed {
            format!("revision {}", unit.running)
        } else {
            let (running, installed) = (&unit.running, &unit.installed);
            Paint(look.colour).attention(&format!(
                "the service runs with revision {running} of its unit file; revision {installed} \
                 takes effect at the next restart"
            ))
        };
        facts.push(("unit", line));
    }
    facts.push(("systemd", systemd(status, look)));
    if let Some(last) = &status.last {
        facts.push(("last", self::last(last, now, look)));
    }
    facts
}

/// The application behind the owner's workers.
fn app(status: &Status) -> Option<String> {
    let app = owner(status)?.app.as_ref()?;
    let release = app.release.display();
    if !app.ready && app.restarts == 0 && app.ended.is_none() {
        return Some(format!("{release} starts"));
    }
    let mut line = instances(app);
    if app.restarts > 0 {
        let _ = write!(line, ", started again {}", count(app.restarts, "time"));
    }
    if let Some(why) = &app.ended {
        let _ = write!(line, ", the last fault: {}", text::one_line(why));
    }
    let trial = status.release.as_ref().filter(|known| known.on_trial);
    if let Some(known) = trial {
        line.push_str(", on trial");
        if let Some(good) = known.good.as_ref().filter(|good| **good != app.release) {
            let _ = write!(line, " ({} is the good one)", good.display());
        }
    }
    Some(line)
}

/// The one that waits for the way back, unless both masters are in front of the same one.
fn parked(status: &Status) -> Option<String> {
    let pids = |master: &Master| master.app.as_ref().map(|app| app.pids.clone());
    let ours = owner(status).and_then(pids);
    let mut others = status.masters.iter();
    let parked = others.find(|master| master.phase == Phase::Parked)?;
    let app = parked.app.as_ref().filter(|_| pids(parked) != ours)?;
    Some(instances(app))
}

/// What runs of it, and what that holds.
fn instances(app: &App) -> String {
    let release = app.release.display();
    let all = app.instances.map_or(app.pids.len() as u64, u64::from);
    let mut line = match app.answering.map(u64::from) {
        Some(some) if some != all => {
            format!("{release}, {some} of {} answer", count(all, "instance"))
        }
        _ => format!("{release}, {}", count(all, "instance")),
    };
    if app.private_kib > 0 {
        let _ = write!(line, ", {}", text::memory(app.private_kib));
    }
    line
}

fn disk(status: &Status, look: Look<'_>) -> String {
    let disk = &status.disk;
    let path = disk.path.display();
    let paint = Paint(look.colour);
    match &disk.build_id {
        // Where a package manager puts programs.
        _ if disk.matches_running && went_back(status) && disk.path.starts_with("/usr") => format!(
            "{path} is what runs, put back in the place of {path}.rejected: `dpkg --verify` and \
             `rpm -V` call it changed until the next upgrade"
        ),
        _ if disk.matches_running => format!("{path} is what runs"),
        None => paint.bad(&format!(
            "{path} is missing or no program: a restart would fail"
        )),
        Some(build_id) => {
            let build = Build {
                version: disk.version.clone(),
                build_id: build_id.clone(),
            };
            paint.attention(&format!(
                "{path} is {}, not what runs: `{} upgrade` runs it",
                named(&build),
                look.command
            ))
        }
    }
}

/// The package manager knows another file than the one on disk.
fn went_back(status: &Status) -> bool {
    status.disk.put_back && status.upgrade.is_none()
}

fn config(status: &Status, look: Look<'_>) -> String {
    let config = &status.config;
    match &config.path {
        None if config.matches_disk => "built-in defaults".into(),
        Some(path) if config.matches_disk => format!("{} is what runs", path.display()),
        path => {
            let path = path.as_deref().unwrap_or("the configuration".as_ref());
            Paint(look.colour).attention(&format!(
                "{} has changed since: `{1} check` looks at it, `{1} reload` puts it into use",
                path.display(),
                look.command
            ))
        }
    }
}

fn systemd(status: &Status, look: Look<'_>) -> String {
    match status.systemd_main_pid {
        None => "not under systemd".into(),
        Some(pid) if pid == status.owner_pid => {
            format!("main process {pid}, which owns the service")
        }
        Some(pid) => Paint(look.colour).attention(&format!(
            "main process {pid}, but process {} owns the service",
            status.owner_pid
        )),
    }
}

fn last(last: &Last, now: Timestamp, look: Look<'_>) -> String {
    let (from, to) = last.ends();
    let when = ago(&last.finished_at, now);
    let mut line = format!("{from} -> {to} {} {when} ago", outcome(last.outcome));
    if let Some(reason) = &last.reason {
        let _ = write!(line, ": {}", text::first_line(reason));
    }
    let mut more = Vec::new();
    for (label, ms) in [("takeover", last.takeover_ms), ("drain", last.drain_ms)] {
        let said = ms.map(|ms| text::duration(Duration::from_millis(ms)));
        more.extend(said.map(|said| format!("{label} {said}")));
    }
    let c = last.connections;
    if c.passed + c.finished + c.cut > 0 {
        more.push(format!(
            "{} passed on, {} finished, {} cut",
            c.passed, c.finished, c.cut
        ));
    }
    if !more.is_empty() {
        let _ = write!(line, " ({})", more.join(", "));
    }
    if last.outcome == Outcome::Committed {
        line
    } else {
        Paint(look.colour).bad(&line)
    }
}

/// The word for people.
pub(super) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::RolledBack => "rolled back",
        Outcome::Failed => "failed",
        Outcome::Refused => "refused",
        Outcome::Interrupted => "interrupted",
        // Of one that runs the service says more.
        Outcome::UnderWay => "interrupted, unless it runs",
    }
}

fn named(build: &Build) -> String {
    match &build.version {
        Some(version) => version.clone(),
        None => format!("build {}", short(&build.build_id)),
    }
}

#[cfg(test)]
pub(super) mod tests;
