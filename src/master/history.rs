//! What outlives a master, in the state directory: the upgrades that ended, one JSON object a
//! line (`history.jsonl`), builds that were refused (`refused`), what the previous generation ran with
//! (`previous.toml`), for a rollback after the commit, and the application's releases
//! (`releases.json`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::replace::{ReplaceError, Temp, failed, sweep};
use crate::api::Last;
use crate::machine::message::KeptConfig;

/// When there are more lines than this...
const MOST_LINES: usize = 1000;
/// ...only so many of the newest are kept.
const KEPT_LINES: usize = 500;

/// So many refused builds are remembered.
const KEPT_REFUSED: usize = 50;

/// The state directory.
#[derive(Debug, Clone)]
pub struct History {
    directory: PathBuf,
}

/// What the previous generation was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// Its version.
    pub version: String,
    /// Its build: when `.old` is another one, this configuration is not for it.
    pub build_id: String,
    /// What it ran with.
    pub config: KeptConfig,
}

/// The state directory could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    #[error(transparent)]
    Write(#[from] ReplaceError),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot understand {}: {source}; go back with an explicit configuration", path.display())]
    Decode {
        path: PathBuf,
        source: toml::de::Error,
    },
    #[error("cannot understand {}: {source}; the next word about a release begins it anew", path.display())]
    Releases {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl History {
    /// In this directory, which is made at the first write.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Removes what a crashed process left half done; says how many files.
    #[must_use]
    pub fn tidy(&self) -> usize {
        let files = [
            self.log(),
            self.previous_file(),
            self.refused_file(),
            self.releases_file(),
        ];
        files.iter().map(|file| sweep(file)).sum()
    }

    /// Writes down how an upgrade goes, or ended: in the place of the newest line, if that is about the
    /// same one; otherwise as a new line, and the later one counts. Two masters may do so at once.
    pub fn write(&self, last: &Last) -> Result<(), HistoryError> {
        let path = self.log();
        self.make_directory()?;
        let fail = || failed("write a line to", &path);
        let mut line = serde_json::to_string(last).map_err(|e| fail()(e.into()))?;
        line.push('\n');
        let mut file = lock(&path).map_err(fail())?;
        let bytes = read(&mut file).map_err(fail())?;
        let text = String::from_utf8_lossy(&bytes);
        let mut lines: Vec<_> = text.lines().collect();
        let newest = lines.last().and_then(|line| understand(line));
        let corrects = newest.is_some_and(|newest| newest.id == last.id && newest.gives_way(last));
        lines.truncate(lines.len() - usize::from(corrects));
        if corrects || lines.len() >= MOST_LINES {
            let from = if corrects {
                0
            } else {
                lines.len() - (KEPT_LINES - 1)
            };
            let kept = lines[from..].iter().flat_map(|line| [line, "\n"]);
            let kept: String = kept.chain([&*line]).collect();
            // Under the lock: who waits for it sees that the file is another one then.
            return self.put(&path, kept.as_bytes());
        }
        if bytes.last().is_some_and(|end| *end != b'\n') {
            // A crash cut the line before.
            line.insert(0, '\n');
        }
        file.write_all(line.as_bytes())
            .and_then(|()| file.sync_data())
            .map_err(|e| {
                // A full disk takes half a line; give it back.
                let _ = file.set_len(bytes.len() as u64);
                fail()(e)
            })?;
        Ok(())
    }

    /// The upgrades that ended, oldest first. Lines that cannot be understood (cut by a crash,
    /// written by a newer version) are left out.
    pub fn all(&self) -> Result<Vec<Last>, HistoryError> {
        let bytes = read_if_there(&self.log())?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut all: Vec<Last> = Vec::new();
        for last in text.lines().filter_map(understand) {
            merge(&mut all, last);
        }
        Ok(all)
    }

    /// Builds that failed or were rolled back, oldest first.
    pub fn refused(&self) -> Result<Vec<String>, HistoryError> {
        let bytes = read_if_there(&self.refused_file())?;
        let text = String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default();
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Adds a build to them.
    pub fn refuse(&self, build: &str) -> Result<(), HistoryError> {
        self.change_refused(build, true)
    }

    /// Takes one out.
    pub fn forgive(&self, build: &str) -> Result<(), HistoryError> {
        self.change_refused(build, false)
    }

    fn change_refused(&self, build: &str, refused: bool) -> Result<(), HistoryError> {
        let mut builds = self.refused()?;
        if builds.iter().any(|known| known == build) == refused {
            return Ok(());
        }
        builds.retain(|known| known != build);
        builds.extend(refused.then(|| build.to_owned()));
        let newest = builds.len().saturating_sub(KEPT_REFUSED);
        let text: String = builds[newest..].iter().flat_map(|b| [b, "\n"]).collect();
        self.put(&self.refused_file(), text.as_bytes())
    }

    /// Keeps what this generation ran with (a [`Previous`], in TOML), for the way back from the next one.
    pub fn save_previous(&self, text: &str) -> Result<(), HistoryError> {
        self.put(&self.previous_file(), text.as_bytes())
    }

    /// What the previous generation ran with; `None` when nothing was kept.
    pub fn previous(&self) -> Result<Option<Previous>, HistoryError> {
        let path = self.previous_file();
        let Some(bytes) = read_if_there(&path)? else {
            return Ok(None);
        };
        toml::from_str(&String::from_utf8_lossy(&bytes))
            .map(Some)
            .map_err(|source| HistoryError::Decode { path, source })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn log(&self) -> PathBuf {
        self.directory.join("history.jsonl")
    }

    fn refused_file(&self) -> PathBuf {
        self.directory.join("refused")
    }

    fn previous_file(&self) -> PathBuf {
        self.directory.join("previous.toml")
    }

    /// What the configuration names may be nobody's business.
    pub(super) fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), HistoryError> {
        self.make_directory()?;
        Ok(Temp::bytes(path, bytes, MODE)?.put(path)?)
    }

    fn make_directory(&self) -> Result<(), ReplaceError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.directory)
            .map_err(failed("make the state directory", &self.directory))
    }
}

const MODE: u32 = 0o640;

/// One upgrade more. Written down again when figures came late: where it was first, as it was last.
pub(super) fn merge(all: &mut Vec<Last>, last: Last) {
    match all.iter_mut().rev().find(|known| known.id == last.id) {
        Some(known) if known.gives_way(&last) => *known = last,
        Some(_) => {}
        None => all.push(last),
    }
}

/// `None`: it was cut by a crash, or written by a newer version.
fn understand(line: &str) -> Option<Last> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    serde_json::from_value(value).ok()
}

/// Opens the file for appending and locks it; it is the one at `path` when this returns. Whoever writes a
/// line holds it for a moment; anybody may hold it for longer.
#[expect(
    clippy::disallowed_methods,
    reason = "no event tells that a lock is free"
)]
fn lock(path: &Path) -> io::Result<File> {
    let until = Instant::now() + LOCKING;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(MODE)
            .open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(AGAIN);
                continue;
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::other("another process holds its lock"));
            }
            locked => locked?,
        }
        let (ours, there) = (file.metadata()?, fs::metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            return Ok(file);
        }
    }
}

/// For another master to write its line.
const LOCKING: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(1);

pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, HistoryError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HistoryError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::api::{Connections, Outcome};
    use crate::config::{Config, ListenerConfig, Workers};
    use crate::sys::image::fixture::Mount;

    fn ended(n: usize) -> Last {
        Last {
            id: format!("{n:032x}"),
            from: "1.0".into(),
            to: Some("1.1".into()),
            to_build: None,
            outcome: Outcome::RolledBack,
            reason: Some("the health check said 503:\n\"no\"".into()),
            finished_at: "2026-11-22T15:00:00Z".into(),
            takeover_ms: Some(12),
            drain_ms: None,
            connections: Connections::default(),
            releases: None,
        }
    }

    fn lab() -> (TempDir, History) {
        let dir = TempDir::new().unwrap();
        let history = History::new(dir.path().join("state"));
        (dir, history)
    }

    fn ids(history: &History) -> Vec<String> {
        history.all().unwrap().into_iter().map(|l| l.id).collect()
    }

    #[test]
    fn what_was_added_is_read_in_order() {
        let (_dir, history) = lab();
        assert_eq!(history.all().unwrap(), []);
        for n in 0..3 {
            history.write(&ended(n)).unwrap();
        }
        assert_eq!(history.all().unwrap(), [ended(0), ended(1), ended(2)]);
    }

    #[test]
    fn of_two_lines_about_one_upgrade_the_later_counts_in_the_place_of_the_first() {
        let (_dir, history) = lab();
        for n in 0..3 {
            history.write(&ended(n)).unwrap();
        }
        let mut late = ended(1);
        late.connections.finished = 7;
        history.write(&late).unwrap();
        assert_eq!(history.all().unwrap(), [ended(0), late, ended(2)]);
    }

    #[test]
    fn the_newest_line_is_corrected_in_its_place() {
        let (_dir, history) = lab();
        let late = |n| {
            let mut late = ended(n);
            late.connections.passed = 9;
            late
        };
        history.write(&ended(0)).unwrap();
        history.write(&late(0)).unwrap();
        history.write(&ended(1)).unwrap();
        history.write(&late(1)).unwrap();
        assert_eq!(history.all().unwrap(), [late(0), late(1)]);
        let text = fs::read_to_string(history.log()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        // Not the newest: the lines of others are left alone.
        history.write(&ended(0)).unwrap();
        assert_eq!(history.all().unwrap(), [ended(0), late(1)]);
    }

    #[test]
    fn a_line_cut_by_a_crash_costs_only_itself() {
        let (_dir, history) = lab();
        history.write(&ended(0)).unwrap();
        let text = fs::read_to_string(history.log()).unwrap();
        fs::write(history.log(), text.clone() + &text[..50]).unwrap();
        assert_eq!(history.all().unwrap(), [ended(0)]);
        history.write(&ended(1)).unwrap();
        assert_eq!(history.all().unwrap(), [ended(0), ended(1)]);
    }

    #[test]
    fn lines_of_another_version_are_kept_but_not_read() {
        let (_dir, history) = lab();
        history.write(&ended(0)).unwrap();
        let strange = "{\"id\":\"x\",\"outcome\":\"teleported\"}\n\u{fffd}\n";
        let mut text = fs::read_to_string(history.log()).unwrap();
        text.push_str(strange);
        fs::write(history.log(), text).unwrap();
        history.write(&ended(1)).unwrap();
        assert_eq!(history.all().unwrap(), [ended(0), ended(1)]);
        assert!(fs::read_to_string(history.log()).unwrap().contains(strange));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let (_dir, history) = lab();
        let line = |n| serde_json::to_string(&ended(n)).unwrap() + "\n";
        let but_one: String = (0..MOST_LINES - 1).map(line).collect();
        history.make_directory().unwrap();
        fs::write(history.log(), but_one).unwrap();
        history.write(&ended(MOST_LINES - 1)).unwrap();
        assert_eq!(history.all().unwrap().len(), MOST_LINES);
        history.write(&ended(MOST_LINES)).unwrap();
        let all = history.all().unwrap();
        assert_eq!(all.len(), KEPT_LINES);
        assert_eq!(all[0], ended(MOST_LINES - KEPT_LINES + 1));
        assert_eq!(all[KEPT_LINES - 1], ended(MOST_LINES));
    }

    /// It was written late, by a master that was held up.
    #[test]
    fn that_it_goes_never_takes_the_place_of_how_it_ended() {
        let (_dir, history) = lab();
        for n in 0..2 {
            history.write(&ended(n)).unwrap();
        }
        // Of the newest, and of one before it.
        for n in [1, 0] {
            let outcome = Outcome::UnderWay;
            history
                .write(&Last {
                    outcome,
                    ..ended(n)
                })
                .unwrap();
            assert_eq!(history.all().unwrap(), [ended(0), ended(1)]);
        }
    }

    #[test]
    fn masters_that_write_at_the_same_time_lose_no_line() {
        let (_dir, history) = lab();
        let filler: String = (0..MOST_LINES - 20).map(|_| "{}\n").collect();
        history.make_directory().unwrap();
        fs::write(history.log(), filler).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let history = &history;
                scope.spawn(move || {
                    for n in 0..20 {
                        // Another one holds the lock for long, on a slow disk.
                        while history.write(&ended(thread * 20 + n)).is_err() {}
                    }
                });
            }
        });
        let mut seen = ids(&history);
        seen.sort();
        let expected: Vec<_> = (0..80).map(|n| ended(n).id).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_full_disk_is_said_and_spoils_nothing() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount");
            return;
        }
        let mount = Mount::tmpfs("size=16k");
        let history = History::new(mount.path().join("state"));
        let mut written = 0;
        let error = loop {
            match history.write(&ended(written)) {
                Ok(()) => written += 1,
                Err(e) => break e,
            }
        };
        let text = error.to_string();
        assert!(
            text.contains("history.jsonl") && text.contains("os error 28"),
            "{text}"
        );
        assert_eq!(history.all().unwrap().len(), written);
        let end = fs::read_to_string(history.log()).unwrap();
        assert!(end.ends_with("}\n"), "half a line was left");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let history = History::new(dir.path().join("file/state"));
        let text = history.write(&ended(0)).unwrap_err().to_string();
        assert!(text.contains("file/state"), "{text}");
    }

    #[test]
    fn a_configuration_comes_back_exactly() {
        let (_dir, history) = lab();
        assert_eq!(history.previous().unwrap(), None);
        let mut config = Config {
            workers: Workers::Count(3),
            threads: 4,
            ..Config::default()
        };
        config.listeners = vec![
            ListenerConfig {
                name: "http".into(),
                address: Some("[::]:80".into()),
                backlog: Some(4096),
                mode: None,
                group: None,
                tls: false,
                proxy_protocol: false,
                redirect: None,
            },
            ListenerConfig {
                name: "local".into(),
                address: Some("unix:/run/a \"b\"\\c.sock".into()),
                backlog: None,
                mode: Some("0660".into()),
                group: Some("www".into()),
                tls: false,
                proxy_protocol: false,
                redirect: None,
            },
        ];
        config.site.root = Some("/srv/ünï code".into());
        config.http.max_connections = u64::try_from(i64::MAX).unwrap();
        config.upgrade.probation = Duration::new(61, 1_002_003);
        config.drain.timeout = Duration::ZERO;
        config.log.access = "multi\nline".into();
        for config in [Config::default(), config] {
            let previous = Previous {
                version: "1.2.3-4".into(),
                build_id: "ab".repeat(20),
                config: KeptConfig::of(&config),
            };
            let text = toml::to_string(&previous).unwrap();
            history.save_previous(&text).unwrap();
            let kept = history.previous().unwrap().unwrap();
            assert_eq!(kept, previous);
            assert_eq!(kept.config.read().unwrap(), config);
        }
        assert_eq!(history.tidy(), 0);
    }

    #[test]
    fn a_configuration_of_another_version_is_kept_word_for_word() {
        let (_dir, history) = lab();
        history.make_directory().unwrap();
        let text = "version = \"3.0\"\nbuild_id = \"ab\"\n[config.later]\nbanner = \"x\"\n";
        fs::write(history.previous_file(), text).unwrap();
        let previous = history.previous().unwrap().unwrap();
        assert!(previous.config.read().is_err(), "it is not for us");
        let text = toml::to_string(&previous).unwrap();
        history.save_previous(&text).unwrap();
        let kept = fs::read_to_string(history.previous_file()).unwrap();
        assert!(
            kept.contains("banner = \"x\"") && !kept.contains("drain"),
            "{kept}"
        );
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        let (_dir, history) = lab();
        history.make_directory().unwrap();
        fs::write(history.previous_file(), "version = 1\n").unwrap();
        let text = history.previous().unwrap_err().to_string();
        assert!(
            text.contains("previous.toml") && text.contains("explicit"),
            "{text}"
        );
    }
}
