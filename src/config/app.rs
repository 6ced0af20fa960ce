//! `[app]`: a program of any language behind our workers.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{Size, hosting, words};

/// A hosted application: how it is started, when it is ready, and how its front treats it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct App {
    /// The release, or a link to it. It is started in the directory that the link resolves to.
    pub directory: PathBuf,
    /// The program and its arguments; `{socket}`, `{port}` or `{fd}` is where it has to listen.
    pub command: Vec<String>,
    /// Where it listens; `None`: where its command says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listens>,
    /// Files of `NAME=value` lines, read for every generation.
    pub env_files: Vec<PathBuf>,
    /// A path that answers below 500 once it can serve; `None`: `/` is answered, whatever with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// Paths that are asked once before it serves.
    pub warmup: Vec<String>,
    /// How many of them run; requests are dealt evenly.
    pub instances: u16,
    /// An instance that holds more is started again; `None`: the unit's limits are all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// What becomes of it while its master is parked.
    pub parked: Parked,
    /// So many releases stay beside the one that runs.
    pub keep: u16,
    /// What asks it to leave: a signal's name without `SIG`.
    pub stop_signal: String,
    /// How long it may take to leave before it is killed.
    #[serde(with = "words")]
    pub stop_timeout: Duration,
    /// How long a request waits for a connection, also while the application starts again.
    #[serde(with = "words")]
    pub connect_timeout: Duration,
    /// How long it waits for an answer to begin, after its body was taken.
    #[serde(with = "words")]
    pub answer_timeout: Duration,
    /// How long a body may stand still because of the application.
    #[serde(with = "words")]
    pub stall_timeout: Duration,
    /// How long a tunnel (a WebSocket) may carry nothing.
    #[serde(with = "words")]
    pub tunnel_timeout: Duration,
    /// How long an unused connection to the application is kept.
    #[serde(with = "words")]
    pub idle_timeout: Duration,
}

/// What becomes of an application while its master is parked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parked {
    /// It runs on: a rollback takes milliseconds.
    #[default]
    Running,
    /// It is stopped, and started again for a rollback.
    Stopped,
}

impl Default for App {
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            command: Vec::new(),
            listen: None,
            env_files: Vec::new(),
            ready: None,
            warmup: Vec::new(),
            instances: 1,
            memory: None,
            parked: Parked::default(),
            keep: 5,
            stop_signal: "TERM".into(),
            stop_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(600),
            tunnel_timeout: Duration::from_secs(3600),
            idle_timeout: Duration::from_secs(1),
        }
    }
}

/// Where the application listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listens {
    /// `{socket}`: on a Unix socket of this path.
    Socket,
    /// `{fd}`, or `LISTEN_FDS` in its environment: on the descriptor that it is given.
    Fd,
    /// `{port}`, or `PORT` in its environment: on this port of 127.0.0.1.
    Port,
}

impl Listens {
    /// All there are, with what stands for them in a command.
    pub(super) const ALL: [(Self, &str); 3] = [
        (Self::Socket, "{socket}"),
        (Self::Fd, "{fd}"),
        (Self::Port, "{port}"),
    ];
}

impl App {
    /// What asks it to leave.
    #[cfg_attr(not(feature = "daemon"), expect(dead_code, reason = "nobody is asked"))]
    #[must_use]
    pub(crate) fn stop_signal(&self) -> Signal {
        hosting::signal(&self.stop_signal).unwrap_or(Signal::SIGTERM)
    }

    /// Where it listens. A command that names no place finds a port in `PORT`.
    #[must_use]
    pub fn listens(&self) -> Listens {
        let named = self.named().next().map(|(listens, _)| listens);
        self.listen.or(named).unwrap_or(Listens::Port)
    }

    /// Whether a program that was started as `other` is what we would start. What only concerns its front, or
    /// when it is stopped or removed, asks for no new process.
    #[must_use]
    pub(crate) fn is_same_process(&self, other: &Self) -> bool {
        let process = |app: &Self| Self {
            warmup: Vec::new(),
            parked: Parked::default(),
            keep: 0,
            connect_timeout: Duration::ZERO,
            answer_timeout: Duration::ZERO,
            stall_timeout: Duration::ZERO,
            tunnel_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            ..app.clone()
        };
        process(self) == process(other)
    }

    /// The places that its command names.
    pub(super) fn named(&self) -> impl Iterator<Item = (Listens, &'static str)> {
        let names = |place: &str| self.command.iter().any(|word| word.contains(place));
        Listens::ALL
            .into_iter()
            .filter(move |(_, place)| names(place))
    }
}

/// A release that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosted {
    /// Its directory: no link to it.
    pub release: PathBuf,
    /// One an instance.
    pub upstreams: Vec<Upstream>,
}

/// Where one instance of an application listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upstream {
    /// On a Unix socket.
    Unix(PathBuf),
    /// On a port of 127.0.0.1.
    Port(u16),
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Port(port) => write!(f, "127.0.0.1:{port}"),
        }
    }
}
