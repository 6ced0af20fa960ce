//! Every case of the table (state x verb), carried out on real files by our own hand.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::machine::trial::File;
use crate::machine::trial::cases::{self, BUILDS, Disk, NO_PROGRAM, Verb};
use crate::master::store::{Found, Store};
use crate::sys::image::Image;
use crate::sys::image::fixture::{id, program, put};

/// The five files as a case wants them, and what they are afterwards.
pub(super) struct Files {
    _dir: TempDir,
    root: PathBuf,
    /// The content of each build, and what `.tries` calls it.
    contents: HashMap<char, (Vec<u8>, String)>,
}

impl Files {
    pub(super) fn new(contents: HashMap<char, (Vec<u8>, String)>, dir: TempDir) -> Self {
        Self {
            root: dir.path().to_owned(),
            _dir: dir,
            contents,
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn program(&self) -> PathBuf {
        self.root().join("handover")
    }

    pub(super) fn name(&self, build: char) -> &str {
        &self.contents[&build].1
    }

    fn at(&self, suffix: &str) -> PathBuf {
        self.root().join(format!("handover{suffix}"))
    }

    pub(super) fn make(&self, disk: &Disk) {
        for (suffix, file) in [
            ("", &disk.program),
            (".good", &disk.good),
            (".old", &disk.old),
            (".rejected", &disk.rejected),
        ] {
            match file {
                Some(file) => put(&self.at(suffix), &self.contents[&file.id].0),
                None => drop(fs::remove_file(self.at(suffix))),
            }
        }
        if disk.shared {
            fs::remove_file(self.at(".good")).unwrap();
            fs::hard_link(self.at(""), self.at(".good")).unwrap();
        }
        match &disk.tries {
            Some((id, n)) => {
                fs::write(self.at(".tries"), format!("{} {n}\n", self.name(*id))).unwrap();
            }
            None => drop(fs::remove_file(self.at(".tries"))),
        }
    }

    pub(super) fn read(&self) -> Disk {
        let file = |suffix| {
            let bytes = fs::read(self.at(suffix)).ok()?;
            let known = self
                .contents
                .iter()
                .find(|(_, (content, _))| *content == bytes);
            let (id, _) = known.unwrap_or_else(|| panic!("{suffix}: no whole file"));
            Some(File {
                id: *id,
                usable: *id != NO_PROGRAM,
            })
        };
        let inode = |suffix| fs::metadata(self.at(suffix)).map(|meta| meta.ino()).ok();
        let tries = fs::read_to_string(self.at(".tries")).ok().map(|text| {
            let (name, n) = text.trim_end().rsplit_once(' ').unwrap();
            let known = self.contents.iter().find(|(_, (_, id))| id == name);
            (*known.unwrap().0, n.parse().unwrap())
        });
        Disk {
            program: file(""),
            good: file(".good"),
            old: file(".old"),
            rejected: file(".rejected"),
            tries,
            shared: inode("").is_some() && inode("") == inode(".good"),
        }
    }

    /// No temporary file is left.
    #[track_caller]
    pub(super) fn is_clean(&self) {
        let known = ["", ".good", ".old", ".rejected", ".tries", ".lock"];
        for name in super::names(self.root()) {
            let name = name.strip_prefix("handover");
            assert!(name.is_some_and(|name| known.contains(&name)), "{name:?}");
        }
    }
}

/// Our own hand: a master for each build.
pub(super) struct Masters {
    pub(super) files: Files,
    running: HashMap<char, Arc<Image>>,
}

impl Masters {
    pub(super) fn new() -> Self {
        // Where there is one, a disk without a head to move: each step waits for it.
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new());
        Self::of(Files::new(contents(), dir.unwrap()))
    }

    /// On the files of another process.
    pub(super) fn at(directory: &Path) -> Self {
        let mut files = Files::new(contents(), TempDir::new().unwrap());
        files.root = directory.to_owned();
        Self::of(files)
    }

    fn of(files: Files) -> Self {
        let dir = TempDir::new().unwrap();
        let running = BUILDS.map(|build| {
            let path = dir.path().join(build.to_string());
            put(&path, &files.contents[&build].0);
            (build, Arc::new(Image::open(&path).unwrap()))
        });
        Self {
            running: running.into(),
            files,
        }
    }

    /// `None`: a case that this hand cannot meet.
    pub(super) fn carry_out(&self, verb: &Verb) -> Option<()> {
        let running = verb.running().unwrap_or('a');
        let path = self.files.program();
        let store = Store::new(path, Arc::clone(&self.running[&running])).unwrap();
        match verb {
            Verb::Start => store.start().unwrap(),
            Verb::Ended(how) => store.ended(*how).unwrap(),
            Verb::Commit(_) => store.commit().unwrap(),
            Verb::Reject { running: None, .. } => return None,
            Verb::Reject { failed, .. } => {
                let there = store.look().unwrap().files.program;
                let found = match (failed, there) {
                    (Some(NO_PROGRAM), Some(file)) if !file.usable => Found::of(&store.open()),
                    (Some(NO_PROGRAM), _) => named("another file"),
                    (Some(build), _) => named(self.files.name(*build)),
                    (None, _) => Found::default(),
                };
                store.reject(&found).unwrap()
            }
        };
        Some(())
    }
}

/// Small programs.
fn contents() -> HashMap<char, (Vec<u8>, String)> {
    let builds = (1..).zip(BUILDS);
    let mut contents: HashMap<_, _> = builds
        .map(|(n, build)| (build, (program(n), id(n))))
        .collect();
    contents.insert(NO_PROGRAM, (b"no program".to_vec(), "-".into()));
    contents
}

fn named(id: &str) -> Found {
    Found {
        id: Some(id.to_owned()),
        ..Found::default()
    }
}

#[test]
fn every_case_is_carried_out_as_the_machine_says() {
    let masters = Masters::new();
    let tries = [None, Some(('a', 1)), Some(('a', 3))];
    let (states, verbs) = (cases::states(&tries), Verb::all());
    let mut told = 0;
    // Every seventh: 7 divides neither the number of verbs nor that of any file's contents, so all
    // of them meet.
    let all = states
        .iter()
        .flat_map(|disk| verbs.iter().map(move |verb| (disk, verb)));
    for (disk, verb) in all.step_by(7) {
        masters.files.make(disk);
        if masters.carry_out(verb).is_none() {
            continue;
        }
        let (expected, _) = cases::perform(disk, verb, true);
        assert_eq!(masters.files.read(), expected, "{disk:?}\n{verb:?}");
        masters.files.is_clean();
        told += 1;
    }
    println!("the program on disk, by our own hand: {told} cases");
    assert!(told > 5000, "{told}");
}
