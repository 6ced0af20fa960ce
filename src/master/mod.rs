//! A master: owns the listeners, supervises workers, answers the operator.

pub mod control;
