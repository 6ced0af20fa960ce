//! The journal's milestones: a `MESSAGE_ID` for each kind of event. `packaging/catalog` explains
//! them to `journalctl -x`; the ids never change.

use crate::api::{Connections, Outcome};

/// The order or signal was taken.
pub(super) const UPGRADE_STARTS: &str = "37629fa04f5c4e11b4d77b54a715e0db";
/// A successor's process exists.
pub(super) const MASTER_STARTED: &str = "70d17a20603f47af9888137aaa8d1677";
/// A step.
pub(super) const PHASE_CHANGED: &str = "e8692a04340247b5878a78ab21741f4f";
/// A successor gives up.
pub(super) const GIVEN_BACK: &str = "957dcecf97694e18813c45c638e8fffc";
/// The last worker of a generation that handed over has gone.
pub(super) const DRAINED: &str = "8a3f0d5b5b7d4c1e9f7f6b21c4e0d9a2";
/// It is final.
pub(super) const COMMITTED: &str = "14dfe59398754ee4af18baf934732b91";
/// The old generation serves again.
pub(super) const ROLLED_BACK: &str = "286ee0acd2c94ec3816134ebc00ae768";
/// The new program never took over.
pub(super) const FAILED: &str = "d402379ff47042da853adf060a38a86e";
/// Workers keep dying.
pub(super) const WORKERS_FAIL: &str = "e05a6f784ed645c382c17bef38709559";
/// The running program is not back on disk.
pub(super) const DISK_DIFFERS: &str = "e281672f795c4c129cfaf7a2ab9111a5";
/// A file on trial was started cold.
pub(super) const COLD_TRIAL: &str = "75a84d0c3b0e4d9f8a6a2f6c1e9b7d43";
/// The generation before has gone without a word, and nothing was final.
pub(super) const LEFT_ALONE: &str = "b0a5a7c1f2d84d3b9a4e5c60d7e81f94";

/// One milestone: everything by which somebody could look for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Milestone<'a> {
    pub(super) kind: &'static str,
    pub(super) generation: u64,
    pub(super) phase: &'static str,
    pub(super) cast: Cast,
    pub(super) reason: Option<&'a str>,
    pub(super) outcome: Option<&'static str>,
    pub(super) connections: Option<Connections>,
}

/// The upgrade that it belongs to, and who takes part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cast {
    pub(super) id: Option<String>,
    pub(super) old_pid: Option<u32>,
    pub(super) new_pid: Option<u32>,
    pub(super) old_version: Option<String>,
    pub(super) new_version: Option<String>,
}

macro_rules! say {
    ($level:ident, $milestone:expr, $text:expr) => {{
        let Milestone {
            kind,
            generation,
            phase,
            cast,
            reason,
            outcome,
            connections,
        } = $milestone;
        tracing::$level!(
            message_id = kind,
            handover_upgrade_id = cast.id,
            handover_phase = phase,
            handover_generation = generation,
            handover_old_pid = cast.old_pid,
            handover_new_pid = cast.new_pid,
            handover_old_version = cast.old_version,
            handover_new_version = cast.new_version,
            handover_reason = reason,
            handover_outcome = outcome,
            handover_passed = connections.map(|c| c.passed),
            handover_finished = connections.map(|c| c.finished),
            handover_cut = connections.map(|c| c.cut),
            "{}",
            $text
        );
    }};
}

impl Milestone<'_> {
    pub(super) fn info(self, text: impl std::fmt::Display) {
        say!(info, self, text);
    }

    pub(super) fn warn(self, text: impl std::fmt::Display) {
        say!(warn, self, text);
    }

    pub(super) fn error(self, text: impl std::fmt::Display) {
        say!(error, self, text);
    }
}

/// As the journal and `status` have it.
pub(super) fn ended_as(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::RolledBack => "rolled_back",
        Outcome::Failed => "failed",
        Outcome::Refused => "refused",
        Outcome::Interrupted => "interrupted",
        Outcome::UnderWay => "under_way",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_id_is_explained_in_the_catalog_and_nothing_else_is() {
        let catalog = include_str!("../../packaging/catalog/handover.catalog");
        let explained: Vec<&str> = catalog
            .lines()
            .filter_map(|line| line.strip_prefix("-- "))
            .collect();
        let ids: Vec<&str> = include_str!("milestone.rs")
            .lines()
            .filter(|line| line.starts_with("pub(super) const"))
            .filter_map(|line| line.split('"').nth(1))
            .collect();
        assert_eq!(explained, ids);
        for id in ids {
            assert_eq!(id.len(), 32);
            assert!(
                id.bytes()
                    .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
            );
        }
    }
}
