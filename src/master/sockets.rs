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
    /// Names in the store of sockets that are called otherwise now.
    renamed: Vec<String>,
    /// Addresses that nobody had before us, until the commit.
    added: Vec<listeners::Address>,
    /// What an operator should know.
    warnings: Vec<String>,
}

impl Sockets {
    /// Finds for every configured listener its sockets among `found`, and binds what nobody has.
    /// What is bound here does not listen yet when `quiet`. What the configuration does not have
    /// is kept until [`drop_old`](Self::drop_old).
    pub fn arrange(
        config: &Config,
        found: Vec<Listener>,
        quiet: bool,
    ) -> Result<Self, ListenError> {
        let (mut sockets, missing) = Self::find(config, found)?;
        sockets.bind(config, &missing, quiet)?;
        Ok(sockets)
    }

    /// The same at a cold start: nobody goes back to what the configuration does not have, and it
    /// may be in the way of what it has (`127.0.0.1:80` of `0.0.0.0:80`).
    pub fn arrange_cold(
        config: &Config,
        found: Vec<Listener>,
        manager: &Manager,
    ) -> Result<Self, ListenError> {
        let (mut sockets, missing) = Self::find(config, found)?;
        sockets.drop_old(manager);
        sockets.bind(config, &missing, false)?;
        sockets.added.clear();
        Ok(sockets)
    }

    /// What there is, and what of the configuration nobody has.
    fn find(
        config: &Config,
        mut found: Vec<Listener>,
    ) -> Result<(Self, Vec<&ListenerConfig>), ListenError> {
        let mut sockets = Self::default();
        let mut missing = Vec::new();
        for wanted in &config.listeners {
            sockets.take_passed(config, wanted, &mut found);
            if sockets.is_passed(&wanted.name) {
                continue;
            }
            let Some(address) = &wanted.address else {
                return Err(ListenError::NoAddress {
                    name: wanted.name.clone(),
                });
            };
            let there = |l: &Listener| {
                l.source == ListenerSource::Own && listeners::address_matches(l, address)
            };
            let ours = take(&mut found, |l| l.name == wanted.name && there(l));
            if ours.is_empty() {
                missing.push((wanted, address));
            }
            sockets.listeners.extend(ours);
        }
        // Only now: what moved to another name must not take the socket from one that kept it.
        let mut absent = Vec::new();
        for (wanted, address) in missing {
            let there = |l: &Listener| {
                l.source == ListenerSource::Own && listeners::address_matches(l, address)
            };
            let moved = take(&mut found, there);
            if moved.is_empty() {
                absent.push(wanted);
            }
            for mut listener in moved {
                tracing::info!(
                    "listener {:?} at {} is called {:?} now",
                    listener.name,
                    listener.address(),
                    wanted.name
                );
                sockets.renamed.push(listener.stored_name());
                listener.name.clone_from(&wanted.name);
                sockets.listeners.push(listener);
            }
        }
        for listener in &found {
            tracing::info!(
                "listener {:?} at {} is not in the configuration: it is let go",
                listener.name,
                listener.address()
            );
        }
        sockets.dropped = found;
        Ok((sockets, absent))
    }

    fn is_passed(&self, name: &str) -> bool {
        let of_unit = |l: &Listener| l.name == name && l.source == ListenerSource::Systemd;
        self.listeners.iter().any(of_unit)
    }

    /// A unit's sockets count for every entry of their name, wherever they are.
    fn take_passed(&mut self, config: &Config, wanted: &ListenerConfig, found: &mut Vec<Listener>) {
        let name = &wanted.name;
        let of_unit = |l: &Listener| l.name == *name && l.source == ListenerSource::Systemd;
        let passed = take(found, of_unit);
        let entries = config.listeners.iter().filter(|c| c.name == *name);
        let addresses: Vec<&String> = entries.filter_map(|c| c.address.as_ref()).collect();
        for listener in &passed {
            let matches = |a: &&String| listeners::address_matches(listener, a);
            if !addresses.is_empty() && !addresses.iter().any(matches) {
                let addresses: Vec<&str> = addresses.iter().map(|a| a.as_str()).collect();
                let warning = format!(
                    "listener {name:?}: the socket unit's address {} counts, not {} of the \
                     configuration",
                    listener.address(),
                    addresses.join(", ")
                );
                tracing::warn!("{warning}");
                self.warnings.push(warning);
            }
        }
        self.listeners.extend(passed);
    }

    fn bind(
        &mut self,
        config: &Config,
        missing: &[&ListenerConfig],
        quiet: bool,
    ) -> Result<(), ListenError> {
        for wanted in missing {
            let listener = if quiet {
                listeners::bind_only(wanted)?
            } else {
                listeners::bind(wanted)?
            };
            self.added.push(listener.address());
            self.listeners.push(listener);
        }
        let place = |l: &Listener| config.listeners.iter().position(|c| c.name == l.name);
        self.listeners.sort_by_key(place);
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
        let mut sockets = Self::arrange(config, found, false)?;
        sockets.renamed.extend(self.renamed.iter().cloned());
        sockets.added.extend(self.added.iter().cloned());
        Ok(sockets)
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
        self.added.clear();
        let dropped = std::mem::take(&mut self.dropped);
        let mut names = std::mem::take(&mut self.renamed);
        names.extend(dropped.iter().map(Listener::stored_name));
        names.sort();
        names.dedup();
        if names.is_empty() {
            return;
        }
        for name in &names {
            manager.unstore(name);
        }
        // The store knows only names: what stays under one of them is stored again.
        self.store(manager);
        for listener in dropped {
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
            renamed: self.renamed.clone(),
            added: self.added.clone(),
            warnings: self.warnings.clone(),
        })
    }

    /// This generation leaves and another one serves, which has nothing of what was added.
    pub fn remove_added_paths(&self) {
        for listener in self
            .listeners
            .iter()
            .filter(|l| self.added.contains(&l.address()))
        {
            if let Err(e) = listener.remove_path() {
                tracing::warn!("cannot remove the path of {}: {e}", listener.address());
            }
        }
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
