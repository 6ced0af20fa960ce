//! A counter that goes on counting in the next generation, in the one before, and after a worker was
//! killed: its file is the service's, not a worker's.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;

use handover::axum::{Router, http::StatusCode, routing::get};
use handover::{BoxError, Context, Service};
use nix::fcntl::{Flock, FlockArg};

fn main() -> ExitCode {
    Service::new("counter")
        .version(env!("CARGO_PKG_VERSION"))
        .http("http", "127.0.0.1:8080", app)
        .run()
}

async fn app(_: Context) -> Result<Router, BoxError> {
    Ok(Router::new().route("/", get(next)))
}

async fn next(cx: Context) -> (StatusCode, String) {
    match count(&cx) {
        Ok(count) => (StatusCode::OK, format!("{count}\n")),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}

/// One more. Locked, since two processes may do so, and several threads of each.
fn count(cx: &Context) -> io::Result<u64> {
    let table = cx.kept_file("table", 1)?;
    let table = Flock::lock(table, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    let mut bytes = [0; 8];
    let _ = table.read_at(&mut bytes, 0)?;
    let count = u64::from_le_bytes(bytes) + 1;
    table.write_all_at(&count.to_le_bytes(), 0)?;
    Ok(count)
}
