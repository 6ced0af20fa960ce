//! The file-descriptor store.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::inode;

/// A descriptor that was stored.
#[derive(Debug)]
pub struct Stored {
    /// `FDNAME=`
    pub name: String,
    /// The descriptor.
    pub fd: OwnedFd,
    /// Dropped when its other end closes (`FDPOLL=0` prevents it).
    polled: bool,
}

/// `FDSTORE=1`. `Err` says what was not kept.
pub fn add(
    store: &mut Vec<Stored>,
    max: usize,
    name: Option<&str>,
    polled: bool,
    fds: Vec<OwnedFd>,
) -> Result<(), String> {
    let mut trouble = None;
    let name = match name {
        Some(name) if is_valid(name) => name,
        Some(name) => {
            trouble = Some(format!("FDNAME={name} is invalid, stored as \"stored\""));
            "stored"
        }
        None => "stored",
    };
    for fd in fds {
        // systemd compares open file descriptions; for sockets that is the same.
        if store.iter().any(|s| inode(&s.fd) == inode(&fd)) {
            continue;
        }
        if store.len() >= max {
            return Err(format!(
                "cannot store more fds than FileDescriptorStoreMax={max}"
            ));
        }
        store.push(Stored {
            name: name.to_owned(),
            fd,
            polled,
        });
    }
    trouble.map_or(Ok(()), Err)
}

/// `FDSTOREREMOVE=1`: all of that name.
pub fn remove(store: &mut Vec<Stored>, name: &str) -> usize {
    let before = store.len();
    store.retain(|s| s.name != name);
    before - store.len()
}

/// Drops what nobody holds the other end of.
pub fn drop_hung_up(store: &mut Vec<Stored>) -> Vec<String> {
    let mut gone = Vec::new();
    store.retain(|stored| {
        let mut fds = [PollFd::new(&stored.fd, PollFlags::empty())];
        let now = Timespec::default();
        let hung_up = stored.polled
            && poll(&mut fds, Some(&now)).is_ok()
            && fds[0]
                .revents()
                .intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
        if hung_up {
            gone.push(stored.name.clone());
        }
        !hung_up
    });
    gone
}

fn is_valid(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name
            .bytes()
            .all(|b| (b' '..=b'~').contains(&b) && b != b':')
}
