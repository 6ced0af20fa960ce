//! The library's front: a service is named, given its applications, and run. [`Service::run`]
//! decides what this very process is: keeper, master, worker, or a client of one that runs.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use futures_util::FutureExt as _;

use crate::api::exit;
use crate::cli::args::{self, Ask, Bare, Cert, Command, Globals, Invocation, Program, Run};
use crate::cli::cert;
use crate::cli::check;
use crate::cli::client::{Client, Installation, Screen};
use crate::cli::places::{Env, Places};
use crate::cli::text::printable;
use crate::config::{
    Config, ConfigError, ListenerConfig, Overrides, Redirect, Room, Sources, Workers,
};
use crate::context::Context;
use crate::keeper::{self, Kept, Legacy};
use crate::machine::trial::{Ended, Verdict};
use crate::master::store::{Store, StoreError};
use crate::master::{self, Origin, Setup};
#[cfg(feature = "daemon")]
use crate::supervisor;
use crate::sys::image::Image;
use crate::sys::inherited::{self, Inherited, Role, UNNAMED};
use crate::sys::unit::UnitFile;
use crate::sys::{journal, signals};
use crate::worker;
#[cfg(feature = "tls")]
pub use crate::worker::TlsInfo;
use crate::worker::raw::{Handler, Handlers, Socket};

mod app;
mod checks;
mod own;

pub use app::{App, BoxError};
use app::{Maker, Prepare};
pub use own::Log;
use own::Own;

/// A network service that can replace its own running program.
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// fn main() -> std::process::ExitCode {
///     let app = Router::new().route("/", get(|| async { "hello" }));
///     handover::Service::new("hello")
///         .version(env!("CARGO_PKG_VERSION"))
///         .http("http", "[::]:8080", app)
///         .run()
/// }
/// ```
///
/// `main` must be synchronous: the service makes its runtimes itself, in processes of its own.
///
/// A handler that panics costs its own request (500), or its own answer where that had begun, and
/// the log says so. That needs `panic = "unwind"`, which is cargo's default: in a program built with
/// `panic = "abort"` nothing can be caught, and a panic ends the worker with all its requests (a
/// master warns of that when it starts).
#[must_use = "a service does nothing until it is run"]
pub struct Service {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    about: &'static str,
    bare: Bare,
    site: bool,
    pub(crate) defaults: Config,
    apps: HashMap<String, Maker>,
    every: Option<Maker>,
    prepare: Option<Prepare>,
    raw: HashMap<String, Handler>,
    /// A listener that two applications were given for.
    twice: Option<String>,
    /// Whether the program has said its version.
    versioned: bool,
    own: Own,
    /// The listeners that are never served without TLS.
    tls: HashSet<String>,
    /// Where systemd puts credentials.
    credentials: Option<PathBuf>,
}

impl Service {
    /// A service of this name: its directories, configuration file and socket are called so.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            version: env!("CARGO_PKG_VERSION"),
            about: "A network service that replaces its own running program",
            bare: Bare::Run,
            site: false,
            defaults: Config {
                name: name.into(),
                workers: Workers::Count(1),
                threads: std::thread::available_parallelism().map_or(1, usize::from),
                ..Config::default()
            },
            apps: HashMap::new(),
            every: None,
            prepare: None,
            raw: HashMap::new(),
            twice: None,
            versioned: false,
            own: Own::default(),
            tls: HashSet::new(),
            credentials: None,
        }
    }

    /// The program's version: what `status` and the journal call it.
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self.versioned = true;
        self
    }

    /// One sentence for `--help`.
    pub fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }

    /// Serves `app` over HTTP on the listener of this name. `address` (`host:port`, `[v6]:port` or
    /// `unix:/path`) holds unless the configuration has another one or a socket unit passes the
    /// name.
    ///
    /// `app` is a `Router`, or an async function that makes one in every worker: see [`App`].
    pub fn http<Kind>(mut self, listener: &str, address: &str, app: impl App<Kind>) -> Self {
        self.default_listener(listener, address);
        let before = self.apps.insert(listener.into(), app::maker(app));
        if before.is_some() || self.raw.contains_key(listener) {
            self.twice = Some(listener.into());
        }
        self
    }

    /// Gives the connections of the listener of this name to a function of the application's own,
    /// which speaks what it likes with them; or, at an address `udp:host:port`, the socket where all
    /// datagrams come in, once in every worker. Otherwise as [`http`](Self::http).
    ///
    /// A connection stays with the worker that accepted it. A drain waits until the function has
    /// returned, so it should end at a good moment when [`Context::draining`] says so. Datagrams go
    /// to whoever reads first: the function leaves the socket at once then, what is in its queue is
    /// read by the next generation. A `.socket` unit cannot pass datagrams.
    ///
    /// ```no_run
    /// # use handover::{Context, Socket};
    /// # let service = handover::Service::new("echo");
    /// service.listener("echo", "[::]:7", async |socket: Socket, cx: Context| {
    ///     let Socket::Tcp(stream) = socket else { return };
    ///     let Ok(mut stream) = tokio::net::TcpStream::from_std(stream) else { return };
    ///     let (mut from, mut to) = stream.split();
    ///     tokio::select! {
    ///         _ = cx.draining() => {}
    ///         _ = tokio::io::copy(&mut from, &mut to) => {}
    ///     }
    /// })
    /// # .run();
    /// ```
    pub fn listener<F, S>(mut self, listener: &str, address: &str, serve: F) -> Self
    where
        F: Fn(Socket, Context) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        self.default_listener(listener, address);
        let before = self.raw.insert(listener.into(), Handler::new(serve));
        if before.is_some() || self.apps.contains_key(listener) {
            self.twice = Some(listener.into());
        }
        self
    }

    /// As [`http`](Self::http), over TLS: with the certificates that `[tls]` of the configuration
    /// names (`cert NAME` of the command line makes one for a first try). A handler that wants to
    /// know its client's name, protocol or certificate takes
    /// `Extension<Arc<`[`TlsInfo`](crate::TlsInfo)`>>`.
    #[cfg(feature = "tls")]
    pub fn https<Kind>(self, listener: &str, address: &str, app: impl App<Kind>) -> Self {
        let mut service = self.http(listener, address, app);
        if let Some(last) = service.defaults.listeners.last_mut() {
            last.tls = true;
        }
        service.tls.insert(listener.to_owned());
        service
    }

    /// Serves one application on every configured listener that has none of its own; where nothing
    /// is configured, on this one. As [`http`](Self::http) otherwise.
    pub fn every_listener<Kind>(
        mut self,
        listener: &str,
        address: &str,
        app: impl App<Kind>,
    ) -> Self {
        self.default_listener(listener, address);
        self.every = Some(app::maker(app));
        self
    }

    /// What every generation does once, before any of its workers serves: a migration, a cache to
    /// fill. It runs in one of its workers, whose functions for applications come after it, while the
    /// generation before serves on; the others wait. Its error fails the upgrade. It has the time that
    /// a start has, `[upgrade] start_timeout`. One whose worker dies meanwhile is begun again.
    ///
    /// ```no_run
    /// # use handover::{BoxError, Context};
    /// # async fn migrate() -> Result<u32, BoxError> { Ok(42) }
    /// # let service = handover::Service::new("hello");
    /// service.prepare(async |cx: Context| {
    ///     let schema = migrate().await?;
    ///     if schema >= 42 {
    ///         cx.irreversible(format!("schema {schema}"));
    ///     }
    ///     Ok::<_, BoxError>(())
    /// })
    /// # .run();
    /// ```
    pub fn prepare<F, Fut, E>(mut self, prepare: F) -> Self
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.prepare = Some(Arc::new(move |context| {
            let preparing = prepare(context);
            Box::pin(async move { preparing.await.map_err(Into::into) })
        }));
        self
    }

    /// What holds where no configuration file and no flag says another thing.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # let service = handover::Service::new("hello");
    /// service.defaults(|settings| {
    ///     settings.upgrade.health = Some("/healthz".into());
    ///     settings.upgrade.probation = Duration::from_secs(300);
    ///     settings.drain.timeout = Duration::from_secs(60);
    /// })
    /// # .run();
    /// ```
    pub fn defaults(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.defaults);
        self
    }

    /// One single-thread worker a core, unless the configuration says otherwise; for applications
    /// that hold no state worth sharing. Without this: one worker with a thread a core.
    pub fn worker_per_core(mut self) -> Self {
        self.defaults.workers = Workers::Auto;
        self.defaults.threads = 1;
        self
    }

    /// The daemon: `run` takes `--root`, and a bare command line prints help.
    #[cfg(feature = "daemon")]
    pub(crate) fn serves_a_site(mut self) -> Self {
        self.site = true;
        self.bare = Bare::Help;
        self
    }

    fn default_listener(&mut self, name: &str, address: &str) {
        let listener = ListenerConfig::new(name, Some(address));
        self.defaults.listeners.push(listener);
    }

    /// Reads the environment and the command line and does what they say; returns when that is
    /// done. Call it first thing in a synchronous `main`, before any thread is started; where one
    /// runs, or a runtime, it says so and exits with 1.
    ///
    /// `main` runs in every process of the service: the masters, the workers, the keeper that a
    /// terminal needs, and the clients (`status`, `upgrade`...). What only workers need belongs into
    /// the function that makes the application.
    #[must_use = "the exit code is for the caller of the program"]
    pub fn run(self) -> ExitCode {
        let misplaced = checks::placed().and_then(|()| checks::distinct(self.own.typed));
        if let Err(e) = misplaced {
            eprintln!("{}: {e}", self.name);
            return ExitCode::from(exit::FAILED);
        }
        match inherited::inherit() {
            Ok(inherited) => self.be(inherited),
            Err(e) => {
                eprintln!("{}: {e}", self.name);
                ExitCode::from(exit::FAILED)
            }
        }
    }

    fn be(mut self, mut inherited: Inherited) -> ExitCode {
        self.credentials.clone_from(&inherited.credentials);
        let code = match std::mem::replace(&mut inherited.role, Role::First) {
            Role::Worker(channel) => self.work(&inherited, channel),
            #[cfg(not(feature = "daemon"))]
            // No master of this program starts one.
            Role::Supervisor(_) => exit::FAILED,
            #[cfg(feature = "daemon")]
            Role::Supervisor(channel) => {
                let code = supervisor::run(channel, inherited.journal_stream);
                u8::from(code != ExitCode::SUCCESS)
            }
            Role::Successor(channel) => self.master(inherited, Origin::Predecessor(channel)),
            Role::FirstUnderKeeper(pipe) => {
                match Legacy::hear(&pipe) {
                    Ok(legacy) => {
                        inherited.program = legacy.program;
                        inherited.listeners = legacy.listeners;
                    }
                    Err(e) => {
                        eprintln!("{}: the keeper does not say what to run: {e}", self.name);
                        return ExitCode::from(exit::FAILED);
                    }
                }
                self.master(inherited, Origin::First(Some(pipe)))
            }
            Role::First => return self.typed(inherited),
        };
        ExitCode::from(code)
    }

    /// Its command line, for manual pages and completions.
    #[doc(hidden)]
    #[must_use]
    pub fn command_line(&self) -> clap::Command {
        args::command(&self.program())
    }

    fn program(&self) -> Program {
        Program {
            name: self.name,
            version: self.version,
            about: self.about,
            bare: self.bare,
            site: self.site,
            own: self.own.typed,
        }
    }

    /// A person, a script or systemd typed something.
    fn typed(self, inherited: Inherited) -> ExitCode {
        let invocation = match self.interpret(&inherited.args) {
            Ok(invocation) => invocation,
            Err(told) => {
                told.print();
                return ExitCode::from(told.exit());
            }
        };
        let code = match &invocation.command {
            Command::Own => {
                let typed = invocation.own.unwrap_or_default();
                return self.run_own(&typed).unwrap_or_else(|told| {
                    told.print();
                    ExitCode::from(told.exit())
                });
            }
            // A container ends with its first process: that one stays, whoever owns the service.
            Command::Run(_) if inherited.notify.is_some() && std::process::id() != 1 => {
                self.master(inherited, Origin::First(None))
            }
            Command::Run(run) => self.keep(inherited, &invocation.globals, run),
            Command::Check { preflight } => self.check(&inherited, &invocation, *preflight),
            Command::Cert(cert) => self.make_certificate(&invocation.globals, cert),
            Command::Ask(ask) => {
                let env = environment(&inherited);
                let name = |file: &std::ffi::OsStr| {
                    // proc(5): of a file that was replaced meanwhile.
                    let file = file.to_string_lossy();
                    file.trim_end_matches(" (deleted)").to_owned()
                };
                let file = inherited.program.file_name();
                let typed = file.map_or_else(|| self.name.into(), name);
                let mut screen = Screen::standard(&typed, env.plain);
                let program = own_program(&inherited);
                let installation = Installation {
                    program: program.clone(),
                    put: &|file| install(&program, file),
                };
                // Only who needs it reads it: the others answer without a configuration.
                let link = match ask {
                    Ask::Deploy(_) => match self.link(&invocation.globals, &inherited) {
                        Ok(link) => link,
                        Err(e) => {
                            eprintln!("{e}");
                            return ExitCode::from(exit::CONFIG);
                        }
                    },
                    // It goes back all the same.
                    Ask::Rollback => self.link(&invocation.globals, &inherited).ok().flatten(),
                    _ => None,
                };
                let globals = self.named(&invocation.globals, &inherited);
                let client = Client::new(&typed, self.name, &globals, &env, installation)
                    .link(link.as_deref());
                client.run(ask, &mut screen)
            }
        };
        ExitCode::from(code)
    }

    /// Who names a configuration alone means the service that it names.
    fn named(&self, globals: &Globals, inherited: &Inherited) -> Globals {
        let mut globals = globals.clone();
        if globals.name.is_none() && globals.config.is_some() {
            let sources = self.sources(&globals, &Run::default(), room(inherited));
            globals.name = sources.name_in_files().filter(|name| name != self.name);
        }
        globals
    }

    /// `[app] directory`. That what it leads to now cannot be started is why somebody deploys.
    fn link(
        &self,
        globals: &Globals,
        inherited: &Inherited,
    ) -> Result<Option<PathBuf>, ConfigError> {
        let sources = self.sources(globals, &Run::default(), room(inherited));
        let (loaded, _) = sources.load_for_any_release()?;
        Ok(loaded.config.app.map(|app| app.directory))
    }

    fn interpret(&self, typed: &[OsString]) -> Result<Invocation, args::Told> {
        let argv = std::iter::once(OsString::from(self.name)).chain(typed.iter().cloned());
        args::interpret(&self.program(), argv)
    }

    fn sources(&self, globals: &Globals, run: &Run, room: Room) -> Sources {
        Sources {
            room,
            explicit: globals.config.clone(),
            defaults: self.defaults.clone(),
            overrides: Overrides {
                name: globals.name.clone(),
                listen: run.listen.clone(),
                root: run.root.clone(),
                workers: run.workers,
                app: run.app.clone(),
                command: run.command.clone(),
            },
            application: self.own.reader,
            datagrams: self.raw.keys().cloned().collect(),
            credentials: self.credentials.clone(),
        }
    }

    fn keep(self, inherited: Inherited, globals: &Globals, run: &Run) -> u8 {
        // What can be said at once is said by the process that was started.
        let sources = self.sources(globals, run, room(&inherited));
        // What the link leads to is not always what is started: the master says so.
        let mut config = match sources.load_for_any_release() {
            Ok((loaded, _)) => loaded.config,
            Err(e) => {
                eprintln!("{e}");
                return exit::CONFIG;
            }
        };
        // The keys are the master's: this process lives as long as the service.
        config.tls.identities = None;
        if let Err(e) = self.serves(&config) {
            eprintln!("{}: {e}", self.name);
            return exit::CONFIG;
        }
        let complain = |e: &StoreError| eprintln!("{}: {e}", self.name);
        let cold = ColdStart::of(&inherited.program).unwrap_or_else(|e| {
            complain(&e);
            None
        });
        let instead = cold.as_ref().and_then(|cold| {
            let instead = cold.begin().inspect_err(complain).ok().flatten();
            instead.inspect(|image| {
                let path = image.path().display();
                eprintln!(
                    "{}: the program did not prove itself in its tries: it is {path}.rejected, and \
                     the last good one starts",
                    self.name
                );
            })
        });
        let mut kept = Kept {
            image: instead,
            arg0: format!("{}: master process g1", config.name),
            program: inherited.program,
            args: inherited.args,
            listeners: inherited.listeners,
            notify: inherited.notify,
        };
        // systemd-socket-activate(1) without `--fdname`: the first one is for the first listener.
        let unnamed = kept.listeners.iter_mut().filter(|l| l.name == UNNAMED);
        for (listener, wanted) in unnamed.zip(&config.listeners) {
            listener.name.clone_from(&wanted.name);
        }
        let code = keeper::keep(kept).unwrap_or_else(|e| {
            eprintln!("{}: {e}", self.name);
            exit::FAILED
        });
        if let Some(Err(e)) = cold.map(|cold| cold.ended(code)) {
            complain(&e);
        }
        code
    }

    fn make_certificate(&self, globals: &Globals, wanted: &Cert) -> u8 {
        let service = globals.name.as_deref().unwrap_or(self.name);
        let beside = match &globals.config {
            Some(config) => config.with_file_name("tls"),
            None => Path::new("/etc").join(service).join("tls"),
        };
        let directory = wanted.directory.as_ref().unwrap_or(&beside);
        let unit = UnitFile::read(&format!("{service}.service"));
        let group = unit
            .as_ref()
            .and_then(|unit| unit.value("Group").or_else(|| unit.value("User")));
        let group = group.unwrap_or(service);
        match cert::make(&wanted.names, directory, group, jiff::Timestamp::now()) {
            Ok(made) => {
                println!("{}", made.certificate.display());
                println!("{}", made.key.display());
                if !made.shared {
                    let key = made.key.display();
                    eprintln!(
                        "{}: only you can read the key; for a service of another user: \
                         chgrp GROUP {key} && chmod 0640 {key}",
                        self.name
                    );
                }
                println!(
                    "It signs itself, so clients must be told to trust it. To use it:\n\n\
                     [[listener]]\nname = \"https\"\naddress = \"[::]:8443\"\ntls = true\n\n\
                     [tls]\ndirectory = \"{}\"",
                    directory.display()
                );
                exit::OK
            }
            Err(e) => {
                eprintln!("{}: {e}", self.name);
                exit::FAILED
            }
        }
    }

    /// Says also what the service could not use although the file is good. A pre-flight is where the
    /// service is, and its successor tries all of it.
    fn check(&self, inherited: &Inherited, invocation: &Invocation, preflight: bool) -> u8 {
        let globals = &invocation.globals;
        let mut sources = self.sources(globals, &Run::default(), room(inherited));
        if !preflight && sources.credentials.is_none() {
            // Where systemd has put them for the service that runs (systemd.exec(5)).
            let name = globals.name.as_deref().unwrap_or(self.name);
            let theirs = Path::new("/run/credentials").join(format!("{name}.service"));
            sources.credentials = Some(theirs).filter(|directory| directory.is_dir());
        }
        let loaded = if preflight && inherited.keeps_release {
            sources.load_for_any_release().map(|(loaded, _)| loaded)
        } else {
            sources.load()
        };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(e) => {
                eprintln!("{e}");
                return exit::CONFIG;
            }
        };
        let unserved = self.serves(&loaded.config).err();
        let mut bad: Vec<_> = unserved.iter().map(ToString::to_string).collect();
        for doubt in self.doubts(&loaded.config) {
            eprintln!("{}: warning: {doubt}", self.name);
        }
        let identities = loaded.config.tls.identities.as_deref();
        let now = SystemTime::now();
        for doubt in identities.into_iter().flat_map(|all| all.doubts(now)) {
            eprintln!("{}: warning: {doubt}", self.name);
        }
        let dates = identities.and_then(|all| all.check_dates(now, None).err());
        let faults = identities.into_iter().flat_map(|all| &all.faults);
        let certificates: Vec<String> = faults
            .map(|fault| fault.told.clone())
            .chain(dates.map(|e| e.to_string()))
            .collect();
        if preflight {
            // No fault of the program: it goes on with the certificates that are served now.
            for fault in certificates {
                eprintln!("{}: warning: {fault}", self.name);
            }
        } else {
            bad.extend(certificates);
        }
        if !preflight {
            let config = &loaded.config;
            let env = environment(inherited);
            let nothing = Installation {
                program: PathBuf::new(),
                put: &|_| Ok(()),
            };
            let client = Client::new(self.name, &config.name, globals, &env, nothing);
            // One that does not answer may hold everything.
            if let Ok(status) = client.status_now() {
                bad.extend(check::taken(config, status.as_ref()));
                let elsewhere = status.is_some_and(|status| status.systemd_main_pid.is_none());
                let unit = UnitFile::read(&format!("{}.service", config.name));
                if let Some(unit) = unit.filter(|_| globals.config.is_none() && !elsewhere) {
                    bad.extend(check::unusable_in_unit(config, &unit));
                }
            }
        }
        if bad.is_empty() {
            print!("{}", check::report(&loaded));
            return exit::OK;
        }
        for bad in bad {
            eprintln!("{bad}");
        }
        exit::CONFIG
    }

    fn master(self, inherited: Inherited, origin: Origin) -> u8 {
        let invocation = match self.interpret(&inherited.args) {
            Ok(invocation) => invocation,
            Err(told) => {
                told.print();
                return told.exit();
            }
        };
        let run = match invocation.command {
            Command::Run(run) => run,
            Command::Check { .. } | Command::Cert(_) | Command::Ask(_) | Command::Own => {
                eprintln!("{}: a master cannot be started so", self.name);
                return exit::USAGE;
            }
        };
        let globals = invocation.globals;
        let sources = self.sources(&globals, &run, room(&inherited));
        let (mut unserved, mut doubts) = (None, Vec::new());
        let (name, level) = match sources.load_for_any_release() {
            Ok((loaded, _)) => {
                // A successor may be given another configuration; its pre-flight has checked ours.
                if let Origin::First(_) = &origin {
                    unserved = self.serves(&loaded.config).err();
                    doubts = self.doubts(&loaded.config);
                }
                (loaded.config.name, loaded.config.log.level)
            }
            // Said again, to the one who must know, where the configuration is really needed.
            Err(_) => (
                globals.name.clone().unwrap_or_else(|| self.name.into()),
                "info".into(),
            ),
        };
        // Those of threads that a log starts, too.
        if let Err(e) = signals::block(signals::OPERATOR) {
            eprintln!("{}: cannot block signals: {e}", self.name);
        }
        self.start_log(inherited.journal_stream, &level);
        for doubt in &doubts {
            tracing::warn!("{doubt}");
        }
        if let Some(e) = unserved {
            tracing::error!("{e}");
            return exit::CONFIG;
        }
        end_with_a_panic();
        if cfg!(panic = "abort") {
            tracing::warn!(
                "built with panic = \"abort\": a handler that panics ends its worker and every \
                 request in it; take it out of the profile in Cargo.toml"
            );
        }
        let env = environment(&inherited);
        let places = Places::resolve(&globals, &name, &env);
        if let Err(e) = places.prepare(env.uid) {
            tracing::error!("{e}");
            return exit::FAILED;
        }
        let typed = matches!(origin, Origin::First(_)) && !inherited.journal_stream;
        let setup = Setup {
            name: name.clone(),
            version: self.version.into(),
            program: inherited.program,
            args: inherited.args,
            check: check_arguments(&globals),
            cwd: inherited.cwd,
            runtime: places.runtime,
            state: places.state,
            sources,
            notify: inherited.notify,
            watchdog: inherited.watchdog,
            passed: inherited.listeners,
            unit_rev: inherited.unit_rev,
            origin,
        };
        master::run(setup).unwrap_or_else(|e| {
            match e.to_string() {
                // A line of the log is one line, and this has a picture.
                told if typed && told.contains('\n') => {
                    eprintln!("{}", printable(format!("{name}: {told}")));
                }
                told => tracing::error!("{told}"),
            }
            e.exit()
        })
    }

    fn work(self, inherited: &Inherited, channel: std::os::fd::OwnedFd) -> u8 {
        let journal = inherited.journal_stream;
        let code = worker::run(channel, move |context: Context| {
            self.start_log(journal, &context.settings().log.level);
            journal::set_generation(context.generation());
            Box::pin(async move { self.load(context).await })
        });
        u8::from(code != ExitCode::SUCCESS)
    }

    /// The log of this process. A program that has a subscriber of its own, set before
    /// [`Service::run`], keeps it: what we say goes there.
    fn start_log(&self, journal: bool, level: &str) {
        if let Some(start) = &self.own.log {
            return start(Log::new(journal, level));
        }
        match journal::init(journal, level) {
            Ok(()) | Err(journal::JournalError::Installed) => {}
            Err(e) => eprintln!("{e}"),
        }
    }

    /// The application of every configured listener; each is made once.
    pub(crate) async fn load(&self, context: Context) -> Result<HashMap<String, Router>, BoxError> {
        self.keep_own(&context)?;
        if let Some(prepare) = &self.prepare {
            let work = AssertUnwindSafe(async { prepare(context.clone()).await }).catch_unwind();
            let work = async { work.await.unwrap_or_else(|_| Err(Box::new(Unprepared))) };
            worker::prepare::once(&context, work).await?;
        }
        let own: Handlers = Arc::new(self.raw.clone());
        context.keep(|| own);
        let mut routers = HashMap::new();
        let mut everywhere = None;
        for listener in &context.settings().listeners {
            let name = &listener.name;
            if routers.contains_key(name) {
                continue;
            }
            if let Some(Redirect::Https { port }) = listener.redirect {
                let port = port.or_else(|| context.settings().https_port());
                let port = port.unwrap_or(443);
                routers.insert(name.clone(), worker::redirect_to_https(port));
                continue;
            }
            if self.raw.contains_key(name) {
                // Never asked.
                routers.insert(name.clone(), Router::new());
                continue;
            }
            let make = match (self.apps.get(name), &everywhere, &self.every) {
                (None, Some(router), _) => {
                    routers.insert(name.clone(), Router::clone(router));
                    continue;
                }
                (Some(make), ..) | (None, None, Some(make)) => make,
                (None, None, None) => return Err(checks::Unserved::Unknown(name.clone()).into()),
            };
            let router = AssertUnwindSafe(async { make(context.clone()).await });
            let router = router
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(Box::new(Panicked(name.clone()))))?;
            if !self.apps.contains_key(name) {
                everywhere = Some(router.clone());
            }
            routers.insert(name.clone(), router);
        }
        Ok(routers)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Where and why is on standard error.
#[derive(Debug, thiserror::Error)]
#[error("the application for listener {0:?} panicked while it was made")]
struct Panicked(String);

#[derive(Debug, thiserror::Error)]
#[error("what this generation does before it serves has panicked")]
struct Unprepared;

/// A master that has panicked somewhere must not live on without that part: everybody else is
/// prepared for its death, and nobody for its silence.
fn end_with_a_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
}

/// A pre-flight reads the same configuration as the service.
fn check_arguments(globals: &Globals) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["check".into(), "--preflight".into()];
    if let Some(name) = &globals.name {
        arguments.extend(["--name".into(), name.into()]);
    }
    if let Some(config) = &globals.config {
        arguments.extend(["--config".into(), config.into()]);
    }
    arguments
}

fn environment(inherited: &Inherited) -> Env {
    Env {
        runtime_directory: inherited.runtime_dir.clone(),
        state_directory: inherited.state_dir.clone(),
        xdg_runtime_dir: inherited.xdg_runtime_dir.clone(),
        xdg_state_home: inherited.xdg_state_home.clone(),
        home: inherited.home.clone(),
        uid: nix::unistd::geteuid().as_raw(),
        plain: inherited.plain,
    }
}

/// For listeners, in this process.
fn room(inherited: &Inherited) -> Room {
    Room {
        files: Some(inherited.files_max),
        systemd: inherited.notify.is_some(),
    }
}

/// The program of the installation that this very image is a file of, whichever of those beside it
/// runs (`/usr/bin/handover` is a link to `handover.good`).
fn own_program(inherited: &Inherited) -> PathBuf {
    let image = std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| inherited.program.clone());
    let path = image.to_string_lossy();
    // proc(5): of a file that was replaced meanwhile.
    let path = path.strip_suffix(" (deleted)").unwrap_or(&path);
    let beside = [".good", ".old", ".rejected"];
    let program = beside.iter().find_map(|end| path.strip_suffix(end));
    PathBuf::from(program.unwrap_or(path))
}

/// `upgrade --binary`: the file takes the program's place.
fn install(program: &std::path::Path, file: &std::path::Path) -> Result<(), Box<dyn Error>> {
    Store::install(program, file)?;
    Ok(())
}

/// Without a service manager nobody else looks at the program before it is started cold.
#[derive(Debug)]
struct ColdStart(Store);

impl ColdStart {
    /// `None`: the program is not ours to change.
    fn of(program: &std::path::Path) -> Result<Option<Self>, StoreError> {
        let store = Store::new(program.to_owned(), Arc::new(Image::running()?))?;
        Ok(store.is_ours().then_some(Self(store)))
    }

    /// What to start instead of this program.
    fn begin(&self) -> Result<Option<Image>, StoreError> {
        match self.0.start()? {
            Verdict::PutBack => Ok(Some(self.0.open()?)),
            _ => Ok(None),
        }
    }

    fn ended(&self, code: u8) -> Result<(), StoreError> {
        let how = match code {
            exit::OK => Ended::AsAsked,
            exit::USAGE | exit::DENIED | exit::CONFIG => Ended::Hopeless,
            _ => return Ok(()),
        };
        self.0.ended(how).map(drop)
    }
}
