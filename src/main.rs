//! The daemon: the library's first user. It serves a directory, or a welcome page.

use std::process::ExitCode;

/// The package's, or what the builder says. The library does not know it, so that another version is
/// made by linking it again.
const VERSION: &str = match option_env!("HANDOVER_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

fn main() -> ExitCode {
    handover::daemon().version(VERSION).run()
}
