//! The listening sockets of one master: found (systemd, store, predecessor), bound, kept, let go.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::manager::Manager;
use super::slots;
use crate::api;
use crate::config::{Config, ListenerConfig};
use crate::machine::message::{Inherited, ListenerSource};
use crate::sys::listeners::{self, ListenError, Listener};

mod arrange;

use arrange::MOST;

/// Every listening socket this master holds. A clone has the same ones.
#[derive(Debug, Default, Clone)]
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
    /// For a master that is alone: the same sockets, and those that workers of `config` lack; or
    /// `None`, when none is lacking or can be had.
    pub fn with_slots(&self, config: &Config, manager: &Manager) -> Option<Self> {
        let workers = config.workers.count();
        let mut addresses = self.slotted();
        let room = arrange::room_for(workers, addresses.len());
        addresses.retain(|places| places.len() < usize::from(workers));
        if addresses.is_empty() {
            return None;
        }
        if !room {
            tracing::warn!(
                "{} listening addresses have one socket each, which all {workers} workers share: a \
                 socket for each worker would be more than {MOST} in all, and systemd keeps no more",
                addresses.len()
            );
            return None;
        }
        let mut sockets = self.clone();
        if !sockets.add_slots(config, |_| true) {
            return None;
        }
        // Not before they listen: the manager lets go what is only bound (it polls as hung up).
        sockets.store(manager);
        Some(sockets)
    }

    /// A new configuration: keeps what it still has, binds what is new; what it dropped is let go
    /// by [`drop_old`](Self::drop_old). On an error nothing has changed.
    pub fn rearrange(&self, config: &Config) -> Result<Self, ListenError> {
        let found = [&*self.listeners, &*self.dropped].concat();
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
        let still = |address| self.listeners.iter().any(|l| l.address() == address);
        remove_paths(dropped.iter().filter(|l| !still(l.address())));
    }

    /// This generation leaves and another one serves, which has nothing of what was added.
    pub fn remove_added_paths(&self) {
        let added = self.listeners.iter();
        remove_paths(added.filter(|l| self.added.contains(&l.address())));
    }

    /// The service stops and nobody keeps the sockets: paths of Unix sockets go too.
    pub fn remove_paths(&self) {
        remove_paths(self.listeners.iter());
    }

    /// Every socket, and the worker whose alone it is (see [`slots::home`]).
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

    /// Some of them, for a worker.
    pub fn some(&self, wanted: impl Fn(u64) -> bool) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(move |l| wanted(l.id()))
    }

    /// For a successor: everything, what is dropped included.
    pub fn for_successor(&self) -> Vec<(Inherited, Arc<OwnedFd>)> {
        let all = self.listeners.iter().chain(&self.dropped);
        let told = all.map(|listener| {
            let what = Inherited::Listener {
                name: listener.name.clone(),
                source: listener.source,
                slot: listener.slot,
            };
            (what, listener.fd())
        });
        told.collect()
    }

    /// For `status`: an address once, however many sockets it has.
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
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn remove_paths<'a>(listeners: impl Iterator<Item = &'a Listener>) {
    for listener in listeners {
        if let Err(e) = listener.remove_path() {
            tracing::warn!("cannot remove the path of {}: {e}", listener.address());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Workers;
    use crate::sys::inherited::PassedListener;

    fn config(workers: u16, addresses: &[(&str, &str)]) -> Config {
        let listener = |(name, address): &(&str, &str)| ListenerConfig {
            name: (*name).into(),
            address: Some((*address).into()),
            backlog: None,
            mode: None,
            group: None,
            tls: false,
            proxy_protocol: false,
            redirect: None,
        };
        Config {
            workers: Workers::Count(workers),
            listeners: addresses.iter().map(listener).collect(),
            ..Config::default()
        }
    }

    /// `ListenDatagram=` and `ListenSequentialPacket=` of a unit.
    #[test]
    fn what_a_unit_passes_must_be_a_stream_of_connections() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
        for (family, kind) in [
            (AddressFamily::INET, SocketType::DGRAM),
            (AddressFamily::UNIX, SocketType::DGRAM),
            (AddressFamily::UNIX, SocketType::SEQPACKET),
        ] {
            let socket = rustix::net::socket(family, kind, None).unwrap();
            if family == AddressFamily::UNIX {
                let name = format!("handover-{kind:?}-{}", std::process::id());
                let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
                rustix::net::bind(&socket, &address).unwrap();
            }
            if kind == SocketType::SEQPACKET {
                rustix::net::listen(&socket, 1).unwrap();
            }
            let passed = PassedListener::new("http".into(), socket).unwrap();
            let found = vec![Listener::from_passed(passed)];
            let config = config(1, &[("http", "127.0.0.1:0")]);
            let error = Sockets::arrange(&config, found, true).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("use ListenStream="), "{kind:?}: {error}");
        }
    }

    fn slots(sockets: &Sockets) -> Vec<(String, Option<u16>, bool)> {
        let what = |l: &Listener| (l.name.clone(), l.slot, l.is_listening());
        sockets.listeners.iter().map(what).collect()
    }

    fn inherited(sockets: &Sockets, by: impl Fn(Option<u16>) -> Option<u16>) -> Vec<Listener> {
        let descriptors = sockets.for_successor().into_iter();
        descriptors
            .map(|(what, fd)| match what {
                Inherited::Listener { name, source, slot } => {
                    Listener::from_fd(name, source, by(slot), fd.try_clone().unwrap()).unwrap()
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
        assert!(more.is_none(), "nothing is lacking");
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
        let alone = successor.with_slots(&wanted, &Manager::Nobody);
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
