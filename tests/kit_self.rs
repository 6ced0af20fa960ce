//! The kit is tested too: a test tool that cannot fail proves nothing.
#![allow(
    clippy::disallowed_methods,
    reason = "servers that misbehave on purpose: slow, deaf, gone without a word"
)]

mod kit;

#[path = "kit_self/client.rs"]
mod client;
#[path = "kit_self/manager.rs"]
mod manager;
#[path = "kit_self/puppet.rs"]
mod puppet;
#[path = "kit_self/service.rs"]
mod service;
