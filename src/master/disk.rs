//! What a master has done to the program on disk, in the background: by its own hand where it may
//! write to the program's directory, else by root's guard. What cannot be done now (a full disk) is
//! tried again until it is.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::driver::Driver;
use super::guard::{Guard, Wish};
use super::history::Previous;
use super::input::Input;
use super::record::Record;
use super::store::{Found, Store, StoreError};
use super::story::{self, Milestone};
use crate::machine::Phase;
use crate::machine::message::{KeptConfig, Message};
use crate::machine::trial::Verdict;

/// For the disk, before the successor is sent away all the same: it is killed not much later.
const RETIRE: Duration = Duration::from_secs(2);

/// For the disk, before what begins another upgrade is refused: nothing else is done meanwhile.
const SETTLES: Duration = Duration::from_secs(5);

/// Before what failed is tried again, at first and at most.
pub(super) const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Why an order is.
pub(super) const DISK_BUSY: &str = "the program on disk is still being put right after the last \
                                    upgrade; try again when that is done (root's guard has 20 s)";

/// The program on disk, and what is to be done to it.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) store: Arc<Store>,
    guard: Guard,
    post: mpsc::Sender<Input>,
    /// What is wanted, in this order.
    wanted: VecDeque<Work>,
    /// The first of it is under way.
    working: bool,
    failures: u32,
    /// Why the first of it is not done.
    pub(super) trouble: Option<String>,
    /// What runs was started cold and is on trial: it proves itself until then.
    pub(super) on_trial_until: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Work {
    /// What runs has proved itself.
    Commit,
    /// This was refused; what runs takes its place.
    Reject(Found),
}

impl Disk {
    pub(super) fn new(store: Arc<Store>, runtime: &Path, post: mpsc::Sender<Input>) -> Self {
        Self {
            store,
            guard: Guard::new(runtime),
            post,
            wanted: VecDeque::new(),
            working: false,
            failures: 0,
            trouble: None,
            on_trial_until: None,
        }
    }

    /// What runs is good from now on.
    pub(super) fn commit(&mut self) {
        self.on_trial_until = None;
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
        self.working && self.trouble.is_none()
    }

    fn work(&mut self) {
        if self.working {
            return;
        }
        let Some(work) = self.wanted.front().cloned() else {
            return;
        };
        self.working = true;
        let (store, guard, post) = (
            Arc::clone(&self.store),
            self.guard.clone(),
            self.post.clone(),
        );
        tokio::spawn(async move {
            let done = tokio::task::spawn_blocking(move || carry_out(&store, &guard, &work)).await;
            let done = done.unwrap_or_else(|e| Err(e.to_string()));
            let _ = post.send(Input::Disk(done)).await;
        });
    }

    /// True: nothing is left to wait for.
    fn done(&mut self, result: Result<(), String>) -> bool {
        self.working = false;
        match result {
            Ok(()) => {
                self.wanted.pop_front();
                self.failures = 0;
                if self.trouble.take().is_some() {
                    tracing::info!("the program on disk is put right");
                }
                self.work();
                !self.working
            }
            Err(why) => {
                self.failures += 1;
                let pause = (RETRY * 2_u32.pow(self.failures.min(5) - 1)).min(LONGEST_RETRY);
                let post = self.post.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    let _ = post.send(Input::DiskAgain).await;
                });
                self.trouble = Some(why);
                true
            }
        }
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

impl Driver {
    /// Keeps what this generation runs with, for the way back from the next one.
    pub(super) fn keep_previous(&mut self) {
        // Another release of a hosted application runs on the same program: what was before that one
        // stays the way back.
        let ours = &*self.fixed.me.build_id;
        let stays = |record: &Record| record.back || record.to_build.as_deref() == Some(ours);
        if self.upgrade.as_ref().is_none_or(stays) {
            return;
        }
        let history = self.history.clone();
        let previous = Previous {
            version: self.fixed.me.version.clone(),
            build_id: self.fixed.me.build_id.clone(),
            config: KeptConfig::of(&self.config),
        };
        self.keeping = Some(tokio::task::spawn_blocking(move || {
            if let Err(e) = history.save_previous(&previous) {
                tracing::warn!("{e}");
            }
        }));
    }

    /// An upgrade failed or was taken back: what runs belongs on disk.
    pub(super) fn restore_disk(&mut self) {
        let Some(record) = &mut self.upgrade else {
            return;
        };
        // Taken back before it was looked at: what is there now is what it would have run.
        let look = || Found::of(&self.disk.store.open());
        let found = record.found.get().cloned().unwrap_or_else(look);
        record.rejected = Some(found.clone());
        if record.was_good && record.taken_over.is_some() {
            // A rollback had made the other one good.
            self.disk.commit();
        }
        self.disk.reject(found);
    }

    /// A rollback after a commit has taken over: what it goes back to was good before, and is again;
    /// what it left is rejected.
    pub(super) fn gone_back(&mut self) {
        let Some(record) = self.upgrade.as_ref().filter(|record| record.back) else {
            return;
        };
        let left = self
            .predecessor
            .as_ref()
            .map(|p| p.identity.build_id.clone());
        tracing::info!(
            handover_upgrade_id = record.id,
            "the program on disk follows"
        );
        self.remember_refused(left.as_deref());
        self.disk.commit();
        let there = Found::of(&self.disk.store.open());
        if left.is_some() && there.build() == left.as_deref() {
            self.disk.reject(there);
        }
    }

    /// What begins another upgrade, in a phase in which one can begin, waits until the disk is as the
    /// one before must leave it: else the rejected file would be taken for a new one, and the end of
    /// the one for that of the other. False: it takes too long.
    pub(super) async fn disk_settles(&mut self) -> bool {
        let begins = |phase| matches!(phase, Phase::Serving | Phase::Evicting);
        let end = tokio::time::Instant::now() + SETTLES;
        while self.disk.working && begins(self.machine.phase()) {
            match tokio::time::timeout_at(end, self.inbox.recv()).await {
                Ok(Some(input)) => self.arrived(input).await,
                Ok(None) | Err(_) => return false,
            }
        }
        true
    }

    /// One piece of work is done, or cannot be done now: those who waited learn it.
    pub(super) fn disk_done(&mut self, result: Result<(), String>) {
        let known = self.disk.trouble.clone();
        if !self.disk.done(result) {
            return;
        }
        if let Some(why) = self
            .disk
            .trouble
            .clone()
            .filter(|why| known.as_ref() != Some(why))
        {
            Milestone {
                reason: Some(&why),
                ..self.milestone(story::DISK_DIFFERS)
            }
            .error(format_args!("{why}; it is tried again"));
        }
        self.retire_now();
        for (kind, verdict) in std::mem::take(&mut self.orders.after_disk) {
            self.settle(kind, verdict);
        }
        if let Some((outcome, failure)) = self.orders.conclusion.take() {
            self.conclude(outcome, failure);
        }
    }

    /// What could not be done is tried again, but not in the middle of an upgrade: what runs then is
    /// not decided.
    pub(super) fn disk_again(&mut self) {
        if self.disk.trouble.is_none() || self.disk.working {
            return;
        }
        if self.machine.phase() == Phase::Serving {
            self.disk.work();
        } else {
            let post = self.post.clone();
            tokio::spawn(async move {
                tokio::time::sleep(RETRY).await;
                let _ = post.send(Input::DiskAgain).await;
            });
        }
    }

    /// The successor waits for the disk, but not for ever.
    pub(super) fn retire_soon(&self) {
        let post = self.post.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RETIRE).await;
            let _ = post.send(Input::RetireDue).await;
        });
    }

    pub(super) fn retire_now(&mut self) {
        if let Some(reason) = self.orders.retire.take() {
            let disk = self.disk.trouble.clone();
            self.tell_successor(Message::Retire { reason, disk });
        }
    }
}
