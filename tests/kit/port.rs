//! A TCP port that no other test takes, also not between the runs of one service.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rustix::fs::FlockOperation;

/// Below the kernel's ephemeral range, so that no client's end lands on it.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// Reserved until it is dropped.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub number: u16,
    _lock: File,
}

impl Port {
    /// Takes one that is free on 127.0.0.1.
    pub fn reserve() -> Self {
        let dir = std::env::temp_dir().join("handover-kit-ports");
        std::fs::create_dir_all(&dir).expect("a directory for locks");
        loop {
            let number = fastrand::u16(FIRST..LAST);
            let lock = File::create(dir.join(number.to_string())).expect("a lock file");
            let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
            if locked && TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok() {
                return Self {
                    number,
                    _lock: lock,
                };
            }
        }
    }

    /// On 127.0.0.1.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
