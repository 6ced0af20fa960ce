//! The supervisor of a hosted application: starts its instances, passes on what they print, starts
//! them again when they end, and ends them when nobody needs them any more.
//!
//! An application lives as long as somebody *holds* it: each master that answers for it and each
//! worker that may still have requests with it has an end of a channel to its supervisor. When the
//! last one has been closed, by whatever way its holder went, the application is asked to leave
//! (`stop_signal`), and after `stop_timeout` it is killed. So nothing has to be said for a takeover,
//! a rollback, a drain or a crash, and an application can be handed from one master to the next.

mod down;
mod group;
mod instance;
mod memory;
mod output;
mod phase;
mod place;
mod probe;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Upstream;
use crate::machine::hosting::{
    FromSupervisor, Hosting, Instances, Restart, Restarts, ToSupervisor,
};
use crate::sys::channel::{Channel, ChannelError, Received};
use crate::sys::journal;
use crate::sys::process;
use crate::sys::runtime::{self, block_on};
use crate::sys::signals::{self, Signals};

use down::Down;
use group::Leaders;
use instance::{Instance, Word};
use phase::{PhaseFile, phase};
use place::Place;

/// Why a supervisor could not begin.
#[derive(Debug, thiserror::Error)]
enum SupervisorError {
    #[error("cannot {0}: {1}")]
    Io(&'static str, std::io::Error),
    #[error("cannot hear the master: {0}")]
    Channel(#[from] ChannelError),
    #[error("the master went away before it said what to start")]
    MasterGone,
    #[error("expected `start` from the master, got something else")]
    Unexpected,
}

/// Runs this process as a supervisor until nobody holds the application any more. `journal`: stderr
/// is the journal.
#[must_use]
pub fn run(channel: OwnedFd, journal: bool) -> ExitCode {
    match supervise(channel, journal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("the supervisor of an application leaves: {e}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(channel: OwnedFd, journal: bool) -> Result<(), SupervisorError> {
    let io = |what| move |e| SupervisorError::Io(what, e);
    // What the service needs to listen on low ports is nothing for the application: without this an
    // exec would keep it.
    if let Err(e) = rustix::thread::clear_ambient_capability_set() {
        eprintln!("the application keeps capabilities: {e}");
    }
    // systemd and terminals send them to everybody: masters decide.
    signals::block(signals::OPERATOR).map_err(io("block signals"))?;
    process::set_subreaper().map_err(io("become a subreaper"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(io("make a runtime"))?;
    block_on(&runtime, async {
        let channel = Channel::from_fd(channel).map_err(io("use the channel"))?;
        let first = channel.recv().await?.ok_or(SupervisorError::MasterGone)?;
        let ToSupervisor::Start(hosting) = first.decode()? else {
            return Err(SupervisorError::Unexpected);
        };
        if let Err(e) = journal::init(journal, &hosting.log_level) {
            eprintln!("{e}");
        }
        journal::set_generation(hosting.generation);
        let of_interest = [Signal::SIGCHLD, Signal::SIGTERM];
        let signals = Signals::open(&of_interest).map_err(io("receive signals"))?;
        Supervisor::new(*hosting).live(channel, signals).await;
        Ok(())
    })
}

struct Supervisor {
    hosting: Arc<Hosting>,
    holders: Vec<Holder>,
    phase: PhaseFile,
    has_served: bool,
    post: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
    upstreams: Vec<Upstream>,
    ready: Vec<bool>,
    /// It ended by its own fault, or hangs, and does not answer again yet.
    failing: Vec<bool>,
    pids: Vec<Option<u32>>,
    leaders: Leaders,
    restarts: u64,
    restarts_by: Restarts,
    /// Why each instance ended that did so by its own fault the last time; the newest is the last one.
    ended: Vec<(usize, String)>,
    /// Why it is taken for one that hangs.
    silent: Vec<Option<String>>,
    /// As it was measured last, and when.
    private_kib: u64,
    measured: Option<Instant>,
    /// What a new holder has to know.
    verdict: Option<FromSupervisor>,
}

/// A master, or a worker, which says nothing.
struct Holder {
    channel: Arc<Channel>,
    serves: bool,
    /// It did not read in time. Until it does it is told what it takes at once.
    deaf: bool,
}

impl Holder {
    async fn tell(&mut self, word: &FromSupervisor) {
        let limit = if self.deaf { Duration::ZERO } else { HEARS };
        self.deaf = !say(&self.channel, word, limit).await;
    }
}

enum Heard {
    Message(Arc<Channel>, Received),
    Gone(Arc<Channel>),
    Memory(u64),
}

impl Supervisor {
    fn new(hosting: Hosting) -> Self {
        let count = usize::from(hosting.app.instances);
        let (post, heard) = mpsc::channel(16);
        Self {
            phase: PhaseFile::new(hosting.phase_file()),
            has_served: false,
            hosting: Arc::new(hosting),
            holders: Vec::new(),
            post,
            heard,
            upstreams: Vec::new(),
            ready: vec![false; count],
            failing: vec![false; count],
            pids: vec![None; count],
            leaders: Leaders::default(),
            restarts: 0,
            restarts_by: Restarts::default(),
            ended: Vec::new(),
            silent: vec![None; count],
            private_kib: 0,
            measured: None,
            verdict: None,
        }
    }

    async fn live(mut self, first: Channel, mut signals: Signals) {
        self.hold(first);
        // There before the application looks for it.
        self.tell_phase();
        let (stop, stops) = watch::channel(false);
        let (ending, all_end) = watch::channel(None);
        let (words, mut said) = mpsc::channel(64);
        let mut instances = JoinSet::new();
        if let Err(reason) = self.start(&mut instances, &words, &stops, &all_end) {
            self.tell(FromSupervisor::Failed { reason }).await;
        }
        while !self.holders.is_empty() {
            tokio::select! {
                biased;
                Some(heard) = self.heard.recv() => self.hear(heard).await,
                Some((number, word)) = said.recv() => self.take(number, word).await,
                signal = signals.next() => match signal {
                    // To every process of the unit: the application has it, too. That it ends now is
                    // no crash, and nobody starts it again. Who holds it decides when we leave.
                    Ok(received) if received.signal == Signal::SIGTERM => {
                        tracing::info!("SIGTERM: every process of the service is told to leave");
                        ending.send_replace(Some(tokio::time::Instant::now()));
                    }
                    _ => self.leaders.reap_others(),
                },
            }
            self.tell_phase();
        }
        self.phase.say(phase::STOPPING);
        tracing::info!(
            "nobody needs the application of g{} any more",
            self.hosting.generation
        );
        stop.send_replace(true);
        // What they still say is not for anybody.
        said.close();
        while instances.join_next().await.is_some() {}
        self.leaders.kill_leftovers(None).await;
    }

    fn start(
        &mut self,
        instances: &mut JoinSet<()>,
        words: &mpsc::Sender<(usize, Word)>,
        stops: &watch::Receiver<bool>,
        ending: &watch::Receiver<Option<tokio::time::Instant>>,
    ) -> Result<(), String> {
        let variables = instance::variables(&self.hosting.app)?;
        let down = Down::all(self.ready.len());
        for number in 0..self.ready.len() {
            let place = Place::make(&self.hosting, number)?;
            self.upstreams.push(place.upstream.clone());
            let instance = Instance {
                hosting: Arc::clone(&self.hosting),
                number,
                place,
                ended_politely: false,
                variables: Arc::clone(&variables),
                leaders: self.leaders.clone(),
                down: down.clone(),
                words: words.clone(),
                stops: stops.clone(),
                ending: ending.clone(),
            };
            instances.spawn(runtime::task(instance.run()));
        }
        Ok(())
    }

    fn tell_phase(&mut self) {
        let was_ready = matches!(self.verdict, Some(FromSupervisor::Ready { .. }));
        let serves = self.holders.iter().any(|one| one.serves);
        self.phase.say(phase(was_ready, serves, self.has_served));
    }

    fn hold(&mut self, channel: Channel) {
        let channel = Arc::new(channel);
        self.holders.push(Holder {
            channel: Arc::clone(&channel),
            serves: false,
            deaf: false,
        });
        let post = self.post.clone();
        runtime::spawn(async move {
            while let Ok(Some(received)) = channel.recv().await {
                let message = Heard::Message(Arc::clone(&channel), received);
                if post.send(message).await.is_err() {
                    return;
                }
            }
            let _ = post.send(Heard::Gone(channel)).await;
        });
    }

    /// What `/proc` says of each process holds that process up for a moment: seldom, and not here.
    fn measure(&mut self) {
        if self.measured.is_some_and(|at| at.elapsed() < MEASURED) {
            return;
        }
        self.measured = Some(Instant::now());
        let post = self.post.clone();
        tokio::task::spawn_blocking(move || {
            let _ = post.blocking_send(Heard::Memory(process::descendants_private_kib()));
        });
    }

    async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Memory(kib) => {
                self.private_kib = kib;
                self.report_to_all().await;
            }
            Heard::Gone(channel) => self
                .holders
                .retain(|one| !Arc::ptr_eq(&one.channel, &channel)),
            Heard::Message(channel, mut received) => match received.decode() {
                Ok(ToSupervisor::Share) => {
                    let ends = std::mem::take(&mut received.fds);
                    for end in ends.into_iter().filter_map(|fd| Channel::from_fd(fd).ok()) {
                        if let Some(verdict) = &self.verdict {
                            say(&end, verdict, HEARS).await;
                        }
                        say(&end, &self.report(), HEARS).await;
                        self.hold(end);
                    }
                }
                Ok(ToSupervisor::Report) => {
                    self.measure();
                    say(&channel, &self.report(), HEARS).await;
                }
                Ok(ToSupervisor::Serves { serves }) => {
                    let said = |one: &&mut Holder| Arc::ptr_eq(&one.channel, &channel);
                    if let Some(holder) = self.holders.iter_mut().find(said) {
                        holder.serves = serves;
                    }
                    self.has_served |= serves;
                }
                Ok(ToSupervisor::Start(_) | ToSupervisor::Unknown) => {}
                Err(e) => tracing::error!("cannot understand a master: {e}"),
            },
        }
    }

    async fn take(&mut self, number: usize, word: Word) {
        match word {
            // A master that lost its supervisor has to know whom to end.
            Word::Started(pid) => {
                self.pids[number] = Some(pid);
                self.report_to_all().await;
            }
            Word::Ended(why) => {
                self.pids[number] = None;
                self.silent[number] = None;
                self.ready[number] = false;
                self.failing[number] = why.as_ref().is_some_and(|(why, _)| !why.is_blameless());
                self.ended.retain(|(other, _)| *other != number);
                // What went as it should is no news.
                let news = why.filter(|(why, _)| *why != Restart::OnPurpose);
                self.ended.extend(news.map(|(_, why)| (number, why)));
                self.report_to_all().await;
            }
            Word::Restarts(why) => {
                self.restarts += 1;
                self.restarts_by.count(why);
            }
            Word::Ready => {
                self.ready[number] = true;
                self.failing[number] = false;
                // Until now it held little.
                self.measured = None;
                self.measure();
                self.report_to_all().await;
                if self.ready.iter().all(|ready| *ready) {
                    let upstreams = self.upstreams.clone();
                    self.tell(FromSupervisor::Ready { upstreams }).await;
                }
            }
            Word::Answers => {
                self.ready[number] = true;
                self.failing[number] = false;
                self.silent[number] = None;
                self.report_to_all().await;
            }
            Word::Silent(why) => {
                self.ready[number] = false;
                self.failing[number] = true;
                self.silent[number] = Some(why);
                self.report_to_all().await;
            }
            Word::Failed(reason) => {
                // One that has been ready comes back: whoever asks is told that it is.
                let before = self.verdict.clone();
                self.tell(FromSupervisor::Failed { reason }).await;
                if matches!(before, Some(FromSupervisor::Ready { .. })) {
                    self.verdict = before;
                }
            }
        }
    }

    fn report(&self) -> FromSupervisor {
        let hangs = self.silent.iter().flatten().next();
        let ended = self.ended.last().map(|(_, why)| why);
        let silent = (0..).zip(&self.ready).filter(|(_, ready)| !**ready);
        FromSupervisor::Report(Instances {
            pids: self.pids.iter().flatten().copied().collect(),
            restarts: self.restarts,
            restarts_by: self.restarts_by,
            private_kib: self.private_kib,
            ready: u16::try_from(count(&self.ready)).ok(),
            failing: u16::try_from(count(&self.failing)).unwrap_or(u16::MAX),
            silent: silent.map(|(number, _)| number).collect(),
            ended: hangs.or(ended).cloned(),
        })
    }

    async fn report_to_all(&mut self) {
        let report = self.report();
        for holder in &mut self.holders {
            holder.tell(&report).await;
        }
    }

    async fn tell(&mut self, word: FromSupervisor) {
        for holder in &mut self.holders {
            holder.tell(&word).await;
        }
        self.verdict = Some(word);
    }
}

fn count(all: &[bool]) -> usize {
    all.iter().filter(|one| **one).count()
}

/// That nobody hears it is for the reader to find out. False: there was no room for it within `limit`.
async fn say(channel: &Channel, word: &FromSupervisor, limit: Duration) -> bool {
    match tokio::time::timeout(limit, channel.send(word, &[])).await {
        Ok(Ok(())) => true,
        Ok(Err(e)) => {
            tracing::debug!("cannot tell a master: {e}");
            true
        }
        Err(_) => {
            if !limit.is_zero() {
                tracing::warn!("a master does not read what the application's supervisor says");
            }
            false
        }
    }
}

/// Between two looks at the memory of the application.
const MEASURED: Duration = Duration::from_secs(30);
/// A master that does not read for so long is not waited for.
const HEARS: Duration = Duration::from_secs(5);
