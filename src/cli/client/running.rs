//! Whether a service runs although its control socket does not answer: systemd knows, or its pid
//! file says so. "Nothing is running" is said only when both say no.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answerer::Unit;
use super::parked;
use crate::cli::places::Places;
use crate::sys::process::Other;

/// The process that is the service, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    name: String,
    pid: u32,
    source: String,
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pid, source } = self;
        write!(f, "{name} runs (process {pid}, says {source})")
    }
}

/// Asks both.
pub(super) async fn find(places: &Places) -> Option<Running> {
    if let Some(unit) = Unit::running(places) {
        let name = unit.name().to_owned();
        let asked = timeout(PATIENCE, spawn_blocking(move || main_pid(&name))).await;
        if let Ok(Ok(Some(pid))) = asked {
            return Some(Running {
                name: places.name.clone(),
                pid,
                source: "systemd".into(),
            });
        }
    }
    by_pid_file(places)
}

/// Asks the pid file alone.
pub(super) fn by_pid_file(places: &Places) -> Option<Running> {
    let file = places.pid_file();
    let (pid, _) = master(&file)?;
    let name = file.file_stem().unwrap_or_default();
    Some(Running {
        name: name.to_string_lossy().into(),
        pid,
        source: file.display().to_string(),
    })
}

/// `None` when there is none, or systemd does not answer.
fn main_pid(unit: &str) -> Option<u32> {
    let asked = Command::new("systemctl")
        .args(["show", "--property=MainPID", "--value", unit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8(asked.stdout).ok()?;
    said.trim().parse().ok().filter(|pid| *pid > 0)
}

/// The master that a pid file names, and its phase. The number may be another process's by now: a master
/// is called `g7 serving`, and belongs to who wrote the file. One that has ended serves nobody, although
/// its number is there until it is reaped.
pub(in crate::cli) fn master(file: &Path) -> Option<(u32, String)> {
    let (pid, writer) = parked::read(file)?;
    let process = Other::open(pid).ok()??;
    if process.gone_within(Duration::ZERO).unwrap_or(false) {
        return None;
    }
    let user = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let (generation, phase) = name.trim_end().split_once(' ')?;
    generation.strip_prefix('g')?.parse::<u64>().ok()?;
    (user == writer).then(|| (pid, phase.to_owned()))
}

/// For systemd's answer.
const PATIENCE: Duration = Duration::from_secs(2);
