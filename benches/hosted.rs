//! A hosted application, deployed and taken back under load: `cargo bench --bench hosted`. Beside it
//! nginx before the same server of it (gunicorn, then uvicorn) with that one's own `HUP`: the same
//! application, the same workers, a socket of the same kind. `DEPLOYS=20` (every second one is taken
//! back), `SECONDS=10` for the speed, `PEERS=nginx,handover`, `SERVERS=gunicorn,uvicorn`.
//!
//! Needs gunicorn and uvicorn: what `.ci/run` has installed, or `PYTHON_BIN=/path/to/bin`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

#[path = "../tests/kit/mod.rs"]
mod kit;

mod common;

use common::peers::{find, sweep};
use common::process::{children, memory, title};
use common::table::{Table, headline, ms, verdict};
use common::wrk::{self, Speed};
use common::{SOON, WORKERS, median, pause, releases, setting, until, wanted};
use kit::client::{Load, Report, Spec, Target};
use kit::port::Port;
use kit::service::Service;

const CONNECTIONS: usize = 256;
/// Between two orders.
const BETWEEN: Duration = Duration::from_millis(500);

/// Something that runs the application.
#[derive(Debug, Clone, Copy)]
struct Server {
    name: &'static str,
    application: &'static str,
    /// What it is told of itself, in both cases; how it is told its socket comes first.
    words: &'static [&'static str],
    /// Before the path of a socket.
    socket: &'static str,
}

const SERVERS: [Server; 2] = [
    Server {
        name: "gunicorn",
        application: r#"
import os
RELEASE = os.path.basename(os.path.dirname(os.path.realpath(__file__)))
BODY = (RELEASE + "\n").encode()
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(BODY))), ("X-Generation", RELEASE)])
    return [BODY]
"#,
        words: &[
            "-b",
            "--threads",
            "16",
            "--keep-alive",
            "5",
            "--log-level",
            "warning",
        ],
        socket: "unix:",
    },
    Server {
        name: "uvicorn",
        application: r#"
import os
RELEASE = os.path.basename(os.path.dirname(os.path.realpath(__file__))).encode()
BODY = RELEASE + b"\n"
HEAD = {"type": "http.response.start", "status": 200, "headers": [
    (b"content-length", str(len(BODY)).encode()), (b"x-generation", RELEASE)]}
async def app(scope, receive, send):
    await send(HEAD)
    await send({"type": "http.response.body", "body": BODY})
"#,
        words: &[
            "--uds",
            "--lifespan",
            "off",
            "--no-access-log",
            "--log-level",
            "warning",
        ],
        socket: "",
    },
];

impl Server {
    fn installed(&self) -> Option<PathBuf> {
        let usual = "/var/cache/handover-ci/apps/python/bin";
        let bin = std::env::var_os("PYTHON_BIN").unwrap_or_else(|| usual.into());
        Some(Path::new(&bin).join(self.name)).filter(|path| path.is_file())
    }

    fn command(&self, socket: &str) -> Vec<String> {
        let program = self.installed().expect("it is there").display().to_string();
        let workers = WORKERS.to_string();
        let socket = format!("{}{socket}", self.socket);
        let (how, rest) = self.words.split_first().expect("words");
        let words = [&*program, how, &socket, "--workers", &workers];
        let words = words.iter().chain(rest).chain(&["app:app"]);
        words.map(|word| (*word).to_owned()).collect()
    }
}

/// Somebody before it.
trait Front {
    fn address(&self) -> SocketAddr;
    /// Its processes without the application's; the workers last.
    fn masters(&self) -> Vec<u32>;
    fn workers(&self) -> Vec<u32>;
    /// Gives the order, and returns when its own tool does.
    fn deploy(&mut self, release: &Path);
    /// Back to the release before.
    fn rollback(&mut self, release: &Path);
    /// Nobody goes back.
    fn settle(&mut self);
}

struct Figures {
    speed: Speed,
    report: Report,
    memory: u64,
    back: Vec<Duration>,
}

fn main() -> ExitCode {
    let deploys = setting("DEPLOYS", 20, 2);
    headline(&format!(
        "{deploys} deploys, every second one taken back: {CONNECTIONS} keep-alive clients, {WORKERS} \
         workers of the front, {WORKERS} of the application's server"
    ));
    let named = std::env::var("SERVERS").ok();
    let is_named = |one: &Server| named.as_ref().is_none_or(|all| all.contains(one.name));
    let mut lost = 0;
    for server in SERVERS.iter().filter(|one| is_named(one)) {
        if server.installed().is_none() {
            println!("skipped: {} is not installed", server.name);
            continue;
        }
        lost += compare(server, deploys);
    }
    // The other figures are this machine's, and this hour's.
    if lost > 0 {
        println!("FAILED: {lost} requests failed, or their connections were opened again");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Both fronts before one server. Returns what failed of ours, and what was opened again.
fn compare(server: &Server, deploys: usize) -> u64 {
    let mut all = Vec::new();
    if wanted("handover") {
        let ours = measure(&mut Handover::start(server), server, deploys);
        all.push((format!("handover, {}", server.name), ours));
    }
    if wanted("nginx") {
        match find("nginx") {
            Some(nginx) => {
                let theirs = measure(&mut Nginx::start(&nginx, server), server, deploys);
                all.push((format!("nginx, {} HUP", server.name), theirs));
            }
            None => println!("skipped: nginx is not installed"),
        }
    }
    let mut table = Table::new(&[
        "front",
        "requests",
        "failed",
        "reopened",
        "requests/s",
        "p99 ms",
        "p99 with orders",
        "front's CPU us/request",
        "KiB a worker",
        "way back ms",
        "longest",
    ]);
    for (name, figures) in &mut all {
        let total = &figures.report.total;
        let longest = figures.back.iter().max().copied().unwrap_or_default();
        table.row([
            name.clone(),
            total.requests.to_string(),
            figures.report.failed().to_string(),
            total.reopened.to_string(),
            format!("{:.0}", figures.speed.rate),
            ms(figures.speed.p99),
            ms(total.latency.percentile(99.0)),
            format!("{:.1}", figures.speed.cpu_per_request.as_secs_f64() * 1e6),
            figures.memory.to_string(),
            ms(median(&mut figures.back).unwrap_or_default()),
            ms(longest),
        ]);
    }
    table.print();
    if let [(_, ours), (_, theirs)] = &mut all[..] {
        judge(ours, theirs);
    }
    let ours = all.iter().filter(|(name, _)| name.starts_with("handover"));
    ours.map(|(_, figures)| lost(figures)).sum()
}

/// Requests that failed, and connections that were opened again.
fn lost(figures: &Figures) -> u64 {
    figures.report.failed() + figures.report.total.reopened
}

fn judge(ours: &mut Figures, theirs: &Figures) {
    let micros = |one: &Figures| one.speed.cpu_per_request.as_secs_f64() * 1e6;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    verdict(
        "failed and reopened",
        lost(ours) as f64,
        0.0,
        true,
        "requests",
    );
    let rate = ours.speed.rate / theirs.speed.rate;
    verdict("requests/s of nginx's", rate, 1.0, false, "times");
    let p99 = ours.speed.p99.as_secs_f64() / theirs.speed.p99.as_secs_f64();
    verdict("p99 of nginx's", p99, 1.0, true, "times");
    let cpu = micros(ours) / micros(theirs);
    verdict("CPU a request of nginx's", cpu, 1.0, true, "times");
    let back = median(&mut ours.back).unwrap_or_default().as_secs_f64() * 1e3;
    verdict("rollback", back, 20.0, true, "ms");
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let memory = ours.memory as f64 / 1024.0;
    verdict("memory a worker", memory, 6.0, true, "MiB");
}

fn measure(front: &mut impl Front, server: &Server, deploys: usize) -> Figures {
    let releases = Releases::make(server);
    front.deploy(&releases.path(0));
    front.settle();
    wait_release(front.address(), "r0");
    let seconds = setting("SECONDS", 10, 1) as u64;
    let pids = [front.masters(), front.workers()].concat();
    let speed = wrk::measure(
        front.address(),
        "/",
        CONNECTIONS,
        Duration::from_secs(seconds),
        &pids,
    );
    let workers = front.workers();
    let held: u64 = workers
        .iter()
        .filter_map(|pid| memory(*pid))
        .map(|m| m.private)
        .sum();
    let memory = held / workers.len().max(1) as u64;
    let load = Load::start(
        Spec::new(front.address())
            .keep_alive()
            .connections(CONNECTIONS)
            .think(Duration::ZERO..=Duration::from_millis(50)),
    );
    load.wait_connected(SOON);
    let mut back = Vec::new();
    let mut serves = 0;
    for n in 1..=deploys {
        pause(BETWEEN);
        front.deploy(&releases.path(n));
        wait_release(front.address(), &format!("r{n}"));
        if n % 2 == 0 {
            pause(BETWEEN);
            let ordered = Instant::now();
            front.rollback(&releases.path(serves));
            wait_release(front.address(), &format!("r{serves}"));
            back.push(ordered.elapsed());
        } else {
            serves = n;
        }
        front.settle();
    }
    pause(BETWEEN);
    let report = load.stop();
    Figures {
        speed,
        report,
        memory,
        back,
    }
}

/// Until this release answers.
fn wait_release(address: SocketAddr, release: &str) {
    until(release, || {
        let Ok(mut stream) = TcpStream::connect(address) else {
            return false;
        };
        let _ = stream.set_read_timeout(Some(SOON));
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        stream.write_all(request).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.ends_with(&format!("\r\n\r\n{release}\n"))
    });
}

/// `r0`, `r1` ...
struct Releases(tempfile::TempDir, &'static str);

impl Releases {
    fn make(server: &Server) -> Self {
        let dir = tempfile::Builder::new().prefix("bench-app-").tempdir();
        Self(dir.expect("a directory"), server.application)
    }

    fn path(&self, n: usize) -> PathBuf {
        let path = self.0.path().join(format!("r{n}"));
        fs::create_dir_all(&path).expect("a release");
        fs::write(path.join("app.py"), self.1).expect("an application");
        path
    }
}

fn point(link: &Path, release: &Path) {
    let new = link.with_extension("new");
    symlink(release, &new).expect("a link");
    fs::rename(new, link).expect("in its place");
}

struct Handover {
    service: Service,
    first: tempfile::TempDir,
}

impl Handover {
    fn start(server: &Server) -> Self {
        let first = tempfile::tempdir().expect("a directory");
        let release = first.path().join("first");
        fs::create_dir(&release).expect("a release");
        fs::write(release.join("app.py"), server.application).expect("an application");
        let current = first.path().join("current");
        symlink(&release, &current).expect("a link");
        let command = server.command("{socket}");
        let config = format!(
            "workers = {WORKERS}\n[app]\ndirectory = {current:?}\ncommand = {command:?}\n\
             [log]\nlevel = \"warn\"\n[upgrade]\nprobation = \"10m\"\n"
        );
        let [image, _] = releases();
        let service = Service::setup("bench-hosted")
            .image(&image)
            .config(&config)
            .start();
        service.wait_phase("serving");
        Self { service, first }
    }

    fn cli(&self, args: &[&str]) {
        let config = self.service.config().to_str().expect("a path");
        let args = [&["--config", config][..], args].concat();
        self.service.cli(&args).assert_code(0);
    }
}

impl Front for Handover {
    fn address(&self) -> SocketAddr {
        match self.service.target("http") {
            Target::Tcp(address) => address,
            Target::Unix(path) => panic!("{} is no port", path.display()),
        }
    }

    fn masters(&self) -> Vec<u32> {
        self.service.masters().iter().map(|one| one.pid).collect()
    }

    fn workers(&self) -> Vec<u32> {
        let status = self.service.status().expect("an answer");
        let workers = self.service.workers(status.generation);
        workers.iter().map(|one| one.pid).collect()
    }

    fn deploy(&mut self, release: &Path) {
        assert!(self.first.path().is_dir());
        self.cli(&["deploy", release.to_str().expect("a path")]);
    }

    fn rollback(&mut self, _: &Path) {
        self.cli(&["rollback"]);
    }

    fn settle(&mut self) {
        let status = self.service.status().expect("an answer");
        if status.upgrade.is_some() {
            self.cli(&["commit"]);
        }
        self.service
            .wait_processes("one master", |_| self.service.masters().len() == 1);
    }
}

struct Nginx {
    dir: tempfile::TempDir,
    port: Port,
    nginx: Child,
    server: Child,
    /// The server's workers when it was told last.
    before: Vec<u32>,
}

impl Nginx {
    fn start(nginx: &Path, server: &Server) -> Self {
        let dir = tempfile::Builder::new().prefix("bench-nginx-").tempdir();
        let dir = dir.expect("a directory");
        let at = dir.path();
        let release = at.join("first");
        fs::create_dir(&release).expect("a release");
        fs::write(release.join("app.py"), server.application).expect("an application");
        let current = at.join("current");
        symlink(&release, &current).expect("a link");
        let socket = at.join("app.sock").display().to_string();
        let words = server.command(&socket);
        let server = Command::new(&words[0])
            .current_dir(at)
            .env("PYTHONPATH", &current)
            .args(&words[1..])
            .spawn()
            .expect("it runs");
        until("its socket", || at.join("app.sock").exists());
        let (port, place) = (Port::reserve(), at.display());
        let address = port.address();
        let config = format!(
            "daemon off;\nuser root;\nworker_processes {WORKERS};\nworker_rlimit_nofile 65536;\n\
             pid {place}/nginx.pid;\nerror_log {place}/error.log error;\n\
             events {{ worker_connections 16000; }}\n\
             http {{\n access_log off;\n keepalive_requests 1000000000;\n keepalive_timeout 75s;\n\
             client_body_temp_path {place}/body;\n proxy_temp_path {place}/proxy;\n\
             fastcgi_temp_path {place}/fastcgi;\n uwsgi_temp_path {place}/uwsgi;\n\
             scgi_temp_path {place}/scgi;\n\
             upstream app {{ server unix:{socket}; keepalive 64; keepalive_timeout 1s; }}\n\
             server {{ listen {address} backlog=4096;\n location / {{\n\
             proxy_pass http://app;\n proxy_http_version 1.1;\n proxy_set_header Connection \"\";\n\
             proxy_set_header Host $host;\n proxy_set_header X-Forwarded-Proto $scheme;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n }} }} }}\n"
        );
        fs::write(at.join("nginx.conf"), config).expect("a configuration");
        let nginx = Command::new(nginx)
            .arg("-e")
            .arg(at.join("error.log"))
            .arg("-c")
            .arg(at.join("nginx.conf"))
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx runs");
        let this = Self {
            dir,
            port,
            nginx,
            server,
            before: Vec::new(),
        };
        until("nginx", || this.workers().len() == WORKERS);
        this
    }

    /// The only order that it knows for it.
    fn hup(&mut self, release: &Path) {
        self.before = self.server_workers();
        point(&self.dir.path().join("current"), release);
        sweep::signal(self.server.id(), Signal::HUP);
    }
}

impl Nginx {
    fn server_workers(&self) -> Vec<u32> {
        let mut workers = children(self.server.id());
        workers.retain(|pid| !title(*pid).contains("resource_tracker"));
        workers
    }
}

impl Front for Nginx {
    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn masters(&self) -> Vec<u32> {
        vec![self.nginx.id()]
    }

    fn workers(&self) -> Vec<u32> {
        let mut workers = children(self.nginx.id());
        workers.retain(|pid| title(*pid).starts_with("nginx: worker process"));
        workers
    }

    fn deploy(&mut self, release: &Path) {
        self.hup(release);
    }

    fn rollback(&mut self, release: &Path) {
        self.hup(release);
    }

    fn settle(&mut self) {
        until("other workers", || {
            let now = self.server_workers();
            now.len() == WORKERS && !now.iter().any(|pid| self.before.contains(pid))
        });
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        sweep::signal(self.nginx.id(), Signal::TERM);
        sweep::signal(self.server.id(), Signal::TERM);
        let _ = self.nginx.wait();
        let _ = self.server.wait();
    }
}
