//! `history`: the upgrades there were, from the state directory, so that it works when nothing
//! runs; with an id, the whole story from the journal.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::status::outcome;
use super::text::{self, Paint, short, table};
use crate::api::{Last, Outcome, Upgrade, exit};

/// The history file as it is: what can be read, and how much cannot.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Each line as it stands, and what it says; oldest first.
    pub upgrades: Vec<(String, Last)>,
    /// Lines that say nothing: torn by a crash, or of another version.
    pub unreadable: usize,
}

impl History {
    /// Reads the file; one that is not there is an empty history.
    pub fn read(path: &Path) -> Result<Self, HistoryError> {
        let text = match read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                return Err(HistoryError::Read {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let mut history = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            match text::understand(line.as_bytes()) {
                Ok(last) => history.add(&text::printable_json(line), last),
                Err(_) => history.unreadable += 1,
            }
        }
        Ok(history)
    }

    /// What the service knows of its last upgrade: the file may not have it yet.
    pub fn learn(&mut self, last: &Last) {
        if let Ok(line) = serde_json::to_string(last) {
            self.add(&text::printable_json(&line), last.clone());
        }
    }

    /// Of two lines about one upgrade the later counts, in the place of the first.
    fn add(&mut self, line: &str, last: Last) {
        let known = self.upgrades.iter_mut().rev();
        let mut same = known.filter(|(_, known)| known.id == last.id);
        match same.next() {
            Some(known) if known.1.gives_way(&last) => *known = (line.to_owned(), last),
            Some(_) => {}
            None => self.upgrades.push((line.to_owned(), last)),
        }
    }

    /// The upgrade whose id begins with `id`; the newest when there are several.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&(String, Last)> {
        let upgrades = self.upgrades.iter().rev();
        upgrades
            .into_iter()
            .find(|(_, last)| last.id.starts_with(id))
    }

    /// One JSON document a line, as in the file.
    #[must_use]
    pub fn lines(&self) -> String {
        let lines = self.upgrades.iter();
        lines.flat_map(|(line, _)| [line.as_str(), "\n"]).collect()
    }

    /// For people: the newest at the end, where the prompt is.
    #[must_use]
    pub fn table(&self, under_way: Option<&Upgrade>, colour: bool) -> String {
        let heading = [
            "FINISHED", "ID", "FROM", "TO", "OUTCOME", "TAKEOVER", "DRAIN", "CUT", "REASON",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        // Of the one under way the service knows more than the file.
        let told = |last: &Last| under_way.is_some_and(|upgrade| upgrade.id == last.id);
        let written = self.upgrades.iter().map(|(_, last)| last);
        rows.extend(written.filter(|last| !told(last)).map(row));
        rows.extend(under_way.map(|upgrade| {
            let phase = upgrade.phase.to_string().replace('_', " ");
            let (from, to) = upgrade.ends();
            let mut row = vec![
                "under way".to_owned(),
                short(&upgrade.id).to_owned(),
                from,
                to,
                text::one_line(&phase),
            ];
            row.extend(["-", "-", "-"].map(str::to_owned));
            row
        }));
        table(&rows, Paint(colour))
    }
}

/// The history file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It is there.
    #[error("cannot read the history {path:?}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl HistoryError {
    /// The client's exit code.
    #[must_use]
    pub fn exit(&self) -> u8 {
        let Self::Read { source, .. } = self;
        match source.kind() {
            io::ErrorKind::PermissionDenied => exit::DENIED,
            _ => exit::FAILED,
        }
    }
}

/// The service's user may have put anything there: a link is not followed (to a device that acts
/// when it is opened), a pipe is not waited for, and no more is read than a history may be.
fn read(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// More than the service keeps.
const MOST: u64 = 64 * 1024 * 1024;

fn row(last: &Last) -> Vec<String> {
    let ms =
        |ms: Option<u64>| ms.map_or("-".into(), |ms| text::duration(Duration::from_millis(ms)));
    let (from, to) = last.ends();
    vec![
        text::clock(&last.finished_at),
        short(&last.id).to_owned(),
        from,
        to,
        outcome(last.outcome).to_owned(),
        ms(last.takeover_ms),
        ms(last.drain_ms),
        last.connections.cut.to_string(),
        last.reason
            .as_deref()
            .map(text::first_line)
            .unwrap_or_default(),
    ]
}

/// What the history file knows of one upgrade, in lines.
#[must_use]
pub fn story(last: &Last) -> String {
    let ms = |ms: Option<u64>| {
        ms.map_or("not known".into(), |ms| {
            text::duration(Duration::from_millis(ms))
        })
    };
    let c = last.connections;
    let mut lines = vec![
        format!("upgrade      {}", last.id),
        format!("from         {}", last.from),
        format!("to           {}", last.to.as_deref().unwrap_or("?")),
        format!("outcome      {}", outcome(last.outcome)),
    ];
    if let Some(releases) = &last.releases {
        let (from, to) = (releases.from.display(), releases.to.display());
        lines.push(format!("release      {from} -> {to}"));
    }
    lines.extend(last.reason.iter().map(|why| format!("reason       {why}")));
    lines.extend([
        match last.outcome {
            Outcome::UnderWay => format!("begun        {}", text::clock(&last.finished_at)),
            _ => format!("finished     {}", text::clock(&last.finished_at)),
        },
        format!("takeover     {}", ms(last.takeover_ms)),
        format!("drain        {}", ms(last.drain_ms)),
        format!(
            "connections  {} passed on, {} finished, {} cut",
            c.passed, c.finished, c.cut
        ),
    ]);
    lines.join("\n") + "\n"
}

/// What the journal knows of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Journal {
    /// Lines.
    Story(String),
    /// It was asked and has nothing, or shows us nothing.
    Nothing,
    /// There is no journalctl here.
    Missing,
}

/// Asks the journal for every line of an upgrade, by its whole id (the journal matches whole
/// fields only). `program` is `journalctl`, by name.
#[must_use]
pub fn journal(program: &Path, id: &str) -> Journal {
    let asked = Command::new(program)
        .arg(format!("HANDOVER_UPGRADE_ID={id}"))
        .args(["--output=short-precise", "--no-pager", "--quiet"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match asked {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            match text.trim() {
                "" | "-- No entries --" => Journal::Nothing,
                _ => Journal::Story(text::printable(text)),
            }
        }
        Err(_) => Journal::Missing,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::status::tests::ended;
    use super::*;
    use crate::api::Outcome;

    fn file(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        fs::write(&path, lines.join("\n")).unwrap();
        (dir, path)
    }

    fn line(id: &str, outcome: Outcome) -> String {
        let id = id.to_owned();
        serde_json::to_string(&Last {
            id,
            ..ended(outcome)
        })
        .unwrap()
    }

    #[test]
    fn the_table_has_the_newest_at_its_end() {
        let first = line("aaaa111122223333", Outcome::Committed);
        let second = line("bbbb111122223333", Outcome::RolledBack);
        let (_dir, path) = file(&[&first, &second]);
        let history = History::read(&path).unwrap();
        assert_eq!(
            history.table(None, false),
            "\
FINISHED              ID        FROM   TO     OUTCOME      TAKEOVER  DRAIN  CUT  REASON
2026-11-22 14:57:00Z  aaaa1111  1.4.1  1.4.2  committed    12 ms     3.1 s  0
2026-11-22 14:57:00Z  bbbb1111  1.4.1  1.4.2  rolled back  12 ms     3.1 s  0    workers keep crashing
"
        );
        let status = super::super::status::tests::probation();
        let table = history.table(status.upgrade.as_ref(), false);
        assert!(
            table.ends_with(
                "under way             3fa9c2d1  1.4.1  1.4.2  probation    -         -      -\n"
            ),
            "{table}"
        );
        assert_eq!(history.lines(), format!("{first}\n{second}\n"));
        assert_eq!(history.find("aaaa").unwrap().0, first);
        assert!(history.find("cccc").is_none());
        let story = story(&history.find("bbbb").unwrap().1);
        assert!(
            story.contains("reason       workers keep crashing\n"),
            "{story}"
        );
    }

    #[test]
    fn a_torn_line_does_not_hide_the_others() {
        let whole = line("aaaa111122223333", Outcome::Failed);
        let other = line("cccc111122223333", Outcome::Committed);
        let (_dir, path) = file(&[&whole, "", "{\"id\":\"bb", &other]);
        let history = History::read(&path).unwrap();
        assert_eq!(history.upgrades.len(), 2);
        assert_eq!(history.unreadable, 1);
    }

    #[test]
    fn what_was_under_way_is_shown_as_it_ended() {
        let id = "aaaa111122223333";
        let (first, other) = (line(id, Outcome::UnderWay), line("bbbb", Outcome::UnderWay));
        let end = line(id, Outcome::Committed);
        let (_dir, path) = file(&[&first, &other, &end]);
        let history = History::read(&path).unwrap();
        assert_eq!(history.lines(), format!("{end}\n{other}\n"));
        assert!(
            history
                .table(None, false)
                .contains("interrupted, unless it runs")
        );
        let begun = story(&history.find("bbbb").unwrap().1);
        assert!(begun.contains("\nbegun        2026-"), "{begun}");
        assert!(!begun.contains("finished  "), "{begun}");
    }

    #[test]
    fn no_file_is_no_history_and_a_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let none = History::read(&dir.path().join("history.jsonl")).unwrap();
        assert_eq!(none, History::default());
        let error = History::read(dir.path()).unwrap_err();
        assert_eq!(error.exit(), exit::FAILED);
    }

    #[test]
    fn the_journal_is_asked_by_the_whole_id() {
        let ask = |program: &str| journal(Path::new(program), "3fa9");
        let Journal::Story(story) = ask("echo") else {
            panic!("echo says what it is asked")
        };
        assert!(story.starts_with("HANDOVER_UPGRADE_ID=3fa9 "), "{story}");
        assert_eq!(ask("false"), Journal::Nothing);
        assert_eq!(ask("/nonexistent/journalctl"), Journal::Missing);
    }
}
