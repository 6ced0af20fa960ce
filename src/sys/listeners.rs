//! Named listening sockets: bound by us, or taken from whoever had them. They are never closed for
//! good here, only dropped: as long as somebody holds a copy, nothing queued is lost.

use std::fs;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use rustix::net::sockopt;
use socket2::{Domain, SockRef, Type};

pub use super::address::Address;
use super::inherited::PassedListener;
use super::unix_path;
use crate::config::ListenerConfig;
pub use crate::machine::message::ListenerSource;

/// What the names of our own sockets begin with in systemd's descriptor store.
pub const OWN_PREFIX: &str = "own.";

/// listen(2)'s backlog when the configuration has none; the kernel cuts it to `somaxconn`.
pub const DEFAULT_BACKLOG: u32 = 4096;

/// A listening socket, or one that is going to listen. Non-blocking and close-on-exec. A clone has the
/// same descriptor: however many workers and configurations a master has, a socket is one open file.
#[derive(Debug, Clone)]
pub struct Listener {
    /// systemd's FDNAME, and the configuration's; several may share it.
    pub name: String,
    /// Where it came from first.
    pub source: ListenerSource,
    /// The worker slot it belongs to (`SO_REUSEPORT`); `None`: shared.
    pub slot: Option<u16>,
    fd: Arc<OwnedFd>,
}

/// A listener as the standard library has it.
#[derive(Debug)]
pub enum StdListener {
    /// A stream of connections over TCP.
    Tcp(TcpListener),
    /// A stream of local connections.
    Unix(UnixListener),
    /// Datagrams.
    Udp(UdpSocket),
    /// Local datagrams.
    UnixDatagram(UnixDatagram),
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// No address, and nobody passed the name.
    #[error(
        "listener {name:?} has no address and systemd passed no socket of that name: enable the \
         .socket unit that has FileDescriptorName={name}, or set an address"
    )]
    NoAddress {
        /// Its name.
        name: String,
    },
    /// Datagrams, or packets.
    #[error(
        "listener {name:?}: {address} is no stream of connections, and HTTP needs one: use \
         ListenStream= in the .socket unit that has FileDescriptorName={name}"
    )]
    NotAStream {
        /// Its name.
        name: String,
        /// Where it is.
        address: String,
    },
    /// Not an address, or a host of no address.
    #[error(
        "listener {name:?}: cannot use address {address:?}: {}",
        no_address(source)
    )]
    Address {
        /// Its name.
        name: String,
        /// What was written.
        address: String,
        /// What is wrong with it, or what the resolver said.
        source: io::Error,
    },
    /// Not permissions, or not a group.
    #[error("listener {name:?}: cannot use {key} = {value:?}: expected {expected}")]
    Setting {
        /// Its name.
        name: String,
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// Something else is where the socket should be.
    #[error(
        "listener {name:?}: {} exists and is not a socket; remove it or choose another path",
        path.display()
    )]
    NotASocket {
        /// Its name.
        name: String,
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error(
        "listener {name:?}: cannot {what} {address}: {source}{}",
        advice(source, address)
    )]
    Refused {
        /// Its name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// Where.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ListenError {
    /// Somebody else is there.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Opens a listener and listens.
pub fn bind(config: &ListenerConfig) -> Result<Listener, ListenError> {
    let listener = bind_only(config)?;
    listener.listen(config.backlog)?;
    Ok(listener)
}

fn no_address(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidInput => {
            "expected \"host:port\", \"[v6]:port\" or \"unix:/path\"".into()
        }
        _ => format!("the host's address cannot be looked up: {error}"),
    }
}

/// Binds a listener that does not listen yet: connections are refused until [`Listener::listen`].
///
/// TCP gets `SO_REUSEADDR`, but not `SO_REUSEPORT`: a port that somebody listens on is an error,
/// even if that has the option and is of our user. [`Listener::add_slot`] sets it.
pub fn bind_only(config: &ListenerConfig) -> Result<Listener, ListenError> {
    let name = &config.name;
    let text = config
        .address
        .as_deref()
        .ok_or_else(|| ListenError::NoAddress { name: name.clone() })?;
    let parsed = Address::parse(text).and_then(|all| {
        let first = all.into_iter().next();
        first.ok_or_else(|| io::ErrorKind::NotFound.into())
    });
    let address = parsed.map_err(|source| ListenError::Address {
        name: name.clone(),
        address: text.into(),
        source,
    })?;
    let refused = |what, source| ListenError::Refused {
        name: name.clone(),
        what,
        address: address.clone(),
        source,
    };
    let socket = if let Address::Unix(path) = &address {
        unix_path::bind(config, &address, path)?
    } else {
        let (socket, to) = address.socket().map_err(|e| refused("open", e))?;
        socket.bind(&to).map_err(|e| refused("bind", e))?;
        socket
    };
    Ok(Listener {
        name: name.clone(),
        source: ListenerSource::Own,
        slot: matches!(address, Address::Tcp(_)).then_some(0),
        fd: Arc::new(socket.into()),
    })
}

/// Whether a listener is where the configuration wants it. Port 0 is any port.
#[must_use]
pub fn address_matches(listener: &Listener, address: &str) -> bool {
    let actual = listener.address();
    let wanted = Address::parse(address).unwrap_or_default();
    wanted.iter().any(|wanted| match (wanted, &actual) {
        (Address::Tcp(w), Address::Tcp(a)) | (Address::Udp(w), Address::Udp(a)) => {
            w.ip() == a.ip() && (w.port() == a.port() || w.port() == 0)
        }
        (w, a) => w == a,
    })
}

impl Listener {
    /// Takes over a socket that somebody else opened; makes it non-blocking and close-on-exec.
    pub fn from_fd(
        name: String,
        source: ListenerSource,
        slot: Option<u16>,
        fd: OwnedFd,
    ) -> io::Result<Self> {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            name,
            source,
            slot,
            fd: Arc::new(fd),
        })
    }

    /// What systemd passed: a unit's socket, or, by its name, one of ours from the store. The store
    /// remembers no slots: the caller numbers our own TCP sockets anew.
    #[must_use]
    pub fn from_passed(passed: PassedListener) -> Self {
        let (name, source) = match passed.name.strip_prefix(OWN_PREFIX) {
            Some(name) => (name.to_owned(), ListenerSource::Own),
            None => (passed.name, ListenerSource::Systemd),
        };
        Self {
            name,
            source,
            slot: None,
            fd: Arc::new(passed.fd),
        }
    }

    /// Where it is bound.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::of(self.as_fd())
    }

    /// Which socket it is, whatever its number: the device and inode of fstat(2). (0, 0) never is
    /// one.
    #[must_use]
    pub fn inode(&self) -> (u64, u64) {
        rustix::fs::fstat(&self.fd).map_or((0, 0), |stat| (stat.st_dev, stat.st_ino))
    }

    /// The same as one number, for the conversation with workers: all sockets are of one device.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.inode().1
    }

    /// Whether it is a stream of connections, which is what HTTP needs.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        sockopt::socket_type(&self.fd) == Ok(rustix::net::SocketType::STREAM)
    }

    /// Whether connections are taken (into the queue, if nobody accepts). A datagram socket's
    /// always are.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        sockopt::socket_acceptconn(&self.fd) == Ok(true)
            || sockopt::socket_type(&self.fd) == Ok(rustix::net::SocketType::DGRAM)
    }

    /// Begins to take connections; `None`: [`DEFAULT_BACKLOG`]. Again sets another backlog. Does
    /// nothing to a datagram socket.
    pub fn listen(&self, backlog: Option<u32>) -> Result<(), ListenError> {
        if sockopt::socket_type(&self.fd) == Ok(rustix::net::SocketType::DGRAM) {
            return Ok(());
        }
        let backlog = i32::try_from(backlog.unwrap_or(DEFAULT_BACKLOG)).unwrap_or(i32::MAX);
        SockRef::from(&self.fd)
            .listen(backlog)
            .map_err(|e| self.refused("listen on", e))
    }

    /// Another socket on the same TCP address, for the worker of `slot`; the kernel spreads
    /// connections over those that listen. It does not listen yet.
    pub fn add_slot(&self, slot: u16) -> Result<Self, ListenError> {
        let refused = |e| self.refused("open another socket on", e);
        let address = self.address();
        if !matches!(address, Address::Tcp(_)) {
            return Err(refused(io::ErrorKind::Unsupported.into()));
        }
        // It is enough that all of them have it by now: the kernel looks at each, then and when it
        // begins to listen.
        SockRef::from(&self.fd)
            .set_reuse_port(true)
            .map_err(refused)?;
        let (socket, to) = address.socket().map_err(refused)?;
        socket.set_reuse_port(true).map_err(refused)?;
        socket.bind(&to).map_err(refused)?;
        Ok(Self {
            name: self.name.clone(),
            source: self.source,
            slot: Some(slot),
            fd: Arc::new(socket.into()),
        })
    }

    /// Its FDNAME in systemd's store.
    #[must_use]
    pub fn stored_name(&self) -> String {
        match self.source {
            ListenerSource::Own => format!("{OWN_PREFIX}{}", self.name),
            ListenerSource::Systemd => self.name.clone(),
        }
    }

    /// Removes the path of a Unix socket that we bound: when its address was dropped for good,
    /// never while the store or another generation holds it.
    pub fn remove_path(&self) -> io::Result<()> {
        match (self.source, self.address()) {
            (ListenerSource::Own, Address::Unix(path)) => match fs::remove_file(path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            _ => Ok(()),
        }
    }

    /// Its descriptor, to be sent to another process of ours.
    #[must_use]
    pub fn fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// A descriptor of its own.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        Arc::try_unwrap(self.fd).or_else(|shared| shared.try_clone())
    }

    fn refused(&self, what: &'static str, source: io::Error) -> ListenError {
        ListenError::Refused {
            name: self.name.clone(),
            what,
            address: self.address(),
            source,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl StdListener {
    /// What a descriptor is, by its family and type; an error when it is none of these.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let socket = SockRef::from(&fd);
        let (family, kind) = (socket.domain()?, socket.r#type()?);
        match (family, kind) {
            (Domain::IPV4 | Domain::IPV6, Type::STREAM) => Ok(Self::Tcp(fd.into())),
            (Domain::IPV4 | Domain::IPV6, Type::DGRAM) => Ok(Self::Udp(fd.into())),
            (Domain::UNIX, Type::STREAM) => Ok(Self::Unix(fd.into())),
            (Domain::UNIX, Type::DGRAM) => Ok(Self::UnixDatagram(fd.into())),
            _ => Err(io::Error::from(Errno::ESOCKTNOSUPPORT)),
        }
    }
}

/// What to do about it, for the end of a message.
fn advice(error: &io::Error, address: &Address) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw);
    match (errno, address) {
        (Some(Errno::EADDRINUSE), Address::Tcp(ip) | Address::Udp(ip)) => format!(
            "; another program has port {port} (see: ss -lnptu 'sport = :{port}'): stop it, or \
             choose another port",
            port = ip.port()
        ),
        (Some(Errno::EADDRINUSE), _) => {
            "; a running program answers there: stop it, or choose another path".into()
        }
        (Some(Errno::EACCES | Errno::EPERM), Address::Tcp(ip) | Address::Udp(ip)) => format!(
            "; port {} needs CAP_NET_BIND_SERVICE (in a unit: AmbientCapabilities=), a .socket \
             unit, or choose a port from 1024 up",
            ip.port()
        ),
        (Some(Errno::EACCES | Errno::EPERM), _) => {
            "; this user may not: choose a directory of its own, such as RuntimeDirectory=".into()
        }
        (Some(Errno::ENOENT), _) => "; create the directory first".into(),
        (Some(Errno::EADDRNOTAVAIL), _) => {
            "; no interface of this host has that address (yet)".into()
        }
        (Some(Errno::EAFNOSUPPORT), Address::Tcp(ip) | Address::Udp(ip)) if ip.is_ipv6() => {
            "; IPv6 is switched off: use an IPv4 address such as 0.0.0.0".into()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    use socket2::Socket;

    use super::*;

    fn config(address: &str) -> ListenerConfig {
        ListenerConfig {
            name: "http".into(),
            address: Some(address.into()),
            backlog: None,
            mode: None,
            group: None,
            tls: false,
            proxy_protocol: false,
            redirect: None,
        }
    }

    fn ip(listener: &Listener) -> SocketAddr {
        match listener.address() {
            Address::Tcp(ip) | Address::Udp(ip) => ip,
            other => panic!("{other}"),
        }
    }

    fn accepts(listener: &TcpListener) -> usize {
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    #[test]
    fn a_tcp_listener_takes_connections_and_is_non_blocking_and_close_on_exec() {
        let l = bind(&config("127.0.0.1:0")).unwrap();
        assert!(l.is_listening());
        assert_eq!((l.source, l.slot), (ListenerSource::Own, Some(0)));
        assert_eq!(l.address().to_string(), format!("{}", ip(&l)));
        let flags = rustix::io::fcntl_getfd(l.as_fd()).unwrap();
        assert_eq!(flags, rustix::io::FdFlags::CLOEXEC);
        let _client = TcpStream::connect(ip(&l)).unwrap();
        let StdListener::Tcp(std) = StdListener::from_fd(l.into_fd().unwrap()).unwrap() else {
            panic!("not TCP")
        };
        assert_eq!(accepts(&std), 1);
    }

    #[test]
    fn any_address_of_version_six_is_both_versions() {
        let l = bind(&config("[::]:0")).unwrap();
        assert_eq!(l.address().to_string(), format!("[::]:{}", ip(&l).port()));
        TcpStream::connect(("127.0.0.1", ip(&l).port())).unwrap();
        TcpStream::connect(("::1", ip(&l).port())).unwrap();
    }

    #[test]
    fn what_is_only_bound_refuses_until_it_listens() {
        let l = bind_only(&config("127.0.0.1:0")).unwrap();
        assert!(!l.is_listening());
        let refused = TcpStream::connect(ip(&l)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        l.listen(Some(1)).unwrap();
        assert!(l.is_listening());
        TcpStream::connect(ip(&l)).unwrap();
    }

    #[test]
    fn a_port_in_use_is_named_with_what_to_do() {
        let l = bind(&config("127.0.0.1:0")).unwrap();
        // With SO_REUSEPORT, as our own running copy has it.
        let _slot = l.add_slot(1).unwrap();
        let port = ip(&l).port();
        let error = bind(&config(&format!("127.0.0.1:{port}"))).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!(
            "listener \"http\": cannot bind 127.0.0.1:{port}: Address already in use"
        )));
        assert!(text.contains(&format!("sport = :{port}")), "{text}");
    }

    #[test]
    fn slots_share_an_address_and_its_connections() {
        let zero = bind(&config("127.0.0.1:0")).unwrap();
        let one = zero.add_slot(1).unwrap();
        assert_eq!(
            (one.slot, &*one.name, one.source),
            (Some(1), "http", ListenerSource::Own)
        );
        assert_eq!(one.address(), zero.address());
        assert_ne!(one.inode(), zero.inode());
        assert!(!one.is_listening());
        one.listen(None).unwrap();
        let two = one.clone().add_slot(2).unwrap();
        two.listen(None).unwrap();
        let clients: Vec<TcpStream> = (0..60)
            .map(|_| TcpStream::connect(ip(&zero)).unwrap())
            .collect();
        let counts: Vec<usize> = [zero, one, two]
            .into_iter()
            .map(|l| accepts(&TcpListener::from(l.into_fd().unwrap())))
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
    }

    #[test]
    fn a_socket_that_was_passed_can_get_slots_too() {
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let passed = PassedListener::new("own.http".into(), plain.into()).unwrap();
        let l = Listener::from_passed(passed);
        let one = l.add_slot(1).unwrap();
        one.listen(None).unwrap();
        assert_eq!(one.address(), l.address());
        let clients: Vec<TcpStream> = (0..60)
            .map(|_| TcpStream::connect(ip(&l)).unwrap())
            .collect();
        let counts = [l, one].map(|l| accepts(&TcpListener::from(l.into_fd().unwrap())));
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
    }

    /// As far as the kernel is concerned, both would do: share it, or not.
    #[test]
    fn a_port_that_somebody_shares_is_in_use_whoever_that_is() {
        let foreign = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        foreign.set_reuse_address(true).unwrap();
        foreign.set_reuse_port(true).unwrap();
        foreign
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        foreign.listen(1).unwrap();
        let port = foreign.local_addr().unwrap().as_socket().unwrap().port();
        let error = bind(&config(&format!("127.0.0.1:{port}"))).unwrap_err();
        assert!(error.is_in_use(), "{error}");
        // And nobody joins a socket of ours that has no slots.
        let ours = bind(&config("127.0.0.1:0")).unwrap();
        let joins = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        joins.set_reuse_address(true).unwrap();
        joins.set_reuse_port(true).unwrap();
        let joined = joins.bind(&ip(&ours).into());
        assert_eq!(joined.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    /// They are bound before the takeover and listen from then on: in any order, and a client that
    /// comes in between finds one of those that listen already.
    #[test]
    fn slots_that_are_only_bound_listen_later() {
        let zero = bind_only(&config("127.0.0.1:0")).unwrap();
        let more: Vec<_> = (1..4).map(|slot| zero.add_slot(slot).unwrap()).collect();
        let refused = TcpStream::connect(ip(&zero)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let address = ip(&zero);
        let mut clients = Vec::new();
        for l in more.iter().rev().chain([&zero]) {
            l.listen(None).unwrap();
            clients.extend((0..20).map(|_| TcpStream::connect(address).unwrap()));
        }
        let all = more.into_iter().chain([zero]);
        let counts: Vec<usize> = all
            .map(|l| accepts(&TcpListener::from(l.into_fd().unwrap())))
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
    }

    #[test]
    fn a_clone_is_the_same_socket() {
        let l = bind(&config("127.0.0.1:0")).unwrap();
        let again = l.clone();
        assert_eq!(again.inode(), l.inode());
        let address = ip(&l);
        drop(l);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_unix_socket_has_the_mode_and_group_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let gid = nix::unistd::getgid();
        let mut config = config(&format!("unix:{}", path.display()));
        config.mode = Some("0620".into());
        config.group = Some(gid.to_string());
        let l = bind(&config).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o620);
        assert_eq!(meta.gid(), gid.as_raw());
        assert_eq!(l.address(), Address::Unix(path.clone()));
        assert_eq!(l.address().to_string(), config.address.clone().unwrap());
        assert_eq!(l.slot, None);
        UnixStream::connect(&path).unwrap();
        let StdListener::Unix(std) = StdListener::from_fd(l.clone().into_fd().unwrap()).unwrap()
        else {
            panic!("not Unix")
        };
        std.accept().unwrap();
        // A group without a mode may connect, others not.
        l.remove_path().unwrap();
        assert!(!path.exists());
        l.remove_path().unwrap();
        config.mode = None;
        let _l = bind(&config).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let config = config(&format!("unix:{}", path.display()));
        let first = bind(&config).unwrap();
        let error = bind(&config).unwrap_err().to_string();
        assert!(
            error.contains("in use") && error.contains("a running program"),
            "{error}"
        );
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert!(path.exists());
        let second = bind(&config).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(second);

        // Alive but with a full queue.
        fs::remove_file(&path).unwrap();
        let mut busy = config.clone();
        busy.backlog = Some(0);
        let _busy = bind(&busy).unwrap();
        let (_a, _b) = (UnixStream::connect(&path), path.exists());
        bind(&config).unwrap_err();

        // Of another type.
        fs::remove_file(&path).unwrap();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        bind(&config).unwrap_err();
        assert!(path.exists());

        // Not a socket at all.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        let error = bind(&config).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn abstract_and_datagram_sockets_work() {
        let name = format!("unix:@handover-listeners-{}", std::process::id());
        let l = bind(&config(&name)).unwrap();
        assert_eq!(l.address().to_string(), name);
        let error = bind(&config(&name)).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        let udp = bind(&config("udp:127.0.0.1:0")).unwrap();
        assert_eq!(udp.address().to_string(), format!("udp:{}", ip(&udp)));
        assert!(udp.is_listening());
        assert!(udp.add_slot(1).is_err());
        assert!(matches!(
            StdListener::from_fd(udp.into_fd().unwrap()),
            Ok(StdListener::Udp(_))
        ));
        assert!(StdListener::from_fd(tempfile::tempfile().unwrap().into()).is_err());
    }

    #[test]
    fn an_address_is_the_same_however_it_was_opened() {
        let l = bind(&config("127.0.0.1:0")).unwrap();
        let port = ip(&l).port();
        for (text, same) in [
            (format!("127.0.0.1:{port}"), true),
            ("127.0.0.1:0".into(), true),
            (format!("127.0.0.2:{port}"), false),
            (format!("[::]:{port}"), false),
            (format!("udp:127.0.0.1:{port}"), false),
            ("unix:/x".into(), false),
            ("nonsense".into(), false),
        ] {
            assert_eq!(address_matches(&l, &text), same, "{text}");
        }
    }

    #[test]
    fn the_store_tells_our_own_sockets_by_their_name() {
        let own = bind(&config("127.0.0.1:0")).unwrap();
        assert_eq!(own.stored_name(), "own.http");
        let inode = own.inode();
        let stored = own.stored_name();
        let passed = PassedListener::new(stored, own.into_fd().unwrap()).unwrap();
        assert!(passed.listening && passed.is_own());
        let own = Listener::from_passed(passed);
        assert_eq!((&*own.name, own.source), ("http", ListenerSource::Own));
        assert_eq!(own.inode(), inode);
        let passed = PassedListener::new("web".into(), own.into_fd().unwrap()).unwrap();
        let unit = Listener::from_passed(passed);
        assert_eq!((&*unit.name, unit.source), ("web", ListenerSource::Systemd));
        assert_eq!(unit.stored_name(), "web");
    }

    #[test]
    fn mistakes_in_the_configuration_are_named() {
        let mut none = config("");
        none.address = None;
        let text = bind(&none).unwrap_err().to_string();
        assert!(text.contains("FileDescriptorName=http"), "{text}");
        for address in [
            "",
            "80",
            "unix:relative",
            "unix:@",
            "[::1]",
            "1.2.3.4:99999",
        ] {
            let error = bind(&config(address)).unwrap_err();
            assert!(matches!(error, ListenError::Address { .. }), "{error}");
        }
        let dir = tempfile::tempdir().unwrap();
        let mut unix = config(&format!("unix:{}/x", dir.path().display()));
        for mode in ["rw", "1777", "8"] {
            unix.mode = Some(mode.into());
            let error = bind(&unix).unwrap_err();
            assert!(matches!(error, ListenError::Setting { .. }), "{error}");
        }
        unix.mode = None;
        unix.group = Some("no such group".into());
        let error = bind(&unix).unwrap_err();
        assert!(matches!(error, ListenError::Setting { .. }), "{error}");
        let text = bind(&config("unix:/nonexistent/x"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("create the directory"), "{text}");
        let text = bind(&config("192.0.2.1:80")).unwrap_err().to_string();
        assert!(text.contains("no interface"), "{text}");
    }
}
