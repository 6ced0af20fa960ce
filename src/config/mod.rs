//! The configuration as values: what [`Service::defaults`](crate::Service::defaults) sets, what a file may
//! change, and what [`Context::settings`](crate::Context::settings) shows.
//
// `Sources` says where they come from and loads them; every error shows the line. A master keeps its
// `Sources`, so that a reload reads the same again.

mod address;
mod app;
mod application;
mod certificate;
mod env_file;
mod error;
mod hosting;
mod load;
mod merge;
mod network;
#[cfg(feature = "tls")]
mod ocsp;
mod place;
mod secret;
mod size;
#[cfg(test)]
mod tests;
mod tls;
mod validate;
mod words;
#[cfg(feature = "tls")]
mod x509;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
mod x509;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::address::{Address, AddressError};
pub use self::app::{App, Listens, Parked};
pub use self::application::Application;
pub use self::network::{Network, NetworkError};
pub use self::size::{Size, SizeError};
pub use self::tls::{CertificateFiles, Tls, TlsVersion};
pub use self::words::WorkersError;

// Of those who read the files, not of those who set a default.
#[doc(hidden)]
pub use self::{
    app::{Hosted, Upstream},
    application::Reader,
    certificate::CertificateError,
    env_file::{EnvFileError, read_env_file, read_small},
    error::{ConfigError, Problem},
    hosting::release_fault,
    load::{Loaded, Overrides, Room, Sources},
    place::{Place, Where},
    secret::SecretBytes,
    tls::{Fault, Identities, Identity, Staple},
};

/// Everything a generation runs with. Serialises to TOML and JSON and back without loss:
/// workers get it from their master, never from disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The service's name.
    pub name: String,
    /// Worker processes.
    pub workers: Workers,
    /// Threads a worker; 1 is a current-thread runtime.
    pub threads: usize,
    /// What to listen on.
    #[serde(rename = "listener")]
    pub listeners: Vec<ListenerConfig>,
    /// The daemon's site.
    pub site: Site,
    /// The application that it hosts instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<App>,
    /// HTTP limits.
    pub http: Http,
    /// TLS: certificates and what is asked of clients.
    pub tls: Tls,
    /// Upgrades.
    pub upgrade: Upgrade,
    /// Draining.
    pub drain: Drain,
    /// Logging.
    pub log: Log,
    /// The control socket.
    pub control: Control,
    /// Prometheus.
    pub metrics: Metrics,
    /// The application's own part.
    #[serde(skip_serializing_if = "Application::is_empty")]
    pub application: Application,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "handover".into(),
            workers: Workers::Auto,
            threads: 1,
            listeners: Vec::new(),
            site: Site::default(),
            app: None,
            http: Http::default(),
            tls: Tls::default(),
            upgrade: Upgrade::default(),
            drain: Drain::default(),
            log: Log::default(),
            control: Control::default(),
            metrics: Metrics::default(),
            application: Application::default(),
        }
    }
}

/// How many worker processes. In a file `"auto"` or a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Workers {
    /// One a core.
    #[default]
    Auto,
    /// Exactly so many, at least one.
    Count(u16),
}

impl Workers {
    /// How many that is here.
    #[must_use]
    pub fn count(self) -> u16 {
        match self {
            Self::Count(n) => n.max(1),
            Self::Auto => std::thread::available_parallelism()
                .map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX)),
        }
    }
}

/// A listening socket by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// systemd's FDNAME.
    pub name: String,
    /// `host:port`, `[v6]:port` or `unix:/path`; `None`: a `.socket` unit passes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// listen(2)'s backlog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// Permissions of a Unix socket, octal in a string ("0660").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Group of a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether it speaks TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// Whether trusted proxies begin with the PROXY protocol's header.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy_protocol: bool,
    /// Sends every request elsewhere instead of answering it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
}

impl Config {
    /// Whether it says the same, whatever is in the files of `[tls]`.
    fn is_as(&self, other: &Self) -> bool {
        let without = |config: &Self| {
            let mut config = config.clone();
            config.tls.identities = None;
            config
        };
        without(self) == without(other)
    }

    /// The port where clients find us over TLS: 443 if a listener that speaks it is there, else the one of
    /// the first of them. `None`: their addresses say none.
    #[must_use]
    pub fn https_port(&self) -> Option<u16> {
        let port = |listener: &ListenerConfig| match listener.address.as_deref()?.parse().ok()? {
            Address::Tcp(address) => Some(address.port()),
            Address::Host { port, .. } => Some(port),
            Address::Udp(_) | Address::Unix(_) | Address::Abstract(_) => None,
        };
        let speaking = self.listeners.iter().filter(|listener| listener.tls);
        let ports: Vec<u16> = speaking
            .filter_map(port)
            .filter(|port| *port != 0)
            .collect();
        let https = ports.iter().find(|port| **port == 443);
        https.or(ports.first()).copied()
    }
}

/// Where a listener sends all its requests. In a file `"https"` or `"https:PORT"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Redirect {
    /// To the same address over TLS.
    Https {
        /// Where clients find it; `None`: at [`Config::https_port`].
        port: Option<u16>,
    },
}

impl TryFrom<String> for Redirect {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let port = match text.strip_prefix("https") {
            Some("") => Some(None),
            Some(rest) => rest
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|port| *port != 0)
                .map(Some),
            None => None,
        };
        let port = port.ok_or("expected \"https\" or \"https:PORT\"")?;
        Ok(Self::Https { port })
    }
}

impl From<Redirect> for String {
    fn from(Redirect::Https { port }: Redirect) -> Self {
        port.map_or_else(|| "https".into(), |port| format!("https:{port}"))
    }
}

impl ListenerConfig {
    /// One that has only a name and, perhaps, an address.
    #[must_use]
    pub fn new(name: &str, address: Option<&str>) -> Self {
        Self {
            name: name.into(),
            address: address.map(Into::into),
            backlog: None,
            mode: None,
            group: None,
            tls: false,
            proxy_protocol: false,
            redirect: None,
        }
    }
}

/// The daemon's site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// The directory; `None` serves the built-in welcome page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Beside `[app]`: the paths that are the site's, all others are the application's. A relative
    /// `root` is in the release then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Whether answers carry `Server: handover/<version>`.
    pub server_header: bool,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            root: None,
            at: None,
            server_header: true,
        }
    }
}

/// HTTP limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// For the head of a request to arrive.
    #[serde(with = "words")]
    pub header_timeout: Duration,
    /// Between two pieces of a request's body.
    #[serde(with = "words")]
    pub body_timeout: Duration,
    /// Between two pieces of an answer that the client takes.
    #[serde(with = "words")]
    pub send_timeout: Duration,
    /// For an idle connection.
    #[serde(with = "words")]
    pub keepalive_timeout: Duration,
    /// A worker; 0: what the fd limit allows.
    pub max_connections: u64,
    /// Whether HTTP/2 is spoken with clients that begin with it (feature `http2`).
    pub http2: bool,
    /// Requests at a time on one HTTP/2 connection.
    pub max_streams: u32,
    /// Proxies before us, which are believed when they say who the client is: by the PROXY protocol, by
    /// `X-Forwarded-*` or `Forwarded`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Network>,
}

/// Upgrades.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upgrade {
    /// Pre-flight and readiness.
    #[serde(with = "words")]
    pub start_timeout: Duration,
    /// How long the predecessor stays parked; zero commits at once.
    #[serde(with = "words")]
    pub probation: Duration,
    /// A path asked before the takeover and during probation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
}

/// Draining.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// What cannot be passed on; zero: no limit.
    #[serde(with = "words")]
    pub timeout: Duration,
    /// When the service stops.
    #[serde(with = "words")]
    pub stop_timeout: Duration,
    /// Whether idle connections go to the owning generation.
    pub pass_connections: bool,
    /// How many generations may drain beside the one that serves.
    pub generations: u16,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// `off`, or a path.
    pub access: String,
}

/// The control socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Members may give orders; empty: only root (and the same user where there is no systemd).
    pub group: String,
}

/// Prometheus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Empty: only on the control socket.
    pub address: String,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(75),
            max_connections: 0,
            http2: cfg!(feature = "http2"),
            max_streams: 128,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            start_timeout: Duration::from_secs(30),
            probation: Duration::from_secs(60),
            health: None,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            stop_timeout: Duration::from_secs(8),
            pass_connections: true,
            generations: 8,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            access: "off".into(),
        }
    }
}
