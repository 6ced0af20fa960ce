//! How many connections each worker of a generation holds, where all of them can see it: a memfd
//! with one number a slot. Workers that share a listening socket need it, because the kernel wakes
//! them all and whoever is first takes the whole burst (64 connections on two workers: 65 to 0).
//!
//! Read and written with pread and pwrite: a mapping would be faster, and `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags};

/// One worker's view of it.
#[derive(Debug)]
pub struct Board {
    file: File,
    slot: u16,
}

/// What the workers that accept hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// How many workers accept.
    pub workers: u64,
    /// Their connections.
    pub connections: u64,
}

const CELL: usize = size_of::<u64>();

impl Board {
    /// An empty board for so many slots, close-on-exec: for the master, who gives every worker of
    /// the generation a copy.
    pub fn create(slots: u16) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("handover-board", flags)?;
        rustix::fs::ftruncate(&fd, u64::from(slots) * CELL as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK)?;
        Ok(fd)
    }

    /// The worker in `slot` joins. It does not accept yet.
    #[must_use]
    pub fn join(fd: OwnedFd, slot: u16) -> Self {
        let file = File::from(fd);
        Self { file, slot }
    }

    /// It accepts and holds so many connections; `None`: it does not accept. A master says that for
    /// a worker that has died.
    pub fn say(&self, connections: Option<u64>) -> io::Result<()> {
        let cell = connections.map_or(0, |n| n.saturating_add(1));
        self.file
            .write_all_at(&cell.to_ne_bytes(), u64::from(self.slot) * CELL as u64)
    }

    /// What all that accept hold, this one included.
    pub fn shares(&self) -> io::Result<Shares> {
        let mut cells = [0; 64 * CELL];
        let mut shares = Shares {
            workers: 0,
            connections: 0,
        };
        let mut at = 0;
        loop {
            let n = self.file.read_at(&mut cells, at)?;
            if n < CELL {
                return Ok(shares);
            }
            for cell in cells[..n].chunks_exact(CELL) {
                let mut bytes = [0; CELL];
                bytes.copy_from_slice(cell);
                if let Some(connections) = u64::from_ne_bytes(bytes).checked_sub(1) {
                    shares.workers += 1;
                    shares.connections = shares.connections.saturating_add(connections);
                }
            }
            at += (n / CELL * CELL) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_that_accepts_is_seen_by_the_others() {
        let board = Board::create(200).unwrap();
        let [first, last, idle] = [0, 199, 7].map(|slot| {
            let copy = board.try_clone().unwrap();
            Board::join(copy, slot)
        });
        first.say(Some(3)).unwrap();
        last.say(Some(0)).unwrap();
        idle.say(Some(9)).unwrap();
        idle.say(None).unwrap();
        let expected = Shares {
            workers: 2,
            connections: 3,
        };
        assert_eq!(idle.shares().unwrap(), expected);
        assert!(
            Board::join(board, 200).say(Some(1)).is_err(),
            "no such slot"
        );
    }
}
