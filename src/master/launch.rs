//! Starts a successor: looks at the file on disk, lets it check the configuration (pre-flight),
//! executes it. All on one opened descriptor, so that what was checked is what runs.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

use super::store::{Found, Store, StoreError};
use crate::api::exit;
use crate::machine::Failure;
use crate::machine::trial::Name;
use crate::sys::channel::Channel;
use crate::sys::image::Image;
use crate::sys::process::{Exit, Process};
use crate::sys::runtime;
use crate::sys::signals;
use crate::sys::spawn::{self, CHANNEL_ENV, KEEPS_RELEASE_ENV, Output, Spawn};

/// What to start.
#[derive(Debug)]
pub struct Plan {
    /// Where the program is.
    pub store: Arc<Store>,
    /// The previous program, instead of what is at the path.
    pub back: bool,
    /// Builds that are not gone back to.
    pub refused: Vec<String>,
    /// The arguments for the pre-flight.
    pub check: Vec<OsString>,
    /// The arguments for the successor: ours.
    pub args: Vec<OsString>,
    /// Where we were started.
    pub cwd: PathBuf,
    /// What `ps` shows.
    pub arg0: String,
    /// Whether there is a notify socket to hand on.
    pub notify: bool,
    /// The application's release stays, whatever the link leads to.
    pub keeps_release: bool,
    /// For the pre-flight.
    pub timeout: Duration,
    /// Where to say what was at the path, as soon as it is known: the start may be given up while
    /// the pre-flight still runs.
    pub found: Arc<OnceLock<Found>>,
}

/// A successor's process exists.
#[derive(Debug)]
pub struct Launched {
    pub process: Process,
    pub channel: Channel,
    pub build_id: String,
}

/// Does it. Dropped in the middle, it leaves no process behind.
pub async fn launch(plan: Plan) -> Result<Box<Launched>, Failure> {
    let image = look(&plan).await?;
    let (process, channel) = start(&plan, &image)?;
    Ok(Box::new(Launched {
        process,
        channel,
        build_id: image.build_id().to_owned(),
    }))
}

/// What would be started: opened, checked, its pre-flight passed.
pub async fn look(plan: &Plan) -> Result<Image, Failure> {
    let (store, found) = (Arc::clone(&plan.store), Arc::clone(&plan.found));
    let (back, refused) = (plan.back, plan.refused.clone());
    // Reads and hashes a file: not on the thread that must answer everybody.
    let image =
        tokio::task::spawn_blocking(move || open(&store, back.then_some(&*refused), &found))
            .await
            .map_err(|e| Failure::new(format!("cannot look at the new program: {e}")))??;
    preflight(plan, &image).await?;
    Ok(image)
}

fn open(store: &Store, back: Option<&[String]>, found: &OnceLock<Found>) -> Result<Image, Failure> {
    let opened = match back {
        Some(refused) => Ok(store.previous(refused).map_err(|e| no_way_back(&e))?),
        None => store.open(),
    };
    let _ = found.set(Found::of(&opened));
    let image = opened.map_err(|e| Failure::new(e.to_string()))?;
    if store.build(Name::Good).is_none() && store.is_ours() {
        // What serves is the best there is: from here on it is on disk, whoever dies.
        if let Err(e) = store.commit() {
            tracing::warn!("the running program is not kept: {e}");
        }
    }
    Ok(image)
}

fn no_way_back(error: &StoreError) -> Failure {
    let exit = match error {
        StoreError::NoOld(_)
        | StoreError::OldIsRejected { .. }
        | StoreError::OldIsRunning { .. } => exit::REFUSED,
        _ => exit::FAILED,
    };
    Failure {
        exit,
        reason: error.to_string(),
    }
}

fn start(plan: &Plan, image: &Image) -> Result<(Process, Channel), Failure> {
    let (ours, theirs) =
        Channel::pair().map_err(|e| Failure::new(format!("cannot make a channel: {e}")))?;
    let mut spec = Spawn::new(image.as_fd(), plan.arg0.clone());
    spec.args.clone_from(&plan.args);
    spec.cwd = Some(plan.cwd.clone());
    spec.channel = Some((CHANNEL_ENV, theirs));
    spec.blocked = signals::BLOCKED_AT_EXEC;
    spec.keep_notify = plan.notify;
    let process = spawn::spawn(spec).map_err(|e| Failure::new(e.to_string()))?;
    Ok((process, ours))
}

/// Runs the new program's `check`.
async fn preflight(plan: &Plan, image: &Image) -> Result<(), Failure> {
    let path = image.path().display();
    let mut spec = Spawn::new(image.as_fd(), image.path().as_os_str());
    spec.args.clone_from(&plan.check);
    spec.cwd = Some(plan.cwd.clone());
    spec.output = Output::Piped;
    if plan.keeps_release {
        spec.env.push((KEEPS_RELEASE_ENV.into(), Some("1".into())));
    }
    // It says whether systemd will carry all listeners, so it must see that systemd is there.
    spec.keep_notify = plan.notify;
    spec.blocked = signals::BLOCKED_AT_EXEC;
    let process = spawn::spawn(spec).map_err(|e| Failure::new(e.to_string()))?;
    let mut guard = Guard(Some(process));
    let output = guard.process().take_output().map(hear);
    let ended = tokio::time::timeout(plan.timeout, guard.process().exited()).await;
    if ended.is_err() {
        return Err(Failure::new(format!(
            "pre-flight: `{path} check` did not end within {} (start_timeout)",
            humantime::format_duration(plan.timeout)
        )));
    }
    let ended = guard.process().reap();
    if ended.success() {
        return Ok(());
    }
    let said = match output {
        Some(said) => words(said).await,
        None => String::new(),
    };
    let code = match ended {
        Exit::Code(78) => exit::CONFIG,
        _ => exit::FAILED,
    };
    if let (true, Some(found)) = (is_bus_error(ended), plan.found.get()) {
        found.mark_broken();
    }
    let colon = if said.is_empty() { "" } else { ": " };
    Err(Failure {
        exit: code,
        reason: format!(
            "pre-flight: `{path} check` {ended}{}{colon}{said}",
            hint(ended)
        ),
    })
}

fn is_bus_error(ended: Exit) -> bool {
    matches!(ended, Exit::Signal(signal, _) if signal == Signal::SIGBUS as i32)
}

/// What need not be the program's fault.
fn hint(ended: Exit) -> &'static str {
    match ended {
        _ if is_bus_error(ended) => " (a part of the file cannot be read: is the disk full?)",
        Exit::Signal(signal, _) if signal == Signal::SIGKILL as i32 => {
            " (by whom? For want of memory the kernel does it: see `dmesg`)"
        }
        _ => "",
    }
}

/// What a process says, read while it runs: one that fills the pipe waits until somebody reads.
fn hear(output: OwnedFd) -> JoinSet<Vec<u8>> {
    let mut said = JoinSet::new();
    said.spawn(runtime::task(async move {
        let mut tail = Vec::new();
        let Ok(mut pipe) = pipe::Receiver::from_owned_fd(output) else {
            return tail;
        };
        let mut chunk = [0; MOST];
        while let Ok(n @ 1..) = pipe.read(&mut chunk).await {
            tail.extend_from_slice(&chunk[..n]);
            tail.drain(..tail.len().saturating_sub(MOST));
        }
        tail
    }));
    said
}

/// The end of it, once the process has ended. What it started may hold the pipe open.
async fn words(mut said: JoinSet<Vec<u8>>) -> String {
    let heard = tokio::time::timeout(REST, said.join_next()).await;
    let heard = heard.ok().flatten().and_then(Result::ok);
    String::from_utf8_lossy(&heard.unwrap_or_default())
        .trim()
        .to_owned()
}

/// So much of what a pre-flight said is told.
const MOST: usize = 4096;
/// For what is in the pipe when the process has ended.
const REST: Duration = Duration::from_secs(1);

/// Kills and reaps a process that nobody waits for any more. One that hangs in the kernel is waited for
/// by nobody who has something else to do.
struct Guard(Option<Process>);

impl Guard {
    fn process(&mut self) -> &mut Process {
        self.0.as_mut().expect("until it is dropped")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(mut process) = self.0.take() else {
            return;
        };
        if process.peek().is_none() {
            let _ = process.signal(Signal::SIGKILL);
            tokio::task::spawn_blocking(move || process.reap());
        } else {
            process.reap();
        }
    }
}
