//! How a master comes to its listening sockets: found among those that it was given, or bound.

use std::time::{Duration, Instant};

use super::{Sockets, backlog};
use crate::config::{Config, ListenerConfig};
use crate::machine::message::ListenerSource;
use crate::master::manager::Manager;
use crate::sys::listeners::{self, ListenError, Listener};

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
        let added = sockets.added.clone();
        sockets.add_slots(config, |l| added.contains(&l.address()));
        Ok(sockets)
    }

    /// The same at a cold start: nobody goes back to what the configuration does not have, and it
    /// may be in the way of what it has (`127.0.0.1:80` of `0.0.0.0:80`).
    pub async fn arrange_cold(
        config: &Config,
        found: Vec<Listener>,
        manager: &Manager,
    ) -> Result<Self, ListenError> {
        let (mut sockets, missing) = Self::find(config, found)?;
        let in_the_way = !sockets.dropped.is_empty();
        sockets.drop_old(manager);
        let deadline = Instant::now() + LETTING_GO;
        while let Err(e) = sockets.bind(config, &missing, false) {
            if !in_the_way || !e.is_in_use() || Instant::now() > deadline {
                return Err(e);
            }
            // The manager has copies, and closes them when it comes to it.
            tokio::time::sleep(AGAIN).await;
        }
        sockets.added.clear();
        sockets.add_slots(config, |_| true);
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
            sockets.take_passed(config, wanted, &mut found)?;
            if sockets.is_passed(&wanted.name) {
                continue;
            }
            let Some(address) = &wanted.address else {
                return Err(ListenError::NoAddress {
                    name: wanted.name.clone(),
                });
            };
            let ours = take(&mut found, |l| {
                l.name == wanted.name && is_ours_at(l, address)
            });
            if ours.is_empty() {
                missing.push((wanted, address));
            }
            sockets.listeners.extend(ours);
        }
        // Only now: what moved to another name must not take the socket from one that kept it.
        let mut absent = Vec::new();
        for (wanted, address) in missing {
            let moved = take(&mut found, |l| is_ours_at(l, address));
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
    fn take_passed(
        &mut self,
        config: &Config,
        wanted: &ListenerConfig,
        found: &mut Vec<Listener>,
    ) -> Result<(), ListenError> {
        let name = &wanted.name;
        let of_unit = |l: &Listener| l.name == *name && l.source == ListenerSource::Systemd;
        let passed = take(found, of_unit);
        let entries = config.listeners.iter().filter(|c| c.name == *name);
        let addresses: Vec<&String> = entries.filter_map(|c| c.address.as_ref()).collect();
        if let Some(other) = passed.iter().find(|listener| !listener.is_stream()) {
            return Err(ListenError::NotAStream {
                name: name.clone(),
                address: other.address().to_string(),
            });
        }
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
        Ok(())
    }

    fn bind(
        &mut self,
        config: &Config,
        missing: &[&ListenerConfig],
        quiet: bool,
    ) -> Result<(), ListenError> {
        let bind = |wanted: &&ListenerConfig| {
            if quiet {
                listeners::bind_only(wanted)
            } else {
                listeners::bind(wanted)
            }
        };
        let bound: Vec<Listener> = missing.iter().map(bind).collect::<Result<_, _>>()?;
        self.added.extend(bound.iter().map(Listener::address));
        self.listeners.extend(bound);
        let place = |l: &Listener| config.listeners.iter().position(|c| c.name == l.name);
        self.listeners.sort_by_key(place);
        self.number();
        Ok(())
    }

    /// Slots count from 0. The store keeps no numbers: there the oldest socket is the first.
    fn number(&mut self) {
        for own in self.slotted() {
            let mut order = own;
            order.sort_by_key(|i| {
                let listener = &self.listeners[*i];
                (listener.slot.unwrap_or(u16::MAX), listener.id())
            });
            for (slot, i) in (0..).zip(order) {
                self.listeners[i].slot = Some(slot);
            }
        }
    }

    /// The sockets of each address of ours on TCP, by their places.
    pub(super) fn slotted(&self) -> Vec<Vec<usize>> {
        let mut all: Vec<(String, listeners::Address, Vec<usize>)> = Vec::new();
        for (i, listener) in self.listeners.iter().enumerate() {
            let address = listener.address();
            let tcp = matches!(address, listeners::Address::Tcp(_));
            if listener.source != ListenerSource::Own || !tcp {
                continue;
            }
            match all
                .iter_mut()
                .find(|(n, a, _)| *n == listener.name && *a == address)
            {
                Some((_, _, places)) => places.push(i),
                None => all.push((listener.name.clone(), address, vec![i])),
            }
        }
        all.into_iter().map(|(_, _, places)| places).collect()
    }

    /// Opens one more socket for every worker that has none, on addresses of which this holds for
    /// the first. They listen if that does. What cannot be opened is said; its address is shared.
    /// Returns whether there are more now.
    pub(super) fn add_slots(&mut self, config: &Config, on: impl Fn(&Listener) -> bool) -> bool {
        let workers = config.workers.count();
        let addresses = self.slotted();
        if !room_for(workers, addresses.len()) {
            return false;
        }
        let mut more = Vec::new();
        let (mut failed, mut failure) = (0, None);
        for places in addresses {
            let first = &self.listeners[places[0]];
            let there = u16::try_from(places.len()).unwrap_or(u16::MAX);
            if there >= workers || !on(first) {
                continue;
            }
            for slot in there..workers {
                let added = first.add_slot(slot).and_then(|one| {
                    if first.is_listening() {
                        one.listen(backlog(config, &one))?;
                    }
                    Ok(one)
                });
                match added {
                    Ok(one) => more.push(one),
                    Err(e) => {
                        failed += 1;
                        failure.get_or_insert(e);
                        break;
                    }
                }
            }
        }
        if let Some(e) = failure {
            tracing::warn!(
                "{failed} listening addresses are shared by workers that have no socket of their \
                 own, the first because: {e}"
            );
        }
        let added = !more.is_empty();
        self.listeners.extend(more);
        added
    }
}

/// A manager closes what it was told to let go of in its own time.
const LETTING_GO: Duration = Duration::from_secs(1);
/// Between two tries to bind: nothing says when the manager has closed its copy.
const AGAIN: Duration = Duration::from_millis(5);

/// So many sockets of our own on TCP, at most. The store takes 1024 descriptors (the unit's
/// `FileDescriptorStoreMax=`), but systemd 252 fails to start a service with more than about 700
/// (status 202/FDS); and listeners that an upgrade replaces are in it beside the new ones.
pub(super) const MOST: usize = 512;

/// Whether each of so many workers can have a socket of its own on every one of so many addresses.
pub(super) fn room_for(workers: u16, addresses: usize) -> bool {
    usize::from(workers) * addresses <= MOST
}

fn is_ours_at(listener: &Listener, address: &str) -> bool {
    listener.source == ListenerSource::Own && listeners::address_matches(listener, address)
}

fn take(found: &mut Vec<Listener>, wanted: impl Fn(&Listener) -> bool) -> Vec<Listener> {
    let (taken, rest) = std::mem::take(found).into_iter().partition(|l| wanted(l));
    *found = rest;
    taken
}
