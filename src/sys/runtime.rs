//! How futures are run. What runs one is generic, and compiled anew for each, for each kind of runtime:
//! all of the future, too. One behind a pointer is compiled once, and what runs it once for all.

use std::pin::Pin;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Whatever it is, behind a pointer.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs a process' whole life to its end.
pub fn block_on<T>(runtime: &Runtime, life: impl Future<Output = T>) -> T {
    let life: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(life);
    runtime.block_on(life)
}

/// For a `JoinSet`.
pub fn task<T>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    Box::pin(future)
}

/// As `tokio::spawn`.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(task(future))
}
