//! A worker in a thread of this process, seen by its master.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::TestError;
use super::handoff::SOCKET;
use crate::config::Config;
use crate::context::DrainReason;
use crate::machine::link::{FromWorker, Reads, Report, Start, ToWorker, WorkerListener};
use crate::service::Service;
use crate::sys::channel::Channel;
use crate::sys::handoff::{self, Targets};
use crate::worker;

/// One of them.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) service: Arc<Service>,
    channel: Arc<Channel>,
    state: watch::Receiver<State>,
    /// What it takes over.
    reads: Reads,
    /// Why nobody goes back from it.
    pub(super) irreversible: watch::Receiver<Option<String>>,
    thread: Option<JoinHandle<ExitCode>>,
}

/// A worker that takes connections over.
#[derive(Debug)]
pub(super) struct Taker {
    channel: Arc<Channel>,
    reads: Reads,
}

impl Taker {
    /// A way there.
    pub(super) async fn end(&self) -> io::Result<Targets> {
        let (sending, receiving) = handoff::pair()?;
        let order = ToWorker::ReceiveFrom;
        self.channel.send(&order, &[receiving.as_fd()]).await?;
        Ok(Targets {
            ends: vec![sending],
            reads: self.reads,
            ..Targets::default()
        })
    }
}

#[derive(Debug, Clone)]
enum State {
    Starting,
    Ready(Reads),
    Failed(String),
    Drained(Report),
    Gone,
}

impl Generation {
    /// Starts one and waits until it is ready; it does not accept yet.
    pub(super) async fn start(
        number: u64,
        service: Arc<Service>,
        listeners: &[(String, OwnedFd)],
        runtime: &Path,
    ) -> Result<Self, TestError> {
        let (channel, theirs) = Channel::pair()?;
        let channel = Arc::new(channel);
        let loading = Arc::clone(&service);
        let thread = std::thread::Builder::new()
            .name(format!("worker g{number}"))
            .spawn(move || {
                worker::run(theirs, move |context| {
                    Box::pin(async move { loading.load(context).await })
                })
            })?;
        let start = Start {
            name: service.name.into(),
            generation: number,
            slot: 0,
            version: service.version.into(),
            config: plain(service.defaults.clone()),
            listeners: listeners.len(),
            handoff: Some(runtime.join(SOCKET)),
            board: false,
            typed: service.given(),
            hosted: None,
            tls: false,
        };
        let (said, state) = watch::channel(State::Starting);
        let (no_way_back, irreversible) = watch::channel(None);
        tokio::spawn(hear(Arc::clone(&channel), said, no_way_back));
        let mut generation = Self {
            number,
            service,
            channel,
            state,
            reads: Reads::default(),
            irreversible,
            thread: Some(thread),
        };
        generation
            .say(&ToWorker::Start(Box::new(start)), &[])
            .await?;
        let (names, fds): (Vec<_>, Vec<_>) = listeners
            .iter()
            .zip(1..)
            .map(|((name, fd), id)| {
                let listener = WorkerListener {
                    id,
                    name: name.clone(),
                    address: String::new(),
                    shared: false,
                };
                (listener, fd.as_fd())
            })
            .unzip();
        if !names.is_empty() {
            generation
                .say(&ToWorker::Listeners { listeners: names }, &fds)
                .await?;
        }
        let state = generation
            .state
            .wait_for(|s| !matches!(s, State::Starting))
            .await;
        let state = state.map_or(State::Gone, |state| state.clone());
        match state {
            State::Ready(reads) => {
                generation.reads = reads;
                Ok(generation)
            }
            State::Failed(reason) => Err(TestError::NotReady(reason)),
            _ => Err(TestError::NotReady("it ended before it was ready".into())),
        }
    }

    pub(super) async fn accept(&self) -> Result<(), TestError> {
        self.say(&ToWorker::Accept, &[]).await
    }

    /// Where connections go that this one takes over.
    pub(super) fn taker(&self) -> Taker {
        Taker {
            channel: Arc::clone(&self.channel),
            reads: self.reads,
        }
    }

    /// Drains.
    pub(super) async fn drain(&self, reason: DrainReason) -> Result<(), TestError> {
        let drain = &self.service.defaults.drain;
        let limit = match reason {
            DrainReason::Stop => Some(drain.stop_timeout),
            _ => Some(drain.timeout).filter(|limit| !limit.is_zero()),
        };
        self.drain_within(limit, reason).await
    }

    async fn drain_within(
        &self,
        limit: Option<Duration>,
        reason: DrainReason,
    ) -> Result<(), TestError> {
        let order = ToWorker::Drain {
            timeout_ms: limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
            pass: reason != DrainReason::Stop,
            reason,
        };
        self.say(&order, &[]).await
    }

    /// Waits for the end of its drain.
    pub(super) async fn drained(mut self) -> Report {
        let ended = |state: &State| matches!(state, State::Drained(_) | State::Gone);
        let report = match self.state.wait_for(ended).await.as_deref() {
            Ok(State::Drained(report)) => *report,
            _ => Report::default(),
        };
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        report
    }

    /// Ends it, whatever it does.
    pub(super) async fn end(mut self) {
        let now = Some(Duration::ZERO);
        let _ = self.drain_within(now, DrainReason::Stop).await;
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    async fn say(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> Result<(), TestError> {
        self.channel.send(message, fds).await?;
        Ok(())
    }
}

/// What it says, until it ends.
async fn hear(
    channel: Arc<Channel>,
    said: watch::Sender<State>,
    irreversible: watch::Sender<Option<String>>,
) {
    while let Ok(Some(received)) = channel.recv().await {
        let state = match received.decode() {
            Ok(FromWorker::Ready { reads }) => State::Ready(reads),
            Ok(FromWorker::Failed { reason }) => State::Failed(reason),
            Ok(FromWorker::Drained(report)) => State::Drained(report),
            Ok(FromWorker::Irreversible { reason }) => {
                irreversible.send_replace(Some(reason));
                continue;
            }
            Ok(FromWorker::Report(_) | FromWorker::Full { .. } | FromWorker::Closed) | Err(_) => {
                continue;
            }
        };
        said.send_replace(state);
    }
    said.send_if_modified(|state| {
        let silent = !matches!(state, State::Drained(_) | State::Failed(_));
        if silent {
            *state = State::Gone;
        }
        silent
    });
}

/// There are no certificates in a test: a listener that speaks TLS elsewhere speaks plain HTTP.
fn plain(mut config: Config) -> Config {
    for listener in &mut config.listeners {
        listener.tls = false;
    }
    config
}
