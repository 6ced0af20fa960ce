//! What the tests share.

pub mod client;
pub mod worker;
