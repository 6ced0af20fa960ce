//! How much an instance holds, and whether the kernel ended it for want of memory.

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

/// What the kernel did to processes of our control group.
#[derive(Debug)]
pub(super) struct Shot(Option<u64>);

impl Shot {
    pub(super) fn before() -> Self {
        Self(memory::oom_kills())
    }

    /// Whether there was one more since.
    pub(super) fn was_fired(&self) -> bool {
        matches!((self.0, memory::oom_kills()), (Some(before), Some(now)) if now > before)
    }
}

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);
