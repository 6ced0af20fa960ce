//! How a master begins: alone, or as somebody's successor.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::control;
use super::control::ControlSocket;
use super::disk::Disk;
use super::driver::{Constants, Driver};
use super::handoff;
use super::history::History;
use super::hosting::Applications;
use super::inheritance::{self, InheritanceError, Received};
use super::input::Input;
use super::inquiry::Inquiry;
use super::line::{Heard, Line};
use super::manager::Manager;
use super::metrics::MetricsSocket;
use super::orders::Orders;
use super::peers::PredecessorLink;
use super::pidfiles::PidFiles;
use super::record::Record;
use super::releases;
use super::sockets::Sockets;
use super::store::{Store, StoreError};
use super::workers::Workers;
use crate::api::{self, exit};
use crate::config::{Config, ConfigError, Identities, Sources};
use crate::machine::message::{Hello, Identity, KeptConfig, Message, PROTOCOL};
use crate::machine::{Action, Machine, Timing};
use crate::sys::channel::Channel;
use crate::sys::image::{Image, ImageError};
use crate::sys::inherited::PassedListener;
use crate::sys::listeners::{ListenError, Listener};
use crate::sys::notify::Notifier;
use crate::sys::process::Other;
use crate::sys::secrets;
use crate::sys::signals::Signals;

/// What a master is made of. The caller has read the command line and the environment.
#[derive(Debug)]
pub struct Setup {
    /// The service's name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The program as executed (a successor's comes with the inheritance).
    pub program: PathBuf,
    /// Our arguments, for a successor.
    pub args: Vec<OsString>,
    /// A pre-flight's arguments.
    pub check: Vec<OsString>,
    /// Where we were started.
    pub cwd: PathBuf,
    /// The runtime directory; it exists.
    pub runtime: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// Where the configuration comes from.
    pub sources: Sources,
    /// The way to systemd.
    pub notify: Option<Notifier>,
    /// How often its watchdog must be fed.
    pub watchdog: Option<Duration>,
    /// What systemd passed.
    pub passed: Vec<PassedListener>,
    /// The unit's revision.
    pub unit_rev: Option<String>,
    /// Who started us.
    pub origin: Origin,
}

/// Who started this master.
#[derive(Debug)]
pub enum Origin {
    /// Nobody of ours, or the keeper behind this pipe.
    First(Option<OwnedFd>),
    /// A predecessor behind this channel.
    Predecessor(OwnedFd),
}

/// Why a master could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The predecessor kept one for us that is not ours.
    #[error("cannot use the configuration that this build ran with before: {0}")]
    Previous(serde_json::Error),
    /// A listener cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No inheritance.
    #[error(transparent)]
    Received(#[from] InheritanceError),
    /// Our own program cannot be pinned.
    #[error(transparent)]
    Image(Box<ImageError>),
    /// Nor found.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// The kernel refused something basic.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Another master of this name answers.
    #[error(
        "{name} runs already: process {pid} answers on {}; `stop` it first, or choose another \
         --name",
        socket.display()
    )]
    Runs {
        /// The service.
        name: String,
        /// Who answers; 0 when it cannot be known.
        pid: u32,
        /// Where.
        socket: PathBuf,
    },
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<ImageError> for StartError {
    fn from(error: ImageError) -> Self {
        Self::Image(Box::new(error))
    }
}

impl StartError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> u8 {
        match self {
            // Started again it would end the same way: the operator must do something.
            Self::Config(_) | Self::Previous(_) | Self::Listen(ListenError::NoAddress { .. }) => {
                exit::CONFIG
            }
            Self::Received(InheritanceError::Protocol(_)) => exit::PROTOCOL,
            Self::Runs { .. } => exit::REFUSED,
            _ => exit::FAILED,
        }
    }
}

/// Lives as a master; the exit code.
pub fn run(setup: Setup) -> Result<u8, StartError> {
    let failed = |source| StartError::Io {
        what: "receive signals",
        source,
    };
    let mut signals = Signals::block_and_open().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(|source| StartError::Io {
            what: "make a runtime",
            source,
        })?;
    let code = runtime.block_on(async {
        signals.register().map_err(failed)?;
        match setup.origin {
            Origin::First(_) => Box::pin(first(setup, signals)).await,
            Origin::Predecessor(_) => Box::pin(successor(setup, signals)).await,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn first(mut setup: Setup, signals: Signals) -> Result<u8, StartError> {
    let keeper = match std::mem::replace(&mut setup.origin, Origin::First(None)) {
        Origin::First(keeper) => keeper,
        Origin::Predecessor(_) => None,
    };
    let (mut loaded, unusable) = setup.sources.load_for_any_release()?;
    let usable = unusable.is_none();
    if let (Some(app), Some(unusable)) = (&loaded.config.app, unusable) {
        if !releases::starts_good_instead(&setup.state, app) {
            return Err(unusable.into());
        }
        tracing::warn!("{unusable}");
    }
    loaded.config.make_do_with_certificates(None);
    let image = Arc::new(Image::running()?);
    let store = Store::new(setup.program.clone(), Arc::clone(&image))?;
    let _ = store.tidy();
    let control = ControlSocket::open(&setup.runtime).map_err(|e| already_runs(&setup, e))?;
    let manager = manager(&setup, keeper);
    let (found, others): (Vec<_>, Vec<_>) = setup.passed.drain(..).partition(|p| p.listening);
    for other in others {
        tracing::warn!(
            "descriptor {:?} from systemd is no listener: it is closed",
            other.name
        );
        manager.unstore(&other.name);
    }
    let found = found.into_iter().map(Listener::from_passed).collect();
    let handoff = open_handoff(&setup);
    let sockets = Sockets::arrange_cold(&loaded.config, found, &manager).await;
    let sockets = sockets.inspect_err(|_| {
        // Ours by now, and nobody answers on them.
        for name in [control::SOCKET, handoff::SOCKET] {
            let _ = std::fs::remove_file(setup.runtime.join(name));
        }
    })?;
    let metrics = MetricsSocket::open(&loaded.config.metrics.address, None)?;
    let config = Arc::new(loaded.config);
    let (machine, actions) = Machine::first(timing(&config, manager.watchdog()), Instant::now());
    let parts = Parts {
        config,
        config_path: loaded.path,
        image,
        store,
        control,
        handoff,
        manager,
        sockets,
        metrics,
        generation: 1,
    };
    let mut driver = assemble(setup, signals, parts, machine, mpsc::channel(QUEUE));
    driver.choose_release(usable);
    Ok(Box::pin(driver.drive(actions)).await)
}

async fn successor(mut setup: Setup, signals: Signals) -> Result<u8, StartError> {
    let Origin::Predecessor(fd) = std::mem::replace(&mut setup.origin, Origin::First(None)) else {
        return Box::pin(first(setup, signals)).await;
    };
    let channel = Channel::from_fd(fd).map_err(|source| StartError::Io {
        what: "use the inherited channel",
        source,
    })?;
    let image = Arc::new(Image::running()?);
    let hello = Hello {
        protocol: PROTOCOL,
        version: setup.version.clone(),
        build_id: image.build_id().to_owned(),
        pid: std::process::id(),
    };
    let received = inheritance::receive(&channel, hello).await?;
    match succeed(setup, signals, &channel, received, image) {
        Ok((mut driver, actions, inbox)) => {
            let post = inbox;
            let line = Line::new(channel, move |heard: Heard| {
                let post = post.clone();
                async move {
                    let _ = post.send(Input::Predecessor(heard)).await;
                }
            });
            if let Some(link) = &mut driver.predecessor {
                link.line = Some(line);
            }
            Ok(Box::pin(driver.drive(actions)).await)
        }
        Err(e) => {
            // The predecessor tells the operator.
            let farewell = Message::Yield {
                reason: e.to_string(),
                retire: true,
                leaving: false,
                then: None,
            };
            let _ = channel.send(&farewell, &[]).await;
            Err(e)
        }
    }
}

/// What a successor runs with: the configuration that its predecessor kept for it, or what is on disk;
/// and the certificates of the files, or of the predecessor.
fn configuration(
    sources: &Sources,
    kept: Option<KeptConfig>,
    identities: Option<OwnedFd>,
    any_release: bool,
) -> Result<(Config, Option<PathBuf>), StartError> {
    let before = identities.and_then(|fd| {
        let read = secrets::unwrap::<Identities>(fd);
        read.inspect_err(|e| tracing::warn!("cannot read the predecessor's certificates: {e}"))
            .ok()
    });
    let (mut config, config_path) = if let Some(config) = kept {
        // Those of today, for `status` to compare with.
        let path = sources.load().ok().and_then(|loaded| loaded.path);
        let mut config = config.read().map_err(StartError::Previous)?;
        // Keys are kept nowhere but where the operator keeps them.
        config.read_certificates();
        (config, path)
    } else {
        let loaded = if any_release {
            sources.load_for_any_release()?.0
        } else {
            sources.load()?
        };
        (loaded.config, loaded.path)
    };
    config.make_do_with_certificates(before.as_ref());
    Ok((config, config_path))
}

fn succeed(
    mut setup: Setup,
    signals: Signals,
    channel: &Channel,
    received: Received,
    image: Arc<Image>,
) -> Result<(Driver, Vec<Action>, mpsc::Sender<Input>), StartError> {
    let inheritance = received.inheritance;
    setup.program.clone_from(&inheritance.path);
    setup.cwd.clone_from(&inheritance.cwd);
    setup.unit_rev.clone_from(&inheritance.unit_rev);
    let store = Store::new(setup.program.clone(), Arc::clone(&image))?;
    let (config, config_path) = configuration(
        &setup.sources,
        inheritance.config,
        received.identities,
        inheritance.release.is_some(),
    )?;
    let sockets = Sockets::arrange(&config, received.listeners, true)?;
    let metrics = MetricsSocket::open(&config.metrics.address, received.metrics)?;
    let control = match received.control {
        Some(control) => ControlSocket::inherited(control, &setup.runtime),
        None => ControlSocket::open(&setup.runtime)?,
    };
    let handoff = received.handoff.or_else(|| open_handoff(&setup));
    let manager = manager(&setup, received.keeper);
    let mut times = timing(&config, manager.watchdog());
    if let Some(ms) = inheritance.probation_ms {
        times.probation = Duration::from_millis(ms);
    }
    let (machine, actions) = Machine::succeeding(times, inheritance.hold, Instant::now());
    // The socketpair's credentials are those of the process that made it.
    let pid = channel
        .peer_cred()
        .ok()
        .and_then(|cred| cred.pid())
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or(inheritance.pid);
    let (post, inbox) = mpsc::channel(QUEUE);
    let mut driver = assemble(
        setup,
        signals,
        Parts {
            config: Arc::new(config),
            config_path,
            image,
            store,
            control,
            handoff,
            manager,
            sockets,
            metrics,
            generation: inheritance.generation,
        },
        machine,
        (post.clone(), inbox),
    );
    let releases = driver.take_application_over(inheritance.release, inheritance.app, received.app);
    driver.main_pid = Some(pid);
    if let Some(fd) = received.tickets {
        driver.take_ticket_keys(Some(fd));
    }
    driver.others_drained = inheritance.drained;
    driver.lingering = inheritance.lingering;
    driver.lingering.retain(|l| l.pid != pid);
    watch_lingering(&driver);
    for master in driver.lingering.iter().map(|l| l.pid).chain([pid]) {
        driver.workers.know_master(master);
    }
    driver.predecessor = Some(PredecessorLink {
        pid,
        identity: inheritance.from.clone(),
        process: watch_predecessor(pid, &post),
        line: None,
    });
    let mut record = Record::new(
        inheritance.upgrade_id,
        &inheritance.from.version,
        inheritance.hold,
        inheritance.back,
    );
    let at = i64::try_from(inheritance.started_at_ms).unwrap_or(0);
    if let Ok(started_at) = jiff::Timestamp::from_millisecond(at) {
        record.started_at = started_at;
        let since = Duration::try_from(jiff::Timestamp::now().duration_since(started_at));
        if let Some(started) = since.ok().and_then(|d| Instant::now().checked_sub(d)) {
            record.started = started;
        }
    }
    record.to = Some(driver.fixed.me.version.clone());
    record.to_build = Some(driver.fixed.me.build_id.clone());
    record.old_pid = Some(pid);
    record.new_pid = Some(driver.fixed.pid);
    record.probation = inheritance.probation_ms.map(Duration::from_millis);
    record.releases = releases;
    driver.upgrade = Some(record);
    Ok((driver, actions, post))
}

/// Without it connections are ended politely instead of passed on.
fn open_handoff(setup: &Setup) -> Option<OwnedFd> {
    handoff::open(&setup.runtime)
        .inspect_err(|e| tracing::warn!("connections cannot be passed on: {e}"))
        .ok()
}

/// The control socket is taken: say by whom.
fn already_runs(setup: &Setup, error: ListenError) -> StartError {
    let socket = setup.runtime.join(control::SOCKET);
    match &error {
        ListenError::Refused { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            let pid = std::os::unix::net::UnixStream::connect(&socket)
                .ok()
                .and_then(|stream| rustix::net::sockopt::socket_peercred(&stream).ok())
                .map_or(0, |cred| cred.pid.as_raw_nonzero().get().unsigned_abs());
            StartError::Runs {
                name: setup.name.clone(),
                pid,
                socket,
            }
        }
        _ => error.into(),
    }
}

fn watch_predecessor(pid: u32, post: &mpsc::Sender<Input>) -> Option<Arc<Other>> {
    let process = Other::open(pid).ok().flatten().map(Arc::new)?;
    let (watched, post) = (Arc::clone(&process), post.clone());
    tokio::spawn(async move {
        let _ = watched.gone().await;
        let _ = post.send(Input::PredecessorExited).await;
    });
    Some(process)
}

/// Earlier generations that drain: only their end matters, for `status` and the limit.
fn watch_lingering(driver: &Driver) {
    for lingering in &driver.lingering {
        let (pid, post) = (lingering.pid, driver.post.clone());
        tokio::spawn(async move {
            if let Ok(Some(process)) = Other::open(pid) {
                let _ = process.gone().await;
            }
            let _ = post.send(Input::LingeringExited(pid)).await;
        });
    }
}

/// What a driver is put together from.
struct Parts {
    config: Arc<Config>,
    config_path: Option<PathBuf>,
    image: Arc<Image>,
    store: Store,
    control: ControlSocket,
    handoff: Option<OwnedFd>,
    manager: Manager,
    sockets: Sockets,
    metrics: Option<MetricsSocket>,
    generation: u64,
}

fn assemble(
    setup: Setup,
    signals: Signals,
    parts: Parts,
    machine: Machine,
    (post, inbox): (mpsc::Sender<Input>, mpsc::Receiver<Input>),
) -> Driver {
    let program_on_disk = Disk::new(Arc::new(parts.store), &setup.runtime, post.clone());
    let (handle, desk) = control::desk();
    let history = History::new(setup.state);
    if parts.generation == 1 {
        if let Err(e) = history.interrupt(&setup.version) {
            tracing::warn!("{e}");
        }
    }
    let last = history.last().unwrap_or_else(|e| {
        tracing::warn!("{e}");
        None
    });
    let me = Identity {
        generation: parts.generation,
        version: setup.version,
        build_id: parts.image.build_id().to_owned(),
    };
    let passes = parts.handoff.is_some();
    let workers = Workers::new(
        post.clone(),
        Arc::clone(&parts.image),
        &setup.name,
        &me,
        setup.args.clone(),
        passes.then(|| setup.runtime.join(handoff::SOCKET)),
    );
    let applications = Applications::new(
        post.clone(),
        Arc::clone(&parts.image),
        &setup.name,
        &me,
        &setup.runtime,
        workers.pids(),
    );
    workers.know_master(std::process::id());
    Driver {
        pidfiles: PidFiles::new(&setup.runtime, &setup.name),
        fixed: Constants {
            name: setup.name,
            me,
            pid: std::process::id(),
            started_at: jiff::Timestamp::now(),
            cwd: setup.cwd,
            args: setup.args,
            check: setup.check,
            runtime: setup.runtime,
            sources: setup.sources,
            config_path: parts.config_path,
            unit_rev: setup.unit_rev,
        },
        machine,
        inbox,
        post,
        signals,
        desk,
        handle,
        control: parts.control,
        door: None,
        handoff: parts.handoff,
        handoff_door: None,
        manager: parts.manager,
        main_pid: None,
        workers,
        applications,
        sockets: Arc::new(parts.sockets),
        config: parts.config,
        reload: None,
        reloads: 0,
        successor: None,
        predecessor: None,
        lingering: Vec::new(),
        rejected: Vec::new(),
        next_generation: parts.generation + 1,
        news: HashMap::new(),
        drain: None,
        farewell: None,
        others_drained: api::Connections::default(),
        metrics: parts.metrics,
        metrics_door: None,
        launch: None,
        launches: 0,
        disk: program_on_disk,
        keeping: None,
        history,
        upgrade: None,
        last,
        told: None,
        orders: Orders::default(),
        inquiry: Inquiry::default(),
        peer_status: None,
        tls_warnings: Vec::new(),
        tick: Instant::now(),
        health: None,
        exit: None,
    }
}

fn manager(setup: &Setup, keeper: Option<OwnedFd>) -> Manager {
    match (&setup.notify, keeper) {
        (Some(notify), _) => Manager::Systemd {
            notify: notify.clone(),
            watchdog: setup.watchdog,
        },
        (None, Some(pipe)) => Manager::keeper(pipe),
        (None, None) => Manager::Nobody,
    }
}

/// The machine's durations, from the configuration and the watchdog.
pub(super) fn timing(config: &Config, watchdog: Option<Duration>) -> Timing {
    let silence = watchdog.map_or(Duration::from_secs(10), |w| w / 3);
    Timing {
        start: config.upgrade.start_timeout,
        probation: config.upgrade.probation,
        drain: Some(config.drain.timeout).filter(|d| !d.is_zero()),
        stop: config.drain.stop_timeout,
        silence,
        ..Timing::default()
    }
}

/// Things for the driver that may wait in its queue; senders wait beyond that.
const QUEUE: usize = 256;
