//! Where an instance listens: a Unix socket of its own, a port of 127.0.0.1, or a socket that it is
//! given opened.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::config::{Listens, Upstream};
use crate::machine::hosting::Hosting;
use crate::sys::spawn::CHANNEL_FD;

#[derive(Debug)]
pub(super) struct Place {
    pub(super) upstream: Upstream,
    /// Opened already: what comes while the instance starts again waits in it.
    listener: Option<OwnedFd>,
    /// The socket's file, by device and inode: the application of another supervisor may listen at
    /// the same path by the time that this one leaves.
    file: Option<(u64, u64)>,
}

impl Place {
    pub(super) fn make(hosting: &Hosting, number: usize) -> Result<Self, String> {
        let socket = || {
            let file = format!("{}.{number}.sock", hosting.prefix);
            fits(hosting.sockets.join(file))
        };
        let known = hosting.at.get(number).cloned();
        let upstream = match (known, hosting.app.listens()) {
            (Some(upstream), _) => upstream,
            (None, Listens::Port) => Upstream::Port(free_port()?),
            (None, Listens::Socket | Listens::Fd) => Upstream::Unix(socket()?),
        };
        let listener = match (&upstream, hosting.app.listens()) {
            (Upstream::Unix(path), Listens::Fd) => {
                let _ = fs::remove_file(path);
                let listener = UnixListener::bind(path)
                    .map_err(|e| format!("cannot listen on {}: {e}", path.display()))?;
                Some(listener.into())
            }
            _ => None,
        };
        let mut place = Self {
            upstream,
            listener,
            file: None,
        };
        if place.listener.is_some() {
            place.remember();
        }
        Ok(place)
    }

    /// The instance listens, or leaves before it said so: its socket's file goes with us. One that is
    /// known already stays the one.
    pub(super) fn remember(&mut self) {
        if self.file.is_none() {
            self.file = self.found();
        }
    }

    fn found(&self) -> Option<(u64, u64)> {
        let Upstream::Unix(path) = &self.upstream else {
            return None;
        };
        let file = fs::symlink_metadata(path).ok()?;
        Some((file.dev(), file.ino()))
    }

    /// Before each start.
    pub(super) fn prepare(&mut self) -> std::io::Result<Option<OwnedFd>> {
        if let (Upstream::Unix(path), None) = (&self.upstream, &self.listener) {
            // Most programs do not bind over what the one before left there.
            let _ = fs::remove_file(path);
            self.file = None;
        }
        self.listener.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// `{socket}`, `{port}` and `{fd}`, where they stand in a word of the command.
    pub(super) fn fill_in(&self, word: &str) -> String {
        let word = word.replace("{fd}", &CHANNEL_FD.to_string());
        match &self.upstream {
            Upstream::Unix(path) => word.replace("{socket}", &path.to_string_lossy()),
            Upstream::Port(port) => word.replace("{port}", &port.to_string()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Upstream::Unix(path) = &self.upstream {
            if self.file.is_some() && self.file == self.found() {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// A moment later it could be somebody else's; the instance's own bind tells.
fn free_port() -> Result<u16, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|free| free.local_addr())
        .map(|address| address.port())
        .map_err(|e| format!("cannot find a free port: {e}"))
}

fn fits(path: PathBuf) -> Result<PathBuf, String> {
    let length = path.as_os_str().len();
    if length <= UNIX_PATH_MAX {
        return Ok(path);
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    Err(format!(
        "the path of a socket in {} would have {length} bytes, {UNIX_PATH_MAX} is the most: choose a \
         shorter --runtime-dir, or let the application listen on {{port}}",
        directory.display()
    ))
}

/// `sun_path` of unix(7), less the NUL at its end.
const UNIX_PATH_MAX: usize = 107;
