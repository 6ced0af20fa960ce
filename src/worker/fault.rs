//! Requests that nobody may answer but with an error, whatever the application is: those that do not
//! say, or not clearly, which host they are for (RFC 9112, 3.2; RFC 9113, 8.3.1), or where they end. A
//! proxy before us and the application behind us must never take one request for two different hosts, nor
//! for two requests.

use std::net::Ipv6Addr;

use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Uri, Version};

/// Whether the answer is 400.
pub(super) fn is_faulty<B>(request: &Request<B>) -> bool {
    let (version, uri) = (request.version(), request.uri());
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.as_bytes()),
        (None, None) => None,
        _ => return true,
    };
    if version > Version::HTTP_11 {
        // The rest of its target `h2` looks at itself.
        let authority = uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        let same = match (authority, host) {
            (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
            _ => true,
        };
        return !same || !authority.or(host).is_some_and(is_host);
    }
    let is_host = host.map_or(version < Version::HTTP_11, is_host);
    !is_host || !is_target(request.method(), uri) || !is_framed(request.headers())
}

/// hyper reads `chunked` behind other codings, which nobody would undo, and behind another `chunked`.
fn is_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

/// A path, a whole URI, and for the methods that have it, `host:port` or an asterisk.
fn is_target(method: &Method, uri: &Uri) -> bool {
    let is_path = uri.path().starts_with('/');
    match (uri.scheme(), uri.authority()) {
        // It names whom to connect to, with a port, and nothing else (RFC 9110, 9.3.6).
        (Some(_), _) if *method == Method::CONNECT => false,
        // It goes before `Host`, so it must be one, too.
        (Some(_), Some(authority)) => is_path && is_host(authority.as_str().as_bytes()),
        (None, Some(authority)) => {
            let has_port = authority.port_u16().is_some_and(|port| port > 0);
            *method == Method::CONNECT && has_port && is_host(authority.as_str().as_bytes())
        }
        (None, None) => match *method {
            Method::CONNECT => false,
            Method::OPTIONS => is_path || uri.path() == "*",
            _ => is_path,
        },
        (Some(_), None) => false,
    }
}

/// `host`, `host:port`, `[v6]:port` (RFC 3986, 3.2.2). Underscores are in use; an empty one names
/// nothing.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = if let [b'[', rest @ ..] = host {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else {
            return false;
        };
        let is_address = is_address(&rest[..end]);
        (is_address, &rest[end + 1..])
    } else {
        let end = host.iter().position(|byte| *byte == b':');
        let (name, port) = host.split_at(end.unwrap_or(host.len()));
        let is_empty = matches!(name, b"" | b".");
        let mut before = b' ';
        let is_name = !is_empty
            && name.iter().all(|&byte| {
                let two_dots = byte == b'.' && before == b'.';
                before = byte;
                IN_NAMES[usize::from(byte)] && !two_dots
            });
        (is_name, port)
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    name && is_port
}

/// Which bytes a name may have.
const IN_NAMES: [bool; 256] = {
    let plain = b"-._~%!$&'()*+,;=";
    let mut named = [false; 256];
    let mut byte = b'0';
    while byte <= b'z' {
        named[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut n = 0;
    while n < plain.len() {
        named[plain[n] as usize] = true;
        n += 1;
    }
    named
};

/// Between brackets: version 6, or one that is still to come (`v9.x`).
fn is_address(address: &[u8]) -> bool {
    let Ok(address) = std::str::from_utf8(address) else {
        return false;
    };
    let future = || {
        let (version, rest) = address.strip_prefix(['v', 'V'])?.split_once('.')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:".contains(c);
        let is_version = version.chars().all(|c| c.is_ascii_hexdigit());
        let has_both = !version.is_empty() && !rest.is_empty();
        Some(has_both && is_version && rest.chars().all(plain))
    };
    address.parse::<Ipv6Addr>().is_ok() || future() == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in [
            "a",
            "a.b",
            "a.",
            "A-1.example",
            "a_b",
            "a:80",
            "a:",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "[::ffff:1.2.3.4]",
            "[v1f.a:b]",
            "xn--bcher-kva.example",
            "a%41",
            "a,b",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "a b",
            "a/b",
            "a@b",
            "a?b",
            "a#b",
            "a\\b",
            "a..b",
            "a:b",
            "a:80:80",
            "::1",
            "[::1",
            ".",
            ".:80",
            "[]",
            "[1]",
            "[::1.]",
            "[g::1]",
            "[1::2::3]",
            "[v.a]",
            "[::1]80",
            "[a/b]",
            "\u{fc}.de",
            "a\t",
            "<a>",
            "\"a\"",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn http_2_says_once_whom_it_is_for() {
        let faulty = |target: &str, hosts: &[&str]| {
            let mut request = Request::get(target).version(Version::HTTP_2);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            is_faulty(&request.body(()).unwrap())
        };
        assert!(!faulty("https://a:80/", &[]));
        assert!(!faulty("https://a:80/", &["A:80"]));
        assert!(!faulty("/", &["a"]));
        assert!(faulty("/", &[]));
        assert!(faulty("/", &[""]));
        assert!(faulty("/", &["a/b"]));
        assert!(faulty("/", &["a", "a"]));
        assert!(faulty("https://a/", &["a", "a"]));
        assert!(faulty("https://a/", &["b"]));
        assert!(faulty("https://u:p@a/", &[]));
    }

    #[test]
    fn a_target_has_the_form_that_its_method_wants() {
        let ok = |method: &str, target: &str| {
            is_target(&method.parse().unwrap(), &target.parse().unwrap())
        };
        for (method, target) in [
            ("GET", "/"),
            ("GET", "/a?b"),
            ("GET", "http://a/b"),
            ("GET", "http://a"),
            ("GET", "http://a?b"),
            ("OPTIONS", "*"),
            ("CONNECT", "a:80"),
            ("CONNECT", "[::1]:80"),
        ] {
            assert!(ok(method, target), "{method} {target}");
        }
        for (method, target) in [
            ("GET", "a.com:80"),
            ("GET", "a"),
            ("GET", "http://user@b/"),
            ("GET", "http://./"),
            ("GET", "*"),
            ("OPTIONS", "a"),
            ("CONNECT", "/"),
            ("CONNECT", "http://a:80/"),
            ("CONNECT", "a"),
            ("CONNECT", "a:"),
            ("CONNECT", "a:0"),
            ("CONNECT", "user@a:80"),
        ] {
            assert!(!ok(method, target), "{method} {target}");
        }
    }
}
