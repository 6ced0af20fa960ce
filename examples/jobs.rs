//! Jobs behind a 202: a drain waits for what `spawn` has started, and flushes before it ends.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use handover::axum::{Router, http::StatusCode, routing::post};
use handover::{BoxError, Context, Service};

fn main() -> ExitCode {
    Service::new("jobs")
        .version(env!("CARGO_PKG_VERSION"))
        .http("http", "127.0.0.1:8080", app)
        .run()
}

async fn app(cx: Context) -> Result<Router, BoxError> {
    // Written in one piece at the end of the worker.
    let results = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&results);
    cx.on_drain(Duration::from_secs(5), async move |_| {
        let all = std::mem::take(&mut *all.lock().unwrap_or_else(PoisonError::into_inner));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open("jobs.log");
        if let Err(e) = file.and_then(|mut file| file.write_all(&all)) {
            eprintln!("{} bytes of results are lost: {e}", all.len());
        }
    });
    let take = async move |cx: Context, job: String| {
        cx.spawn(async move {
            // The work: it is not done when the client has its answer.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.extend_from_slice(format!("{job}\n").as_bytes());
        });
        StatusCode::ACCEPTED
    };
    Ok(Router::new().route("/jobs", post(take)))
}
