//! What a master and its workers say to each other. Both are always the same build, so this needs
//! no versions; JSON, one message a datagram, descriptors beside it. And what is said on
//! `handoff.sock`, between generations.

use serde::{Deserialize, Serialize};

use super::tickets::TicketKeys;
use super::whole::whole;
pub use crate::api::Fates;
pub use crate::api::Handshakes;
use crate::api::{Connections, Master};
use crate::config::{Config, Hosted, Identities, Upstream};

/// Master to worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// First message, once; its listeners follow in [`ToWorker::Listeners`].
    Start(Box<Start>),
    /// A batch of listening sockets (descriptors in the same order). Later ones are of a worker
    /// that is missing, or new.
    Listeners {
        /// What they are.
        listeners: Vec<WorkerListener>,
    },
    /// Others accept on these from now on.
    LetGo {
        /// Which: [`WorkerListener::id`].
        ids: Vec<u64>,
    },
    /// Accept connections from now on.
    Accept,
    /// Stop accepting, keep what is held.
    Quiesce,
    /// Accept no more; finish or pass on what is held; leave.
    Drain {
        /// Milliseconds until what is left is cut; `None`: no limit.
        timeout_ms: Option<u64>,
        /// Somebody else serves on: ask on `handoff.sock` who takes the connections.
        pass: bool,
        /// For the application.
        reason: DrainReason,
    },
    /// Say [`FromWorker::Report`].
    Report,
    /// Open the log files again (`USR1`).
    ReopenLogs,
    /// Take connections from here: one receiving end beside it (see [`crate::sys::handoff`]).
    ReceiveFrom,
    /// These instances of the hosted application do not answer now, and all others do.
    Silent {
        /// Where they listen.
        instances: Vec<Upstream>,
    },
    /// The ring of ticket keys has changed: the descriptor beside it holds [`TicketKeys`].
    TicketKeys,
    /// Serve the one connection beside it, as if it had come to this listener: the master asks
    /// something itself (the health check).
    Serve {
        /// Its name.
        listener: String,
    },
}

/// Why a worker is told to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DrainReason {
    /// Another generation has taken over.
    Upgrade,
    /// The generation before has taken the service back.
    Rollback,
    /// Workers with another configuration have taken over.
    Reload,
    /// The service stops: nobody serves on.
    Stop,
    /// The worker's master has gone without a word.
    MasterGone,
}

impl std::fmt::Display for DrainReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Upgrade => "upgrade",
            Self::Rollback => "rollback",
            Self::Reload => "reload",
            Self::Stop => "stop",
            Self::MasterGone => "its master has gone",
        })
    }
}

/// A draining worker, or its master, to the owner's master over `handoff.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffRequest {
    /// The newest frame version it writes: [`HANDOFF_VERSION`].
    pub version: u32,
    /// The draining generation.
    pub generation: u64,
    /// Not a worker asks but its master, which has no channel to the owner any longer: it only
    /// tells. An owner that does not know this answers as to a worker, which does no harm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub news: Option<Box<News>>,
    /// It has no connections to pass on: it only wants to know where the owner's application listens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub application: bool,
}

/// What the master of a generation that only drains tells the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// It and its workers.
    #[serde(deserialize_with = "whole")]
    pub master: Master,
    /// Its last worker has gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<Drained>,
}

/// What a drain came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The upgrade (or its rollback) that caused it.
    pub upgrade_id: String,
    /// From the drain's begin to its end.
    pub ms: u64,
    /// What became of the connections.
    pub connections: Connections,
}

/// The owner's answer; the sending ends travel beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffAnswer {
    /// The newest frame version its workers read.
    pub version: u32,
    /// How many sending ends there are: one a receiving worker.
    pub targets: usize,
    /// What all of its workers read.
    #[serde(flatten)]
    pub reads: Reads,
    /// Where its hosted application listens: a request of which nothing was begun may go there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<Upstream>,
}

/// Which connections a worker takes over, beside plain ones of HTTP/1.1. The sender drains the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// The newest form of a TLS connection ([`TLS_READS`]); 0: none.
    #[serde(default)]
    pub tls: u32,
    /// The newest form of an HTTP/2 connection ([`HTTP2_READS`]); 0: none.
    #[serde(default)]
    pub http2: u32,
}

impl Reads {
    /// What both read.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        Self {
            tls: self.tls.min(other.tls),
            http2: self.http2.min(other.http2),
        }
    }
}

/// The version of the frames between a draining and a receiving worker. They are not always the
/// same build: a frame only ever gains fields.
pub const HANDOFF_VERSION: u32 = 1;

/// The newest form of a TLS connection on its way that we read. It also stands for the cipher suites
/// that a reader has: all of rustls' (AES-GCM and ChaCha20-Poly1305, of TLS 1.2 and 1.3).
pub const TLS_READS: u32 = 1;

/// The form that is written. A form is read one release before it is written, and once read for ever.
pub const TLS_WRITES: u32 = 1;

/// The newest form of an HTTP/2 connection on its way that we read.
pub const HTTP2_READS: u32 = 1;

/// The form that is written. A form is read one release before it is written, and once read for ever.
pub const HTTP2_WRITES: u32 = 1;

/// What a worker is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The service's name.
    pub name: String,
    /// The generation it belongs to.
    pub generation: u64,
    /// Its slot, from 0.
    pub slot: u16,
    /// The program's version.
    pub version: String,
    /// The configuration of its generation.
    #[serde(deserialize_with = "whole")]
    pub config: Config,
    /// How many listeners follow, over all batches.
    pub listeners: usize,
    /// `handoff.sock`, where a worker without a master asks for the owner.
    pub handoff: Option<std::path::PathBuf>,
    /// Whether the first descriptor beside this message is the generation's [`crate::sys::board`].
    #[serde(default)]
    pub board: bool,
    /// Whether the next descriptor holds [`TlsSecrets`] (see [`crate::sys::secrets`]).
    #[serde(default)]
    pub tls: bool,
    /// The command line, without the program: the application may have arguments of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub typed: Vec<std::ffi::OsString>,
    /// The hosted application. The next descriptor keeps it alive then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosted: Option<Hosted>,
}

/// What a worker needs to speak TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSecrets {
    /// Certificates and their keys.
    pub identities: Identities,
    /// `None`: clients that come back do not resume.
    pub tickets: Option<TicketKeys>,
}

/// What one descriptor beside [`ToWorker::Listeners`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerListener {
    /// Which socket it is, among all of this generation.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The address it is bound to, for people.
    pub address: String,
    /// Whether other workers accept on it, too.
    #[serde(default)]
    pub shared: bool,
}

/// Worker to master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    /// Everything is loaded; it can accept the moment it is told to.
    Ready {
        /// What it takes over from others.
        reads: Reads,
    },
    /// It cannot serve and leaves.
    Failed {
        /// For the operator.
        reason: String,
    },
    /// Nobody goes back from this generation, says its application.
    Irreversible {
        /// For the operator.
        reason: String,
    },
    /// It holds as many connections as it may: what comes to its sockets is for others. Or it has
    /// room again.
    Full {
        /// Which of the two.
        full: bool,
    },
    /// Answer to [`ToWorker::Report`].
    Report(Report),
    /// Answer to [`ToWorker::Drain`]: it accepts no more.
    Closed,
    /// It has drained and leaves now.
    Drained(Report),
}

/// A worker's figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Open now.
    pub connections: u64,
    /// Accepted since its start.
    pub accepted: u64,
    /// Answered since its start.
    pub requests: u64,
    /// Connections given to a worker of the owning generation.
    pub passed: u64,
    /// Connections taken over from a draining worker.
    pub received: u64,
    /// Connections that ended by themselves during the drain.
    pub finished: u64,
    /// Connections closed at the drain deadline.
    pub cut: u64,
    /// Times hyper's idle state and ours differed (must be 0).
    pub disagreements: u64,
    /// Failed accepts.
    #[serde(default)]
    pub accept_errors: u64,
    /// Requests whose head is no HTTP/1.1: they got an error, and nobody saw them.
    #[serde(default)]
    pub unparsed: u64,
    /// Requests that the hosted application did not answer.
    #[serde(default)]
    pub unanswered: Unanswered,
    /// TLS.
    #[serde(default)]
    pub tls: TlsReport,
    /// Of [`Self::passed`], [`Self::finished`] and [`Self::cut`] those of HTTP/2.
    #[serde(default)]
    pub http2: Fates,
}

/// Requests that a hosted application did not answer, by what their clients got instead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unanswered {
    /// 502: no answer, or no HTTP.
    pub no_answer: u64,
    /// 503: no connection.
    pub no_connection: u64,
    /// 504: nothing in time.
    pub timed_out: u64,
    /// An answer that broke off, or stood still.
    pub broken_off: u64,
}

impl std::ops::AddAssign for Unanswered {
    fn add_assign(&mut self, other: Self) {
        self.no_answer += other.no_answer;
        self.no_connection += other.no_connection;
        self.timed_out += other.timed_out;
        self.broken_off += other.broken_off;
    }
}

/// What a worker's TLS connections did since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsReport {
    /// Of the listeners that speak TLS.
    pub handshakes: Handshakes,
    /// Of [`Report::passed`], [`Report::finished`] and [`Report::cut`] those over TLS.
    pub connections: Fates,
}

impl std::ops::AddAssign for TlsReport {
    fn add_assign(&mut self, other: Self) {
        self.handshakes += other.handshakes;
        self.connections += other.connections;
    }
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.accepted += other.accepted;
        self.requests += other.requests;
        self.passed += other.passed;
        self.received += other.received;
        self.finished += other.finished;
        self.cut += other.cut;
        self.disagreements += other.disagreements;
        self.accept_errors += other.accept_errors;
        self.unparsed += other.unparsed;
        self.unanswered += other.unanswered;
        self.tls += other.tls;
        self.http2 += other.http2;
    }
}
