//! The listening sockets of one master: found (systemd, store, predecessor), bound, kept, let go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::manager::Manager;
use crate::api;
use crate::config::{Config, ListenerConfig};
use crate::machine::message::{Inherited, ListenerSource};
use crate::sys::listeners::{self, ListenError, Listener};

/// Every listening socket this master holds.
#[derive(Debug, Default)]
pub struct Sockets {
    listeners: Vec<Listener>,
    /// Held for the predecessor's sake until the commit.
    dropped: Vec<Listener>,
    /// What an operator should know.
    warnings: Vec<String>,
}

impl Sockets {
    /// Finds for every configured listener its sockets among `found`, and binds what nobody has.
    /// What is bound here does not listen yet when `quiet`.
    pub fn arrange(
        config: &Config,
        mut found: Vec<Listener>,
        quiet: bool,
    ) -> Result<Self, ListenError> {
        let mut sockets = Self::default();
        for wanted in &config.listeners {
            sockets.one(wanted, &mut found, quiet)?;
        }
        for listener in &found {
            tracing::info!(
                "listener {:?} at {} is not in the configuration: it is let go",
                listener.name,
                listener.address()
            );
        }
        sockets.dropped = found;
        Ok(sockets)
    }

    fn one(
        &mut self,
        wanted: &ListenerConfig,
        found: &mut Vec<Listener>,
        quiet: bool,
    ) -> Result<(), ListenError> {
        let of_unit = |l: &Listener| l.name == wanted.name && l.source == ListenerSource::Systemd;
        let passed: Vec<Listener> = take(found, of_unit);
        if !passed.is_empty() {
            for listener in &passed {
                let elsewhere = wanted
                    .address
                    .as_ref()
                    .filter(|address| !listeners::address_matches(listener, address));
                if let Some(address) = elsewhere {
                    let warning = format!(
                        "listener {:?}: the socket unit's address {} counts, not {address} of the \
                         configuration",
                        wanted.name,
                        listener.address()
                    );
                    tracing::warn!("{warning}");
                    self.warnings.push(warning);
                }
            }
            self.listeners.extend(passed);
            return Ok(());
        }
        let Some(address) = &wanted.address else {
            return Err(ListenError::NoAddress {
                name: wanted.name.clone(),
            });
        };
        let ours = take(found, |l| {
            l.name == wanted.name
                && l.source == ListenerSource::Own
                && listeners::address_matches(l, address)
        });
        if ours.is_empty() {
            self.listeners.push(if quiet {
                listeners::bind_only(wanted)?
            } else {
                listeners::bind(wanted)?
            });
        } else {
            self.listeners.extend(ours);
        }
        Ok(())
    }

    /// A new configuration: keeps what it still has, binds what is new; what it dropped is let go
    /// by [`drop_old`](Self::drop_old). On an error nothing has changed.
    pub fn rearrange(&self, config: &Config) -> Result<Self, ListenError> {
        let found = self
            .listeners
            .iter()
            .chain(&self.dropped)
            .map(Listener::try_clone)
            .collect::<io::Result<Vec<_>>>()
            .map_err(|source| ListenError::Refused {
                name: "all".into(),
                what: "duplicate",
                address: listeners::Address::Unknown,
                source,
            })?;
        Self::arrange(config, found, false)
    }

    /// Those that were bound quietly listen from now on.
    pub fn listen(&self, config: &Config) {
        for listener in self.listeners.iter().filter(|l| !l.is_listening()) {
            let backlog = config
                .listeners
                .iter()
                .find(|c| c.name == listener.name)
                .and_then(|c| c.backlog);
            if let Err(e) = listener.listen(backlog) {
                tracing::error!("{e}");
            }
        }
    }

    /// What we bound ourselves outlives a crash of everything.
    pub fn store(&self, manager: &Manager) {
        for listener in &self.listeners {
            if listener.source == ListenerSource::Own {
                manager.store(&listener.stored_name(), listener.as_fd());
            }
        }
    }

    /// Lets go what the configuration no longer has: nobody goes back to it.
    pub fn drop_old(&mut self, manager: &Manager) {
        for listener in std::mem::take(&mut self.dropped) {
            let name = listener.stored_name();
            let shared = |l: &Listener| l.stored_name() == name;
            manager.unstore(&name);
            if self.listeners.iter().any(shared) {
                // The store knows only names: those that stay are stored again.
                for kept in self.listeners.iter().filter(|l| shared(l)) {
                    manager.store(&name, kept.as_fd());
                }
            }
            let elsewhere = self
                .listeners
                .iter()
                .any(|l| l.address() == listener.address());
            if !elsewhere {
                if let Err(e) = listener.remove_path() {
                    tracing::warn!("cannot remove the path of {}: {e}", listener.address());
                }
            }
        }
    }

    /// The same sockets again.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone = |list: &[Listener]| -> io::Result<Vec<Listener>> {
            list.iter().map(Listener::try_clone).collect()
        };
        Ok(Self {
            listeners: clone(&self.listeners)?,
            dropped: clone(&self.dropped)?,
            warnings: self.warnings.clone(),
        })
    }

    /// The service stops and nobody keeps the sockets: paths of Unix sockets go too.
    pub fn remove_paths(&self) {
        for listener in &self.listeners {
            if let Err(e) = listener.remove_path() {
                tracing::warn!("cannot remove the path of {}: {e}", listener.address());
            }
        }
    }

    /// Copies for one worker.
    pub fn for_worker(&self) -> io::Result<Vec<Listener>> {
        self.listeners.iter().map(Listener::try_clone).collect()
    }

    /// Copies for a successor: everything, what is dropped included.
    pub fn for_successor(&self) -> io::Result<Vec<(Inherited, OwnedFd)>> {
        self.listeners
            .iter()
            .chain(&self.dropped)
            .map(|listener| {
                let listener = listener.try_clone()?;
                let what = Inherited::Listener {
                    name: listener.name.clone(),
                    source: listener.source,
                    slot: listener.slot,
                };
                Ok((what, listener.into_fd()))
            })
            .collect()
    }

    /// For `status`.
    #[must_use]
    pub fn report(&self) -> Vec<api::Listener> {
        self.listeners
            .iter()
            .map(|l| api::Listener {
                name: l.name.clone(),
                address: l.address().to_string(),
                source: match l.source {
                    ListenerSource::Systemd => "systemd".into(),
                    ListenerSource::Own => "own".into(),
                },
            })
            .collect()
    }

    /// What an operator should know.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn take(found: &mut Vec<Listener>, wanted: impl Fn(&Listener) -> bool) -> Vec<Listener> {
    let (taken, rest) = std::mem::take(found).into_iter().partition(|l| wanted(l));
    *found = rest;
    taken
}
