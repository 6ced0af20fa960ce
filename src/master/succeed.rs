//! How a successor begins: it says hello, gets its inheritance, and is a master.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::configured::timing;
use super::control::ControlSocket;
use super::driver::Driver;
use super::inheritance::{self, Received};
use super::input::Input;
use super::line::{Heard, Line};
use super::metrics::MetricsSocket;
use super::predecessor::Predecessor;
use super::record::Record;
use super::releases;
use super::setup::{Origin, Setup, StartError};
use super::sockets::Sockets;
use super::start::{Parts, QUEUE, assemble, first, manager, open_handoff};
use super::state::{BEGINNING, State};
use super::store::Store;
use crate::config::{Config, Identities, Sources};
use crate::machine::message::{Hello, Inherited, KeptConfig, Lingering, Message, PROTOCOL};
use crate::machine::{Action, Machine};
use crate::sys::channel::Channel;
use crate::sys::image::Image;
use crate::sys::process::Other;
use crate::sys::secrets;
use crate::sys::signals::Signals;

pub(super) async fn successor(mut setup: Setup, signals: Signals) -> Result<u8, StartError> {
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
    // The socketpair's credentials are those of the process that made it.
    let pid = channel
        .peer_cred()
        .ok()
        .and_then(|cred| cred.pid())
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or(received.inheritance.pid);
    let from = received.inheritance.from.clone();
    let (post, inbox) = mpsc::channel(QUEUE);
    let state = State::new(&setup.state);
    state.known(BEGINNING).await;
    let parts = (image, state);
    match succeed(setup, signals, pid, received, parts, (post.clone(), inbox)) {
        Ok((mut driver, process, actions)) => {
            let hear = post.clone();
            let line = Line::new(channel, move |heard: Heard| {
                let post = hear.clone();
                async move {
                    let _ = post.send(Input::Predecessor(heard)).await;
                }
            });
            driver.predecessor = Some(Predecessor::new(pid, from, process, line, &post));
            drop(post);
            Ok(Box::pin(driver.drive(actions)).await)
        }
        Err(e) => {
            // The predecessor tells the operator.
            let goodbye = Message::Yield {
                reason: e.to_string(),
                retire: true,
                leaving: false,
                then: None,
            };
            let _ = channel.send(&goodbye, &[]).await;
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
    config.make_do_with_certificates(before.as_ref(), SystemTime::now());
    Ok((config, config_path))
}

fn succeed(
    mut setup: Setup,
    signals: Signals,
    pid: u32,
    mut received: Received,
    (image, state): (Arc<Image>, State),
    queue: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
) -> Result<(Driver, Option<Other>, Vec<Action>), StartError> {
    // Its end must not be missed.
    let process = Other::open(pid).map_err(|source| StartError::Io {
        what: "watch the predecessor",
        source,
    })?;
    let mut inherited = |what| received.take(&what);
    let (control, handoff) = (inherited(Inherited::Control), inherited(Inherited::Handoff));
    let (metrics, keeper) = (inherited(Inherited::Metrics), inherited(Inherited::Keeper));
    let (app, tickets) = (inherited(Inherited::App), inherited(Inherited::TicketKeys));
    let identities = inherited(Inherited::Identities);
    let inheritance = received.inheritance;
    setup.program.clone_from(&inheritance.path);
    setup.cwd.clone_from(&inheritance.cwd);
    setup.unit_rev.clone_from(&inheritance.unit_rev);
    let store = Store::new(setup.program.clone(), Arc::clone(&image))?;
    let (config, config_path) = configuration(
        &setup.sources,
        inheritance.config,
        identities,
        inheritance.release.is_some(),
    )?;
    let sockets = Sockets::arrange(&config, received.listeners, true)?;
    let metrics = MetricsSocket::open(&config.metrics.address, metrics)?;
    let control = match control {
        Some(control) => ControlSocket::inherited(control, &setup.runtime),
        None => ControlSocket::open(&setup.runtime)?,
    };
    let handoff = handoff.or_else(|| open_handoff(&setup));
    let manager = manager(&setup, keeper);
    let mut times = timing(&config, manager.watchdog());
    if let Some(ms) = inheritance.probation_ms {
        times.probation = Duration::from_millis(ms);
    }
    let now = Instant::now();
    let left = |one: &Lingering| one.left_ms.map(Duration::from_millis);
    let (before, drainers): (Vec<_>, Vec<_>) = inheritance
        .lingering
        .into_iter()
        .partition(|l| l.pid == pid);
    let before = (pid, before.first().and_then(left));
    let (mut machine, actions) = Machine::succeeding(times, inheritance.hold, before, now);
    for one in &drainers {
        machine.know_drainer(one.pid, left(one), one.hurried, now);
    }
    let parts = Parts {
        config: Arc::new(config),
        config_path,
        state,
        image,
        store,
        control,
        handoff,
        manager,
        sockets,
        metrics,
        generation: inheritance.generation,
        drainers,
        drained: inheritance.drained,
    };
    let mut driver = assemble(setup, signals, parts, machine, queue)?;
    driver.workers.know_master(pid);
    let ours = driver.configured.config.app.is_some();
    driver
        .waking
        .predecessor_hosts(inheritance.app.is_some(), ours);
    let releases = releases::take_over(
        &driver.configured.config,
        &mut driver.applications,
        inheritance.release,
        inheritance.app,
        app,
    );
    if let Some(fd) = tickets {
        driver.take_ticket_keys(Some(fd));
    }
    let from = &inheritance.from.version;
    let (id, hold, back) = (inheritance.upgrade_id, inheritance.hold, inheritance.back);
    let mut record = Record::new(id, from, hold, back);
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
    driver.story.joins(record);
    Ok((driver, process, actions))
}
