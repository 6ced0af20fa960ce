//! Root's guard (`systemd/guard`), where the program's directory is not ours to write.
//!
//! It is asked by an empty file in the runtime directory, and acts only while a trial is on. The
//! end of the trial, which is the last thing it does, is its answer.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::watch::Watch;

/// What it is asked for; the name of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// The previous binary back.
    Restore,
    /// The one on disk is final.
    Keep,
}

impl Wish {
    const fn name(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Keep => "keep",
        }
    }
}

/// Why the disk is not as it was wished for.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuardError {
    /// It would not act.
    #[error(
        "nothing marks the file on disk as on trial ({} is missing): root keeps the way back, in \
         `systemctl reload` or when root orders an upgrade",
        mark.display()
    )]
    NoTrial {
        /// The marker.
        mark: PathBuf,
    },
    /// Nothing can be seen.
    #[error("cannot watch {}: {source}", directory.display())]
    Watch {
        /// The program's directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be asked.
    #[error("cannot ask root's guard by {}: {source}", trigger.display())]
    Ask {
        /// The empty file.
        trigger: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nobody looks after the triggers.
    #[error(
        "root's guard did not act within {}: is handover-restore.path active?",
        humantime::format_duration(*limit)
    )]
    Silent {
        /// What it had.
        limit: Duration,
    },
}

/// Asks, and waits for the end of the trial that `mark` marks.
pub(super) async fn ask(
    wish: Wish,
    runtime: &Path,
    mark: &Path,
    limit: Duration,
) -> Result<(), GuardError> {
    let no_trial = || GuardError::NoTrial {
        mark: mark.to_owned(),
    };
    let (Some(directory), Some(name)) = (mark.parent(), mark.file_name()) else {
        return Err(no_trial());
    };
    let unwatched = |source| GuardError::Watch {
        directory: directory.to_owned(),
        source,
    };
    // Watched before it is asked, so that nothing is missed.
    let mut watch = Watch::directory(directory).map_err(unwatched)?;
    if std::fs::symlink_metadata(mark).is_err() {
        return Err(no_trial());
    }
    let trigger = runtime.join(wish.name());
    touch(&trigger).map_err(|source| GuardError::Ask {
        trigger: trigger.clone(),
        source,
    })?;
    if let Ok(seen) = tokio::time::timeout(limit, watch.removed(name)).await {
        return seen.map_err(unwatched);
    }
    // Not for the next trial.
    let _ = std::fs::remove_file(&trigger);
    Err(GuardError::Silent { limit })
}

/// One that is there already is asked for already.
fn touch(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(50);

    struct Lab {
        dir: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("run")).unwrap();
            std::fs::create_dir(dir.path().join("bin")).unwrap();
            Self { dir }
        }

        fn run(&self) -> PathBuf {
            self.dir.path().join("run")
        }

        fn mark(&self) -> PathBuf {
            self.dir.path().join("bin/handover.trial")
        }
    }

    #[tokio::test]
    async fn the_end_of_the_trial_is_the_answer() {
        for (wish, name) in [(Wish::Restore, "restore"), (Wish::Keep, "keep")] {
            let lab = Lab::new();
            std::fs::write(lab.mark(), "aa").unwrap();
            let (trigger, mark) = (lab.run().join(name), lab.mark());
            let mut asked = Watch::directory(&lab.run()).unwrap();
            let guard = tokio::spawn(async move {
                while std::fs::remove_file(&trigger).is_err() {
                    tokio::task::yield_now().await;
                }
                asked.removed(trigger.file_name().unwrap()).await.unwrap();
                std::fs::remove_file(mark).unwrap();
            });
            ask(wish, &lab.run(), &lab.mark(), LONG).await.unwrap();
            guard.await.unwrap();
        }
    }

    #[tokio::test]
    async fn without_a_trial_nobody_is_asked() {
        let lab = Lab::new();
        let error = ask(Wish::Restore, &lab.run(), &lab.mark(), LONG).await;
        assert!(matches!(error, Err(GuardError::NoTrial { .. })));
        assert!(!lab.run().join("restore").exists());
    }

    #[tokio::test]
    async fn a_question_that_nobody_answers_is_taken_back() {
        let lab = Lab::new();
        std::fs::write(lab.mark(), "aa").unwrap();
        let error = ask(Wish::Keep, &lab.run(), &lab.mark(), SHORT).await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("handover-restore.path"), "{text}");
        assert!(!lab.run().join("keep").exists());
    }

    #[tokio::test]
    async fn a_link_in_a_triggers_place_is_not_followed() {
        let lab = Lab::new();
        std::fs::write(lab.mark(), "aa").unwrap();
        let elsewhere = lab.dir.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, lab.run().join("keep")).unwrap();
        let error = ask(Wish::Keep, &lab.run(), &lab.mark(), SHORT).await;
        assert!(matches!(error, Err(GuardError::Ask { .. })), "{error:?}");
        assert!(!elsewhere.exists());
    }
}
