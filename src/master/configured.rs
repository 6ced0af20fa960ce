//! What this generation serves with: its configuration, and the sockets that it names.

use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Group;

use super::control;
use super::driver::Constants;
use super::hosting::Applications;
use super::manager::Manager;
use super::metrics::{MetricsDoor, MetricsSocket};
use super::sockets::Sockets;
use crate::api::exit;
use crate::config::Config;
use crate::machine::{Failure, Timing};

/// The configuration that counts, and one that waits for its workers.
#[derive(Debug)]
pub(super) struct Configured {
    fixed: Arc<Constants>,
    pub(super) config: Arc<Config>,
    pub(super) sockets: Arc<Sockets>,
    /// `[control] group`.
    pub(super) operators: Option<Group>,
    next: Option<Next>,
}

/// A configuration that waits for its workers.
#[derive(Debug)]
struct Next {
    config: Arc<Config>,
    sockets: Arc<Sockets>,
    operators: Option<Group>,
    metrics: Option<MetricsSocket>,
}

impl Configured {
    pub(super) fn new(fixed: Arc<Constants>, config: Arc<Config>, sockets: Sockets) -> Self {
        Self {
            fixed,
            operators: operators(&config),
            config,
            sockets: Arc::new(sockets),
            next: None,
        }
    }

    /// Reads the configuration again, and has what it names.
    pub(super) fn read_again(
        &mut self,
        applications: &Applications,
        metrics: &MetricsDoor,
    ) -> Result<(), Failure> {
        let wrong = |reason: String| Failure {
            exit: exit::CONFIG,
            reason,
        };
        let loaded = applications.load_again(&self.fixed.setup.sources);
        let loaded = loaded.map_err(|e| wrong(e.to_string()))?;
        if let Some(all) = &loaded.config.tls.identities {
            let serving = self.config.tls.identities.as_deref();
            all.are_whole().map_err(|e| wrong(e.to_string()))?;
            let now = std::time::SystemTime::now();
            all.check_dates(now, serving)
                .map_err(|e| wrong(e.to_string()))?;
        }
        let (name, wanted) = (&self.fixed.setup.name, &loaded.config.name);
        if name != wanted {
            tracing::warn!("the service is called {name} until it is started again, then {wanted}");
        }
        let failure = |e: crate::sys::listeners::ListenError| Failure::new(e.to_string());
        let sockets = Arc::new(self.sockets.rearrange(&loaded.config).map_err(failure)?);
        let metrics = metrics
            .socket_for(&loaded.config.metrics.address)
            .map_err(failure)?;
        self.next = Some(Next {
            operators: operators(&loaded.config),
            config: Arc::new(loaded.config),
            sockets,
            metrics,
        });
        Ok(())
    }

    /// What waits for its workers.
    pub(super) fn next(&self) -> Option<(Arc<Config>, Arc<Sockets>)> {
        let next = self.next.as_ref()?;
        Some((Arc::clone(&next.config), Arc::clone(&next.sockets)))
    }

    /// Its workers serve: it counts.
    pub(super) fn adopt(&mut self, metrics: &mut MetricsDoor) {
        if let Some(next) = self.next.take() {
            self.config = next.config;
            self.sockets = next.sockets;
            self.operators = next.operators;
            metrics.change(next.metrics);
        }
    }

    pub(super) fn abandon(&mut self) {
        self.next = None;
    }

    /// It is final: what the configuration dropped is let go, what it added is stored. Not before:
    /// what is in the store listens, whether somebody goes back or not.
    pub(super) fn drop_listeners(&mut self, manager: &Manager) {
        // Those who hold the set, for respawns, are given the new one.
        let mut sockets = Sockets::clone(&self.sockets);
        sockets.store(manager);
        sockets.drop_old(manager);
        self.sockets = Arc::new(sockets);
    }

    /// Nobody else might have to take the service back: what this configuration wants of our sockets
    /// can be done. Whether there is a new set.
    pub(super) fn settle_sockets(&mut self, manager: &Manager) -> bool {
        self.sockets.listen(&self.config);
        let more = self.sockets.with_slots(&self.config, manager);
        let is_more = more.is_some();
        if let Some(sockets) = more {
            self.sockets = Arc::new(sockets);
        }
        is_more
    }
}

fn operators(config: &Config) -> Option<Group> {
    control::operators(&config.control.group).unwrap_or_else(|e| {
        tracing::error!("{e}: no group may give orders");
        None
    })
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
        generations: config.drain.generations.into(),
        health: config.upgrade.health.is_some(),
        ..Timing::default()
    }
}
