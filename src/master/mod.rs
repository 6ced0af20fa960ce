//! The master: owns the listeners, supervises workers, replaces its own program.

mod replace;
pub mod store;
