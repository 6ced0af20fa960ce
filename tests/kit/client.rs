//! The strict client: it never retries, and every answer is checked to its last byte.
//!
//! ```ignore
//! let load = Load::start(Spec::new(address).keep_alive().connections(64));
//! load.wait_answers(1000, Duration::from_secs(5));
//! load.mark("upgrade");
//! // ... upgrade ...
//! load.stop().assert_clean();
//! ```
//!
//! What counts as a failure is in [`Kind`]. A close that the answer before it announced
//! (`Connection: close`) is polite and no failure; the connection opened instead of it counts as
//! `reopened`.

mod body;
mod exchange;
mod failure;
mod histogram;
mod http2;
mod load;
mod spec;
mod tally;
mod torture;
mod wire;

pub use failure::{Failure, Kind};
pub use histogram::Histogram;
pub use http2::FILLING;
pub use load::{Load, Running};
pub use spec::{Expect, Spec, Traffic, Upload};
pub use tally::{Counts, Report, Seen};
pub use wire::{Answer, Target};
