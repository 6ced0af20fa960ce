//! A lock of a file, which the kernel gives up with the process that holds it, however that ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;
use tokio::sync::oneshot;

/// The file, locked, once nobody else has it. It is made where there is none.
pub(super) async fn hold(path: &Path) -> io::Result<File> {
    let path = path.to_owned();
    let (holds, held) = oneshot::channel();
    // Waiting for a lock blocks, and can not be ended. Who gets it for nobody lets it go again.
    std::thread::Builder::new()
        .name("lock".into())
        .spawn(move || {
            let options = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path);
            let locked = options.and_then(|file| {
                retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
                Ok(file)
            });
            let _ = holds.send(locked);
        })?;
    held.await.map_err(io::Error::other)?
}
