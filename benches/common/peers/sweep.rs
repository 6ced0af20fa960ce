//! Ends what a peer leaves behind.

use std::time::Duration;

use rustix::process::Signal;

use super::super::process::children;
use crate::kit::proc::{Pinned, reap};

/// Kills a master and its children. They may be ours by now: then they are reaped.
pub(super) fn kill(master: u32) {
    let mut family = children(master);
    family.insert(0, master);
    for pid in &family {
        if let Some(pinned) = Pinned::open(*pid) {
            pinned.signal(Signal::KILL);
            pinned.wait_ended(Duration::from_secs(2));
        }
        reap(*pid);
    }
}

pub fn signal(pid: u32, signal: Signal) {
    let pinned = Pinned::open(pid).expect("the peer lives");
    assert!(pinned.signal(signal), "{pid} has gone");
}
