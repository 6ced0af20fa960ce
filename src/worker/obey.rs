//! What a worker does when its master speaks, and when it does not any longer.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::accept::Acceptor;
use super::alone::Alone;
use super::applications::Applications;
use super::connections::Fullness;
use super::context::{Answer, Place, Worker};
use super::drain::{Draining, Terms};
use super::handoff::frame::About;
use super::handoff::receive::{self, Receiver};
use super::raw::Handlers;
use super::start::{self, Beginning};
use super::tls::{self, SetupError, TlsSetup};
use super::{Loading, hooks, http2, leader, state};
use crate::config;
use crate::context::{Context, DrainReason};
use crate::machine::link::{FromWorker, HTTP2_READS, Reads, Report, ToWorker, WorkerListener};
use crate::sys::channel::{Channel, ChannelError, Received};
use crate::sys::handoff::Targets;
use crate::sys::secrets;

/// Lives, from the loading of the application to the end.
pub(super) async fn obey<F>(
    channel: OwnedFd,
    mut beginning: Beginning,
    load: F,
) -> io::Result<ExitCode>
where
    F: FnOnce(Context) -> Loading,
{
    let channel = Channel::from_fd(channel)?;
    // A socket pair's credentials are those of the process that made it.
    let master = channel.peer_cred().ok().and_then(|cred| cred.pid());
    // In a test the worker may be a thread beside its master's.
    let is_process = master != i32::try_from(std::process::id()).ok();
    let drain = &beginning.start.config.drain;
    let handoff = beginning.start.handoff.as_deref();
    let watch = || Alone::watch(channel.as_fd(), drain, handoff);
    let alone = is_process.then(watch).flatten();
    let tls = match tls_setup(&mut beginning) {
        Ok(tls) => tls,
        Err(e) => {
            let reason = e.to_string();
            tracing::error!("{reason}");
            say(&channel, &FromWorker::Failed { reason }).await;
            return Ok(ExitCode::FAILURE);
        }
    };
    let (drain, config) = {
        let config = &beginning.start.config;
        (config.drain.clone(), config.clone())
    };
    let worker = match Worker::new(&beginning.start, beginning.board, tls) {
        Ok(worker) => Arc::new(worker),
        Err(e) => {
            let path = &beginning.start.config.log.access;
            let reason = format!("cannot write the access log {path}: {e}");
            tracing::error!("{reason}");
            say(&channel, &FromWorker::Failed { reason }).await;
            return Ok(ExitCode::FAILURE);
        }
    };
    if let Some(runtime) = worker.runtime() {
        worker.application.keep(|| Place {
            runtime: runtime.to_owned(),
            slot: beginning.start.slot,
            master: master.unwrap_or_default(),
        });
    }
    // To the end of this process.
    let _holds = beginning.holds;

    let mut waiting = VecDeque::new();
    let (reads, routers) = tokio::select! {
        loaded = async {
            let reads = reads(&worker, &config).await;
            (reads, load(worker.application.clone()).await)
        } => loaded,
        () = sent_away(&channel, &worker, &mut waiting) => return Ok(ExitCode::SUCCESS),
    };
    let paired = routers.map_err(|e| e.to_string()).and_then(|routers| {
        let own = worker.application.kept::<Handlers>().unwrap_or_default();
        start::pair_up(beginning.listeners, routers, &own, &config)
    });
    let (listeners, applications) = match paired {
        Ok(paired) => paired,
        Err(reason) => {
            tracing::error!("cannot serve: {reason}");
            say(&channel, &FromWorker::Failed { reason }).await;
            return Ok(ExitCode::FAILURE);
        }
    };
    // Where sessions that move find their way.
    let (all, this) = (&applications, &worker);
    worker.application.keep(|| Arc::clone(all));
    worker.application.keep(|| Arc::downgrade(this));
    let worker_full = worker.connections.fullness();
    let irreversible = worker.application.irreversibles();
    let mut life = Life {
        acceptor: Acceptor::new(listeners),
        worker,
        applications,
        receivers: Vec::new(),
        drain,
        draining: None,
        full: worker_full,
        irreversible,
        channel,
        alone,
    };
    // Whoever hears that it is ready may order a rollback in the same instant.
    life.say_irreversible().await;
    say(&life.channel, &FromWorker::Ready { reads }).await;
    life.live(waiting).await;
    if let Some(access) = &life.worker.access {
        // What is still answered is cut now; what was answered is written.
        access.flush();
    }
    Ok(ExitCode::SUCCESS)
}

/// How TLS is spoken, if it is. What the master sent is wiped.
fn tls_setup(beginning: &mut Beginning) -> Result<Option<TlsSetup>, SetupError> {
    let Some(secrets) = beginning.tls.take() else {
        return Ok(None);
    };
    let config = &beginning.start.config;
    let tickets = secrets.tickets.clone().map(Arc::new);
    let http2 = config.http.http2;
    TlsSetup::new(&config.tls, &secrets.identities, tickets, http2).map(Some)
}

/// What this worker takes over from others.
async fn reads(worker: &Worker, config: &config::Config) -> Reads {
    let is_http2_moved = config.http.http2 && config.drain.pass_connections;
    let takes_part = is_http2_moved && http2::can_move(&worker.http2).await;
    if takes_part {
        worker.pass_http2();
    } else if is_http2_moved {
        tracing::warn!(
            "HTTP/2 connections are not passed on: the HTTP/2 implementation in this program \
             does not go on where another one was"
        );
    }
    Reads {
        tls: tls::READS,
        http2: if takes_part { HTTP2_READS } else { 0 },
    }
}

/// While the application loads: returns when the master has gone; keeps what it says.
async fn sent_away(channel: &Channel, worker: &Worker, waiting: &mut VecDeque<Received>) {
    while let Some(received) = hear(channel).await {
        match received.decode() {
            Ok(ToWorker::Report) => {
                say(channel, &FromWorker::Report(worker.connections.report())).await;
            }
            _ => waiting.push_back(received),
        }
    }
}

/// The next message. `None`: the master has gone, or cannot be heard any longer.
async fn hear(channel: &Channel) -> Option<Received> {
    loop {
        match channel.recv().await {
            Ok(received) => return received,
            Err(ChannelError::Io(e)) => {
                tracing::error!("cannot hear the master: {e}");
                return None;
            }
            // That message alone is lost.
            Err(e) => tracing::error!("cannot hear what the master says: {e}"),
        }
    }
}

/// That nobody hears it is for [`hear`] to find out.
async fn say(channel: &Channel, message: &FromWorker) {
    if let Err(e) = channel.send(message, &[]).await {
        tracing::debug!("cannot answer the master: {e}");
    }
}

struct Life {
    channel: Channel,
    alone: Option<Alone>,
    worker: Arc<Worker>,
    acceptor: Acceptor,
    applications: Arc<Applications>,
    receivers: Vec<Receiver>,
    drain: config::Drain,
    draining: Option<Draining>,
    full: Fullness,
    irreversible: watch::Receiver<Option<String>>,
}

impl Life {
    async fn live(&mut self, mut waiting: VecDeque<Received>) {
        let mut alone = false;
        loop {
            let heard = tokio::select! {
                biased;
                report = ended(&mut self.draining) => {
                    say(&self.channel, &FromWorker::Drained(report)).await;
                    return;
                }
                full = self.full.changed(), if !alone && self.draining.is_none() => {
                    say(&self.channel, &FromWorker::Full { full }).await;
                    continue;
                }
                Ok(()) = self.irreversible.changed(), if !alone => {
                    self.say_irreversible().await;
                    continue;
                }
                Some(received) = async { waiting.pop_front() } => Some(received),
                heard = hear(&self.channel), if !alone => heard,
            };
            let Some(received) = heard else {
                alone = true;
                self.orphaned().await;
                continue;
            };
            match received.decode() {
                Ok(message) => self.act(message, received.fds).await,
                Err(e) => tracing::error!("cannot understand the master: {e}"),
            }
        }
    }

    /// What there is no way back from, if the application has said so since the last time.
    async fn say_irreversible(&mut self) {
        let said = self.irreversible.borrow_and_update().clone();
        if let Some(reason) = said {
            say(&self.channel, &FromWorker::Irreversible { reason }).await;
        }
    }

    async fn act(&mut self, message: ToWorker, mut fds: Vec<OwnedFd>) {
        match message {
            ToWorker::Accept => self.accept().await,
            ToWorker::Quiesce => self.acceptor.stop(&self.worker).await,
            ToWorker::Drain {
                timeout_ms,
                pass,
                reason,
            } => {
                let mut terms = Terms::ordered(reason, timeout_ms.map(Duration::from_millis));
                terms.ask = pass;
                terms.again = pass;
                self.leave(terms, Targets::default()).await;
            }
            ToWorker::ReceiveFrom => {
                if let Some(end) = fds.pop() {
                    self.receive_from(end);
                }
            }
            ToWorker::Silent { instances } => self.worker.silent_instances.tell(instances),
            ToWorker::TicketKeys => {
                if let Some(fd) = fds.pop() {
                    self.renew_tickets(fd);
                }
            }
            ToWorker::Serve { listener } => {
                if let Some(fd) = fds.pop() {
                    let about = About::new(listener);
                    let (worker, all) = (&self.worker, &self.applications);
                    receive::serve(about, fd, worker, all);
                }
            }
            ToWorker::Report => {
                let report = self.worker.connections.report();
                say(&self.channel, &FromWorker::Report(report)).await;
            }
            ToWorker::ReopenLogs => {
                if let Some(access) = &self.worker.access {
                    access.reopen();
                }
                hooks().iter().for_each(|hook| hook());
            }
            ToWorker::Listeners { listeners } => self.take(listeners, fds).await,
            ToWorker::LetGo { ids } => self.acceptor.let_go(&ids).await,
            ToWorker::Start(_) => tracing::error!("the master repeats the beginning"),
        }
    }

    fn renew_tickets(&self, fd: OwnedFd) {
        let Some(tickets) = self
            .worker
            .tls
            .as_ref()
            .and_then(|tls| tls.tickets.as_ref())
        else {
            return;
        };
        match secrets::unwrap(fd) {
            Ok(ring) => tickets.renew(Arc::new(ring)),
            Err(e) => tracing::error!("cannot read the new keys of TLS tickets: {e}"),
        }
    }

    async fn accept(&mut self) {
        if self.draining.is_some() {
            return;
        }
        if let Err(e) = self.acceptor.start(&self.worker) {
            self.cannot_accept(&e.to_string()).await;
        }
        state::serve(&self.worker.application);
        leader::compete(&self.worker.application, self.worker.runtime());
    }

    /// Sockets that others accepted on, or nobody.
    async fn take(&mut self, listeners: Vec<WorkerListener>, fds: Vec<OwnedFd>) {
        // A draining worker accepts no more; the master knows.
        if self.draining.is_some() {
            return;
        }
        for (listener, fd) in listeners.iter().zip(fds) {
            let taken = start::serve(listener, fd, &self.applications).and_then(|listener| {
                let taken = self.acceptor.take(listener, &self.worker);
                taken.map_err(|e| e.to_string())
            });
            if let Err(why) = taken {
                self.cannot_accept(&why).await;
            }
        }
    }

    async fn cannot_accept(&self, why: &str) {
        let reason = format!("cannot accept: {why}");
        tracing::error!("{reason}");
        say(&self.channel, &FromWorker::Failed { reason }).await;
    }

    fn receive_from(&mut self, end: OwnedFd) {
        // A draining worker takes nothing: closed, its senders keep what they have.
        if self.draining.is_some() {
            return;
        }
        self.receivers.retain(|receiver| !receiver.is_done());
        match Receiver::start(end, &self.worker, &self.applications) {
            Ok(receiver) => self.receivers.push(receiver),
            Err(e) => tracing::error!("cannot take over connections: {e}"),
        }
    }

    /// Drains, to these if there are any; a drain under way is only hurried.
    async fn leave(&mut self, terms: Terms, targets: Targets) {
        if self.draining.is_none() {
            self.acceptor.close(&self.worker).await;
            self.worker.connections.drain();
        }
        let application = &self.worker.application;
        application.begin_drain(terms.reason, terms.limit);
        if self.draining.is_none() {
            let receivers = std::mem::take(&mut self.receivers);
            let worker = Arc::clone(&self.worker);
            self.draining = Some(Draining::start(worker, receivers, targets, terms).await);
        }
        say(&self.channel, &FromWorker::Closed).await;
    }

    /// The master has gone. What it has ordered holds; otherwise the worker leaves: to the owner's
    /// workers where another generation lives, quickly where none does.
    async fn orphaned(&mut self) {
        if let Some(alone) = &self.alone {
            alone.heard();
        }
        if self.draining.is_some() {
            return;
        }
        tracing::info!("the master has gone");
        self.acceptor.close(&self.worker).await;
        let limit = Some(self.drain.timeout).filter(|limit| !limit.is_zero());
        let mut patient = Terms::ordered(DrainReason::MasterGone, limit);
        patient.again = true;
        let (terms, targets) = match self.worker.ask_owner().await {
            Answer::Targets(targets) => (patient, targets),
            // A master has the socket and does not answer yet: it takes the service back.
            Answer::NotYet => (patient, Targets::default()),
            Answer::Nobody => (Terms::orphaned(self.drain.stop_timeout), Targets::default()),
        };
        self.leave(terms, targets).await;
    }
}

async fn ended(draining: &mut Option<Draining>) -> Report {
    match draining {
        Some(draining) => draining.ended().await,
        None => std::future::pending().await,
    }
}
