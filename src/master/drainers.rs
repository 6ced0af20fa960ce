//! Generations that only drain: those before us that are committed away, and successors that were
//! rejected. They have no channel to the owner any longer, so they tell it on `handoff.sock` how it
//! goes, now and then and at their end; the owner shows them and counts them.

use std::collections::HashMap;
use std::sync::Arc;

use nix::sys::signal::Signal as Os;
use tokio::sync::mpsc;

use super::input::Input;
use super::successor::Link;
use crate::api::{self, Connections};
use crate::machine::Phase;
use crate::machine::link::News;
use crate::machine::message::{Identity, Lingering};
use crate::sys::process::Other;

/// All of them, as far as this master knows.
#[derive(Debug)]
pub(super) struct Drainers {
    known: Vec<Lingering>,
    /// Held, so that a number that was used again gets no signal of ours.
    processes: HashMap<u32, Arc<Other>>,
    /// Rejected successors: still our children.
    rejected: Vec<Link>,
    /// What masters without a channel have told last, by their pids.
    news: HashMap<u32, api::Master>,
    /// What became of the connections of other generations' drains.
    drained: Connections,
}

impl Drainers {
    /// Those that our predecessor knew, and what it counted.
    pub(super) fn new(
        known: Vec<Lingering>,
        drained: Connections,
        post: &mpsc::Sender<Input>,
    ) -> Self {
        let mut processes = HashMap::new();
        for pid in known.iter().map(|l| l.pid) {
            let process = Other::open(pid).ok().flatten().map(Arc::new);
            if let Some(process) = &process {
                processes.insert(pid, Arc::clone(process));
            }
            let post = post.clone();
            tokio::spawn(async move {
                if let Some(process) = process {
                    let _ = process.gone().await;
                }
                let _ = post.send(Input::DrainerExited(pid)).await;
            });
        }
        Self {
            known,
            processes,
            rejected: Vec::new(),
            news: HashMap::new(),
            drained,
        }
    }

    /// For our successor, with ourselves.
    pub(super) fn with(&self, pid: u32, identity: Identity) -> Vec<Lingering> {
        let mut all = self.known.clone();
        all.push(Lingering { pid, identity });
        all
    }

    /// Our predecessor drains from now on.
    pub(super) fn add(&mut self, one: Lingering) {
        if self.known.iter().all(|l| l.pid != one.pid) {
            self.known.push(one);
        }
    }

    /// A successor that was rejected drains from now on: its pid.
    pub(super) fn add_rejected(&mut self, link: Link, identity: Identity) -> u32 {
        let pid = link.process.pid();
        tracing::info!(
            "g{} (master {pid}), which was rejected, drains on beside this one",
            identity.generation
        );
        self.known.push(Lingering { pid, identity });
        self.rejected.push(link);
        pid
    }

    pub(super) fn signal(&self, pid: u32, signal: Os) {
        let child = self.rejected.iter().find(|l| l.process.pid() == pid);
        let send = |signal| match (child, self.processes.get(&pid)) {
            (Some(link), _) => link.process.signal(signal),
            (None, Some(process)) => process.signal(signal),
            (None, None) => Ok(()),
        };
        if let Err(e) = send(signal) {
            tracing::error!("cannot signal master {pid}: {e}");
        }
        if signal == Os::SIGTERM {
            // A stopped one must hear it.
            let _ = send(Os::SIGCONT);
        }
    }

    /// A rejected successor has ended: its pid.
    pub(super) fn rejected_exited(&mut self, number: u64) -> Option<u32> {
        let at = self.rejected.iter().position(|l| l.number() == number)?;
        let mut link = self.rejected.swap_remove(at);
        let pid = link.process.pid();
        let how = link.process.reap();
        tracing::info!("master {pid} {how}");
        Some(pid)
    }

    /// It has gone.
    pub(super) fn gone(&mut self, pid: u32) {
        self.known.retain(|l| l.pid != pid);
        self.processes.remove(&pid);
        self.news.remove(&pid);
    }

    /// A master without a channel told how it goes; `ours` says whether it is our predecessor or
    /// successor.
    pub(super) fn told(&mut self, news: News, ours: impl Fn(u32) -> bool) {
        let pid = news.master.pid;
        if let Some(drained) = &news.drained {
            self.drained += drained.connections;
        }
        if ours(pid) || self.known.iter().any(|l| l.pid == pid) {
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

    pub(super) fn all(&self) -> impl Iterator<Item = &Lingering> {
        self.known.iter()
    }

    /// A number for the next generation: none of those who live has it.
    pub(super) fn unused_generation(&self, ours: u64) -> u64 {
        let drain = self.known.iter().map(|l| l.identity.generation);
        drain.fold(ours, u64::max) + 1
    }

    /// How many still drain. One that said its last word is only on its way out, and `status` calls
    /// it done.
    pub(super) fn still_draining(&self) -> usize {
        self.holding().count()
    }

    fn holding(&self) -> impl Iterator<Item = &Lingering> {
        let done = |l: &&Lingering| {
            let told = self.news.get(&l.pid);
            told.is_some_and(|m| m.phase == Phase::Done.as_str())
        };
        self.known.iter().filter(move |l| !done(l))
    }

    /// Who holds what, the oldest first: for an operator who waits for them.
    pub(super) fn who_holds_what(&self) -> String {
        let one = |l: &Lingering| {
            let who = format!("g{} (master {})", l.identity.generation, l.pid);
            let told = self.news.get(&l.pid);
            told.map_or_else(
                || who.clone(),
                |m| {
                    let held: u64 = m.workers.iter().map(|w| w.connections).sum();
                    format!("{who} holds {held} connections")
                },
            )
        };
        self.holding().map(one).collect::<Vec<_>>().join(", ")
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

    fn master(pid: u32, phase: Phase) -> News {
        News {
            master: api::Master {
                pid,
                generation: u64::from(pid),
                version: "1".into(),
                phase: phase.to_string(),
                private_kib: 0,
                workers: Vec::new(),
                app: None,
            },
            drained: None,
        }
    }

    #[tokio::test]
    async fn who_said_its_last_word_drains_no_longer_though_its_process_is_there() {
        let mut drainers = Drainers::new(Vec::new(), Connections::default(), &mpsc::channel(9).0);
        for pid in 1..=3 {
            drainers.add(Lingering {
                pid,
                identity: Identity {
                    generation: u64::from(pid),
                    version: "1".into(),
                    build_id: "b".into(),
                },
            });
        }
        drainers.told(master(1, Phase::Draining), |_| false);
        assert_eq!(drainers.still_draining(), 3);
        drainers.told(master(1, Phase::Done), |_| false);
        drainers.told(master(9, Phase::Done), |_| false);
        assert_eq!(drainers.still_draining(), 2);
        assert!(drainers.news_of(9).is_none());
    }
}
