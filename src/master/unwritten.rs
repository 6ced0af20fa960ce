//! What is written down in the state directory of upgrades, in order. The disk may be full: what could
//! not be written is kept, and tried again.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::history::{History, HistoryError};
use super::input::Input;
use crate::api::{Last, Outcome};
use crate::sys::once::Once;

/// What is still to be written down.
#[derive(Debug)]
pub(super) struct Unwritten {
    history: History,
    lines: VecDeque<Line>,
    /// What is written beside us.
    beside: Option<oneshot::Receiver<Result<(), HistoryError>>>,
    unwritable: Once,
}

/// Something to be written down.
#[derive(Debug, Clone)]
pub(super) enum Line {
    /// How an upgrade goes, or went, in the place of what was written of it before.
    Upgrade(Box<Last>),
    /// This build is refused.
    Refused(String),
    /// And this one is not any longer.
    Forgiven(String),
}

impl Line {
    fn write(&self, history: &History) -> Result<(), HistoryError> {
        match self {
            Self::Upgrade(last) => history.write(last),
            Self::Refused(build) => history.refuse(build),
            Self::Forgiven(build) => history.forgive(build),
        }
    }
}

impl Unwritten {
    pub(super) fn new(history: History) -> Self {
        Self {
            history,
            lines: VecDeque::new(),
            beside: None,
            unwritable: Once::default(),
        }
    }

    pub(super) fn write(&mut self, line: Line) {
        self.lines.push_back(line);
        self.write_again();
    }

    /// Writes it beside us, and what comes after it then: requests wait for what we do at this moment, and
    /// a disk may stand still (a snapshot) or a lock be held.
    pub(super) fn write_beside(&mut self, line: Line, post: &mpsc::Sender<Input>) {
        if self.beside.is_some() || !self.lines.is_empty() {
            return self.lines.push_back(line);
        }
        let (history, post) = (self.history.clone(), post.clone());
        let (done, beside) = oneshot::channel();
        self.beside = Some(beside);
        tokio::spawn(async move {
            let written = tokio::task::spawn_blocking(move || line.write(&history));
            if let Ok(written) = written.await {
                let _ = done.send(written);
            }
            let _ = post.send(Input::Written).await;
        });
    }

    /// It is written, or it cannot be, or it takes longer than this.
    pub(super) async fn written(&mut self, limit: Duration) {
        if let Some(beside) = &mut self.beside {
            if let Ok(Ok(written)) = tokio::time::timeout(limit, beside).await {
                self.beside = None;
                self.judge(written);
            }
        }
    }

    /// Writes what could not be written before.
    pub(super) fn write_again(&mut self) {
        match self.beside.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Err(oneshot::error::TryRecvError::Empty)) => return,
            Some(Ok(written)) => self.judge(written),
            Some(Err(_)) | None => {}
        }
        self.beside = None;
        while let Some(line) = self.lines.front() {
            let written = line.write(&self.history);
            let failed = written.is_err();
            self.judge(written);
            if failed {
                return;
            }
            self.lines.pop_front();
        }
    }

    fn judge(&mut self, written: Result<(), HistoryError>) {
        let Err(e) = written else {
            return self
                .unwritable
                .over("the state directory could not be written");
        };
        if self.unwritable.again() {
            tracing::warn!("{e}; the service runs on, and it is tried again");
        }
        // How an upgrade ended may be written by another master meanwhile.
        let ended =
            |line: &Line| !matches!(line, Line::Upgrade(last) if last.outcome == Outcome::UnderWay);
        self.lines.retain(ended);
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

    /// Requests wait while a generation takes over.
    #[tokio::test]
    async fn a_takeover_waits_for_no_disk_and_what_follows_is_written_behind_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let history = History::new(dir.path().to_owned());
        let mut unwritten = Unwritten::new(history.clone());
        let (post, mut inbox) = mpsc::channel(1);
        let lock = std::fs::File::create(dir.path().join("history.jsonl")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let record = Record::new("u".into(), "1", false, false);
        unwritten.write_beside(Line::Upgrade(Box::new(record.under_way())), &post);
        unwritten.write(Line::Refused("b".into()));
        assert_eq!(unwritten.refused_builds(), ["b"]);
        assert_eq!(history.refused(), Vec::<String>::new());
        drop(lock);
        assert!(matches!(inbox.recv().await, Some(Input::Written)));
        unwritten.write_again();
        assert_eq!(history.refused(), ["b"]);
        assert_eq!(history.all().unwrap().len(), 1);
        assert!(unwritten.lines.is_empty());
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
