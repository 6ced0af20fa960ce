//! Header fields on their way through the front: what belongs to one connection stays behind (RFC
//! 9110, 7.6.1), and what says who the client is comes from us (RFC 7239, and the older
//! `X-Forwarded-*`).

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Uri, Version, request};

use crate::worker::{Hop, TlsInfo};

/// Fields of one connection, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Makes the head of a client's request that of ours to the application. Returns the protocol it wants
/// to switch to.
pub(super) fn to_application(head: &mut request::Parts, hop: Hop) -> Option<HeaderValue> {
    let wants = wanted_protocol(head);
    let trailers = says(&head.headers, &TE, "trailers");
    remove_hop_by_hop(&mut head.headers);
    // We take the body ourselves, and say so to the client when we do.
    head.headers.remove(EXPECT);
    remove(&mut head.headers, is_ambiguous);
    target(head);
    let scheme = match head.extensions.get::<Arc<TlsInfo>>() {
        Some(_) => "https",
        None => "http",
    };
    forwarded(&mut head.headers, hop, scheme);
    if let Some(protocol) = &wants {
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol.clone());
    } else if trailers {
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("te"));
        head.headers
            .insert(TE, HeaderValue::from_static("trailers"));
    }
    head.version = Version::HTTP_11;
    wants
}

/// Makes a request's trailers those of ours to the application. Nobody says there who the client is;
/// hyper holds back what else a trailer must not be (RFC 9110, 6.5.1).
pub(super) fn trailers_to_application(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    remove(trailers, |name| is_ambiguous(name) || is_claim(name));
}

/// What an answer is coded with beside its chunks, or twice in chunks. Nobody here undoes it, and its name
/// stays behind: the client would take it for the text.
pub(super) fn other_coding(headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    let first = lines.next()?;
    let is_known = |word: &str| {
        let word = word.trim();
        word.eq_ignore_ascii_case("chunked") || word.eq_ignore_ascii_case("identity")
    };
    let known = lines.next().is_none() && first.to_str().is_ok_and(is_known);
    (!known).then(|| String::from_utf8_lossy(first.as_bytes()).into_owned())
}

/// Makes the head of the application's answer that of ours to the client.
pub(super) fn to_client(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112, 6.3: the chunks say how long it is.
        headers.remove(CONTENT_LENGTH);
    }
    remove_hop_by_hop(headers);
}

/// As [`to_client`], for an answer that switches protocols.
pub(super) fn to_client_switching(headers: &mut HeaderMap) {
    let protocol = headers.get(UPGRADE).cloned();
    remove_hop_by_hop(headers);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
    }
}

/// A switch of protocols is asked for with both fields, and only in HTTP/1.1.
fn wanted_protocol(head: &request::Parts) -> Option<HeaderValue> {
    let asks = head.version == Version::HTTP_11 && says(&head.headers, &CONNECTION, "upgrade");
    // One that is a protocol of its own. With another HTTP (`h2c`) the client would speak to the
    // application past us.
    let websocket = says(&head.headers, &UPGRADE, "websocket");
    (asks && websocket).then(|| HeaderValue::from_static("websocket"))
}

/// Whether a field that is a list of words has this one.
fn says(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value
                .split(',')
                .any(|each| each.trim().eq_ignore_ascii_case(word))
        })
    })
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|word| word.trim().parse().ok())
            .collect();
        for name in named {
            // RFC 9110, 7.6.1: these never belong to a connection, whoever says so; without them
            // the message would mean something else.
            if !KEPT.contains(&name) {
                headers.remove(&name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// What a client cannot make disappear by naming it in `Connection`.
const KEPT: [HeaderName; 4] = [
    HOST,
    CONTENT_LENGTH,
    http::header::CONTENT_TYPE,
    http::header::AUTHORIZATION,
];

/// CGI and WSGI make `X_Real_Ip` and `X-Real-Ip` one variable: a client could say what only we may.
/// nginx drops such names too.
fn is_ambiguous(name: &HeaderName) -> bool {
    name.as_str().contains('_')
}

/// What says who the client is.
fn is_claim(name: &HeaderName) -> bool {
    is_forwarded_by_name(name) || *name == FORWARDED || *name == X_REAL_IP
}

/// `X-Forwarded-For`, `-Proto` and so on.
fn is_forwarded_by_name(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded-")
}

fn remove(headers: &mut HeaderMap, unwanted: fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|n| unwanted(n)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// The request target in its usual form, and the host beside it.
fn target(head: &mut request::Parts) {
    let authority = head.uri.authority().map(|a| a.as_str().to_owned());
    // RFC 9112, 3.2.2: what stands in the target replaces the field. HTTP/2 has only the target.
    if let Some(host) = authority.and_then(|host| HeaderValue::try_from(host).ok()) {
        head.headers.insert(HOST, host);
    }
    if !head.headers.contains_key(HOST) {
        // HTTP/1.0 needs none, what we speak does.
        head.headers
            .insert(HOST, HeaderValue::from_static("localhost"));
    }
    if head.method == Method::OPTIONS && head.uri.path() == "*" {
        // Over HTTP/2 a scheme and a host stand before it.
        head.uri = Uri::from_static("*");
    } else if head.uri.scheme().is_some() || head.uri.authority().is_some() {
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        // RFC 9112, 3.2.1: an empty path is `/`, and the query stays.
        let path = match path.strip_prefix('?') {
            Some(query) => format!("/?{query}"),
            None => path.to_owned(),
        };
        if let Ok(path) = Uri::try_from(path) {
            head.uri = path;
        }
    }
    // RFC 9113, 8.2.3: HTTP/2 may cut it into several.
    let mut cookies = head.headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
        let mut all = first.as_bytes().to_vec();
        for cookie in std::iter::once(second).chain(cookies) {
            all.extend_from_slice(b"; ");
            all.extend_from_slice(cookie.as_bytes());
        }
        if let Ok(all) = HeaderValue::from_bytes(&all) {
            head.headers.insert(COOKIE, all);
        }
    }
}

/// Says who the client is. What it says itself is believed of a trusted proxy only. (What a trusted one
/// says twice and differently has not come this far: [`Hop::asks_for`].)
fn forwarded(headers: &mut HeaderMap, hop: Hop, scheme: &'static str) {
    if !hop.trusted {
        remove(headers, is_claim);
    }
    let host = headers.get(HOST).cloned();
    // Who is believed has said it in one of two ways: in the other one it would look as if the proxy was the
    // client.
    let by_name = headers.keys().any(is_forwarded_by_name);
    if headers.contains_key(FORWARDED) {
        // How the proxy was asked stays the last that is said of it.
        append(headers, FORWARDED, &forwarded_for(hop));
        if !by_name {
            return;
        }
    } else if !by_name {
        append(
            headers,
            FORWARDED,
            &forwarded_all(hop, host.as_ref(), scheme),
        );
    }
    if let Some(ip) = hop.address {
        append(headers, X_FORWARDED_FOR, &ip.to_string());
    }
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    headers
        .entry(X_FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(scheme));
}

/// Our element of `Forwarded` beside others.
fn forwarded_for(hop: Hop) -> String {
    match hop.address {
        Some(IpAddr::V4(ip)) => format!("for={ip}"),
        Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
        None => "for=unknown".to_owned(),
    }
}

/// Our element where it is the only one.
fn forwarded_all(hop: Hop, host: Option<&HeaderValue>, scheme: &str) -> String {
    let mut us = forwarded_for(hop);
    let host = host.and_then(|host| host.to_str().ok());
    if let Some(host) = host.filter(|host| !host.contains(['"', '\\'])) {
        let _ = write!(us, ";host=\"{host}\"");
    }
    let _ = write!(us, ";proto={scheme}");
    us
}

/// One list, whatever number of lines it came in.
fn append(headers: &mut HeaderMap, name: HeaderName, last: &str) {
    let mut all = Vec::new();
    for value in headers.get_all(&name) {
        all.extend_from_slice(value.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(last.as_bytes());
    if let Ok(all) = HeaderValue::from_bytes(&all) {
        headers.insert(name, all);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const CLIENT: &str = "192.0.2.7";

    fn sent(request: request::Builder, trusted: bool) -> request::Parts {
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let client = Hop {
            address: Some(CLIENT.parse().unwrap()),
            trusted,
        };
        to_application(&mut head, client);
        head
    }

    fn all<'a>(head: &'a request::Parts, name: &str) -> Vec<&'a str> {
        let values = head.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    }

    fn get() -> request::Builder {
        Request::get("/a?b=c").header("host", "shop.example")
    }

    #[test]
    fn what_belongs_to_the_connection_stays_behind() {
        let head = sent(
            get()
                .header("connection", "close, X-Hop")
                .header("x-hop", "1")
                .header("keep-alive", "timeout=5")
                .header("proxy-connection", "keep-alive")
                .header("te", "gzip")
                .header("upgrade", "websocket")
                .header("expect", "100-continue")
                .header("accept", "*/*"),
            false,
        );
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "accept",
                "forwarded",
                "host",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto"
            ]
        );
    }

    #[test]
    fn a_client_cannot_make_fields_disappear_that_say_what_the_message_is() {
        let head = sent(
            get()
                .header("connection", "host, content-length, authorization")
                .header("content-length", "3")
                .header("authorization", "Basic x"),
            false,
        );
        assert_eq!(all(&head, "host"), ["shop.example"]);
        assert_eq!(all(&head, "content-length"), ["3"]);
        assert_eq!(all(&head, "authorization"), ["Basic x"]);
    }

    #[test]
    fn claims_of_a_stranger_are_replaced() {
        let claims = |request: request::Builder| {
            request
                .header("x-forwarded-for", "10.0.0.1")
                .header("x-forwarded-proto", "https")
                .header("x-forwarded-host", "bank.example")
                .header("x-forwarded-port", "443")
                .header("x-real-ip", "10.0.0.1")
                .header("x_forwarded_for", "10.0.0.1")
                .header("forwarded", "for=10.0.0.1")
        };
        let head = sent(claims(get()), false);
        assert_eq!(all(&head, "x-forwarded-for"), [CLIENT]);
        assert_eq!(all(&head, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["shop.example"]);
        assert_eq!(
            all(&head, "forwarded"),
            ["for=192.0.2.7;host=\"shop.example\";proto=http"]
        );
        for gone in ["x-forwarded-port", "x-real-ip", "x_forwarded_for"] {
            assert_eq!(all(&head, gone), Vec::<&str>::new(), "{gone}");
        }

        let head = sent(claims(get()), true);
        assert_eq!(all(&head, "x-forwarded-for"), ["10.0.0.1, 192.0.2.7"]);
        assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["bank.example"]);
        assert_eq!(all(&head, "x-forwarded-port"), ["443"]);
        assert_eq!(all(&head, "forwarded"), ["for=10.0.0.1, for=192.0.2.7"]);
        // Never believed, from whomever: it is another field's name in disguise.
        assert_eq!(all(&head, "x_forwarded_for"), Vec::<&str>::new());
    }

    /// Rack, and so Rails, asks `Forwarded` first: nginx, which ends TLS, has no word in it.
    #[test]
    fn we_do_not_contradict_a_trusted_proxy() {
        let by_nginx = get()
            .header("x-forwarded-for", "203.0.113.9")
            .header("x-forwarded-proto", "https");
        let head = sent(by_nginx, true);
        assert_eq!(all(&head, "forwarded"), Vec::<&str>::new());
        assert_eq!(all(&head, "x-forwarded-for"), ["203.0.113.9, 192.0.2.7"]);
        assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);

        let said = "for=203.0.113.9;proto=https;host=bank.example";
        let head = sent(get().header("forwarded", said), true);
        let forwarded = "for=203.0.113.9;proto=https;host=bank.example, for=192.0.2.7";
        assert_eq!(all(&head, "forwarded"), [forwarded]);
        for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"] {
            assert_eq!(all(&head, name), Vec::<&str>::new());
        }

        let head = sent(get(), true);
        let ours = "for=192.0.2.7;host=\"shop.example\";proto=http";
        assert_eq!(all(&head, "forwarded"), [ours]);
    }

    #[test]
    fn the_target_is_a_path_and_the_host_is_named_once() {
        let head = sent(
            Request::get("http://shop.example:8080/a?b=c").header("host", "other.example"),
            false,
        );
        assert_eq!(head.uri, "/a?b=c");
        assert_eq!(all(&head, "host"), ["shop.example:8080"]);
        let head = sent(Request::options("*").header("host", "shop.example"), false);
        assert_eq!(head.uri, "*");
        // As h2 puts them together.
        let whole = Uri::builder().scheme("https").authority("shop.example");
        let whole = whole.path_and_query("*").build().unwrap();
        let head = sent(Request::options(whole).version(Version::HTTP_2), false);
        assert_eq!(head.uri, "*");
        assert_eq!(all(&head, "host"), ["shop.example"]);
        let head = sent(Request::get("/").version(Version::HTTP_10), false);
        assert_eq!(all(&head, "host"), ["localhost"]);
        assert_eq!(head.version, Version::HTTP_11);
    }

    #[test]
    fn cookies_that_http2_cut_are_one_field() {
        let head = sent(get().header("cookie", "a=1").header("cookie", "b=2"), false);
        assert_eq!(all(&head, "cookie"), ["a=1; b=2"]);
    }

    #[test]
    fn a_switch_of_protocols_is_passed_on_with_both_fields() {
        let asks = || {
            get()
                .header("connection", "keep-alive, Upgrade")
                .header("upgrade", "websocket")
        };
        let head = sent(asks(), false);
        assert_eq!(all(&head, "connection"), ["upgrade"]);
        assert_eq!(all(&head, "upgrade"), ["websocket"]);
        let head = sent(asks().version(Version::HTTP_10), false);
        assert_eq!(all(&head, "upgrade"), Vec::<&str>::new());
        for (asked, passed_on) in [
            ("h2c", None),
            ("foo, h2c", None),
            ("h2c, WebSocket", Some("websocket")),
        ] {
            let head = sent(
                get()
                    .header("connection", "Upgrade, HTTP2-Settings")
                    .header("http2-settings", "AAMAAABkAAQAAP__")
                    .header("upgrade", asked),
                false,
            );
            assert_eq!(all(&head, "upgrade").first().copied(), passed_on, "{asked}");
            assert_eq!(all(&head, "http2-settings"), Vec::<&str>::new());
        }
    }

    #[test]
    fn an_application_hears_that_its_client_came_by_tls() {
        let (mut head, ()) = get().body(()).unwrap().into_parts();
        head.extensions.insert(Arc::new(TlsInfo::default()));
        to_application(&mut head, Hop::NOBODY);
        assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);
        assert!(all(&head, "forwarded")[0].ends_with(";proto=https"));
    }

    #[test]
    fn an_answer_in_chunks_has_no_other_length() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("5"));
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        to_client(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn only_chunks_are_undone() {
        let coding = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_str(line).unwrap());
            }
            other_coding(&headers)
        };
        for known in [&[][..], &["chunked"], &[" Chunked "], &["identity"]] {
            assert_eq!(coding(known), None, "{known:?}");
        }
        for other in [
            &["gzip"][..],
            &["gzip, chunked"],
            &["gzip", "chunked"],
            &["chunked, chunked"],
            &["chunked", "chunked"],
        ] {
            assert_eq!(coding(other).as_deref(), Some(other[0]), "{other:?}");
        }
    }

    #[test]
    fn trailers_are_asked_for_when_the_client_takes_them() {
        let head = sent(get().header("te", "gzip, trailers"), false);
        assert_eq!(all(&head, "te"), ["trailers"]);
        assert_eq!(all(&head, "connection"), ["te"]);
    }

    #[test]
    fn ipv6_clients_are_quoted() {
        let (mut head, ()) = get().body(()).unwrap().into_parts();
        let client = Hop {
            address: Some("2001:db8::1".parse().unwrap()),
            trusted: false,
        };
        to_application(&mut head, client);
        assert_eq!(all(&head, "x-forwarded-for"), ["2001:db8::1"]);
        assert!(all(&head, "forwarded")[0].starts_with("for=\"[2001:db8::1]\";"));
        let (mut head, ()) = get().body(()).unwrap().into_parts();
        to_application(&mut head, Hop::NOBODY);
        assert_eq!(all(&head, "x-forwarded-for"), Vec::<&str>::new());
        assert!(all(&head, "forwarded")[0].starts_with("for=unknown;"));
    }
}
