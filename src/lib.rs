//! Let a network service replace its own running program without failing one request.

#![deny(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::pedantic)]
#![expect(
    clippy::module_name_repetitions,
    clippy::missing_errors_doc,
    reason = "placeholder while the crate is being laid out"
)]

pub mod api;
pub mod cli;
pub mod config;
pub mod machine;
pub mod master;
pub mod site;
pub mod sys;
pub mod worker;
