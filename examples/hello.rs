//! An axum application that can be upgraded while it serves: `cargo run --example hello`, then
//! build it anew and say `target/debug/examples/hello upgrade`.

use std::process::ExitCode;

use axum::{Router, routing::get};

fn main() -> ExitCode {
    let app = Router::new().route("/", get(|| async { "hello\n" }));
    handover::Service::new("hello")
        .version(env!("CARGO_PKG_VERSION"))
        .http("http", "127.0.0.1:8080", app)
        .run()
}
