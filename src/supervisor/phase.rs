//! What the application is for now, in a file that it can read: background work of two releases at
//! once is its own business, and this is how it knows.

use std::fs;
use std::path::PathBuf;

/// Nobody holds it any more: its stop signal follows.
pub(super) const STOPPING: &str = "stopping";

/// The word for it. A master that serves says so before the application is ready, too.
pub(super) fn phase(was_ready: bool, serves: bool, has_served: bool) -> &'static str {
    match (was_ready, serves, has_served) {
        (false, _, _) => "starting",
        (true, true, _) => "serving",
        (true, false, true) => "parked",
        (true, false, false) => "standby",
    }
}

/// The file; it goes with this.
#[derive(Debug)]
pub(super) struct PhaseFile {
    path: PathBuf,
    said: &'static str,
}

impl PhaseFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, said: "" }
    }

    /// Replaced by rename: a reader sees one word or the other.
    pub(super) fn say(&mut self, word: &'static str) {
        if word == self.said {
            return;
        }
        self.said = word;
        let new = self.path.with_extension("phase.new");
        let written =
            fs::write(&new, format!("{word}\n")).and_then(|()| fs::rename(&new, &self.path));
        if let Err(e) = written {
            tracing::warn!(
                "cannot tell the application by {}: {e}",
                self.path.display()
            );
        }
    }
}

impl Drop for PhaseFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_last_word_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g1-1.phase");
        let mut file = PhaseFile::new(path.clone());
        for (serves, has_served, word) in [
            (false, false, "standby\n"),
            (true, true, "serving\n"),
            (false, true, "parked\n"),
        ] {
            file.say(phase(true, serves, has_served));
            assert_eq!(fs::read_to_string(&path).unwrap(), word);
        }
        assert_eq!(phase(false, true, true), "starting");
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
