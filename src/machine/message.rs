//! What two masters say to each other: self-describing, versioned JSON, one message a datagram.
//!
//! Unknown fields are ignored, so version N speaks to N±1. `tests/golden/` keeps every message of
//! every released version; old ones must decode for ever.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::hosting::RunningApp;
use super::whole::whole;
use crate::config::Config;

/// The protocol this build speaks. The major number changes when a step needs a restart.
pub const PROTOCOL: Protocol = Protocol { major: 1, minor: 0 };

/// The version of the conversation between two masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Protocol {
    /// Different major numbers cannot talk: exit code 76.
    pub major: u16,
    /// Additions that the other side may ignore.
    pub minor: u16,
}

/// One message between predecessor and successor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// Successor's first word.
    Hello(Hello),
    /// Predecessor's answer; the descriptors follow in [`Message::Fds`].
    Inheritance(Box<Inheritance>),
    /// A batch of descriptors, in the order of [`Inheritance::fds`]; at most 253 a message.
    Fds {
        /// How many travel with this message.
        count: usize,
    },
    /// "I can serve": the successor's workers are ready; again, in answer to a takeover that an
    /// order asked for: "I have taken over". From the predecessor in hold mode: "I accept again".
    Ready,
    /// Predecessor: you own the service from now on.
    Takeover,
    /// Successor: I am alive.
    Heartbeat,
    /// It is final; the predecessor leaves.
    Commit,
    /// Leave, because the whole service stops.
    Release,
    /// Successor: I give up, take the service back.
    Yield {
        /// For the operator and the journal.
        reason: String,
        /// Whether the predecessor shall send the successor away when it accepts again
        /// (in hold mode only orders do that; signals leave it beside).
        #[serde(default)]
        retire: bool,
        /// It does not own the service, a signal told it to leave, and it does.
        #[serde(default)]
        leaving: bool,
        /// An upgrade to start once the service is back (`--supersede`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        then: Option<Supersede>,
    },
    /// Predecessor: leave, I serve.
    Retire {
        /// For the journal.
        reason: String,
        /// Why the program on disk is not put back yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<String>,
    },
    /// Asks for the other master's status, or answers with it.
    Status {
        /// `None` asks, `Some` answers.
        #[serde(
            default,
            deserialize_with = "whole",
            skip_serializing_if = "Option::is_none"
        )]
        master: Option<Box<crate::api::Master>>,
    },
    /// Predecessor: my last worker has gone.
    Drained {
        /// Since the takeover.
        ms: u64,
        /// What became of its connections.
        connections: crate::api::Connections,
    },
    /// Owner: get ready to take the service back, as far as that takes time or may fail.
    Wake,
    /// Predecessor: I could take the service back; or why I cannot.
    Awake {
        /// `None`: I could.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Owner: the ring of TLS ticket keys has changed; its memory is the descriptor beside this.
    TicketKeys,
    /// A message of a newer minor version: ignored.
    #[serde(other)]
    Unknown,
}

/// An upgrade that follows a yield.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Supersede {
    /// The id the client was told.
    pub id: String,
    /// Signals' mode.
    #[serde(default)]
    pub hold: bool,
    /// `None`: as configured.
    #[serde(default)]
    pub probation_ms: Option<u64>,
    /// It was asked for by its release: that one is run, even one that was refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub release: bool,
}

/// The successor introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its version, for the operator.
    pub version: String,
    /// Its build id.
    pub build_id: String,
    /// Its process.
    pub pid: u32,
}

/// Everything a successor gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inheritance {
    /// What the predecessor speaks.
    pub protocol: Protocol,
    /// The predecessor's process.
    pub pid: u32,
    /// Its generation, version and build.
    pub from: Identity,
    /// The successor's generation.
    pub generation: u64,
    /// The upgrade's id: 32 hex digits.
    pub upgrade_id: String,
    /// Signals' mode: nothing happens but what the signal says.
    pub hold: bool,
    /// When the order came, Unix milliseconds.
    pub started_at_ms: u64,
    /// `None`: as configured.
    #[serde(default)]
    pub probation_ms: Option<u64>,
    /// The program as executed, absolute, links unresolved.
    pub path: PathBuf,
    /// Where the predecessor was started.
    pub cwd: PathBuf,
    /// The configuration to run with instead of what is on disk (a rollback after the commit).
    #[serde(default)]
    pub config: Option<KeptConfig>,
    /// A rollback after the commit: the predecessor is what the operator turned down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
    /// One entry a descriptor, in order.
    pub fds: Vec<Inherited>,
    /// Generations that drain, and the predecessor, which will.
    #[serde(default)]
    pub lingering: Vec<Lingering>,
    /// Whether systemd (a notify socket) or a keeper is behind us.
    #[serde(default)]
    pub unit_rev: Option<String>,
    /// What became of the connections of all drains so far, for `/metrics`.
    #[serde(default)]
    pub drained: crate::api::Connections,
    /// The hosted application that the predecessor runs; what holds it travels as
    /// [`Inherited::App`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<RunningApp>,
    /// The release that the successor runs, whatever the link leads to; `None`: what that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<PathBuf>,
    /// State of the application, by name.
    #[serde(default)]
    pub state: BTreeMap<String, serde_json::Value>,
}

/// A configuration in the words of the generation that it is for. Configurations are strict: one
/// that a newer version had read and written again would have keys that the older one refuses. So
/// whoever keeps or carries it does not read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeptConfig(serde_json::Value);

impl KeptConfig {
    /// What this generation runs with, for this same build later.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self(serde_json::to_value(config).expect("plain data with names for keys"))
    }

    /// Of a build that wrote it; anybody else may fail.
    pub fn read(&self) -> Result<Config, serde_json::Error> {
        serde_json::from_value(self.0.clone())
    }
}

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Its generation.
    pub generation: u64,
    /// The program's version.
    pub version: String,
    /// The program's build id.
    pub build_id: String,
}

/// A generation that only drains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lingering {
    /// Its master.
    pub pid: u32,
    /// Who it was.
    pub identity: Identity,
    /// How long it may still drain, in milliseconds; `None`: no limit.
    #[serde(default)]
    pub left_ms: Option<u64>,
    /// It was told to hurry, and makes room by that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hurried: bool,
}

/// What one descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Inherited {
    /// A listening socket.
    Listener {
        /// Its name (systemd's FDNAME).
        name: String,
        /// Where it came from.
        source: ListenerSource,
        /// The worker slot it belongs to (`SO_REUSEPORT`); `None`: shared.
        #[serde(default)]
        slot: Option<u16>,
    },
    /// The control socket.
    Control,
    /// The hand-off socket.
    Handoff,
    /// What `[metrics] address` listens on.
    Metrics,
    /// The pipe to the keeper.
    Keeper,
    /// A channel that holds the hosted application.
    App,
    /// Memory that holds the ring of TLS ticket keys.
    TicketKeys,
    /// Memory that holds the certificates and keys that the predecessor serves with.
    Identities,
    /// Something of a newer version: closed.
    #[serde(other)]
    Unknown,
}

/// Where a listener came from first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerSource {
    /// A `.socket` unit passed it.
    Systemd,
    /// We bound it; it follows the configuration.
    Own,
}
