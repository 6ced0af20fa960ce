//! An application with a package of its own; what makes its upgrades hot is in `Cargo.toml`.

use std::process::ExitCode;

use axum::{Router, routing::get};

fn main() -> ExitCode {
    let app = Router::new().route("/", get(|| async { "hello\n" }));
    handover::Service::new("greeter")
        .version(VERSION)
        .http("http", "127.0.0.1:8080", app)
        .run()
}

/// The tests build several versions of the same source.
const VERSION: &str = match option_env!("HANDOVER_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
