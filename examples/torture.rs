//! A user of the library for the tests: the kit's application, where every answer is known
//! beforehand and says which generation gave it.

use std::process::ExitCode;

use axum::Router;
use handover::{BoxError, Context};

#[path = "../tests/kit/app.rs"]
mod app;

fn main() -> ExitCode {
    let version = option_env!("HANDOVER_VERSION").unwrap_or(env!("CARGO_PKG_VERSION"));
    handover::Service::new("torture")
        .version(version)
        .about("Answers that can be checked to the last byte")
        .http("http", "127.0.0.1:8080", application)
        .run()
}

async fn application(cx: Context) -> Result<Router, BoxError> {
    Ok(app::router(app::Identity {
        server: format!("torture/{}", cx.version()),
        generation: cx.generation().to_string(),
    }))
}
