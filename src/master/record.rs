//! One upgrade, as the master that drives it remembers it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::milestone::Cast;
use super::store::Found;
use crate::api::{self, Connections, Last, Outcome, Phase, Releases};
use crate::sys::release::Release;

/// An upgrade under way.
#[derive(Debug)]
pub(super) struct Record {
    /// 32 hex digits.
    pub(super) id: String,
    /// Version before.
    pub(super) from: String,
    /// Version after, when it is known.
    pub(super) to: Option<String>,
    /// Build after, when it is known.
    pub(super) to_build: Option<String>,
    /// When the order came.
    pub(super) started: Instant,
    pub(super) started_at: jiff::Timestamp,
    pub(super) hold: bool,
    /// From the order to the takeover.
    pub(super) takeover: Option<Duration>,
    /// What the predecessor's drain came to.
    pub(super) drained: Option<(u64, Connections)>,
    /// What was at the path.
    pub(super) found: Arc<OnceLock<Found>>,
    /// A rollback after the commit: what runs now is what the operator turned down.
    pub(super) back: bool,
    /// What it found at the path, once that was turned down (not only superseded).
    pub(super) rejected: Option<Found>,
    /// What ran before is to be the good one again when it is taken back: a rollback after the commit has
    /// made another one that, or what ran had proved itself and is not kept as good yet.
    pub(super) was_good: bool,
    /// Instead of the configured probation.
    pub(super) probation: Option<Duration>,
    /// Of a hosted application.
    pub(super) releases: Option<Releases>,
    /// The one that is tried.
    pub(super) release: Option<Release>,
    /// What the successor runs, whatever the link leads to.
    pub(super) keeps_release: Option<PathBuf>,
    /// The two masters.
    pub(super) old_pid: Option<u32>,
    pub(super) new_pid: Option<u32>,
}

impl Record {
    pub(super) fn new(id: String, from: &str, hold: bool, back: bool) -> Self {
        Self {
            id,
            from: from.into(),
            to: None,
            to_build: None,
            started: Instant::now(),
            started_at: jiff::Timestamp::now(),
            hold,
            takeover: None,
            drained: None,
            found: Arc::default(),
            back,
            was_good: false,
            rejected: None,
            probation: None,
            releases: None,
            release: None,
            keeps_release: None,
            old_pid: None,
            new_pid: None,
        }
    }

    /// Who takes part, for the journal.
    pub(super) fn cast(&self) -> Cast {
        Cast {
            id: Some(self.id.clone()),
            old_pid: self.old_pid,
            new_pid: self.new_pid,
            old_version: Some(self.from.clone()),
            new_version: self.to.clone(),
        }
    }

    pub(super) fn takes_over(&mut self) {
        self.takeover.get_or_insert_with(|| self.started.elapsed());
    }

    /// What stays written down should it be interrupted.
    pub(super) fn under_way(&self) -> Last {
        self.ended(Outcome::UnderWay, None)
    }

    pub(super) fn ended(&self, outcome: Outcome, reason: Option<String>) -> Last {
        Last {
            id: self.id.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            to_build: self.to_build.clone(),
            outcome,
            reason,
            finished_at: api_time(jiff::Timestamp::now()),
            takeover_ms: self.takeover.map(millis),
            drain_ms: self.drained.map(|(ms, _)| ms),
            connections: self.drained.map(|(_, c)| c).unwrap_or_default(),
            releases: self.releases.clone(),
        }
    }

    pub(super) fn report(&self, phase: Phase, left: Option<Duration>) -> api::Upgrade {
        api::Upgrade {
            id: self.id.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            phase: phase.into(),
            started_at: api_time(self.started_at),
            hold: self.hold,
            probation_left_ms: left.map(millis),
            releases: self.releases.clone(),
        }
    }
}

/// RFC 3339, to the millisecond.
pub(super) fn api_time(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// A new upgrade's id: 128 random bits.
pub(super) fn new_id() -> String {
    use std::io::Read;
    let mut bytes = [0; 16];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    if random.is_err() {
        // Without /dev: the time and the process tell two upgrades apart.
        let now = jiff::Timestamp::now().as_nanosecond();
        bytes = (now ^ (i128::from(std::process::id()) << 96)).to_le_bytes();
    }
    format!("{:032x}", u128::from_le_bytes(bytes))
}
