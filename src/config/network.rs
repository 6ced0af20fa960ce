//! Who is believed: addresses and networks of proxies.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network (`10.0.0.0/8`), an address (a network of one), or everybody on Unix sockets (`unix:`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Network {
    /// Addresses whose first bits are these.
    Ip {
        /// One of them.
        address: IpAddr,
        /// How many bits count.
        bits: u8,
    },
    /// Clients of a Unix socket.
    Unix,
}

/// Not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address, no network such as 10.0.0.0/8, and not `unix:`")]
pub struct NetworkError(String);

impl Network {
    /// Whether this peer is in it; `None`: it came through a Unix socket.
    #[must_use]
    pub fn contains(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer.map(|ip| ip.to_canonical())) {
            (Self::Unix, None) => true,
            (Self::Ip { address, bits }, Some(ip)) => {
                let (this, that, width) = match (address, ip) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits().into(), b.to_bits().into(), 32),
                    (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
                    _ => return false,
                };
                let differ: u128 = this ^ that;
                differ.checked_shr(width - u32::from(*bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.into());
        if text == "unix:" {
            return Ok(Self::Unix);
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| wrong())?,
            None => width,
        };
        (bits <= width)
            .then_some(Self::Ip { address, bits })
            .ok_or_else(wrong)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix:"),
            Self::Ip { address, bits } => write!(f, "{address}/{bits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, ip: &str) -> bool {
        let network: Network = network.parse().unwrap();
        network.contains(Some(ip.parse().unwrap()))
    }

    #[test]
    fn a_network_holds_the_addresses_whose_first_bits_are_its_own() {
        assert!(holds("10.0.0.0/8", "10.255.1.2"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(!holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("192.0.2.7", "192.0.2.7"));
        assert!(!holds("192.0.2.7", "192.0.2.6"));
        assert!(holds("2001:db8::/32", "2001:db8:1::9"));
        assert!(!holds("2001:db8::/32", "2001:db9::9"));
        assert!(holds("::/0", "2001:db8::1"));
        // A dual-stack socket names IPv4 clients so.
        assert!(holds("10.0.0.0/8", "::ffff:10.1.1.1"));
    }

    #[test]
    fn unix_sockets_are_a_network_of_their_own() {
        let unix: Network = "unix:".parse().unwrap();
        assert!(unix.contains(None));
        assert!(!unix.contains(Some("127.0.0.1".parse().unwrap())));
        assert!(!"0.0.0.0/0".parse::<Network>().unwrap().contains(None));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "unix",
            "a/8",
            "10.0.0.0/-1",
        ] {
            let refused = NetworkError(text.into());
            assert_eq!(text.parse::<Network>(), Err(refused));
        }
    }
}
