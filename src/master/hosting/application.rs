//! One application, held: its supervisor is at the other end of a channel, and lives as long as
//! somebody has such an end.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::line::Line;
use crate::api;
use crate::config::{App, Hosted, Upstream};
use crate::machine::hosting::{FromSupervisor, Instances, RunningApp, ToSupervisor};
use crate::sys::channel::Channel;
use crate::sys::process::{Other, Process};
use crate::sys::release::Release;

#[derive(Debug)]
pub(super) struct Application {
    pub(super) number: u64,
    pub(super) app: App,
    pub(super) release: Release,
    pub(super) line: Line<ToSupervisor>,
    pub(super) supervisor: Supervisor,
    pub(super) end: Arc<OwnedFd>,
    pub(super) instances: Instances,
    /// Once it is ready.
    pub(super) hold: Option<Arc<Hold>>,
    /// Since when it has been ready, whatever ended meanwhile.
    pub(super) since: Option<Instant>,
    /// When an instance that had ended by itself was last started again.
    pub(super) restarted: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Supervisor {
    Ours(Process),
    /// Started by a master before us.
    Another(u32),
}

/// What a worker gets: where the application listens, and an end that keeps it alive.
#[derive(Debug)]
pub(in crate::master) struct Hold {
    pub(in crate::master) hosted: Hosted,
    end: Arc<OwnedFd>,
    /// Where instances listen that do not answer now.
    silent: Mutex<Vec<Upstream>>,
}

/// What somebody has to act on.
pub(super) enum Said {
    /// For the first time.
    Ready,
    /// It will not be by itself.
    NotReady(String),
    /// It was, keeps ending, and is started again all the same.
    Failing(String),
    /// Other instances than before answer.
    Instances(Arc<Hold>),
}

impl Hold {
    /// For one worker.
    pub(in crate::master) fn end(&self) -> std::io::Result<OwnedFd> {
        self.end.try_clone()
    }

    /// Where instances listen that do not answer now.
    pub(in crate::master) fn silent(&self) -> Vec<Upstream> {
        self.lock_silent().clone()
    }

    /// Returns whether that is news. Of one instance alone it is none: there is nobody else to ask.
    fn note_silent(&self, numbers: &[u16]) -> bool {
        let all = &self.hosted.upstreams;
        let named = numbers.iter().filter_map(|n| all.get(usize::from(*n)));
        let now: Vec<_> = named.filter(|_| all.len() > 1).cloned().collect();
        let before = std::mem::replace(&mut *self.lock_silent(), now.clone());
        before != now
    }

    fn lock_silent(&self) -> MutexGuard<'_, Vec<Upstream>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Supervisor {
    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Ours(process) => process.pid(),
            Self::Another(pid) => *pid,
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }
}

impl Application {
    pub(super) fn is_ready_at(&mut self, upstreams: Vec<Upstream>) {
        self.hold = Some(Arc::new(Hold {
            hosted: Hosted {
                release: self.release.path.clone(),
                upstreams,
            },
            end: Arc::clone(&self.end),
            silent: Mutex::default(),
        }));
    }

    /// Where it listens, once it is ready.
    pub(super) fn upstreams(&self) -> Option<&Vec<Upstream>> {
        self.hold.as_ref().map(|hold| &hold.hosted.upstreams)
    }

    /// What its supervisor said.
    pub(super) fn take(&mut self, word: FromSupervisor) -> Option<Said> {
        let was_ready = self.hold.is_some();
        match word {
            FromSupervisor::Ready { upstreams } => {
                if !was_ready {
                    self.is_ready_at(upstreams);
                }
                self.since.get_or_insert_with(Instant::now);
                // What it wrote into its directory while it started is no other release.
                self.release.look_again(&self.app);
                (!was_ready).then_some(Said::Ready)
            }
            FromSupervisor::Failed { reason } if !was_ready => Some(Said::NotReady(reason)),
            FromSupervisor::Failed { reason } if self.supervisor.is_ours() => {
                Some(Said::Failing(reason))
            }
            // No verdict on this generation.
            FromSupervisor::Failed { reason } => {
                tracing::error!("{reason}");
                None
            }
            FromSupervisor::Report(instances) => {
                let ends = |of: &Instances| of.restarts_by.by_itself();
                if ends(&instances) > ends(&self.instances) {
                    self.restarted = Some(Instant::now());
                }
                self.instances = instances;
                let hold = self.hold.as_ref()?;
                let is_news = hold.note_silent(&self.instances.silent);
                is_news.then(|| Said::Instances(Arc::clone(hold)))
            }
            FromSupervisor::Unknown => None,
        }
    }

    /// Why time proves nothing of it, although it answers now.
    pub(super) fn unproved(&self) -> Option<String> {
        let (since, restarted) = self.since.zip(self.restarted)?;
        let (ends, up) = (self.instances.restarts_by.by_itself(), restarted.elapsed());
        (!is_proof(since.elapsed(), ends, up)).then(|| {
            let times = if ends == 1 {
                "once".into()
            } else {
                format!("{ends} times")
            };
            let ago = humantime::format_duration(Duration::from_secs(up.as_secs()));
            let why = self.instances.ended.as_deref().unwrap_or_default();
            format!("the application ended by itself {times}, the last time {ago} ago: {why}")
        })
    }

    /// Its supervisor has gone: nobody else would end its instances now. Their numbers were told a
    /// moment ago.
    pub(super) fn kill(&self) -> String {
        for pid in &self.instances.pids {
            if let Ok(Some(leader)) = Other::open(*pid) {
                let _ = leader.kill_group();
            }
        }
        let why = format!(
            "the supervisor of the application (process {}) is gone",
            self.supervisor.pid()
        );
        tracing::error!("{why}");
        why
    }

    /// For `status`.
    pub(super) fn report(&self) -> api::App {
        api::App {
            release: self.release.path.clone(),
            ready: self.hold.is_some() && self.instances.ready != Some(0),
            answering: self.instances.ready,
            instances: Some(self.app.instances),
            ended: self.instances.ended.clone(),
            pids: self.instances.pids.clone(),
            restarts: self.instances.restarts,
            private_kib: self.instances.private_kib,
        }
    }

    /// For a successor: what runs, and an end that holds it.
    pub(super) fn share(&self) -> Option<(RunningApp, OwnedFd)> {
        let upstreams = self.upstreams()?.clone();
        let (ours, theirs) = Channel::pair()
            .inspect_err(|e| tracing::warn!("the application cannot be handed over: {e}"))
            .ok()?;
        let ours = ours.as_fd().try_clone_to_owned().ok()?;
        self.line.say(ToSupervisor::Share, vec![theirs]);
        let running = RunningApp {
            config: serde_json::to_value(&self.app).unwrap_or_default(),
            release: self.release.path.clone(),
            identity: self.release.identity.clone(),
            upstreams,
            supervisor: self.supervisor.pid(),
        };
        Some((running, ours))
    }
}

/// Whether one that ended by itself has been up for long enough since, of all its life: a quarter of it
/// after one end, half of it after several.
fn is_proof(life: Duration, ends: u64, up: Duration) -> bool {
    up >= life / if ends < 2 { 4 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_by_itself_is_proved_by_the_time_since_then() {
        for (life, ends, up, proved) in [
            // Ends every three seconds.
            (8, 2, 2, false),
            // Every twenty.
            (60, 2, 20, false),
            // Right before the end.
            (60, 1, 14, false),
            // Once.
            (60, 1, 15, true),
            // Some trouble at the begin.
            (60, 3, 30, true),
        ] {
            let [life, up] = [life, up].map(Duration::from_secs);
            assert_eq!(is_proof(life, ends, up), proved, "{life:?} {ends} {up:?}");
        }
    }
}
