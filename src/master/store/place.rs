//! Where the program and the files beside it are.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::machine::trial::Name;

/// As the kernel (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// The name that stands for the program: its own, or that of the link that a deployment re-points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its directory is free of links.
    pub(super) at: PathBuf,
    /// From there to the program itself; empty when it is the program.
    pub(super) rest: PathBuf,
}

impl Place {
    /// Follows `path` (absolute) up to the first link that a deployment of ours could have made: one
    /// in a directory that belongs to our user, and not in the root directory (`/lib -> usr/lib`).
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let mut ahead = VecDeque::new();
        push_front(&mut ahead, path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let Ok(to) = std::fs::read_link(&next) else {
                at = next;
                continue;
            };
            if at != Path::new("/") && belongs_to_us(&at) {
                let rest = ahead.iter().collect();
                return Ok(Self { at: next, rest });
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::from_raw_os_error(nix::libc::ELOOP));
            }
            if to.is_absolute() {
                at = PathBuf::from("/");
            }
            push_front(&mut ahead, &to);
        }
        let rest = PathBuf::new();
        Ok(Self { at, rest })
    }

    /// The entry of this name.
    pub(super) fn named(&self, name: Name) -> PathBuf {
        let mut named = OsString::from(&self.at);
        named.push(match name {
            Name::Program => "",
            Name::Good => ".good",
            Name::Old => ".old",
            Name::Rejected => ".rejected",
            Name::Tries => ".tries",
        });
        named.into()
    }

    /// The program that this entry is, or leads to.
    pub(super) fn program(&self, name: Name) -> PathBuf {
        self.below(self.named(name))
    }

    pub(super) fn below(&self, entry: PathBuf) -> PathBuf {
        if self.rest.as_os_str().is_empty() {
            entry
        } else {
            entry.join(&self.rest)
        }
    }

    pub(super) fn directory(&self) -> &Path {
        self.at.parent().unwrap_or(Path::new("/"))
    }

    pub(super) fn is_ours(&self) -> bool {
        belongs_to_us(self.directory())
    }
}

fn belongs_to_us(directory: &Path) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    std::fs::metadata(directory).is_ok_and(|meta| meta.uid() == ours)
}

fn push_front(ahead: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(_) | Component::ParentDir => {
                ahead.push_front(component.as_os_str().to_owned());
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}
