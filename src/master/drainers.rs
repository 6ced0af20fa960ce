//! Generations that only drain: those before us that are committed away, and successors that were
//! rejected. They have no channel to the owner any longer, so they tell it on `handoff.sock` how it
//! goes, now and then and at their end; the owner shows them and counts them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal as Os;
use tokio::sync::mpsc;

use super::input::Input;
use super::record::millis;
use super::successor::Link;
use crate::api::{self, Connections};
use crate::machine::link::News;
use crate::machine::message::{Identity, Lingering};
use crate::sys::process::Other;

/// All of them, as far as this master knows.
#[derive(Debug)]
pub(super) struct Drainers {
    known: Vec<Drainer>,
    /// What masters without a channel have told last, by their pids.
    news: HashMap<u32, api::Master>,
    /// What became of the connections of other generations' drains.
    drained: Connections,
}

/// One of them.
#[derive(Debug)]
struct Drainer {
    pid: u32,
    identity: Identity,
    /// Held, so that a number that was used again gets no signal of ours. `None`: it had gone when we
    /// looked for it first.
    process: Option<Arc<Other>>,
    /// A rejected successor is still our child.
    child: Option<Link>,
}

impl Drainers {
    /// Those that our predecessor knew, and what it counted. Whose end could be missed is not known.
    pub(super) fn new(
        lingering: Vec<Lingering>,
        drained: Connections,
        post: &mpsc::Sender<Input>,
    ) -> io::Result<Self> {
        let mut known = Vec::new();
        for Lingering { pid, identity, .. } in lingering {
            let process = Other::open(pid)?.map(Arc::new);
            Input::DrainerExited(pid).when_gone(process.clone(), post);
            known.push(Drainer {
                pid,
                identity,
                process,
                child: None,
            });
        }
        Ok(Self {
            known,
            news: HashMap::new(),
            drained,
        })
    }

    /// For our successor; `how` says for how long each may drain, and whether it was told to hurry.
    pub(super) fn for_successor(
        &self,
        how: impl Fn(u32) -> (Option<Duration>, bool),
    ) -> Vec<Lingering> {
        let one = |d: &Drainer| {
            let (left, hurried) = how(d.pid);
            Lingering {
                pid: d.pid,
                identity: d.identity.clone(),
                left_ms: left.map(millis),
                hurried,
            }
        };
        self.known.iter().map(one).collect()
    }

    /// Our predecessor drains from now on.
    pub(super) fn add(&mut self, process: Arc<Other>, identity: Identity) {
        let pid = process.pid();
        if self.known.iter().all(|d| d.pid != pid) {
            self.known.push(Drainer {
                pid,
                identity,
                process: Some(process),
                child: None,
            });
        }
    }

    /// A successor that was rejected drains from now on.
    pub(super) fn add_rejected(&mut self, link: Link, identity: Identity) {
        let process = Arc::new(link.process.handle());
        tracing::info!(
            "g{} (master {}), which was rejected, drains on beside this one",
            identity.generation,
            process.pid()
        );
        self.known.push(Drainer {
            pid: process.pid(),
            identity,
            process: Some(process),
            child: Some(link),
        });
    }

    pub(super) fn signal(&self, pid: u32, signal: Os) {
        let one = self.known.iter().find(|d| d.pid == pid);
        let Some(process) = one.and_then(|d| d.process.as_ref()) else {
            return;
        };
        if let Err(e) = process.signal(signal) {
            tracing::error!("cannot signal master {pid}: {e}");
        }
        // A stopped one must hear it.
        let _ = process.signal(Os::SIGCONT);
    }

    /// A rejected successor has ended: its pid.
    pub(super) fn rejected_exited(&mut self, number: u64) -> Option<u32> {
        let mut children = self.known.iter_mut().filter_map(|d| d.child.as_mut());
        let link = children.find(|link| link.number() == number)?;
        let (pid, how) = (link.process.pid(), link.process.reap());
        tracing::info!("master {pid} {how}");
        Some(pid)
    }

    /// It has gone.
    pub(super) fn gone(&mut self, pid: u32) {
        self.known.retain(|d| d.pid != pid);
        self.news.remove(&pid);
    }

    /// A master without a channel told how it goes; `ours` says whether it is our predecessor or
    /// successor.
    pub(super) fn heard(&mut self, news: News, ours: impl Fn(u32) -> bool) {
        let pid = news.master.pid;
        if let Some(drained) = &news.drained {
            self.drained += drained.connections;
        }
        if ours(pid) || self.known.iter().any(|d| d.pid == pid) {
            self.news.insert(pid, news.master);
        }
    }

    /// Our predecessor's last worker has gone.
    pub(super) fn count(&mut self, connections: Connections) {
        self.drained += connections;
    }

    /// What became of the connections of other generations' drains.
    pub(super) fn drained(&self) -> Connections {
        self.drained
    }

    /// What one of them told last.
    pub(super) fn news_of(&self, pid: u32) -> Option<&api::Master> {
        self.news.get(&pid)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Identity)> {
        self.known.iter().map(|d| (d.pid, &d.identity))
    }

    /// A number for the next generation: none of those who live has it.
    pub(super) fn unused_generation(&self, ours: u64) -> u64 {
        let drain = self.known.iter().map(|d| d.identity.generation);
        drain.fold(ours, u64::max) + 1
    }

    /// What these hold: for an operator who waits for them.
    pub(super) fn who_holds_what(&self, pids: &[u32]) -> String {
        let one = |pid: &u32| {
            let known = self.known.iter().find(|d| d.pid == *pid);
            let who = known.map_or_else(
                || format!("master {pid}"),
                |d| format!("g{} (master {pid})", d.identity.generation),
            );
            match self.news.get(pid) {
                Some(m) => {
                    let held: u64 = m.workers.iter().map(|w| w.connections).sum();
                    format!("{who} holds {held} connections")
                }
                None => who,
            }
        };
        pids.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// All generations append to the same log files: those that drain, or are parked, hear it from the
/// owner, and from nobody else.
pub(super) fn tell_to_reopen(pids: impl Iterator<Item = u32>) {
    let mut pids: Vec<u32> = pids.collect();
    pids.sort_unstable();
    pids.dedup();
    for pid in pids {
        let told = match Other::open(pid) {
            Ok(Some(process)) => process.signal(Os::SIGUSR1),
            Ok(None) => continue,
            Err(e) => Err(e),
        };
        if let Err(e) = told {
            tracing::warn!("cannot tell master {pid} to open its log files again: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Phase;

    #[tokio::test]
    async fn only_what_those_who_are_known_tell_is_shown() {
        let lingering = Lingering {
            pid: u32::MAX,
            identity: Identity {
                generation: 3,
                version: "1".into(),
                build_id: "b".into(),
            },
            left_ms: None,
            hurried: false,
        };
        let post = mpsc::channel(9).0;
        let mut drainers = Drainers::new(vec![lingering], Connections::default(), &post).unwrap();
        for pid in [u32::MAX, 9] {
            let master = api::Master {
                pid,
                generation: 3,
                version: "1".into(),
                phase: Phase::Draining.into(),
                private_kib: 0,
                workers: Vec::new(),
                app: None,
            };
            let drained = None;
            drainers.heard(News { master, drained }, |_| false);
        }
        assert!(drainers.news_of(9).is_none());
        assert_eq!(
            drainers.who_holds_what(&[u32::MAX, 9]),
            "g3 (master 4294967295) holds 0 connections, master 9"
        );
        assert_eq!(drainers.unused_generation(1), 4);
        drainers.gone(u32::MAX);
        assert!(drainers.news_of(u32::MAX).is_none());
    }
}
