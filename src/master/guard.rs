//! Root's guard (`systemd/guard`), where the program's directory is not ours to write.
//!
//! It is asked by an empty file in the runtime directory. That the disk is as it was wished for is
//! its answer; that it could not be done is a file in a directory of its own.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// It needs a moment, and a busy machine some more.
const LIMIT: Duration = Duration::from_secs(20);

/// Between two looks. The answer may come in either of two directories, one of which does not exist
/// before the guard has run: nothing to watch.
const LOOK: Duration = Duration::from_millis(50);

/// What it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// What runs is good, if it has this content (as SHA-256).
    Commit(String),
    /// The program with this content is not.
    Reject(String),
}

impl Wish {
    /// The name of the file.
    fn name(&self) -> String {
        match self {
            Self::Commit(content) => format!("commit.{content}"),
            Self::Reject(content) => format!("reject.{content}"),
        }
    }
}

/// Why the disk is not as it was wished for.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuardError {
    #[error("cannot ask root's guard by {}: {source}", trigger.display())]
    Ask { trigger: PathBuf, source: io::Error },
    #[error("root's guard could not do it: {said}")]
    Failed { said: String },
    #[error(
        "root's guard did not act within {}: is {path_unit} active?",
        humantime::format_duration(*limit)
    )]
    Silent { limit: Duration, path_unit: String },
}

/// Where it is asked and where it answers.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    triggers: PathBuf,
    answer: PathBuf,
    path_unit: String,
    limit: Duration,
}

impl Guard {
    /// Of the service with this runtime directory (`/run/NAME`; the guard's is `/run/NAME-guard`).
    pub(super) fn new(runtime: &Path) -> Self {
        let name = runtime.file_name().unwrap_or_default().to_string_lossy();
        Self {
            triggers: runtime.to_owned(),
            answer: runtime
                .with_file_name(format!("{name}-guard"))
                .join("failed"),
            path_unit: format!("{name}-restore.path"),
            limit: LIMIT,
        }
    }

    /// Asks, and waits until `done`. Blocks.
    #[expect(
        clippy::disallowed_methods,
        reason = "on a thread that may wait; there is nothing to watch before the guard has run"
    )]
    pub(super) fn ask(&self, wish: &Wish, done: &dyn Fn() -> bool) -> Result<(), GuardError> {
        let before = stamp(&self.answer);
        let trigger = self.triggers.join(wish.name());
        touch(&trigger).map_err(|source| GuardError::Ask {
            trigger: trigger.clone(),
            source,
        })?;
        let end = Instant::now() + self.limit;
        loop {
            // Gone: the guard has begun. It may yet be at work.
            let begun = fs::symlink_metadata(&trigger).is_err();
            if begun && done() {
                return Ok(());
            }
            let answer = stamp(&self.answer);
            if begun && answer.is_some() && answer != before {
                let said = fs::read_to_string(&self.answer).unwrap_or_default();
                let said = said.lines().collect::<Vec<_>>().join("; ");
                return Err(GuardError::Failed { said });
            }
            if Instant::now() >= end {
                // Not for the next time.
                let _ = fs::remove_file(&trigger);
                return Err(GuardError::Silent {
                    limit: self.limit,
                    path_unit: self.path_unit.clone(),
                });
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Which answer it is.
fn stamp(path: &Path) -> Option<(u64, i64, i64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

/// One that is there already is asked for already.
fn touch(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path);
    file.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service's runtime directory, and the guard's.
    struct Lab {
        dir: tempfile::TempDir,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for sub in ["run", "run-guard"] {
                fs::create_dir(dir.path().join(sub)).unwrap();
            }
            Self { dir }
        }

        fn at(&self, file: &str) -> PathBuf {
            self.dir.path().join(file)
        }

        fn guard(&self, limit: Duration) -> Guard {
            Guard {
                limit,
                ..Guard::new(&self.at("run"))
            }
        }

        /// Asks; once the trigger is there it goes, and `act` happens.
        fn ask(&self, wish: &Wish, act: impl FnOnce() + Send) -> Result<(), GuardError> {
            let trigger = self.at("run").join(wish.name());
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    while fs::remove_file(&trigger).is_err() {
                        std::thread::yield_now();
                    }
                    act();
                });
                let done = || self.at("done").exists();
                self.guard(LIMIT).ask(wish, &done)
            })
        }
    }

    #[test]
    fn the_disk_is_its_answer() {
        for wish in [Wish::Commit("aa".into()), Wish::Reject("aa".into())] {
            let lab = Lab::new();
            let done = lab.at("done");
            lab.ask(&wish, || fs::write(done, "").unwrap()).unwrap();
        }
    }

    #[test]
    fn what_it_could_not_do_it_says() {
        let lab = Lab::new();
        let answer = lab.at("run-guard/failed");
        // One of an earlier time does not count.
        fs::write(&answer, "old").unwrap();
        let error = lab.ask(&Wish::Commit("aa".into()), || {
            fs::write(lab.at("new"), "cp: No space left on device\n").unwrap();
            fs::rename(lab.at("new"), answer).unwrap();
        });
        let text = error.unwrap_err().to_string();
        assert!(
            text.ends_with("could not do it: cp: No space left on device"),
            "{text}"
        );
    }

    #[test]
    fn nobody_acts_and_nothing_is_left_for_the_next_time() {
        let lab = Lab::new();
        let short = Duration::from_millis(60);
        let wish = Wish::Commit("aa".into());
        let error = lab.guard(short).ask(&wish, &|| false).unwrap_err();
        assert!(error.to_string().contains("run-restore.path"), "{error}");
        assert!(!lab.at("run/commit.aa").exists());
        // Not a trigger that leads elsewhere.
        std::os::unix::fs::symlink(lab.at("precious"), lab.at("run/commit.aa")).unwrap();
        let error = lab.guard(short).ask(&wish, &|| false).unwrap_err();
        assert!(matches!(error, GuardError::Ask { .. }), "{error}");
        assert!(!lab.at("precious").exists());
    }
}
