//! Describes a service and starts it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use super::{Service, install};
use crate::kit::build;
use crate::kit::client::Target;
use crate::kit::manager::{Manager, Unit};
use crate::kit::port::Port;
use crate::kit::proc;
use crate::kit::terminal::Terminal;
use crate::kit::tls::make_certificate;

/// What to start, and how.
#[derive(Debug, Clone)]
pub struct Setup {
    test: String,
    name: String,
    image: PathBuf,
    config: String,
    tcp: Vec<String>,
    unix: Vec<String>,
    passed: Vec<String>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    own_config: bool,
    tls: bool,
}

impl Setup {
    pub(super) fn new(test: &str) -> Self {
        Self {
            test: test.to_owned(),
            name: "handover".into(),
            image: build::own(),
            config: "workers = 2\n".into(),
            tcp: Vec::new(),
            unix: Vec::new(),
            passed: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            own_config: true,
            tls: false,
        }
    }

    /// Another program than the one under test.
    pub fn image(mut self, image: impl Into<PathBuf>) -> Self {
        self.image = image.into();
        self
    }

    /// Another name than `handover`.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The configuration without its listeners; `workers = 2` unless said.
    pub fn config(mut self, text: &str) -> Self {
        text.clone_into(&mut self.config);
        self
    }

    /// Not a word of configuration: a library's program.
    pub fn without_config(mut self) -> Self {
        self.own_config = false;
        self
    }

    /// A listener on a free TCP port. Without any there is one called `http`.
    pub fn tcp(mut self, name: &str) -> Self {
        self.tcp.push(name.to_owned());
        self
    }

    /// All listeners speak TLS, with a certificate for `localhost` in `tls/localhost.crt`.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// A listener on a Unix socket in the service's directory.
    pub fn unix(mut self, name: &str) -> Self {
        self.unix.push(name.to_owned());
        self
    }

    /// A TCP listener whose address the configuration does not know: under a manager it is passed
    /// as by a `.socket` unit.
    pub fn passed(mut self, name: &str) -> Self {
        self.passed.push(name.to_owned());
        self.tcp(name)
    }

    /// More arguments of `run`.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// A variable of the processes' environment, which is otherwise empty but for `PATH`.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts it as from a terminal or a container: without a service manager. Does not wait.
    pub fn start(self) -> Service {
        let service = self.prepare();
        service.start();
        service
    }

    /// Starts it under the fake service manager. `shape` may change the unit. Does not wait.
    pub fn start_under_manager(self, shape: impl FnOnce(Unit) -> Unit) -> Service {
        self.prepare().start_under_manager(shape)
    }

    /// Makes the directories and files, starts nothing.
    pub fn prepare(mut self) -> Service {
        let dir = tempfile::Builder::new()
            .prefix(&format!("kit-{}-", self.test))
            .tempdir()
            .expect("a temporary directory");
        let root = dir.path();
        for sub in ["bin", "run", "state"] {
            fs::create_dir(root.join(sub)).expect("a new directory");
        }
        if self.tcp.is_empty() && self.unix.is_empty() {
            self.tcp.push("http".into());
        }
        let mut ports = Vec::new();
        let mut listeners = Vec::new();
        for name in &self.tcp {
            let port = Port::reserve();
            listeners.push((name.clone(), Target::Tcp(port.address())));
            ports.push(port);
        }
        for name in &self.unix {
            let path = root.join(format!("{name}.sock"));
            listeners.push((name.clone(), Target::Unix(path)));
        }
        let program = root.join("bin").join(&self.name);
        install(&self.image, &program);
        let config = root.join(format!("{}.toml", self.name));
        if self.own_config {
            self.write_config(&config, &self.config, &listeners);
        }
        proc::become_subreaper().expect("a subreaper");
        Service {
            name: self.name.clone(),
            program,
            config,
            runtime: root.join("run"),
            state: root.join("state"),
            log: root.join("log"),
            listeners,
            marker: format!("{}-{:016x}", self.test, fastrand::u64(..)),
            client: build::own(),
            child: Mutex::new(None),
            manager: None,
            transcript: Mutex::new(Vec::new()),
            began: Instant::now(),
            setup: self,
            ports,
            dir,
        }
    }

    pub(super) fn write_config(&self, path: &Path, text: &str, listeners: &[(String, Target)]) {
        let mut whole = format!("{text}\n");
        if self.tls {
            let directory = path.with_file_name("tls");
            if !directory.exists() {
                make_certificate(&directory, &["localhost"]);
            }
            // The text may end in the middle of that table.
            if !whole.contains("[tls]") {
                whole.push_str("[tls]\n");
            }
            let _ = writeln!(whole, "directory = {directory:?}");
        }
        for (name, target) in listeners {
            let _ = writeln!(whole, "[[listener]]\nname = \"{name}\"");
            if !self.passed.contains(name) {
                let _ = writeln!(whole, "address = \"{target}\"");
            }
            if self.tls {
                whole.push_str("tls = true\n");
            }
        }
        fs::write(path, whole).expect("the configuration file");
    }
}

impl Service {
    /// Starts what was prepared under the fake service manager. `shape` may change the unit. Does
    /// not wait.
    pub fn start_under_manager(mut self, shape: impl FnOnce(Unit) -> Unit) -> Self {
        let mut unit = self.unit();
        for name in &self.setup.passed {
            unit.sockets.push(self.socket(name));
        }
        self.manager = Some(Manager::start(shape(unit)));
        self
    }

    /// Starts the program without a service manager (again, after its end).
    pub fn start(&self) {
        self.start_by(Command::new(&self.program));
    }

    /// Starts it by a command that executes it with the arguments that follow (`prlimit ... PROGRAM`).
    pub fn start_by(&self, mut command: Command) {
        command
            .stdin(Stdio::null())
            .stdout(self.log_file())
            .stderr(self.log_file());
        self.spawn(command);
    }

    /// Starts it as the first process of a PID namespace, as in a container.
    pub fn start_as_first_process(&self) {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(&self.program);
        self.start_by(command);
    }

    /// Starts it as systemd-socket-activate(1) does: without a service manager, with a socket.
    pub fn start_activated(&self, listener: &str) {
        self.start_activated_times(listener, 1);
    }

    /// The same, with so many descriptors of that one socket.
    pub fn start_activated_times(&self, listener: &str, times: usize) {
        let (_, socket) = self.socket(listener);
        let mut command = Command::new("bash");
        command
            .args(["-euc", ACTIVATE, &times.to_string()])
            .arg(&self.program)
            .stdin(socket)
            .stdout(self.log_file())
            .stderr(self.log_file());
        self.spawn(command);
    }

    /// Starts it on a terminal: it leads the session, as the only job of a shell would.
    pub fn start_on(&self, terminal: &Terminal) {
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--"])
            .arg(&self.program)
            .stdin(terminal.screen())
            .stdout(terminal.screen())
            .stderr(terminal.screen());
        self.spawn(command);
    }

    fn spawn(&self, mut command: Command) {
        let child = command
            .args(self.run_args())
            .arg("--runtime-dir")
            .arg(&self.runtime)
            .arg("--state-dir")
            .arg(&self.state)
            .env_clear()
            .envs(self.env())
            .current_dir(self.dir())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", self.program.display()));
        self.note(&format!(
            "started {} ({})",
            self.program.display(),
            child.id()
        ));
        *self.child() = Some(child);
    }

    /// A unit for the fake service manager that runs this service.
    pub fn unit(&self) -> Unit {
        let mut unit = Unit::new(&self.program, &self.marker, self.dir());
        unit.args = self.run_args();
        unit.env = self.env();
        unit.runtime_dir = Some(self.runtime.clone());
        unit.state_dir = Some(self.state.clone());
        unit.log = Some(self.log.clone());
        unit
    }

    /// Listening sockets for a `.socket` unit, bound where the listener of that name is expected.
    pub fn socket(&self, listener: &str) -> (String, OwnedFd) {
        let fd = match self.target(listener) {
            Target::Tcp(address) => std::net::TcpListener::bind(address)
                .expect("a reserved port")
                .into(),
            Target::Unix(path) => std::os::unix::net::UnixListener::bind(path)
                .expect("a new socket")
                .into(),
        };
        (listener.to_owned(), fd)
    }

    fn run_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["run".into()];
        if self.setup.own_config {
            args.push("--config".into());
            args.push(self.config.clone().into());
        }
        if self.name != "handover" {
            args.push("--name".into());
            args.push(self.name.clone().into());
        }
        args.extend(self.setup.args.iter().cloned());
        args
    }

    fn env(&self) -> Vec<(OsString, OsString)> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let mut env: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), path),
            ("RUST_BACKTRACE".into(), "1".into()),
            (proc::MARKER.into(), self.marker.clone().into()),
        ];
        env.extend(self.setup.env.iter().cloned());
        env
    }

    fn log_file(&self) -> File {
        File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log file")
    }
}

/// The socket comes as stdin: a `Command` gives its child no other descriptor.
const ACTIVATE: &str = "for ((n = 3; n < 3 + $0; n++)); do eval \"exec $n<&0\"; done; \
    exec </dev/null; export LISTEN_PID=$$ LISTEN_FDS=$0; exec \"$@\"";
