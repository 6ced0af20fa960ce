//! The operating system, wrapped: everything here owns its descriptors.

pub mod address;
pub mod board;
pub mod channel;
pub mod handoff;
#[cfg(test)]
pub(crate) mod helper;
pub mod image;
pub mod inherited;
pub mod journal;
pub mod kept;
#[expect(
    unsafe_code,
    reason = "posix_spawn, inherited descriptor numbers and signal dispositions have no safe form; \
              nowhere else in the crate is unsafe allowed"
)]
pub mod kernel;
pub mod link;
pub mod listeners;
pub mod memory;
pub mod notify;
pub mod once;
pub mod process;
pub mod release;
pub mod runtime;
pub mod secrets;
pub mod signals;
pub mod spawn;
pub mod unit;
mod unix_path;
pub mod walk;
