//! What an upgrade does to the binary on disk, on threads that may wait for it: by ourselves where
//! we may write to the program's directory, else by root's guard.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinError;

use super::driver::Driver;
use super::guard::{self, GuardError, Wish};
use super::health;
use super::history::Previous;
use super::input::Input;
use super::store::{Found, Restored, Store, StoreError};
use super::story::{self, Milestone};
use crate::machine::Phase;
use crate::machine::message::{KeptConfig, Message};

/// For root's guard; it needs a moment, and a busy machine some more.
const GUARD: Duration = Duration::from_secs(20);

/// For the disk, before the successor is sent away all the same: it is killed not much later.
const RETIRE: Duration = Duration::from_secs(2);

/// For the disk, before what begins another upgrade is refused: nothing else is done meanwhile.
const SETTLES: Duration = Duration::from_secs(2);

/// Why it is.
pub(super) const DISK_BUSY: &str = "the program on disk is still being put right after the last \
                                    upgrade; try again when that is done (root's guard has 20 s)";

impl Driver {
    /// Keeps what runs as `.old`, and what it runs with.
    pub(super) fn keep_old(&mut self) {
        let Some(record) = &self.upgrade else { return };
        let store = Arc::clone(&self.store);
        let history = self.history.clone();
        let previous = Previous {
            version: self.fixed.me.version.clone(),
            build_id: self.fixed.me.build_id.clone(),
            config: KeptConfig::of(&self.config),
        };
        let back = record.back;
        self.keeping = Some(tokio::task::spawn_blocking(move || {
            if back {
                return;
            }
            if let Err(e) = store.keep_old() {
                tracing::warn!("cannot keep the previous program: {e}");
            }
            if let Err(e) = history.save_previous(&previous) {
                tracing::warn!("{e}");
            }
        }));
    }

    /// Puts the running build back on disk.
    pub(super) fn restore_disk(&mut self) {
        if self.disk_busy {
            return;
        }
        let found = self
            .upgrade
            .as_ref()
            .and_then(|record| record.found.get().cloned())
            .unwrap_or_default();
        let keeping = self.keeping.take();
        let store = Arc::clone(&self.store);
        let runtime = self.fixed.runtime.clone();
        let post = self.post.clone();
        self.disk_busy = true;
        self.cold_trial = None;
        tokio::spawn(async move {
            if let Some(keeping) = keeping {
                let _ = keeping.await;
            }
            let result = restore(store, found, &runtime).await;
            let _ = post.send(Input::Disk(result)).await;
        });
    }

    /// What begins another upgrade, in a phase in which one can begin, waits until the disk is as the
    /// one before must leave it: else the rejected file would be taken for a new one, and the end of
    /// the one for that of the other. False: it takes too long.
    pub(super) async fn disk_settles(&mut self) -> bool {
        let begins = |phase| matches!(phase, Phase::Serving | Phase::Evicting);
        let end = tokio::time::Instant::now() + SETTLES;
        while self.disk_busy && begins(self.machine.phase()) {
            match tokio::time::timeout_at(end, self.inbox.recv()).await {
                Ok(Some(input)) => self.arrived(input).await,
                Ok(None) | Err(_) => return false,
            }
        }
        true
    }

    /// It is as it should be, or what went wrong: those who waited for it learn it.
    pub(super) fn disk_done(&mut self, result: Result<Option<String>, String>) {
        self.disk_busy = false;
        match result {
            Ok(None) => {}
            Ok(Some(what)) => tracing::info!(handover_upgrade_id = self.upgrade_id(), "{what}"),
            Err(e) => {
                let text = format!("the running program is not back on disk: {e}");
                Milestone {
                    reason: Some(&e),
                    ..self.milestone(story::DISK_DIFFERS)
                }
                .error(&text);
                self.remember_warning(text);
            }
        }
        self.retire_now();
        for (kind, verdict) in std::mem::take(&mut self.orders.after_disk) {
            self.settle(kind, verdict);
        }
        if let Some((outcome, failure)) = self.orders.conclusion.take() {
            self.conclude(outcome, failure);
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
            self.tell_successor(Message::Retire { reason });
        }
    }

    /// The file on disk is final.
    pub(super) fn keep_disk(&mut self) {
        self.cold_trial = None;
        match self.store.commit() {
            Err(e) if e.denied() => self.keep_by_root(&e),
            done => self.kept(done.map_err(|e| e.to_string())),
        }
    }

    fn keep_by_root(&self, denied: &StoreError) {
        // Another build's trial has begun by now: that one is not ours to end.
        let ours = self.store.trial().as_deref() == Some(self.store.running().build_id())
            || self.store.disk().matches_running;
        let Some(mark) = self.store.mark().ok().filter(|_| ours) else {
            return;
        };
        let (runtime, post) = (self.fixed.runtime.clone(), self.post.clone());
        let denied = denied.to_string();
        tokio::spawn(async move {
            let result = match guard::ask(Wish::Keep, &runtime, &mark, GUARD).await {
                // Ended by somebody else.
                Ok(()) | Err(GuardError::NoTrial { .. }) => Ok(()),
                Err(asked) => Err(format!("{denied}; {asked}")),
            };
            let _ = post.send(Input::Kept(result)).await;
        });
    }

    pub(super) fn kept(&mut self, result: Result<(), String>) {
        if let Err(e) = result {
            self.warn(format!("the mark of the trial stays: {e}"));
        }
    }

    /// A program that is still on trial was started cold: nobody is parked who could take back, so
    /// it proves itself alone.
    pub(super) fn begin_cold_trial(&mut self) {
        let Some(build) = self.store.trial() else {
            return;
        };
        let probation = self.config.upgrade.probation;
        self.milestone(story::COLD_TRIAL).warn(format_args!(
            "build {build} is on trial and was started cold: it is kept when it has served for {} \
             in good health",
            humantime::format_duration(probation)
        ));
        self.start_cold_trial(probation);
    }

    /// Bad health: it begins anew.
    pub(super) fn prolong_cold_trial(&mut self) {
        if self.cold_trial.is_some() {
            self.start_cold_trial(self.config.upgrade.probation);
        }
    }

    fn start_cold_trial(&mut self, probation: Duration) {
        self.cold_trial = Some(Instant::now() + probation);
        let path = self.config.upgrade.health.clone();
        self.health = path.map(|path| health::in_probation(path, self.post.clone()));
    }

    /// It has served long enough. An upgrade that was begun meanwhile decides for itself, and what
    /// is not on disk any more is not kept there.
    pub(super) fn end_cold_trial(&mut self) {
        self.cold_trial = None;
        self.health = None;
        let serves = matches!(self.machine.phase(), Phase::Serving | Phase::Reloading);
        if serves && self.store.disk().matches_running {
            tracing::info!("the program on disk has proved itself: the trial is over");
            self.keep_disk();
            let text = self.status_line();
            self.manager.status(&text);
        }
    }
}

async fn restore(
    store: Arc<Store>,
    found: Found,
    runtime: &Path,
) -> Result<Option<String>, String> {
    let restored = blocking(&store, move |store| store.restore(&found)).await?;
    match restored {
        Ok(Restored::AlreadyRunning) => Ok(None),
        Ok(Restored::Replaced { rejected } | Restored::Repointed { rejected, .. }) => {
            Ok(rejected.map(|path| format!("the rejected file is {}", path.display())))
        }
        Ok(Restored::LeftAlone { .. }) => Ok(Some(
            "the file on disk is another one by now and was left alone".into(),
        )),
        Err(e) if e.denied() => by_root(&store, runtime, &e).await,
        Err(e) => Err(e.to_string()),
    }
}

async fn by_root(
    store: &Arc<Store>,
    runtime: &Path,
    denied: &StoreError,
) -> Result<Option<String>, String> {
    let mark = store.mark().map_err(|e| e.to_string())?;
    guard::ask(Wish::Restore, runtime, &mark, GUARD)
        .await
        .map_err(|e| format!("{denied}; {e}"))?;
    let disk = blocking(store, Store::disk).await?;
    if disk.matches_running {
        return Ok(Some("root's guard has put the running program back".into()));
    }
    let build = disk.build_id.unwrap_or_else(|| "no program".into());
    Err(format!(
        "root's guard ended the trial, but what is at {} is {build}",
        disk.path.display()
    ))
}

async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> T + Send + 'static,
) -> Result<T, String> {
    let store = Arc::clone(store);
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    done.map_err(|e: JoinError| e.to_string())
}
