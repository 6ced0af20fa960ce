//! The application's code, so that a panic in it costs its own request and nothing else. (A program
//! that is built with `panic = "abort"` has no second chance: the process ends.)

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use http::{Method, Request, Uri};

/// Whose request it is, for the log.
#[derive(Debug)]
pub(super) struct Subject {
    method: Method,
    uri: Uri,
}

/// The application panicked; the log says so.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the application panicked")]
pub(super) struct Panicked;

impl Subject {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
        }
    }

    /// It is CONNECT.
    pub(super) fn connects(&self) -> bool {
        self.method == Method::CONNECT
    }

    /// Calls the application. What it was in the middle of must be dropped after a panic, and never
    /// called again.
    #[inline]
    pub(super) fn guard<T>(&self, call: impl FnOnce() -> T) -> Result<T, Panicked> {
        catch_unwind(AssertUnwindSafe(call)).map_err(|panic| self.panicked(&*panic))
    }

    #[cold]
    fn panicked(&self, panic: &(dyn Any + Send)) -> Panicked {
        // Where, has been said on standard error.
        tracing::error!(
            method = %self.method,
            uri = %self.uri,
            "the application panicked, its request fails: {}",
            said(panic)
        );
        Panicked
    }
}

/// A panic's message.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// Held by what the worker cannot do without: a panic there must not leave a worker that lives on
/// without it. The master starts another one.
#[derive(Debug)]
pub(super) struct Vital(pub(super) &'static str);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("this worker ends: {} has panicked", self.0);
            std::process::abort();
        }
    }
}
