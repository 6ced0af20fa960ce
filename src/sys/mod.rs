//! The operating system, wrapped: everything here owns its descriptors.

pub mod channel;
pub mod process;
#[expect(
    unsafe_code,
    reason = "posix_spawn, inherited descriptor numbers and signal dispositions have no safe form; \
              nowhere else in the crate is unsafe allowed"
)]
pub mod spawn;
