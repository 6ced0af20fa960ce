//! Clients that run until they are told to stop.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::exchange::{Batch, Body, Request};
use super::failure::{Failure, Fault, Kind};
use super::http2;
use super::spec::{Spec, Traffic};
use super::tally::{Report, Tally};
use super::torture;
use super::wire::{Inbox, Pace, Wire};
use crate::kit::app;

/// So many connects at a time: a listen queue is no bottomless pit.
const CONNECTING: usize = 64;

/// After a failure, so that a dead server does not fill the report in a second.
pub(super) const AFTER_FAILURE: Duration = Duration::from_millis(5);

/// The way to start one.
#[derive(Debug)]
pub struct Load;

/// A load that runs, in a thread of its own.
#[derive(Debug)]
pub struct Running {
    tally: Arc<Mutex<Tally>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    connections: usize,
    title: String,
}

impl Load {
    /// Starts the clients.
    pub fn start(spec: Spec) -> Running {
        Self::start_all(vec![spec])
    }

    /// Starts several kinds of clients that report together.
    pub fn start_all(specs: Vec<Spec>) -> Running {
        raise_fd_limit();
        let tally = Arc::new(Mutex::new(Tally::new(Instant::now())));
        let (stop, stopped) = watch::channel(false);
        let title = specs
            .iter()
            .map(|s| {
                format!(
                    "{} {} of {} (seed {})",
                    s.connections, s.label, s.target, s.seed
                )
            })
            .collect::<Vec<_>>()
            .join(", ");
        let connections = specs.iter().map(|s| s.connections).sum();
        let shared = tally.clone();
        let thread = std::thread::Builder::new()
            .name("load".into())
            .spawn(move || run(specs, &shared, &stopped))
            .expect("a thread for the load");
        Running {
            tally,
            stop,
            thread: Some(thread),
            connections,
            title,
        }
    }
}

impl Running {
    /// Begins a phase of this name.
    pub fn mark(&self, phase: &str) {
        lock(&self.tally).mark(phase, Instant::now());
    }

    /// Right answers so far.
    pub fn answers(&self) -> u64 {
        lock(&self.tally).answers()
    }

    /// Waits for so many more right answers.
    #[track_caller]
    pub fn wait_answers(&self, more: u64, deadline: Duration) {
        let wanted = self.answers() + more;
        self.wait(&format!("{more} more answers"), deadline, |tally| {
            tally.answers() >= wanted
        });
    }

    /// Waits until this `Server` has given so many more answers.
    #[track_caller]
    pub fn wait_server(&self, server: &str, more: u64, deadline: Duration) {
        let wanted = lock(&self.tally).answers_of(server) + more;
        self.wait(
            &format!("{more} more answers of {server}"),
            deadline,
            |tally| tally.answers_of(server) >= wanted,
        );
    }

    /// Waits until every client has had its first connection.
    #[track_caller]
    pub fn wait_connected(&self, deadline: Duration) {
        let wanted = self.connections as u64;
        self.wait(&format!("{wanted} connections"), deadline, |tally| {
            tally.opened() >= wanted
        });
    }

    #[track_caller]
    fn wait(&self, what: &str, deadline: Duration, mut done: impl FnMut(&Tally) -> bool) {
        let end = Instant::now() + deadline;
        while !done(&lock(&self.tally)) {
            assert!(
                Instant::now() < end,
                "waited {deadline:?} for {what}\n{}",
                self.report()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The numbers so far.
    pub fn report(&self) -> Report {
        lock(&self.tally).report(Instant::now(), self.connections, self.title.clone())
    }

    /// Lets every client finish the request it is in, and reports.
    pub fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load's thread did not panic");
        }
        self.report()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if self.thread.is_some() && std::thread::panicking() {
            eprintln!("the load when the test failed: {}", self.report());
        }
    }
}

pub(super) fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ten thousand clients are no rarity here.
fn raise_fd_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn run(specs: Vec<Spec>, tally: &Arc<Mutex<Tally>>, stopped: &watch::Receiver<bool>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for the load");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let connecting = Arc::new(Semaphore::new(CONNECTING));
        let mut clients = Vec::new();
        for spec in specs {
            let spec = Arc::new(spec);
            for index in 0..spec.connections {
                if matches!(spec.traffic, Traffic::Http2 { .. }) {
                    let client = http2::Client {
                        spec: spec.clone(),
                        tally: tally.clone(),
                        stop: stopped.clone(),
                        connecting: connecting.clone(),
                        index,
                    };
                    clients.push(tokio::task::spawn_local(client.run()));
                    continue;
                }
                let client = Client {
                    rng: fastrand::Rng::with_seed(spec.seed.wrapping_add(index as u64)),
                    spec: spec.clone(),
                    tally: tally.clone(),
                    stop: stopped.clone(),
                    connecting: connecting.clone(),
                    index,
                    opened: 0,
                    asked: 0,
                    upload: upload(&spec),
                };
                clients.push(tokio::task::spawn_local(client.run()));
            }
        }
        for client in clients {
            client.await.expect("a client did not panic");
        }
    });
}

fn upload(spec: &Spec) -> Body {
    match &spec.traffic {
        Traffic::Upload(u) if u.chunked => {
            let size = u.bytes.div_ceil(u.pieces.max(1)).max(1);
            Body::Chunked(app::pattern(u.bytes), size)
        }
        Traffic::Upload(u) => Body::Plain(app::pattern(u.bytes)),
        _ => Body::None,
    }
}

struct Client {
    spec: Arc<Spec>,
    tally: Arc<Mutex<Tally>>,
    stop: watch::Receiver<bool>,
    connecting: Arc<Semaphore>,
    rng: fastrand::Rng,
    index: usize,
    opened: u64,
    asked: u64,
    upload: Body,
}

struct Connection {
    wire: Wire,
    inbox: Inbox,
    requests: u64,
    last_server: String,
}

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Keep,
    Polite,
    Broken,
}

/// How far a conversation got, also when it was cut off.
#[derive(Debug, Default)]
struct Progress {
    sent: Cell<u64>,
    seen: Cell<u64>,
    answered: Cell<usize>,
    closed: Cell<bool>,
}

impl Client {
    async fn run(mut self) {
        let mut connection: Option<Connection> = None;
        let mut polite = false;
        while !*self.stop.borrow() {
            if connection.is_none() {
                connection = self.connect(polite).await;
                polite = false;
            }
            let Some(open) = connection.as_mut() else {
                sleep(AFTER_FAILURE).await;
                continue;
            };
            let batch = self.next_batch();
            let idle = batch.idle;
            let mut after = self.converse(open, &batch).await;
            if after == After::Keep && !matches!(self.spec.traffic, Traffic::Fresh) {
                after = self.idle(open, idle).await;
            }
            match after {
                After::Keep if !matches!(self.spec.traffic, Traffic::Fresh) => {}
                After::Keep => {
                    connection = None;
                    self.idle_alone(idle).await;
                }
                After::Polite => {
                    polite = true;
                    connection = None;
                    self.idle_alone(idle).await;
                }
                After::Broken => {
                    connection = None;
                    sleep(AFTER_FAILURE).await;
                }
            }
        }
        if let Some(mut open) = connection {
            // One last look: was it dropped behind our back?
            if let Err(fault) = open.wire.idle_check(&mut open.inbox) {
                self.fail(&open, fault, "", 0, 0);
            }
        }
    }

    async fn connect(&mut self, instead_of_polite: bool) -> Option<Connection> {
        let connecting = self.connecting.clone();
        let _permit = connecting.acquire().await.expect("never closed");
        let slow = matches!(self.spec.traffic, Traffic::SlowReader { .. });
        let tried = timeout(self.spec.timeout, Wire::connect(&self.spec.target, slow)).await;
        let fault = match tried {
            Ok(Ok(wire)) => {
                self.opened += 1;
                let mut tally = lock(&self.tally);
                tally.now().opened += 1;
                tally.now().reopened += u64::from(instead_of_polite);
                return Some(Connection {
                    wire,
                    inbox: Inbox::default(),
                    requests: 0,
                    last_server: String::new(),
                });
            }
            Ok(Err(e)) => Fault::io(&e),
            Err(_) => Fault::new(Kind::Timeout, ""),
        };
        self.record(
            Fault::new(fault.kind, format!("connect: {}", fault.detail)),
            None,
            "",
            0,
            0,
        );
        None
    }

    fn next_batch(&mut self) -> Batch {
        let spec = self.spec.clone();
        let idle = match &spec.traffic {
            Traffic::Think(range) => {
                let (low, high) = (range.start().as_micros(), range.end().as_micros());
                Duration::from_micros(self.rng.u64(low as u64..=high as u64))
            }
            _ => spec.pause,
        };
        match &spec.traffic {
            Traffic::Torture => {
                let mut batch = torture::batch(&mut self.rng, &spec, self.index, self.asked);
                self.asked += batch.requests.len() as u64;
                batch.idle = batch.idle.max(spec.pause);
                batch
            }
            Traffic::Pipelined(depth) => {
                let requests = (0..*depth).map(|_| self.request()).collect();
                Batch::at_once(requests, idle)
            }
            Traffic::Upload(u) => Batch::trickled(self.request(), u.pieces, u.gap, idle),
            _ => Batch::at_once(vec![self.request()], idle),
        }
    }

    fn request(&mut self) -> Request {
        self.asked += 1;
        let id = torture::identity(&self.spec, self.index, self.asked);
        Request::new(
            &self.spec,
            &self.spec.path,
            self.upload.clone(),
            &id,
            self.spec.status,
        )
    }

    /// Sends a batch and reads its answers, both at the same time.
    async fn converse(&mut self, open: &mut Connection, batch: &Batch) -> After {
        if let Err(fault) = open.wire.idle_check(&mut open.inbox) {
            self.fail(open, fault, "", 0, 0);
            return After::Broken;
        }
        let began = Instant::now();
        let progress = Progress::default();
        let talked = timeout(self.spec.timeout, self.talk(open, batch, began, &progress))
            .await
            .unwrap_or_else(|_| Err(Fault::new(Kind::Timeout, "")));

        let answered = progress.answered.get();
        let begun = batch.begun(progress.sent.get());
        let before = open.requests;
        open.requests += begun as u64;
        lock(&self.tally).now().requests += begun as u64;
        let seen = progress.seen.get();
        match talked {
            Ok(()) if !progress.closed.get() => After::Keep,
            Ok(()) => {
                for (i, request) in batch.requests.iter().enumerate().take(begun).skip(answered) {
                    let fault = Fault::new(Kind::AfterClose, "");
                    open.requests = before + i as u64 + 1;
                    let sent = batch.sent_of(i, progress.sent.get());
                    self.fail(open, fault, &request.asked, sent, 0);
                }
                After::Polite
            }
            Err(mut fault) if begun <= answered => {
                // Nothing was asked, or all of it was answered: this was an idle connection.
                if matches!(fault.kind, Kind::Eof | Kind::Reset) {
                    fault.kind = Kind::DroppedIdle;
                }
                self.fail(open, fault, "", 0, seen);
                After::Broken
            }
            Err(fault) => {
                let unanswered = batch.requests.iter().enumerate().take(begun).skip(answered);
                for (i, request) in unanswered {
                    let sent = batch.sent_of(i, progress.sent.get());
                    let seen = if i == answered { seen } else { 0 };
                    open.requests = before + i as u64 + 1;
                    self.fail(open, fault.clone(), &request.asked, sent, seen);
                }
                After::Broken
            }
        }
    }

    async fn talk(
        &self,
        open: &mut Connection,
        batch: &Batch,
        began: Instant,
        progress: &Progress,
    ) -> Result<(), Fault> {
        let Connection {
            wire,
            inbox,
            last_server,
            requests,
        } = open;
        let wire = &*wire;
        let write = async {
            for piece in &batch.pieces {
                if !piece.after.is_zero() {
                    sleep(piece.after).await;
                }
                wire.write(&piece.bytes, &progress.sent).await?;
            }
            Ok::<(), std::io::Error>(())
        };
        let pace = match self.spec.traffic {
            Traffic::SlowReader { piece, gap } => Pace { piece, gap },
            _ => Pace::FAST,
        };
        let read = async {
            for (i, request) in batch.requests.iter().enumerate() {
                progress.seen.set(0);
                let mut check = request.check.clone();
                let answer = wire
                    .answer(inbox, pace, request.bodyless, &mut check, &progress.seen)
                    .await?;
                last_server.clone_from(&answer.server);
                progress.answered.set(i + 1);
                match request.judge(&answer, check) {
                    Ok(()) => lock(&self.tally).answered(&answer, began, Instant::now()),
                    Err(fault) => {
                        let story = Story {
                            local: &wire.local,
                            requests: *requests + i as u64 + 1,
                            last_server,
                        };
                        let sent = batch.sent_of(i, progress.sent.get());
                        self.record(
                            fault,
                            Some(&story),
                            &request.asked,
                            sent,
                            progress.seen.get(),
                        );
                    }
                }
                if answer.close {
                    progress.closed.set(true);
                    return Ok(());
                }
            }
            Ok::<(), Fault>(())
        };
        tokio::pin!(write, read);
        let mut written = false;
        loop {
            tokio::select! {
                biased;
                answers = &mut read => {
                    answers?;
                    break;
                }
                result = &mut write, if !written => {
                    written = true;
                    if let Err(e) = result {
                        // The answer may have come before the connection broke.
                        let grace = Duration::from_millis(50);
                        match timeout(grace, &mut read).await {
                            Ok(Ok(())) => break,
                            _ => return Err(Fault::io(&e)),
                        }
                    }
                }
            }
        }
        // Answered before the request was sent in full: allowed, the rest is still owed.
        if !written && !progress.closed.get() {
            write.await.map_err(|e| Fault::io(&e))?;
        }
        Ok(())
    }

    /// Keeps an eye on an idle connection.
    async fn idle(&mut self, open: &mut Connection, pause: Duration) -> After {
        if pause.is_zero() {
            // Somebody else's turn, even when the answers never make us wait.
            tokio::task::yield_now().await;
            return After::Keep;
        }
        let fault = tokio::select! {
            biased;
            fault = open.wire.idle_watch(&mut open.inbox) => fault,
            _ = self.stop.wait_for(|stop| *stop) => return After::Keep,
            () = sleep(pause) => return After::Keep,
        };
        self.fail(open, fault, "", 0, 0);
        After::Broken
    }

    async fn idle_alone(&mut self, pause: Duration) {
        if !pause.is_zero() {
            tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn fail(&self, open: &Connection, fault: Fault, asked: &str, sent: u64, seen: u64) {
        let story = Story {
            local: &open.wire.local,
            requests: open.requests,
            last_server: &open.last_server,
        };
        self.record(fault, Some(&story), asked, sent, seen);
    }

    fn record(&self, fault: Fault, story: Option<&Story<'_>>, asked: &str, sent: u64, seen: u64) {
        let mut tally = lock(&self.tally);
        let failure = Failure {
            kind: fault.kind,
            detail: fault.detail,
            at: tally.start.elapsed(),
            phase: tally.phase_name().to_owned(),
            label: self.spec.label.clone(),
            client: self.index,
            connection: self.opened,
            local: story.map_or_else(String::new, |s| s.local.to_owned()),
            request: story.map_or(0, |s| s.requests),
            asked: asked.to_owned(),
            sent,
            seen,
            last_server: story.map_or_else(String::new, |s| s.last_server.to_owned()),
        };
        tally.failed(failure);
    }
}

/// The part of a connection that a failure tells.
struct Story<'a> {
    local: &'a str,
    requests: u64,
    last_server: &'a str,
}
