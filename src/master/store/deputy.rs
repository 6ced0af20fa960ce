//! What root's client does on disk for a service that may not write there: what `systemd/guard` does
//! in `systemctl reload`, and by its rule. The service is asked nothing but where its program is, and
//! is believed only when root's own file, run by the owner, comes from that directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Found, Restored, Store, StoreError};
use crate::sys::image::{Image, ImageError};

/// Root keeps its hands off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeputyError {
    /// What the owner runs cannot be read.
    #[error(transparent)]
    Image(Box<ImageError>),
    /// The disk refused.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// It may be anybody's.
    #[error(
        "process {owner} runs {}, which is not a file of root's in the directory of {}",
        runs.display(), program.display()
    )]
    NotBelieved {
        /// The owner.
        owner: u32,
        /// Its image.
        runs: PathBuf,
        /// The program, as the service says.
        program: PathBuf,
    },
}

impl From<ImageError> for DeputyError {
    fn from(error: ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

impl From<StoreError> for DeputyError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// Before an upgrade: keeps what runs as `.old` and marks what is on disk as on trial. `false` when
/// the owner can do that itself.
pub fn keep_way_back(program: &Path, owner: u32) -> Result<bool, DeputyError> {
    let Some(store) = deputise(program, owner)? else {
        return Ok(false);
    };
    // While a trial is on, .old is what was last committed: what runs is not.
    if store.trial().is_none() || store.old().is_none() {
        store.keep_old()?;
    }
    let build = store.disk().build_id;
    store.mark_trial(build.as_deref().unwrap_or("none"))?;
    Ok(true)
}

/// After a rollback for which the owner runs `.old` from where it is: puts it in place. `false` when
/// the owner can do that itself.
pub fn put_back(program: &Path, owner: u32) -> Result<bool, DeputyError> {
    let Some(store) = deputise(program, owner)? else {
        return Ok(false);
    };
    let there = Found::of(&store.open());
    Ok(!matches!(store.restore(&there)?, Restored::AlreadyRunning))
}

fn deputise(program: &Path, owner: u32) -> Result<Option<Store>, DeputyError> {
    let process = PathBuf::from(format!("/proc/{owner}"));
    if fs::metadata(&process).is_ok_and(|meta| meta.uid() == 0) {
        return Ok(None);
    }
    let image = Image::of_process(owner)?;
    let runs = fs::read_link(process.join("exe")).unwrap_or_default();
    let near = |program: &Path| fs::canonicalize(program.parent()?).ok();
    let roots = |directory: &Path| {
        fs::metadata(directory).is_ok_and(|meta| meta.uid() == 0 && meta.mode() & 0o022 == 0)
    };
    let believed = image.owner().0 == 0
        && runs.parent().is_some_and(roots)
        && near(program).as_deref() == runs.parent();
    if !believed {
        return Err(DeputyError::NotBelieved {
            owner,
            runs,
            program: program.to_owned(),
        });
    }
    Ok(Some(Store::new(program.to_owned(), Arc::new(image))?))
}
