//! The state directory, as it is when all is written that this master has to say. One task writes, each
//! file's lines in order, and nobody waits for it: the disk may be full or stand still, and another
//! process may hold a lock. What could not be written is kept, and tried again; a file that cannot be
//! written holds up no other.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::history::{History, HistoryError, Previous};
use crate::api::Last;
use crate::machine::trial::release::Known;
use crate::sys::once::Once;

/// For the disk, before an answer is given that says more than it holds.
const TELLING: Duration = Duration::from_secs(2);
/// For the disk, before this master hands over or leaves; the successor gives a commit more than that.
const LEAVING: Duration = Duration::from_secs(3);
/// A disk that takes longer for a line is worth a word.
const SLOW: Duration = Duration::from_secs(5);

/// One for all parts of a master.
#[derive(Debug, Clone)]
pub struct State {
    history: History,
    queue: Arc<Mutex<Queue>>,
    /// Something was written, or could not be.
    moved: watch::Sender<()>,
}

#[derive(Debug)]
struct Queue {
    /// By their numbers.
    lines: VecDeque<(u64, Arc<Line>)>,
    /// So many numbers were given.
    queued: u64,
    /// One of them is being written, since then.
    writing: Option<Instant>,
    /// They could not be written when it was tried last.
    failing: Vec<Place>,
    /// We serve. What a parked master wrote would come behind the lines of whoever does.
    ours: bool,
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
    /// What this generation runs with: the way back from the next one.
    Previous(String),
    /// All that is known of the application's releases.
    Releases(Known),
}

/// The file of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    History,
    Refused,
    Previous,
    Releases,
}

impl Line {
    fn place(&self) -> Place {
        match self {
            Self::Upgrade(_) => Place::History,
            Self::Refused(_) | Self::Forgiven(_) => Place::Refused,
            Self::Previous(_) => Place::Previous,
            Self::Releases(_) => Place::Releases,
        }
    }

    /// It is all that its file holds: what was to be written there before is not needed any more.
    fn replaces(&self, before: &Self) -> bool {
        let is_all = matches!(self, Self::Previous(_) | Self::Releases(_));
        is_all && self.place() == before.place()
    }

    fn write(&self, history: &History) -> Result<(), HistoryError> {
        match self {
            Self::Upgrade(last) => history.write(last),
            Self::Refused(build) => history.refuse(build),
            Self::Forgiven(build) => history.forgive(build),
            Self::Previous(text) => history.save_previous(text),
            Self::Releases(known) => history.save_releases(known),
        }
    }
}

impl Queue {
    /// The first line of a file that does not fail.
    fn next(&self) -> Option<&Arc<Line>> {
        // Who parks keeps its configuration.
        let may = |place| self.ours || place == Place::Previous;
        let fails = |place| self.failing.contains(&place);
        let mut lines = self.lines.iter().map(|(_, line)| line);
        lines.find(|line| may(line.place()) && !fails(line.place()))
    }

    fn add(&mut self, line: Arc<Line>) {
        let mut lines = self.lines.iter_mut().map(|(_, before)| before);
        if let Some(before) = lines.find(|before| line.replaces(before)) {
            *before = line;
        } else {
            self.lines.push_back((self.queued, line));
            self.queued += 1;
        }
    }
}

impl State {
    /// In this directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            history: History::new(directory.to_owned()),
            queue: Arc::new(Mutex::new(Queue {
                lines: VecDeque::new(),
                queued: 0,
                writing: None,
                failing: Vec::new(),
                ours: true,
                unwritable: Once::default(),
            })),
            moved: watch::Sender::default(),
        }
    }

    pub(super) fn write(&self, line: Line) {
        self.queue().add(Arc::new(line));
        self.write_again();
    }

    /// Writes what could not be written before.
    pub(super) fn write_again(&self) {
        let mut queue = self.queue();
        if let Some(since) = queue.writing {
            if since.elapsed() > SLOW && queue.unwritable.again() {
                tracing::warn!("{} does not answer; the service runs on", self.name());
            }
            return;
        }
        queue.failing.clear();
        if queue.next().is_some() {
            queue.writing = Some(Instant::now());
            let state = self.clone();
            tokio::task::spawn_blocking(move || while state.write_one() {});
        }
    }

    /// One line; whether there is another one to write.
    fn write_one(&self) -> bool {
        let line = self.queue().next().cloned();
        let written = line.as_ref().map(|line| line.write(&self.history));
        let mut queue = self.queue();
        match (&line, written) {
            // It may have been given up meanwhile, or replaced.
            (Some(line), Some(Ok(()))) => queue.lines.retain(|(_, one)| !Arc::ptr_eq(one, line)),
            (Some(line), Some(Err(e))) => {
                queue.failing.push(line.place());
                if queue.unwritable.again() {
                    tracing::warn!("{e}; the service runs on, and it is tried again");
                }
            }
            _ => {}
        }
        let more = queue.next().is_some();
        queue.writing = more.then(Instant::now);
        if !more && queue.failing.is_empty() {
            let what = format!("{} could not be written", self.name());
            queue.unwritable.over(what);
        }
        drop(queue);
        self.moved.send_replace(());
        more
    }

    /// Whether it is we who serve, and so write.
    pub(super) fn follow(&self, serves: bool) {
        let before = std::mem::replace(&mut self.queue().ours, serves);
        if serves && !before {
            self.write_again();
        }
    }

    /// What is queued by now is written; or it cannot be now, or that takes too long.
    pub(super) async fn written(&self) {
        let queued = self.queue().queued;
        let written = |queue: &Queue| {
            let first = queue.lines.front();
            first.is_none_or(|(number, _)| *number >= queued) || queue.writing.is_none()
        };
        self.comes_to(written, TELLING).await;
    }

    /// This master leaves: what is not written is tried for the last time.
    pub(super) async fn last_try(&self) {
        self.queue().ours = true;
        self.write_again();
        self.comes_to(|queue| queue.writing.is_none(), LEAVING)
            .await;
    }

    /// The next generation has served, and written, since this one parked: what is left of this one's time
    /// is old. What it ran with is not.
    pub(super) fn outlived(&self) {
        self.give_up(|line| line.place() != Place::Previous);
    }

    /// The next generation writes from now on. What could not be written by then is given up: written
    /// after a word of that one it would be taken for the newest.
    pub(super) async fn hand_over(&self) {
        self.last_try().await;
        self.queue().ours = false;
        self.give_up(|_| true);
    }

    fn give_up(&self, which: impl Fn(&Line) -> bool) {
        let mut queue = self.queue();
        let before = queue.lines.len();
        queue.lines.retain(|(_, line)| !which(line));
        let lost = before - queue.lines.len();
        if lost > 0 {
            tracing::warn!(
                "what could not be written to {} in this generation's time is given up (lines: {lost})",
                self.name()
            );
        }
    }

    async fn comes_to(&self, there: impl Fn(&Queue) -> bool, limit: Duration) {
        let mut moved = self.moved.subscribe();
        let comes = async {
            let is_there = || there(&self.queue());
            while !is_there() {
                if moved.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(limit, comes).await;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> String {
        format!("the state directory {}", self.history.directory().display())
    }
}

/// What it holds, with what is still to be written. (That is looked at first: it may be written by the
/// time the disk is.)
impl State {
    /// Every upgrade that is written down, oldest first.
    pub(super) fn upgrades(&self) -> Result<Vec<Last>, HistoryError> {
        self.history.all()
    }

    /// What the previous generation ran with.
    pub(super) fn previous(&self) -> Result<Option<Previous>, HistoryError> {
        self.history.previous()
    }

    /// Builds that failed or were rolled back.
    pub(super) fn refused_builds(&self) -> Vec<String> {
        let lines = self.queue().lines.clone();
        let mut builds = self.history.refused();
        for (_, line) in &lines {
            match &**line {
                Line::Refused(build) => builds.push(build.clone()),
                Line::Forgiven(build) => builds.retain(|one| one != build),
                Line::Upgrade(_) | Line::Previous(_) | Line::Releases(_) => {}
            }
        }
        builds
    }

    /// What is known of the releases that `link` has led to.
    pub(super) fn releases(&self, link: &Path) -> Known {
        let lines = self.queue().lines.clone();
        let mut known = lines.iter().rev().filter_map(|(_, line)| match &**line {
            Line::Releases(known) if known.link == link => Some(known.clone()),
            _ => None,
        });
        known.next().unwrap_or_else(|| self.history.releases(link))
    }

    /// Changes it, in one step for whoever reads it, and after a power cut.
    pub(super) fn change_releases<T>(
        &self,
        link: &Path,
        change: impl FnOnce(&mut Known) -> T,
    ) -> T {
        let before = self.releases(link);
        let mut known = before.clone();
        let answer = change(&mut known);
        if known != before {
            self.write(Line::Releases(known));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;

    use super::super::record::Record;
    use super::*;
    use crate::machine::trial::release::Named;

    const LINK: &str = "/r/current";

    struct Lab {
        dir: tempfile::TempDir,
        state: State,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let state = State::new(&dir.path().join("state"));
            Self { dir, state }
        }

        /// Another process writes, or seems to.
        fn lock(&self) -> File {
            let directory = self.dir.path().join("state");
            fs::create_dir_all(&directory).unwrap();
            let lock = File::create(directory.join("history.jsonl")).unwrap();
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
            lock
        }

        /// A file where the directory would be.
        fn put_in_the_way(&self) -> PathBuf {
            let path = self.dir.path().join("state");
            fs::write(&path, "a file").unwrap();
            path
        }

        fn upgrade(&self) {
            let record = Record::new("u".into(), "1", false, false);
            self.state
                .write(Line::Upgrade(Box::new(record.under_way())));
        }

        fn refuse(&self, build: &str) {
            self.state.write(Line::Refused(build.into()));
        }

        fn tries(&self, n: u32) {
            let one = Named {
                path: "/r/1".into(),
                identity: "1".into(),
            };
            self.state
                .change_releases(Path::new(LINK), |known| known.tries = Some((one, n)));
        }

        /// As if a line was being written; until it is.
        fn stands_still(&self, still: bool) {
            self.state.queue().writing = still.then(Instant::now);
            self.state.write_again();
        }

        fn tries_on_disk(&self) -> Option<u32> {
            let known = self.state.history.releases(Path::new(LINK));
            known.tries.map(|(_, n)| n)
        }

        fn previous_on_disk(&self) -> String {
            fs::read_to_string(self.dir.path().join("state/previous.toml")).unwrap()
        }

        fn refused_on_disk(&self) -> Vec<String> {
            self.state.history.refused()
        }

        fn waiting(&self) -> usize {
            self.state.queue().lines.len()
        }
    }

    #[tokio::test]
    async fn what_is_written_late_is_known_at_once_and_written_in_order() {
        let lab = Lab::new();
        lab.stands_still(true);
        lab.upgrade();
        lab.refuse("a");
        lab.refuse("b");
        lab.state.write(Line::Forgiven("a".into()));
        lab.tries(1);
        let link = Path::new(LINK);
        assert_eq!(lab.state.refused_builds(), ["b"]);
        assert!(lab.state.releases(link).tries.is_some());
        assert!(lab.refused_on_disk().is_empty());
        lab.stands_still(false);
        lab.state.written().await;
        assert_eq!(lab.waiting(), 0);
        assert_eq!(lab.refused_on_disk(), ["b"]);
        assert_eq!(lab.state.upgrades().unwrap().len(), 1);
        assert_eq!(lab.tries_on_disk(), Some(1));
    }

    /// Root's since it was edited, or locked for good.
    #[tokio::test]
    async fn a_file_that_cannot_be_written_holds_up_no_other() {
        let lab = Lab::new();
        let history = lab.dir.path().join("state/history.jsonl");
        fs::create_dir_all(&history).unwrap();
        lab.upgrade();
        lab.upgrade();
        lab.state.write(Line::Previous("before".into()));
        lab.refuse("a");
        lab.tries(1);
        lab.state.written().await;
        assert_eq!(lab.waiting(), 2);
        assert_eq!(lab.previous_on_disk(), "before");
        assert_eq!(lab.refused_on_disk(), ["a"]);
        assert_eq!(lab.tries_on_disk(), Some(1));
        assert!(!lab.state.queue().unwritable.again(), "it is not over");
        fs::remove_dir(history).unwrap();
        lab.state.write_again();
        lab.state.written().await;
        assert_eq!(lab.waiting(), 0);
    }

    #[tokio::test]
    async fn of_what_is_all_of_a_file_only_the_newest_is_kept() {
        let lab = Lab::new();
        lab.stands_still(true);
        for n in 1..=3 {
            lab.tries(n);
            lab.state.write(Line::Previous(n.to_string()));
        }
        assert_eq!(lab.waiting(), 2);
        lab.stands_still(false);
        lab.state.written().await;
        assert_eq!((lab.waiting(), lab.tries_on_disk()), (0, Some(3)));
        assert_eq!(lab.previous_on_disk(), "3");
    }

    /// What it wrote would be taken for newer than what the one that serves has written.
    #[tokio::test]
    async fn who_parked_and_leaves_writes_nothing_but_what_it_ran_with() {
        let lab = Lab::new();
        lab.state.follow(false);
        lab.refuse("a");
        lab.tries(1);
        lab.state.write(Line::Previous("before".into()));
        lab.state.outlived();
        lab.state.last_try().await;
        assert_eq!((lab.waiting(), lab.tries_on_disk()), (0, None));
        assert!(lab.refused_on_disk().is_empty());
        assert_eq!(lab.previous_on_disk(), "before");
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_waited_for_by_nobody_and_tried_again() {
        let lab = Lab::new();
        let in_the_way = lab.put_in_the_way();
        lab.refuse("a");
        lab.state.written().await;
        assert_eq!(lab.waiting(), 1);
        assert!(!lab.state.queue().unwritable.again(), "it is said");
        fs::remove_file(in_the_way).unwrap();
        lab.state.write_again();
        lab.state.written().await;
        assert_eq!(lab.refused_on_disk(), ["a"]);
        assert!(lab.state.queue().unwritable.again(), "it was over");
    }

    /// Its lines would come behind those of the one that serves.
    #[tokio::test]
    async fn who_is_parked_writes_nothing_but_what_it_ran_with() {
        let lab = Lab::new();
        lab.state.follow(false);
        lab.state.write(Line::Previous("version = \"1\"".into()));
        lab.state.written().await;
        assert_eq!(lab.waiting(), 0);
        lab.refuse("a");
        lab.state.write_again();
        lab.state.written().await;
        assert_eq!(lab.waiting(), 1);
        assert!(lab.refused_on_disk().is_empty());
        // It serves again.
        lab.state.follow(true);
        lab.state.written().await;
        assert_eq!(lab.refused_on_disk(), ["a"]);
    }

    /// The next one may have committed to what this one had refused.
    #[tokio::test]
    async fn a_generation_that_has_handed_over_writes_nothing_late() {
        let lab = Lab::new();
        let in_the_way = lab.put_in_the_way();
        lab.upgrade();
        lab.refuse("a");
        lab.state.hand_over().await;
        fs::remove_file(in_the_way).unwrap();
        lab.state.last_try().await;
        assert_eq!(lab.waiting(), 0);
        assert!(lab.state.refused_builds().is_empty());
        assert!(lab.state.upgrades().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_line_that_was_given_up_while_it_was_written_takes_no_other_along() {
        let lab = Lab::new();
        let lock = lab.lock();
        lab.upgrade();
        lab.state.queue().lines.clear();
        lab.refuse("a");
        drop(lock);
        lab.state.written().await;
        assert_eq!(lab.refused_on_disk(), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_stands_still_is_waited_for_in_bounds() {
        let lab = Lab::new();
        lab.stands_still(true);
        lab.refuse("a");
        let begun = tokio::time::Instant::now();
        lab.state.written().await;
        assert_eq!(begun.elapsed(), TELLING);
        lab.state.hand_over().await;
        assert_eq!(begun.elapsed(), TELLING + LEAVING);
        assert_eq!(lab.waiting(), 0);
    }
}
