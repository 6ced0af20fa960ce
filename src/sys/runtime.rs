//! A process' whole life is one future.

use std::pin::Pin;

use tokio::runtime::Runtime;

/// Runs it to its end. tokio's loops are generic: a large future is compiled into each of them, and one
/// behind a pointer is compiled once.
pub fn block_on<T>(runtime: &Runtime, life: impl Future<Output = T>) -> T {
    let life: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(life);
    runtime.block_on(life)
}
