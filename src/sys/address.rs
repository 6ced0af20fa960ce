//! Addresses of listeners: as the configuration writes them, and as the kernel says them.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::errno::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// Where a socket is bound. [`Display`](fmt::Display) writes it as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `127.0.0.1:80`, `[::]:80`.
    Tcp(SocketAddr),
    /// `udp:127.0.0.1:53`.
    Udp(SocketAddr),
    /// `unix:/run/x.sock`.
    Unix(PathBuf),
    /// `unix:@name`.
    Abstract(Vec<u8>),
    /// Nothing that we bind: `?`.
    Unknown,
}

impl Address {
    /// Where a socket is bound.
    #[must_use]
    pub fn of(socket: BorrowedFd<'_>) -> Self {
        let socket = SockRef::from(&socket);
        let Ok(address) = socket.local_addr() else {
            return Self::Unknown;
        };
        if let Some(ip) = address.as_socket() {
            return match socket.r#type() {
                Ok(Type::STREAM) => Self::Tcp(ip),
                Ok(Type::DGRAM) => Self::Udp(ip),
                _ => Self::Unknown,
            };
        }
        if let Some(path) = address.as_pathname() {
            return Self::Unix(path.into());
        }
        address
            .as_abstract_namespace()
            .map_or(Self::Unknown, |name| Self::Abstract(name.into()))
    }

    /// What the text of a configuration means: several when a host name has several addresses. An error is
    /// of the kind `InvalidInput` when it is written wrong, else the resolver's.
    pub fn parse(text: &str) -> io::Result<Vec<Self>> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.strip_prefix('@') {
                Some(name) if !name.is_empty() => Ok(vec![Self::Abstract(name.into())]),
                None if path.starts_with('/') => Ok(vec![Self::Unix(path.into())]),
                _ => Err(io::ErrorKind::InvalidInput.into()),
            };
        }
        let (kind, host): (fn(SocketAddr) -> Self, _) = match text.strip_prefix("udp:") {
            Some(rest) => (Self::Udp, rest),
            None => (Self::Tcp, text),
        };
        // Also looks up names; numbers need no look-up.
        Ok(host.to_socket_addrs()?.map(kind).collect())
    }

    /// A non-blocking, close-on-exec socket to bind here, with what must be set before.
    pub(super) fn socket(&self) -> io::Result<(Socket, SockAddr)> {
        let (ip, kind) = match self {
            Self::Tcp(ip) => (ip, Type::STREAM),
            Self::Udp(ip) => (ip, Type::DGRAM),
            Self::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
                return Ok((socket, SockAddr::unix(path)?));
            }
            Self::Abstract(name) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
                let name = [b"\0", &name[..]].concat();
                let path = PathBuf::from(OsString::from_vec(name));
                return Ok((socket, SockAddr::unix(path)?));
            }
            Self::Unknown => return Err(Errno::EAFNOSUPPORT.into()),
        };
        let socket = Socket::new(Domain::for_address(*ip), kind.nonblocking(), None)?;
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        if ip.is_ipv6() {
            // "[::]" is both families, whatever the system's default.
            socket.set_only_v6(false)?;
        }
        Ok((socket, (*ip).into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(ip) => write!(f, "{ip}"),
            Self::Udp(ip) => write!(f, "udp:{ip}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
            Self::Unknown => f.write_str("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        Address::parse(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in [
            "127.0.0.1:80",
            "[::]:80",
            "[2001:db8::1]:8080",
            "udp:0.0.0.0:53",
            "unix:/run/x.sock",
            "unix:@x",
        ] {
            assert_eq!(parsed(text), [text]);
        }
        assert_eq!(Address::Unknown.to_string(), "?");
    }

    #[test]
    fn host_names_are_looked_up() {
        assert!(parsed("localhost:80").contains(&"127.0.0.1:80".to_owned()));
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in [
            "",
            "80",
            ":",
            "unix:",
            "unix:relative",
            "unix:@",
            "1.2.3.4",
            "[::1]",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
        }
        // RFC 6761, 6.4: no name server has it.
        let error = Address::parse("nobody.invalid:80").unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
}
