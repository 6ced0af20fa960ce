//! What processes cost: processor time and memory, from `/proc`.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::pause;

/// KiB that go back to the system when the process ends.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// All of it, pages of the program that nobody else maps included.
    pub private: u64,
    /// Of it: written to, so that it cannot be had again from a file.
    pub dirty: u64,
}

pub fn memory(pid: u32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let dirty = field("Private_Dirty:")?;
    Some(Memory {
        private: field("Private_Clean:")? + dirty,
        dirty,
    })
}

/// Processor time of all its threads so far; `None`: it has gone.
pub fn cpu(pid: u32) -> Option<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let path = task.path().join("schedstat");
        let text = fs::read_to_string(path).unwrap_or_default();
        let ran: u64 = text.split(' ').next().unwrap_or("").parse().unwrap_or(0);
        nanos += ran;
    }
    Some(Duration::from_nanos(nanos))
}

/// Of several together; those that have gone count nothing.
pub fn cpu_of(pids: &[u32]) -> Duration {
    pids.iter().filter_map(|pid| cpu(*pid)).sum()
}

/// Watches what processes use until they end.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

/// What the last look at a process may miss.
const LOOK: Duration = Duration::from_millis(2);

impl Watch {
    pub fn start(pids: Vec<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let begin: Vec<_> = pids.iter().map(|p| cpu(*p).unwrap_or_default()).collect();
            let mut last = begin.clone();
            while !stopped.load(Ordering::Relaxed) {
                for (pid, last) in pids.iter().zip(&mut last) {
                    *last = cpu(*pid).unwrap_or_default().max(*last);
                }
                pause(LOOK);
            }
            let used = last.iter().zip(&begin).map(|(last, begin)| *last - *begin);
            used.sum()
        });
        Self { stop, thread }
    }

    /// Since the start.
    pub fn used(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watch did not panic")
    }
}

/// The living children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid| !is_zombie(*pid))
        .collect()
}

pub fn is_zombie(pid: u32) -> bool {
    crate::kit::proc::Process::look(pid).is_none_or(|process| process.is_zombie())
}

/// What it calls itself.
pub fn title(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// The first line of what a peer says of itself; `None`: it is not installed.
pub fn version(program: &str, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next()?;
    let words = line.split(" 20").next()?;
    Some(words.trim().to_owned())
}
