//! Who asks, when a trusted proxy asks for somebody else: `X-Forwarded-For` and `Forwarded` (RFC 7239),
//! read from the last proxy backwards, and only as far as each of them is trusted.

use std::net::IpAddr;
use std::net::SocketAddr;

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};

use crate::config::Network;
use crate::context::{Hop, Peer};

/// The connection that a request came through, by its extensions. Whom the worker does not name is nobody
/// to be believed.
#[cfg(feature = "daemon")]
pub(crate) fn hop_of(extensions: &http::Extensions) -> Hop {
    let context = extensions.get();
    context.map_or(Hop::NOBODY, crate::context::Context::hop)
}

impl Hop {
    pub(super) fn of(peer: Peer, proxies: &[Network]) -> Self {
        let address = match peer {
            Peer::Tcp(address) => Some(address.ip().to_canonical()),
            Peer::Unix(_) => None,
        };
        Self {
            address,
            trusted: proxies.iter().any(|proxy| proxy.contains(address)),
        }
    }

    /// Who asks for something through it. `None`: it asks itself, or nobody knows. Of two fields that do
    /// not name the same client neither stays: a proxy that writes one of them lets the other one through
    /// as the client made it up.
    ///
    /// The client has no port then: 0.
    pub(super) fn asks_for(
        &self,
        headers: &mut HeaderMap,
        proxies: &[Network],
    ) -> Option<SocketAddr> {
        if !self.trusted {
            return None;
        }
        let by_forwarded_for = last_untrusted(addresses(headers, &X_FORWARDED_FOR), proxies);
        let by_forwarded = last_untrusted(elements(headers), proxies);
        let both = headers.contains_key(&X_FORWARDED_FOR) && headers.contains_key(FORWARDED);
        if both && by_forwarded_for != by_forwarded {
            headers.remove(&X_FORWARDED_FOR);
            headers.remove(FORWARDED);
            return None;
        }
        let client = by_forwarded_for.or(by_forwarded);
        client.map(|ip| SocketAddr::new(ip, 0))
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The first one from the end that is no proxy of ours; the first of all, when all are. `None` when
/// there is none, or when the last one is no address.
fn last_untrusted(all: Vec<Option<IpAddr>>, proxies: &[Network]) -> Option<IpAddr> {
    let mut client = None;
    for ip in all.into_iter().rev() {
        // What stands before something that is no address was not said by one who is trusted.
        let Some(ip) = ip else { break };
        client = Some(ip);
        if !proxies.iter().any(|proxy| proxy.contains(client)) {
            break;
        }
    }
    client
}

/// `192.0.2.7, 10.0.0.1`, in one field or several.
fn addresses(headers: &HeaderMap, name: &HeaderName) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(name).iter().map(HeaderValue::to_str);
    lines
        .flat_map(|line| line.unwrap_or("?").split(','))
        .map(|entry| address(entry.trim()))
        .collect()
}

/// `for=192.0.2.7;proto=https, for="[2001:db8::7]:4711"`, in one field or several.
fn elements(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(FORWARDED).iter().map(HeaderValue::to_str);
    lines
        .flat_map(|line| split(line.unwrap_or("?"), ','))
        .map(|element| {
            let mut pairs = split(element, ';').into_iter();
            let value = pairs.find_map(|pair| {
                let (name, value) = pair.trim().split_once('=')?;
                name.eq_ignore_ascii_case("for").then_some(value)
            })?;
            let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            address(quoted.unwrap_or(value))
        })
        .collect()
}

/// At a separator that is not between quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    let mut escaped = false;
    let at_separator = |c: char| {
        let is_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped => quoted = !quoted,
            _ => {}
        }
        c == separator && !quoted
    };
    text.split(at_separator).collect()
}

/// With a port or without one.
fn address(text: &str) -> Option<IpAddr> {
    let ip = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']')?;
            let is_port = port.is_empty() || port.starts_with(':');
            ip.parse().ok().filter(|_| is_port).map(IpAddr::V6)
        }
        None => text.parse().ok().or_else(|| {
            let (ip, port) = text.rsplit_once(':')?;
            port.parse::<u16>().ok()?;
            ip.parse().ok().map(IpAddr::V4)
        }),
    };
    ip.map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a request that came from 10.0.0.1, where 10.0.0.0/8 is trusted.
    fn client(fields: &[(HeaderName, &str)]) -> Option<String> {
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        let hop = Hop::of(Peer::Tcp("10.0.0.1:4711".parse().unwrap()), &proxies);
        assert!(hop.trusted);
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        let client = hop.asks_for(&mut headers, &proxies)?;
        assert_eq!(client.port(), 0);
        Some(client.ip().to_string())
    }

    fn forwarded_for(value: &str) -> Option<String> {
        client(&[(X_FORWARDED_FOR, value)])
    }

    fn forwarded(value: &str) -> Option<String> {
        client(&[(FORWARDED, value)])
    }

    #[test]
    fn the_last_address_that_is_no_proxy_of_ours_is_the_client() {
        let seven = Some("192.0.2.7".to_owned());
        assert_eq!(forwarded_for("192.0.2.7"), seven);
        assert_eq!(forwarded_for("203.0.113.9, 192.0.2.7"), seven);
        assert_eq!(forwarded_for("203.0.113.9,192.0.2.7 , 10.1.1.1"), seven);
        assert_eq!(forwarded_for("192.0.2.7:4711"), seven);
        assert_eq!(forwarded_for("[2001:db8::7]:1"), Some("2001:db8::7".into()));
        assert_eq!(forwarded_for("2001:db8::7"), Some("2001:db8::7".into()));
        assert_eq!(forwarded("for=192.0.2.7;proto=https"), seven);
        assert_eq!(forwarded("for=203.0.113.9, For=\"192.0.2.7:80\""), seven);
        let quoted = "by=\"a,b;for=203.0.113.9\\\"\";for=192.0.2.7, for=10.2.2.2";
        assert_eq!(forwarded(quoted), seven);
        assert_eq!(
            forwarded("for=\"[2001:db8::7]\""),
            Some("2001:db8::7".into())
        );
        let lines = [
            (X_FORWARDED_FOR, "203.0.113.9"),
            (X_FORWARDED_FOR, "192.0.2.7"),
        ];
        assert_eq!(client(&lines), seven);
    }

    #[test]
    fn when_all_are_proxies_it_is_the_first() {
        assert_eq!(forwarded_for("10.3.3.3, 10.2.2.2"), Some("10.3.3.3".into()));
    }

    #[test]
    fn what_is_no_address_ends_the_search() {
        assert_eq!(client(&[]), None);
        for nothing in [
            "",
            "unknown",
            "192.0.2.7, x",
            "192.0.2.7:x",
            "[::1",
            "[::1]x",
        ] {
            assert_eq!(forwarded_for(nothing), None, "{nothing}");
        }
        assert_eq!(
            forwarded_for("192.0.2.7, x, 10.1.1.1"),
            Some("10.1.1.1".into())
        );
        for nothing in ["proto=https", "for=_hidden", "for=unknown", "for"] {
            assert_eq!(forwarded(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn two_fields_that_do_not_agree_are_not_believed() {
        let one = (X_FORWARDED_FOR, "192.0.2.7");
        for other in ["for=203.0.113.9", "for=_hidden", "proto=https"] {
            assert_eq!(client(&[one.clone(), (FORWARDED, other)]), None, "{other}");
        }
        let agree = client(&[one, (FORWARDED, "for=192.0.2.7")]);
        assert_eq!(agree, Some("192.0.2.7".into()));
    }

    #[test]
    fn who_is_not_trusted_asks_for_himself() {
        let proxies = ["unix:".parse().unwrap()];
        let hop = Hop::of(Peer::Tcp("10.0.0.1:4711".parse().unwrap()), &proxies);
        let mut headers = HeaderMap::new();
        headers.append(X_FORWARDED_FOR, "192.0.2.7".parse().unwrap());
        assert_eq!(hop.asks_for(&mut headers, &proxies), None);
    }
}
