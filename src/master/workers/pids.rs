//! Which processes are the service's own.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Workers;

/// Processes of the service: our workers, this master and those before it, whose children are
/// ours too.
pub type Pids = Arc<Mutex<HashSet<u32>>>;

impl Workers {
    /// Another master is one of us.
    pub fn know_master(&self, pid: u32) {
        self.lock_pids().insert(pid);
    }

    /// It has gone, and its number may be anybody's.
    pub fn forget_master(&self, pid: u32) {
        self.lock_pids().remove(&pid);
    }

    /// The service's own processes, always up to date.
    pub fn pids(&self) -> Pids {
        Arc::clone(&self.pids)
    }

    pub(super) fn lock_pids(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
