//! The daemon: the library's first user. It serves a directory, or a welcome page.

use std::process::ExitCode;

fn main() -> ExitCode {
    handover::daemon().run()
}
