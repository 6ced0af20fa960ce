//! Who is there and what they hold: taken before something is tried and compared afterwards, it
//! shows every zombie, orphan, descriptor and file that was left behind.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use super::proc::{self, Role};
use super::service::{SOON, Service};

/// What a service consists of at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// How many processes of each kind; zombies are a kind.
    pub kinds: BTreeMap<String, usize>,
    /// The kinds of descriptors of the keeper and of each master. (A worker's follow its clients.)
    pub fds: Vec<BTreeMap<String, usize>>,
    /// The runtime directory.
    pub runtime: Vec<String>,
    /// The state directory.
    pub state: Vec<String>,
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  processes {:?}", self.kinds)?;
        for fds in &self.fds {
            writeln!(f, "  descriptors {fds:?}")?;
        }
        writeln!(f, "  runtime {:?}\n  state {:?}", self.runtime, self.state)
    }
}

impl Service {
    /// Takes one, of what stays: a question that was just answered may still be open for a moment.
    pub fn census(&self) -> Census {
        let end = Instant::now() + SOON;
        let (mut last, mut same) = (self.look_around(), 0);
        while same < STEADY && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.look_around();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    }

    fn look_around(&self) -> Census {
        let mut kinds = BTreeMap::new();
        let mut fds = Vec::new();
        for process in self.processes() {
            let kind = match process.role() {
                _ if process.is_zombie() => "zombie",
                Role::Master(_) => "master",
                Role::Worker(_) => "worker",
                Role::Other => "other",
            };
            *kinds.entry(kind.to_owned()).or_default() += 1;
            if !process.is_zombie() && !matches!(process.role(), Role::Worker(_)) {
                let mut held = BTreeMap::new();
                for (_, what) in proc::fds(process.pid) {
                    *held.entry(kind_of(&what)).or_default() += 1;
                }
                fds.push(held);
            }
        }
        fds.sort();
        Census {
            kinds,
            fds,
            runtime: self.runtime_files(),
            state: files(&self.state),
        }
    }

    /// Waits until a census is as it was, but for files in the state directory (where the history
    /// grows); panics with both when it does not come to that.
    #[track_caller]
    pub fn wait_census(&self, before: &Census) {
        let end = Instant::now() + SOON;
        loop {
            let mut now = self.look_around();
            now.state.clone_from(&before.state);
            if now == *before {
                return;
            }
            assert!(
                Instant::now() < end,
                "waited {SOON:?} for what was there before:\n{before}now there is\n{now}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// So many looks in a row must show the same.
const STEADY: u32 = 10;

/// `socket:[123]` is a socket like any other.
fn kind_of(what: &str) -> String {
    match what.split_once(":[") {
        Some((kind, _)) => kind.to_owned(),
        // Whatever its name is by now.
        None if what.contains("/bin/") => "program".to_owned(),
        None => what.to_owned(),
    }
}

fn files(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
