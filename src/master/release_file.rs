//! `releases.json` in the state directory: what is known of the application's releases. Another master may
//! have written it since it was read.

use std::path::{Path, PathBuf};

use super::history::{History, HistoryError, read_if_there};
use crate::machine::trial::release::{Known, Named};
use crate::sys::release::Release;

impl History {
    /// What is known of the application's releases; nothing, when there is no such file.
    pub(super) fn known(&self) -> Result<Known, HistoryError> {
        let path = self.releases_file();
        let Some(bytes) = read_if_there(&path)? else {
            return Ok(Known::default());
        };
        serde_json::from_slice(&bytes).map_err(|source| HistoryError::Releases { path, source })
    }

    /// Changes what is known of those that `link` has led to, in one step for whoever reads it, and after a
    /// power cut.
    pub(super) fn change_known(
        &self,
        link: &Path,
        change: impl FnOnce(&mut Known),
    ) -> Result<(), HistoryError> {
        let before = match self.known() {
            Err(HistoryError::Releases { .. }) => Known::default(),
            known => known?,
        };
        let mut known = before.clone().of(link);
        change(&mut known);
        if known == before {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&known).expect("plain data with names for keys");
        self.put(&self.releases_file(), &bytes)
    }

    pub(super) fn releases_file(&self) -> PathBuf {
        self.directory().join("releases.json")
    }
}

/// As it is written down.
pub(super) fn named(release: &Release) -> Named {
    Named {
        path: release.path.clone(),
        identity: release.identity.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_known_is_of_one_link_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path().join("state"));
        let link = Path::new("/r/current");
        let one = Named {
            path: "/r/1".into(),
            identity: "1".into(),
        };
        let good = |link: &str| history.known().unwrap().of(Path::new(link)).good;
        let commit = |known: &mut Known| known.commit(&one);
        history.change_known(link, commit).unwrap();
        assert_eq!(good("/r/current").as_ref(), Some(&one));
        assert_eq!(good("/s/current"), None);
        fs::write(history.releases_file(), "{").unwrap();
        assert!(history.known().is_err());
        history.change_known(link, commit).unwrap();
        assert_eq!(good("/r/current").as_ref(), Some(&one));
    }
}
