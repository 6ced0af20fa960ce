//! HTTP/2, with prior knowledge (h2c) or over TLS, spoken by an unmodified `h2` under hyper.
//!
//! What `h2` knows of a connection nobody can take out of it. But all of it comes from frames, and those
//! can be seen from outside. So a *ledger* of what crossed the wire goes along with every connection,
//! and a *mirror* of the client's header table. Between two streams that is all there is: a worker
//! passes the socket on with it, and another one tells its own `h2` a shorter story with the same end.
//!
//! ```text
//! socket ─▶ wire ─▶ inward ─▶ h2, hyper          frames: heads, a walk along them
//!              ◀─ outward ◀─                     ledger, mirror: what is known
//!                 (shim)                         blob: to and from another worker
//! ```
//!
//! What cannot move gets a GOAWAY, in two phases (RFC 9113, 6.8): that ends a connection without losing a
//! stream.

mod arrive;
mod blob;
mod check;
mod driver;
mod frames;
#[cfg(fuzzing)]
pub(super) mod fuzz;
mod inward;
mod leave;
mod ledger;
mod mirror;
mod outward;
mod settings;
mod shim;
pub(super) mod streams;
mod wire;

use std::time::Duration;

pub(super) use self::blob::Blob;
pub(super) use self::check::can_move;
pub(super) use self::driver::serve;
pub(super) use self::settings::{Builder, builder};
/// How long a client gets to end a connection without streams after our GOAWAY.
const GOODBYE: Duration = Duration::from_secs(5);

/// How often a client is asked whether it is still there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The header list of one request, as it counts in HTTP/2 (RFC 9113, 6.5.2).
const HEADERS_MAX: u32 = 32 * 1024;

/// Requests that a client has reset before they were answered end its connection when they are so
/// many, and more than half of all (rapid reset, CVE-2023-44487). A client that changes its mind
/// often loses nothing: it gets a GOAWAY.
const RESETS_MAX: u32 = 1000;
