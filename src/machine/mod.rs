//! The pure core: no runtime, no files, no clock, no logging. What happens is an argument, what to
//! do is the answer.

#![expect(
    clippy::unnested_or_patterns,
    reason = "`dealt_with!` is a pattern of its own, and the others beside it are named"
)]

mod action;
pub mod budget;
mod crowd;
mod event;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod explore;
pub mod hosting;
mod leaving;
pub mod link;
mod master;
pub mod message;
mod owner;
mod parked;
mod phase;
pub mod pool;
mod questions;
mod successor;
pub mod tickets;
mod timing;
pub mod trial;
mod waiting;
mod whole;

pub use action::{Action, Note, Verdict, Who};
pub use event::{Event, Failure, FromPredecessor, FromSuccessor, Order, OrderKind, Signal};
pub use master::Machine;
pub use phase::Phase;
pub use timing::{Timer, Timing};
