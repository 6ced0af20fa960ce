//! A master: owns the listeners, supervises workers, answers the operator, replaces its own
//! program.

mod behind;
mod cold;
pub mod control;
mod disk;
mod driver;
mod guard;
mod handoff;
mod health;
pub mod history;
mod hosting;
mod inheritance;
mod input;
mod inquiry;
mod launch;
mod line;
mod lingering;
mod look;
mod manager;
mod metrics;
mod orders;
mod peers;
mod perform;
mod pidfiles;
mod record;
mod release_file;
mod releases;
mod replace;
mod slots;
mod sockets;
mod start;
mod status;
pub mod store;
mod story;
mod tls;
mod unit;
mod words;
mod workers;

pub use start::{Origin, Setup, StartError, run};
