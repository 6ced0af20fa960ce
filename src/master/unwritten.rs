//! What is written down in the state directory of upgrades, in order. The disk may be full: what could
//! not be written is kept, and tried again.

use std::collections::VecDeque;

use super::history::History;
use crate::api::{Last, Outcome};
use crate::sys::once::Once;

/// What is still to be written down.
#[derive(Debug)]
pub(super) struct Unwritten {
    history: History,
    lines: VecDeque<Line>,
    unwritable: Once,
}

/// Something to be written down.
#[derive(Debug)]
pub(super) enum Line {
    /// How an upgrade goes, or went, in the place of what was written of it before.
    Upgrade(Box<Last>),
    /// This build is refused.
    Refused(String),
    /// And this one is not any longer.
    Forgiven(String),
}

impl Unwritten {
    pub(super) fn new(history: History) -> Self {
        Self {
            history,
            lines: VecDeque::new(),
            unwritable: Once::default(),
        }
    }

    pub(super) fn write(&mut self, line: Line) {
        self.lines.push_back(line);
        self.write_again();
    }

    /// Writes what could not be written before.
    pub(super) fn write_again(&mut self) {
        let mut wrote = false;
        while let Some(line) = self.lines.front() {
            let written = match line {
                Line::Upgrade(last) => self.history.write(last),
                Line::Refused(build) => self.history.refuse(build),
                Line::Forgiven(build) => self.history.forgive(build),
            };
            if let Err(e) = written {
                if self.unwritable.again() {
                    tracing::warn!("{e}; the service runs on, and it is tried again");
                }
                // How an upgrade ended may be written by another master meanwhile.
                let ended = |line: &Line| !matches!(line, Line::Upgrade(last) if last.outcome == Outcome::UnderWay);
                self.lines.retain(ended);
                return;
            }
            self.lines.pop_front();
            wrote = true;
        }
        if wrote {
            self.unwritable
                .over("the state directory could not be written");
        }
    }

    /// The next generation writes from now on. What could not be written by then is given up: written
    /// after a word of that one it would be taken for the newest.
    pub(super) fn give_up(&mut self) {
        let lost = std::mem::take(&mut self.lines).len();
        if lost > 0 {
            tracing::warn!(
                "what could not be written to the state directory in this generation's time is given \
                 up (lines about upgrades: {lost})"
            );
        }
    }

    /// Builds that failed or were rolled back, also those that could not be written down yet.
    pub(super) fn refused_builds(&self) -> Vec<String> {
        let mut builds = self.history.refused();
        for line in &self.lines {
            match line {
                Line::Refused(build) => builds.push(build.clone()),
                Line::Forgiven(build) => builds.retain(|one| one != build),
                Line::Upgrade(_) => {}
            }
        }
        builds
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;

    /// The next one may have committed to what this one had refused.
    #[test]
    fn a_generation_that_has_handed_over_writes_nothing_late() {
        let dir = tempfile::TempDir::new().unwrap();
        let state = dir.path().join("state");
        std::fs::write(&state, "in the way").unwrap();
        let history = History::new(state.clone());
        let mut unwritten = Unwritten::new(history.clone());
        unwritten.write(Line::Refused("b".into()));
        assert_eq!(unwritten.refused_builds(), ["b"]);
        unwritten.give_up();
        std::fs::remove_file(&state).unwrap();
        unwritten.write_again();
        assert_eq!(history.refused(), Vec::<String>::new());
        assert!(!state.exists());
    }

    /// Nothing is left to be written, and the disk is as full as before.
    #[test]
    fn a_disk_that_is_full_is_not_said_to_have_room_because_nothing_waits() {
        let dir = tempfile::TempDir::new().unwrap();
        let state = dir.path().join("state");
        std::fs::write(&state, "in the way").unwrap();
        let mut unwritten = Unwritten::new(History::new(state.clone()));
        let record = Record::new("u".into(), "1", false, false);
        unwritten.write(Line::Upgrade(Box::new(record.under_way())));
        assert!(unwritten.lines.is_empty());
        unwritten.write_again();
        assert!(!unwritten.unwritable.again(), "it is said already");
        std::fs::remove_file(&state).unwrap();
        unwritten.write(Line::Refused("b".into()));
        assert!(unwritten.unwritable.again(), "it was over");
    }
}
