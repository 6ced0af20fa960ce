//! What can be wrong with a configuration, as data; each message is for a person at the file.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::address::AddressError;
use super::certificate::CertificateError;
use super::env_file::EnvFileError;
use super::place::{Excerpt, Where};
use super::size::Size;

/// Why there is no configuration. Displays with the file, the line and carets under what is meant,
/// over several lines.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A device, a pipe, a directory.
    #[error("{} is not a regular file, so that a reload could not read it again", .0.display())]
    NotAFile(PathBuf),
    /// Larger than any configuration.
    #[error("{} is larger than {} KiB", .path.display(), .limit / 1024)]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// In bytes.
        limit: u64,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{at}: {message}{}", Excerpt(.at))]
    Syntax {
        /// Where.
        at: Where,
        /// What was expected and what was found.
        message: String,
    },
    /// A file of `[tls]` that cannot be used; its whole text.
    #[error("{0}")]
    Certificate(String),
    /// A value that cannot be.
    #[error("{at}: `{key}`: {problem}{}", Excerpt(.at))]
    Invalid {
        /// Where it stands.
        at: Where,
        /// Its key, with dots: `upgrade.probation`.
        key: String,
        /// What is wrong with it.
        problem: Problem,
    },
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A service's name is part of file and unit names.
    #[error(
        "{0:?} cannot be the name of a service: 1 to {NAME_MAX} of the ASCII letters and digits, `-`, `_`, `.`, `@`, and not `-` or `.` first"
    )]
    Name(String),
    /// systemd would refuse the FDNAME.
    #[error(
        "{0:?} cannot be the name of a listener: 1 to {FDNAME_MAX} printable ASCII characters, no `:`, and not `own.` first"
    )]
    ListenerName(String),
    /// Not an address.
    #[error("{0:?} {1}")]
    Address(String, AddressError),
    /// Two entries mean one socket.
    #[error("{address} is listened on twice (listeners {first:?} and {second:?})")]
    DuplicateAddress {
        /// Which.
        address: String,
        /// The listener that has it first.
        first: String,
        /// The one that wants it again.
        second: String,
    },
    /// Two entries of one name, and no address says how they differ.
    #[error(
        "there are two listeners {0:?} without an address: one entry stands for all that the socket unit passes"
    )]
    DuplicateName(String),
    /// Only Unix sockets that are files have permissions.
    #[error("only a listener with a `unix:` path has one")]
    NotAUnixSocket,
    /// Not permission bits.
    #[error("{0:?} is not a mode: write it in octal, as in \"0660\"")]
    Mode(String),
    /// No group has such a name.
    #[error("{0:?} cannot be the name of a group")]
    Group(String),
    /// There is no such group.
    #[error("there is no group {0:?}; make it (`groupadd --system {0}`), or choose another one")]
    NoSuchGroup(String),
    /// A number out of range.
    #[error("{found} is out of range: {least} to {most}")]
    Number {
        /// What is there.
        found: u64,
        /// The least that can be.
        least: u64,
        /// The most that can be.
        most: u64,
    },
    /// A duration out of range.
    #[error("{} is out of range: {} to {}", words(*.found), words(*.least), words(*.most))]
    Time {
        /// What is there.
        found: Duration,
        /// The least that can be.
        least: Duration,
        /// The most that can be.
        most: Duration,
    },
    /// A path of the site is asked for.
    #[error(
        "{0:?} is not a path to ask for: it starts with `/` and has neither spaces nor control characters"
    )]
    Health(String),
    /// tracing's levels.
    #[error("{0:?} is not a level: error, warn, info, debug or trace")]
    Level(String),
    /// The access log.
    #[error("{0:?} is neither \"off\" nor a path")]
    Access(String),
    /// The access log's file.
    #[error("cannot write {}: {why}", .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The site's directory.
    #[error("cannot serve {}: {}", .path.display(), reason(*.why))]
    Root {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: io::ErrorKind,
    },
    /// `root = ""`.
    #[error("is empty: name a directory, or leave `root` out")]
    NoRoot,
    /// More listeners than a start by systemd survives.
    #[error(
        "{found} listeners are more than systemd passes to a service that it starts again \
         ({most}): the next start would fail with status 202/FDS"
    )]
    TooManyForSystemd {
        /// How many there are.
        found: u64,
        /// How many there can be.
        most: u64,
    },
    /// More listeners than a process can open.
    #[error(
        "{found} {} {needed} open files, and a process may have {files} (raise \
         LimitNOFILE= of the unit, or `ulimit -Hn`)",
        if *found == 1 { "listener needs" } else { "listeners need" }
    )]
    TooManyForFiles {
        /// How many there are.
        found: u64,
        /// The open files that a master needs.
        needed: u64,
        /// The limit.
        files: u64,
    },
    /// `[app]` without the release.
    #[error("the directory of the application is missing, or a link to it")]
    NoDirectory,
    /// The release.
    #[error("cannot start an application in {}: {}", .path.display(), reason(*.why))]
    Release {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: io::ErrorKind,
    },
    /// `[app]` without a program.
    #[error("the command that starts the application is missing")]
    NoCommand,
    /// Nothing could start.
    #[error("{0} is out of range: {1} is the least")]
    Memory(Size, Size),
    /// Two places in one command, or one that is not where it is to listen.
    #[error("the command names {0}, and the application is to listen at {1}: one place alone")]
    TwoPlaces(&'static str, &'static str),
    /// Most likely mistyped.
    #[error(
        "the command names {0}, which nothing stands for: known are {{socket}}, {{port}} and {{fd}}"
    )]
    NoPlace(String),
    /// A program that is told nothing of its socket.
    #[error("the command does not name {{socket}}: nothing else tells the program where it is")]
    NoSocket,
    /// The site beside an application.
    #[error(
        "{0:?} is not a path for a site beside `[app]`: such as \"/static\", of letters, digits and -._~"
    )]
    SiteAt(String),
    /// A site of its own has every path.
    #[error("is for a site beside `[app]`, and needs both `[app]` and `root`")]
    SiteAtAlone,
    /// Nobody would be served from it.
    #[error(
        "beside `[app]` it needs `at`, such as \"/static\": without it the application has every path"
    )]
    SiteWithoutAt,
    /// A part of the release that is none.
    #[error("{:?} must be a directory within the release, such as \"static\", without `..`", .0)]
    SiteOutside(PathBuf),
    /// The program of an application.
    #[error("cannot start {}: {why}", .path.display())]
    Program {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file of variables.
    #[error("cannot use {}: {why}", .path.display())]
    EnvFile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: EnvFileError,
    },
    /// No signal has such a name.
    #[error("{0:?} is not a signal: TERM, INT, QUIT, HUP, USR1, USR2, WINCH")]
    Signal(String),
    /// A feature of the crate is not compiled in.
    #[error("this program is built without {what} (handover's feature `{feature}`)")]
    NotBuilt {
        /// In an operator's words.
        what: &'static str,
        /// Its name.
        feature: &'static str,
    },
    /// What `[tls]` names.
    #[error(transparent)]
    Tls(CertificateError),
    /// A path begins with `$CREDENTIALS_DIRECTORY`, and nobody says where that is.
    #[error(
        "there is no $CREDENTIALS_DIRECTORY: the unit has no `LoadCredential=`, or its service does not run \
         (systemd puts them there when it starts)"
    )]
    NoCredentials,
    /// Both keys of a listener.
    #[error("a listener that speaks TLS cannot redirect to https")]
    RedirectOfTls,
    /// Nowhere to go.
    #[error("there is no listener with `tls = true` to redirect to")]
    NoTlsListener,
    /// One application cannot be told apart from itself.
    #[error(
        "the listeners called {0:?} must agree in `tls`, `proxy_protocol` and `redirect`: give one another name"
    )]
    TwoKinds(String),
    /// Datagrams.
    #[error("TLS needs a stream: TCP or a Unix socket")]
    TlsOverUdp,
    /// Datagrams.
    #[error("the PROXY protocol needs a stream: TCP or a Unix socket")]
    ProxyProtocolOverUdp,
    /// Everybody could say to be anybody.
    #[error("`[http] trusted_proxies` is empty: name those who may say who the client is")]
    NoTrustedProxy,
    /// A path that a message between processes could not carry.
    #[error("{} is not UTF-8", .0.display())]
    NotUtf8(PathBuf),
}

fn words(d: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(d)
}

fn reason(why: io::ErrorKind) -> String {
    match why {
        io::ErrorKind::NotFound => "there is no such directory".into(),
        why => why.to_string(),
    }
}

/// Leaves room in unix(7)'s 107 bytes for `/run/user/UID/NAME/control.sock`.
pub(super) const NAME_MAX: usize = 64;

/// systemd's limit of 255, less the `own.` that marks our sockets in its fd store.
pub(super) const FDNAME_MAX: usize = 251;
