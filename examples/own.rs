//! A program that stays its author's own: arguments, a command, a part of the configuration file and
//! a health check that the next generation must pass before it serves.
//!
//! `own --loud`, `own greet Ann`, and in `/etc/own/own.toml`: `[application]`, `greeting = "hi"`.

use std::process::ExitCode;

use handover::axum::{Router, extract::Path, http::StatusCode, routing::get};
use handover::clap::{self, Args, Subcommand};
use handover::{BoxError, Context, Service};

#[derive(Args)]
struct Arguments {
    /// Greet in capitals
    #[arg(long)]
    loud: bool,
}

#[derive(Subcommand)]
enum Commands {
    /// Greet somebody without a service
    Greet { whom: String },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    greeting: Option<String>,
}

fn main() -> ExitCode {
    Service::new("own")
        .version(env!("CARGO_PKG_VERSION"))
        .arguments::<Arguments>()
        .commands(|Commands::Greet { whom }| {
            println!("hello {whom}");
            ExitCode::SUCCESS
        })
        .config::<Settings>()
        .defaults(|settings| settings.upgrade.health = Some("/healthz".into()))
        .http("http", "127.0.0.1:8080", app)
        .run()
}

async fn app(cx: Context) -> Result<Router, BoxError> {
    let mut greeting = cx.config::<Settings>().greeting.clone();
    if cx.arguments::<Arguments>().loud {
        greeting = greeting.map(|greeting| greeting.to_uppercase());
    }
    let greeting = greeting.unwrap_or_else(|| "hello".into());
    let health = if greeting.is_empty() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let greet = async move |Path(whom): Path<String>| format!("{greeting} {whom}\n");
    Ok(Router::new()
        .route("/healthz", get(async move || health))
        .route("/{whom}", get(greet)))
}
