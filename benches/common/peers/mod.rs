//! What is measured: this project's daemon, and what Debian has. All serve the same directory on
//! 127.0.0.1 with the same number of workers.

mod handover;
mod haproxy;
mod nginx;
pub mod sweep;

use std::net::SocketAddr;
use std::path::Path;

use super::wanted;
use crate::kit::client::Report;

pub use handover::Handover;
pub use haproxy::Haproxy;
pub use nginx::{Nginx, Way};

/// A server that can replace its workers, or itself.
pub trait Peer {
    /// The server and how it is replaced.
    fn name(&self) -> &'static str;

    fn address(&self) -> SocketAddr;

    /// The workers that accept now.
    fn workers(&self) -> Vec<u32>;

    /// The masters, and what else there is beside the workers.
    fn masters(&self) -> Vec<u32>;

    /// What an order needs and is no part of it: the other program is put in place.
    fn prepare(&mut self) {}

    /// Gives the order to replace, after [`Self::prepare`]; returns when the peer's own tool would, or where it has none,
    /// at once.
    fn order(&mut self);

    /// Carries on and waits until nobody of the generation before is left.
    fn settle(&mut self);

    /// Who answered, in the report's words: the version, or a worker's pid.
    fn who(&self, report: &Report) -> Vec<String>;

    /// When somebody first answered who had not before, since the load's begin.
    fn first_of_others(&self, report: &Report, before: &[String]) -> Option<std::time::Duration>;
}

/// Starts all that are installed, one after the other, and hands each to `measure`.
pub fn each(root: &Path, workers: usize, mut measure: impl FnMut(&mut dyn Peer)) {
    if wanted("handover") {
        measure(&mut Handover::start(root, workers, ""));
    }
    if wanted("nginx") {
        if Nginx::is_installed() {
            for way in [Way::Reload, Way::Binary] {
                measure(&mut Nginx::start(root, workers, way));
            }
        } else {
            println!("skipped: nginx is not installed");
        }
    }
    if wanted("haproxy") {
        if Haproxy::is_installed() {
            measure(&mut Haproxy::start(root, workers));
        } else {
            println!("skipped: haproxy is not installed");
        }
    }
}

/// Where a program is. nginx executes itself by the path it was called with, not by `PATH`.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
    dirs.push("/usr/sbin".into());
    let mut files = dirs.into_iter().map(|dir| dir.join(program));
    files.find(|file| file.is_file())
}

/// Whose names in a map were not there before, the earliest first answer.
fn first(
    seen: &std::collections::BTreeMap<String, crate::kit::client::Seen>,
    before: &[String],
) -> Option<std::time::Duration> {
    seen.iter()
        .filter(|(who, _)| !before.contains(who))
        .map(|(_, seen)| seen.first)
        .min()
}
