//! Why the program on disk was not changed.

use std::io;
use std::path::PathBuf;

use super::ReplaceError;
use crate::sys::image::ImageError;

/// The program on disk could not be looked at or changed. Nothing is half written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A name that depends on where one stands.
    #[error("cannot keep the program at {}: the path must be absolute", path.display())]
    Relative {
        /// As given.
        path: PathBuf,
    },
    /// A link on the way cannot be read.
    #[error("cannot follow {}: {source}", path.display())]
    Follow {
        /// As named.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no program for us.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The disk refused.
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    /// The release that runs is not on disk any more.
    #[error(
        "the release that runs (build {build_id}) is not on disk any more: {} cannot point at it",
        path.display()
    )]
    ReleaseGone {
        /// What runs.
        build_id: String,
        /// The link.
        path: PathBuf,
    },
    /// No previous build.
    #[error("there is no previous build to go back to: {0}")]
    NoOld(#[source] Box<StoreError>),
    /// The previous build is the running one.
    #[error(
        "there is no previous build to go back to: {} is build {build_id}, which is what runs",
        path.display()
    )]
    OldIsRunning {
        /// `.old`
        path: PathBuf,
        /// Both.
        build_id: String,
    },
    /// The previous build was gone back from.
    #[error(
        "cannot go back to {}: build {build_id} was rejected; to run it nevertheless, install it again and upgrade",
        path.display()
    )]
    OldIsRejected {
        /// `.old`
        path: PathBuf,
        /// Its build.
        build_id: String,
    },
    /// Somebody was faster.
    #[error("{} was replaced just now and was left alone", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    pub(super) fn no_old(error: Self) -> Self {
        Self::NoOld(Box::new(error))
    }

    /// Whether somebody with more rights could do it (under systemd: root's guard).
    #[must_use]
    pub fn denied(&self) -> bool {
        match self {
            Self::Replace(error) => error.denied(),
            _ => false,
        }
    }
}
