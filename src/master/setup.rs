//! What a master is made of, and why it could not begin.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use super::inheritance::InheritanceError;
use super::store::StoreError;
use crate::api::exit;
use crate::config::{ConfigError, Sources};
use crate::sys::image::ImageError;
use crate::sys::inherited::PassedListener;
use crate::sys::listeners::ListenError;
use crate::sys::notify::Notifier;

/// What a master is made of. The caller has read the command line and the environment.
#[derive(Debug)]
pub struct Setup {
    /// The service's name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The program as executed (a successor's comes with the inheritance).
    pub program: PathBuf,
    /// Our arguments, for a successor.
    pub args: Vec<OsString>,
    /// A pre-flight's arguments.
    pub check: Vec<OsString>,
    /// Where we were started.
    pub cwd: PathBuf,
    /// The runtime directory; it exists.
    pub runtime: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// Where the configuration comes from.
    pub sources: Sources,
    /// The way to systemd.
    pub notify: Option<Notifier>,
    /// How often its watchdog must be fed.
    pub watchdog: Option<Duration>,
    /// What systemd passed.
    pub passed: Vec<PassedListener>,
    /// The unit's revision.
    pub unit_rev: Option<String>,
    /// Who started us.
    pub origin: Origin,
}

/// Who started this master.
#[derive(Debug)]
pub enum Origin {
    /// Nobody of ours, or the keeper behind this pipe.
    First(Option<OwnedFd>),
    /// A predecessor behind this channel.
    Predecessor(OwnedFd),
}

/// Why a master could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot use the configuration that this build ran with before: {0}")]
    Previous(serde_json::Error),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Inheritance(#[from] InheritanceError),
    #[error(transparent)]
    Image(Box<ImageError>),
    #[error(transparent)]
    Store(Box<StoreError>),
    #[error("cannot {what}: {source}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
    #[error(
        "{name} runs already: process {pid} answers on {}; `stop` it first, or choose another \
         --name",
        socket.display()
    )]
    Runs {
        name: String,
        /// Who answers; 0 when it cannot be known.
        pid: u32,
        socket: PathBuf,
    },
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<ImageError> for StartError {
    fn from(error: ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

impl StartError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> u8 {
        match self {
            // Started again it would end the same way: the operator must do something.
            Self::Config(_) | Self::Previous(_) | Self::Listen(ListenError::NoAddress { .. }) => {
                exit::CONFIG
            }
            Self::Inheritance(InheritanceError::Protocol(_)) => exit::PROTOCOL,
            Self::Runs { .. } => exit::REFUSED,
            _ => exit::FAILED,
        }
    }
}
