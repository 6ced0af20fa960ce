//! A master: owns the listeners, supervises workers, answers the operator, replaces its own
//! program.

pub mod control;
pub mod history;
mod replace;
pub mod store;
