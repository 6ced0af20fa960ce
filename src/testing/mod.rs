//! Tests of an application: a service with several generations in one process, without systemd,
//! without root, without files. What serves is the real worker behind a real listener; only the
//! masters are played.
//!
//! ```
//! use axum::{Router, routing::get};
//! use handover::{BoxError, Context, Service, testing::Running};
//!
//! fn service() -> Service {
//!     Service::new("hello").http("http", "[::]:8080", app)
//! }
//!
//! async fn app(_: Context) -> Result<Router, BoxError> {
//!     Ok(Router::new().route("/", get(async |cx: Context| format!("g{}", cx.generation()))))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let mut running = Running::start(service()).await?;
//! let address = running.address("http").expect("it has that listener");
//! // ... any client asks `address`; g1 answers.
//! running.upgrade(service()).await?;
//! // The same connections, and g2 answers.
//! running.rollback().await?;
//! let ended = running.stop().await;
//! assert_eq!(ended.cut, 0);
//! # Ok(())
//! # }
//! ```
//!
//! No configuration file is read unless [`started_with`] gives one.
//!
//! A drain goes as the service's own settings say: one that still has a connection waits for
//! `[drain] timeout`, ten minutes by default. Dropping [`Running`] ends everything at once.

mod context;
mod generation;
mod handoff;
mod running;

pub use context::TestContext;
pub use running::{Ended, Running, TestError, started_with};
