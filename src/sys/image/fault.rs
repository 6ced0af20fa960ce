//! Why a file cannot be the service's program: each text says what to do.

use std::io;
use std::path::PathBuf;

use super::Stamp;

/// A file that cannot be the service's program.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {}: {fault}", path.display())]
pub struct ImageError {
    /// The file, as it was named.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
    /// Which file it was; `None` when there was none.
    pub stamp: Option<Stamp>,
}

/// What is wrong with a file, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// No such name.
    #[error("there is no such file; install the release there first")]
    Missing,
    /// A symbolic link to nowhere.
    #[error("it is a link to {}, which does not exist; point it at an installed release", to.display())]
    Dangling {
        /// What the link says.
        to: PathBuf,
    },
    /// A directory.
    #[error("it is a directory; the path must name the program itself")]
    Directory,
    /// A device, pipe or socket.
    #[error("it is a {kind}; the path must name a regular file")]
    NotRegular {
        /// In words.
        kind: &'static str,
    },
    /// Zero bytes.
    #[error("it is empty; was the copy interrupted, or the disk full? copy the release again")]
    Empty,
    /// No x bit for us.
    #[error("it is not executable (mode {mode:04o}); chmod 0755 it")]
    NotExecutable {
        /// Permission bits.
        mode: u32,
    },
    /// On a file system mounted noexec.
    #[error("its file system is mounted noexec; install the release on another one")]
    NoExec,
    /// Somebody else may change what we run.
    #[error("its mode {mode:04o} lets group or others write to it; chmod go-w it")]
    Writable {
        /// Permission bits.
        mode: u32,
    },
    /// Somebody else owns what we run.
    #[error("it belongs to uid {uid}, not to root or the service's user (uid {ours}); chown it")]
    Owner {
        /// The file's.
        uid: u32,
        /// Our effective one.
        ours: u32,
    },
    /// No ELF magic.
    #[error("it is no ELF program (a script, or text?); install the program itself")]
    NotElf,
    /// An object file, a core dump.
    #[error("it is an ELF file, but no program; install the program itself")]
    NotAProgram,
    /// For another computer.
    #[error("it is built for {found}, this service runs on {ours}; install the right build")]
    Machine {
        /// The file's.
        found: String,
        /// Ours.
        ours: String,
    },
    /// Headers promise more than there is.
    #[error("it is truncated; was the copy interrupted, or the disk full? copy the release again")]
    Truncated,
    /// exec(2) would say "no such file" about a file that is there.
    #[error("its loader {} is not installed here; is the build for this distribution?", loader.display())]
    Loader {
        /// `PT_INTERP`.
        loader: PathBuf,
    },
    /// open(2) failed.
    #[error("cannot open it: {0}; the service's user must be able to read and execute it")]
    Open(#[source] io::Error),
    /// fstat(2) or read(2) failed.
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
}
