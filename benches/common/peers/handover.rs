//! This project's daemon: two builds that replace each other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handover::api::{Phase, Status};

use super::super::{VERSIONS, releases};
use super::Peer;
use crate::kit::client::{Report, Target};
use crate::kit::service::{Output, Service, Setup};

/// The daemon, and which build it runs.
#[derive(Debug)]
pub struct Handover {
    pub service: Service,
    images: [PathBuf; 2],
    /// The build that runs.
    runs: usize,
    last: Option<String>,
}

impl Handover {
    /// `more`: of the configuration. Upgrades commit at once unless it says otherwise.
    pub fn start(root: &Path, workers: usize, more: &str) -> Self {
        Self::start_as(Service::setup("bench"), root, workers, more)
    }

    /// The same over TLS.
    pub fn start_tls(root: &Path, workers: usize, more: &str) -> Self {
        Self::start_as(Service::setup("bench").tls(), root, workers, more)
    }

    fn start_as(setup: Setup, root: &Path, workers: usize, more: &str) -> Self {
        let images = releases();
        let probation = if more.contains("probation") {
            ""
        } else {
            "[upgrade]\nprobation = \"0s\"\n"
        };
        let config = format!(
            "workers = {workers}\n[site]\nroot = \"{}\"\n[log]\nlevel = \"warn\"\n{probation}{more}",
            root.display()
        );
        let service = setup.image(&images[0]).config(&config).start();
        service.wait_phase("serving");
        Self {
            service,
            images,
            runs: 0,
            last: None,
        }
    }

    pub fn status(&self) -> Status {
        self.service
            .wait_status("an answer", |status| !status.masters.is_empty())
    }

    /// `Server:` of the build that runs.
    pub fn server(&self) -> String {
        format!("handover/{}", VERSIONS[self.runs])
    }

    /// Gives the order, after [`Peer::prepare`].
    pub fn upgrade(&mut self) -> Output {
        let output = self.service.cli(&["upgrade"]);
        output.assert_code(0);
        output
    }

    /// Back, during the probation.
    pub fn rollback(&mut self) -> Output {
        self.runs = 1 - self.runs;
        let output = self.service.cli(&["rollback"]);
        output.assert_code(0);
        output
    }

    /// Waits until an upgrade that began after `upgrade` has ended with all its consequences.
    pub fn wait_end(&self) -> Status {
        self.service
            .wait_status("the end of the upgrade", |status| {
                let ended = status.last.as_ref().map(|last| &last.id) != self.last.as_ref();
                ended && status.phase == Phase::Serving && status.masters.len() == 1
            })
    }
}

impl Peer for Handover {
    fn name(&self) -> &'static str {
        "handover upgrade"
    }

    fn address(&self) -> SocketAddr {
        match self.service.target("http") {
            Target::Tcp(address) => address,
            Target::Unix(path) => panic!("{} is no port", path.display()),
        }
    }

    fn workers(&self) -> Vec<u32> {
        let status = self.status();
        let owner = status
            .masters
            .iter()
            .find(|master| master.pid == status.owner_pid);
        owner.map_or_else(Vec::new, |owner| {
            owner.workers.iter().map(|worker| worker.pid).collect()
        })
    }

    fn masters(&self) -> Vec<u32> {
        self.status().masters.iter().map(|m| m.pid).collect()
    }

    fn prepare(&mut self) {
        self.last = self.status().last.map(|last| last.id);
        self.runs = 1 - self.runs;
        self.service.replace(&self.images[self.runs]);
    }

    fn order(&mut self) {
        self.upgrade();
    }

    fn settle(&mut self) {
        self.wait_end();
    }

    fn who(&self, report: &Report) -> Vec<String> {
        report.servers.keys().cloned().collect()
    }

    fn first_of_others(&self, report: &Report, before: &[String]) -> Option<Duration> {
        super::first(&report.servers, before)
    }
}
