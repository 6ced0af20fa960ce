//! The state directory, as it is when all is written that this master has to say. One task reads and
//! writes, each file's lines in order, and nobody else opens a file of it: the disk may be full or stand
//! still, and another process may hold a lock. What could not be written is kept, and tried again; a file
//! that cannot be written holds up no other. What is asked here is answered from memory; whoever asks
//! for another one waits first until that is what the disk holds, in bounds.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub(super) use super::content::Line;
use super::content::{Change, Content};
use super::history::{History, HistoryError, Previous};
use crate::api::Last;
use crate::machine::trial::release::Known;
use crate::sys::once::Once;

/// For the disk, before an answer is given that says more than it holds.
const TELLING: Duration = Duration::from_secs(2);
/// For the disk, before what is known of it is used for an answer. The client waits for a second.
pub(super) const ASKED: Duration = Duration::from_millis(500);
/// And before a master begins.
pub(super) const BEGINNING: Duration = Duration::from_secs(2);
/// For the disk, before this master hands over or leaves; the successor gives a commit more than that.
const LEAVING: Duration = Duration::from_secs(3);
/// A disk that takes longer for a line is worth a word.
const SLOW: Duration = Duration::from_secs(5);

/// One for all parts of a master.
#[derive(Debug, Clone)]
pub struct State {
    history: History,
    queue: Arc<Mutex<Queue>>,
    /// Something was read or written, or could not be.
    moved: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Queue {
    /// By their numbers.
    lines: VecDeque<(u64, Arc<Line>)>,
    /// So many numbers were given.
    queued: u64,
    /// How often it was asked for what the disk holds, and which of these are answered.
    asked: u64,
    read: u64,
    /// What the disk holds when all lines are written.
    content: Content,
    /// The task is at work on one of them, since then.
    working: Option<Instant>,
    /// They could not be written when it was tried last.
    failing: Vec<Place>,
    /// Another master serves. What a parked one wrote would come behind the lines of that.
    parked: bool,
    unwritable: Once,
    unreadable: Once,
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
            Self::Releases(..) => Place::Releases,
        }
    }

    /// It is all that its file holds: what was to be written there before is not needed any more.
    fn replaces(&self, before: &Self) -> bool {
        matches!((self, before), (Self::Previous(_), Self::Previous(_)))
    }

    fn write(&self, history: &History) -> Result<(), HistoryError> {
        match self {
            Self::Upgrade(last) => history.write(last),
            Self::Refused(build) => history.refuse(build),
            Self::Forgiven(build) => history.forgive(build),
            Self::Previous(text) => history.save_previous(text),
            Self::Releases(link, change) => history.change_known(link, &*change.0),
        }
    }
}

impl Queue {
    /// The first line of a file that does not fail.
    fn next(&self) -> Option<&Arc<Line>> {
        // Who parks keeps its configuration.
        let may = |place| !self.parked || place == Place::Previous;
        let fails = |place| self.failing.contains(&place);
        let mut lines = self.lines.iter().map(|(_, line)| line);
        lines.find(|line| may(line.place()) && !fails(line.place()))
    }

    fn has_work(&self) -> bool {
        self.read < self.asked || self.next().is_some()
    }

    fn add(&mut self, line: Arc<Line>) {
        self.content.add(&line);
        let mut lines = self.lines.iter_mut().map(|(_, before)| before);
        if let Some(before) = lines.find(|before| line.replaces(before)) {
            *before = line;
        } else {
            self.lines.push_back((self.queued, line));
            self.queued += 1;
        }
    }

    /// One thing takes longer than that: whoever waits waits in vain.
    fn stands_still(&self, limit: Duration) -> bool {
        self.working.is_some_and(|since| since.elapsed() >= limit)
    }
}

impl State {
    /// In this directory. Nothing is known of it yet.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            history: History::new(directory.to_owned()),
            queue: Arc::default(),
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
        let slow = queue.working.is_some_and(|since| since.elapsed() > SLOW);
        if slow && queue.unwritable.again() {
            tracing::warn!("{} does not answer; the service runs on", self.name());
        }
        if queue.working.is_none() {
            queue.failing.clear();
        }
        self.work(queue);
    }

    /// Reads what the disk holds: another master may have written.
    pub(super) fn read_again(&self) -> u64 {
        let mut queue = self.queue();
        queue.asked += 1;
        let asked = queue.asked;
        self.work(queue);
        asked
    }

    fn work(&self, mut queue: MutexGuard<'_, Queue>) {
        if queue.working.is_none() && queue.has_work() {
            queue.working = Some(Instant::now());
            let state = self.clone();
            tokio::task::spawn_blocking(move || while state.work_once() {});
        }
    }

    /// One line is written, or when there is none what the disk holds is read: anybody may ask for that as
    /// often as they like. Whether there is more to do.
    fn work_once(&self) -> bool {
        let (asked, line) = {
            let queue = self.queue();
            let asked = Some(queue.asked).filter(|asked| queue.read < *asked);
            (asked, queue.next().cloned())
        };
        match (line, asked) {
            (Some(line), _) => self.write_one(&line),
            (None, Some(asked)) => self.read(asked),
            (None, None) => {}
        }
        let mut queue = self.queue();
        let more = queue.has_work();
        queue.working = more.then(Instant::now);
        if !more && queue.failing.is_empty() {
            let what = format!("{} could not be written", self.name());
            queue.unwritable.over(what);
        }
        drop(queue);
        self.moved.send_replace(());
        more
    }

    fn read(&self, asked: u64) {
        let mut content = self.queue().content.clone();
        let result = content.read(&self.history);
        let mut queue = self.queue();
        for (_, line) in &queue.lines {
            content.add(line);
        }
        queue.content = content;
        queue.read = asked;
        match result {
            Ok(()) => {
                let what = format!("{} could not be read", self.name());
                queue.unreadable.over(what);
            }
            Err(e) if queue.unreadable.again() => tracing::warn!("{e}"),
            Err(_) => {}
        }
    }

    fn write_one(&self, line: &Arc<Line>) {
        let written = line.write(&self.history);
        let mut queue = self.queue();
        match written {
            // It may have been given up meanwhile, or replaced.
            Ok(()) => queue.lines.retain(|(_, one)| !Arc::ptr_eq(one, line)),
            Err(e) => {
                queue.failing.push(line.place());
                if queue.unwritable.again() {
                    tracing::warn!("{e}; the service runs on, and it is tried again");
                }
            }
        }
    }

    /// Whether it is we who serve, and so write. Who begins to learns what the one before has written.
    pub(super) fn follow(&self, serves: bool) {
        let before = std::mem::replace(&mut self.queue().parked, !serves);
        if serves && before {
            self.queue().failing.clear();
            self.read_again();
        }
    }

    /// What the disk holds now is known here; or that takes too long, and is as it was before.
    pub(super) async fn known(&self, limit: Duration) {
        let asked = self.read_again();
        let known = |queue: &Queue| queue.read >= asked || queue.stands_still(limit);
        self.comes_to(known, limit).await;
    }

    /// What is queued by now is written; or it cannot be now, or that takes too long.
    pub(super) async fn written(&self) {
        let queued = self.queue().queued;
        let written = |queue: &Queue| {
            let first = queue.lines.front();
            first.is_none_or(|(number, _)| *number >= queued) || queue.working.is_none()
        };
        self.comes_to(written, TELLING).await;
    }

    /// This master leaves: what is not written is tried for the last time.
    pub(super) async fn last_try(&self) {
        self.queue().parked = false;
        self.queue().failing.clear();
        self.write_again();
        self.comes_to(|queue| queue.working.is_none(), LEAVING)
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
        self.queue().parked = true;
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

/// What it holds.
impl State {
    /// The upgrades that matter still, oldest first.
    pub(super) fn upgrades(&self) -> Vec<Last> {
        self.queue().content.upgrades.clone()
    }

    /// What the previous generation ran with.
    pub(super) fn previous(&self) -> Option<Previous> {
        self.queue().content.previous.clone()
    }

    /// Builds that failed or were rolled back.
    pub(super) fn refused_builds(&self) -> Vec<String> {
        self.queue().content.refused.clone()
    }

    /// What is known of the releases that `link` has led to.
    pub(super) fn releases(&self, link: &Path) -> Known {
        self.queue().content.releases_of(link)
    }

    /// Changes it.
    pub(super) fn change_releases(
        &self,
        link: &Path,
        change: impl Fn(&mut Known) + Send + Sync + 'static,
    ) {
        self.write(Line::Releases(link.to_owned(), Change(Arc::new(change))));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
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

        /// A release is tried once more.
        fn tries(&self) {
            let one = Named {
                path: "/r/1".into(),
                identity: "1".into(),
            };
            self.state.change_releases(Path::new(LINK), move |known| {
                let tries = known.tries.as_ref().map_or(0, |(_, n)| *n);
                known.tries = Some((one.clone(), tries + 1));
            });
        }

        /// As if a line was being written; until it is.
        fn stands_still(&self, still: bool) {
            self.state.queue().working = still.then(Instant::now);
            self.state.write_again();
        }

        fn tries_on_disk(&self) -> Option<u32> {
            let known = self.state.history.known().unwrap();
            known.tries.map(|(_, n)| n)
        }

        fn previous_on_disk(&self) -> String {
            fs::read_to_string(self.dir.path().join("state/previous.toml")).unwrap()
        }

        fn refused_on_disk(&self) -> Vec<String> {
            self.state.history.refused().unwrap()
        }

        fn waiting(&self) -> usize {
            self.state.queue().lines.len()
        }
    }

    /// Everybody on the host may ask for a status, as often as they like.
    #[tokio::test]
    async fn a_line_is_written_before_anything_is_read() {
        let lab = Lab::new();
        lab.stands_still(true);
        lab.state.read_again();
        lab.refuse("a");
        lab.state.work_once();
        assert_eq!(lab.refused_on_disk(), ["a"]);
    }

    #[tokio::test]
    async fn what_is_written_late_is_known_at_once_and_written_in_order() {
        let lab = Lab::new();
        lab.stands_still(true);
        lab.upgrade();
        lab.refuse("a");
        lab.refuse("b");
        lab.state.write(Line::Forgiven("a".into()));
        lab.tries();
        let link = Path::new(LINK);
        assert_eq!(lab.state.refused_builds(), ["b"]);
        assert!(lab.state.releases(link).tries.is_some());
        assert!(lab.refused_on_disk().is_empty());
        lab.stands_still(false);
        lab.state.written().await;
        assert_eq!(lab.waiting(), 0);
        assert_eq!(lab.refused_on_disk(), ["b"]);
        assert_eq!(lab.state.upgrades().len(), 1);
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
        lab.tries();
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
            lab.state.write(Line::Previous(n.to_string()));
        }
        assert_eq!(lab.waiting(), 1);
        lab.stands_still(false);
        lab.state.written().await;
        assert_eq!(lab.waiting(), 0);
        assert_eq!(lab.previous_on_disk(), "3");
    }

    /// What it wrote would be taken for newer than what the one that serves has written.
    #[tokio::test]
    async fn who_parked_and_leaves_writes_nothing_but_what_it_ran_with() {
        let lab = Lab::new();
        lab.state.follow(false);
        lab.refuse("a");
        lab.tries();
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
        lab.state.known(ASKED).await;
        assert!(lab.state.refused_builds().is_empty());
        assert!(lab.state.upgrades().is_empty());
    }

    #[tokio::test]
    async fn a_line_that_was_given_up_while_it_was_written_takes_no_other_along() {
        let lab = Lab::new();
        lab.stands_still(true);
        lab.upgrade();
        let written = lab.state.queue().next().cloned().unwrap();
        lab.state.queue().lines.clear();
        lab.refuse("a");
        lab.state.write_one(&written);
        assert_eq!(lab.waiting(), 1);
        lab.stands_still(false);
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

    /// Another master has written since: what is said here is made to that.
    #[tokio::test]
    async fn what_another_master_wrote_is_known_when_it_is_asked_for() {
        let lab = Lab::new();
        lab.state.known(ASKED).await;
        let other = State::new(lab.state.history.directory());
        other.write(Line::Refused("theirs".into()));
        let three = |known: &mut Known| known.tries = known.tries.take().map(|(one, _)| (one, 3));
        lab.tries();
        lab.state.written().await;
        other.change_releases(Path::new(LINK), three);
        other.written().await;
        assert!(lab.state.refused_builds().is_empty());
        lab.stands_still(true);
        lab.refuse("ours");
        lab.tries();
        lab.state.queue().working = None;
        lab.state.known(ASKED).await;
        assert_eq!(lab.state.refused_builds(), ["theirs", "ours"]);
        lab.state.written().await;
        assert_eq!(lab.tries_on_disk(), Some(4));
        // A parked one that serves again reads it without being asked.
        lab.state.follow(false);
        other.write(Line::Refused("again".into()));
        other.written().await;
        lab.state.follow(true);
        lab.state
            .comes_to(|queue| queue.working.is_none(), LEAVING)
            .await;
        assert_eq!(lab.state.refused_builds(), ["theirs", "ours", "again"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_does_not_answer_is_asked_in_bounds() {
        let lab = Lab::new();
        lab.refuse("a");
        lab.state.written().await;
        lab.stands_still(true);
        let begun = tokio::time::Instant::now();
        lab.state.known(ASKED).await;
        assert_eq!(begun.elapsed(), ASKED);
        assert_eq!(lab.state.refused_builds(), ["a"]);
        // Nobody else waits for it.
        lab.state.queue().working = Instant::now().checked_sub(ASKED);
        lab.state.known(ASKED).await;
        assert_eq!(begun.elapsed(), ASKED);
    }
}
