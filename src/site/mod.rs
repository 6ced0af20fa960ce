//! The daemon's application: a directory, or a welcome page when there is none. It is an ordinary
//! axum [`Router`], as any user of the library would bring; it knows nothing of upgrades.

#[cfg(test)]
mod as_nginx;
mod cache;
mod conditions;
mod disk;
mod encoding;
mod files;
mod range;
mod target;
mod welcome;

use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use http::{HeaderValue, Response, header};
use tower_http::set_header::SetResponseHeaderLayer;

/// What the site is made from; a generation's does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteContext {
    /// The directory; `None` serves the welcome page.
    pub root: Option<PathBuf>,
    /// What the paths of requests began with, for redirects.
    pub at: String,
    /// The service's name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The generation that serves.
    pub generation: u64,
    /// Whether answers carry `Server: handover/<version>`.
    pub server_header: bool,
}

/// The site.
///
/// With a root: its files, with types, ranges, conditional requests, `index.html` for a directory,
/// and `.zst`, `.br` or `.gz` beside a file for clients that take them. A path ends where nginx's
/// static module ends; a redirect is a path, never another host's. Symbolic links are followed
/// wherever they lead, as nginx does unless told otherwise. Names that begin with a dot are not
/// there, but for `/.well-known`.
///
/// Without: a page at `/` that says version and generation (plain text for curl and for
/// `Accept: text/plain`), and `ok` at `/healthz`.
pub fn router(cx: &SiteContext) -> Router {
    let site = match &cx.root {
        Some(root) => files::router(root, &cx.at),
        None => welcome::router(cx),
    };
    let site = site.layer(axum::middleware::map_response(explain));
    if !cx.server_header {
        return site;
    }
    let server = HeaderValue::from_str(&format!("handover/{}", cx.version))
        .unwrap_or(HeaderValue::from_static("handover"));
    site.layer(SetResponseHeaderLayer::overriding(header::SERVER, server))
}

/// Gives an error without a text one that a person can read: its number and name.
async fn explain(mut response: Response<Body>) -> Response<Body> {
    let status = response.status();
    let bare = !response.headers().contains_key(header::CONTENT_TYPE);
    if bare && (status.is_client_error() || status.is_server_error()) {
        *response.body_mut() = Body::from(format!("{status}\n"));
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, PLAIN_TEXT);
    }
    response
}

/// A header's value that we have written, so that no byte in it is a bad one. (The query of a
/// redirect is the client's, and was read as a part of a URI.)
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

const PLAIN_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

#[cfg(test)]
mod tests {
    use http::{Method, Request, StatusCode};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    pub(super) fn context(root: Option<PathBuf>) -> SiteContext {
        SiteContext {
            root,
            at: String::new(),
            name: "web".into(),
            version: "1.2.3".into(),
            generation: 7,
            server_header: true,
        }
    }

    /// An answer, its body read to the end.
    pub(super) type Answer = http::response::Response<String>;

    pub(super) async fn ask(
        site: &Router,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let request = Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let response = site
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Response::from_parts(parts, String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// A header's value; empty when it is not there.
    pub(super) fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
        let value = answer.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    #[tokio::test]
    async fn every_answer_names_the_server_unless_told_not_to() {
        let dir = tempfile::tempdir().unwrap();
        for root in [None, Some(dir.path().to_owned())] {
            let mut cx = context(root);
            let named = router(&cx);
            cx.server_header = false;
            let anonymous = router(&cx);
            for (method, uri) in [
                (Method::GET, "/"),
                (Method::GET, "/missing"),
                (Method::POST, "/"),
            ] {
                let answer = ask(&named, method.clone(), uri, &[]).await;
                assert_eq!(header(&answer, "server"), "handover/1.2.3");
                let answer = ask(&anonymous, method, uri, &[]).await;
                assert_eq!(header(&answer, "server"), "");
            }
        }
    }

    #[tokio::test]
    async fn a_version_that_no_header_can_carry_does_not_stop_the_site() {
        let mut cx = context(None);
        cx.version = "1\n2".into();
        let answer = ask(&router(&cx), Method::GET, "/", &[]).await;
        assert_eq!(header(&answer, "server"), "handover");
    }

    #[tokio::test]
    async fn errors_are_plain_and_short() {
        let dir = tempfile::tempdir().unwrap();
        for root in [None, Some(dir.path().to_owned())] {
            let site = router(&context(root));
            let missing = ask(&site, Method::GET, "/missing", &[]).await;
            assert_eq!(missing.status(), StatusCode::NOT_FOUND);
            assert_eq!(missing.body(), "404 Not Found\n");
            assert_eq!(
                header(&missing, "content-type"),
                "text/plain; charset=utf-8"
            );
            let post = ask(&site, Method::POST, "/", &[]).await;
            assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(post.body(), "405 Method Not Allowed\n");
            assert_eq!(header(&post, "allow"), "GET,HEAD");
        }
    }
}
