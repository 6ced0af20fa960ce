//! Generations that only drain: those before us that are committed away, and a successor that was
//! sent away. They have no channel to the owner any longer, so they tell it on `handoff.sock` how it
//! goes, now and then and at their end; the owner shows them, counts them, and writes late figures
//! down.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::driver::Driver;
use super::handoff::SOCKET;
use super::input::Input;
use super::record::millis;
use super::story;
use super::workers::ended;
use crate::api;
use crate::machine::link::{Drained, News};
use crate::machine::message::{Identity, Lingering, Message};
use crate::machine::{Event, Phase};
use crate::sys::handoff;
use crate::sys::process::Other;

/// A drain of ours that an upgrade caused.
#[derive(Debug)]
pub(super) struct Drain {
    upgrade_id: String,
    since: Instant,
}

/// For the owner to answer whether there is one: until then nobody sees its death, if there is none.
const OWNER: Duration = Duration::from_millis(500);
/// How often the owner hears of a drain that lasts.
const EVERY: Duration = Duration::from_secs(2);

impl Driver {
    // --- the one that drains ---

    /// Our workers are about to drain, because another generation serves.
    pub(super) fn drain_begins(&mut self) {
        if self.drain.is_some() {
            // It is only hurried.
            return;
        }
        self.workers.count_anew();
        self.drain = self.upgrade.as_ref().map(|record| Drain {
            upgrade_id: record.id.clone(),
            since: Instant::now(),
        });
    }

    /// Our last worker has gone. While there is a channel the successor learns it there, otherwise
    /// the owner at our end.
    pub(super) fn drain_ended(&mut self) {
        let Some(drain) = self.drain.take() else {
            return;
        };
        let drained = Drained {
            upgrade_id: drain.upgrade_id,
            ms: millis(drain.since.elapsed()),
            connections: self.workers.tally(),
        };
        let mut milestone = self.milestone(story::DRAINED);
        milestone.cast.id = Some(drained.upgrade_id.clone());
        milestone.connections = Some(drained.connections);
        milestone.info(format_args!(
            "g{} has drained in {} ms; {}",
            self.fixed.me.generation, drained.ms, drained.connections
        ));
        if self.machine.phase() == Phase::Parked {
            let (ms, connections) = (drained.ms, drained.connections);
            if let Some(record) = &mut self.upgrade {
                record.drained = Some((ms, connections));
            }
            self.tell_successor(Message::Drained { ms, connections });
        } else {
            self.farewell = Some(drained);
        }
    }

    /// The drain goes on without a channel.
    pub(super) fn tell_news(&mut self) {
        if self.machine.phase() != Phase::Draining || self.machine.stopping() {
            return;
        }
        // What they answer is told the next time.
        self.workers.ask();
        let (path, generation) = (self.handoff_path(), self.fixed.me.generation);
        let news = News {
            master: self.describe_me(),
            drained: None,
        };
        let post = self.post.clone();
        tokio::spawn(async move {
            if let Err(e) = handoff::tell(&path, generation, news).await {
                tracing::debug!("the owner does not hear how we drain: {e}");
            }
            tokio::time::sleep(EVERY).await;
            let _ = post.send(Input::TellNews).await;
        });
    }

    /// Our successor, which made itself final, has ended while we drain. If a generation after it
    /// owns the service, that is the ordinary course: we reap it and drain on, seen and counted. If
    /// nobody does, it must be seen to die, by whoever inherits its zombie from us (the machine's
    /// rule). Who knows is the owner, if there is one.
    pub(super) fn ask_who_owns(&mut self, number: u64) {
        let (path, generation) = (self.handoff_path(), self.fixed.me.generation);
        let news = News {
            master: self.describe_me(),
            drained: None,
        };
        let post = self.post.clone();
        tokio::spawn(async move {
            let told = handoff::tell(&path, generation, news);
            let told = tokio::time::timeout(OWNER, told).await;
            let owned = matches!(told, Ok(Ok(())));
            let _ = post.send(Input::SuccessorSucceeded { number, owned }).await;
        });
    }

    /// The answer.
    pub(super) fn successor_succeeded(&mut self, number: u64, owned: bool) -> Vec<Event> {
        let Some(mut link) = self.successor.take_if(|s| s.number == number) else {
            return Vec::new();
        };
        if !owned || self.machine.phase() != Phase::Draining {
            let how = ended(link.process.peek());
            self.successor = Some(link);
            return vec![Event::SuccessorExited(how)];
        }
        let how = link.process.reap();
        tracing::info!(
            "master {} {how}; another generation serves, this one drains on",
            link.process.pid()
        );
        Vec::new()
    }

    /// The last word, if somebody should hear it.
    pub(super) async fn say_farewell(&mut self) {
        let Some(drained) = self.farewell.take().filter(|_| !self.machine.stopping()) else {
            return;
        };
        let news = News {
            master: self.describe_me(),
            drained: Some(drained),
        };
        let generation = self.fixed.me.generation;
        if let Err(e) = handoff::tell(&self.handoff_path(), generation, news).await {
            tracing::info!("nobody hears what our drain came to: {e}");
        }
    }

    fn handoff_path(&self) -> PathBuf {
        self.fixed.runtime.join(SOCKET)
    }

    // --- the owner ---

    /// A generation that drains tells how it goes.
    pub(super) fn heard_news(&mut self, news: News) {
        let pid = news.master.pid;
        if let Some(drained) = news.drained {
            self.others_drained += drained.connections;
            self.write_down(&drained);
        }
        let known = self.lingering.iter().any(|l| l.pid == pid)
            || self.predecessor.as_ref().is_some_and(|p| p.pid == pid)
            || self
                .successor
                .as_ref()
                .is_some_and(|s| s.process.pid() == pid);
        if known {
            self.news.insert(pid, news.master);
        }
    }

    /// Figures that come when the upgrade they belong to may have ended.
    fn write_down(&mut self, drained: &Drained) {
        if let Some(record) = &mut self.upgrade {
            if record.id == drained.upgrade_id {
                // Forth and back: what was drained for either counts.
                let (ms, mut all) = record.drained.unwrap_or_default();
                all += drained.connections;
                record.drained = Some((ms.max(drained.ms), all));
            }
            return;
        }
        let Some(last) = &mut self.last else { return };
        if last.id != drained.upgrade_id {
            return;
        }
        last.connections += drained.connections;
        last.drain_ms = Some(last.drain_ms.unwrap_or(0).max(drained.ms));
        if let Err(e) = self.history.correct(last) {
            tracing::warn!("{e}");
        }
    }

    /// The predecessor let its channel go, but its process may still drain.
    pub(super) fn predecessor_lingers(&mut self) {
        let Some(link) = &mut self.predecessor else {
            return;
        };
        link.line = None;
        let pid = link.pid;
        // Without a process to watch nobody would tell us of its end.
        if link.process.is_some() && self.lingering.iter().all(|l| l.pid != pid) {
            self.lingering.push(Lingering {
                pid,
                identity: link.identity.clone(),
            });
        }
    }

    /// A rejected successor drains on, while we go on.
    pub(super) fn let_linger(&mut self, limit: Option<Duration>) {
        let Some(mut link) = self.successor.take() else {
            return;
        };
        link.line = None;
        let pid = link.process.pid();
        tracing::info!(
            "g{} (master {pid}), which was rejected, drains on beside this one",
            self.next_generation
        );
        let hello = link.hello.as_ref();
        self.lingering.push(Lingering {
            pid,
            identity: Identity {
                generation: self.next_generation,
                version: hello.map_or_else(String::new, |h| h.version.clone()),
                build_id: hello.map_or_else(String::new, |h| h.build_id.clone()),
            },
        });
        if let Some(limit) = limit {
            let (number, post) = (link.number, self.post.clone());
            tokio::spawn(async move {
                tokio::time::sleep(limit).await;
                let _ = post.send(Input::RejectedOverdue(number)).await;
            });
        }
        self.rejected.push(link);
    }

    /// Its own deadline should have ended it.
    pub(super) fn rejected_overdue(&mut self, number: u64) {
        let Some(link) = self.rejected.iter_mut().find(|o| o.number == number) else {
            return;
        };
        let pid = link.process.pid();
        tracing::warn!("master {pid}, which was rejected, drains for too long: it is killed");
        if let Err(e) = link.process.signal(Signal::SIGKILL) {
            tracing::error!("cannot kill master {pid}: {e}");
        }
    }

    /// A rejected successor that was left to drain has ended.
    pub(super) fn rejected_exited(&mut self, number: u64) {
        let Some(at) = self.rejected.iter().position(|o| o.number == number) else {
            return;
        };
        let mut link = self.rejected.swap_remove(at);
        let pid = link.process.pid();
        let how = link.process.reap();
        tracing::info!("master {pid} {how}");
        self.lingers_no_more(pid);
    }

    /// All generations append to the same log files: those that only drain, or are parked, hear it
    /// from the owner, and from nobody else.
    pub(super) fn tell_others_to_reopen(&self) {
        let successor = self.successor.as_ref().map(|s| s.process.pid());
        let predecessor = self.predecessor.as_ref().map(|p| p.pid);
        let mut others: Vec<u32> = self.lingering.iter().map(|l| l.pid).collect();
        others.extend(successor.into_iter().chain(predecessor));
        others.sort_unstable();
        others.dedup();
        for pid in others {
            let told = match Other::open(pid) {
                Ok(Some(process)) => process.signal(Signal::SIGUSR1),
                Ok(None) => continue,
                Err(e) => Err(e),
            };
            if let Err(e) = told {
                tracing::warn!("cannot tell master {pid} to open its log files again: {e}");
            }
        }
    }

    /// A number for the next generation: none of those who live has it.
    pub(super) fn unused_generation(&self) -> u64 {
        let drain = self.lingering.iter().map(|l| l.identity.generation);
        drain.fold(self.fixed.me.generation, u64::max) + 1
    }

    /// A master has gone.
    pub(super) fn lingers_no_more(&mut self, pid: u32) {
        self.lingering.retain(|l| l.pid != pid);
        self.news.remove(&pid);
        self.workers.forget_master(pid);
    }

    /// How many generations still drain. One that said its last word is only on its way out, and
    /// `status` calls it done.
    pub(super) fn still_draining(&self) -> usize {
        still_draining(&self.lingering, &self.news)
    }

    /// What became of the connections of every drain this generation knows of.
    pub(super) fn all_drained(&self) -> api::Connections {
        let mut all = self.others_drained;
        all += self.workers.all_drained();
        all
    }
}

fn still_draining(lingering: &[Lingering], news: &HashMap<u32, api::Master>) -> usize {
    let done = |l: &&Lingering| {
        let told = news.get(&l.pid);
        told.is_some_and(|m| m.phase == Phase::Done.as_str())
    };
    lingering.len() - lingering.iter().filter(done).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(pid: u32, phase: Phase) -> (u32, api::Master) {
        let master = api::Master {
            pid,
            generation: u64::from(pid),
            version: "1".into(),
            phase: phase.to_string(),
            private_kib: 0,
            workers: Vec::new(),
            app: None,
        };
        (pid, master)
    }

    #[test]
    fn who_said_its_last_word_drains_no_longer_though_its_process_is_there() {
        let lingering: Vec<Lingering> = (1..=3)
            .map(|pid| Lingering {
                pid,
                identity: Identity {
                    generation: u64::from(pid),
                    version: "1".into(),
                    build_id: "b".into(),
                },
            })
            .collect();
        let mut news = HashMap::from([master(1, Phase::Draining)]);
        assert_eq!(still_draining(&lingering, &news), 3);
        news.extend([master(1, Phase::Done), master(9, Phase::Done)]);
        assert_eq!(still_draining(&lingering, &news), 2);
    }
}
