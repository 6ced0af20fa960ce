//! One master at work: event, step, perform. Nothing here decides; the machine does.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::control::{self, Access, ControlSocket, Desk, Limits, Request, SOCKET};
use super::disk::{DISK_BUSY, Disk};
use super::handoff::{self, HandoffDoor};
use super::health;
use super::history::History;
use super::hosting::Applications;
use super::input::Input;
use super::inquiry::{Asked, Inquiry};
use super::lingering::Drain;
use super::manager::Manager;
use super::metrics::{MetricsDoor, MetricsSocket};
use super::orders::Orders;
use super::peers::{PredecessorLink, SuccessorLink};
use super::pidfiles::PidFiles;
use super::record::Record;
use super::sockets::Sockets;
use super::story::Cast;
use super::workers::Workers;
use crate::api::{self, Last};
use crate::config::{Config, Sources};
use crate::machine::link::Drained;
use crate::machine::message::{Identity, Lingering};
use crate::machine::{Event, Machine, Order, Phase, Signal};
use crate::sys::process;
use crate::sys::signals::{Received, Signals};

/// What does not change while a master lives.
#[derive(Debug)]
pub(super) struct Constants {
    pub(super) name: String,
    pub(super) me: Identity,
    pub(super) pid: u32,
    pub(super) started_at: jiff::Timestamp,
    pub(super) cwd: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) check: Vec<OsString>,
    pub(super) runtime: PathBuf,
    pub(super) sources: Sources,
    pub(super) config_path: Option<PathBuf>,
    pub(super) unit_rev: Option<String>,
}

/// A master.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) fixed: Constants,
    pub(super) machine: Machine,
    pub(super) inbox: mpsc::Receiver<Input>,
    pub(super) post: mpsc::Sender<Input>,
    pub(super) signals: Signals,
    pub(super) desk: Desk,
    pub(super) handle: control::Handle,
    pub(super) control: ControlSocket,
    pub(super) door: Option<Door>,
    pub(super) handoff: Option<OwnedFd>,
    pub(super) handoff_door: Option<HandoffDoor>,
    pub(super) manager: Manager,
    pub(super) main_pid: Option<u32>,
    pub(super) workers: Workers,
    pub(super) applications: Applications,
    pub(super) sockets: Arc<Sockets>,
    pub(super) config: Arc<Config>,
    pub(super) reload: Option<Reload>,
    pub(super) reloads: u64,
    pub(super) successor: Option<SuccessorLink>,
    pub(super) predecessor: Option<PredecessorLink>,
    pub(super) lingering: Vec<Lingering>,
    /// Rejected successors that only drain: still our children.
    pub(super) rejected: Vec<SuccessorLink>,
    /// The number of the successor, or of the one there was last.
    pub(super) next_generation: u64,
    /// What those that only drain have told last, by their pids.
    pub(super) news: HashMap<u32, api::Master>,
    pub(super) drain: Option<Drain>,
    /// What our drain came to, not told yet.
    pub(super) farewell: Option<Drained>,
    /// By other generations, as far as we know.
    pub(super) others_drained: api::Connections,
    pub(super) metrics: Option<MetricsSocket>,
    pub(super) metrics_door: Option<MetricsDoor>,
    pub(super) launch: Option<(u64, AbortHandle)>,
    pub(super) launches: u64,
    pub(super) disk: Disk,
    pub(super) keeping: Option<JoinHandle<()>>,
    pub(super) history: History,
    pub(super) pidfiles: PidFiles,
    pub(super) upgrade: Option<Record>,
    pub(super) last: Option<Last>,
    /// Who took part in the one that has just ended: what still follows belongs to its story.
    pub(super) told: Option<Cast>,
    pub(super) orders: Orders,
    pub(super) inquiry: Inquiry,
    pub(super) peer_status: Option<api::Master>,
    /// Certificates that should have been renewed.
    pub(super) tls_warnings: Vec<String>,
    pub(super) tick: Instant,
    pub(super) health: Option<health::Check>,
    pub(super) exit: Option<u8>,
}

/// The control socket while this master answers on it.
#[derive(Debug)]
pub(super) struct Door {
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// A configuration that waits for its workers.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) config: Arc<Config>,
    pub(super) sockets: Arc<Sockets>,
    pub(super) metrics: Option<MetricsSocket>,
    pub(super) attempt: u64,
}

/// How often the workers are asked whether they live, at least.
const TICK: Duration = Duration::from_secs(5);
/// For what is left to say when a master leaves.
const GOODBYE: Duration = Duration::from_secs(1);

impl Driver {
    /// Lives until the machine says exit.
    pub(super) async fn drive(mut self, first: Vec<crate::machine::Action>) -> u8 {
        self.look_after_tls(true);
        let mut events = VecDeque::new();
        for action in first {
            events.extend(self.perform(action).await);
        }
        self.settle_in();
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
        let due = [self.machine.deadline(), self.disk.on_trial_until]
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
    }

    async fn ticked(&mut self) {
        let now = Instant::now();
        while let Some(timer) = self.machine.due(now) {
            self.happen(Event::Timer(timer)).await;
        }
        if self.disk.on_trial_until.is_some_and(|at| at <= now) {
            self.end_cold_trial();
        }
        if now >= self.tick {
            self.feed();
            self.mend_paths();
            self.applications.tick();
            self.look_after_tls(false);
            let every = self.manager.watchdog().map_or(TICK, |w| (w / 3).min(TICK));
            self.tick = now + every;
        }
    }

    /// The watchdog is fed by the owner while its workers answer, and by a predecessor that takes
    /// the service back; never by a parked one.
    pub(super) fn feed(&mut self) {
        let workers_answer = self.workers.answer_watchdog();
        // While it takes back, its workers have nothing to answer yet.
        let takes_back = self.machine.phase() == Phase::Reclaiming;
        if self.machine.feeds_watchdog() && (workers_answer || takes_back) {
            self.manager.feed();
        }
    }

    async fn signalled(&mut self, received: Received) {
        let Some(signal) = operator(received.signal) else {
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
        let everybody = signal == Signal::Term && received.sender == 1 && self.manager.is_systemd();
        if everybody && self.machine.phase() == Phase::Launching {
            // A stop in the middle of a reload: systemd runs no ExecStop= then, but sends TERM to
            // every process of the unit, also to a successor that may not know what it means yet.
            return self.happen(Event::Order(Order::Stop)).await;
        }
        if signal == Signal::Usr2 && !self.disk_settles().await {
            tracing::warn!("SIGUSR2 is refused: {DISK_BUSY}");
            return;
        }
        let starts = matches!(self.machine.phase(), Phase::Serving | Phase::Evicting);
        if signal == Signal::Usr2 && starts {
            if let Some(full) = self.too_many_draining() {
                tracing::warn!("SIGUSR2 is refused: {full}");
                return;
            }
        }
        self.happen(Event::Signal(signal)).await;
    }

    async fn asked(&mut self, request: Request) {
        match request {
            Request::Status(reply) => self.ask_figures(Asked::Status(reply)),
            Request::Metrics(reply) => self.ask_figures(Asked::Metrics(reply)),
            Request::Order {
                order,
                peer,
                answer,
            } => self.order(order, peer, answer).await,
        }
    }

    pub(super) async fn arrived(&mut self, input: Input) {
        let events = match input {
            Input::Worker(id, heard) => {
                let events = self.workers.heard(id, heard);
                self.ready_in_good_health(events)
            }
            Input::WorkerExited(id) => self.workers.exited(id),
            Input::WorkerOverdue(id) => {
                self.workers.overdue(id);
                Vec::new()
            }
            Input::Respawn { set, slot } => self.workers.respawn(set, slot),
            Input::Application(number, heard) => self.application_said(number, heard),
            Input::StartApplication => self.start_application_again(),
            Input::Successor(link, heard) => self.successor_said(link, heard),
            Input::SuccessorExited(link) => self.successor_exited(link),
            Input::SuccessorSucceeded { number, owned } => self.successor_succeeded(number, owned),
            Input::Predecessor(heard) => self.predecessor_said(heard),
            Input::PredecessorExited => self.predecessor_exited(),
            Input::RejectedOverdue(number) => {
                self.rejected_overdue(number);
                Vec::new()
            }
            Input::LingeringExited(pid) => {
                self.lingers_no_more(pid);
                Vec::new()
            }
            Input::Launch(attempt, result) => self.launched(attempt, result),
            Input::Disk(result) => {
                self.disk_done(result);
                Vec::new()
            }
            Input::Looked(looked) => {
                Box::pin(self.looked(*looked)).await;
                Vec::new()
            }
            Input::DiskAgain => {
                self.disk_again();
                Vec::new()
            }
            Input::RetireDue => {
                self.retire_now();
                Vec::new()
            }
            Input::TellNews => {
                self.tell_news();
                Vec::new()
            }
            Input::StatusDue(number) => {
                self.answer_by_now(number);
                Vec::new()
            }
            Input::Probe(reply) => {
                let listener = self.config.listeners.first().map(|l| l.name.as_str());
                let _ = reply.send(self.workers.probe(listener.unwrap_or_default()));
                Vec::new()
            }
            Input::Healthy(event) => vec![event],
            Input::Drainer(asker) => {
                self.answer_drainer(asker);
                Vec::new()
            }
            Input::DrainerGone(pid) => {
                self.workers.drainer_gone(pid);
                Vec::new()
            }
            Input::Event(event) => self.still_wanted(event).into_iter().collect(),
        };
        for event in events {
            self.happen(event).await;
        }
        self.answer_if_complete();
    }

    /// A successor's workers are ready when they are in good health too.
    fn ready_in_good_health(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        let starting = self.machine.phase() == Phase::Starting && self.predecessor.is_some();
        let Some(path) = self.config.upgrade.health.clone().filter(|_| starting) else {
            return events;
        };
        let before = events.len();
        events.retain(|event| *event != Event::WorkersReady);
        if events.len() < before {
            let (limit, post) = (self.config.upgrade.start_timeout, self.post.clone());
            self.health = Some(health::before_takeover(path, limit, post));
        }
        events
    }

    /// Event, step, perform; what comes of it, until nothing more does.
    pub(super) async fn happen(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.before(&event);
            let actions = self.machine.step(event, Instant::now());
            for action in actions {
                events.extend(self.perform(action).await);
            }
        }
        self.settle_in();
    }

    /// What follows from the phase alone: who answers the operator, the name of this thread.
    fn settle_in(&mut self) {
        let phase = self.machine.phase();
        process::set_name(&format!("g{} {phase}", self.fixed.me.generation));
        match (self.machine.owns(), self.door.is_some()) {
            (true, false) => self.open_door(),
            (false, true) => self.close_door(),
            _ => {}
        }
        self.metrics_follow(self.machine.owns());
        self.applications.tell(self.machine.owns());
        if self.receives() {
            self.open_handoff();
        } else {
            self.close_handoff();
        }
    }

    fn open_door(&mut self) {
        let listener = self
            .control
            .try_clone()
            .and_then(|fd| tokio::net::UnixListener::from_std(fd.into()));
        let listener = match listener {
            Ok(listener) => listener,
            Err(e) => {
                tracing::error!("cannot answer on the control socket: {e}");
                return;
            }
        };
        let Some(access) = self.access() else { return };
        let (closing, closed) = watch::channel(false);
        let router = control::router(self.handle.clone());
        let task = tokio::spawn(control::serve(
            listener,
            router,
            Arc::new(access),
            Limits::default(),
            closed,
        ));
        self.door = Some(Door { closing, task });
    }

    /// What names the owner in the runtime directory is made again when somebody removed it.
    fn mend_paths(&mut self) {
        if self.door.is_none() {
            return;
        }
        if self.control.mend() {
            self.close_door();
            self.open_door();
            match &self.predecessor {
                Some(before) if before.line.is_some() => {
                    self.pidfiles.pair(self.fixed.pid, before.pid);
                }
                _ => self.pidfiles.alone(self.fixed.pid),
            }
        }
        if self.handoff_door.is_some() && !self.fixed.runtime.join(handoff::SOCKET).exists() {
            if let Ok(socket) = handoff::open(&self.fixed.runtime) {
                self.close_handoff();
                self.handoff = Some(socket);
                self.open_handoff();
            }
        }
    }

    /// Who may order. Where there is no systemd, the service's own processes may too.
    fn access(&self) -> Option<Access> {
        let access = Access::new(&self.config.control.group).or_else(|e| {
            tracing::error!("{e}: no group may give orders");
            Access::new("")
        });
        let access = access.ok()?;
        if !self.manager.is_systemd() {
            return Some(access);
        }
        let access = if self.manager.is_the_systems() {
            access.but_not_our_user()
        } else {
            access
        };
        let pids = self.workers.pids();
        Some(access.but_not(move |pid| {
            pids.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&pid)
        }))
    }

    /// Another master answers from now on; orders that were taken are answered to their end.
    fn close_door(&mut self) {
        if let Some(door) = self.door.take() {
            let _ = door.closing.send(true);
            // Nobody waits for it but the end of this process.
            self.orders.doors.push(door.task);
        }
    }

    /// The last things: say what is left to say, remove what names us.
    async fn leave(mut self) -> u8 {
        self.close_door();
        self.say_farewell().await;
        self.orders.hang_up();
        if let Some(keeping) = self.keeping.take() {
            let _ = keeping.await;
        }
        while self.disk.is_busy() {
            match self.inbox.recv().await {
                Some(Input::Disk(result)) => self.disk_done(result),
                Some(_) => {}
                None => break,
            }
        }
        if let Some(line) = self.successor.as_mut().and_then(|s| s.line.take()) {
            line.close(GOODBYE).await;
        }
        if let Some(line) = self.predecessor.as_mut().and_then(|p| p.line.take()) {
            line.close(GOODBYE).await;
        }
        for door in std::mem::take(&mut self.orders.doors) {
            let _ = tokio::time::timeout(GOODBYE, door).await;
        }
        self.pidfiles.forget(self.fixed.pid);
        let alone = self.predecessor.is_none() && self.successor.is_none();
        let never_served = alone && self.exit.is_some_and(|code| code != 0);
        if self.machine.stopping() || never_served {
            let _ = std::fs::remove_file(self.fixed.runtime.join(SOCKET));
            let _ = std::fs::remove_file(self.fixed.runtime.join(handoff::SOCKET));
            if !self.manager.is_systemd() {
                self.sockets.remove_paths();
            }
        } else {
            self.sockets.remove_added_paths();
        }
        if self.machine.stopping() {
            self.release_stopped();
            self.applications.leave().await;
        }
        tracing::info!("g{} leaves", self.fixed.me.generation);
        self.exit.unwrap_or_default()
    }
}

fn operator(signal: nix::sys::signal::Signal) -> Option<Signal> {
    use nix::sys::signal::Signal as Os;
    Some(match signal {
        Os::SIGHUP => Signal::Hup,
        Os::SIGUSR1 => Signal::Usr1,
        Os::SIGUSR2 => Signal::Usr2,
        Os::SIGWINCH => Signal::Winch,
        Os::SIGQUIT => Signal::Quit,
        Os::SIGTERM => Signal::Term,
        Os::SIGINT => Signal::Int,
        _ => return None,
    })
}
