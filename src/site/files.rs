//! A directory over HTTP: tower-http's `ServeDir`, and what it leaves open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tower_http::services::ServeDir;
use tower_http::services::fs::DefaultServeDirFallback;

use super::cache::{self, Cache, Looks};
use super::disk::Disk;

type Files = ServeDir<DefaultServeDirFallback, Disk>;

/// A directory, and the answers about it that were kept.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    pub(super) disk: Disk,
    pub(super) cache: Cache,
}

pub(super) fn router(root: &Path) -> Router {
    let directory = Arc::new(Directory::new(root, Cache::new()));
    Router::new().fallback(move |request| Arc::clone(&directory).answer(request))
}

impl Directory {
    pub(super) fn new(root: &Path, cache: Cache) -> Self {
        Self {
            root: root.to_owned(),
            disk: Disk::new(root),
            cache,
        }
    }

    fn files(&self, disk: Disk) -> Files {
        ServeDir::with_backend(&self.root, disk)
            .precompressed_zstd()
            .precompressed_br()
            .precompressed_gzip()
            // The whole file is a right answer to several ranges, 416 is not.
            .ignore_multi_range_requests(true)
    }

    pub(super) async fn answer(self: Arc<Self>, mut request: Request) -> Response {
        if let Some(uri) = without_double_slash(request.uri()) {
            *request.uri_mut() = uri;
        }
        if !Cache::is_for(&request) {
            return answer(self.files(self.disk.clone()), request).await;
        }
        match self.cache.get(&request) {
            Some(response) => response,
            None => self.read(request).await,
        }
    }

    /// Answers from the disk, and keeps the answer when it is a small one.
    async fn read(&self, request: Request) -> Response {
        let again = copy_of(&request);
        let looks = Arc::new(Looks::default());
        let response = ask(self.files(self.disk.noting(&looks)), request).await;
        let Some(length) = length_of_small(&response) else {
            return response;
        };
        let (parts, body) = response.into_parts();
        match to_bytes(body, length).await {
            Ok(body) if body.len() == length => {
                let encodings = again.headers().get(header::ACCEPT_ENCODING).cloned();
                let path = again.uri().path();
                self.cache
                    .keep(path, encodings, &parts.headers, &body, &looks);
                Response::from_parts(parts, Body::from(body))
            }
            // It became shorter while it was read.
            _ => ask(self.files(self.disk.clone()), again).await,
        }
    }
}

/// The length of a whole file that may be kept.
fn length_of_small(response: &Response) -> Option<usize> {
    let length = response.headers().get(header::CONTENT_LENGTH)?;
    let length: u64 = length.to_str().ok()?.parse().ok()?;
    (response.status() == StatusCode::OK && length <= cache::LONGEST)
        .then(|| usize::try_from(length).ok())?
}

async fn answer(files: Files, mut request: Request) -> Response {
    if request.method() != Method::GET {
        // RFC 9110, 14.2: a range is for GET only.
        request.headers_mut().remove(header::RANGE);
    }
    let whole = request
        .headers_mut()
        .remove(header::IF_RANGE)
        .filter(|_| request.headers().contains_key(header::RANGE))
        .map(|validator| (validator, whole_of(&request)));
    let response = ask(files.clone(), request).await;
    match whole {
        Some((validator, whole)) if is_outdated(&response, &validator) => ask(files, whole).await,
        _ => response,
    }
}

async fn ask(mut files: Files, request: Request) -> Response {
    let uri = request.uri().clone();
    match files.try_call(request).await {
        Ok(response) => {
            let mut response = response.map(Body::new);
            if response.status() == StatusCode::NOT_MODIFIED {
                // RFC 9110, 15.4.5: what the whole answer would have said.
                let vary = HeaderValue::from_static("accept-encoding");
                response.headers_mut().insert(header::VARY, vary);
            }
            response
        }
        Err(error) if is_missing(&error) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => {
            tracing::warn!(%uri, %error, "cannot serve a file");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The same request without its range.
fn whole_of(request: &Request) -> Request {
    let mut whole = copy_of(request);
    whole.headers_mut().remove(header::RANGE);
    whole
}

/// The same request for a file.
fn copy_of(request: &Request) -> Request {
    let mut copy = Request::new(Body::empty());
    *copy.uri_mut() = request.uri().clone();
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// Whether an answer about a range is about another file than the one a client has a part of
/// (RFC 9110, 13.1.5: a strong entity tag or a date, the very same). Asked of the answer, so that
/// no file can be replaced between the question and the answer.
fn is_outdated(response: &Response, validator: &HeaderValue) -> bool {
    let ranged = [
        StatusCode::PARTIAL_CONTENT,
        StatusCode::RANGE_NOT_SATISFIABLE,
    ];
    let has = |headers: &HeaderMap, name| headers.get(name) == Some(validator);
    ranged.contains(&response.status())
        && !has(response.headers(), header::ETAG)
        && !has(response.headers(), header::LAST_MODIFIED)
}

/// A path that begins with two slashes would come back as `Location: //docs/`, which is another
/// host's.
fn without_double_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query()?.as_str();
    let rest = path.strip_prefix("//")?.trim_start_matches('/');
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("/{rest}")).ok()?);
    Uri::from_parts(parts).ok()
}

fn is_missing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::super::tests::{Answer, ask, context, header};
    use super::*;

    struct Site {
        dir: TempDir,
        router: Router,
    }

    impl Site {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let router = super::super::router(&context(Some(dir.path().join("www"))));
            fs::create_dir(dir.path().join("www")).unwrap();
            fs::write(dir.path().join("secret"), "secret").unwrap();
            for (path, text) in files {
                let path = dir.path().join("www").join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self { dir, router }
        }

        async fn get(&self, uri: &str, headers: &[(&str, &str)]) -> Answer {
            ask(&self.router, Method::GET, uri, headers).await
        }

        async fn status(&self, uri: &str) -> u16 {
            self.get(uri, &[]).await.status().as_u16()
        }
    }

    #[tokio::test]
    async fn files_come_with_their_type_and_length() {
        for (name, kind) in [
            ("a.html", "text/html"),
            ("a.css", "text/css"),
            ("a.js", "text/javascript"),
            ("a.svg", "image/svg+xml"),
            ("a.wasm", "application/wasm"),
            ("a.json", "application/json"),
            ("a.tar.gz", "application/gzip"),
            ("a", "application/octet-stream"),
            ("a b%c.txt", "text/plain"),
        ] {
            let site = Site::new(&[(name, "hello")]);
            let uri = format!("/{}", name.replace('%', "%25").replace(' ', "%20"));
            let answer = site.get(&uri, &[]).await;
            assert_eq!(answer.status(), 200, "{name}");
            assert_eq!(answer.body(), "hello");
            assert_eq!(header(&answer, "content-type"), kind);
            assert_eq!(header(&answer, "content-length"), "5");
            assert_eq!(header(&answer, "accept-ranges"), "bytes");
        }
    }

    #[tokio::test]
    async fn head_says_the_same_without_a_body() {
        let site = Site::new(&[("a.txt", "hello")]);
        let get = site.get("/a.txt", &[]).await;
        let range = [("range", "bytes=1-2")];
        let head = ask(&site.router, Method::HEAD, "/a.txt", &range).await;
        assert_eq!((head.status(), head.body().as_str()), (StatusCode::OK, ""));
        assert_eq!(head.headers(), get.headers());
    }

    #[tokio::test]
    async fn other_methods_are_refused() {
        let site = Site::new(&[("a.txt", "hello")]);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = ask(&site.router, method, "/a.txt", &[]).await;
            assert_eq!(answer.status(), 405);
            assert_eq!(header(&answer, "allow"), "GET,HEAD");
        }
    }

    #[tokio::test]
    async fn a_directory_is_its_index_and_has_a_slash() {
        let site = Site::new(&[("index.html", "top"), ("d/index.html", "d"), ("e/x", "x")]);
        assert_eq!(site.get("/", &[]).await.body(), "top");
        assert_eq!(site.get("/d/", &[]).await.body(), "d");
        assert_eq!(
            header(&site.get("/d/", &[]).await, "content-type"),
            "text/html"
        );
        let answer = site.get("/d?q=1", &[]).await;
        assert_eq!(answer.status(), 307);
        assert_eq!(header(&answer, "location"), "/d/?q=1");
        assert_eq!(site.status("/e/").await, 404);
        assert_eq!(site.status("/d/index.html/").await, 404);
        assert_eq!(site.status("/d/index.html/x").await, 404);
    }

    #[tokio::test]
    async fn a_redirect_never_leads_to_another_host() {
        let site = Site::new(&[("docs/index.html", "d")]);
        for uri in ["//docs", "///docs"] {
            assert_eq!(header(&site.get(uri, &[]).await, "location"), "/docs/");
        }
        assert_eq!(site.get("//docs//index.html", &[]).await.body(), "d");
    }

    #[tokio::test]
    async fn ranges_are_parts_or_416() {
        let site = Site::new(&[("a.txt", "0123456789")]);
        for (range, part, place) in [
            ("bytes=2-4", "234", "bytes 2-4/10"),
            ("bytes=7-", "789", "bytes 7-9/10"),
            ("bytes=-2", "89", "bytes 8-9/10"),
            ("bytes=5-99", "56789", "bytes 5-9/10"),
        ] {
            let answer = site.get("/a.txt", &[("range", range)]).await;
            assert_eq!(answer.status(), 206, "{range}");
            assert_eq!(answer.body(), part);
            assert_eq!(header(&answer, "content-range"), place);
            assert_eq!(header(&answer, "content-length"), part.len().to_string());
        }
        let answer = site.get("/a.txt", &[("range", "bytes=10-")]).await;
        assert_eq!(answer.status(), 416);
        assert_eq!(header(&answer, "content-range"), "bytes */10");
        assert_eq!(answer.body(), "416 Range Not Satisfiable\n");
        let answer = site.get("/a.txt", &[("range", "bytes=0-1,4-5")]).await;
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_str()),
            (200, "0123456789")
        );
    }

    #[tokio::test]
    async fn a_part_of_a_file_that_has_changed_is_the_whole_new_file() {
        let site = Site::new(&[("a.txt", "0123456789")]);
        let before = site.get("/a.txt", &[]).await;
        let (tag, date) = (header(&before, "etag"), header(&before, "last-modified"));
        let weak = format!("W/{tag}");
        let old = "Thu, 01 Jan 1970 00:00:00 GMT";
        for (validator, status, body) in [
            (tag, 206, "23"),
            (date, 206, "23"),
            ("\"other\"", 200, "0123456789"),
            (&weak, 200, "0123456789"),
            (old, 200, "0123456789"),
        ] {
            let headers = [("range", "bytes=2-3"), ("if-range", validator)];
            let answer = site.get("/a.txt", &headers).await;
            assert_eq!(answer.status(), status, "{validator}");
            assert_eq!(answer.body(), body);
        }
        let headers = [("range", "bytes=50-"), ("if-range", "\"other\"")];
        assert_eq!(site.get("/a.txt", &headers).await.status(), 200);
    }

    #[tokio::test]
    async fn what_a_client_has_is_not_sent_again() {
        let site = Site::new(&[("a.txt", "hello")]);
        let first = site.get("/a.txt", &[]).await;
        let (tag, date) = (header(&first, "etag"), header(&first, "last-modified"));
        for (name, value) in [("if-none-match", tag), ("if-modified-since", date)] {
            let answer = site.get("/a.txt", &[(name, value)]).await;
            assert_eq!(answer.status(), 304, "{name}");
            assert_eq!(answer.body(), "");
            assert_eq!(header(&answer, "etag"), tag);
            assert_eq!(header(&answer, "vary"), "accept-encoding");
        }
        let old = "Thu, 01 Jan 1970 00:00:00 GMT";
        for (name, value, status) in [
            ("if-none-match", "\"other\"", 200),
            ("if-modified-since", old, 200),
            ("if-match", "\"other\"", 412),
            ("if-unmodified-since", old, 412),
        ] {
            let answer = site.get("/a.txt", &[(name, value)]).await;
            assert_eq!(answer.status(), status, "{name}");
        }
        // A replaced file of the same size has another tag.
        let path = site.dir.path().join("www/a.txt");
        fs::write(&path, "HELLO").unwrap();
        let later = std::time::SystemTime::now() + Duration::from_secs(5);
        fs::File::open(&path).unwrap().set_modified(later).unwrap();
        let answer = site.get("/a.txt", &[("if-none-match", tag)]).await;
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_str()),
            (200, "HELLO")
        );
    }

    #[tokio::test]
    async fn a_compressed_file_is_sent_to_who_takes_it() {
        let files = [
            ("a.js", "plain"),
            ("a.js.gz", "gz"),
            ("a.js.br", "br"),
            ("a.js.zst", "zst"),
            ("b.js", "b"),
        ];
        let site = Site::new(&files);
        for (accept, encoding, body) in [
            ("gzip", "gzip", "gz"),
            ("br", "br", "br"),
            ("zstd", "zstd", "zst"),
            ("gzip;q=0.5, br;q=0.9", "br", "br"),
            ("identity", "", "plain"),
            ("gzip;q=0", "", "plain"),
        ] {
            let answer = site.get("/a.js", &[("accept-encoding", accept)]).await;
            assert_eq!(header(&answer, "content-encoding"), encoding, "{accept}");
            assert_eq!(answer.body(), body);
            assert_eq!(header(&answer, "content-type"), "text/javascript");
            assert_eq!(header(&answer, "content-length"), body.len().to_string());
            assert_eq!(header(&answer, "vary"), "accept-encoding");
        }
        let answer = site.get("/b.js", &[("accept-encoding", "gzip, br")]).await;
        assert_eq!(
            (header(&answer, "content-encoding"), answer.body().as_str()),
            ("", "b")
        );
        let answer = site.get("/a.js.gz", &[("accept-encoding", "gzip")]).await;
        assert_eq!(header(&answer, "content-encoding"), "");
        assert_eq!(header(&answer, "content-type"), "application/gzip");
    }

    #[tokio::test]
    async fn no_path_leads_out_of_the_root() {
        let site = Site::new(&[("a.txt", "a"), ("d/b.txt", "b")]);
        let etc_passwd = "/".to_owned() + "../".repeat(20).as_str() + "etc/passwd";
        for uri in [
            "/../secret",
            "/d/../../secret",
            "/%2e%2e/secret",
            "/%2E%2E%2Fsecret",
            "/d/%2e%2e/%2e%2e/secret",
            "/..%2fsecret",
            "/..%5csecret",
            "/..\\secret",
            "/d\\..\\..\\secret",
            "/.%00./secret",
            "/a.txt%00",
            "/%00",
            "/a.txt%00.html",
            "//etc/passwd",
            "/%2fetc/passwd",
            "/%2f%2fetc%2fpasswd",
            "/d/..%00/secret",
            "/%c0%ae%c0%ae/secret",
            "/%252e%252e/secret",
            "/....//secret",
            &etc_passwd,
        ] {
            let answer = site.get(uri, &[]).await;
            assert_eq!(answer.status(), 404, "{uri}");
            assert_eq!(answer.body(), "404 Not Found\n");
        }
    }

    #[tokio::test]
    async fn names_with_a_dot_before_them_are_not_there_but_for_well_known() {
        let site = Site::new(&[
            (".env", "x"),
            (".git/config", "x"),
            ("d/.htpasswd", "x"),
            (".d/index.html", "x"),
            (".well-known/acme-challenge/token", "token"),
            (".well-known/.hidden", "x"),
            ("d/.well-known/x", "x"),
            ("a.", "x"),
        ]);
        for uri in [
            "/.env",
            "/%2eenv",
            "/%2Egit/config",
            "/.git%2fconfig",
            "/.git",
            "/d/.htpasswd",
            "/.d/",
            "/.d",
            "/.well-known/.hidden",
            "/d/.well-known/x",
        ] {
            assert_eq!(site.status(uri).await, 404, "{uri}");
        }
        assert_eq!(site.status("/.well-known/acme-challenge/token").await, 200);
        assert_eq!(site.status("/a.").await, 200);
    }

    #[tokio::test]
    async fn links_are_followed_and_what_is_no_file_is_not_there() {
        let site = Site::new(&[("d/a.txt", "a")]);
        let www = site.dir.path().join("www");
        symlink("../secret", www.join("link")).unwrap();
        symlink("d", www.join("current")).unwrap();
        symlink("self", www.join("self")).unwrap();
        symlink("nowhere", www.join("dangling")).unwrap();
        symlink("/dev/zero", www.join("zero")).unwrap();
        std::os::unix::net::UnixListener::bind(www.join("socket")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, www.join("pipe"), 0o600.into()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, www.join("d/a.txt.gz"), 0o600.into()).unwrap();
        let mut both_ends = fs::OpenOptions::new();
        let _kept = both_ends
            .read(true)
            .write(true)
            .open(www.join("d/a.txt.gz"));
        assert_eq!(site.get("/link", &[]).await.body(), "secret");
        assert_eq!(site.get("/current/a.txt", &[]).await.body(), "a");
        for uri in ["/self", "/dangling", "/zero", "/socket", "/pipe"] {
            for method in [Method::GET, Method::HEAD] {
                let answer = ask(&site.router, method, uri, &[]);
                let answer = tokio::time::timeout(Duration::from_secs(5), answer).await;
                assert_eq!(answer.expect(uri).status(), 404, "{uri}");
            }
        }
        let gzip = [("accept-encoding", "gzip")];
        assert_eq!(site.get("/d/a.txt", &gzip).await.body(), "a");
        let long = format!("/{}", "x".repeat(300));
        assert_eq!(site.status(&long).await, 404);
    }

    #[tokio::test]
    async fn a_relative_root_is_served_too() {
        let site = super::super::router(&context(Some("src/site".into())));
        let answer = ask(&site, Method::GET, "/mod.rs", &[]).await;
        assert_eq!(answer.status(), 200);
    }
}
