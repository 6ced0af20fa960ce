//! For `fuzz/` alone; there is no such module in any other build.

pub use super::http2::fuzz::{blob as http2_blob, shim as http2_shim};
pub use super::tls::fuzz::{blob as tls_blob, records as tls_records};
pub use super::tls::shim::{Server, Setup};
