//! A service to measure and to torment: every answer is known beforehand (see the table in
//! `tests/kit/app.rs`), slow ones, large ones and uploads included. The tests and the benches ask
//! it; try `cargo run --example workbench`, then `curl -i 127.0.0.1:8080/who`. At `/count` is a
//! `WebSocket` that numbers its client's messages.
//!
//! `WORKBENCH_GATE=FILE`: no worker is ready while that file exists.

#[path = "../tests/kit/app.rs"]
mod app;

use std::process::ExitCode;
use std::time::Duration;

use handover::axum::response::Response;
use handover::axum::routing::get;
use handover::ws::{Event, Resumed, Upgrade, WebSocket};
use handover::{BoxError, Context, Service};

const VERSION: &str = match option_env!("HANDOVER_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

fn main() -> ExitCode {
    Service::new("workbench")
        .version(VERSION)
        .worker_per_core()
        .every_listener("http", "127.0.0.1:8080", async |cx: Context| {
            wait_for_the_gate().await;
            cx.resume("count", async |session: Resumed| {
                let Ok(count) = session.blob.try_into() else {
                    return;
                };
                count_on(u64::from_be_bytes(count), session.socket).await;
            });
            let count = async |upgrade: Upgrade| -> Response {
                upgrade.accept(|socket| count_on(0, socket))
            };
            let router = app::router(app::Identity {
                server: format!("workbench/{}", cx.version()),
                generation: format!("g{}", cx.generation()),
            });
            Ok::<_, BoxError>(router.route("/count", get(count)))
        })
        .run()
}

async fn count_on(mut count: u64, mut socket: WebSocket) {
    loop {
        match socket.next().await {
            Event::Message(_) => {
                count += 1;
                if socket.send(count.to_string()).await.is_err() {
                    return;
                }
            }
            Event::Drain => return socket.pass_on("count", count.to_be_bytes()).await,
            _ => return,
        }
    }
}

async fn wait_for_the_gate() {
    if let Some(gate) = std::env::var_os("WORKBENCH_GATE") {
        while tokio::fs::try_exists(&gate).await.unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
