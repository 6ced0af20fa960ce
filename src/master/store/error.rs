//! Why the program on disk was not changed.

use std::io;
use std::path::PathBuf;

use super::ReplaceError;
use crate::sys::image::ImageError;

/// The program on disk could not be looked at or changed. Nothing is half written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("cannot keep the program at {}: the path must be absolute", path.display())]
    Relative { path: PathBuf },
    #[error("cannot follow {}: {source}", path.display())]
    Follow { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    #[error(
        "the release that runs (build {build_id}) is not on disk any more: {} cannot point at it",
        path.display()
    )]
    ReleaseGone { build_id: String, path: PathBuf },
    #[error("there is no previous build to go back to: {0}")]
    NoOld(#[source] Box<StoreError>),
    #[error(
        "there is no previous build to go back to: {} is build {build_id}, which is what runs",
        path.display()
    )]
    OldIsRunning { path: PathBuf, build_id: String },
    #[error(
        "cannot go back to {}: build {build_id} was rejected; to run it nevertheless, install it again and upgrade",
        path.display()
    )]
    OldIsRejected { path: PathBuf, build_id: String },
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
