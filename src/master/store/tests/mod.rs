//! Against real files; where root is needed and missing, a test says so.

mod deputy;
mod going_back;
mod installing;
mod keeping;
mod links;
mod restoring;
mod unprivileged;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::sys::image::fixture::{self, Mount, id, program, put};

/// A directory with a binary of build 1 that runs, and its store.
struct Lab {
    _dir: Option<TempDir>,
    root: PathBuf,
    path: PathBuf,
    store: Store,
}

impl Lab {
    /// `handover`, a plain file.
    fn plain() -> Self {
        Self::new(|root| {
            put(&root.join("handover"), &program(1));
            root.join("handover")
        })
    }

    /// `releases/{41,42}/bin/handover` of builds 1 and 2; `make` makes the links.
    fn releases(make: impl FnOnce(&Path) -> PathBuf) -> Self {
        Self::new(|root| {
            for (release, build) in [("41", 1), ("42", 2)] {
                let bin = root.join("releases").join(release).join("bin");
                fs::create_dir_all(&bin).unwrap();
                put(&bin.join("handover"), &program(build));
            }
            make(root)
        })
    }

    fn linked_file() -> Self {
        Self::releases(|root| {
            symlink("releases/41/bin/handover", root.join("handover")).unwrap();
            root.join("handover")
        })
    }

    fn linked_directory(absolute: bool) -> Self {
        Self::releases(|root| {
            let to = if absolute { root } else { Path::new("") };
            symlink(to.join("releases/41"), root.join("current")).unwrap();
            root.join("current/bin/handover")
        })
    }

    fn new(make: impl FnOnce(&Path) -> PathBuf) -> Self {
        let dir = TempDir::new().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let path = make(&root);
        Self {
            _dir: Some(dir),
            root,
            store: store(&path),
            path,
        }
    }

    fn on(mount: &Mount) -> Self {
        let path = mount.path().join("handover");
        put(&path, &program(1));
        Self {
            _dir: None,
            root: mount.path().to_owned(),
            store: store(&path),
            path,
        }
    }

    fn named(&self, suffix: &str) -> PathBuf {
        self.store.named(suffix)
    }

    /// A release of this build replaces the file, as dpkg does.
    fn release(&self, build: u8) -> Found {
        put(&self.named(".dpkg-new"), &program(build));
        fs::rename(self.named(".dpkg-new"), &self.path).unwrap();
        self.found()
    }

    fn repoint(&self, link: &str, to: impl AsRef<Path>) -> Found {
        let link = self.root.join(link);
        symlink(to, link.with_extension("new")).unwrap();
        fs::rename(link.with_extension("new"), link).unwrap();
        self.found()
    }

    fn found(&self) -> Found {
        Found::of(&self.store.open())
    }

    /// What is at the path, at `.old` and at `.rejected`.
    fn builds(&self) -> [Option<String>; 3] {
        ["", ".old", ".rejected"].map(|suffix| build_at(&self.named(suffix)))
    }

    #[track_caller]
    fn expect(&self, path: u8, old: Option<u8>, rejected: Option<u8>) {
        let expected = [Some(path), old, rejected].map(|build| build.map(id));
        assert_eq!(self.builds(), expected);
    }

    #[track_caller]
    fn expect_names(&self, expected: &[&str]) {
        assert_eq!(names(&self.root), expected);
    }

    fn says(&self, link: &str) -> PathBuf {
        fs::read_link(self.root.join(link)).unwrap()
    }
}

/// What a master that runs the file at `path` now has.
fn store(path: &Path) -> Store {
    let running = Arc::new(Image::open(path).unwrap());
    Store::new(path.to_owned(), running).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can mount");
    }
    root
}

#[test]
fn the_path_must_be_absolute() {
    for path in ["handover", "./handover", "/"] {
        let running = Arc::new(Image::running().unwrap());
        let error = Store::new(path.into(), running).unwrap_err();
        assert!(matches!(error, StoreError::Relative { .. }), "{path}");
    }
}

#[test]
fn status_says_what_is_on_disk() {
    let lab = Lab::plain();
    let disk = lab.store.disk();
    assert_eq!(disk.path, lab.path);
    assert_eq!((disk.build_id, disk.matches_running), (Some(id(1)), true));
    lab.release(2);
    let disk = lab.store.disk();
    assert_eq!((disk.build_id, disk.matches_running), (Some(id(2)), false));
    fs::remove_file(&lab.path).unwrap();
    let disk = lab.store.disk();
    assert_eq!((disk.build_id, disk.matches_running), (None, false));
}

#[test]
fn a_trial_is_marked_and_committed() {
    let lab = Lab::plain();
    assert_eq!(lab.store.trial(), None);
    lab.store.mark_trial(&id(2)).unwrap();
    assert_eq!(
        fs::read_to_string(lab.named(".trial")).unwrap(),
        id(2) + "\n"
    );
    lab.store.commit().unwrap();
    lab.store.commit().unwrap();
    lab.expect_names(&["handover"]);
}

#[test]
fn a_master_started_from_a_file_that_is_gone_can_still_restore_it() {
    let lab = Lab::linked_file();
    let running = Arc::clone(lab.store.running());
    lab.repoint("handover", "releases/42/bin/handover");
    // It never saw the link as it was.
    let late = Store::new(lab.path.clone(), running).unwrap();
    late.restore(&lab.found()).unwrap();
    assert_eq!(lab.says("handover"), Path::new("releases/42/bin/handover"));
    lab.expect(1, None, Some(2));
}

#[test]
fn leftovers_of_a_crash_are_removed_wherever_we_write() {
    let lab = Lab::linked_directory(false);
    let dead = {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    };
    for leftover in [
        format!(".current.{dead}.0.tmp"),
        format!("releases/41/bin/.handover.{dead}.0.tmp"),
        format!("releases/41/bin/.handover.old.{dead}.0.tmp"),
        format!("releases/41/bin/.handover.trial.{dead}.0.tmp"),
    ] {
        fs::write(lab.root.join(leftover), "half").unwrap();
    }
    assert_eq!(lab.store.tidy(), 4);
    lab.expect_names(&["current", "releases"]);
    assert_eq!(names(&lab.root.join("releases/41/bin")), ["handover"]);
    assert_eq!(lab.store.tidy(), 0);
}

#[test]
fn programs_without_a_build_id_are_told_apart_too() {
    let lab = Lab::new(|root| {
        put(&root.join("handover"), &fixture::without_build_id(1));
        root.join("handover")
    });
    put(&lab.path, &fixture::without_build_id(2));
    let bad = lab.found();
    lab.store.keep_old().unwrap();
    lab.store.restore(&bad).unwrap();
    assert_eq!(fs::read(&lab.path).unwrap(), fixture::without_build_id(1));
    assert!(lab.store.disk().matches_running);
}
