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

use std::path::Path;

#[doc(hidden)]
pub mod api;
#[doc(hidden)]
pub mod cli;
pub mod config;
mod content;
mod context;
#[doc(hidden)]
pub mod host;
mod keeper;
#[doc(hidden)]
pub mod machine;
#[doc(hidden)]
pub mod master;
mod service;
#[doc(hidden)]
pub mod site;
mod supervisor;
#[doc(hidden)]
pub mod sys;
pub mod testing;
#[doc(hidden)]
pub mod worker;

pub use axum;
pub use clap;
pub use context::{Context, Drain, DrainReason, Peer, UnixPeer};
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

/// The daemon as a service: a directory over HTTP, or a welcome page when there is none.
pub fn daemon() -> Service {
    Service::new("handover")
        .about("Serves a directory over HTTP and replaces its own running program")
        .worker_per_core()
        .serves_a_site()
        .every_listener("http", "127.0.0.1:8080", |cx: Context| async move {
            let hosted = cx.kept::<config::Hosted>();
            let beside = hosted.as_ref().map(|hosted| &*hosted.release);
            let site = site_of(&cx, beside)?;
            let (Some(app), Some(hosted), Some(owners)) =
                (cx.settings().app.clone(), hosted, cx.kept())
            else {
                return Ok(site::router(&site));
            };
            let front = host::router(&host::FrontContext {
                app,
                upstreams: hosted.upstreams,
                tally: cx.kept().unwrap_or_default(),
                silent: cx.kept().unwrap_or_default(),
                owners,
            });
            Ok::<_, BoxError>(match &cx.settings().site.at {
                Some(_) => site::beside(front, &site),
                None => front,
            })
        })
}

/// The site; beside an application its relative root is in the `release`.
fn site_of(cx: &Context, release: Option<&Path>) -> Result<site::SiteContext, BoxError> {
    let site = &cx.settings().site;
    let mut root = site.root.clone();
    let mut of_release = None;
    if let (Some(root), Some(release), Some(_)) = (&mut root, release, &site.at) {
        // An absolute one is the same for all releases.
        of_release = root.is_relative().then(|| release.to_owned());
        *root = release.join(&*root);
        // Looked at before the workers are ready: a release without it is refused. With a dot at its end:
        // that takes the permission that serving its files takes.
        std::fs::metadata(root.join("."))
            .map_err(|e| format!("`site.root`: cannot serve {}: {e}", root.display()))?;
    }
    Ok(site::SiteContext {
        root,
        at: site.at.clone().unwrap_or_default(),
        release: of_release,
        name: cx.name().into(),
        version: cx.version().into(),
        generation: cx.generation(),
        server_header: site.server_header,
    })
}
