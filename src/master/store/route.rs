//! Which links lead from the path as named to the file: noted when a master starts, compared when
//! it must go back. What a deployment changed is then known exactly: a link, or the file.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// As the kernel (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// The way from a path as named to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// In the order they are followed.
    pub(super) links: Vec<Link>,
    /// Where it ends; free of links. The file itself may be missing.
    pub(super) target: PathBuf,
}

/// A symbolic link on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Where the link itself is; its directory is free of links.
    pub(super) at: PathBuf,
    /// What it says.
    pub(super) to: PathBuf,
    /// What remained to be looked up behind it.
    pub(super) rest: PathBuf,
}

impl Link {
    /// What the path leads to when this link says `to`: free of this link, not of others.
    pub(super) fn leads_to(&self) -> PathBuf {
        let target = self.directory().join(&self.to);
        if self.rest.as_os_str().is_empty() {
            target
        } else {
            target.join(&self.rest)
        }
    }

    /// The same link, saying what would make the path lead to `wanted`.
    pub(super) fn leading_to(&self, wanted: &Path) -> Option<Self> {
        let base = without_suffix(wanted, &self.rest)?;
        let to = if self.to.is_relative() {
            base.strip_prefix(self.directory())
                .map_or_else(|_| base.clone(), Path::to_owned)
        } else {
            base
        };
        Some(Self { to, ..self.clone() })
    }

    pub(super) fn directory(&self) -> &Path {
        self.at.parent().unwrap_or(Path::new("/"))
    }
}

impl Route {
    /// Follows `path` (absolute).
    pub(super) fn walk(path: &Path) -> io::Result<Self> {
        Self::walk_as_if(path, None)
    }

    /// Follows `path` as if a link said something else.
    pub(super) fn walk_as_if(path: &Path, changed: Option<&Link>) -> io::Result<Self> {
        let mut links = Vec::new();
        let mut ahead = VecDeque::new();
        push_front(&mut ahead, path);
        let mut target = PathBuf::from("/");
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                target.pop();
                continue;
            }
            let at = target.join(&name);
            let Some(to) = read_link(&at, changed)? else {
                target = at;
                continue;
            };
            if links.len() == MOST_LINKS {
                return Err(io::Error::from_raw_os_error(nix::libc::ELOOP));
            }
            if to.is_absolute() {
                target = PathBuf::from("/");
            }
            let rest = ahead.iter().collect();
            push_front(&mut ahead, &to);
            links.push(Link { at, to, rest });
        }
        Ok(Self { links, target })
    }

    /// The link, as it was on this way, that says something else `now`; the first, for behind it
    /// all may differ.
    pub(super) fn changed<'a>(&'a self, now: &Self) -> Option<&'a Link> {
        let (was, is) = self
            .links
            .iter()
            .zip(&now.links)
            .find(|(was, is)| was != is)?;
        (was.at == is.at).then_some(was)
    }

    /// The link there, if it is on this way.
    pub(super) fn link_at(&self, at: &Path) -> Option<&Link> {
        self.links.iter().find(|link| link.at == at)
    }
}

fn read_link(at: &Path, changed: Option<&Link>) -> io::Result<Option<PathBuf>> {
    if let Some(link) = changed.filter(|link| link.at == at) {
        return Ok(Some(link.to.clone()));
    }
    match std::fs::read_link(at) {
        Ok(to) => Ok(Some(to)),
        // No link; nothing there; behind a file. Whoever opens the target will say so.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
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

fn without_suffix(path: &Path, suffix: &Path) -> Option<PathBuf> {
    if !path.ends_with(suffix) {
        return None;
    }
    let keep = path.components().count() - suffix.components().count();
    Some(path.components().take(keep).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// `app/current -> stage -> releases/42`, `releases/{41,42}/bin`.
    fn lab() -> (TempDir, PathBuf) {
        let dir = TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap().join("app");
        for release in ["41", "42"] {
            fs::create_dir_all(root.join("releases").join(release).join("bin")).unwrap();
        }
        symlink("releases/42", root.join("stage")).unwrap();
        symlink("stage", root.join("current")).unwrap();
        (dir, root)
    }

    #[test]
    fn a_plain_path_has_no_links() {
        let (_dir, root) = lab();
        let path = root.join("releases/42/bin/app");
        let route = Route::walk(&path).unwrap();
        assert_eq!(route.links, []);
        assert_eq!(route.target, path);
    }

    #[test]
    fn every_link_on_the_way_is_noted_with_what_is_behind_it() {
        let (_dir, root) = lab();
        let route = Route::walk(&root.join("current/bin/app")).unwrap();
        assert_eq!(route.target, root.join("releases/42/bin/app"));
        let rest = PathBuf::from("bin/app");
        let link = |at: &str, to: &str| Link {
            at: root.join(at),
            to: to.into(),
            rest: rest.clone(),
        };
        let (current, stage) = (link("current", "stage"), link("stage", "releases/42"));
        assert_eq!(current.leads_to(), root.join("stage/bin/app"));
        assert_eq!(stage.leads_to(), route.target);
        assert_eq!(route.links, [current, stage]);
    }

    #[test]
    fn the_link_that_was_changed_is_found() {
        let (_dir, root) = lab();
        let path = root.join("current/bin/app");
        let before = Route::walk(&path).unwrap();
        assert_eq!(before.changed(&Route::walk(&path).unwrap()), None);
        fs::remove_file(root.join("stage")).unwrap();
        symlink("releases/41", root.join("stage")).unwrap();
        let after = Route::walk(&path).unwrap();
        assert_eq!(before.changed(&after), Some(&before.links[1]));
        let back = Route::walk_as_if(&path, Some(&before.links[1])).unwrap();
        assert_eq!(back, before);
    }

    #[test]
    fn a_link_that_became_a_directory_was_not_changed_but_replaced() {
        let (_dir, root) = lab();
        let path = root.join("stage/bin/app");
        let before = Route::walk(&path).unwrap();
        fs::remove_file(root.join("stage")).unwrap();
        fs::create_dir(root.join("stage")).unwrap();
        assert_eq!(before.changed(&Route::walk(&path).unwrap()), None);
    }

    #[test]
    fn a_link_can_be_made_to_lead_elsewhere() {
        let (_dir, root) = lab();
        let route = Route::walk(&root.join("stage/bin/app")).unwrap();
        let wanted = root.join("releases/41/bin/app");
        let changed = route.links[0].leading_to(&wanted).unwrap();
        assert_eq!(changed.to, Path::new("releases/41"));
        assert_eq!(changed.leads_to(), wanted);
        assert_eq!(route.links[0].leading_to(Path::new("/x/bin/other")), None);
        let outside = route.links[0].leading_to(Path::new("/x/bin/app")).unwrap();
        assert_eq!(outside.to, Path::new("/x"));
    }

    #[test]
    fn links_upwards_and_absolute_ones_are_followed() {
        let (_dir, root) = lab();
        symlink("../releases/41", root.join("releases/up")).unwrap();
        symlink(root.join("releases/up"), root.join("absolute")).unwrap();
        let route = Route::walk(&root.join("./absolute/../42/bin/app")).unwrap();
        assert_eq!(route.target, root.join("releases/42/bin/app"));
    }

    #[test]
    fn a_loop_ends() {
        let (_dir, root) = lab();
        symlink("loop", root.join("loop")).unwrap();
        let error = Route::walk(&root.join("loop/app")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ELOOP));
    }
}
