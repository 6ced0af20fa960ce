//! What can go wrong with one request or one connection.

use std::fmt;
use std::io;
use std::time::Duration;

/// The kinds of failure. Each one is a broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nobody listened.
    Refused,
    /// RST, or a write into a closed connection, with a request under way.
    Reset,
    /// The connection ended before the answer did.
    Eof,
    /// The connection was closed (or reset) while no request was under way, unannounced.
    DroppedIdle,
    /// No full answer in time.
    Timeout,
    /// A pipelined request behind an answer that said `Connection: close`. RFC 9112 9.3.2 lets a
    /// client send it again; this one does not.
    AfterClose,
    /// Not the expected status.
    BadStatus,
    /// Not HTTP/1.1, or a body whose end cannot be known.
    BadFraming,
    /// Not the expected body.
    BadBody,
    /// The answer to another request: wrong order or somebody else's.
    WrongIdentity,
    /// Bytes that nobody asked for.
    Unsolicited,
    /// Any other error of the socket.
    Io,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Eof => "eof before a full answer",
            Self::DroppedIdle => "dropped while idle",
            Self::Timeout => "timeout",
            Self::AfterClose => "unanswered behind a polite close",
            Self::BadStatus => "bad status",
            Self::BadFraming => "bad framing",
            Self::BadBody => "bad body",
            Self::WrongIdentity => "wrong identity",
            Self::Unsolicited => "unsolicited bytes",
            Self::Io => "i/o error",
        })
    }
}

/// A kind with its details, before it is known when and where it happened.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Kind,
    pub detail: String,
}

impl Fault {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }

    /// An error of a connection that has a request under way.
    pub fn io(error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Kind::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Kind::Reset,
            _ => Kind::Io,
        };
        Self::new(kind, error.to_string())
    }
}

/// One failure, with what a person needs to find its cause.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What.
    pub kind: Kind,
    /// More about it.
    pub detail: String,
    /// Since the load began.
    pub at: Duration,
    /// The phase (see `Running::mark`).
    pub phase: String,
    /// The load's label.
    pub label: String,
    /// The client's slot, 0 and up.
    pub client: usize,
    /// How many connections this client had opened.
    pub connection: u64,
    /// Our end's address, to find it in a packet capture.
    pub local: String,
    /// Requests sent on this connection, this one included.
    pub request: u64,
    /// What was asked.
    pub asked: String,
    /// Bytes of this request that were sent.
    pub sent: u64,
    /// Bytes of the answer that were seen.
    pub seen: u64,
    /// Who answered last on this connection.
    pub last_server: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>9.3?} [{}] {} client {} connection {} ({}) request {} {:?}: {}; {} bytes sent, {} bytes of the answer seen",
            self.at,
            self.phase,
            self.label,
            self.client,
            self.connection,
            self.local,
            self.request,
            self.asked,
            self.kind,
            self.sent,
            self.seen,
        )?;
        if !self.detail.is_empty() {
            write!(f, "; {}", self.detail)?;
        }
        if !self.last_server.is_empty() {
            write!(f, "; last answer from {}", self.last_server)?;
        }
        Ok(())
    }
}
