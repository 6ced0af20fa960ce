//! The kit is tested too: a test tool that cannot fail proves nothing.

mod kit;

#[path = "kit_self/client.rs"]
mod client;
