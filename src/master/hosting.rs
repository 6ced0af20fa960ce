//! The hosted application of this master: its supervisor is started before the workers are, or comes
//! from the predecessor when both run the same release; what a reload needs stands beside it until
//! its workers serve.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::input::Input;
use super::line::{Heard, Line};
use super::workers::Pids;
use crate::api;
use crate::config::{App, Config, Hosted, Parked, Upstream};
use crate::machine::budget::Budget;
use crate::machine::hosting::{FromSupervisor, Hosting, Instances, RunningApp, ToSupervisor};
use crate::machine::message::Identity;
use crate::sys::channel::Channel;
use crate::sys::image::Image;
use crate::sys::process::{Other, Process};
use crate::sys::release::Release;
use crate::sys::secrets;
use crate::sys::spawn::{self, SUPERVISOR_ENV, Spawn};

/// The applications of one master.
#[derive(Debug)]
pub(super) struct Applications {
    post: mpsc::Sender<Input>,
    image: Arc<Image>,
    name: String,
    generation: u64,
    /// Processes of the service, which give no orders.
    pids: Pids,
    /// The directory of their sockets.
    sockets: PathBuf,
    /// What the workers are in front of, or will be.
    current: Option<Application>,
    /// What the workers of a reload will be in front of.
    next: Option<Application>,
    /// This generation's release, which it keeps whatever the link leads to by then.
    ours: Option<Ours>,
    /// Whether this master has the service.
    serves: bool,
    /// Where the workers look for one whose supervisor died.
    at: Vec<Upstream>,
    started: u64,
    budget: Budget,
    /// Supervisors of ours that nobody here needs any more.
    leaving: Vec<Process>,
}

/// Where the link of an application led when this generation began.
#[derive(Debug)]
struct Ours {
    directory: PathBuf,
    release: PathBuf,
}

/// One application, held.
#[derive(Debug)]
struct Application {
    number: u64,
    app: App,
    release: Release,
    line: Line<ToSupervisor>,
    hold: Hold,
    supervisor: Supervisor,
    instances: Instances,
    /// Once it is ready.
    upstreams: Option<Vec<Upstream>>,
}

#[derive(Debug)]
enum Supervisor {
    Ours(Process),
    /// Started by a master before us.
    Another(u32),
}

/// What a worker gets: where the application listens, and an end that keeps it alive.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub(super) hosted: Hosted,
    end: Arc<OwnedFd>,
}

/// What an application did, as far as the driver is concerned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// The one that the workers wait for is ready.
    Ready,
    /// It is not, and will not be by itself.
    NotReady(String),
    /// The one that serves fails; it is started again all the same.
    Failing(String),
    /// One that a generation before us started is gone. It is started again, and is no verdict on this
    /// generation: going back would help nothing.
    Gone,
    /// The one that a reload waits for is ready.
    NextReady,
    /// It is not.
    NextNotReady(String),
}

const SERVES: ToSupervisor = ToSupervisor::Serves { serves: true };

/// Starts that may fail within the window before the pauses are long.
const FORGIVEN: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);

/// A supervisor that was told to leave needs a moment longer than its application.
const MARGIN: Duration = Duration::from_secs(1);

impl Hold {
    /// For one worker.
    pub(super) fn end(&self) -> std::io::Result<OwnedFd> {
        self.end.try_clone()
    }
}

impl Applications {
    pub(super) fn new(
        post: mpsc::Sender<Input>,
        image: Arc<Image>,
        name: &str,
        me: &Identity,
        runtime: &Path,
        pids: Pids,
    ) -> Self {
        Self {
            post,
            image,
            name: name.into(),
            generation: me.generation,
            pids,
            sockets: runtime.join("app"),
            current: None,
            next: None,
            ours: None,
            serves: false,
            at: Vec::new(),
            started: 0,
            budget: Budget::new(FORGIVEN, WINDOW),
            leaving: Vec::new(),
        }
    }

    /// The release that is started, whatever the link leads to.
    pub(super) fn keep_to(&mut self, directory: PathBuf, release: PathBuf) {
        self.ours = Some(Ours { directory, release });
    }

    /// What the workers serve in front of, when there is nothing to wait for: `Ok(None)` without an
    /// application.
    pub(super) fn hold(&self, config: &Config) -> Result<Option<Arc<Hold>>, NotReady> {
        match (&config.app, &self.current) {
            (None, _) => Ok(None),
            (Some(_), Some(current)) => current.hold().map(Some).ok_or(NotReady),
            (Some(_), None) => Err(NotReady),
        }
    }

    /// As [`hold`](Self::hold), of the configuration that a reload brings.
    pub(super) fn hold_next(&self, config: &Config) -> Result<Option<Arc<Hold>>, NotReady> {
        match &config.app {
            None => Ok(None),
            Some(app) => [&self.next, &self.current]
                .into_iter()
                .flatten()
                .find(|one| one.app == *app)
                .and_then(Application::hold)
                .map(Some)
                .ok_or(NotReady),
        }
    }

    /// Starts what the workers wait for, unless that is under way.
    pub(super) fn start(&mut self, config: &Config) -> Result<(), String> {
        let Some(app) = &config.app else {
            return Ok(());
        };
        if self.current.is_none() {
            let at = self.at.clone();
            let launched = self.launch(app, config, at)?;
            self.serve(launched);
        }
        Ok(())
    }

    /// Starts what the workers of a reload wait for.
    pub(super) fn start_next(&mut self, config: &Config) -> Result<(), String> {
        if let Some(app) = &config.app {
            self.next = Some(self.launch(app, config, Vec::new())?);
        }
        Ok(())
    }

    /// The workers of a reload serve: what the ones before are in front of lives as long as they do.
    pub(super) fn adopt_next(&mut self, config: &Config) {
        let same = match (&config.app, &self.current) {
            (Some(app), Some(current)) => current.app == *app,
            (app, current) => app.is_none() && current.is_none(),
        };
        if !same {
            let before = self.current.take();
            self.at.clear();
            if let Some(next) = self.next.take() {
                self.serve(next);
            }
            self.let_go_of(before);
        }
    }

    fn serve(&mut self, application: Application) {
        self.ours = Some(Ours {
            directory: application.app.directory.clone(),
            release: application.release.path.clone(),
        });
        if self.serves {
            application.line.say(SERVES, Vec::new());
        }
        self.current = Some(application);
    }

    /// Whether this master has the service: its application is told.
    pub(super) fn tell(&mut self, serves: bool) {
        if std::mem::replace(&mut self.serves, serves) != serves {
            if let Some(current) = &self.current {
                current
                    .line
                    .say(ToSupervisor::Serves { serves }, Vec::new());
            }
        }
    }

    /// A reload was given up.
    pub(super) fn cancel_next(&mut self) {
        let next = self.next.take();
        self.let_go_of(next);
    }

    /// Our last worker has gone: `parked = "stopped"` frees the application's memory.
    pub(super) fn rest(&mut self) {
        let current = self.current.as_ref();
        if current.is_some_and(|one| one.app.parked == Parked::Stopped) {
            self.stop();
        }
    }

    /// It is stopped once the last worker has left it.
    pub(super) fn stop(&mut self) {
        self.at.clear();
        let current = self.current.take();
        self.let_go_of(current);
    }

    fn let_go_of(&mut self, application: Option<Application>) {
        if let Some(Application {
            supervisor: Supervisor::Ours(process),
            ..
        }) = application
        {
            self.leaving.push(process);
        }
    }

    /// This master stops the service: waits until the applications have left.
    pub(super) async fn leave(&mut self) {
        let limit = self.current.iter().map(|one| one.app.stop_timeout).max();
        let another = match self.current.as_ref().map(|one| &one.supervisor) {
            Some(Supervisor::Another(pid)) => Other::open(*pid).ok().flatten(),
            _ => None,
        };
        self.stop();
        self.cancel_next();
        let gone = async {
            if let Some(another) = another {
                let _ = another.gone().await;
            }
            for process in &mut self.leaving {
                let _ = process.exited().await;
                process.reap();
            }
        };
        let _ = tokio::time::timeout(limit.unwrap_or_default() + MARGIN, gone).await;
    }

    /// Reaps supervisors that have left, and asks the others how their applications are.
    pub(super) fn tick(&mut self) {
        self.leaving.retain_mut(|process| {
            let gone = process.peek().is_some();
            if gone {
                process.reap();
            }
            !gone
        });
        for one in self.current.iter().chain(&self.next) {
            one.line.say(ToSupervisor::Report, Vec::new());
        }
    }

    /// Where this generation runs it.
    fn release_of<'a>(&'a self, app: &'a App) -> &'a Path {
        match &self.ours {
            Some(ours) if ours.directory == app.directory => &ours.release,
            _ => &app.directory,
        }
    }

    fn launch(
        &mut self,
        app: &App,
        config: &Config,
        at: Vec<Upstream>,
    ) -> Result<Application, String> {
        let directory = self.release_of(app);
        let release = Release::of(directory, app).map_err(|e| {
            format!(
                "cannot start an application in {}: {e}",
                directory.display()
            )
        })?;
        std::fs::create_dir_all(&self.sockets)
            .and_then(|()| {
                let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                std::fs::set_permissions(&self.sockets, private)
            })
            .map_err(|e| format!("cannot use {}: {e}", self.sockets.display()))?;
        let cannot = |e: &dyn std::fmt::Display| format!("cannot supervise an application: {e}");
        let (ours, theirs) = Channel::pair().map_err(|e| cannot(&e))?;
        let end = ours.as_fd().try_clone_to_owned().map_err(|e| cannot(&e))?;
        let arg0 = format!("{}: application g{}", self.name, self.generation);
        let word = secrets::word().map_err(|e| cannot(&e))?;
        let mut spec = Spawn::new(self.image.as_fd(), arg0);
        spec.channel = Some((SUPERVISOR_ENV, theirs));
        let process = spawn::spawn(spec).map_err(|e| cannot(&e))?;
        self.lock_pids().insert(process.pid());
        self.started += 1;
        tracing::info!("the application starts in {}", release.path.display());
        // Before the predecessor's patience, or nobody would learn why.
        let ready_within = config.upgrade.start_timeout.mul_f32(0.9);
        let hosting = Hosting {
            name: self.name.clone(),
            generation: self.generation,
            app: app.clone(),
            release: release.path.clone(),
            sockets: self.sockets.clone(),
            // Generations and counts begin anew with a cold start, while what a master that was killed
            // has left may still listen.
            prefix: format!("g{}-{}-{word}", self.generation, self.started),
            at,
            ready_within_ms: u64::try_from(ready_within.as_millis()).unwrap_or(u64::MAX),
            log_level: config.log.level.clone(),
        };
        let path = release.path.clone();
        let line = self.listen(ours);
        line.say(ToSupervisor::Start(Box::new(hosting)), Vec::new());
        Ok(Application {
            number: self.started,
            app: app.clone(),
            release,
            line,
            hold: Hold {
                hosted: Hosted {
                    release: path,
                    upstreams: Vec::new(),
                },
                end: Arc::new(end),
            },
            supervisor: Supervisor::Ours(process),
            instances: Instances::default(),
            upstreams: None,
        })
    }

    fn listen(&self, channel: Channel) -> Line<ToSupervisor> {
        let (number, post) = (self.started, self.post.clone());
        Line::new(channel, move |heard| {
            let post = post.clone();
            async move {
                let _ = post.send(Input::Application(number, heard)).await;
            }
        })
    }

    /// The release that runs, or will.
    pub(super) fn release(&self) -> Option<&Release> {
        self.current.as_ref().map(|one| &one.release)
    }

    /// How it was configured, and its release.
    pub(super) fn running(&self) -> Option<(&App, &Release)> {
        self.current.as_ref().map(|one| (&one.app, &one.release))
    }

    /// What a new generation would run, when it is another release than the one that runs.
    pub(super) fn other_release(&self) -> Option<Release> {
        let current = self.current.as_ref()?;
        let now = Release::of(&current.app.directory, &current.app).ok()?;
        (now != current.release).then_some(now)
    }

    /// For `status`.
    pub(super) fn report(&self) -> Option<api::App> {
        let one = self.current.as_ref()?;
        Some(api::App {
            release: one.release.path.clone(),
            ready: one.upstreams.is_some() && one.instances.ready != Some(0),
            answering: one.instances.ready,
            ended: one.instances.ended.clone(),
            pids: one.instances.pids.clone(),
            restarts: one.instances.restarts,
            private_kib: one.instances.private_kib,
        })
    }

    /// For a successor: what runs, and an end that holds it.
    pub(super) fn share(&self) -> Option<(RunningApp, OwnedFd)> {
        let current = self.current.as_ref()?;
        let upstreams = current.upstreams.clone()?;
        let (ours, theirs) = Channel::pair()
            .inspect_err(|e| tracing::warn!("the application cannot be handed over: {e}"))
            .ok()?;
        let ours = ours.as_fd().try_clone_to_owned().ok()?;
        current.line.say(ToSupervisor::Share, vec![theirs]);
        let running = RunningApp {
            config: serde_json::to_value(&current.app).unwrap_or_default(),
            release: current.release.path.clone(),
            identity: current.release.identity.clone(),
            upstreams,
            supervisor: current.supervisor.pid(),
        };
        Some((running, ours))
    }

    /// Takes over what the predecessor runs, if it is what we would start. Else it stays its own.
    pub(super) fn adopt(&mut self, config: &Config, running: RunningApp, end: OwnedFd) {
        let Some(app) = &config.app else { return };
        let ours = Release::of(self.release_of(app), app).is_ok_and(|release| {
            release.path == running.release && release.identity == running.identity
        });
        if !ours || !is_same_process(running.config, app) {
            return;
        }
        let taken = end.try_clone().and_then(|copy| {
            let channel = Channel::from_fd(end)?;
            Ok((copy, channel))
        });
        let (copy, channel) = match taken {
            Ok(taken) => taken,
            Err(e) => return tracing::warn!("the application is started anew: {e}"),
        };
        tracing::info!(
            "the application in {} goes on: this generation has the same release",
            running.release.display()
        );
        self.started += 1;
        self.lock_pids().insert(running.supervisor);
        let path = running.release.clone();
        let adopted = Application {
            number: self.started,
            app: app.clone(),
            release: Release {
                path: running.release,
                identity: running.identity,
            },
            line: self.listen(channel),
            hold: Hold {
                hosted: Hosted {
                    release: path,
                    upstreams: running.upstreams.clone(),
                },
                end: Arc::new(copy),
            },
            supervisor: Supervisor::Another(running.supervisor),
            instances: Instances::default(),
            upstreams: Some(running.upstreams),
        };
        self.serve(adopted);
    }

    /// What a supervisor said, or that it has gone.
    pub(super) fn heard(&mut self, number: u64, heard: Heard) -> Option<Happened> {
        let is = |one: &Option<Application>| one.as_ref().is_some_and(|one| one.number == number);
        let next = is(&self.next);
        if !next && !is(&self.current) {
            return None;
        }
        let word = match heard {
            Heard::Message(received) => match received.decode::<FromSupervisor>() {
                Ok(word) => word,
                Err(e) => {
                    tracing::error!("cannot understand the application's supervisor: {e}");
                    return None;
                }
            },
            Heard::Closed | Heard::Broken(_) => return self.gone(next),
        };
        let slot = if next {
            &mut self.next
        } else {
            &mut self.current
        };
        let one = slot.as_mut()?;
        match word {
            FromSupervisor::Ready { upstreams } => {
                let first = one.upstreams.is_none();
                one.hold.hosted.upstreams.clone_from(&upstreams);
                one.upstreams = Some(upstreams);
                // What it wrote into its directory while it started is no other release.
                one.release.look_again(&one.app);
                let ready = if next {
                    Happened::NextReady
                } else {
                    Happened::Ready
                };
                first.then_some(ready)
            }
            FromSupervisor::Failed { reason } if one.upstreams.is_some() => match one.supervisor {
                Supervisor::Ours(_) => Some(Happened::Failing(reason)),
                Supervisor::Another(_) => {
                    tracing::error!("{reason}");
                    None
                }
            },
            FromSupervisor::Failed { reason } if next => Some(Happened::NextNotReady(reason)),
            FromSupervisor::Failed { reason } => {
                // The next try listens where the workers look for it.
                let failed = self.current.take();
                self.let_go_of(failed);
                Some(Happened::NotReady(reason))
            }
            FromSupervisor::Report(instances) => {
                one.instances = instances;
                None
            }
            FromSupervisor::Unknown => None,
        }
    }

    /// Its supervisor ended, with us still holding it.
    fn gone(&mut self, next: bool) -> Option<Happened> {
        let one = if next {
            self.next.take()
        } else {
            self.current.take()
        }?;
        let was_ready = one.upstreams.is_some();
        for pid in &one.instances.pids {
            // Nobody would end it now. Its number was told by its living supervisor a moment ago.
            if let Ok(Some(leader)) = Other::open(*pid) {
                let _ = leader.kill_group();
            }
        }
        let why = format!(
            "the supervisor of the application (process {}) is gone",
            one.supervisor.pid()
        );
        tracing::error!("{why}");
        self.lock_pids().remove(&one.supervisor.pid());
        if let (false, Some(upstreams)) = (next, &one.upstreams) {
            self.at.clone_from(upstreams);
        }
        let ours = matches!(one.supervisor, Supervisor::Ours(_));
        self.let_go_of(Some(one));
        Some(match (next, was_ready) {
            (true, _) => Happened::NextNotReady(why),
            (false, true) if ours => Happened::Failing(why),
            (false, true) => Happened::Gone,
            (false, false) => Happened::NotReady(why),
        })
    }

    fn lock_pids(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is started once more after a pause.
    pub(super) fn start_soon(&mut self) {
        let (pause, post) = (self.budget.failed(Instant::now()).0, self.post.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = post.send(Input::StartApplication).await;
        });
    }
}

/// Whether what a predecessor started is what we would start. Read with our defaults: what another
/// build does not know yet is no difference; and what only concerns its front, or when it is stopped
/// or removed, asks for no new process.
fn is_same_process(theirs: serde_json::Value, ours: &App) -> bool {
    let process = |app: &App| App {
        parked: Parked::default(),
        keep: 0,
        connect_timeout: Duration::ZERO,
        answer_timeout: Duration::ZERO,
        stall_timeout: Duration::ZERO,
        tunnel_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        warmup: Vec::new(),
        ..app.clone()
    };
    let theirs = serde_json::from_value::<App>(theirs);
    theirs.is_ok_and(|theirs| process(&theirs) == process(ours))
}

impl Application {
    fn hold(&self) -> Option<Arc<Hold>> {
        self.upstreams
            .is_some()
            .then(|| Arc::new(self.hold.clone()))
    }
}

impl Supervisor {
    fn pid(&self) -> u32 {
        match self {
            Self::Ours(process) => process.pid(),
            Self::Another(pid) => *pid,
        }
    }
}

/// The application has to get ready first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotReady;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_with_another_key_takes_the_application_over() {
        let app = App {
            command: vec!["./run".into()],
            ..App::default()
        };
        let mut theirs = serde_json::to_value(&app).unwrap();
        assert!(is_same_process(theirs.clone(), &app));
        theirs.as_object_mut().unwrap().remove("tunnel_timeout");
        theirs["keep"] = 9.into();
        theirs["answer_timeout"] = "9s".into();
        assert!(is_same_process(theirs.clone(), &app));
        theirs["instances"] = 2.into();
        assert!(!is_same_process(theirs.clone(), &app));
        theirs["instances"] = "two".into();
        assert!(!is_same_process(theirs, &app));
    }
}
