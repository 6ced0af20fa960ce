//! The master: owns the listeners, supervises workers, replaces its own program.

pub mod history;
mod replace;
pub mod store;
