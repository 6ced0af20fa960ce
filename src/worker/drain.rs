//! Draining: what becomes of the connections of a worker that is to leave.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Worker;
use super::context::Answer;
use super::guarded::Vital;
use super::handoff::pass_on;
use super::handoff::receive::Receiver;
use super::order::Order;
use crate::context::DrainReason;
use crate::machine::link::Report;
use crate::sys::handoff::Targets;
use crate::sys::runtime;

/// How a drain goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// For the application.
    pub(super) reason: DrainReason,
    /// What is left then is cut; `None`: no limit.
    pub(super) limit: Option<Duration>,
    /// How long an idle connection that nobody takes may still bring a request.
    pub(super) grace: Duration,
    /// Whether the owner of the service is asked who takes the connections.
    pub(super) ask: bool,
    /// Whether it is asked again when that was in vain.
    pub(super) again: bool,
}

/// A drain under way.
#[derive(Debug)]
pub(super) struct Draining {
    task: JoinHandle<Report>,
}

/// Connections told at a time, before the others get a turn.
const CHUNK: usize = 64;

/// How often the owner is asked again for somebody who takes connections.
const ASK_AGAIN: u32 = 3;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// How long an owner may have nobody who takes connections before they are told to end; a quarter of the
/// limit at most.
const LATE: Duration = Duration::from_secs(5);

impl Terms {
    /// As ordered by the master. The grace is part of the limit: a service that stops within seconds
    /// does not spend them on idle connections.
    pub(super) fn ordered(reason: DrainReason, limit: Option<Duration>) -> Self {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(5));
        Self {
            reason,
            limit,
            grace: limit.map_or(most, |limit| (limit / 8).clamp(least, most)),
            ask: false,
            again: false,
        }
    }

    /// Without a master, and nobody to pass connections to: idle ones go within a second.
    pub(super) fn orphaned(limit: Duration) -> Self {
        Self {
            reason: DrainReason::MasterGone,
            limit: Some(limit),
            grace: Duration::from_millis(750),
            ask: false,
            again: false,
        }
    }
}

impl Draining {
    /// Starts. The worker accepts no more already, and its application knows until when all must
    /// have ended; what its `receivers` have queued is still taken. What can be done at once is done
    /// when this returns, whichever thread does the rest.
    pub(super) async fn start(
        worker: Arc<Worker>,
        receivers: Vec<Receiver>,
        targets: Targets,
        terms: Terms,
    ) -> Self {
        let mut all = Box::pin(drain(worker, receivers, targets, terms));
        let task = match std::future::poll_fn(|cx| Poll::Ready(all.as_mut().poll(cx))).await {
            Poll::Ready(report) => runtime::spawn(std::future::ready(report)),
            Poll::Pending => runtime::spawn(all),
        };
        Self { task }
    }

    /// When nothing is left. Cancel safe.
    pub(super) async fn ended(&mut self) -> Report {
        // It fails only by a panic, which ends the process in a release build.
        (&mut self.task).await.unwrap_or_default()
    }
}

async fn drain(
    worker: Arc<Worker>,
    receivers: Vec<Receiver>,
    targets: Targets,
    terms: Terms,
) -> Report {
    let _vital = Vital("draining");
    let (connections, application) = (&worker.connections, &worker.application);
    tracing::info!(connections = connections.count(), "draining");
    tokio::select! {
        biased;
        () = leave(&worker, receivers, targets, terms) => {}
        () = application.connections_overdue() => connections.cut(),
        never = worker.ask_for_the_front(), if terms.reason != DrainReason::Stop => match never {},
    }
    tokio::select! {
        biased;
        () = application.work_done() => {}
        () = application.connections_overdue() => tracing::warn!(
            "{} jobs in the background are not done at the end of the drain: they are cut",
            application.work_left()
        ),
    }
    application.run_hooks().await;
    application.drain_heard().await;
    let report = connections.report();
    tracing::info!(
        passed = report.passed,
        finished = report.finished,
        cut = report.cut,
        "drained"
    );
    report
}

/// Until no connection is left.
async fn leave(worker: &Arc<Worker>, receivers: Vec<Receiver>, mut targets: Targets, terms: Terms) {
    let grace = terms.grace;
    for receiver in receivers {
        receiver.finish().await;
    }
    if targets.is_empty() && terms.ask {
        targets = worker.ask().await;
    }
    let mut asked = 0;
    // One that passes nothing on has nobody for ever: to end politely takes its time, too.
    let mut late = Some(terms.limit.map_or(LATE, |limit| LATE.min(limit / 4)));
    loop {
        while !targets.is_empty() {
            if pass_on(worker, targets).await {
                return;
            }
            targets = Targets::default();
            if asked < ASK_AGAIN {
                asked += 1;
                targets = worker.ask().await;
            }
        }
        if let Some(late) = late.take().filter(|_| terms.again) {
            tokio::select! {
                found = found_late(worker, late) => targets = found,
                () = worker.connections.at_most(0) => return,
            }
            if !targets.is_empty() {
                continue;
            }
        }
        tokio::select! {
            () = end_politely(worker, grace) => return,
            // Its answer was late, on a busy machine.
            found = ask_again(worker), if terms.again => targets = found,
        }
    }
}

/// A master that takes the service back starts its workers first. Until they are there the connections are
/// served here: one of HTTP/2 that was told to end does so, whoever could take it later.
async fn found_late(worker: &Worker, late: Duration) -> Targets {
    let begun = Instant::now();
    while begun.elapsed() < late {
        match worker.ask_owner().await {
            Answer::Targets(targets) => return targets,
            Answer::Nobody => break,
            Answer::NotYet => {}
        }
        sleep(PAUSE).await;
    }
    Targets::default()
}

/// Asks a few times more; waits for ever when that was in vain.
async fn ask_again(worker: &Worker) -> Targets {
    for _ in 0..ASK_AGAIN {
        sleep(PAUSE).await;
        let targets = worker.ask().await;
        if !targets.is_empty() {
            return targets;
        }
    }
    std::future::pending().await
}

/// One more answer for every connection, or the grace time without a request.
async fn end_politely(worker: &Worker, grace: Duration) {
    worker.be_polite(grace);
    for chunk in worker.connections.order(Order::Last).chunks(CHUNK) {
        for gate in chunk {
            gate.tell(Order::Last, None);
        }
        tokio::task::yield_now().await;
    }
    worker.connections.at_most(0).await;
}
