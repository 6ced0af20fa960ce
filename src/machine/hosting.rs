//! What masters and the supervisor of a hosted application say to each other. A supervisor outlives
//! the master that started it when a newer build of ours takes the application over, so the two are
//! not always the same build: unknown fields are ignored, unknown messages too.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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

/// The processes of an application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instances {
    /// The first process of each that runs.
    pub pids: Vec<u32>,
    /// How often one of them was started again.
    pub restarts: u64,
    /// The memory that they and what they started would give back, in KiB.
    pub private_kib: u64,
    /// How many of them answer now; `None`: a supervisor of before does not say.
    #[serde(default)]
    pub ready: Option<u16>,
    /// Why one of them ended last.
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
