//! The pure core: no runtime, no files, no clock, no logging.

pub mod link;
pub mod message;
