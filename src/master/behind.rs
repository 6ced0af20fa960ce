//! The application behind our workers: they start when it is ready.

use super::driver::Driver;
use super::hosting::{Happened, NotReady};
use super::line::Heard;
use crate::machine::{Event, Failure};

impl Driver {
    /// At once, or when the application is ready.
    pub(super) fn start_workers(&mut self) -> Vec<Event> {
        let config = self.configured.config.clone();
        match self.applications.hold(&config) {
            Ok(hold) => {
                let sockets = self.configured.sockets.clone();
                self.workers.start(config, sockets, hold)
            }
            Err(NotReady) => self.start_application(),
        }
    }

    /// At once, or when the application that the new configuration describes is ready.
    pub(super) fn start_reload(&mut self) -> Vec<Event> {
        let Some((config, sockets)) = self.configured.next() else {
            return Vec::new();
        };
        match self.applications.hold_next(&config) {
            Ok(hold) => self.workers.reload(config, sockets, hold),
            Err(NotReady) => match self.applications.start_next(&config) {
                Ok(()) => Vec::new(),
                Err(why) => vec![Event::ReloadFailed(Failure::new(why))],
            },
        }
    }

    pub(super) fn application_said(&mut self, number: u64, heard: Heard) -> Vec<Event> {
        let Some(happened) = self.applications.heard(number, heard) else {
            return Vec::new();
        };
        self.say_whether_awake(&happened);
        match happened {
            Happened::NextReady => return self.start_reload(),
            Happened::NextNotReady(why) => return vec![Event::ReloadFailed(Failure::new(why))],
            Happened::Instances(hold) => self.workers.tell_instances(&hold),
            // Whoever serves starts it again, or we when we shall serve.
            _ if !self.machine.phase().has_workers() => {}
            Happened::Ready if self.workers.are_wanted() => {}
            Happened::Ready => return self.start_workers(),
            Happened::NotReady(why) => return self.application_is_not_ready(why),
            Happened::Failing(why) => {
                // Its supervisor does that; without one we do.
                let mut events = self.start_application();
                events.push(Event::WorkersFailed(why));
                return events;
            }
            Happened::Gone => return self.start_application(),
        }
        Vec::new()
    }

    /// Its pause after a failed start is over.
    pub(super) fn start_application_again(&mut self) -> Vec<Event> {
        if self.machine.phase().has_workers() {
            return self.start_application();
        }
        Vec::new()
    }

    fn start_application(&mut self) -> Vec<Event> {
        match self.applications.start(&self.configured.config) {
            Ok(()) => Vec::new(),
            Err(why) => self.application_is_not_ready(why),
        }
    }

    fn application_is_not_ready(&mut self, why: String) -> Vec<Event> {
        if self.machine.phase().tries_again() {
            self.applications.start_soon();
        }
        vec![Event::WorkersFailed(why)]
    }
}
