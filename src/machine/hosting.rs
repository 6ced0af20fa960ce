//! What masters and the supervisor of a hosted application say to each other. A supervisor outlives
//! the master that started it when a newer build of ours takes the application over, so the two are
//! not always the same build: unknown fields are ignored, unknown messages too.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::whole::whole;
use crate::config::{App, Upstream};

/// A holder (a master) to the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToSupervisor {
    /// First message, once.
    Start(Box<Hosting>),
    /// There is one more holder, at the other end of the channel beside this. It is told what this
    /// one was told.
    Share,
    /// Say [`FromSupervisor::Report`].
    Report,
    /// Whether this holder has the service now; `HANDOVER_PHASE` follows from what all holders say.
    Serves {
        /// It has.
        serves: bool,
    },
    /// Something of a newer version.
    #[serde(other)]
    Unknown,
}

/// What a supervisor starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosting {
    /// The service's name.
    pub name: String,
    /// The generation that starts it.
    pub generation: u64,
    /// How it is started.
    #[serde(deserialize_with = "whole")]
    pub app: App,
    /// Where: the release itself, no link to it.
    pub release: PathBuf,
    /// The directory for its sockets, and how their names begin.
    pub sockets: PathBuf,
    /// What makes names of this start differ from those of others.
    pub prefix: String,
    /// Where its instances listen; empty: wherever there is a place.
    #[serde(default)]
    pub at: Vec<Upstream>,
    /// Milliseconds until it must be ready.
    pub ready_within_ms: u64,
    /// `[log] level`.
    pub log_level: String,
}

impl Hosting {
    /// The file that tells the application what it is for now (`HANDOVER_PHASE`).
    #[must_use]
    pub fn phase_file(&self) -> PathBuf {
        self.sockets.join(format!("{}.phase", self.prefix))
    }
}

/// The supervisor to every holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromSupervisor {
    /// Every instance answers here.
    Ready {
        /// One an instance.
        upstreams: Vec<Upstream>,
    },
    /// It did not get ready, or keeps ending.
    Failed {
        /// For the operator, with its last lines.
        reason: String,
    },
    /// How it is.
    Report(Instances),
    /// Something of a newer version.
    #[serde(other)]
    Unknown,
}

/// Why an instance was started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It had served, and ended as programs do that renew their process; or somebody else told it to.
    OnPurpose,
    /// It ended by itself, as if all were well.
    Ended,
    /// It ended by itself, with another exit code or of a signal.
    Crash,
    /// It held more than `[app] memory`.
    Memory,
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// It was started, and did not come to answer.
    NotReady,
}

/// How often, by why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restarts {
    /// [`Restart::OnPurpose`]
    on_purpose: u64,
    /// [`Restart::Ended`]
    ended: u64,
    /// [`Restart::Crash`]
    crash: u64,
    /// [`Restart::Memory`]
    memory: u64,
    /// [`Restart::OutOfMemory`]
    out_of_memory: u64,
    /// [`Restart::NotReady`]
    not_ready: u64,
}

impl Restart {
    /// The program has done nothing wrong.
    #[must_use]
    pub fn is_blameless(self) -> bool {
        matches!(self, Self::OnPurpose | Self::Memory)
    }
}

impl Restarts {
    /// Once more.
    pub fn count(&mut self, why: Restart) {
        *match why {
            Restart::OnPurpose => &mut self.on_purpose,
            Restart::Ended => &mut self.ended,
            Restart::Crash => &mut self.crash,
            Restart::Memory => &mut self.memory,
            Restart::OutOfMemory => &mut self.out_of_memory,
            Restart::NotReady => &mut self.not_ready,
        } += 1;
    }

    /// Those that were its own fault.
    #[must_use]
    pub fn by_itself(&self) -> u64 {
        self.ended + self.crash + self.out_of_memory + self.not_ready
    }

    /// Each by its name. `all` of them: a supervisor of another build may have reasons that we do not know.
    #[must_use]
    pub fn named(&self, all: u64) -> [(&'static str, u64); 7] {
        let known = [
            ("on_purpose", self.on_purpose),
            ("ended", self.ended),
            ("crash", self.crash),
            ("memory", self.memory),
            ("out_of_memory", self.out_of_memory),
            ("not_ready", self.not_ready),
        ];
        let sum = known.iter().map(|(_, count)| count).sum();
        let [on_purpose, ended, crash, memory, out_of_memory, not_ready] = known;
        let other = ("other", all.saturating_sub(sum));
        [
            on_purpose,
            ended,
            crash,
            memory,
            out_of_memory,
            not_ready,
            other,
        ]
    }
}

/// The processes of an application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instances {
    /// The first process of each that runs.
    pub pids: Vec<u32>,
    /// How often one of them was started again.
    pub restarts: u64,
    /// And why, as far as the supervisor's build knows.
    #[serde(default)]
    pub restarts_by: Restarts,
    /// The memory that they and what they started would give back, in KiB.
    pub private_kib: u64,
    /// How many of them answer now; `None`: a supervisor of before does not say.
    #[serde(default)]
    pub ready: Option<u16>,
    /// Those that do not answer now, by their places among all.
    #[serde(default)]
    pub silent: Vec<u16>,
    /// How many of them ended by their own fault, or hang, and do not answer again yet.
    #[serde(default)]
    pub failing: u16,
    /// Why one of them ended last, or did not answer any more.
    #[serde(default)]
    pub ended: Option<String>,
}

/// The application that a predecessor runs, for a successor that would start the same one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningApp {
    /// Its configuration, in the words of the one who started it.
    pub config: serde_json::Value,
    /// The release.
    pub release: PathBuf,
    /// What makes it this release and no other.
    pub identity: String,
    /// Where its instances listen.
    pub upstreams: Vec<Upstream>,
    /// The process of its supervisor.
    pub supervisor: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_another_build_is_understood() {
        let of = |by: &str| {
            let text = format!("{{\"pids\":[7],\"restarts\":5,\"private_kib\":1{by}}}");
            let instances: Instances = serde_json::from_str(&text).unwrap();
            instances.restarts_by.named(instances.restarts)
        };
        let count = |named: &[(&str, u64)], name| named.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(count(&of(""), "other"), 5);
        let newer = of(",\"restarts_by\":{\"crash\":3,\"bored\":2}");
        assert_eq!((count(&newer, "crash"), count(&newer, "other")), (3, 2));
    }

    #[test]
    fn each_reason_is_counted_under_its_own_name() {
        use Restart::{Crash, Ended, Memory, NotReady, OnPurpose, OutOfMemory};
        for (number, why) in [OnPurpose, Ended, Crash, Memory, OutOfMemory, NotReady]
            .into_iter()
            .enumerate()
        {
            let mut restarts = Restarts::default();
            restarts.count(why);
            let counts = restarts.named(1).map(|(_, count)| count);
            let mut expected = [0; 7];
            expected[number] = 1;
            assert_eq!(counts, expected, "{why:?}");
            assert_eq!(restarts.by_itself() == 0, why.is_blameless(), "{why:?}");
        }
    }
}
