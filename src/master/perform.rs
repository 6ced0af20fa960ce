//! Actions, carried out: one arm an action, told to the part that does it. What takes time is a task
//! of that part, which reports to the queue.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal as Os;

use super::configured::timing;
use super::driver::Driver;
use super::milestone::Milestone;
use super::predecessor::Predecessor;
use super::{drainers, status, words};
use crate::api::Connections;
use crate::machine::link::DrainReason;
use crate::machine::message::KeptConfig;
use crate::machine::{Action, Event, FromSuccessor, Phase, Signal, Who};

impl Driver {
    /// Carries one action out. What follows from it at once is returned.
    #[expect(clippy::too_many_lines, reason = "one arm an action")]
    pub(super) async fn perform(&mut self, action: Action) -> Vec<Event> {
        match action {
            Action::Enter { from, to } => self.entered(from, to),
            // Our workers.
            Action::StartWorkers => return self.start_workers(),
            Action::Accept => {
                self.configured.sockets.listen(&self.configured.config);
                self.workers.accept();
            }
            Action::Quiesce => self.workers.quiesce(),
            Action::DrainWorkers { limit, stop } => {
                // Before they ask: the answer must come from those who serve on.
                self.handoff.follow(false);
                if !stop && self.drain.begins(self.story.id()) {
                    self.workers.count_anew();
                }
                return self.workers.drain(limit, self.drain_reason(stop));
            }
            Action::KillWorkers => {
                self.handoff.follow(false);
                return self.workers.kill();
            }
            Action::DrainEnded => {
                self.drain_ended();
                self.rest();
            }
            Action::CheckHealth => {
                let upgrade = &self.configured.config.upgrade;
                let (path, limit) = (upgrade.health.as_ref(), upgrade.start_timeout);
                self.health.check_once(path, limit);
            }
            Action::ReopenLogs => self.reopen_logs(),
            // Their configuration.
            Action::Reload => match self
                .configured
                .read_again(&self.applications, &self.metrics)
            {
                Ok(()) => {
                    if let Some((config, _)) = self.configured.next() {
                        let start = config.upgrade.start_timeout;
                        self.machine.begin_reload(start, Instant::now());
                    }
                    self.look_after_tls(true);
                    return self.start_reload();
                }
                Err(failure) => return vec![Event::ReloadFailed(failure)],
            },
            Action::AdoptReload => {
                self.configured.adopt(&mut self.metrics);
                self.applications.adopt_next(&self.configured.config);
                // Two reloads in a row may be meant to drop the ticket keys.
                self.look_after_tls(false);
                self.set_timing();
            }
            Action::AbandonReload(failure) => {
                // Nobody waits for an answer when a signal asked for it.
                tracing::error!("the configuration is not reloaded: {}", failure.reason);
                self.configured.abandon();
                self.workers.cancel_reload();
                self.applications.cancel_next();
                self.set_timing();
            }
            Action::DropListeners => {
                self.configured.drop_listeners(&self.manager);
                self.workers.replace_sockets(&self.configured.sockets);
            }
            // The successor.
            Action::Launch { back, next } => self.launch(back, next.as_ref()),
            Action::CancelLaunch => self.successor.cancel(),
            Action::Inherit => self.send_inheritance(),
            Action::ToSuccessor(word) => self.say_to_successor(word),
            Action::CloseSuccessor => {
                self.state.outlived();
                // EOF makes the commit true: what to go back with is written down by then.
                self.hand_story_over().await;
                drop(self.successor.close());
            }
            Action::EndSuccessor(how) => self.successor.signal(os(how)),
            Action::KillSuccessor => self.successor.signal(Os::SIGKILL),
            Action::ReapSuccessor => self.successor.reap(),
            Action::LetLinger => {
                if let Some((link, identity)) = self.successor.let_go() {
                    self.drainers.add_rejected(link, identity);
                }
            }
            // The predecessor.
            Action::ToPredecessor(word) => {
                if matches!(word, FromSuccessor::Yield { .. }) {
                    self.disk.give_up().await;
                }
                self.say_to_predecessor(word);
            }
            Action::ClosePredecessor => {
                self.hand_story_over().await;
                self.predecessor_drains();
            }
            Action::KillPredecessor => {
                if let Some(predecessor) = &self.predecessor {
                    let who = words::Who::from(predecessor.identity());
                    let pid = predecessor.pid();
                    tracing::warn!(
                        "{who} (master {pid}) does not let go of the service: it is killed"
                    );
                    predecessor.kill();
                }
            }
            // Generations that only drain.
            Action::EndDrainer(pid, how) => self.drainers.signal(pid, os(how)),
            Action::KillDrainer(pid) => {
                tracing::warn!("master {pid}, which only drains, does not leave: it is killed");
                self.drainers.signal(pid, Os::SIGKILL);
            }
            // Until the answer, a dead owner goes unnoticed.
            Action::AskOwner => self.drain.ask_owner(status::me(self), Duration::ZERO),
            Action::SeekOwner => {
                let patience = self.configured.config.upgrade.start_timeout;
                self.drain.ask_owner(status::me(self), patience);
            }
            // The service manager.
            Action::NameMain(who) => {
                let done = self.name_main(who).await;
                return vec![Event::MainNamed { who, done }];
            }
            Action::Reclaim => {
                let other = self.workers.serving();
                let (who, done) = (
                    Who::Me,
                    self.manager.rename_main(other, self.fixed.pid).await,
                );
                return vec![Event::MainNamed { who, done }];
            }
            Action::StartedCold => self.started_cold(),
            Action::NotifyReady => return self.ready(),
            Action::NotifyStopping => self.manager.stopping(),
            Action::WritePids => {
                if let Some(pid) = self.successor.pid() {
                    self.pidfiles.pair(pid, self.fixed.pid);
                }
                self.story.keep(KeptConfig::of(&self.configured.config));
            }
            Action::OwnPid => self.pidfiles.alone(self.fixed.pid),
            // The program on disk.
            Action::RestoreDisk => self.reject_what_failed(),
            // What the predecessor may have put at the path stays there: it is good, and a start that
            // finds it is a trial.
            Action::KeepDisk => self.disk.commit(),
            Action::ProveAlone => self.prove_alone(),
            Action::Proved => self.proved(),
            // Those who wait.
            Action::Settle(kind, verdict) => self.settle(kind, verdict),
            Action::Committed => {
                if let Some(last) = self.story.committed_elsewhere() {
                    self.orders.ended(&last);
                }
            }
            Action::Conclude(outcome, failure) => self.conclude(outcome, failure),
            Action::Note(note) => self.note(&note),
            Action::Exit(code) => self.exit = Some(code),
        }
        Vec::new()
    }

    /// Whoever serves writes from now on; nobody does when the service stops.
    async fn hand_story_over(&mut self) {
        if !self.machine.is_released() {
            self.state.hand_over().await;
        }
    }

    /// What the application is told.
    fn drain_reason(&self, stop: bool) -> DrainReason {
        match (stop, &self.predecessor) {
            (true, _) => DrainReason::Stop,
            (false, Some(before)) if before.listens() => DrainReason::Rollback,
            (false, _) => DrainReason::Upgrade,
        }
    }

    fn entered(&mut self, from: Phase, to: Phase) {
        self.waking.expect_nothing();
        if to.settles_sockets() && self.configured.settle_sockets(&self.manager) {
            self.workers.replace_sockets(&self.configured.sockets);
        }
        let text = status::line_of(self, from, to);
        self.story.entered(from, to, &text);
        if to.proves_health() {
            self.story.took_over();
            self.gone_back();
            let path = self.configured.config.upgrade.health.as_ref();
            self.health.watch(path);
        } else if from.proves_health() {
            self.health.end();
        }
        if let Some(time) = self.machine.takes() {
            let app = self.configured.config.app.as_ref();
            let app = app.filter(|_| self.machine.stopping());
            let app = app.map(|app| app.stop_timeout).unwrap_or_default();
            self.manager.extend_timeout(time + app);
        }
        if to.feeds_at_once() {
            self.feed();
        }
        self.show_status();
        self.tell_step();
        self.tell_news();
    }

    pub(super) fn show_status(&self) {
        if self.machine.speaks() {
            self.manager.status(&status::line(self));
        }
    }

    /// The service runs.
    fn ready(&mut self) -> Vec<Event> {
        self.configured.sockets.store(&self.manager);
        let done = self.manager.ready(&status::line(self));
        let heard = done.then_some(Event::ReadyHeard);
        let named = Event::MainNamed { who: Who::Me, done };
        heard.into_iter().chain([named]).collect()
    }

    async fn name_main(&mut self, who: Who) -> bool {
        match (who, self.successor.process()) {
            (Who::Me, _) => self.manager.name_main(self.fixed.pid, None).await,
            (Who::Successor, Some(process)) => {
                let pidfd = Some(process.pidfd());
                self.manager.name_main(process.pid(), pidfd).await
            }
            // Whoever serves by then has named itself.
            (Who::Successor, None) => true,
        }
    }

    /// All generations append to the same log files.
    fn reopen_logs(&self) {
        self.workers.reopen_logs();
        if self.machine.owns() {
            let others = [
                self.successor.pid(),
                self.predecessor.as_ref().map(Predecessor::pid),
            ];
            let drain = self.drainers.all().map(|(pid, _)| pid);
            drainers::tell_to_reopen(drain.chain(others.into_iter().flatten()));
        }
    }

    pub(super) fn set_timing(&mut self) {
        let timing = timing(&self.configured.config, self.manager.watchdog());
        self.machine.set_timing(timing);
        self.tell_rest();
    }

    /// The keeper is to leave what a dead master left the time of a stop, and a margin: it ends by itself
    /// within the first.
    pub(super) fn tell_rest(&self) {
        let config = &self.configured.config;
        let app = config.app.as_ref().map(|app| app.stop_timeout);
        self.manager
            .rest(config.drain.stop_timeout + app.unwrap_or_default() + MARGIN);
    }

    pub(super) fn milestone(&self, kind: &'static str) -> Milestone<'static> {
        self.story.milestone(kind, self.machine.phase())
    }

    /// What became of the connections of every drain this generation knows of.
    pub(super) fn all_drained(&self) -> Connections {
        let mut all = self.drainers.drained();
        all += self.workers.all_drained();
        all
    }
}

/// For hooks, and for what is written at the end.
const MARGIN: Duration = Duration::from_secs(3);

/// TERM or INT, to another master.
fn os(how: Signal) -> Os {
    match how {
        Signal::Int => Os::SIGINT,
        _ => Os::SIGTERM,
    }
}
