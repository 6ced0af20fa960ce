//! An address to listen on, as the configuration writes it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// What can be written; displays as it is written. `sys` binds it, and asks the resolver for a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `127.0.0.1:8080`, `[::]:80`.
    Tcp(SocketAddr),
    /// `udp:127.0.0.1:53`.
    Udp(SocketAddr),
    /// `localhost:80`, `udp:localhost:53`: as many sockets as the name has addresses.
    Host {
        /// Datagrams, not connections.
        udp: bool,
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:/run/x.sock`: an absolute path.
    Unix(PathBuf),
    /// `unix:@name`: a name that is on no disk.
    Abstract(String),
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// None of the forms.
    #[error(
        "is not an address: write an IP address and a port (\"127.0.0.1:80\", \"[::]:80\"), or \"unix:\" and a path"
    )]
    Syntax,
    /// `unix:` without a path from the root.
    #[error(
        "is not an address: the path of a Unix socket starts with a slash (\"unix:/run/x.sock\")"
    )]
    Relative,
    /// unix(7) has room for 107 bytes.
    #[error(
        "is not an address: the path of a Unix socket has at most {UNIX_PATH_MAX} bytes, this one has {0}"
    )]
    TooLong(usize),
    /// Datagrams.
    #[error("cannot be served: HTTP needs connections, not datagrams")]
    Datagrams,
    /// The path has a zero byte or another control character in it.
    #[error("is not an address: a control character in the path")]
    Control,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some(path) = text.strip_prefix("unix:") else {
            return internet(text).ok_or(AddressError::Syntax);
        };
        if path.len() > UNIX_PATH_MAX {
            return Err(AddressError::TooLong(path.len()));
        }
        if path.chars().any(char::is_control) {
            return Err(AddressError::Control);
        }
        match path.strip_prefix('@') {
            Some(name) if !name.is_empty() => Ok(Self::Abstract(name.into())),
            None if path.starts_with('/') && !path.ends_with('/') => Ok(Self::Unix(path.into())),
            _ => Err(AddressError::Relative),
        }
    }
}

fn internet(text: &str) -> Option<Address> {
    let (udp, rest) = match text.strip_prefix("udp:") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if let Ok(address) = rest.parse() {
        return Some(if udp {
            Address::Udp(address)
        } else {
            Address::Tcp(address)
        });
    }
    let (host, port) = rest.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A last label of digits is an IPv4 address gone wrong.
    let last = host.rsplit('.').next()?;
    let is_name = host.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit());
    is_name.then(|| Address::Host {
        udp,
        host: host.into(),
        port,
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Host { udp, host, port } => {
                write!(f, "{}{host}:{port}", if *udp { "udp:" } else { "" })
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// `sun_path` less its terminating zero.
const UNIX_PATH_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_write_the_same() {
        for text in [
            "127.0.0.1:8080",
            "[::]:80",
            "0.0.0.0:0",
            "localhost:80",
            "udp:[::1]:53",
            "udp:a.example:53",
            "unix:/run/x.sock",
            "unix:@x",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        use AddressError::{Control, Relative, Syntax, TooLong};
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, why) in [
            ("", Syntax),
            ("80", Syntax),
            (":80", Syntax),
            ("localhost", Syntax),
            ("local host:80", Syntax),
            ("127.0.0.256:80", Syntax),
            ("a..b:80", Syntax),
            ("localhost:http", Syntax),
            ("udp:80", Syntax),
            ("::1:80:x", Syntax),
            ("127.0.0.1:65536", Syntax),
            ("unix:", Relative),
            ("unix:@", Relative),
            ("unix:run/x", Relative),
            ("unix:/run/", Relative),
            ("unix:/a\0b", Control),
            (&long, TooLong(108)),
        ] {
            assert_eq!(text.parse::<Address>(), Err(why), "{text}");
        }
    }
}
