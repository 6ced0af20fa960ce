//! The driver and the application behind its workers: they start when it is ready.

use std::sync::Arc;

use super::driver::Driver;
use super::hosting::{Happened, NotReady};
use super::input::Input;
use super::line::Heard;
use crate::config::{Config, Parked};
use crate::machine::{Event, Failure, Phase};

impl Driver {
    /// At once, or when the application is ready.
    pub(super) fn start_workers(&mut self) -> Vec<Event> {
        match self.applications.hold(&self.config) {
            Ok(hold) => {
                let (config, sockets) = (Arc::clone(&self.config), Arc::clone(&self.sockets));
                self.workers.start(config, sockets, hold)
            }
            Err(NotReady) => self.start_application(),
        }
    }

    pub(super) fn start_application(&mut self) -> Vec<Event> {
        match self.applications.start(&self.config) {
            Ok(()) => Vec::new(),
            Err(why) => self.application_is_not_ready(why),
        }
    }

    /// At once, or when the application that the new configuration describes is ready.
    pub(super) fn start_reload(&mut self, config: &Arc<Config>) -> Vec<Event> {
        match self.applications.hold_next(config) {
            Ok(hold) => {
                let Some(reload) = &self.reload else {
                    return Vec::new();
                };
                let sockets = Arc::clone(&reload.sockets);
                self.workers.reload(Arc::clone(config), sockets, hold)
            }
            Err(NotReady) => match self.applications.start_next(config) {
                Ok(()) => Vec::new(),
                Err(why) => vec![Event::ReloadFailed(Failure::new(why))],
            },
        }
    }

    pub(super) fn application_said(&mut self, number: u64, heard: Heard) -> Vec<Event> {
        match self.applications.heard(number, heard) {
            None => Vec::new(),
            // What nobody of ours asks is started again by whoever serves, or when we shall serve.
            Some(
                Happened::Ready | Happened::NotReady(_) | Happened::Failing(_) | Happened::Gone,
            ) if !self.wants_application() => Vec::new(),
            Some(Happened::Ready) if self.workers.are_wanted() => Vec::new(),
            Some(Happened::Ready) => self.start_workers(),
            Some(Happened::NotReady(why)) => self.application_is_not_ready(why),
            Some(Happened::Failing(why)) => {
                // Its supervisor does that; without one we do.
                let mut events = self.start_application();
                events.push(Event::WorkersFailed(why));
                events
            }
            Some(Happened::Gone) => self.start_application(),
            Some(Happened::NextReady) => match &self.reload {
                Some(reload) => self.start_reload(&Arc::clone(&reload.config)),
                None => Vec::new(),
            },
            Some(Happened::NextNotReady(why)) => vec![Event::ReloadFailed(Failure::new(why))],
        }
    }

    /// Its pause after a failed start is over.
    pub(super) fn start_application_again(&mut self) -> Vec<Event> {
        if self.wants_application() {
            return self.start_application();
        }
        Vec::new()
    }

    /// Workers of this master serve in front of it, or will.
    fn wants_application(&self) -> bool {
        !matches!(
            self.machine.phase(),
            Phase::Parked | Phase::Draining | Phase::Done
        )
    }

    /// Where somebody relies on us, it is tried again.
    fn application_is_not_ready(&mut self, why: String) -> Vec<Event> {
        if self.machine.phase() != Phase::Starting {
            let (pause, post) = (self.applications.pause(), self.post.clone());
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let _ = post.send(Input::StartApplication).await;
            });
        }
        vec![Event::WorkersFailed(why)]
    }

    /// Our last worker has gone: `parked = "stopped"` frees the application's memory.
    pub(super) fn rest_application(&mut self) {
        let app = self.config.app.as_ref();
        let stops = app.is_some_and(|app| app.parked == Parked::Stopped);
        if stops && self.machine.phase() == Phase::Parked {
            self.applications.stop();
        }
    }
}
