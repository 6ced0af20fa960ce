//! A directory with a program of build 1 that runs, and its store.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::machine::trial::Name;
use crate::master::store::{Found, Store};
use crate::sys::image::Image;
use crate::sys::image::fixture::{id, program, put};

pub(super) struct Lab {
    _dir: Option<TempDir>,
    pub(super) root: PathBuf,
    pub(super) path: PathBuf,
    pub(super) store: Store,
}

impl Lab {
    /// `handover`, a plain file.
    pub(super) fn plain() -> Self {
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

    pub(super) fn linked_file() -> Self {
        Self::releases(|root| {
            symlink("releases/41/bin/handover", root.join("handover")).unwrap();
            root.join("handover")
        })
    }

    pub(super) fn linked_directory() -> Self {
        Self::releases(|root| {
            symlink("releases/41", root.join("current")).unwrap();
            root.join("current/bin/handover")
        })
    }

    pub(super) fn new(make: impl FnOnce(&Path) -> PathBuf) -> Self {
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

    pub(super) fn on(root: &Path) -> Self {
        let path = root.join("handover");
        put(&path, &program(1));
        Self {
            _dir: None,
            root: root.to_owned(),
            store: store(&path),
            path,
        }
    }

    pub(super) fn named(&self, name: Name) -> PathBuf {
        self.store.place().unwrap().named(name)
    }

    /// A release of this build replaces the file, as dpkg does.
    pub(super) fn release(&self, build: u8) -> Found {
        let new = self.root.join("incoming");
        put(&new, &program(build));
        fs::rename(new, &self.path).unwrap();
        self.found()
    }

    pub(super) fn repoint(&self, link: &str, to: impl AsRef<Path>) -> Found {
        let link = self.root.join(link);
        symlink(to, link.with_extension("new")).unwrap();
        fs::rename(link.with_extension("new"), link).unwrap();
        self.found()
    }

    pub(super) fn found(&self) -> Found {
        Found::of(&self.store.open())
    }

    /// A master that runs what is at the path now.
    pub(super) fn next(&self) -> Store {
        store(&self.path)
    }

    /// A master that runs this build, from anywhere.
    pub(super) fn next_of(&self, build: u8) -> Store {
        let dir = TempDir::new().unwrap();
        put(&dir.path().join("elsewhere"), &program(build));
        let image = Image::open(&dir.path().join("elsewhere")).unwrap();
        Store::new(self.path.clone(), Arc::new(image)).unwrap()
    }

    pub(super) fn build(&self, name: Name) -> Option<String> {
        self.store.build(name)
    }

    /// What is at the path, `.good`, `.old` and `.rejected`.
    #[track_caller]
    pub(super) fn expect(&self, path: u8, good: Option<u8>, old: Option<u8>, rejected: Option<u8>) {
        let names = [Name::Program, Name::Good, Name::Old, Name::Rejected];
        let expected = [Some(path), good, old, rejected].map(|build| build.map(id));
        assert_eq!(names.map(|name| self.build(name)), expected);
    }

    #[track_caller]
    pub(super) fn expect_names(&self, expected: &[&str]) {
        assert_eq!(names(&self.root), expected);
    }

    pub(super) fn says(&self, link: &str) -> PathBuf {
        fs::read_link(self.root.join(link)).unwrap()
    }

    pub(super) fn sh(&self, script: &str) {
        let status = Command::new("sh")
            .args(["-euc", script])
            .current_dir(&self.root)
            .status();
        assert!(status.unwrap().success(), "{script}");
    }
}

/// What a master that runs the file at `path` now has.
pub(super) fn store(path: &Path) -> Store {
    let running = Arc::new(Image::open(path).unwrap());
    Store::new(path.to_owned(), running).unwrap()
}

pub(super) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(super) fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}
