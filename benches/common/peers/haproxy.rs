//! Debian's `HAProxy` with its master (`-W`): it answers with a file that it has read at the start,
//! and its workers are threads. `SIGUSR2` makes it run itself anew.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::super::{pause, process, until};
use super::{Peer, sweep};
use crate::kit::client::Report;
use crate::kit::port::Port;

#[derive(Debug)]
pub struct Haproxy {
    /// Removed at the end.
    _dir: tempfile::TempDir,
    port: Port,
    master: Child,
    leaving: Vec<u32>,
}

impl Haproxy {
    pub fn is_installed() -> bool {
        super::find("haproxy").is_some()
    }

    pub fn start(root: &Path, workers: usize) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("bench-haproxy-")
            .tempdir()
            .expect("a directory");
        let port = Port::reserve();
        let config = format!(
            "global\n nbthread {workers}\n no strict-limits\n maxconn 19000\n\
             defaults\n mode http\n timeout client 75s\n timeout http-request 30s\n\
             timeout http-keep-alive 75s\n\
             frontend bench\n bind {} backlog 4096\n\
             http-request return status 200 content-type text/html file {} hdr x-generation %pid\n",
            port.address(),
            root.join("index.html").display(),
        );
        let path = dir.path().join("haproxy.cfg");
        fs::write(&path, config).expect("a configuration");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let master = Command::new(super::find("haproxy").expect("installed"))
            .args(["-W", "-f"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("haproxy runs");
        let this = Self {
            _dir: dir,
            port,
            master,
            leaving: Vec::new(),
        };
        until("haproxy", || {
            std::net::TcpStream::connect(this.address()).is_ok() && !this.workers().is_empty()
        });
        this
    }
}

impl Peer for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy reload"
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn workers(&self) -> Vec<u32> {
        let mut workers = process::children(self.master.id());
        workers.retain(|pid| !self.leaving.contains(pid));
        workers
    }

    fn masters(&self) -> Vec<u32> {
        vec![self.master.id()]
    }

    fn order(&mut self) {
        self.leaving = self.workers();
        // A master that has just started, and executes itself anew, misses a signal.
        for _ in 0..5 {
            sweep::signal(self.master.id(), Signal::USR2);
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end {
                if !self.workers().is_empty() {
                    return;
                }
                pause(Duration::from_micros(500));
            }
        }
        panic!("haproxy starts no new worker");
    }

    fn settle(&mut self) {
        let leaving = self.leaving.clone();
        until("haproxy's old worker to leave", || {
            leaving.iter().all(|pid| process::is_zombie(*pid)) && !self.workers().is_empty()
        });
        self.leaving.clear();
    }

    fn who(&self, report: &Report) -> Vec<String> {
        report.generations.keys().cloned().collect()
    }

    fn first_of_others(&self, report: &Report, before: &[String]) -> Option<Duration> {
        super::first(&report.generations, before)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        sweep::kill(self.master.id());
        let _ = self.master.wait();
    }
}
