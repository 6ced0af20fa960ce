//! What the integration tests and the benches share: a client that forgives nothing, a fake
//! service manager, the service under test in a directory of its own, an application to ask.
//!
//! A test says `mod kit;`, a bench `#[path = "../tests/kit/mod.rs"] mod kit;`.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test uses the part of the kit that it needs"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::return_self_not_must_use,
    clippy::similar_names,
    clippy::struct_excessive_bools,
    reason = "a test kit panics on purpose and counts small numbers"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a client waits between requests and a poll for its next look; the peer that the \
              strict client is tried against is axum's own server"
)]

pub mod app;
pub mod build;
pub mod census;
pub mod client;
pub mod endurance;
pub mod example;
pub mod http_peer;
pub mod manager;
pub mod port;
pub mod proc;
pub mod queued;
pub mod relay;
pub mod service;
pub mod terminal;
pub mod tls;
pub mod wait;
