//! How much an instance holds, and whether the kernel ended it for want of memory.

use std::convert::Infallible;
use std::time::Duration;

use super::group::Leaders;
use crate::config::Size;
use crate::sys::memory;

/// Ends when the process and what it started, also what it left behind, hold more than `limit`, with
/// what they hold. `instance` as for [`Leaders::left_behind`].
pub(super) async fn exceeded(
    leader: u32,
    instance: Option<usize>,
    leaders: &Leaders,
    limit: Size,
) -> Size {
    loop {
        tokio::time::sleep(EVERY).await;
        let leaders = leaders.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let mut roots = leaders.left_behind(instance);
            roots.push(leader);
            memory::held(&roots, limit.0)
        });
        match looked.await {
            Ok(held) if held > limit.0 => return Size(held),
            _ => {}
        }
    }
}

/// What the kernel did to processes of our control group a moment ago.
#[derive(Debug)]
pub(super) struct Shot {
    /// At the look before the last one: what has been killed since ends now.
    before: Option<u64>,
    last: Option<u64>,
}

impl Shot {
    pub(super) fn before() -> Self {
        let now = memory::oom_kills();
        Self {
            before: now,
            last: now,
        }
    }

    /// Looks again and again: a kill of long ago is not why an instance ends.
    pub(super) async fn watch(&mut self) -> Infallible {
        loop {
            tokio::time::sleep(EVERY).await;
            self.before = std::mem::replace(&mut self.last, memory::oom_kills());
        }
    }

    /// Whether there was one more since.
    pub(super) fn was_fired(&self) -> bool {
        matches!((self.before, memory::oom_kills()), (Some(before), Some(now)) if now > before)
    }
}

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);
