//! How a master begins: alone, or as somebody's successor.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::configured::{Configured, timing};
use super::control::{self, ControlSocket};
use super::disk::Disk;
use super::door::ControlDoor;
use super::drain::OwnDrain;
use super::drainers::Drainers;
use super::driver::{Constants, Driver};
use super::handoff::{self, HandoffDoor};
use super::health::Health;
use super::history::History;
use super::hosting::{Applications, Launcher};
use super::input::Input;
use super::inquiry::Inquiry;
use super::manager::Manager;
use super::metrics::{MetricsDoor, MetricsSocket};
use super::orders::Orders;
use super::pidfiles::PidFiles;
use super::releases::{self, KnownReleases};
use super::setup::{Origin, Setup, StartError};
use super::sockets::Sockets;
use super::state::{BEGINNING, State};
use super::store::Store;
use super::story::Story;
use super::succeed;
use super::successor::Successor;
use super::tls::Tls;
use super::verdicts::Held;
use super::waking::Waking;
use super::workers::Workers;
use crate::api::Connections;
use crate::config::Config;
use crate::machine::Machine;
use crate::machine::message::{Identity, Lingering};
use crate::sys::image::Image;
use crate::sys::listeners::{ListenError, Listener};
use crate::sys::runtime::block_on;
use crate::sys::signals::Signals;

/// Lives as a master; the exit code.
pub fn run(setup: Setup) -> Result<u8, StartError> {
    let signals = |source| StartError::Io {
        what: "receive signals",
        source,
    };
    let mut received = Signals::block_and_open().map_err(signals)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(|source| StartError::Io {
            what: "make a runtime",
            source,
        })?;
    let code = block_on(&runtime, async {
        received.register().map_err(signals)?;
        match setup.origin {
            Origin::First(_) => Box::pin(first(setup, received)).await,
            Origin::Predecessor(_) => Box::pin(succeed::successor(setup, received)).await,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

pub(super) async fn first(mut setup: Setup, signals: Signals) -> Result<u8, StartError> {
    let keeper = match std::mem::replace(&mut setup.origin, Origin::First(None)) {
        Origin::First(keeper) => keeper,
        Origin::Predecessor(_) => None,
    };
    let (mut loaded, unusable) = setup.sources.load_for_any_release()?;
    let usable = unusable.is_none();
    let state = State::new(&setup.state);
    state.known(BEGINNING).await;
    if let (Some(app), Some(unusable)) = (&loaded.config.app, unusable) {
        if !releases::starts_good_instead(&state, app) {
            return Err(unusable.into());
        }
        tracing::warn!("{unusable}");
    }
    loaded
        .config
        .make_do_with_certificates(None, SystemTime::now());
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
    let _ = History::new(setup.state.clone()).tidy();
    let config = Arc::new(loaded.config);
    let (machine, actions) = Machine::first(timing(&config, manager.watchdog()), Instant::now());
    let parts = Parts {
        config,
        config_path: loaded.path,
        state,
        image,
        store,
        control,
        handoff,
        manager,
        sockets,
        metrics,
        generation: 1,
        drainers: Vec::new(),
        drained: Connections::default(),
    };
    let mut driver = assemble(setup, signals, parts, machine, mpsc::channel(QUEUE))?;
    let (config, applications) = (&driver.configured.config, &mut driver.applications);
    driver.releases.choose(config, usable, applications);
    driver.story.begins_anew();
    // That a start was tried outlives it.
    driver.state.written().await;
    Ok(Box::pin(driver.drive(actions)).await)
}

/// Without it connections are ended politely instead of passed on.
pub(super) fn open_handoff(setup: &Setup) -> Option<OwnedFd> {
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

/// What a driver is put together from.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) config_path: Option<PathBuf>,
    pub(super) state: State,
    pub(super) image: Arc<Image>,
    pub(super) store: Store,
    pub(super) control: ControlSocket,
    pub(super) handoff: Option<OwnedFd>,
    pub(super) manager: Manager,
    pub(super) sockets: Sockets,
    pub(super) metrics: Option<MetricsSocket>,
    pub(super) generation: u64,
    pub(super) drainers: Vec<Lingering>,
    pub(super) drained: Connections,
}

pub(super) fn assemble(
    setup: Setup,
    signals: Signals,
    parts: Parts,
    machine: Machine,
    (post, inbox): (mpsc::Sender<Input>, mpsc::Receiver<Input>),
) -> Result<Driver, StartError> {
    let drainers = Drainers::new(parts.drainers.clone(), parts.drained, &post);
    let drainers = drainers.map_err(|source| StartError::Io {
        what: "watch the generations that drain",
        source,
    })?;
    let me = Identity {
        generation: parts.generation,
        version: setup.version.clone(),
        build_id: parts.image.build_id().to_owned(),
    };
    let fixed = Arc::new(Constants {
        me,
        pid: std::process::id(),
        started_at: jiff::Timestamp::now(),
        setup,
        config_path: parts.config_path,
    });
    let handoff = parts.handoff.is_some();
    let workers = Workers::new(
        post.clone(),
        Arc::clone(&parts.image),
        &fixed.setup.name,
        &fixed.me,
        fixed.setup.args.clone(),
        handoff.then(|| fixed.setup.runtime.join(handoff::SOCKET)),
    );
    let launcher = Launcher::new(
        post.clone(),
        parts.image,
        &fixed.setup.name,
        &fixed.me,
        &fixed.setup.runtime,
        workers.pids(),
    );
    let applications = Applications::new(launcher);
    let state = parts.state;
    let (handle, desk) = control::desk();
    let handle = handle.after(state.clone());
    workers.know_master(fixed.pid);
    for one in &parts.drainers {
        workers.know_master(one.pid);
    }
    Ok(Driver {
        machine,
        inbox,
        signals,
        desk,
        manager: parts.manager,
        workers,
        applications,
        releases: KnownReleases::new(state.clone()),
        tls: Tls::default(),
        configured: Configured::new(Arc::clone(&fixed), parts.config, parts.sockets),
        successor: Successor::new(fixed.me.generation, post.clone()),
        predecessor: None,
        drainers,
        drain: OwnDrain::new(Arc::clone(&fixed), post.clone()),
        disk: Disk::new(parts.store, &fixed.setup.runtime, post.clone()),
        story: Story::new(fixed.me.clone(), state.clone()),
        state,
        orders: Orders::default(),
        held: Held::default(),
        waking: Waking::default(),
        inquiry: Inquiry::new(post.clone()),
        health: Health::new(post.clone()),
        pidfiles: PidFiles::new(&fixed.setup.runtime, &fixed.setup.name),
        control: ControlDoor::new(parts.control, handle.clone()),
        handoff: HandoffDoor::new(parts.handoff, &fixed.setup.runtime, post),
        metrics: MetricsDoor::new(parts.metrics, handle),
        tick: Instant::now(),
        exit: None,
        fixed,
    })
}

pub(super) fn manager(setup: &Setup, keeper: Option<OwnedFd>) -> Manager {
    match (&setup.notify, keeper) {
        (Some(notify), _) => Manager::Systemd {
            notify: notify.clone(),
            watchdog: setup.watchdog,
        },
        (None, Some(pipe)) => Manager::Keeper(pipe),
        (None, None) => Manager::Nobody,
    }
}

/// Things for the driver that may wait in its queue; senders wait beyond that.
pub(super) const QUEUE: usize = 256;
