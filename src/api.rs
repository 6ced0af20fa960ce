//! What the control socket says, as types: the daemon answers with them, the clients read them.
//! The keys are fixed (they are in scripts and dashboards); enum values are `snake_case`, times RFC
//! 3339, durations milliseconds.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An enum without data, and `ALL`: every variant in order. What walks all of them cannot forget one.
macro_rules! listed {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every one of them.
            pub const ALL: [Self; [$(stringify!($variant)),*].len()] = [$(Self::$variant),*];
        }
    };
}
pub(crate) use listed;

/// `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of this document: 1.
    pub schema: u32,
    /// The service's name.
    pub name: String,
    /// The master that owns the service.
    pub owner_pid: u32,
    /// The owner's generation.
    pub generation: u64,
    /// The owner's version.
    pub version: String,
    /// The owner's build.
    pub build_id: String,
    /// The owner's phase.
    pub phase: PhaseName,
    /// When the owner was started.
    pub started_at: String,
    /// What systemd was last told; `None` without systemd.
    pub systemd_main_pid: Option<u32>,
    /// The listening sockets.
    pub listeners: Vec<Listener>,
    /// What `[metrics] address` listens on.
    #[serde(default)]
    pub metrics: Option<String>,
    /// All masters that are alive, newest first.
    pub masters: Vec<Master>,
    /// The binary on disk.
    pub disk: Disk,
    /// What is installed, on disk, running and good, side by side; `None`: said by a version that
    /// did not know it yet.
    #[serde(default)]
    pub drift: Option<Drift>,
    /// What `rollback` would bring back.
    pub rollback_to: Option<Build>,
    /// The configuration file.
    pub config: ConfigState,
    /// The unit's revision, under systemd.
    pub unit_rev: Option<UnitRev>,
    /// The upgrade under way.
    pub upgrade: Option<Upgrade>,
    /// The last one that ended.
    pub last: Option<Last>,
    /// Releases of the hosted application that ran once and that nothing needs, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub old_releases: Vec<PathBuf>,
    /// What is known of the hosted application's releases; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// `None`: no listener speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// systemd's FDNAME.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// `systemd` or `own`.
    pub source: String,
}

/// One master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Master {
    /// Its process.
    pub pid: u32,
    /// Its generation.
    pub generation: u64,
    /// Its version.
    pub version: String,
    /// Its phase.
    pub phase: PhaseName,
    /// Memory nobody shares, KiB.
    pub private_kib: u64,
    /// Its workers.
    pub workers: Vec<Worker>,
    /// The application that they are in front of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<App>,
}

/// A hosted application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// The release that it runs.
    pub release: PathBuf,
    /// Whether it serves: at least one instance answers.
    pub ready: bool,
    /// How many instances do; `None`: a supervisor of before does not say.
    #[serde(default)]
    pub answering: Option<u16>,
    /// How many there should be; `None`: a master of before does not say.
    #[serde(default)]
    pub instances: Option<u16>,
    /// Why an instance ended last, or did not answer any more.
    #[serde(default)]
    pub ended: Option<String>,
    /// The first process of each instance.
    pub pids: Vec<u32>,
    /// How often an instance was started again.
    pub restarts: u64,
    /// The memory of all its processes that nobody shares, KiB.
    pub private_kib: u64,
}

/// What is known of the releases behind the link of a hosted application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// `[app] directory`.
    pub link: PathBuf,
    /// Where it leads; `None`: to nothing.
    pub leads_to: Option<PathBuf>,
    /// The release that last proved itself: what a cold start runs, should another one fail.
    pub good: Option<PathBuf>,
    /// The last one that was refused, taken back or given up: no cold start runs it.
    pub rejected: Option<PathBuf>,
    /// What the owner runs has not proved itself yet.
    pub on_trial: bool,
}

/// The releases of a hosted application, before and after an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releases {
    /// What ran.
    pub from: PathBuf,
    /// What it was to be.
    pub to: PathBuf,
}

impl Releases {
    /// Two directories, not one whose contents have changed: their names say what is what.
    pub(crate) fn differ(&self) -> bool {
        self.from != self.to
    }

    /// The names of both directories, for people.
    pub(crate) fn names(&self) -> Option<(String, String)> {
        if !self.differ() {
            return None;
        }
        let name = |path: &PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
        Some((name(&self.from)?, name(&self.to)?))
    }
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its process.
    pub pid: u32,
    /// Its generation.
    pub generation: u64,
    /// `starting`, `ready`, `accepting`, `quiesced` or `draining`.
    pub state: String,
    /// Open now.
    pub connections: u64,
    /// Answered so far.
    pub requests: u64,
}

/// The binary on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// As executed.
    pub path: PathBuf,
    /// `None` when it cannot be known without running it.
    pub version: Option<String>,
    /// `None` when the file is missing or no program.
    pub build_id: Option<String>,
    /// Whether that is what the owner runs.
    pub matches_running: bool,
    /// Whether it came back in the place of a newer one that was refused or given up, which is
    /// `.rejected` now.
    #[serde(default)]
    pub put_back: bool,
}

/// What a host has of the program, for tools that look at many hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// The package's version as its scripts wrote it down; `None`: no package is known.
    pub installed: Option<String>,
    /// The program on disk; `None`: it is missing or no program.
    pub disk: Option<Build>,
    /// What the owner runs.
    pub running: Build,
    /// The one that last proved itself; `None`: there is none.
    pub good: Option<Build>,
    /// Which of the others are not what runs: `installed`, `disk`, `good`. Empty: all is one. In a
    /// probation it is `good`.
    pub differ: Vec<String>,
}

impl Drift {
    /// All that [`differ`](Self::differ) can name.
    pub const PLACES: [&'static str; 3] = ["installed", "disk", "good"];

    /// Whether this one is not what runs.
    #[must_use]
    pub fn is_in(&self, place: &str) -> bool {
        self.differ.iter().any(|differs| differs == place)
    }
}

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// `None` when unknown.
    pub version: Option<String>,
    /// Its build id.
    pub build_id: String,
}

/// The configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    /// `None`: built-in defaults.
    pub path: Option<PathBuf>,
    /// Whether a reload would change nothing.
    pub matches_disk: bool,
}

/// The unit's revision number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRev {
    /// The service's environment was made from this one.
    pub running: String,
    /// What is installed now.
    pub installed: String,
}

/// An upgrade under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// 32 hex digits.
    pub id: String,
    /// Version before.
    pub from: String,
    /// Version after; `None` until the successor said it.
    pub to: Option<String>,
    /// The owner's phase.
    pub phase: PhaseName,
    /// When the order came.
    pub started_at: String,
    /// Signals' mode.
    pub hold: bool,
    /// Until it commits by itself; `None`: not in probation, or on trial alone.
    pub probation_left_ms: Option<u64>,
    /// The releases of a hosted application, when it is about another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releases: Option<Releases>,
}

listed! {
/// Where a master is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Our workers start; nobody relies on us.
    Starting,
    /// Ready; the predecessor owns the service.
    Standby,
    /// We own the service; the predecessor is parked behind us.
    Probation,
    /// The commit was sent; only the predecessor's EOF makes it true.
    Committing,
    /// We gave up, but accept until the predecessor is ready.
    Yielded,
    /// We own the service alone.
    Serving,
    /// New workers with the new configuration start; the old ones accept until they are ready.
    Reloading,
    /// We own the service; a successor gets ready.
    Launching,
    /// Hold mode: both generations accept, we own the service.
    Beside,
    /// The successor owns the service; we keep the listeners, watch it, and wait.
    Parked,
    /// Our workers start again.
    Reclaiming,
    /// We own the service; the failed successor leaves.
    Evicting,
    /// Our workers finish; then we leave.
    Draining,
    /// Nothing is left to do but to exit.
    Done,
}
}

impl Phase {
    /// The name in `status`, the journal and the thread name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Probation => "probation",
            Self::Committing => "committing",
            Self::Yielded => "yielded",
            Self::Serving => "serving",
            Self::Reloading => "reloading",
            Self::Launching => "launching",
            Self::Beside => "beside",
            Self::Parked => "parked",
            Self::Reclaiming => "reclaiming",
            Self::Evicting => "evicting",
            Self::Draining => "draining",
            Self::Done => "done",
        }
    }
}

/// A phase as a master says it, whose version may be a newer one with phases of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PhaseName {
    /// One that this version has, too.
    Known(Phase),
    /// Another one. It is anybody's text.
    Other(String),
}

impl PhaseName {
    /// `None`: a newer version has it.
    #[must_use]
    pub fn known(&self) -> Option<Phase> {
        match self {
            Self::Known(phase) => Some(*phase),
            Self::Other(_) => None,
        }
    }
}

impl From<Phase> for PhaseName {
    fn from(phase: Phase) -> Self {
        Self::Known(phase)
    }
}

#[cfg(test)]
impl From<&str> for PhaseName {
    fn from(name: &str) -> Self {
        serde_json::from_value(name.into()).expect("any text")
    }
}

impl PartialEq<Phase> for PhaseName {
    fn eq(&self, phase: &Phase) -> bool {
        self.known() == Some(*phase)
    }
}

impl std::fmt::Display for PhaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(phase) => phase.fmt(f),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

listed! {
    /// How an upgrade ended.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Outcome {
        /// The successor serves for good.
        Committed,
        /// It had taken over, the predecessor took back.
        RolledBack,
        /// It never took over.
        Failed,
        /// It was not even tried.
        Refused,
        /// The service was started anew in the middle of it, or the generation before has died, and
        /// another upgrade or the way back began before what runs had proved itself.
        Interrupted,
        /// Not ended yet (in the history only).
        UnderWay,
    }
}

/// An upgrade that ended; also a line of the history file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// 32 hex digits.
    pub id: String,
    /// Version before.
    pub from: String,
    /// Version after, when it was known.
    pub to: Option<String>,
    /// Build after, when it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_build: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, when not committed.
    pub reason: Option<String>,
    /// When it ended.
    pub finished_at: String,
    /// From the order to the takeover.
    pub takeover_ms: Option<u64>,
    /// From the takeover until the predecessor's last worker had gone.
    pub drain_ms: Option<u64>,
    /// What became of the draining generation's connections.
    pub connections: Connections,
    /// Of a hosted application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releases: Option<Releases>,
}

/// From what to what: two versions, or the names of two releases.
fn ends(releases: Option<&Releases>, from: &str, to: Option<&str>) -> (String, String) {
    let names = releases.and_then(Releases::names);
    names.unwrap_or_else(|| (from.to_owned(), to.unwrap_or("?").to_owned()))
}

impl Upgrade {
    /// From what to what, for people.
    pub(crate) fn ends(&self) -> (String, String) {
        ends(self.releases.as_ref(), &self.from, self.to.as_deref())
    }
}

impl Last {
    /// Whether `later`, written down about the same upgrade, counts instead: that it goes never takes the
    /// place of how it ended.
    pub(crate) fn gives_way(&self, later: &Self) -> bool {
        let goes = |last: &Self| last.outcome == Outcome::UnderWay;
        goes(self) || !goes(later)
    }

    /// From what to what, for people.
    pub(crate) fn ends(&self) -> (String, String) {
        ends(self.releases.as_ref(), &self.from, self.to.as_deref())
    }
}

/// What became of a draining generation's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Given to a worker of the owning generation.
    pub passed: u64,
    /// Ended by themselves.
    pub finished: u64,
    /// Closed at the deadline.
    pub cut: u64,
    /// Those of all these that were over TLS.
    #[serde(default)]
    pub tls: Fates,
    /// Those of all these that spoke HTTP/2, over TLS or not.
    #[serde(default)]
    pub http2: Fates,
}

/// What became of the connections of one protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fates {
    /// Given to a worker of the owning generation.
    pub passed: u64,
    /// Ended by themselves.
    pub finished: u64,
    /// Closed at the deadline.
    pub cut: u64,
}

impl std::ops::AddAssign for Fates {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.finished += other.finished;
        self.cut += other.cut;
    }
}

impl std::ops::AddAssign for Connections {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.finished += other.finished;
        self.cut += other.cut;
        self.tls += other.tls;
        self.http2 += other.http2;
    }
}

/// TLS handshakes, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    /// There was a connection.
    pub done: u64,
    /// Of these: the client resumed an earlier session.
    pub resumed: u64,
    /// The client went away.
    pub closed: u64,
    /// They took too long.
    pub timed_out: u64,
    /// The client said no: most often it does not trust our certificate.
    pub refused_by_client: u64,
    /// The client's certificate was missing or wrong.
    pub bad_client_certificate: u64,
    /// No version, cipher suite or signature that both know.
    pub nothing_in_common: u64,
    /// The client spoke something else.
    pub broken: u64,
}

impl std::ops::AddAssign for Handshakes {
    fn add_assign(&mut self, other: Self) {
        self.done += other.done;
        self.resumed += other.resumed;
        self.closed += other.closed;
        self.timed_out += other.timed_out;
        self.refused_by_client += other.refused_by_client;
        self.bad_client_certificate += other.bad_client_certificate;
        self.nothing_in_common += other.nothing_in_common;
        self.broken += other.broken;
    }
}

/// TLS, where a listener speaks it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// What is shown to clients.
    pub certificates: Vec<Certificate>,
    /// By this master's workers since they were started.
    pub handshakes: Handshakes,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Where it was read from.
    pub file: PathBuf,
    /// What it is for.
    pub names: Vec<String>,
    /// Until when it is good.
    pub not_after: String,
}

impl std::fmt::Display for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "connections: {} passed on, {} finished, {} cut",
            self.passed, self.finished, self.cut
        )?;
        for (which, of) in [("over TLS", self.tls), ("HTTP/2", self.http2)] {
            if of == Fates::default() {
                continue;
            }
            write!(
                f,
                " ({which}: {} passed on, {} finished, {} cut)",
                of.passed, of.finished, of.cut
            )?;
        }
        Ok(())
    }
}

/// How far `upgrade` waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// Until the successor owns the service.
    #[default]
    Takeover,
    /// Until it is final.
    Commit,
}

/// Body of `POST /v1/upgrade` (and of `/v1/apply`). Unknown fields are refused: it is an order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpgradeOrder {
    /// The client's id for it (32 hex digits), so that it can ask again after a lost connection.
    pub id: Option<String>,
    /// Instead of the configured one.
    pub probation_ms: Option<u64>,
    /// Signals' mode: both generations accept until somebody says more.
    pub hold: bool,
    /// A successor in probation is taken back first.
    pub supersede: bool,
    /// When too many generations drain, the oldest is ended.
    pub end_oldest: bool,
    /// Where the application's link leads, as whoever ordered it sees it: compared, and never gone to.
    /// It is run, even when it was refused before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<PathBuf>,
    /// When the answer comes.
    pub until: Until,
}

/// One line of an order's answer, and of `GET /v1/events` (`application/x-ndjson`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Something happened on the way.
    Step {
        /// The upgrade, when there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The generation that says it.
        generation: u64,
        /// Its phase now.
        phase: PhaseName,
        /// For people.
        message: String,
    },
    /// The last line of an order's answer.
    Result(Verdict),
    /// An upgrade ended.
    Ended(Box<Last>),
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The exit code of the client (see [`exit`]).
    pub exit: u8,
    /// For people: what happened, or what failed and what to do.
    pub message: String,
    /// The upgrade, when the order was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Exit codes (sysexits(3) where there is one).
pub mod exit {
    /// Done, or already so.
    pub const OK: u8 = 0;
    /// Tried and failed; the previous generation serves.
    pub const FAILED: u8 = 1;
    /// The command line makes no sense.
    pub const USAGE: u8 = 64;
    /// Nothing is running.
    pub const UNAVAILABLE: u8 = 69;
    /// Refused now.
    pub const REFUSED: u8 = 75;
    /// The two versions cannot talk: this step needs a restart.
    pub const PROTOCOL: u8 = 76;
    /// Not allowed.
    pub const DENIED: u8 = 77;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 78;
}
