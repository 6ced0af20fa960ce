//! Debian's nginx, as its package sets it up (`sendfile`, `tcp_nopush`) but without an access log,
//! and with connections that live as long as the client wants.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::super::{process, until};
use super::{Peer, sweep};
use crate::kit::client::Report;
use crate::kit::port::Port;
use crate::kit::proc;

/// How its workers are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `HUP`: the same program, new workers.
    Reload,
    /// `USR2`, then `WINCH` and `QUIT` to the old master once the new workers are there.
    Binary,
}

#[derive(Debug)]
pub struct Nginx {
    way: Way,
    dir: tempfile::TempDir,
    port: Port,
    workers: usize,
    master: u32,
    /// Those that are to leave.
    leaving: Vec<u32>,
}

impl Nginx {
    pub fn is_installed() -> bool {
        super::find("nginx").is_some()
    }

    pub fn start(root: &Path, workers: usize, way: Way) -> Self {
        Self::start_as("", "", root, workers, way)
    }

    /// Over TLS, and HTTP/2 with whom wants it; `localhost.crt` and `localhost.key` are in `tls`.
    pub fn start_tls(root: &Path, workers: usize, way: Way, tls: &Path) -> Self {
        let tls = tls.display();
        let more = format!(
            "ssl_protocols TLSv1.2 TLSv1.3;\n ssl_certificate {tls}/localhost.crt;\n \
             ssl_certificate_key {tls}/localhost.key;\n"
        );
        Self::start_as(" ssl http2", &more, root, workers, way)
    }

    fn start_as(speaks: &str, more: &str, root: &Path, workers: usize, way: Way) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("bench-nginx-")
            .tempdir()
            .expect("a directory");
        let port = Port::reserve();
        let at = dir.path();
        let (place, root, address) = (at.display(), root.display(), port.address());
        let config = format!(
            "user root;\nworker_processes {workers};\nworker_rlimit_nofile {};\n\
             pid {place}/nginx.pid;\nerror_log {place}/error.log error;\n\
             events {{ worker_connections 19000; }}\n\
             http {{\n include /etc/nginx/mime.types;\n default_type application/octet-stream;\n\
             access_log off;\n sendfile on;\n tcp_nopush on;\n\
             keepalive_requests 1000000000;\n keepalive_timeout 75s;\n\
             client_body_temp_path {place}/body;\n proxy_temp_path {place}/proxy;\n\
             fastcgi_temp_path {place}/fastcgi;\n uwsgi_temp_path {place}/uwsgi;\n\
             scgi_temp_path {place}/scgi;\n\
             {more}server {{ listen {address}{speaks} backlog=4096; root {root}; add_header x-generation $pid; }}\n}}\n",
            files(),
        );
        fs::write(at.join("nginx.conf"), config).expect("a configuration");
        proc::become_subreaper().expect("a subreaper");
        let status = Command::new(super::find("nginx").expect("installed"))
            .arg("-e")
            .arg(at.join("error.log"))
            .arg("-c")
            .arg(at.join("nginx.conf"))
            .status()
            .expect("nginx runs");
        assert!(status.success(), "nginx does not start");
        let mut this = Self {
            way,
            dir,
            port,
            workers,
            master: 0,
            leaving: Vec::new(),
        };
        until("nginx", || {
            this.master = this.pid_file("nginx.pid").unwrap_or(0);
            this.workers().len() == workers
        });
        this
    }

    fn pid_file(&self, name: &str) -> Option<u32> {
        let text = fs::read_to_string(self.dir.path().join(name)).ok()?;
        text.trim().parse().ok()
    }

    /// With the master before it parked (`WINCH`): `HUP` to that one is the way back.
    pub fn upgrade_and_park(&mut self) -> u32 {
        let old = self.master;
        self.start_beside();
        let leaving = self.leaving.clone();
        sweep::signal(old, Signal::WINCH);
        until("parked", || leaving.iter().all(|pid| gone(*pid)));
        old
    }

    /// `HUP` to the parked master, and the new one leaves.
    pub fn back(&mut self, old: u32) {
        sweep::signal(old, Signal::HUP);
        let workers = self.workers;
        until("the old master's workers", || {
            accepting(old).len() == workers
        });
        let new = std::mem::replace(&mut self.master, old);
        self.leaving = process::children(new);
        self.leaving.retain(|pid| *pid != old);
        self.leaving.push(new);
        sweep::signal(new, Signal::QUIT);
    }

    /// A new master and its workers; both accept.
    fn start_beside(&mut self) {
        let old = self.master;
        self.leaving = self.workers();
        sweep::signal(old, Signal::USR2);
        until("a new master", || {
            let new = self.pid_file("nginx.pid");
            self.master = new.filter(|new| *new != old).unwrap_or(old);
            self.master != old && accepting(self.master).len() == self.workers
        });
    }
}

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        match self.way {
            Way::Reload => "nginx reload",
            Way::Binary => "nginx USR2, WINCH, QUIT",
        }
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn workers(&self) -> Vec<u32> {
        accepting(self.master)
    }

    fn masters(&self) -> Vec<u32> {
        vec![self.master]
    }

    fn order(&mut self) {
        match self.way {
            Way::Reload => {
                self.leaving = self.workers();
                sweep::signal(self.master, Signal::HUP);
            }
            Way::Binary => {
                let old = self.master;
                self.start_beside();
                self.leaving.push(old);
                sweep::signal(old, Signal::WINCH);
                sweep::signal(old, Signal::QUIT);
            }
        }
    }

    fn settle(&mut self) {
        let leaving = std::mem::take(&mut self.leaving);
        until("nginx's old workers to leave", || {
            leaving.iter().all(|pid| {
                proc::reap(*pid);
                gone(*pid)
            })
        });
    }

    fn who(&self, report: &Report) -> Vec<String> {
        report.generations.keys().cloned().collect()
    }

    fn first_of_others(&self, report: &Report, before: &[String]) -> Option<Duration> {
        super::first(&report.generations, before)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        for name in ["nginx.pid", "nginx.pid.oldbin"] {
            if let Some(pid) = self.pid_file(name) {
                sweep::kill(pid);
            }
        }
        for pid in &self.leaving {
            proc::reap(*pid);
        }
    }
}

/// A master's workers that accept: they know how to call themselves only a moment after the fork.
fn accepting(master: u32) -> Vec<u32> {
    let is_worker = |pid: &u32| {
        let title = process::title(*pid);
        title.starts_with("nginx: worker process") && !title.contains("shutting down")
    };
    let mut workers = process::children(master);
    workers.retain(is_worker);
    workers
}

fn gone(pid: u32) -> bool {
    process::is_zombie(pid)
}

fn files() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard)
}
