//! The operating system, wrapped: everything here owns its descriptors.

pub mod board;
pub mod channel;
pub mod handoff;
