//! Which application serves a connection that another worker has opened: the one that serves its
//! address now, whatever the listener was called there; otherwise the one of that listener's name,
//! when its address has changed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use rustix::net::{SocketAddrAny, SocketAddrUnix};

use super::connection::Served;
use super::raw::Handlers;
use super::{Routers, lock};
use crate::config::ListenerConfig;

/// The applications of a worker.
#[derive(Debug)]
pub(super) struct Applications {
    by_name: HashMap<String, Arc<Served>>,
    /// Of the listeners that this worker was ever given.
    by_address: Mutex<Vec<(Local, Arc<Served>)>>,
}

/// Our end of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Local {
    Tcp(SocketAddr),
    Unix(SocketAddrUnix),
}

impl Applications {
    pub(super) fn new(routers: Routers, own: &Handlers, listeners: &[ListenerConfig]) -> Self {
        let served = |(name, router): (String, _)| {
            let listener = listeners.iter().find(|listener| listener.name == name);
            let served = Served {
                raw: own.get(&name).cloned(),
                tls: listener.is_some_and(|listener| listener.tls),
                proxy_protocol: listener.is_some_and(|listener| listener.proxy_protocol),
                name: name.clone(),
                router,
            };
            (name, Arc::new(served))
        };
        Self {
            by_name: routers.into_iter().map(served).collect(),
            by_address: Mutex::default(),
        }
    }

    /// The application of a listener, whose address is remembered.
    pub(super) fn of_listener(&self, name: &str, socket: impl AsFd) -> Option<Arc<Served>> {
        let served = self.by_name.get(name)?;
        if let Some(local) = Local::of(socket) {
            let mut known = lock(&self.by_address);
            known.retain(|(other, _)| *other != local);
            known.push((local, Arc::clone(served)));
        }
        Some(Arc::clone(served))
    }

    /// The application of a connection that came through the listener `name`, in whatever generation
    /// that was.
    pub(super) fn of_connection(&self, name: &str, socket: impl AsFd) -> Option<Arc<Served>> {
        let by_address = Local::of(socket).and_then(|local| {
            let known = lock(&self.by_address);
            let nearest = known
                .iter()
                .max_by_key(|(listener, _)| listener.serves(&local));
            let (listener, served) = nearest?;
            (listener.serves(&local) > 0).then(|| Arc::clone(served))
        });
        by_address.or_else(|| self.by_name.get(name).map(Arc::clone))
    }
}

impl Local {
    fn of(socket: impl AsFd) -> Option<Self> {
        let address: SocketAddrAny = rustix::net::getsockname(socket).ok()?;
        if let Ok(mut address) = SocketAddr::try_from(address.clone()) {
            // A dual-stack socket has IPv4 clients, too.
            address.set_ip(address.ip().to_canonical());
            return Some(Self::Tcp(address));
        }
        SocketAddrUnix::try_from(address).ok().map(Self::Unix)
    }

    /// How well a listener at this address fits a connection's: 0 not at all, more is better.
    fn serves(&self, connection: &Self) -> u8 {
        match (self, connection) {
            (Self::Unix(listener), Self::Unix(connection)) => u8::from(listener == connection),
            (Self::Tcp(listener), Self::Tcp(connection)) => {
                if listener.port() != connection.port() {
                    0
                } else if listener.ip() == connection.ip() {
                    3
                } else {
                    match (listener.ip(), connection.ip()) {
                        (IpAddr::V4(any), IpAddr::V4(_)) if any.is_unspecified() => 2,
                        (IpAddr::V6(any), IpAddr::V6(_)) if any.is_unspecified() => 2,
                        (IpAddr::V6(any), IpAddr::V4(_)) if any.is_unspecified() => 1,
                        _ => 0,
                    }
                }
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_listener_serves_a_connection() {
        let local = |text: &str| Local::Tcp(text.parse().unwrap());
        let connection = local("192.0.2.1:80");
        for (listener, fits) in [
            ("192.0.2.1:80", 3),
            ("0.0.0.0:80", 2),
            ("[::]:80", 1),
            ("192.0.2.2:80", 0),
            ("0.0.0.0:81", 0),
            ("[::1]:80", 0),
        ] {
            assert_eq!(local(listener).serves(&connection), fits, "{listener}");
        }
        assert_eq!(local("[::]:80").serves(&local("[::1]:80")), 2);
        assert_eq!(local("0.0.0.0:80").serves(&local("[::1]:80")), 0);
    }

    #[test]
    fn a_connection_finds_its_application_by_its_address_and_otherwise_by_the_name() {
        let router = axum::Router::<()>::new;
        let names = ["old", "new", "moved"];
        let routers = names.map(|name| (name.to_owned(), router()));
        let routers = routers.into_iter().collect();
        let applications = Applications::new(routers, &Handlers::default(), &[]);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let found = |name| {
            let found = applications.of_connection(name, &connection);
            found.map(|served| served.name.clone())
        };
        assert_eq!(found("moved").as_deref(), Some("moved"));
        assert_eq!(found("unknown"), None);
        applications.of_listener("new", &listener).unwrap();
        for name in ["old", "moved", "unknown"] {
            assert_eq!(found(name).as_deref(), Some("new"), "{name}");
        }
        drop(client);
    }
}
