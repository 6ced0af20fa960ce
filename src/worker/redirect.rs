//! `redirect = "https"`: what a listener answers that only sends clients to TLS.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

/// Sends every request to the same place over TLS, on this port.
pub fn redirect_to_https(port: u16) -> Router {
    Router::new().fallback(move |request: Request<axum::body::Body>| async move {
        redirect(&request, port).unwrap_or_else(|| {
            (StatusCode::BAD_REQUEST, "the request names no host\n").into_response()
        })
    })
}

fn redirect<B>(request: &Request<B>, port: u16) -> Option<Response> {
    let host = if let Some(host) = request.uri().host() {
        host.to_owned()
    } else {
        let named = request.headers().get(header::HOST)?.to_str().ok()?;
        named.parse::<Authority>().ok()?.host().to_owned()
    };
    let port = match port {
        443 => String::new(),
        other => format!(":{other}"),
    };
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    // `OPTIONS *` is about the server (RFC 9110, 9.3.7).
    let path = if path == "*" { "/" } else { path };
    let location = HeaderValue::try_from(format!("https://{host}{port}{path}")).ok()?;
    // 301 lets a client turn POST into GET; 308 does not (RFC 9110, 15.4).
    let status = match *request.method() {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    // A browser keeps such an answer for ever if nobody says otherwise, also when the place was wrong.
    let fresh = HeaderValue::from_static("max-age=3600");
    Some((status, [(LOCATION, location), (CACHE_CONTROL, fresh)]).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(method: Method, uri: &str, host: Option<&str>, port: u16) -> (u16, String) {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        let Some(answer) = redirect(&request.body(()).unwrap(), port) else {
            return (400, String::new());
        };
        let location = answer.headers()[LOCATION].to_str().unwrap().to_owned();
        (answer.status().as_u16(), location)
    }

    #[test]
    fn a_request_is_sent_to_the_same_place_over_tls() {
        for (method, uri, host, port, status, to) in [
            (
                Method::GET,
                "/a?b=c",
                Some("x.org"),
                443,
                301,
                "https://x.org/a?b=c",
            ),
            (
                Method::GET,
                "/",
                Some("x.org:8080"),
                8443,
                301,
                "https://x.org:8443/",
            ),
            (
                Method::POST,
                "/f",
                Some("[::1]:80"),
                443,
                308,
                "https://[::1]/f",
            ),
            (
                Method::GET,
                "http://y.org/a",
                Some("x.org"),
                443,
                301,
                "https://y.org/a",
            ),
        ] {
            assert_eq!(location(method, uri, host, port), (status, to.to_owned()));
        }
        for (uri, to) in [("*", "https://x.org/"), ("/*", "https://x.org/*")] {
            let answer = location(Method::OPTIONS, uri, Some("x.org"), 443);
            assert_eq!(answer, (308, to.to_owned()));
        }
    }

    #[test]
    fn a_request_without_a_host_cannot_be_sent_anywhere() {
        assert_eq!(location(Method::GET, "/", None, 443).0, 400);
        assert_eq!(location(Method::GET, "/", Some("a b"), 443).0, 400);
    }
}
