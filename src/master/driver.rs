//! One master at work: event, step, perform. Nothing here decides; the machine does. What acts is in
//! parts, each with fields of its own that nobody else touches.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::configured::Configured;
use super::control::{self, Desk};
use super::disk::Disk;
use super::door::{self, ControlDoor};
use super::drain::OwnDrain;
use super::drainers::Drainers;
use super::handoff::{self, HandoffDoor};
use super::health::Health;
use super::hosting::Applications;
use super::input::Input;
use super::inquiry::Inquiry;
use super::manager::Manager;
use super::metrics::MetricsDoor;
use super::orders::{Orders, Wanted};
use super::pidfiles::PidFiles;
use super::predecessor::Predecessor;
use super::releases::KnownReleases;
use super::setup::Setup;
use super::state::State;
use super::status;
use super::story::Story;
use super::successor::Successor;
use super::tls::Tls;
use super::verdicts::Held;
use super::waking::Waking;
use super::workers::Workers;
use crate::api;
use crate::machine::message::Identity;
use crate::machine::{Action, Event, Machine, Order, Signal};
use crate::sys::kept;
use crate::sys::process;
use crate::sys::signals::{Received, Signals};

/// What does not change while a master lives.
#[derive(Debug)]
pub(super) struct Constants {
    pub(super) me: Identity,
    pub(super) pid: u32,
    pub(super) started_at: jiff::Timestamp,
    /// What it was made of.
    pub(super) setup: Setup,
    pub(super) config_path: Option<PathBuf>,
}

/// A master.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) fixed: Arc<Constants>,
    pub(super) machine: Machine,
    // What reaches us.
    pub(super) inbox: mpsc::Receiver<Input>,
    pub(super) signals: Signals,
    pub(super) desk: Desk,
    // The parts.
    pub(super) manager: Manager,
    pub(super) workers: Workers,
    pub(super) applications: Applications,
    pub(super) releases: KnownReleases,
    pub(super) tls: Tls,
    pub(super) configured: Configured,
    pub(super) successor: Successor,
    pub(super) predecessor: Option<Predecessor>,
    pub(super) drainers: Drainers,
    pub(super) drain: OwnDrain,
    pub(super) disk: Disk,
    pub(super) state: State,
    pub(super) story: Story,
    pub(super) orders: Orders,
    pub(super) held: Held,
    pub(super) waking: Waking,
    pub(super) inquiry: Inquiry,
    pub(super) health: Health,
    pub(super) pidfiles: PidFiles,
    pub(super) control: ControlDoor,
    pub(super) handoff: HandoffDoor,
    pub(super) metrics: MetricsDoor,
    /// When the workers are asked again whether they live.
    pub(super) tick: Instant,
    pub(super) exit: Option<u8>,
}

/// How often the workers are asked whether they live, at least.
const TICK: Duration = Duration::from_secs(5);
/// For what is left to say when a master leaves.
const GOODBYE: Duration = Duration::from_secs(1);

impl Driver {
    /// Lives until the machine says exit.
    pub(super) async fn drive(mut self, first: Vec<Action>) -> u8 {
        self.tell_rest();
        self.look_after_tls(true);
        let mut events = VecDeque::new();
        for action in first {
            events.extend(self.perform(action).await);
        }
        self.follow_phase();
        for event in events {
            self.happen(event).await;
        }
        while self.exit.is_none() {
            self.turn().await;
        }
        self.leave().await
    }

    /// One thing happens.
    async fn turn(&mut self) {
        let deadlines = [
            self.machine.deadline(),
            self.workers.deadline(),
            self.orders.deadline(),
            self.held.deadline(),
            self.waking.deadline(),
        ];
        let due = deadlines
            .into_iter()
            .flatten()
            .fold(self.tick, Instant::min);
        tokio::select! {
            biased;
            signal = self.signals.next() => match signal {
                Ok(received) => self.signalled(received).await,
                Err(e) => {
                    // Nobody could stop it.
                    tracing::error!("cannot read signals: {e}: this master leaves");
                    self.exit = Some(api::exit::FAILED);
                }
            },
            Some(input) = self.inbox.recv() => self.arrived(input).await,
            request = self.desk.next() => self.asked(request).await,
            () = tokio::time::sleep_until(due.into()) => self.ticked().await,
        }
        self.go_on().await;
    }

    /// Event, step, perform; what comes of it, until nothing more does.
    pub(super) async fn happen(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let actions = self.machine.step(event, Instant::now());
            for action in actions {
                events.extend(self.perform(action).await);
            }
        }
        self.orders.given();
        self.follow_phase();
    }

    async fn ticked(&mut self) {
        let now = Instant::now();
        while let Some(timer) = self.machine.due(now) {
            // Time proves nothing of an application that does not answer, or keeps ending.
            let fault = self.applications.fault().filter(|_| timer.proves());
            let event = fault.map_or(Event::Timer(timer), Event::WorkersFailed);
            self.happen(event).await;
        }
        for event in self.workers.due() {
            self.happen(event).await;
        }
        self.disk_is_late(now);
        self.rest_if_late(now);
        if now >= self.tick {
            self.feed();
            self.mend_paths();
            self.state.write_again();
            self.applications.tick();
            self.look_after_tls(false);
            let every = self.manager.watchdog().map_or(TICK, |w| (w / 3).min(TICK));
            self.tick = now + every;
        }
    }

    /// The watchdog is fed while the workers answer; and by a predecessor that takes the service
    /// back, whose workers have nothing to answer yet.
    pub(super) fn feed(&mut self) {
        let workers_answer = self.workers.answer_watchdog();
        if self.machine.feeds_watchdog(workers_answer) {
            self.manager.feed();
        }
    }

    async fn signalled(&mut self, received: Received) {
        let is_it = |known: &Signal| received.signal.as_str()[3..] == *known.as_str();
        let Some(signal) = Signal::ALL.into_iter().find(is_it) else {
            return;
        };
        let ends = matches!(signal, Signal::Term | Signal::Int | Signal::Quit);
        if !received.from_process && !ends {
            tracing::debug!("SIG{} came from the terminal: ignored", signal.as_str());
            return;
        }
        tracing::info!(
            "SIG{} from process {} in phase {}",
            signal.as_str(),
            received.sender,
            self.machine.phase()
        );
        let sender = received.sender;
        let from_manager = sender == 1 && self.manager.is_systemd();
        match signal {
            Signal::Term if from_manager => self.happen(Event::ManagerTerm).await,
            // Who stops the job, or the container, means all of the service: nobody is waited for who only
            // gets ready, or takes it back.
            Signal::Term if self.machine.owns() && self.manager.is_keeper(sender) => {
                self.happen(Event::Order(Order::Stop)).await;
            }
            _ => self.begin(Wanted::Signal(signal)).await,
        }
    }

    /// What follows from the phase alone: who answers the operator, the name of this thread.
    fn follow_phase(&mut self) {
        let phase = self.machine.phase();
        process::set_name(&format!("g{} {phase}", self.fixed.me.generation));
        let owns = self.machine.owns();
        let (operators, manager) = (self.configured.operators.as_ref(), &self.manager);
        self.control
            .follow(owns, || door::access(operators, manager, &self.workers));
        self.metrics.follow(owns);
        self.applications.tell(owns);
        self.state.follow(owns);
        self.handoff.follow(self.machine.receives());
    }

    /// What names the owner in the runtime directory is made again when somebody removed it.
    fn mend_paths(&mut self) {
        self.control.claim_again();
        if self.control.mend() {
            self.follow_phase();
            match self.predecessor.as_ref().filter(|before| before.listens()) {
                Some(before) => self.pidfiles.pair(self.fixed.pid, before.pid()),
                None => self.pidfiles.alone(self.fixed.pid),
            }
        }
        if self.handoff.mend() {
            self.follow_phase();
        }
    }

    /// The last things: say what is left to say, remove what names us.
    async fn leave(mut self) -> u8 {
        self.control.close();
        if !self.machine.stopping() {
            self.drain.say_last_word(status::me(&self)).await;
        }
        // Nobody reads it any more: what reports there does not wait.
        self.inbox.close();
        while let Some(done) = self.disk.goodbye().await {
            self.disk_done(done);
        }
        self.say_held();
        if self.machine.stopping() {
            let begun = self.story.upgrade().filter(|one| one.takeover.is_none());
            let tried = begun.and_then(|one| one.release.as_ref());
            self.releases.stopped(&self.applications, tried);
        }
        self.state.last_try().await;
        self.orders.hang_up();
        if let Some(line) = self.successor.close() {
            line.close(GOODBYE).await;
        }
        if let Some(predecessor) = &mut self.predecessor {
            predecessor.goodbye(GOODBYE).await;
        }
        self.control.goodbye(GOODBYE).await;
        self.pidfiles.forget(self.fixed.pid);
        let alone = self.predecessor.is_none() && !self.successor.is_there();
        let never_served = alone && self.exit.is_some_and(|code| code != 0);
        let sockets = &self.configured.sockets;
        if self.machine.stopping() || never_served {
            for name in [control::SOCKET, handoff::SOCKET] {
                let _ = std::fs::remove_file(self.fixed.setup.runtime.join(name));
            }
            if !self.manager.is_systemd() {
                sockets.remove_paths();
            }
        } else {
            sockets.remove_added_paths();
        }
        if self.machine.stopping() {
            kept::forget(&self.fixed.setup.runtime);
            self.applications.leave().await;
        }
        self.exit.unwrap_or_default()
    }
}
