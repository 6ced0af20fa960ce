//! `releases.json` in the state directory: what is known of the application's releases. It is read
//! each time: another master may have written it since.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::history::{History, HistoryError};
use crate::machine::trial::release::{Known, Named};
use crate::sys::release::Release;

impl History {
    /// What is known of the releases that `link` has led to; nothing, when it was another link, or
    /// nobody can read it.
    pub(super) fn releases(&self, link: &Path) -> Known {
        let path = self.releases_file();
        let known = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|e| {
                tracing::warn!("cannot understand {}: {e}: it begins anew", path.display());
                Known::default()
            }),
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("cannot read {}: {e}", path.display());
                }
                Known::default()
            }
        };
        if known.link == link {
            return known;
        }
        Known {
            link: link.to_owned(),
            ..Known::default()
        }
    }

    /// Writes all of it, in one step for whoever reads it, and after a power cut.
    pub(super) fn save_releases(&self, known: &Known) -> Result<(), HistoryError> {
        let bytes = serde_json::to_vec(known).expect("plain data with names for keys");
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
        let mut known = history.releases(link);
        known.commit(&one);
        history.save_releases(&known).unwrap();
        assert_eq!(history.releases(link).good.as_ref(), Some(&one));
        assert_eq!(history.releases(Path::new("/s/current")).good, None);
        assert_eq!(history.releases(link).good, Some(one));
        fs::write(history.releases_file(), "{").unwrap();
        assert_eq!(history.releases(link).good, None);
    }
}
