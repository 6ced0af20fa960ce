//! The library as its users have it: applications in `handover::testing`, with nothing played but
//! the masters.

mod client;
mod draining;
mod leader;
mod own;
mod prepare;
mod raw;
mod sessions;
mod state;
mod streams;
