//! The hosted application of this master: it is started before the workers are, or comes from the
//! predecessor when both run the same release; what a reload needs stands beside it until its workers
//! serve.

#[cfg(feature = "daemon")]
mod application;
#[cfg(not(feature = "daemon"))]
#[path = "without.rs"]
mod application;
#[cfg(feature = "daemon")]
mod launcher;
mod shown;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::input::Input;
use super::line::Heard;
use crate::config::{App, Config, Parked, Upstream};
use crate::machine::budget::Budget;
use crate::machine::hosting::{RunningApp, ToSupervisor};
use crate::sys::process::{Other, Process};

pub(super) use application::Hold;
#[cfg(not(feature = "daemon"))]
pub(super) use application::Launcher;
use application::{Application, Said, Supervisor};
#[cfg(feature = "daemon")]
pub(super) use launcher::Launcher;

/// The applications of one master.
#[derive(Debug)]
pub(super) struct Applications {
    launcher: Launcher,
    /// What the workers are in front of, or will be.
    current: Option<Application>,
    /// What the workers of a reload will be in front of.
    next: Option<Application>,
    /// The directory of the application, and where its link led when this generation began: it keeps
    /// that release.
    ours: Option<(PathBuf, PathBuf)>,
    /// Whether this master has the service.
    serves: bool,
    /// Where the workers look for one whose supervisor died.
    at: Vec<Upstream>,
    budget: Budget,
    /// Supervisors of ours that nobody here needs any more.
    leaving: Vec<Process>,
}

/// What an application did, as far as the driver is concerned.
#[derive(Debug)]
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
    /// Other instances than before answer.
    Instances(Arc<Hold>),
}

/// The application has to get ready first.
#[derive(Debug)]
pub(super) struct NotReady;

/// Starts that may fail within the window before the pauses are long.
const FORGIVEN: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);

/// A supervisor that was told to leave needs a moment longer than its application.
const MARGIN: Duration = Duration::from_secs(1);

impl Applications {
    pub(super) fn new(launcher: Launcher) -> Self {
        Self {
            launcher,
            current: None,
            next: None,
            ours: None,
            serves: false,
            at: Vec::new(),
            budget: Budget::new(FORGIVEN, WINDOW),
            leaving: Vec::new(),
        }
    }

    /// The release that this generation keeps to.
    pub(super) fn keeps(&self) -> Option<&Path> {
        self.ours.as_ref().map(|(_, release)| &**release)
    }

    /// The release that is started, whatever the link leads to.
    pub(super) fn keep_to(&mut self, directory: PathBuf, release: PathBuf) {
        self.ours = Some((directory, release));
    }

    /// What the workers serve in front of; `Ok(None)`: there is no application.
    pub(super) fn hold(&self, config: &Config) -> Result<Option<Arc<Hold>>, NotReady> {
        if config.app.is_none() {
            return Ok(None);
        }
        let held = self.current.as_ref().and_then(|one| one.hold.clone());
        held.map(Some).ok_or(NotReady)
    }

    /// As [`hold`](Self::hold), of the configuration that a reload brings.
    pub(super) fn hold_next(&self, config: &Config) -> Result<Option<Arc<Hold>>, NotReady> {
        let Some(app) = &config.app else {
            return Ok(None);
        };
        let mut both = self.next.iter().chain(&self.current);
        let held = both.find(|one| app.is_same_process(&one.app));
        held.and_then(|one| one.hold.clone())
            .map(Some)
            .ok_or(NotReady)
    }

    /// Starts what the workers wait for, unless that is under way.
    pub(super) fn start(&mut self, config: &Config) -> Result<(), String> {
        if let (Some(app), None) = (&config.app, &self.current) {
            let at = self.at.clone();
            let launched = self.launch(app, config, at)?;
            self.serve(launched);
        }
        Ok(())
    }

    /// Starts what the workers of a reload wait for.
    pub(super) fn start_next(&mut self, config: &Config) -> Result<(), String> {
        self.cancel_next();
        if let Some(app) = &config.app {
            self.next = Some(self.launch(app, config, Vec::new())?);
        }
        Ok(())
    }

    /// The workers of a reload serve: what the ones before are in front of lives as long as they do.
    pub(super) fn adopt_next(&mut self, config: &Config) {
        if let (None, Some(app), Some(current)) = (&self.next, &config.app, &mut self.current) {
            // It is what they are in front of: none had to be started.
            current.app.clone_from(app);
            return;
        }
        let before = self.current.take();
        self.at.clear();
        if let Some(next) = self.next.take() {
            self.serve(next);
        }
        self.let_go_of(before);
    }

    /// Takes over what the predecessor runs, if it is what we would start.
    pub(super) fn adopt(&mut self, config: &Config, running: RunningApp, end: OwnedFd) {
        let Some(app) = &config.app else { return };
        let directory = directory(self.ours.as_ref(), app);
        if let Some(adopted) = self.launcher.adopt(app, directory, running, end) {
            self.serve(adopted);
        }
    }

    fn launch(
        &mut self,
        app: &App,
        config: &Config,
        at: Vec<Upstream>,
    ) -> Result<Application, String> {
        let directory = directory(self.ours.as_ref(), app);
        self.launcher.launch(app, directory, config, at)
    }

    fn serve(&mut self, application: Application) {
        let directory = application.app.directory.clone();
        self.keep_to(directory, application.release.path.clone());
        if self.serves {
            tell(&application, true);
        }
        self.current = Some(application);
    }

    /// Whether this master has the service: its application is told.
    pub(super) fn tell(&mut self, serves: bool) {
        if std::mem::replace(&mut self.serves, serves) != serves {
            if let Some(current) = &self.current {
                tell(current, serves);
            }
        }
    }

    /// A reload was given up.
    pub(super) fn cancel_next(&mut self) {
        let next = self.next.take();
        self.let_go_of(next);
    }

    /// `parked = "stopped"` frees the application's memory.
    pub(super) fn rest(&mut self) {
        let current = self.current.as_ref();
        if current.is_some_and(|one| one.app.parked == Parked::Stopped) {
            self.stop();
        }
    }

    /// It is stopped once the last worker has left it.
    fn stop(&mut self) {
        self.at.clear();
        let current = self.current.take();
        self.let_go_of(current);
    }

    fn let_go_of(&mut self, application: Option<Application>) {
        match application.map(|one| one.supervisor) {
            Some(Supervisor::Ours(process)) => self.leaving.push(process),
            Some(Supervisor::Another(pid)) => self.launcher.forget(pid),
            None => {}
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
            if process.peek().is_none() {
                return true;
            }
            process.reap();
            self.launcher.forget(process.pid());
            false
        });
        for one in self.current.iter().chain(&self.next) {
            one.line.say(ToSupervisor::Report, Vec::new());
        }
    }

    /// For a successor: what runs, and an end that holds it.
    pub(super) fn share(&self) -> Option<(RunningApp, OwnedFd)> {
        self.current.as_ref().and_then(Application::share)
    }

    /// What a supervisor said, or that it has gone.
    pub(super) fn heard(&mut self, number: u64, heard: Heard) -> Option<Happened> {
        let is = |one: &Option<Application>| one.as_ref().is_some_and(|one| one.number == number);
        let next = is(&self.next);
        let both = [&mut self.next, &mut self.current];
        let slot = both.into_iter().nth(usize::from(!next))?;
        let one = slot.as_mut().filter(|one| one.number == number)?;
        let Heard::Message(received) = heard else {
            let gone = slot.take()?;
            return Some(self.gone(gone, next));
        };
        let said = match received.decode() {
            Ok(word) => one.take(word)?,
            Err(e) => {
                tracing::error!("cannot understand the application's supervisor: {e}");
                return None;
            }
        };
        Some(match said {
            Said::Ready if next => Happened::NextReady,
            Said::Ready => Happened::Ready,
            Said::NotReady(reason) if next => Happened::NextNotReady(reason),
            Said::NotReady(reason) => {
                // The next try listens where the workers look for it.
                let failed = slot.take();
                self.let_go_of(failed);
                Happened::NotReady(reason)
            }
            Said::Failing(reason) => Happened::Failing(reason),
            Said::Instances(hold) => Happened::Instances(hold),
        })
    }

    /// Its supervisor ended, with us still holding it.
    fn gone(&mut self, one: Application, next: bool) -> Happened {
        let why = one.kill();
        if let (false, Some(upstreams)) = (next, one.upstreams()) {
            self.at.clone_from(upstreams);
        }
        let happened = match (next, one.hold.is_some()) {
            (true, _) => Happened::NextNotReady(why),
            (false, true) if one.supervisor.is_ours() => Happened::Failing(why),
            (false, true) => Happened::Gone,
            (false, false) => Happened::NotReady(why),
        };
        self.let_go_of(Some(one));
        happened
    }

    /// It is started once more after a pause.
    pub(super) fn start_soon(&mut self) {
        let pause = self.budget.failed(Instant::now()).0;
        Input::StartApplication.after(pause, &self.launcher.post);
    }
}

/// Where this generation runs it.
fn directory<'a>(ours: Option<&'a (PathBuf, PathBuf)>, app: &'a App) -> &'a Path {
    match ours {
        Some((directory, release)) if *directory == app.directory => release,
        _ => &app.directory,
    }
}

fn tell(application: &Application, serves: bool) {
    application
        .line
        .say(ToSupervisor::Serves { serves }, Vec::new());
}
