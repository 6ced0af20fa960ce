//! What [`super::application`] and [`super::launcher`] are in a program that is built without the feature
//! `daemon`: the same names, of which there is never a value. A configuration with `[app]` is refused
//! before a master is made.

#![expect(dead_code, reason = "nobody is hosted")]

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::api;
use crate::config::{App, Config, Hosted, Upstream};
use crate::machine::hosting::{FromSupervisor, Instances, RunningApp, ToSupervisor};
use crate::machine::message::Identity;
use crate::master::input::Input;
use crate::master::line::Line;
use crate::master::workers::Pids;
use crate::sys::image::Image;
use crate::sys::process::Process;
use crate::sys::release::Release;

#[derive(Debug)]
pub(super) struct Application {
    never: Infallible,
    pub(super) number: u64,
    pub(super) app: App,
    pub(super) release: Release,
    pub(super) line: Line<ToSupervisor>,
    pub(super) supervisor: Supervisor,
    pub(super) instances: Instances,
    pub(super) hold: Option<Arc<Hold>>,
}

#[derive(Debug)]
pub(super) enum Supervisor {
    Ours(Process),
    Another(u32),
}

impl Supervisor {
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }
}

#[derive(Debug)]
pub(in crate::master) struct Hold {
    never: Infallible,
    pub(in crate::master) hosted: Hosted,
}

impl Hold {
    pub(in crate::master) fn end(&self) -> std::io::Result<OwnedFd> {
        match self.never {}
    }

    pub(in crate::master) fn silent(&self) -> Vec<Upstream> {
        match self.never {}
    }
}

pub(super) enum Said {
    Ready,
    NotReady(String),
    Failing(String),
    Instances(Arc<Hold>),
}

impl Application {
    pub(super) fn upstreams(&self) -> Option<&Vec<Upstream>> {
        match self.never {}
    }

    pub(super) fn take(&mut self, _: FromSupervisor) -> Option<Said> {
        match self.never {}
    }

    pub(super) fn unproved(&self) -> Option<String> {
        match self.never {}
    }

    pub(super) fn kill(&self) -> String {
        match self.never {}
    }

    pub(super) fn report(&self) -> api::App {
        match self.never {}
    }

    pub(super) fn share(&self) -> Option<(RunningApp, OwnedFd)> {
        match self.never {}
    }
}

/// It launches nothing.
#[derive(Debug)]
pub(in crate::master) struct Launcher {
    pub(super) post: mpsc::Sender<Input>,
}

impl Launcher {
    pub(in crate::master) fn new(
        post: mpsc::Sender<Input>,
        _: Arc<Image>,
        _: &str,
        _: &Identity,
        _: &Path,
        _: Pids,
    ) -> Self {
        Self { post }
    }

    pub(super) fn launch(
        &mut self,
        _: &App,
        _: &Path,
        _: &Config,
        _: Vec<Upstream>,
    ) -> Result<Application, String> {
        Err("this program is built without hosting".into())
    }

    pub(super) fn adopt(
        &mut self,
        _: &App,
        _: &Path,
        _: RunningApp,
        _: OwnedFd,
    ) -> Option<Application> {
        None
    }

    pub(super) fn forget(&self, _: u32) {}
}
