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
use axum::middleware::map_response;
use axum::routing::get;
use http::{HeaderValue, Response, StatusCode, Uri, header};

/// What the site is made from; a generation's does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteContext {
    /// The directory; `None` serves the welcome page.
    pub root: Option<PathBuf>,
    /// What the paths of requests began with, for redirects.
    pub at: String,
    /// The release that the directory is in: files of another one are other files, whatever their times
    /// say.
    pub release: Option<PathBuf>,
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
    let finish = finisher(cx);
    let Some(root) = &cx.root else {
        let finish = move |r| std::future::ready(finish(r));
        return welcome::router(cx).layer(map_response(finish));
    };
    // Not as a layer: axum boxes a request once more for each.
    files::router(root, &cx.at, cx.release.as_deref(), finish)
}

/// The site beside another application: it has the paths below `at`, and `at` itself is its directory,
/// asked for without the slash.
pub fn beside(application: Router, cx: &SiteContext) -> Router {
    let directory = format!("{}/", cx.at);
    let application = application.nest_service(&directory, router(cx));
    let finish = finisher(cx);
    let redirect = get(async move |uri: Uri| {
        let query = uri
            .query()
            .map_or_else(String::new, |query| format!("?{query}"));
        let location = [(header::LOCATION, value(&format!("{directory}{query}")))];
        (StatusCode::MOVED_PERMANENTLY, location)
    });
    let finish = move |r| std::future::ready(finish(r));
    application.route(&cx.at, redirect.layer(map_response(finish)))
}

/// What has the last word on each answer.
fn finisher(cx: &SiteContext) -> impl Fn(Response<Body>) -> Response<Body> + Clone + use<> {
    let server = cx.server_header.then(|| {
        let name = HeaderValue::from_str(&format!("handover/{}", cx.version));
        name.unwrap_or(HeaderValue::from_static("handover"))
    });
    move |response| finished(response, server.as_ref())
}

/// Names the server, and gives an error without a text one that a person can read: its number and
/// name.
fn finished(mut response: Response<Body>, server: Option<&HeaderValue>) -> Response<Body> {
    if let Some(server) = server {
        let headers = response.headers_mut();
        headers.insert(header::SERVER, server.clone());
    }
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let bare = !response.headers().contains_key(header::CONTENT_TYPE);
    if bare {
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
    use http::{Method, Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    pub(super) fn context(root: Option<PathBuf>) -> SiteContext {
        SiteContext {
            root,
            at: String::new(),
            release: None,
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
        const GET: Method = Method::GET;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("a.txt"), "abc").unwrap();
        let [sites, welcomes] = [Some(dir.path().to_owned()), None].map(|root| {
            [(true, "handover/1.2.3"), (false, "")].map(|(server_header, server)| {
                let cx = SiteContext {
                    server_header,
                    ..context(root.clone())
                };
                (router(&cx), server)
            })
        });
        let none: &[(&str, &str)] = &[];
        for (method, uri, headers, status) in [
            (GET, "/a.txt", none, 200),
            (Method::HEAD, "/a.txt", none, 200),
            (GET, "/a.txt", &[("range", "bytes=0-1")], 206),
            (GET, "/a.txt", &[("range", "bytes=0-0,2-2")], 206),
            (GET, "/a.txt", &[("range", "bytes=9-")], 416),
            (GET, "/a.txt", &[("if-none-match", "*")], 304),
            (GET, "/a.txt", &[("if-match", "\"x\"")], 412),
            (GET, "/d", none, 301),
            (GET, "/d/", none, 403),
            (GET, "/missing", none, 404),
            (Method::POST, "/", none, 405),
        ] {
            for (site, server) in &sites {
                let answer = ask(site, method.clone(), uri, headers).await;
                assert_eq!(answer.status(), status, "{method} {uri} {headers:?}");
                assert_eq!(header(&answer, "server"), *server, "{uri} {headers:?}");
            }
        }
        for (method, uri) in [(GET, "/"), (GET, "/missing"), (Method::POST, "/")] {
            for (site, server) in &welcomes {
                let answer = ask(site, method.clone(), uri, none).await;
                assert_eq!(header(&answer, "server"), *server, "{method} {uri}");
            }
        }
    }

    #[tokio::test]
    async fn beside_an_application_it_has_its_own_paths_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("css")).unwrap();
        for (file, text) in [("index.html", "index"), ("css/a.css", "style")] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let cx = SiteContext {
            at: "/static".into(),
            release: Some("/srv/blog/1".into()),
            ..context(Some(dir.path().to_owned()))
        };
        let application = Router::new().fallback(async || "application");
        let both = beside(application, &cx);
        for (uri, text) in [
            ("/", "application"),
            ("/statically", "application"),
            ("/css/a.css", "application"),
            ("/static/", "index"),
            ("/static/index.html", "index"),
            ("/static/css/a.css", "style"),
        ] {
            let answer = ask(&both, Method::GET, uri, &[]).await;
            assert_eq!(answer.body(), text, "{uri}");
        }
        for (uri, location) in [
            ("/static", "/static/"),
            ("/static?a=b", "/static/?a=b"),
            ("/static/css", "/static/css/"),
        ] {
            let answer = ask(&both, Method::GET, uri, &[]).await;
            assert_eq!(answer.status(), StatusCode::MOVED_PERMANENTLY, "{uri}");
            assert_eq!(header(&answer, "location"), location);
            assert_eq!(header(&answer, "server"), "handover/1.2.3", "{uri}");
            // A client would go on with GET.
            let answer = ask(&both, Method::POST, uri, &[]).await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{uri}");
            assert_eq!(header(&answer, "allow"), "GET,HEAD", "{uri}");
            assert_eq!(answer.body(), "405 Method Not Allowed\n", "{uri}");
        }
        // The same file of another release is another one.
        let other = router(&SiteContext {
            release: Some("/srv/blog/2".into()),
            ..cx
        });
        let [one, two] = [(&both, "/static/index.html"), (&other, "/index.html")];
        let one = ask(one.0, Method::GET, one.1, &[]).await;
        let tag = [("if-none-match", header(&one, "etag"))];
        assert_eq!(
            ask(&both, Method::GET, "/static/", &tag).await.status(),
            304
        );
        assert_eq!(ask(two.0, Method::GET, two.1, &tag).await.status(), 200);
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
