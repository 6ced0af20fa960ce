//! An address to listen on, as the configuration writes it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// `127.0.0.1:8080`, `[::]:80` or `unix:/run/x.sock`; displays as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP; never a host name: what a service listens on does not hang on a resolver.
    Tcp(SocketAddr),
    /// A Unix socket's absolute path.
    Unix(PathBuf),
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Neither form.
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
    /// The path has a zero byte or another control character in it.
    #[error("is not an address: a control character in the path")]
    Control,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some(path) = text.strip_prefix("unix:") else {
            return text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| AddressError::Syntax);
        };
        if !path.starts_with('/') || path.ends_with('/') {
            Err(AddressError::Relative)
        } else if path.len() > UNIX_PATH_MAX {
            Err(AddressError::TooLong(path.len()))
        } else if path.chars().any(char::is_control) {
            Err(AddressError::Control)
        } else {
            Ok(Self::Unix(path.into()))
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
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
        for text in ["127.0.0.1:8080", "[::]:80", "0.0.0.0:0", "unix:/run/x.sock"] {
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
            ("localhost:80", Syntax),
            ("::1:80:x", Syntax),
            ("127.0.0.1:65536", Syntax),
            ("unix:", Relative),
            ("unix:run/x", Relative),
            ("unix:/run/", Relative),
            ("unix:/a\0b", Control),
            (&long, TooLong(108)),
        ] {
            assert_eq!(text.parse::<Address>(), Err(why), "{text}");
        }
    }
}
