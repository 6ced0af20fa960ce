//! A release: the directory that a hosted application runs in, and what makes it another one.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::{App, read_small};

/// A release, as it is or was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The directory itself: no link leads on from it.
    pub path: PathBuf,
    /// Two that differ are two releases.
    pub identity: String,
}

impl Release {
    /// What is at `directory` now. A file `release` in it says by its content which release that is.
    /// Without one, and where no link leads from one release to the next, the directory's own change
    /// time does; behind a link it does not, because what a program writes beside itself (a database,
    /// a pid file) would be another release. Other values in its files of variables make it another
    /// one, too.
    pub fn of(directory: &Path, app: &App) -> io::Result<Self> {
        let path = directory.canonicalize()?;
        let metadata = path.metadata()?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        // Not the device: its number may be another one after a reboot.
        let mut identity = metadata.ino().to_string();
        if let Ok(said) = read_small(&path.join("release")) {
            let _ = write!(identity, ":{}", digest(&said));
        } else if !app.directory.is_symlink() {
            let (seconds, nanos) = (metadata.ctime(), metadata.ctime_nsec());
            let _ = write!(identity, ":{seconds}.{nanos:09}");
        }
        for file in &app.env_files {
            let _ = write!(identity, ":{}", digest(&read_small(file)?));
        }
        Ok(Self { path, identity })
    }

    /// What was written into it since is part of it.
    pub fn look_again(&mut self, app: &App) {
        if let Ok(now) = Self::of(&self.path, app) {
            self.identity = now.identity;
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in &Sha256::digest(bytes)[..8] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn scene() -> (tempfile::TempDir, App) {
        let dir = tempfile::tempdir().unwrap();
        for release in ["1", "2"] {
            fs::create_dir(dir.path().join(release)).unwrap();
        }
        fs::write(dir.path().join("env"), "A=1\n").unwrap();
        symlink("1", dir.path().join("current")).unwrap();
        let app = App {
            env_files: vec![dir.path().join("env")],
            ..App::default()
        };
        (dir, app)
    }

    #[test]
    fn a_release_is_where_the_link_leads_and_what_it_says_it_is() {
        let (dir, app) = scene();
        let current = dir.path().join("current");
        let now = || Release::of(&current, &app).unwrap();
        let first = now();
        assert_eq!(first.path, dir.path().join("1").canonicalize().unwrap());
        assert_eq!(now(), first);

        fs::write(dir.path().join("1/release"), "41\n").unwrap();
        let named = now();
        assert_ne!(named, first);
        // What a program writes beside it is no other release then.
        fs::create_dir(dir.path().join("1/__pycache__")).unwrap();
        assert_eq!(now(), named);
        fs::write(dir.path().join("1/release"), "42\n").unwrap();
        assert_ne!(now(), named);

        let named = now();
        fs::write(dir.path().join("env"), "A=2\n").unwrap();
        assert_ne!(now(), named);
        let link = crate::sys::link::Link::find(&current).unwrap();
        assert!(link.point(&dir.path().join("2")).unwrap());
        assert_eq!(now().path, dir.path().join("2").canonicalize().unwrap());
    }

    #[test]
    fn without_a_name_what_it_wrote_while_it_started_is_part_of_it() {
        let (dir, app) = scene();
        let current = dir.path().join("current");
        let mut release = Release::of(&current, &app).unwrap();
        fs::create_dir(dir.path().join("1/__pycache__")).unwrap();
        assert_ne!(Release::of(&current, &app).unwrap(), release);
        release.look_again(&app);
        assert_eq!(Release::of(&current, &app).unwrap(), release);
    }

    #[test]
    fn behind_a_link_what_a_program_writes_is_no_other_release() {
        let (dir, mut app) = scene();
        app.directory = dir.path().join("current");
        let release = Release::of(&app.directory, &app).unwrap();
        fs::write(dir.path().join("1/blog.sqlite-journal"), "").unwrap();
        assert_eq!(Release::of(&app.directory, &app).unwrap(), release);
        assert_eq!(Release::of(&release.path, &app).unwrap(), release);
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_holds_nobody_up() {
        let (dir, app) = scene();
        nix::unistd::mkfifo(
            &dir.path().join("1/release"),
            nix::sys::stat::Mode::from_bits_truncate(0o600),
        )
        .unwrap();
        Release::of(&dir.path().join("current"), &app).unwrap();
        let big = fs::File::create(dir.path().join("env")).unwrap();
        big.set_len((1 << 20) + 1).unwrap();
        let error = Release::of(&dir.path().join("current"), &app).unwrap_err();
        assert_eq!(error.to_string(), "it has more than 1 MiB");
    }

    #[test]
    fn a_file_is_no_release() {
        let (dir, app) = scene();
        assert!(Release::of(&dir.path().join("env"), &app).is_err());
        assert!(Release::of(&dir.path().join("gone"), &app).is_err());
    }
}
