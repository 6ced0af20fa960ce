//! The PROXY protocol, versions 1 and 2: what a load balancer that passes bytes on writes before the
//! client's own, so that we know whose they are (`HAProxy`, `doc/proxy-protocol.txt`). It is read of trusted
//! proxies only, on listeners with `proxy_protocol`; everybody else is who its address says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::stream::Peer;

/// A whole header.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    /// Its length.
    len: usize,
    /// The client; `None`: the proxy speaks for itself (a health check), or does not know.
    client: Option<SocketAddr>,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Whole(Header),
    /// At least so many bytes are missing.
    Needs(usize),
}

/// Why a connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("it does not begin with the PROXY protocol")]
    None,
    #[error("its PROXY protocol header is malformed")]
    Malformed,
    #[error("its PROXY protocol header is longer than {LONGEST} bytes")]
    TooLong,
    #[error("no whole PROXY protocol header came within {0:?}")]
    TimedOut(Duration),
    #[error("it ended in its PROXY protocol header: {0}")]
    Ended(#[from] io::Error),
}

impl Connection {
    /// Takes the header from the leftover and goes on as the client that it names. `false`: it has not
    /// come whole.
    pub(super) fn take_proxy_header(&mut self) -> Result<bool, ProxyError> {
        let Parsed::Whole(header) = parse(&self.leftover)? else {
            return Ok(false);
        };
        self.leftover.advance(header.len);
        if let Some(client) = header.client {
            self.peer = Peer::Tcp(client);
        }
        self.proxy_header_due = false;
        self.head_since = (!self.leftover.is_empty()).then(Instant::now);
        self.leftover = Bytes::copy_from_slice(&self.leftover);
        Ok(true)
    }
}

/// Says why a connection ends.
pub(super) fn refuse(connection: &Connection, why: &ProxyError) {
    tracing::debug!(
        listener = connection.served.name,
        "closing a connection of a trusted proxy: {why}"
    );
}

/// Reads a header from a socket, and no byte more. The client that it names.
pub(super) async fn read<S>(
    stream: &mut S,
    limit: Duration,
) -> Result<Option<SocketAddr>, ProxyError>
where
    S: AsyncRead + Unpin,
{
    let reading = async {
        let mut bytes = Vec::new();
        loop {
            match parse(&bytes)? {
                Parsed::Whole(header) => return Ok(header.client),
                Parsed::Needs(more) => {
                    let from = bytes.len();
                    bytes.resize(from + more, 0);
                    stream.read_exact(&mut bytes[from..]).await?;
                }
            }
        }
    };
    let read = timeout(limit, reading).await;
    read.unwrap_or(Err(ProxyError::TimedOut(limit)))
}

fn parse(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let begins = |with: &[u8]| {
        let common = bytes.len().min(with.len());
        !bytes.is_empty() && bytes[..common] == with[..common]
    };
    if bytes.is_empty() {
        return Ok(Parsed::Needs(SHORTEST_LINE));
    }
    if begins(SIGNATURE) {
        parse_binary(bytes)
    } else if begins(b"PROXY ") {
        parse_line(bytes)
    } else {
        Err(ProxyError::None)
    }
}

/// Version 1: `PROXY TCP4 192.0.2.7 203.0.113.9 56324 443`, CRLF.
fn parse_line(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        return match LONGEST_LINE.checked_sub(bytes.len()) {
            None | Some(0) => Err(ProxyError::Malformed),
            Some(_) => Ok(Parsed::Needs(
                SHORTEST_LINE.saturating_sub(bytes.len()).max(1),
            )),
        };
    };
    if end + 2 > LONGEST_LINE {
        return Err(ProxyError::Malformed);
    }
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| ProxyError::Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    let client = match words[1..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", from, to, from_port, to_port] => {
            let ip = from.parse::<Ipv4Addr>();
            to.parse::<Ipv4Addr>().map_err(|_| ProxyError::Malformed)?;
            Some((ip.map(IpAddr::V4), from_port, to_port))
        }
        ["TCP6", from, to, from_port, to_port] => {
            let ip = from.parse::<Ipv6Addr>();
            to.parse::<Ipv6Addr>().map_err(|_| ProxyError::Malformed)?;
            Some((ip.map(IpAddr::V6), from_port, to_port))
        }
        _ => return Err(ProxyError::Malformed),
    };
    let client = match client {
        None => None,
        Some((ip, from_port, to_port)) => {
            let ip = ip.map_err(|_| ProxyError::Malformed)?;
            port(to_port)?;
            Some(SocketAddr::new(ip, port(from_port)?))
        }
    };
    let len = end + 2;
    Ok(Parsed::Whole(Header { len, client }))
}

/// Digits only: `parse` would take a sign.
fn port(text: &str) -> Result<u16, ProxyError> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|_| digits);
    port.ok_or(ProxyError::Malformed)
}

/// Version 2: the signature, version and command, family and protocol, the length of what follows, the
/// addresses, and extensions that mean nothing to us.
fn parse_binary(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let Some((head, rest)) = bytes.split_at_checked(BINARY_HEAD) else {
        return Ok(Parsed::Needs(BINARY_HEAD - bytes.len()));
    };
    let [command, family, high, low] = head[SIGNATURE.len()..] else {
        return Err(ProxyError::Malformed);
    };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if BINARY_HEAD + len > LONGEST {
        return Err(ProxyError::TooLong);
    }
    let Some(addresses) = rest.get(..len) else {
        return Ok(Parsed::Needs(len - rest.len()));
    };
    let client = match (command, family) {
        (0x21, 0x11) => Some(addresses_of::<4>(addresses)?),
        (0x21, 0x21) => Some(addresses_of::<16>(addresses)?),
        // Of its own accord; or Unix sockets and what is not specified: nobody knows whose it is.
        (0x20, _) | (0x21, 0x00 | 0x31) => None,
        _ => return Err(ProxyError::Malformed),
    };
    let len = BINARY_HEAD + len;
    Ok(Parsed::Whole(Header { len, client }))
}

/// The source's address and port; the destination's are behind each of them.
fn addresses_of<const N: usize>(bytes: &[u8]) -> Result<SocketAddr, ProxyError>
where
    IpAddr: From<[u8; N]>,
{
    let (ip, rest) = bytes
        .split_first_chunk::<N>()
        .ok_or(ProxyError::Malformed)?;
    let ports = rest.get(N..N + 4).ok_or(ProxyError::Malformed)?;
    Ok(SocketAddr::new(
        IpAddr::from(*ip),
        u16::from_be_bytes([ports[0], ports[1]]),
    ))
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family, length.
const BINARY_HEAD: usize = 16;
/// `PROXY UNKNOWN`, CRLF.
const SHORTEST_LINE: usize = 15;
/// With two addresses of IPv6, CRLF included.
const LONGEST_LINE: usize = 107;
/// As nginx has it.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Option<SocketAddr> {
        match parse(bytes).unwrap() {
            Parsed::Whole(header) => {
                assert_eq!(header.len, bytes.len());
                header.client
            }
            Parsed::Needs(n) => panic!("{n} more bytes of {bytes:?}"),
        }
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &len, rest].concat()
    }

    /// 192.0.2.7:4711 to 203.0.113.9:443.
    const V4: [u8; 12] = [192, 0, 2, 7, 203, 0, 113, 9, 0x12, 0x67, 1, 0xbb];

    #[test]
    fn a_header_names_the_client() {
        let v4 = Some("192.0.2.7:4711".parse().unwrap());
        let v6 = Some("[2001:db8::7]:4711".parse().unwrap());
        assert_eq!(whole(b"PROXY TCP4 192.0.2.7 203.0.113.9 4711 443\r\n"), v4);
        assert_eq!(whole(b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n"), v6);
        assert_eq!(whole(&binary(0x21, 0x11, &V4)), v4);
        // With an extension behind the addresses.
        let extended = [&V4[..], &[4, 0, 1, 0]].concat();
        assert_eq!(whole(&binary(0x21, 0x11, &extended)), v4);
        let mut long = [0; 36];
        long[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        long[15] = 7;
        long[32..34].copy_from_slice(&4711_u16.to_be_bytes());
        assert_eq!(whole(&binary(0x21, 0x21, &long)), v6);
    }

    #[test]
    fn a_proxy_may_speak_for_itself_or_not_know() {
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(whole(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), None);
        assert_eq!(whole(&binary(0x20, 0, &[])), None);
        assert_eq!(whole(&binary(0x20, 0x11, &V4)), None);
        assert_eq!(whole(&binary(0x21, 0x31, &[0; 216])), None);
    }

    #[test]
    fn however_it_is_cut_it_is_whole_at_its_end_and_never_read_beyond() {
        let headers = [
            b"PROXY TCP4 192.0.2.7 203.0.113.9 4711 443\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            binary(0x21, 0x11, &V4),
        ];
        for header in headers {
            for cut in 0..header.len() {
                let Parsed::Needs(more) = parse(&header[..cut]).unwrap() else {
                    panic!("{cut} of {header:?}");
                };
                assert!((1..=header.len() - cut).contains(&more), "{cut}: {more}");
            }
            let followed = [&header[..], b"GET /"].concat();
            let len = header.len();
            let parsed = parse(&followed).unwrap();
            assert!(matches!(parsed, Parsed::Whole(header) if header.len == len));
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PRI * HTTP/2.0\r\n",
            b"PROXY\r\n",
            b"PROXY TCP4 192.0.2.7 203.0.113.9 4711\r\n",
            b"PROXY TCP4 192.0.2.7 203.0.113.9 4711 443 1\r\n",
            b"PROXY TCP4 192.0.2.7  203.0.113.9 4711 443\r\n",
            b"PROXY TCP4 192.0.2.7 x 4711 443\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 4711 443\r\n",
            b"PROXY TCP6 192.0.2.7 203.0.113.9 4711 443\r\n",
            b"PROXY TCP4 192.0.2.7 203.0.113.9 65536 443\r\n",
            b"PROXY TCP4 192.0.2.7 203.0.113.9 +1 443\r\n",
            b"PROXY UDP4 192.0.2.7 203.0.113.9 1 443\r\n",
            b"\r\n\r\n\0\r\nQUIT\r\x21\x11\0\0",
            &binary(0x11, 0x11, &V4),
            &binary(0x22, 0x11, &V4),
            &binary(0x21, 0x12, &V4),
            &binary(0x21, 0x11, &V4[..11]),
            &binary(0x21, 0x21, &V4),
        ] {
            let text = String::from_utf8_lossy(bytes);
            assert!(parse(bytes).is_err(), "{text:?}");
        }
        let endless = [&b"PROXY UNKNOWN "[..], &[b'a'; LONGEST_LINE]].concat();
        assert!(matches!(parse(&endless), Err(ProxyError::Malformed)));
        let huge = binary(0x21, 0x11, &[0; LONGEST]);
        assert!(matches!(parse(&huge), Err(ProxyError::TooLong)));
    }

    #[tokio::test]
    async fn read_from_a_socket_it_leaves_what_follows() {
        for header in [
            b"PROXY TCP4 192.0.2.7 203.0.113.9 4711 443\r\n".to_vec(),
            binary(0x21, 0x11, &V4),
        ] {
            let mut stream = &[&header[..], b"HELLO"].concat()[..];
            let client = read(&mut stream, Duration::from_secs(10)).await.unwrap();
            assert_eq!(client, Some("192.0.2.7:4711".parse().unwrap()));
            assert_eq!(stream, b"HELLO");
        }
        let ended = read(&mut &b"PROXY TCP4 192"[..], Duration::from_secs(10)).await;
        assert!(matches!(ended, Err(ProxyError::Ended(_))));
    }
}
