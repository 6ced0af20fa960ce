//! How a master comes to hold an application: it starts a supervisor, or takes over what its
//! predecessor runs.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use serde::Deserialize;
use tokio::sync::mpsc;

use super::application::{Application, Supervisor};
use crate::config::{App, Config, Upstream};
use crate::machine::hosting::{Hosting, Instances, RunningApp, ToSupervisor};
use crate::machine::message::Identity;
use crate::master::input::Input;
use crate::master::line::Line;
use crate::master::workers::Pids;
use crate::sys::channel::Channel;
use crate::sys::image::Image;
use crate::sys::release::Release;
use crate::sys::secrets;
use crate::sys::spawn::{self, SUPERVISOR_ENV, Spawn};

#[derive(Debug)]
pub(in crate::master) struct Launcher {
    pub(super) post: mpsc::Sender<Input>,
    image: Arc<Image>,
    name: String,
    generation: u64,
    /// Processes of the service, which give no orders.
    pids: Pids,
    /// The directory of their sockets.
    sockets: PathBuf,
    started: u64,
}

impl Launcher {
    pub(in crate::master) fn new(
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
            started: 0,
        }
    }

    /// Starts what is in `directory`. `at`: where it has to listen, should that be known.
    pub(super) fn launch(
        &mut self,
        app: &App,
        directory: &Path,
        config: &Config,
        at: Vec<Upstream>,
    ) -> Result<Application, String> {
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
        let word = secrets::word().map_err(|e| cannot(&e))?;
        let (ours, theirs) = Channel::pair().map_err(|e| cannot(&e))?;
        let end = ours.as_fd().try_clone_to_owned().map_err(|e| cannot(&e))?;
        let arg0 = format!("{}: application g{}", self.name, self.generation);
        let mut spec = Spawn::new(self.image.as_fd(), arg0);
        spec.channel = Some((SUPERVISOR_ENV, theirs));
        let process = spawn::spawn(spec).map_err(|e| cannot(&e))?;
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
            prefix: format!("g{}-{}-{word}", self.generation, self.started + 1),
            at,
            ready_within_ms: u64::try_from(ready_within.as_millis()).unwrap_or(u64::MAX),
            log_level: config.log.level.clone(),
        };
        let launched = self.hold(app, release, ours, end, Supervisor::Ours(process));
        let start = ToSupervisor::Start(Box::new(hosting));
        launched.line.say(start, Vec::new());
        Ok(launched)
    }

    /// Takes over what the predecessor runs, if it is what we would start in `directory`. Else it stays
    /// its own.
    pub(super) fn adopt(
        &mut self,
        app: &App,
        directory: &Path,
        running: RunningApp,
        end: OwnedFd,
    ) -> Option<Application> {
        let release = Release {
            path: running.release,
            identity: running.identity,
        };
        let same = Release::of(directory, app).is_ok_and(|ours| ours == release);
        if !same || !is_same_process(running.config, app) {
            return None;
        }
        let taken = end
            .try_clone()
            .and_then(|copy| Ok((Channel::from_fd(end)?, copy)));
        let (channel, end) = taken
            .inspect_err(|e| tracing::warn!("the application is started anew: {e}"))
            .ok()?;
        tracing::info!(
            "the application in {} goes on: this generation has the same release",
            release.path.display()
        );
        let supervisor = Supervisor::Another(running.supervisor);
        let mut adopted = self.hold(app, release, channel, end, supervisor);
        adopted.is_ready_at(running.upstreams);
        Some(adopted)
    }

    fn hold(
        &mut self,
        app: &App,
        release: Release,
        channel: Channel,
        end: OwnedFd,
        supervisor: Supervisor,
    ) -> Application {
        self.started += 1;
        self.lock_pids().insert(supervisor.pid());
        let (number, post) = (self.started, self.post.clone());
        let line = Line::new(channel, move |heard| {
            let post = post.clone();
            async move {
                let _ = post.send(Input::Application(number, heard)).await;
            }
        });
        Application {
            number,
            app: app.clone(),
            release,
            line,
            supervisor,
            end: Arc::new(end),
            instances: Instances::default(),
            hold: None,
            since: None,
            restarted: None,
        }
    }

    /// Its number may be anybody's by now.
    pub(super) fn forget(&self, supervisor: u32) {
        self.lock_pids().remove(&supervisor);
    }

    fn lock_pids(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what a predecessor started is what we would start. It is read with our defaults, and keys that
/// only the other build knows are left out: neither is a difference.
fn is_same_process(theirs: serde_json::Value, ours: &App) -> bool {
    /// Of what is flattened, serde reads its own keys alone.
    #[derive(Deserialize)]
    struct Theirs {
        #[serde(flatten)]
        app: App,
    }
    serde_json::from_value::<Theirs>(theirs).is_ok_and(|theirs| theirs.app.is_same_process(ours))
}

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
        theirs["of_a_newer_build"] = "7s".into();
        theirs["keep"] = 9.into();
        theirs["answer_timeout"] = "9s".into();
        assert!(is_same_process(theirs.clone(), &app));
        theirs["instances"] = 2.into();
        assert!(!is_same_process(theirs.clone(), &app));
        theirs["instances"] = "two".into();
        assert!(!is_same_process(theirs, &app));
    }
}
