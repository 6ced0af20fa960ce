//! The processes of the instances: who leads one, and what instances leave behind.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::timeout;

use crate::sys::process::{self, Other};

/// The first process of each instance that runs. Whoever starts one says so before it waits for
/// anything: from then on nobody else reaps it.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaders(Arc<Mutex<BTreeSet<u32>>>);

impl Leaders {
    pub(super) fn add(&self, pid: u32) {
        self.with(|all| all.insert(pid));
    }

    /// It was reaped.
    pub(super) fn remove(&self, pid: u32) {
        self.with(|all| all.remove(&pid));
    }

    /// Reaps what came to us because its parent ended.
    pub(super) fn reap_others(&self) {
        self.with(|all| process::reap_orphans(&all.iter().copied().collect::<Vec<_>>()));
    }

    /// What instances left behind (a daemon's own session, the next master of gunicorn's USR2): it came
    /// to us. `instance`: of this one alone, as far as its environment still says so.
    pub(super) fn left_behind(&self, instance: Option<usize>) -> Vec<u32> {
        let number = instance.map(|number| number.to_string());
        let is_meant = |pid: u32| match &number {
            Some(number) => process::variable(pid, "HANDOVER_INSTANCE").as_ref() == Some(number),
            None => true,
        };
        let leaders = self.with(|all| all.clone());
        let mut left = process::children();
        left.retain(|pid| !leaders.contains(pid) && is_meant(*pid));
        left
    }

    /// Kills what instances left behind outside of their process groups, and everything that it started.
    pub(super) async fn kill_leftovers(&self, instance: Option<usize>) {
        for _ in 0..ROUNDS {
            self.reap_others();
            let left = self
                .left_behind(instance)
                .into_iter()
                .filter_map(|pid| Other::open(pid).ok().flatten());
            let left: Vec<Other> = left.collect();
            if left.is_empty() {
                return;
            }
            for one in &left {
                let _ = one.signal(Signal::SIGKILL);
            }
            let gone = async {
                for one in &left {
                    let _ = one.gone().await;
                }
            };
            let _ = timeout(GONE, gone).await;
        }
    }

    fn with<T>(&self, what: impl FnOnce(&mut BTreeSet<u32>) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// For processes that were killed.
const GONE: Duration = Duration::from_secs(1);
/// Each time may bring what the ones before had started.
const ROUNDS: usize = 10;
