//! One instance of the application: started, asked whether it is ready, started again when it ends,
//! and ended.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::down::Down;
use super::group::Leaders;
use super::memory::{Shot, exceeded};
use super::output::{self, Tail};
use super::place::Place;
use super::probe;
use crate::config::{App, Listens, Size, read_env_file};
use crate::machine::budget::Budget;
use crate::machine::hosting::{Hosting, Restart};
use crate::sys::memory::goes_before_us;
use crate::sys::process::{Exit, Process};
use crate::sys::spawn::{self, FIRST_FD_ENV, Output, Spawn};

/// An instance to be.
pub(super) struct Instance {
    pub(super) hosting: Arc<Hosting>,
    pub(super) number: usize,
    pub(super) place: Place,
    /// How it ended last.
    pub(super) ended_politely: bool,
    /// Of the application's `env_files`.
    pub(super) variables: Arc<[(String, String)]>,
    pub(super) leaders: Leaders,
    pub(super) down: Down,
    pub(super) words: mpsc::Sender<(usize, Word)>,
    pub(super) stops: watch::Receiver<bool>,
    /// When every process of the unit was told to leave, this one's too.
    pub(super) ending: watch::Receiver<Option<Instant>>,
}

/// What the `env_files` of an application say now. A generation keeps it: a file that is edited for the
/// next one changes nothing for an instance that is started again.
pub(super) fn variables(app: &App) -> Result<Arc<[(String, String)]>, String> {
    let mut all = Vec::new();
    for file in &app.env_files {
        let of_file = read_env_file(file)
            .map_err(|e| format!("cannot use the variables of {}: {e}", file.display()))?;
        all.extend(of_file);
    }
    Ok(all.into())
}

/// What it says.
pub(super) enum Word {
    Started(u32),
    /// Why, unless it was stopped.
    Ended(Option<(Restart, String)>),
    Ready,
    /// It runs, and why it is taken for one that hangs.
    Silent(String),
    /// It does not hang any more.
    Answers,
    /// It is started again.
    Restarts(Restart),
    Failed(String),
}

/// A process of it.
struct Running {
    process: Process,
    reader: Option<tokio::task::JoinHandle<()>>,
    tail: Tail,
}

/// Why it does not run any more.
enum End {
    Stopped,
    Broken(Restart, String),
}

/// Ends within the window that are forgiven before it is said.
const FORGIVEN: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);

/// A program that has served for so long, and ends with exit code 0, means to: it renews its process after
/// so many requests, or so much time.
const SERVED: Duration = Duration::from_secs(10);

/// Between two questions whether it is ready still, and for the answer.
const STILL_EVERY: Duration = Duration::from_secs(2);
const STILL_PATIENCE: Duration = Duration::from_secs(3);
/// So many in a row are not answered by one that hangs; by one with much to do, one may be.
const MISSES: u32 = 2;

/// Between two questions whether it is ready.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

impl Instance {
    /// Until it is stopped, or did not get ready the first time.
    pub(super) async fn run(mut self) {
        let mut budget = Budget::new(FORGIVEN, WINDOW);
        let mut was_ready = false;
        loop {
            let (reason, why) = match self.once(&mut was_ready).await {
                End::Stopped => return,
                End::Broken(reason, why) => (reason, why),
            };
            if !was_ready {
                return self.say(Word::Failed(why)).await;
            }
            let reason = if self.was_told().await {
                tracing::info!("{why}; every process of the service was told to leave");
                let stopped = self.stops.wait_for(|stop| *stop);
                if timeout(LEAVES, stopped).await.is_ok() {
                    return;
                }
                tracing::error!("{}: the service is still there", self.label());
                Restart::OnPurpose
            } else {
                if reason == Restart::OnPurpose {
                    tracing::info!("{why}: it is started again");
                } else {
                    tracing::error!("{why}");
                }
                reason
            };
            let (pause, spent) = match reason {
                Restart::OnPurpose => (Duration::ZERO, false),
                _ => budget.failed(std::time::Instant::now()),
            };
            if spent {
                self.say(Word::Failed(format!("the application keeps ending: {why}")))
                    .await;
            } else if reason == Restart::NotReady {
                // A few of these take longer than the window.
                self.say(Word::Failed(format!(
                    "the application does not come back: {why}"
                )))
                .await;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.stops.wait_for(|stop| *stop) => return,
            }
            self.say(Word::Restarts(reason)).await;
        }
    }

    /// Whether it ended because everybody was told to: it may learn that a moment before we do.
    async fn was_told(&mut self) -> bool {
        let all_end = self.ending.wait_for(|told| told.is_some_and(lately));
        self.ended_politely && timeout(TOLD, all_end).await.is_ok_and(|told| told.is_ok())
    }

    /// One life of it.
    async fn once(&mut self, was_ready: &mut bool) -> End {
        let mut running = match self.start() {
            Ok(running) => running,
            Err(why) => {
                self.down.has_ended(self.number, false);
                return End::Broken(Restart::NotReady, why);
            }
        };
        let mut shot = Shot::before();
        self.say(Word::Started(running.process.pid())).await;
        let limit = Duration::from_millis(self.hosting.ready_within_ms);
        let mut stops = self.stops.clone();
        let mut why = tokio::select! {
            biased;
            _ = stops.wait_for(|stop| *stop) => Some(Ended::Stopped),
            _ = running.process.exited() => Some(Ended::ByItself),
            ready = self.ready(Instant::now() + limit) => ready.err().map(Ended::NotReady),
        };
        let answered = why.is_none();
        let since = Instant::now();
        if answered {
            *was_ready = true;
            self.place.remember();
            self.say(Word::Ready).await;
            self.down.answers(self.number);
            why = tokio::select! {
                biased;
                _ = stops.wait_for(|stop| *stop) => Some(Ended::Stopped),
                _ = running.process.exited() => Some(Ended::ByItself),
                held = self.holds_too_much(running.process.pid()) => Some(Ended::TooMuch(held)),
                never = shot.watch() => match never {},
                never = self.is_still_ready() => match never {},
            };
        }
        let patience = match why {
            Some(Ended::Stopped | Ended::TooMuch(_)) => self.hosting.app.stop_timeout,
            _ => Duration::ZERO,
        };
        let served = since.elapsed();
        self.down.has_ended(self.number, answered);
        self.place.remember();
        let exit = self.end(&mut running, patience).await;
        // As programs end that were asked to: with 0, of the signal, or as shells tell of it.
        self.ended_politely = matches!(exit, Exit::Code(0 | 143) | Exit::Signal(15, _));
        let (label, said) = (self.label(), running.tail.said());
        let end = match why {
            None | Some(Ended::Stopped) => End::Stopped,
            Some(Ended::NotReady(why)) => {
                End::Broken(Restart::NotReady, format!("{label} {why}{said}"))
            }
            Some(Ended::TooMuch(held)) => {
                let limit = self.hosting.app.memory.unwrap_or(held);
                let held = mib(held);
                let why = format!("{label} held {held} MiB, [app] memory is {limit}");
                End::Broken(Restart::Memory, why)
            }
            Some(Ended::ByItself) if exit.success() && answered && served >= SERVED => {
                let served = humantime::format_duration(Duration::from_secs(served.as_secs()));
                let why = format!("{label} ended by itself, with exit code 0, after {served}");
                End::Broken(Restart::OnPurpose, why)
            }
            Some(Ended::ByItself) if exit.success() => {
                let why =
                    "ended by itself (an application stays in the foreground: no daemon mode)";
                End::Broken(Restart::Ended, format!("{label} {why}{said}"))
            }
            Some(Ended::ByItself) if matches!(exit, Exit::Signal(9, _)) && shot.was_fired() => {
                let why = "the kernel ran out of memory, or a limit such as MemoryMax= was reached";
                End::Broken(
                    Restart::OutOfMemory,
                    format!("{label} {exit} ({why}){said}"),
                )
            }
            Some(Ended::ByItself) => End::Broken(Restart::Crash, format!("{label} {exit}{said}")),
        };
        self.say(Word::Ended(match &end {
            End::Stopped => None,
            End::Broken(reason, why) => {
                let why = why.split(output::LAST_LINES).next().unwrap_or_default();
                Some((*reason, why.to_owned()))
            }
        }))
        .await;
        end
    }

    fn label(&self) -> String {
        match self.hosting.app.instances {
            1 => "the application".into(),
            _ => format!("instance {} of the application", self.number),
        }
    }

    fn start(&mut self) -> Result<Running, String> {
        let listener = self.place.prepare();
        let app = &self.hosting.app;
        let words: Vec<String> = app.command.iter().map(|w| self.place.fill_in(w)).collect();
        let environment = self.environment();
        let cannot = |e: &dyn std::fmt::Display| format!("cannot start {}: {e}", words[0]);
        let listener = listener.map_err(|e| cannot(&e))?;
        // The shell finds the program in PATH, runs scripts, and knows its own number, which becomes
        // the program's: sd_listen_fds(3) wants it in LISTEN_PID.
        let shell = File::open("/bin/sh").map_err(|e| cannot(&e))?;
        let script = match listener {
            Some(_) => "LISTEN_PID=$$; export LISTEN_PID; exec \"$@\"",
            None => "exec \"$@\"",
        };
        let mut spec = Spawn::new(shell.as_fd(), "sh");
        spec.args = ["-c", script, &self.hosting.name]
            .map(OsString::from)
            .into_iter()
            .chain(words.iter().map(OsString::from))
            .collect();
        spec.cwd = Some(self.hosting.release.clone());
        spec.channel = listener.map(|fd| (FIRST_FD_ENV, fd));
        spec.env = environment;
        spec.new_session = true;
        spec.output = Output::Piped;
        let mut process = spawn::spawn(spec).map_err(|e| cannot(&e))?;
        self.leaders.add(process.pid());
        if let Err(e) = goes_before_us(process.pid()) {
            tracing::debug!("the kernel may end us before the application: {e}");
        }
        let tail = Tail::default();
        let label = match app.instances {
            1 => "app".into(),
            _ => format!("app {}", self.number),
        };
        let output = process.take_output();
        let reader = output.and_then(|fd| output::read(fd, label, tail.clone()).ok());
        Ok(Running {
            process,
            reader,
            tail,
        })
    }

    /// What it gets beside what we were given.
    fn environment(&self) -> Vec<(OsString, Option<OsString>)> {
        let mut all: Vec<(OsString, Option<OsString>)> =
            OURS.iter().map(|name| (name.into(), None)).collect();
        let mut set = |name: &str, value: OsString| all.push((name.into(), Some(value)));
        for (name, value) in &*self.variables {
            set(name, value.into());
        }
        set("PWD", self.hosting.release.clone().into());
        set(
            "HANDOVER_GENERATION",
            self.hosting.generation.to_string().into(),
        );
        set("HANDOVER_PHASE", self.hosting.phase_file().into());
        set("HANDOVER_INSTANCE", self.number.to_string().into());
        match self.hosting.app.listens() {
            Listens::Port => set("PORT", self.place.fill_in("{port}").into()),
            Listens::Fd => set("LISTEN_FDS", "1".into()),
            Listens::Socket => {}
        }
        all
    }

    /// Waits until it can serve, and warms it. The error ends a sentence about it.
    async fn ready(&self, end: Instant) -> Result<(), String> {
        self.answers(end).await?;
        if self.warm(end).await? {
            // It hung up on us: it may be ending, which is seen a moment later.
            self.answers(end).await?;
        }
        Ok(())
    }

    /// Until it answers. The error ends a sentence about it.
    async fn answers(&self, end: Instant) -> Result<(), String> {
        let app = &self.hosting.app;
        // To accept is no answer: gunicorn accepts before it has imported the application.
        let path = app.ready.as_deref().unwrap_or("/");
        let upstream = &self.place.upstream;
        let mut pause = FIRST_PAUSE;
        let mut patience = probe::PATIENCE;
        loop {
            let asked = tokio::select! {
                biased;
                asked = probe::ask(upstream, path, patience) => asked,
                () = sleep_until(end) => Err(std::io::ErrorKind::TimedOut.into()),
            };
            let last_timed_out =
                matches!(&asked, Err(e) if e.kind() == std::io::ErrorKind::TimedOut);
            let last = match &asked {
                // Nobody promised what `/` answers.
                Ok(status) if app.ready.is_none() || status.as_u16() < 500 => return Ok(()),
                // Not yet, it says itself.
                Ok(status) if *status == http::StatusCode::SERVICE_UNAVAILABLE => {
                    format!("GET {path} is answered {status}")
                }
                Ok(status) => {
                    return Err(format!("is not ready: GET {path} is answered {status}"));
                }
                Err(e) => format!("GET {path} at {upstream}: {e}"),
            };
            if Instant::now() + pause >= end {
                let within = Duration::from_millis(self.hosting.ready_within_ms);
                let within = humantime::format_duration(within);
                let hint = match (&asked, app.listens()) {
                    (Err(e), Listens::Port)
                        if e.kind() == std::io::ErrorKind::ConnectionRefused =>
                    {
                        " (it must listen on the port that it is told, at 127.0.0.1)"
                    }
                    _ => "",
                };
                return Err(format!(
                    "was not ready within {within} (nine tenths of [upgrade] start_timeout): {last}{hint}"
                ));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if last_timed_out {
                // A first page may take long to make; a question that got lost is asked again.
                patience *= 2;
            }
        }
    }

    /// Asks again and again, where there is a path for it, and says when that changes. One that hangs is
    /// not ended: it may have much to do.
    async fn is_still_ready(&self) -> Infallible {
        let Some(path) = &self.hosting.app.ready else {
            return std::future::pending().await;
        };
        let mut missed: u32 = 0;
        let mut asked = Instant::now();
        loop {
            // What nobody answers lies in its queue: it is asked less and less often.
            let pause = STILL_EVERY * 2_u32.pow(missed.saturating_sub(MISSES).min(4));
            // One that hangs has had its time; one that refuses at once may be about to end.
            let had = if missed == 1 {
                asked.elapsed()
            } else {
                Duration::ZERO
            };
            sleep(pause.saturating_sub(had)).await;
            asked = Instant::now();
            let why = match probe::ask(&self.place.upstream, path, STILL_PATIENCE).await {
                Ok(status) if !status.is_server_error() => {
                    if missed >= MISSES {
                        tracing::info!("{} answers GET {path} again", self.label());
                        self.down.answers(self.number);
                        self.say(Word::Answers).await;
                    }
                    missed = 0;
                    continue;
                }
                // It was told to leave, as everybody was.
                _ if self.ending.borrow().is_some_and(lately) => continue,
                Ok(status) => format!("GET {path} is answered {status}"),
                Err(e) => format!("GET {path}: {e}"),
            };
            missed += 1;
            if missed == MISSES {
                let why = format!("{} is not ready any more: {why}", self.label());
                tracing::warn!("{why}");
                self.down.has_ended(self.number, false);
                self.say(Word::Silent(why)).await;
            }
        }
    }

    /// Asks what it is to be warmed by; whether it hung up on a request.
    async fn warm(&self, end: Instant) -> Result<bool, String> {
        let upstream = &self.place.upstream;
        let mut hung_up = false;
        for path in &self.hosting.app.warmup {
            let warmed = timeout(
                end.saturating_duration_since(Instant::now()),
                probe::ask(upstream, path, UNLIMITED),
            );
            match warmed.await {
                Ok(Ok(status)) if status.is_server_error() => {
                    tracing::warn!("warming {path} was answered {status}");
                }
                Ok(Ok(_)) => {}
                Ok(Err(e)) => {
                    tracing::warn!("warming {path}: {e}");
                    hung_up = true;
                }
                Err(_) => return Err(format!("was not warm in time: {path} is not answered")),
            }
        }
        Ok(hung_up)
    }

    /// When it is to be ended for its memory: never, without a limit.
    async fn holds_too_much(&self, leader: u32) -> Size {
        let Some(limit) = self.hosting.app.memory else {
            return std::future::pending().await;
        };
        let mut waits_for = None;
        loop {
            let held = exceeded(leader, self.alone(), &self.leaders, limit).await;
            let Err(other) = self.down.may_end(self.number) else {
                return held;
            };
            if waits_for.replace(other) != Some(other) {
                tracing::warn!(
                    "{} holds {} MiB, [app] memory is {limit}: it is started again when instance {other} \
                     answers",
                    self.label(),
                    mib(held)
                );
            }
        }
    }

    /// Asks it to leave, kills what does not, and reaps it.
    async fn end(&self, running: &mut Running, patience: Duration) -> Exit {
        let process = &mut running.process;
        if process.peek().is_none() && !patience.is_zero() {
            // The first process alone: it knows how to end those that it started.
            let signal = self.hosting.app.stop_signal();
            if let Err(e) = process.signal(signal) {
                tracing::error!("cannot send {signal} to {}: {e}", self.label());
            }
            if timeout(patience, process.exited()).await.is_err() {
                tracing::warn!(
                    "{} did not end within {} (stop_timeout): it is killed",
                    self.label(),
                    humantime::format_duration(patience)
                );
            }
        }
        if let Err(e) = process.kill_group() {
            tracing::error!("cannot kill {}: {e}", self.label());
        }
        let _ = process.exited().await;
        let exit = process.reap();
        self.leaders.remove(process.pid());
        self.leaders.kill_leftovers(self.alone()).await;
        if let Some(reader) = running.reader.take() {
            output::finish(reader).await;
        }
        exit
    }

    /// Our number, where there are others.
    fn alone(&self) -> Option<usize> {
        (self.hosting.app.instances > 1).then_some(self.number)
    }

    async fn say(&self, word: Word) {
        let _ = self.words.send((self.number, word)).await;
    }
}

/// Whether everybody who was told to leave then may still be at it.
fn lately(told: Instant) -> bool {
    told.elapsed() < LEAVES
}

/// Rounded up: what is over a limit is not shown as the limit.
fn mib(size: Size) -> u64 {
    size.0.div_ceil(1 << 20)
}

enum Ended {
    Stopped,
    ByItself,
    NotReady(String),
    /// More than `[app] memory`.
    TooMuch(Size),
}

/// Another limit is the one that counts.
const UNLIMITED: Duration = Duration::from_secs(86_400);

/// For the word that everybody has to leave to come to us, too.
const TOLD: Duration = Duration::from_millis(200);
/// Who was told to leave with everybody is not needed any more by then: else it was told alone.
const LEAVES: Duration = Duration::from_secs(10);

/// Variables that are about us. The state directory stays: the application may write there.
const OURS: &[&str] = &[
    "HANDOVER_UNIT_REV",
    "JOURNAL_STREAM",
    "PORT",
    "CREDENTIALS_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "LOGS_DIRECTORY",
    "INVOCATION_ID",
];
