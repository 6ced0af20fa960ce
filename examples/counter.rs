//! A counter that goes on counting in the next generation, and back in the one before. Both share a
//! file in memory while one takes over from the other, so that no request is missed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::sync::Arc;

use handover::axum::{Router, http::StatusCode, routing::get};
use handover::{BoxError, Context, Service};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::memfd::{MFdFlags, memfd_create};

fn main() -> ExitCode {
    Service::new("counter")
        .version(env!("CARGO_PKG_VERSION"))
        .http("http", "127.0.0.1:8080", app)
        .run()
}

async fn app(cx: Context) -> Result<Router, BoxError> {
    // `?`: a build that has another table is refused, and the one before serves on.
    let table = match cx.take_descriptor("table", 1).await? {
        Some(table) => File::from(table),
        None => File::from(memfd_create(c"table", MFdFlags::MFD_CLOEXEC)?),
    };
    cx.offer_descriptor("table", 1, table.try_clone()?.into());
    let table = Arc::new(table);
    let next = async move || match count(&table) {
        Ok(count) => (StatusCode::OK, format!("{count}\n")),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    };
    Ok(Router::new().route("/", get(next)))
}

/// One more. Locked, since two processes may do so, and several threads of each.
fn count(table: &File) -> io::Result<u64> {
    // A lock is of an open file: each gets its own.
    let own = File::options().read(true).write(true).open(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(table)
    ))?;
    let table = Flock::lock(own, FlockArg::LockExclusive).map_err(|(_, e)| e)?;
    let mut bytes = [0; 8];
    let _ = table.read_at(&mut bytes, 0)?;
    let count = u64::from_le_bytes(bytes) + 1;
    table.write_all_at(&count.to_le_bytes(), 0)?;
    Ok(count)
}
