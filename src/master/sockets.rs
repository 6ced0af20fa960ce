//! The listening sockets of one master: found (systemd, store, predecessor), bound, kept, let go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::manager::Manager;
use super::slots;
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
            tokio::time::sleep(Duration::from_millis(5)).await;
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
        let added = self.added.clone();
        self.add_slots(config, |l| added.contains(&l.address()));
        Ok(())
    }

    /// Slots count from 0. The store keeps no numbers: there the oldest socket is the first.
    fn number(&mut self) {
        for own in self.slotted() {
            let mut order: Vec<_> = own
                .iter()
                .map(|i| {
                    (
                        self.listeners[*i].slot.unwrap_or(u16::MAX),
                        self.listeners[*i].id(),
                        *i,
                    )
                })
                .collect();
            order.sort_unstable();
            for (slot, (_, _, i)) in (0..).zip(order) {
                self.listeners[i].slot = Some(slot);
            }
        }
    }

    /// The sockets of each address of ours on TCP, by their places.
    fn slotted(&self) -> Vec<Vec<usize>> {
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
    fn add_slots(&mut self, config: &Config, on: impl Fn(&Listener) -> bool) -> bool {
        let workers = config.workers.count();
        let addresses = self.slotted();
        let room = MOST / addresses.len().max(1);
        let mut more = Vec::new();
        let (mut crowded, mut failed, mut failure) = (0, 0, None);
        for places in addresses {
            let first = &self.listeners[places[0]];
            let there = u16::try_from(places.len()).unwrap_or(u16::MAX);
            if there >= workers || !on(first) {
                continue;
            }
            if usize::from(workers) > room {
                crowded += 1;
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
        if crowded > 0 {
            tracing::warn!(
                "{crowded} listening addresses have one socket each, which all {workers} workers \
                 share: a socket for each worker would be more than {MOST} in all, and systemd \
                 keeps no more"
            );
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

    /// For a master that is alone: the same sockets, and those that workers of `config` lack; or
    /// `None`, when none is lacking or can be had.
    pub fn with_slots(&self, config: &Config, manager: &Manager) -> io::Result<Option<Self>> {
        let workers = usize::from(config.workers.count());
        if self.slotted().iter().all(|places| places.len() >= workers) {
            return Ok(None);
        }
        let mut sockets = self.try_clone()?;
        if !sockets.add_slots(config, |_| true) {
            return Ok(None);
        }
        // Not before they listen: the manager lets go what is only bound (it polls as hung up).
        sockets.store(manager);
        Ok(Some(sockets))
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

    /// Those that were bound quietly listen from now on, and all of ours with the backlog of this
    /// configuration.
    pub fn listen(&self, config: &Config) {
        for listener in &self.listeners {
            if listener.source == ListenerSource::Own || !listener.is_listening() {
                if let Err(e) = listener.listen(backlog(config, listener)) {
                    tracing::error!("{e}");
                }
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

    /// Every socket, and the worker whose alone it is (see [`slots::home`]).
    #[must_use]
    pub fn homes(&self, workers: u16) -> Vec<(u64, Option<u16>)> {
        let mut homes: Vec<_> = self.listeners.iter().map(|l| (l.id(), None)).collect();
        for places in self.slotted() {
            let count = u16::try_from(places.len()).unwrap_or(u16::MAX);
            for i in places {
                homes[i].1 = slots::home(self.listeners[i].slot, count, workers);
            }
        }
        homes
    }

    /// Copies of some, for a worker.
    pub fn copies(&self, wanted: impl Fn(u64) -> bool) -> io::Result<Vec<Listener>> {
        let wanted = self.listeners.iter().filter(|l| wanted(l.id()));
        wanted.map(Listener::try_clone).collect()
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

    /// For `status`: an address once, however many sockets it has.
    #[must_use]
    pub fn report(&self) -> Vec<api::Listener> {
        let mut all: Vec<api::Listener> = Vec::new();
        for l in &self.listeners {
            let one = api::Listener {
                name: l.name.clone(),
                address: l.address().to_string(),
                source: match l.source {
                    ListenerSource::Systemd => "systemd".into(),
                    ListenerSource::Own => "own".into(),
                },
            };
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }

    /// What an operator should know.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// As configured for a listener.
fn backlog(config: &Config, listener: &Listener) -> Option<u32> {
    let is_it = |c: &&ListenerConfig| {
        let matches = |address: &String| listeners::address_matches(listener, address);
        c.name == listener.name && c.address.as_ref().is_none_or(matches)
    };
    config.listeners.iter().find(is_it)?.backlog
}

/// A manager closes what it was told to let go of in its own time.
const LETTING_GO: Duration = Duration::from_secs(1);

/// So many sockets of our own on TCP, at most. The store takes 1024 descriptors (the unit's
/// `FileDescriptorStoreMax=`), but systemd 252 fails to start a service with more than about 700
/// (status 202/FDS); and listeners that an upgrade replaces are in it beside the new ones.
const MOST: usize = 512;

fn take(found: &mut Vec<Listener>, wanted: impl Fn(&Listener) -> bool) -> Vec<Listener> {
    let (taken, rest) = std::mem::take(found).into_iter().partition(|l| wanted(l));
    *found = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Workers;

    fn config(workers: u16, addresses: &[(&str, &str)]) -> Config {
        let listener = |(name, address): &(&str, &str)| ListenerConfig {
            name: (*name).into(),
            address: Some((*address).into()),
            backlog: None,
            mode: None,
            group: None,
            tls: false,
            redirect: None,
        };
        Config {
            workers: Workers::Count(workers),
            listeners: addresses.iter().map(listener).collect(),
            ..Config::default()
        }
    }

    fn slots(sockets: &Sockets) -> Vec<(String, Option<u16>, bool)> {
        let what = |l: &Listener| (l.name.clone(), l.slot, l.is_listening());
        sockets.listeners.iter().map(what).collect()
    }

    fn inherited(sockets: &Sockets, by: impl Fn(Option<u16>) -> Option<u16>) -> Vec<Listener> {
        let descriptors = sockets.for_successor().unwrap().into_iter();
        descriptors
            .map(|(what, fd)| match what {
                Inherited::Listener { name, source, slot } => {
                    Listener::from_fd(name, source, by(slot), fd).unwrap()
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    async fn cold(config: &Config) -> Sockets {
        Sockets::arrange_cold(config, Vec::new(), &Manager::Nobody)
            .await
            .unwrap()
    }

    fn ids(sockets: &Sockets) -> Vec<u64> {
        sockets.listeners.iter().map(Listener::id).collect()
    }

    #[tokio::test]
    async fn a_cold_start_has_a_socket_a_worker_and_status_shows_each_address_once() {
        let config = config(
            3,
            &[("a", "127.0.0.1:0"), ("u", "unix:@handover-slots-cold")],
        );
        let sockets = cold(&config).await;
        let slot = |n| ("a".to_owned(), Some(n), true);
        let unix = ("u".to_owned(), None, true);
        let mut found = slots(&sockets);
        found.sort();
        assert_eq!(found, [slot(0), slot(1), slot(2), unix]);
        assert_eq!(sockets.report().len(), 2);
        let homes = sockets.homes(3);
        let own = homes.iter().filter(|(_, home)| home.is_some());
        assert_eq!((homes.len(), own.count()), (4, 3));
        let more = sockets.with_slots(&config, &Manager::Nobody);
        assert!(more.unwrap().is_none(), "nothing is lacking");
    }

    #[tokio::test]
    async fn a_successor_opens_nothing_on_an_address_that_somebody_might_take_back() {
        let two = config(2, &[("a", "127.0.0.1:0")]);
        let first = cold(&two).await;
        let wanted = config(4, &[("a", "127.0.0.1:0"), ("b", "127.0.0.1:0")]);
        let successor = Sockets::arrange(&wanted, inherited(&first, |s| s), true).unwrap();
        let a = |n| ("a".to_owned(), Some(n), true);
        let b = |n| ("b".to_owned(), Some(n), false);
        let mut found = slots(&successor);
        found.sort();
        assert_eq!(found, [a(0), a(1), b(0), b(1), b(2), b(3)]);
        assert_eq!(ids(&successor)[..2], ids(&first));
        let of_a = |s: &Sockets| s.homes(4).iter().filter(|h| h.1.is_some()).count() - 4;
        assert_eq!(of_a(&successor), 0, "shared");
        successor.listen(&wanted);
        let alone = successor.with_slots(&wanted, &Manager::Nobody).unwrap();
        let alone = alone.expect("two more");
        assert_eq!(of_a(&alone), 4);
        assert!(slots(&alone).iter().all(|(_, _, listens)| *listens));
        // And a reload for fewer workers closes none.
        let one = config(1, &[("a", "127.0.0.1:0"), ("b", "127.0.0.1:0")]);
        let fewer = alone.rearrange(&one).unwrap();
        assert_eq!(ids(&fewer).len(), 8);
        assert!(fewer.homes(1).iter().all(|(_, home)| *home == Some(0)));
    }

    /// The first has one socket without a number, or several from a store, in any order.
    #[tokio::test]
    async fn what_an_earlier_version_or_a_store_had_is_numbered_by_age() {
        let config = config(3, &[("a", "127.0.0.1:0")]);
        let first = cold(&config).await;
        let mut found = inherited(&first, |_| None);
        found.reverse();
        let again = Sockets::arrange(&config, found, true).unwrap();
        let mut numbered: Vec<_> = again.listeners.iter().map(|l| (l.slot, l.id())).collect();
        numbered.sort_unstable();
        let expected = (0..).map(Some).zip(ids(&first));
        assert_eq!(numbered, expected.collect::<Vec<_>>());
        let one: Vec<_> = inherited(&first, |_| None).into_iter().take(1).collect();
        let again = Sockets::arrange(&config, one, true).unwrap();
        assert_eq!(slots(&again), [("a".to_owned(), Some(0), true)]);
        assert_eq!(again.homes(3)[0].1, None);
    }

    #[tokio::test]
    async fn an_address_whose_slots_the_store_could_not_take_is_shared() {
        let many = u16::try_from(MOST).unwrap() + 1;
        let sockets = cold(&config(many, &[("a", "127.0.0.1:0")])).await;
        assert_eq!(slots(&sockets), [("a".to_owned(), Some(0), true)]);
    }
}
