//! An upgrade begins: a successor is started, and gets its inheritance.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::driver::Driver;
use super::inheritance;
use super::launch::Plan;
use super::milestone;
use super::predecessor::Predecessor;
use super::record::{Record, millis, new_id};
use super::releases::Asked;
use super::status::who;
use super::store::Found;
use super::words;
use crate::api::exit;
use crate::machine::Failure;
use crate::machine::message::{Inheritance, Inherited, Lingering, PROTOCOL, Supersede};
use crate::sys::secrets;

impl Driver {
    pub(super) fn launch(&mut self, back: bool, next: Option<&Supersede>) {
        let ordered = self.orders.upcoming();
        let hold = self.machine.hold();
        let (id, probation, wanted) = match (next, ordered) {
            (Some(next), _) => {
                let probation = next.probation_ms.map(Duration::from_millis);
                (next.id.clone(), probation, next.release)
            }
            (None, Some(order)) => (order.id, order.probation, order.release),
            (None, None) => (new_id(), None, false),
        };
        let mut record = Record::new(id, &self.fixed.me.version, hold, back);
        record.was_good = back && !self.disk.store.on_trial();
        record.probation = probation;
        record.old_pid = Some(self.fixed.pid);
        let asked = match (back, wanted) {
            (true, _) => Asked::Back,
            (_, true) => Asked::Release,
            _ => Asked::Upgrade,
        };
        let other_program = !self.disk.store.disk().matches_running;
        record.keeps_release = self.releases.kept(
            &self.configured.config,
            &self.applications,
            asked,
            other_program,
        );
        let other = self.applications.releases_now();
        if let Some((releases, release)) = other.filter(|_| record.keeps_release.is_none()) {
            self.releases.serves(&self.applications);
            record.releases = Some(releases);
            record.release = Some(release);
        }
        let config = &self.configured.config;
        self.machine
            .set_probation(probation.unwrap_or(config.upgrade.probation));
        self.say_held();
        let generation = self.next_generation();
        let plan = self.plan_of(&record);
        self.story.begins(record);
        let starts = format!("an upgrade of {} starts", who(self));
        self.milestone(milestone::UPGRADE_STARTS).info(starts);
        self.successor.launch(generation, plan);
    }

    /// The number of a generation that begins now.
    pub(super) fn next_generation(&self) -> u64 {
        self.drainers.unused_generation(self.fixed.me.generation)
    }

    /// What is to be started; or why the disk has nothing to go back to.
    fn plan_of(&self, record: &Record) -> Result<Plan, Failure> {
        let decided = self.story.last().and_then(words::release_is_decided);
        if let Some(reason) = decided.filter(|_| record.back) {
            let exit = exit::REFUSED;
            return Err(Failure { exit, reason });
        }
        let mut plan = self.plan(record.back, Arc::clone(&record.found));
        plan.keeps_release = record.keeps_release.is_some();
        Ok(plan)
    }

    pub(super) fn plan(&self, back: bool, found: Arc<OnceLock<Found>>) -> Plan {
        let generation = self.next_generation();
        Plan {
            store: Arc::clone(&self.disk.store),
            back,
            refused: self.state.refused_builds(),
            check: self.fixed.setup.check.clone(),
            args: self.fixed.setup.args.clone(),
            cwd: self.fixed.setup.cwd.clone(),
            arg0: format!("{}: master process g{generation}", self.fixed.setup.name),
            notify: self.manager.is_systemd(),
            keeps_release: false,
            timeout: self.configured.config.upgrade.start_timeout,
            found,
        }
    }

    pub(super) fn send_inheritance(&mut self) {
        let mut fds = match self.descriptors_for_successor() {
            Ok(fds) => fds,
            Err(e) => {
                // The successor's deadline ends this; nothing of ours has changed.
                tracing::error!("cannot duplicate the sockets for the successor: {e}");
                return;
            }
        };
        let Some(record) = self.story.upgrade() else {
            return;
        };
        let (app, end) = self.applications.share().unzip();
        fds.extend(end.map(|end| (Inherited::App, Arc::new(end))));
        let (pid, me) = (self.fixed.pid, &self.fixed.me);
        let build = record.to_build.as_deref().filter(|_| record.back);
        let previous = build.and_then(|build| self.story.previous(build));
        let now = Instant::now();
        let how = |pid| self.machine.drainer(pid, now);
        let mut lingering = self.drainers.for_successor(how);
        lingering.push(Lingering {
            pid,
            identity: me.clone(),
            left_ms: self.machine.own_drain().map(millis),
            hurried: false,
        });
        let inheritance = Inheritance {
            protocol: PROTOCOL,
            pid,
            from: me.clone(),
            generation: self.successor.generation(),
            upgrade_id: record.id.clone(),
            hold: record.hold,
            started_at_ms: u64::try_from(record.started_at.as_millisecond()).unwrap_or(0),
            probation_ms: record.probation.map(millis),
            path: self.disk.store.path().to_owned(),
            cwd: self.fixed.setup.cwd.clone(),
            config: previous.map(|previous| previous.config),
            back: record.back,
            fds: Vec::new(),
            lingering,
            unit_rev: self.fixed.setup.unit_rev.clone(),
            drained: self.all_drained(),
            app,
            release: record.keeps_release.clone(),
            state: std::collections::BTreeMap::new(),
        };
        if let Some(line) = self.successor.line() {
            inheritance::send(line, inheritance, fds);
        }
    }

    fn descriptors_for_successor(&self) -> std::io::Result<Vec<(Inherited, Arc<OwnedFd>)>> {
        let mut fds = self.configured.sockets.for_successor();
        let tickets = self.workers.tickets();
        let tickets = tickets
            .newest()
            .map(|_| secrets::wrap(tickets))
            .transpose()?;
        let identities = self.configured.config.tls.identities.as_deref();
        let identities = identities.map(secrets::wrap).transpose()?;
        let others = [
            (Inherited::Control, Some(self.control.copy()?)),
            (Inherited::Handoff, self.handoff.copy()?),
            (Inherited::Metrics, self.metrics.copy()?),
            (Inherited::Keeper, self.manager.keeper_pipe()?),
            (Inherited::TicketKeys, tickets),
            (Inherited::Identities, identities),
        ];
        fds.extend(
            others
                .into_iter()
                .filter_map(|(what, fd)| Some((what, Arc::new(fd?)))),
        );
        Ok(fds)
    }

    /// A rollback after a commit has taken over: what it goes back to was good before, and is again;
    /// what it left is rejected.
    pub(super) fn gone_back(&mut self) {
        let Some(record) = self.story.upgrade().filter(|record| record.back) else {
            return;
        };
        tracing::info!(
            handover_upgrade_id = record.id,
            "the program of before serves: it is made the program on disk"
        );
        let left = self.predecessor.as_ref().map(Predecessor::identity);
        let left = left.map(|identity| identity.build_id.clone());
        self.story.refuse(left.as_deref());
        self.disk.commit();
        let there = Found::of(&self.disk.store.open());
        if left.is_some() && there.build() == left.as_deref() {
            self.disk.reject(there);
        }
    }
}
