//! A service that hosts the tests' application, release by release.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::kit::client::{Load, Running, Target};
use crate::kit::proc;
use crate::kit::service::{Output, SOON, Service};
use crate::kit::wait::wait_until;
use handover::api::Phase;

/// Nothing happens by itself within a test.
const START: &str = "10s";

pub struct Scene {
    pub service: Service,
    releases: PathBuf,
}

impl Scene {
    /// Prepared with release 1, not started. `app` are further lines of `[app]`.
    pub fn prepare(test: &str, listens: &str, app: &str) -> Self {
        let service = Service::setup(test).prepare();
        let releases = service.dir().join("releases");
        let scene = Self { service, releases };
        scene.release("1", "");
        scene.point("1");
        scene.configure(listens, app);
        scene
    }

    pub fn configure(&self, listens: &str, app: &str) {
        self.configure_with(START, listens, app);
    }

    pub fn configure_with(&self, start_timeout: &str, listens: &str, app: &str) {
        self.configure_all("10m", start_timeout, "/usr/bin/python3", listens, app);
    }

    /// For the next start.
    pub fn probation(&self, probation: &str) {
        self.configure_all(probation, START, "/usr/bin/python3", "{socket}", "");
    }

    /// The same, with another limit for its start.
    pub fn timing(&self, start_timeout: &str, probation: &str) {
        self.configure_all(probation, start_timeout, "/usr/bin/python3", "{socket}", "");
    }

    /// Another interpreter.
    pub fn command(&self, python: &str) {
        self.configure_all("10m", START, python, "{socket}", "");
    }

    fn configure_all(
        &self,
        probation: &str,
        start_timeout: &str,
        python: &str,
        listens: &str,
        app: &str,
    ) {
        let current = self.current();
        self.service.write_config(&format!(
            "workers = 2\n[upgrade]\nprobation = {probation:?}\nstart_timeout = {start_timeout:?}\n[app]\ndirectory = {current:?}\n\
             command = [{python:?}, \"app.py\", {listens:?}]\nready = \"/healthz\"\n{app}"
        ));
    }

    /// Started, and serving.
    pub fn begin(test: &str, listens: &str, app: &str) -> Self {
        let scene = Self::prepare(test, listens, app);
        scene.service.start();
        scene.service.wait_owner(1, "serving");
        scene
    }

    pub fn current(&self) -> PathBuf {
        self.service.dir().join("current")
    }

    /// A new release with this fault.
    pub fn release(&self, name: &str, fault: &str) -> PathBuf {
        let dir = self.releases.join(name);
        fs::create_dir_all(&dir).unwrap();
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host/app.py");
        fs::copy(here, dir.join("app.py")).unwrap();
        if !fault.is_empty() {
            fs::write(dir.join("fault"), fault).unwrap();
        }
        dir
    }

    pub fn point(&self, name: &str) {
        let new = self.service.dir().join("current.new");
        symlink(self.releases.join(name), &new).unwrap();
        fs::rename(new, self.current()).unwrap();
    }

    /// Where `current` leads: a release's name.
    pub fn pointed(&self) -> String {
        let target = fs::read_link(self.current()).unwrap();
        target.file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub fn releases(&self) -> &Path {
        &self.releases
    }

    pub fn deploy(&self, name: &str) -> Output {
        let release = self.releases.join(name);
        let config = self.service.config().to_str().unwrap();
        let release = release.to_str().unwrap();
        self.service.cli(&["--config", config, "deploy", release])
    }

    #[track_caller]
    pub fn wait_log(&self, words: &str) {
        self.service.wait_log(words, 1);
    }

    /// Until the first generation serves again, and it is written down why.
    #[track_caller]
    pub fn wait_back(&self) {
        self.service.wait_status("the way back", |s| {
            s.generation == 1 && s.phase == Phase::Serving && s.upgrade.is_none()
        });
    }

    pub fn load(&self) -> Running {
        let spec = self.service.load("http").pause(Duration::from_millis(5));
        let load = Load::start(spec.keep_alive().connections(8));
        load.wait_connected(SOON);
        load
    }

    /// The body of one answer.
    pub fn get(&self, path: &str) -> String {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
        .1
    }

    /// Status and body.
    pub fn ask(&self, request: &str) -> (u16, String) {
        let answer = self.raw(request);
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("{answer:?}"));
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// A whole answer.
    pub fn raw(&self, request: &str) -> String {
        use std::io::{Read, Write};
        let Target::Tcp(address) = self.service.target("http") else {
            panic!("not a TCP listener");
        };
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// The application's process, which must be somebody by then.
pub fn pid(scene: &Scene) -> u32 {
    scene.get("/pid").parse().unwrap()
}

pub fn gone(pid: u32) -> bool {
    proc::Process::look(pid).is_none_or(|p| p.is_zombie())
}

#[track_caller]
pub fn wait_gone(pid: u32) {
    wait_until(&format!("the end of process {pid}"), || gone(pid));
}
