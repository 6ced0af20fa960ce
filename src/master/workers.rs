//! The worker processes of one generation: started from the master's own image, told what to do,
//! started again when they die, sent away.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::hosting::Hold;
use super::input::Input;
use super::line::Line;
use super::sockets::Sockets;
use crate::api;
use crate::config::{Config, Upstream};
use crate::machine::link::{Reads, Report, ToWorker};
use crate::machine::message::Identity;
use crate::machine::pool::Pool;
use crate::machine::tickets::TicketKeys;
use crate::sys::image::Image;
use crate::sys::process::{Exit, Process};
use crate::sys::secrets;

mod deal;
mod figures;
mod leave;
mod life;
mod pids;
mod queues;
mod start;

use deal::Hand;
pub use figures::Question;
pub use pids::Pids;
use queues::Held;

/// All workers of this master.
#[derive(Debug)]
pub struct Workers {
    inbox: mpsc::Sender<Input>,
    image: Arc<Image>,
    name: String,
    version: String,
    /// Our command line.
    typed: Vec<OsString>,
    generation: u64,
    /// `handoff.sock`.
    handoff: Option<PathBuf>,
    /// Receiving ends whose senders still live.
    held: Vec<Held>,
    /// They are looked at again in a moment.
    looks_again: bool,
    next_worker: u64,
    next_set: u64,
    all: BTreeMap<u64, Worker>,
    current: Option<Set>,
    candidate: Option<Set>,
    /// What the workers that have gone did, all of them.
    gone: Report,
    /// Of it: what became of connections in the drain that is or was last.
    tally: api::Connections,
    /// For whoever must tell the service's own processes from an operator's.
    pids: Pids,
    /// The unanswered questions of the watchdog.
    unanswered: u32,
    /// Why nobody goes back from this generation, if its application says so.
    irreversible: Option<String>,
    /// Of TLS.
    tickets: TicketKeys,
}

#[derive(Debug)]
struct Worker {
    set: u64,
    slot: u16,
    process: Process,
    line: Line<ToWorker>,
    state: State,
    /// What it takes over, since it is ready.
    reads: Reads,
    report: Report,
    /// Its process has ended, its last words may still be on their way; or the other way round.
    half_gone: Option<Half>,
    /// Told to leave, it has not said yet that it accepts no more.
    closing: bool,
    /// The sockets it was given.
    hand: Hand,
    /// It holds as many connections as it may.
    full: bool,
    /// How many questions it was asked, and has answered.
    questions: u64,
    answers: u64,
}

/// What of a worker has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Channel,
    Process,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    Accepting,
    Quiesced,
    Draining,
}

/// Workers with one configuration.
#[derive(Debug)]
struct Set {
    id: u64,
    config: Arc<Config>,
    sockets: Arc<Sockets>,
    /// The hosted application that they are in front of.
    hold: Option<Arc<Hold>>,
    count: u16,
    mode: State,
    /// Everybody was ready once.
    complete: bool,
    pool: Pool,
    /// How many connections each of them holds, for all of them to see: they share the sockets.
    board: Option<OwnedFd>,
}

/// For what a worker said last to be read, should something keep its channel open.
const LAST_WORDS: Duration = Duration::from_millis(200);

impl Workers {
    /// None yet.
    pub fn new(
        inbox: mpsc::Sender<Input>,
        image: Arc<Image>,
        name: &str,
        me: &Identity,
        typed: Vec<OsString>,
        handoff: Option<PathBuf>,
    ) -> Self {
        Self {
            inbox,
            image,
            name: name.into(),
            version: me.version.clone(),
            typed,
            generation: me.generation,
            handoff,
            held: Vec::new(),
            looks_again: false,
            next_worker: 1,
            next_set: 1,
            all: BTreeMap::new(),
            current: None,
            candidate: None,
            gone: Report::default(),
            tally: api::Connections::default(),
            pids: Pids::default(),
            unanswered: 0,
            irreversible: None,
            tickets: TicketKeys::default(),
        }
    }

    /// The ring of TLS ticket keys.
    pub fn tickets(&self) -> &TicketKeys {
        &self.tickets
    }

    /// All workers have this ring from now on, and those that start.
    pub fn set_tickets(&mut self, ring: TicketKeys) {
        self.tickets = ring;
        for worker in self.all.values().filter(|w| w.state != State::Draining) {
            match secrets::wrap(&self.tickets) {
                Ok(fd) => worker.line.say(ToWorker::TicketKeys, vec![fd]),
                Err(e) => tracing::error!("a worker does not get the TLS ticket keys: {e}"),
            }
        }
    }

    /// Those that are in front of this application ask others first than the instances that do not answer.
    pub(super) fn tell_instances(&self, hold: &Arc<Hold>) {
        for worker in self.all.values() {
            let of_set = self.set(worker.set).and_then(|set| set.hold.as_ref());
            if of_set.is_some_and(|of_set| Arc::ptr_eq(of_set, hold)) {
                worker.tell_silent(hold.silent());
            }
        }
    }

    /// Why nobody goes back from this generation, if its application says so.
    pub fn irreversible(&self) -> Option<&str> {
        self.irreversible.as_deref()
    }

    /// Whether there is a set that serves or shall serve.
    pub fn are_wanted(&self) -> bool {
        self.current.is_some()
    }

    /// Whether none is there any more.
    pub fn have_left(&self) -> bool {
        self.all.is_empty()
    }

    /// Tells the set that serves to accept, now and after every respawn.
    pub fn accept(&mut self) {
        self.tell_current(State::Accepting);
    }

    /// Tells it to stop accepting and keep what it holds.
    pub fn quiesce(&mut self) {
        self.tell_current(State::Quiesced);
    }

    fn tell_current(&mut self, mode: State) {
        let Some(set) = &mut self.current else { return };
        set.mode = mode;
        let id = set.id;
        for worker in self.all.values_mut().filter(|w| w.set == id) {
            worker.go_to(mode);
        }
        self.deal();
    }

    /// A connection to every worker of the set that serves or shall serve, as if it had come to
    /// this listener; with the worker's pid.
    pub fn probe(&self, listener: &str) -> Vec<(u32, UnixStream)> {
        let set = self.current.as_ref().map(|set| set.id);
        let asked = self.all.values().filter(|w| Some(w.set) == set);
        let mut streams = Vec::new();
        for worker in asked.filter(|w| w.state != State::Starting) {
            match UnixStream::pair() {
                Ok((ours, theirs)) => {
                    let listener = listener.to_owned();
                    worker
                        .line
                        .say(ToWorker::Serve { listener }, vec![theirs.into()]);
                    streams.push((worker.process.pid(), ours));
                }
                Err(e) => tracing::error!("cannot make a pair for the health check: {e}"),
            }
        }
        streams
    }

    /// Log files are opened again.
    pub fn reopen_logs(&self) {
        for worker in self.all.values() {
            worker.line.say(ToWorker::ReopenLogs, Vec::new());
        }
    }

    /// A worker that serves: it has not ended, and nobody has told it to leave.
    pub fn serving(&self) -> Option<u32> {
        let mut serving = self
            .all
            .values()
            .filter(|w| w.state == State::Accepting && w.process.peek().is_none());
        serving.next().map(|w| w.process.pid())
    }

    /// The sockets of the set that serves: without those that were let go meanwhile, with those
    /// that were added.
    pub fn replace_sockets(&mut self, sockets: &Arc<Sockets>) {
        if let Some(set) = &mut self.current {
            set.sockets = Arc::clone(sockets);
        }
        self.deal();
    }

    fn set(&self, id: u64) -> Option<&Set> {
        [&self.current, &self.candidate]
            .into_iter()
            .flatten()
            .find(|set| set.id == id)
    }

    fn set_mut(&mut self, id: u64) -> Option<&mut Set> {
        [&mut self.current, &mut self.candidate]
            .into_iter()
            .flatten()
            .find(|set| set.id == id)
    }
}

impl Worker {
    fn tell_silent(&self, instances: Vec<Upstream>) {
        self.line.say(ToWorker::Silent { instances }, Vec::new());
    }

    fn go_to(&mut self, mode: State) {
        let order = match (self.state, mode) {
            (State::Starting | State::Draining, _) => return,
            (_, State::Accepting) => ToWorker::Accept,
            (State::Accepting, State::Quiesced) => ToWorker::Quiesce,
            _ => return,
        };
        self.state = mode;
        self.line.say(order, Vec::new());
    }
}

impl State {
    /// It accepts, or may not have read yet that it shall not.
    fn may_accept(self) -> bool {
        matches!(self, Self::Accepting | Self::Quiesced)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Accepting => "accepting",
            Self::Quiesced => "quiesced",
            Self::Draining => "draining",
        }
    }
}

/// How a process ended, for messages.
pub fn ended(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "ended".into(), |exit| exit.to_string())
}
