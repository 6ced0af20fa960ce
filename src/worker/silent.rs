//! Which instances of our hosted application do not answer, as its supervisor knows: our front asks the
//! others first.

use std::sync::{PoisonError, RwLock};

use crate::config::Upstream;

/// Where they listen.
#[derive(Debug, Default)]
pub struct SilentInstances(RwLock<Vec<Upstream>>);

impl SilentInstances {
    /// These, and no others.
    pub fn tell(&self, all: Vec<Upstream>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, at: &Upstream) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.contains(at)
    }
}
