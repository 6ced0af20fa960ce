//! The front of a hosted application: our workers keep the clients, and speak HTTP/1.1 to the
//! application over a socket that nobody else knows. It is an application of the worker like any
//! other (a [`Router`]); it knows nothing of upgrades, but where a request may go that it could not give to
//! its application.
//!
//! ```text
//! client ─▶ worker ─▶ fields ─▶ front ─▶ pool ─▶ the application's socket
//!             ▲                   │ body        (one of several instances)
//!             └──── fields ◀──────┘ answer, streamed
//! ```
//!
//! One upstream and no rules: what wants rules uses a proxy.

mod bodies;
mod fields;
mod front;
mod link;
mod owners;
mod pool;
mod refusal;
mod stream;
#[cfg(test)]
mod tests;
mod tunnel;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;

use crate::config::{App, Upstream};
use crate::worker::{OwnersApplication, SilentInstances, Tally};

/// What a front is made from.
#[derive(Debug, Clone)]
pub struct FrontContext {
    /// The configuration of the application.
    pub app: App,
    /// Where its instances listen.
    pub upstreams: Vec<Upstream>,
    /// Counts what it does not answer.
    pub tally: Arc<Tally>,
    /// Which of them do not answer now.
    pub silent: Arc<SilentInstances>,
    /// Where the application of the service's owner listens, in a worker that drains: what this one
    /// was not given may go there.
    pub owners: Arc<OwnersApplication>,
}

/// The front.
pub fn router(cx: &FrontContext) -> Router {
    let front = Arc::new(front::Front::new(cx));
    Router::new().fallback_service(tower::service_fn(move |request| {
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(front::answer(front, request).await) }
    }))
}
