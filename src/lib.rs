//! Hot upgrades of network services: no request fails, and one command goes back.
//!
#![doc = include_str!("../docs/authors.md")]
//
// That page is for authors of applications. For who works on this crate:
//
// # Where the bytes go
//
// ```text
//   clients                operator            systemd, or the keeper
//      |                      | orders            ^ READY, MAINPID, STATUS, descriptors
//      |                      v                   |
//      |      +------------------------------------------+   channel    +---------------------+
//      |      | master g1: listeners, workers, decisions |<------------>| master g2 (upgrade) |
//      |      +------------------------------------------+  messages,   +---------------------+
//      |          | listeners  ^ reports                    listeners        | listeners
//      |          v            |                                             v
//      |      +----------------------+      connections passed on      +------------+
//      +----->| workers g1: requests |-------------------------------->| workers g2 |
//             +----------------------+        while g1 drains          +------------+
// ```
//
// No request goes through a master. A master opens and keeps every listening socket, so what waits
// in its queue outlives each worker; both masters hold them during an upgrade.
//
// # Layers
//
// A folder is a layer, and imports point one way (`tests/layers.rs` holds them to it and says why):
//
// ```text
// api, config  <-  machine  <-  sys  <-  master, worker, keeper, cli  <-  service  <-  the daemon
// ```
//
// `machine` decides and does nothing: no clock, no files, no runtime. `sys` is the operating
// system, and the only place of unsafe code. `master` and `worker` carry out and know each other
// only by messages. `site`, what the daemon serves, is an application like any other and knows
// nothing of upgrades.
#![deny(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::pedantic)]
#![expect(
    clippy::module_name_repetitions,
    reason = "the name of a file and of what it owns are often the same"
)]

// The integration tests' workers and clients serve the worker's own tests, too.
#[cfg(test)]
extern crate self as handover;

#[doc(hidden)]
pub mod api;
#[doc(hidden)]
pub mod cli;
pub mod config;
#[cfg_attr(
    not(feature = "daemon"),
    expect(dead_code, reason = "the site alone makes it")
)]
mod content;
mod context;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod host;
mod keeper;
#[doc(hidden)]
pub mod machine;
#[doc(hidden)]
pub mod master;
#[cfg(feature = "daemon")]
mod program;
mod service;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod site;
#[cfg(feature = "daemon")]
mod supervisor;
#[doc(hidden)]
pub mod sys;
pub mod testing;
#[doc(hidden)]
pub mod worker;

pub use axum;
pub use clap;
pub use context::{Context, Drain, DrainReason, Peer, UnixPeer};
#[cfg(feature = "daemon")]
pub use program::daemon;
#[cfg(feature = "tls")]
pub use service::TlsInfo;
pub use service::{App, BoxError, Log, Service};
pub use worker::raw::Socket;
pub use worker::state::StateError;

/// `WebSocket`s that live through upgrades and rollbacks: at a drain a session is stopped between two
/// messages, and goes with what its application says about it to the generation that owns the
/// service. Its client notices nothing.
///
/// ```
/// use axum::{Router, response::Response, routing::get};
/// use handover::{BoxError, Context, ws::{Event, Resumed, Upgrade, WebSocket}};
///
/// async fn app(cx: Context) -> Result<Router, BoxError> {
///     cx.resume("count", async |session: Resumed| {
///         let Ok(count) = session.blob.try_into() else { return };
///         talk(u64::from_be_bytes(count), session.socket).await;
///     });
///     let begin = async |upgrade: Upgrade| -> Response {
///         upgrade.accept(|socket| talk(0, socket))
///     };
///     Ok(Router::new().route("/count", get(begin)))
/// }
///
/// /// Numbers the messages of each client, however often the program is replaced meanwhile.
/// async fn talk(mut count: u64, mut socket: WebSocket) {
///     loop {
///         match socket.next().await {
///             Event::Message(_) => {
///                 count += 1;
///                 if socket.send(count.to_string()).await.is_err() {
///                     return;
///                 }
///             }
///             Event::Drain => return socket.pass_on("count", count.to_be_bytes()).await,
///             _ => return,
///         }
///     }
/// }
/// ```
#[cfg(feature = "ws")]
pub mod ws {
    pub use crate::worker::ws::{Closed, Event, Message, Resumed, Upgrade, WebSocket};
}
