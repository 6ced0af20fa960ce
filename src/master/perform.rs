//! Actions, carried out. One arm an action; what takes time is a task that reports to the queue.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal as Os;

use super::driver::{Driver, Reload};
use super::health;
use super::inheritance;
use super::input::Input;
use super::launch::{self, Plan};
use super::record::{Record, millis, new_id};
use super::start::timing;
use super::store::Found;
use super::story::{self, Milestone};
use super::words;
use crate::api::{self, Last, Outcome, exit};
use crate::machine::link::DrainReason;
use crate::machine::message::{
    Inheritance, Inherited, KeptConfig, Lingering, Message, PROTOCOL, Supersede,
};
use crate::machine::{Action, Event, Failure, Note, Phase, ToPredecessor, ToSuccessor, Who};
use crate::sys::secrets;

impl Driver {
    /// Carries one action out. What follows from it at once is returned.
    pub(super) async fn perform(&mut self, action: Action) -> Vec<Event> {
        match action {
            Action::Enter { from, to } => self.entered(from, to),
            Action::StartWorkers => {
                return self.start_workers();
            }
            Action::Accept => {
                self.sockets.listen(&self.config);
                self.workers.accept();
            }
            Action::Quiesce => self.workers.quiesce(),
            Action::DrainWorkers { limit, stop } => {
                // Before they ask: the answer must come from those who serve on.
                self.close_handoff();
                if !stop {
                    self.drain_begins();
                }
                return self.workers.drain(limit, self.drain_reason(stop));
            }
            Action::KillWorkers => {
                self.close_handoff();
                return self.workers.kill();
            }
            Action::Reload => return self.reload_configuration(),
            Action::Launch { back, next } => self.start_launch(back, next.as_ref()),
            Action::CancelLaunch => self.cancel_launch(),
            Action::Inherit => self.send_inheritance(),
            Action::ToSuccessor(word) => self.say_to_successor(word),
            Action::ToPredecessor(word) => self.say_to_predecessor(word),
            Action::CloseSuccessor => {
                // EOF makes the commit true: what to go back with is written down by then.
                if let Some(keeping) = self.keeping.take() {
                    let _ = tokio::time::timeout(KEEPING, keeping).await;
                }
                if let Some(link) = &mut self.successor {
                    link.line = None;
                }
            }
            Action::ClosePredecessor => self.predecessor_lingers(),
            Action::TermSuccessor => self.signal_successor(Os::SIGTERM),
            Action::KillSuccessor => self.signal_successor(Os::SIGKILL),
            Action::ReapSuccessor => {
                if let Some(mut link) = self.successor.take() {
                    let how = link.process.reap();
                    tracing::info!("master {} {how}", link.process.pid());
                }
            }
            Action::TermPredecessor => self.signal_predecessor(Os::SIGTERM),
            Action::KillPredecessor => {
                tracing::warn!("the predecessor does not let go: it is killed");
                self.signal_predecessor(Os::SIGKILL);
            }
            Action::LetLinger { limit } => self.let_linger(limit),
            Action::NameMain(who) => self.name_main(who).await,
            Action::Reclaim => self.reclaim_main().await,
            Action::NotifyReady => {
                self.sockets.store(&self.manager);
                self.main_pid = Some(self.fixed.pid);
                self.begin_cold_trial();
                let text = self.status_line();
                self.manager.ready(&text);
            }
            Action::NotifyStopping => self.manager.stopping(),
            Action::WritePids => {
                if let Some(link) = &self.successor {
                    self.pidfiles.pair(link.process.pid(), self.fixed.pid);
                }
                self.keep_previous();
            }
            Action::OwnPid => self.pidfiles.alone(self.fixed.pid),
            Action::RestoreDisk => self.restore_disk(),
            Action::KeepDisk => self.disk.commit(),
            Action::DropListeners => self.drop_listeners(),
            Action::Settle(kind, verdict) => self.settle(kind, verdict),
            Action::Conclude(outcome, failure) => self.conclude(outcome, failure),
            Action::ReopenLogs => {
                self.workers.reopen_logs();
                if self.machine.owns() {
                    self.tell_others_to_reopen();
                }
            }
            Action::Note(note) => self.note(&note),
            Action::Exit(code) => self.exit = Some(code),
        }
        Vec::new()
    }

    /// What the application is told.
    fn drain_reason(&self, stop: bool) -> DrainReason {
        match (stop, &self.predecessor) {
            (true, _) => DrainReason::Stop,
            (false, Some(_)) => DrainReason::Rollback,
            (false, None) => DrainReason::Upgrade,
        }
    }

    /// Facts that events bring for us, before the machine sees them.
    pub(super) fn before(&mut self, event: &Event) {
        match event {
            Event::Reloaded => self.adopt_reload(),
            Event::ReloadFailed(failure) => {
                // Nobody waits for an answer when a signal asked for it.
                tracing::error!("the configuration is not reloaded: {}", failure.reason);
                self.reload = None;
                self.workers.cancel_reload();
                self.applications.cancel_next();
            }
            Event::Predecessor(crate::machine::FromPredecessor::Takeover) => {
                if let Some(record) = &mut self.upgrade {
                    record.takes_over();
                }
                self.main_pid = Some(self.fixed.pid);
                self.gone_back();
            }
            Event::WorkersGone
                if matches!(self.machine.phase(), Phase::Parked | Phase::Draining) =>
            {
                self.drain_ended();
                self.rest_application();
            }
            Event::WorkersFailed(_) | Event::Unhealthy(_) => self.prolong_cold_trial(),
            _ => {}
        }
    }

    fn entered(&mut self, from: Phase, to: Phase) {
        if to == Phase::Serving {
            self.settle_sockets();
        }
        let generation = self.fixed.me.generation;
        if from == Phase::Serving {
            // What begins here is another story.
            self.told = None;
        }
        Milestone {
            // The machine may be further on by now.
            phase: to.as_str(),
            ..self.milestone(story::PHASE_CHANGED)
        }
        .info(format_args!("g{generation} {from} -> {to}"));
        if to == Phase::Probation {
            if let Some(record) = &self.upgrade {
                self.remember_end(&record.under_way());
            }
            let path = self.config.upgrade.health.clone();
            self.health = path.map(|path| health::in_probation(path, self.post.clone()));
        } else if from == Phase::Probation {
            self.health = None;
        }
        if to == Phase::Launching {
            // Whoever waits in `systemctl reload` waits as long as we do.
            let limit = self.config.upgrade.start_timeout * 2 + Duration::from_secs(10);
            self.manager.extend_timeout(limit);
        }
        if to == Phase::Draining && self.machine.stopping() {
            // And whoever waits in `systemctl stop` as long as the drain.
            let app = self.config.app.as_ref().map(|app| app.stop_timeout);
            let limit =
                self.config.drain.stop_timeout + app.unwrap_or_default() + Duration::from_secs(10);
            self.manager.extend_timeout(limit);
        }
        if matches!(to, Phase::Probation | Phase::Reclaiming | Phase::Serving) {
            // Whoever begins to answer for the service is not met by the other one's deadline.
            self.feed();
        }
        let text = self.status_line();
        if self.machine.feeds_watchdog() {
            // What is said last is shown: nobody speaks but who answers for the service.
            self.manager.status(&text);
        }
        self.tell_step(to, &text);
        if to == Phase::Draining {
            self.tell_news();
        }
    }

    fn start_launch(&mut self, back: bool, next: Option<&Supersede>) {
        let upcoming = self.orders.upcoming.take();
        let hold = self.machine.hold();
        let id = match (next, &upcoming) {
            (Some(next), _) => next.id.clone(),
            (None, Some(order)) => order.id.clone(),
            (None, None) => new_id(),
        };
        let probation = match (next, &upcoming) {
            (Some(next), _) => next.probation_ms.map(Duration::from_millis),
            (None, Some(order)) => order.probation,
            (None, None) => None,
        };
        let mut record = Record::new(id, &self.fixed.me.version, hold, back);
        record.was_good = back && !self.disk.store.on_trial();
        record.probation = probation;
        let wanted = timing(&self.config, self.manager.watchdog());
        self.machine
            .set_probation(probation.unwrap_or(wanted.probation));
        record.old_pid = Some(self.fixed.pid);
        let wanted = match (next, &upcoming) {
            (Some(next), _) => next.release,
            (None, Some(order)) => order.release,
            (None, None) => false,
        };
        record.keeps_release = self.keeps_release(back, wanted);
        let other = self
            .releases_now()
            .filter(|_| record.keeps_release.is_none());
        if let Some((releases, release)) = other {
            self.release_serves();
            record.releases = Some(releases);
            record.release = Some(release);
        }
        let found = Arc::clone(&record.found);
        let keeps_release = record.keeps_release.is_some();
        let starts = format!("an upgrade of {} starts", self.who());
        self.remember_end(&record.under_way());
        self.upgrade = Some(record);
        self.milestone(story::UPGRADE_STARTS).info(starts);
        self.launches += 1;
        self.next_generation = self.unused_generation();
        let attempt = self.launches;
        let mut plan = self.plan(back, found);
        plan.keeps_release = keeps_release;
        let post = self.post.clone();
        let task = tokio::spawn(async move {
            let result = launch::launch(plan).await;
            let _ = post.send(Input::Launch(attempt, result)).await;
        });
        self.launch = Some((attempt, task.abort_handle()));
    }

    pub(super) fn plan(&self, back: bool, found: Arc<OnceLock<Found>>) -> Plan {
        Plan {
            store: Arc::clone(&self.disk.store),
            back,
            refused: self.history.refused(),
            check: self.fixed.check.clone(),
            args: self.fixed.args.clone(),
            cwd: self.fixed.cwd.clone(),
            arg0: format!(
                "{}: master process g{}",
                self.fixed.name, self.next_generation
            ),
            notify: self.manager.is_systemd(),
            keeps_release: false,
            timeout: self.config.upgrade.start_timeout,
            found,
        }
    }

    fn cancel_launch(&mut self) {
        // Not aborted: its result is thrown away when it comes, so no process is lost.
        self.launch = None;
    }

    fn send_inheritance(&mut self) {
        let mut descriptors = match self.descriptors() {
            Ok(descriptors) => descriptors,
            Err(e) => {
                // The successor's deadline ends this; nothing of ours has changed.
                tracing::error!("cannot duplicate the sockets for the successor: {e}");
                return;
            }
        };
        let (app, end) = self.applications.share().unzip();
        descriptors.extend(end.map(|end| (Inherited::App, end)));
        let Some(record) = &self.upgrade else { return };
        let mut lingering = self.lingering.clone();
        lingering.push(Lingering {
            pid: self.fixed.pid,
            identity: self.fixed.me.clone(),
        });
        let config = if record.back {
            self.previous_config(record.to_build.as_deref())
        } else {
            None
        };
        let inheritance = Inheritance {
            protocol: PROTOCOL,
            pid: self.fixed.pid,
            from: self.fixed.me.clone(),
            generation: self.next_generation,
            upgrade_id: record.id.clone(),
            hold: record.hold,
            started_at_ms: u64::try_from(record.started_at.as_millisecond()).unwrap_or(0),
            probation_ms: record.probation.map(millis),
            path: self.disk.store.path().to_owned(),
            back: record.back,
            cwd: self.fixed.cwd.clone(),
            config,
            fds: Vec::new(),
            lingering,
            unit_rev: self.fixed.unit_rev.clone(),
            drained: self.all_drained(),
            app,
            release: record.keeps_release.clone(),
            state: std::collections::BTreeMap::new(),
        };
        if let Some(line) = self.successor.as_ref().and_then(|s| s.line.as_ref()) {
            inheritance::send(line, inheritance, descriptors);
        }
    }

    fn descriptors(&self) -> std::io::Result<Vec<(Inherited, std::os::fd::OwnedFd)>> {
        let mut descriptors = self.sockets.for_successor()?;
        descriptors.push((Inherited::Control, self.control.try_clone()?));
        if let Some(handoff) = &self.handoff {
            descriptors.push((Inherited::Handoff, handoff.try_clone()?));
        }
        if let Some(metrics) = &self.metrics {
            descriptors.push((Inherited::Metrics, metrics.try_clone()?));
        }
        if let Some(keeper) = self.manager.keeper_pipe()? {
            descriptors.push((Inherited::Keeper, keeper));
        }
        if self.workers.tickets().newest().is_some() {
            let ring = secrets::wrap(self.workers.tickets())?;
            descriptors.push((Inherited::TicketKeys, ring));
        }
        if let Some(identities) = &self.config.tls.identities {
            let identities = secrets::wrap(&**identities)?;
            descriptors.push((Inherited::Identities, identities));
        }
        Ok(descriptors)
    }

    /// The configuration the previous generation ran with, if it is that of this build.
    fn previous_config(&self, build: Option<&str>) -> Option<KeptConfig> {
        match self.history.previous() {
            Ok(Some(previous)) if Some(previous.build_id.as_str()) == build => {
                Some(previous.config)
            }
            Ok(_) => None,
            Err(e) => {
                tracing::warn!("{e}; the configuration on disk counts");
                None
            }
        }
    }

    fn say_to_successor(&mut self, word: ToSuccessor) {
        let message = match word {
            ToSuccessor::Takeover => {
                if let Some(record) = &mut self.upgrade {
                    record.takes_over();
                }
                Message::Takeover
            }
            ToSuccessor::Ready => Message::Ready,
            ToSuccessor::Commit => Message::Commit,
            ToSuccessor::Release => Message::Release,
            ToSuccessor::Retire(reason) => {
                // Who ordered it is answered when the successor hears this.
                self.link_leads_back();
                if self.disk.is_busy() {
                    // It answers the operator when it hears this: the disk first, for a moment.
                    self.orders.retire = Some(reason);
                    self.retire_soon();
                    return;
                }
                let disk = self.disk.trouble.clone();
                Message::Retire { reason, disk }
            }
        };
        self.tell_successor(message);
    }

    fn say_to_predecessor(&mut self, word: ToPredecessor) {
        self.tell_predecessor(match word {
            ToPredecessor::Ready => Message::Ready,
            ToPredecessor::Heartbeat => Message::Heartbeat,
            ToPredecessor::Commit => Message::Commit,
            ToPredecessor::Yield {
                reason,
                retire,
                then,
            } => {
                let generation = self.fixed.me.generation;
                Milestone {
                    reason: Some(&reason),
                    ..self.milestone(story::GIVEN_BACK)
                }
                .warn(format_args!(
                    "g{generation} gives the service back: {reason}"
                ));
                Message::Yield {
                    reason,
                    retire,
                    leaving: false,
                    then,
                }
            }
            ToPredecessor::Release => Message::Release,
            ToPredecessor::Leaving => Message::Yield {
                reason: "told to leave by a signal".into(),
                retire: true,
                leaving: true,
                then: None,
            },
        });
    }

    fn signal_successor(&self, signal: Os) {
        let Some(link) = &self.successor else { return };
        tracing::warn!(
            "{signal} to master {}, which shall leave",
            link.process.pid()
        );
        if let Err(e) = link.process.signal(signal) {
            tracing::error!("cannot signal master {}: {e}", link.process.pid());
        }
        if signal == Os::SIGTERM {
            // A stopped one must hear it.
            let _ = link.process.signal(Os::SIGCONT);
        }
    }

    fn signal_predecessor(&self, signal: Os) {
        let Some(link) = &self.predecessor else {
            return;
        };
        if let Some(process) = &link.process {
            if let Err(e) = process.signal(signal) {
                tracing::error!("cannot signal master {}: {e}", link.pid);
            }
        }
    }

    async fn name_main(&mut self, who: Who) {
        let pid = match (who, &self.successor) {
            (Who::Me, _) => self.fixed.pid,
            (Who::Successor, Some(link)) => link.process.pid(),
            (Who::Successor, None) => return,
        };
        if self.main_pid == Some(pid) {
            return;
        }
        let pidfd = match who {
            Who::Me => None,
            Who::Successor => self.successor.as_ref().map(|link| link.process.pidfd()),
        };
        self.manager.name_main(pid, pidfd).await;
        self.main_pid = Some(pid);
    }

    /// Names a worker and then us again: the manager sees that we are its child by now.
    async fn reclaim_main(&mut self) {
        if !self.manager.is_systemd() {
            return;
        }
        let Some(worker) = self.workers.serving() else {
            tracing::warn!("no worker serves that could be named: systemd may not see us die");
            return;
        };
        self.manager.rename_main(worker, self.fixed.pid).await;
        self.main_pid = Some(self.fixed.pid);
    }

    /// It is final: what the configuration dropped is let go, what it added is stored. Not before:
    /// what is in the store listens, whether somebody goes back or not.
    fn drop_listeners(&mut self) {
        // Those who hold the set, for respawns, are given the new one.
        let mut sockets = match self.sockets.try_clone() {
            Ok(sockets) => sockets,
            Err(e) => {
                tracing::error!("cannot let old listeners go: {e}");
                return;
            }
        };
        sockets.store(&self.manager);
        sockets.drop_old(&self.manager);
        self.sockets = Arc::new(sockets);
        self.workers.replace_sockets(&self.sockets);
    }

    /// Nobody else might have to take the service back: what this configuration wants of our sockets
    /// can be done.
    fn settle_sockets(&mut self) {
        self.sockets.listen(&self.config);
        match self.sockets.with_slots(&self.config, &self.manager) {
            Ok(None) => {}
            Ok(Some(sockets)) => {
                self.sockets = Arc::new(sockets);
                self.workers.replace_sockets(&self.sockets);
            }
            Err(e) => tracing::error!("the workers share their sockets: {e}"),
        }
    }

    fn reload_configuration(&mut self) -> Vec<Event> {
        let loaded = match self.load_again() {
            Ok(loaded) => loaded,
            Err(e) => {
                return vec![Event::ReloadFailed(Failure {
                    exit: exit::CONFIG,
                    reason: e.to_string(),
                })];
            }
        };
        let identities = loaded.config.tls.identities.as_ref();
        let serving = self.config.tls.identities.as_deref();
        let dates = identities.map_or(Ok(()), |all| all.check_dates(SystemTime::now(), serving));
        let whole = identities.map_or(Ok(()), |all| all.are_whole());
        let bad = whole.err().map(|e| e.to_string());
        if let Some(reason) = bad.or(dates.err().map(|e| e.to_string())) {
            return vec![Event::ReloadFailed(Failure {
                exit: exit::CONFIG,
                reason,
            })];
        }
        let sockets = match self.sockets.rearrange(&loaded.config) {
            Ok(sockets) => Arc::new(sockets),
            Err(e) => return vec![Event::ReloadFailed(Failure::new(e.to_string()))],
        };
        let config = Arc::new(loaded.config);
        let metrics = match self.metrics_for(&config.metrics.address) {
            Ok(metrics) => metrics,
            Err(e) => return vec![Event::ReloadFailed(Failure::new(e.to_string()))],
        };
        self.reloads += 1;
        self.reload = Some(Reload {
            metrics,
            config: Arc::clone(&config),
            sockets: Arc::clone(&sockets),
            attempt: self.reloads,
        });
        let (post, attempt) = (self.post.clone(), self.reloads);
        let limit = config.upgrade.start_timeout;
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            let reason = format!(
                "the workers of the new configuration were not ready within {} (start_timeout)",
                humantime::format_duration(limit)
            );
            let late = Event::ReloadFailed(Failure::new(format!("{attempt}\n{reason}")));
            let _ = post.send(Input::Event(late)).await;
        });
        self.look_after_tls(true);
        self.start_reload(&config)
    }

    /// A reload's deadline counts only for the reload it was set for.
    pub(super) fn still_wanted(&self, event: Event) -> Option<Event> {
        if let Event::ReloadFailed(failure) = &event {
            let (attempt, reason) = failure.reason.split_once('\n')?;
            let current = self.reload.as_ref()?.attempt;
            if attempt.parse() != Ok(current) {
                return None;
            }
            return Some(Event::ReloadFailed(Failure::new(reason)));
        }
        Some(event)
    }

    fn adopt_reload(&mut self) {
        let Some(reload) = self.reload.take() else {
            return;
        };
        self.config = reload.config;
        self.applications.adopt_next(&self.config);
        self.sockets = reload.sockets;
        self.change_metrics(reload.metrics);
        // Two reloads in a row may be meant to drop the ticket keys.
        self.look_after_tls(false);
        self.machine
            .set_timing(timing(&self.config, self.manager.watchdog()));
        if self.machine.phase() == Phase::Reloading {
            self.drop_listeners();
        }
        // Else there is a predecessor that may need them: at the commit.
    }

    /// The upgrade ended: once, by the master whose word it is.
    pub(super) fn conclude(&mut self, outcome: Outcome, failure: Option<Failure>) {
        // What is committed is so whatever the disk says.
        if self.disk.is_busy() && outcome != Outcome::Committed {
            self.orders.conclusion = Some((outcome, failure));
            return;
        }
        let Some(mut record) = self.upgrade.take() else {
            return;
        };
        if outcome != Outcome::Committed && self.drain.take().is_some() {
            // Taken back before it was over: so far it counts.
            let (ms, mut all) = record.drained.unwrap_or_default();
            all += self.workers.tally();
            record.drained = Some((ms, all));
        }
        let reason = failure.map(|f| f.reason);
        let last = record.ended(outcome, reason.clone());
        let text = words::ended(outcome, &last.from, last.to.as_deref());
        let text = match &reason {
            Some(why) => format!("{text}: {why}"),
            None => text,
        };
        let predecessor = matches!(self.machine.phase(), Phase::Draining | Phase::Done);
        if outcome == Outcome::Committed && predecessor {
            // The successor writes it down; here only those who waited for it learn it.
            self.orders.committed(&last);
            self.told = Some(record.cast());
            return;
        }
        self.release_ended(outcome, record.release.as_ref());
        self.told = Some(record.cast());
        Milestone {
            reason: reason.as_deref(),
            outcome: Some(ended_as(outcome)),
            connections: Some(last.connections),
            ..self.milestone(match outcome {
                Outcome::Committed => story::COMMITTED,
                Outcome::RolledBack => story::ROLLED_BACK,
                _ => story::FAILED,
            })
        }
        .warn(match last.drain_ms {
            Some(_) => format!("{text}; {}", last.connections),
            None => text,
        });
        if let Some(found) = &record.rejected {
            self.remember_refused(record.to_build.as_deref().or(found.build()));
        } else if outcome == Outcome::Committed {
            self.forgive();
        }
        self.remember_end(&last);
        self.orders.ended(&last);
        self.desk.publish(api::Event::Ended(last.clone()));
        self.last = Some(last);
        self.machine
            .set_timing(timing(&self.config, self.manager.watchdog()));
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::SignalRefused(signal, why) => {
                tracing::warn!("SIG{} is refused: {why}", signal.as_str());
            }
            Note::SignalRemembered(signal) => tracing::info!(
                "SIG{} waits until the other generation accepts",
                signal.as_str()
            ),
            Note::SignalCarriedOut(signal) => {
                tracing::info!("SIG{} is carried out now", signal.as_str());
            }
            Note::SignalDropped(signal) => {
                tracing::warn!("SIG{} is dropped: its moment did not come", signal.as_str());
            }
            Note::WorkersFail(why) => Milestone {
                reason: Some(why),
                ..self.milestone(story::WORKERS_FAIL)
            }
            .error(why),
            Note::CommittedByAccident => tracing::warn!(
                handover_upgrade_id = self.upgrade_id(),
                "the predecessor is gone without a word: committed by accident, no way back in \
                 memory"
            ),
        }
    }

    /// Writes down how an upgrade goes, or went, in the place of what was written of it before.
    pub(super) fn remember_end(&self, last: &Last) {
        if let Err(e) = self.history.correct(last) {
            tracing::warn!("{e}");
        }
    }

    /// This build is not run again but by an order that names no other.
    pub(super) fn remember_refused(&self, build: Option<&str>) {
        // What runs has proved itself: it was another release that was refused.
        let Some(build) = build.filter(|build| *build != self.fixed.me.build_id) else {
            return;
        };
        if let Err(e) = self.history.refuse(build) {
            tracing::warn!("{e}");
        }
    }

    /// What runs has proved itself, whatever was thought of it before.
    pub(super) fn forgive(&self) {
        if let Err(e) = self.history.forgive(&self.fixed.me.build_id) {
            tracing::warn!("{e}");
        }
    }

    pub(super) fn upgrade_id(&self) -> Option<&str> {
        self.upgrade.as_ref().map(|record| record.id.as_str())
    }
}

/// For the configuration to be kept; the successor gives a commit more than that.
const KEEPING: Duration = Duration::from_secs(3);

/// As the journal and `status` have it.
pub(super) fn ended_as(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::RolledBack => "rolled_back",
        Outcome::Failed => "failed",
        Outcome::Refused => "refused",
        Outcome::Interrupted => "interrupted",
        Outcome::UnderWay => "under_way",
    }
}
