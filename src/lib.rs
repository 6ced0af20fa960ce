//! Let a network service replace its own running program without failing one request.

#![deny(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::pedantic)]
#![expect(
    clippy::module_name_repetitions,
    reason = "the name of a file and of what it owns are often the same"
)]

#[doc(hidden)]
pub mod api;
#[doc(hidden)]
pub mod cli;
pub mod config;
mod keeper;
#[doc(hidden)]
pub mod machine;
#[doc(hidden)]
pub mod master;
mod service;
#[doc(hidden)]
pub mod site;
#[doc(hidden)]
pub mod sys;
#[doc(hidden)]
pub mod worker;

pub use service::{AppError, Context, Service};

/// The daemon as a service: a directory over HTTP, or a welcome page when there is none.
pub fn daemon() -> Service {
    Service::new("handover")
        .version(service::VERSION)
        .about("Serves a directory over HTTP and replaces its own running program")
        .worker_per_core()
        .serves_a_site()
        .every_listener("http", "127.0.0.1:8080", |cx: Context| async move {
            Ok(site::router(&site::SiteContext {
                root: cx.config.site.root.clone(),
                name: cx.name,
                version: cx.version,
                generation: cx.generation,
                server_header: cx.config.site.server_header,
            }))
        })
}
