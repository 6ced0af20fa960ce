//! Work that is done once a while by one worker, whatever is upgraded or killed meanwhile: nobody
//! does it beside him, and nobody does it a second time.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;
use std::{fs::File, io};

use handover::axum::{Router, routing::get};
use handover::{BoxError, Context, Service};

fn main() -> ExitCode {
    Service::new("cron")
        .version(env!("CARGO_PKG_VERSION"))
        .http("http", "127.0.0.1:8080", app)
        .run()
}

async fn app(cx: Context) -> Result<Router, BoxError> {
    cx.leader("reports", Duration::from_secs(5), reports);
    Ok(Router::new().route("/", get(async || "see cron.log\n")))
}

/// Ends between two reports when its worker shall leave; the next leader begins after that.
async fn reports(cx: Context) {
    while cx.drain().is_none() {
        if let Err(e) = report(cx.generation()) {
            eprintln!("no report: {e}");
        }
        tokio::select! {
            _ = cx.draining() => {}
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

fn report(generation: u64) -> io::Result<()> {
    let before = std::fs::read_to_string("cron.log").unwrap_or_default();
    let mut log = File::options().create(true).append(true).open("cron.log")?;
    writeln!(
        log,
        "report {} by g{generation}",
        before.lines().count() + 1
    )
}
