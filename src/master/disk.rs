//! What a master has done to the program on disk, in the background: by its own hand where it may
//! write to the program's directory, else by root's guard. What cannot be done now (a full disk) is
//! tried again until it is. It holds nothing up but the words that say that an upgrade is over.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::guard::{Guard, Wish};
use super::input::Input;
use super::store::{Found, Store, StoreError};
use crate::machine::OrderKind;
use crate::machine::trial::Verdict;
use crate::sys::runtime;

/// For the disk, before the successor is sent away all the same: less than it has for leaving
/// ([`Timing::evict`](crate::machine::Timing)).
pub(super) const LASTS: Duration = Duration::from_secs(2);
/// For the disk, before what would begin another upgrade is refused.
pub(super) const SETTLES: Duration = Duration::from_secs(5);
/// Before what failed is tried again, at first and at most.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The program on disk, and what is to be done to it.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) store: Arc<Store>,
    guard: Guard,
    post: mpsc::Sender<Input>,
    /// What is wanted, in this order.
    wanted: VecDeque<Work>,
    /// The first of it is under way.
    working: Option<JoinHandle<Finished>>,
    /// What was given up, and may still be at it.
    given_up: Option<JoinHandle<Finished>>,
    /// So many pieces of work were begun.
    begun: u64,
    failures: u32,
    /// Why the first of it is not done.
    trouble: Option<Trouble>,
    /// What the predecessor could not do.
    elsewhere: Option<String>,
}

/// Something could not be done.
#[derive(Debug)]
struct Trouble {
    of: Work,
    why: String,
}

#[derive(Debug, Clone)]
enum Work {
    /// What runs has proved itself.
    Commit,
    /// This was refused; what runs takes its place.
    Reject(Found),
}

/// A piece of work that came to its end.
#[derive(Debug, Clone)]
pub struct Finished {
    number: u64,
    result: Result<(), String>,
}

/// What became of what is wanted.
#[derive(Debug)]
pub(super) enum Done {
    /// There is more to do.
    Partly,
    /// All is as it should be.
    All,
    /// It could not be done; why, if that is news.
    Trouble(Option<String>),
}

impl Disk {
    pub(super) fn new(store: Store, runtime: &Path, post: mpsc::Sender<Input>) -> Self {
        Self {
            store: Arc::new(store),
            guard: Guard::new(runtime),
            post,
            wanted: VecDeque::new(),
            working: None,
            given_up: None,
            begun: 0,
            failures: 0,
            trouble: None,
            elsewhere: None,
        }
    }

    /// What runs is good from now on.
    pub(super) fn commit(&mut self) {
        self.want(Work::Commit);
    }

    /// What an upgrade found at the path is not.
    pub(super) fn reject(&mut self, found: Found) {
        self.want(Work::Reject(found));
    }

    fn want(&mut self, work: Work) {
        self.wanted.push_back(work);
        // New work is a new reason to try, also what failed before.
        self.failures = 0;
        self.work();
    }

    /// It is wanted, and not known yet whether it can be done.
    pub(super) fn is_busy(&self) -> bool {
        self.working.is_some() && self.trouble.is_none()
    }

    /// Something is being done to it now, also what failed before: what looks at it waits.
    pub(super) fn is_working(&self) -> bool {
        self.working.is_some()
    }

    /// Why what was wanted of this master is not done, if it still is not: somebody else may have seen to
    /// it.
    pub(super) fn trouble(&self) -> Option<&String> {
        let trouble = self.trouble.as_ref()?;
        let holds = match &trouble.of {
            Work::Commit => self.store.on_trial(),
            Work::Reject(found) => Found::of(&self.store.open()).is(found),
        };
        holds.then_some(&trouble.why)
    }

    /// Why the program on disk is not as an order of this kind has left it.
    pub(super) fn differs(&self, kind: OrderKind) -> Option<String> {
        let ours = self.trouble.as_ref().is_some_and(|trouble| {
            (kind == OrderKind::Commit) == matches!(trouble.of, Work::Commit)
        });
        let why = self.trouble().filter(|_| ours);
        let why = why.or(self.elsewhere.as_ref())?;
        Some(format!(
            "{why}; it is tried again, `status` says when it is done"
        ))
    }

    /// The predecessor says what it could not do.
    pub(super) fn differs_elsewhere(&mut self, why: Option<String>) {
        self.elsewhere = why;
    }

    fn work(&mut self) {
        if self.working.is_some() {
            return;
        }
        let Some(work) = self.wanted.front().cloned() else {
            return;
        };
        let (store, guard, post) = (
            Arc::clone(&self.store),
            self.guard.clone(),
            self.post.clone(),
        );
        self.begun += 1;
        let (number, before) = (self.begun, self.given_up.take());
        self.working = Some(runtime::spawn(async move {
            if let Some(before) = before {
                // Two hands at once would leave the program of whichever is slower.
                let _ = before.await;
            }
            let done = tokio::task::spawn_blocking(move || carry_out(&store, &guard, &work)).await;
            let result = done.unwrap_or_else(|e| Err(e.to_string()));
            let finished = Finished { number, result };
            let _ = post.send(Input::Disk(finished.clone())).await;
            finished
        }));
    }

    /// One piece of work came to its end.
    pub(super) fn done(&mut self, finished: Finished) -> Done {
        if finished.number != self.begun || self.wanted.is_empty() {
            // It was given up: whoever serves now sees to the disk, and what was wanted since is not done.
            return if self.wanted.is_empty() {
                Done::All
            } else {
                Done::Partly
            };
        }
        self.working = None;
        match finished.result {
            Ok(()) => {
                self.wanted.pop_front();
                self.failures = 0;
                if self.trouble.take().is_some() {
                    tracing::info!("the program on disk is put right");
                }
                self.work();
                if self.working.is_some() {
                    Done::Partly
                } else {
                    Done::All
                }
            }
            Err(why) => {
                self.failures += 1;
                self.try_again_in((RETRY * 2_u32.pow(self.failures.min(5) - 1)).min(LONGEST_RETRY));
                let before = self.trouble.take();
                let news = before.is_none_or(|before| before.why != why);
                self.trouble = self.wanted.front().cloned().map(|of| Trouble {
                    of,
                    why: why.clone(),
                });
                Done::Trouble(news.then_some(why))
            }
        }
    }

    fn try_again_in(&self, pause: Duration) {
        Input::DiskAgain.after(pause, &self.post);
    }

    /// What could not be done is tried again, but not in the middle of an upgrade: what runs then is
    /// not decided.
    pub(super) fn again(&mut self, decided: bool) {
        if self.trouble.is_none() || self.working.is_some() {
            return;
        }
        if decided {
            self.work();
        } else {
            self.try_again_in(RETRY);
        }
    }

    /// What is still to be done is not: the successor commits, or what runs is put back. Whether what runs
    /// was to be made the good one.
    pub(super) fn drop_wanted(&mut self) -> bool {
        self.given_up = self.working.take().or(self.given_up.take());
        self.trouble = None;
        let wanted = std::mem::take(&mut self.wanted);
        wanted.iter().any(|work| matches!(work, Work::Commit))
    }

    /// The predecessor decides from now on: two hands at once would leave the program of whichever is
    /// slower. What is under way comes to its end before it is told, within a limit.
    pub(super) async fn give_up(&mut self) {
        if let Some(mut working) = self.working.take() {
            if tokio::time::timeout(LASTS, &mut working).await.is_err() {
                self.working = Some(working);
            }
        }
        self.drop_wanted();
    }

    /// This master leaves: what is under way comes to its end first.
    pub(super) async fn goodbye(&mut self) -> Option<Finished> {
        let working = self.working.take_if(|_| self.trouble.is_none())?;
        let number = self.begun;
        let panicked = |e: tokio::task::JoinError| Finished {
            number,
            result: Err(e.to_string()),
        };
        Some(working.await.unwrap_or_else(panicked))
    }
}

fn carry_out(store: &Store, guard: &Guard, work: &Work) -> Result<(), String> {
    let program = store.path().display();
    let by_hand = match work {
        Work::Commit => store.commit(),
        Work::Reject(found) => store.reject(found),
    };
    let verdict = match by_hand {
        // In a directory of ours nobody else has a hand.
        Err(denied) if denied.denied() && !store.is_ours() => {
            return by_root(store, guard, work, &denied);
        }
        done => done.map_err(|e| failed(work, &program, &e))?,
    };
    match (work, verdict) {
        (Work::Reject(_), Verdict::PutBack) => {
            tracing::warn!("the rejected program is {program}.rejected");
        }
        (Work::Reject(_), Verdict::Newer) => {
            tracing::warn!("{program} is another file by now and was left alone");
        }
        _ => {}
    }
    Ok(())
}

fn by_root(store: &Store, guard: &Guard, work: &Work, denied: &StoreError) -> Result<(), String> {
    let program = store.path().display();
    let (wish, done): (_, Box<dyn Fn() -> bool>) = match work {
        // By its content: when root's guard looks, another master may be the main process.
        Work::Commit => {
            let content = store.running().content_hash();
            let content = content.map_err(|e| failed(work, &program, &e))?;
            (Wish::Commit(content), Box::new(|| !store.on_trial()))
        }
        Work::Reject(found) => {
            let content = store.content_of(found);
            let Some(content) = content.map_err(|e| failed(work, &program, &e))? else {
                tracing::warn!("{program} is another file by now and was left alone");
                return Ok(());
            };
            let still = || Found::of(&store.open()).is(found);
            (Wish::Reject(content), Box::new(move || !still()))
        }
    };
    let asked = guard.ask(&wish, &*done);
    asked.map_err(|e| failed(work, &program, &format_args!("{denied}; {e}")))
}

fn failed(work: &Work, program: &dyn std::fmt::Display, why: &dyn std::fmt::Display) -> String {
    match work {
        Work::Commit => {
            format!("{program}.good is not what runs, so a restart may start something else: {why}")
        }
        Work::Reject(_) => format!("{program} is not what runs: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::image::Image;
    use crate::sys::image::fixture::{program, put};

    /// Build 2 runs, and build 1 is at the path.
    fn disk(dir: &Path) -> (Disk, mpsc::Receiver<Input>) {
        let (path, elsewhere) = (dir.join("handover"), dir.join("elsewhere"));
        put(&path, &program(1));
        put(&elsewhere, &program(2));
        let running = Arc::new(Image::open(&elsewhere).unwrap());
        let (post, inbox) = mpsc::channel(9);
        let disk = Disk::new(Store::new(path, running).unwrap(), dir, post);
        (disk, inbox)
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_does_not_end_is_given_up_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, _inbox) = disk(dir.path());
        disk.wanted.push_back(Work::Commit);
        disk.working = Some(tokio::spawn(std::future::pending()));
        let begun = tokio::time::Instant::now();
        disk.give_up().await;
        assert_eq!(begun.elapsed().as_secs(), LASTS.as_secs());
        assert!(disk.wanted.is_empty() && !disk.is_working());
        // It is still at it, and nobody begins beside it.
        disk.commit();
        tokio::time::sleep(LASTS).await;
        assert!(disk.is_working());
    }

    #[tokio::test]
    async fn the_result_of_work_that_was_given_up_is_not_that_of_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, mut inbox) = disk(dir.path());
        let mut finished = async || match inbox.recv().await {
            Some(Input::Disk(finished)) => finished,
            other => panic!("{other:?}"),
        };
        disk.commit();
        disk.give_up().await;
        disk.commit();
        assert!(matches!(disk.done(finished().await), Done::Partly));
        assert!(disk.is_busy(), "the second one is still to come to its end");
        assert!(matches!(disk.done(finished().await), Done::All));
        assert!(!disk.is_busy());
    }

    fn cannot(disk: &mut Disk, of: Work) {
        disk.wanted.push_back(of.clone());
        let why = "no room".into();
        disk.trouble = Some(Trouble { of, why });
    }

    #[tokio::test]
    async fn trouble_is_told_to_those_it_is_about_and_while_it_lasts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, _inbox) = disk(dir.path());
        let told = |disk: &Disk| {
            [OrderKind::Commit, OrderKind::Rollback].map(|kind| disk.differs(kind).is_some())
        };
        cannot(&mut disk, Work::Commit);
        assert!(disk.trouble().is_some());
        assert_eq!(told(&disk), [true, false]);
        // Somebody else sees to it.
        disk.store.commit().unwrap();
        assert!(disk.trouble().is_none());
        assert_eq!(told(&disk), [false, false]);

        let found = Found::of(&disk.store.open());
        cannot(&mut disk, Work::Reject(found));
        assert!(disk.trouble().is_some());
        assert_eq!(told(&disk), [false, true]);
        put(disk.store.path(), &program(3));
        assert!(disk.trouble().is_none());
        assert_eq!(told(&disk), [false, false]);
    }

    #[tokio::test]
    async fn who_hands_over_leaves_what_is_still_to_be_done() {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, _inbox) = disk(dir.path());
        cannot(&mut disk, Work::Commit);
        assert!(disk.drop_wanted(), "what runs was to be good");
        assert!(disk.trouble().is_none() && disk.wanted.is_empty());
        assert!(!disk.drop_wanted());
    }
}
