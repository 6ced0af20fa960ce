//! A directory over HTTP: whole files and parts of them, `index.html` for a directory, compressed
//! forms for who takes them.

use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::cache::{Cache, LONGEST};
use super::conditions::{ReleaseTag, Validators, Verdict};
use super::disk::{Disk, Identity, Looks, Opened};
use super::encoding::{Encoding, Encodings};
use super::range::{self, Asked};
use super::target::Target;
use super::value;
use crate::content::{Content, Piece};

/// A directory, and the answers about it that were kept.
#[derive(Debug)]
pub(super) struct Directory {
    disk: Disk,
    at: String,
    release: Option<ReleaseTag>,
    pub(super) cache: Cache,
}

/// What a target is.
enum Found {
    File(Form),
    /// A directory, asked for without the slash.
    Directory,
    /// A directory that has no index: what is in it is not shown.
    Unlisted,
}

/// A file, or the compressed form of it that lies beside it.
struct Form {
    file: File,
    identity: Identity,
    encoding: Option<Encoding>,
    media_type: HeaderValue,
}

/// `at`: what the paths of requests began with; `release`: that the directory is in. `finish` has the
/// last word on each answer.
pub(super) fn router(
    root: &Path,
    at: &str,
    release: Option<&Path>,
    finish: impl Fn(Response) -> Response + Clone + Send + Sync + 'static,
) -> Router {
    let mut directory = Directory::new(root, Cache::new());
    directory.at = at.into();
    directory.release = release.map(ReleaseTag::of);
    let directory = Arc::new(directory);
    Router::new().fallback(move |request| {
        let (directory, finish) = (Arc::clone(&directory), finish.clone());
        async move { finish(directory.answer(request).await) }
    })
}

impl Directory {
    pub(super) fn new(root: &Path, cache: Cache) -> Self {
        Self {
            disk: Disk::new(root),
            at: String::new(),
            release: None,
            cache,
        }
    }

    pub(super) async fn answer(self: Arc<Self>, request: Request) -> Response {
        // Nobody reads a body.
        let (request, _) = request.into_parts();
        if request.method != Method::GET && request.method != Method::HEAD {
            let allow = [(header::ALLOW, "GET,HEAD")];
            return (StatusCode::METHOD_NOT_ALLOWED, allow).into_response();
        }
        let Ok(target) = Target::parse(request.uri.path()) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        let mut looked = self.look(&request, &target).await;
        if looked.as_ref().is_err_and(became_shorter) {
            looked = self.look(&request, &target).await;
        }
        match looked {
            Ok(response) => response,
            Err(error) => {
                let status = status_of(&error);
                if status.is_server_error() {
                    tracing::warn!(uri = %request.uri, %error, "cannot serve a file");
                }
                status.into_response()
            }
        }
    }

    async fn look(&self, request: &Parts, target: &Target<'_>) -> io::Result<Response> {
        let encodings = Encodings::accepted(&request.headers);
        let may_be_kept = Cache::is_for(request);
        if may_be_kept {
            if let Some(response) = self.cache.get(target, encodings) {
                return Ok(response);
            }
        }
        let mut looks = Looks::begin();
        let form = match self.find(target, encodings, &mut looks).await? {
            Found::File(form) => form,
            Found::Directory => {
                let target = target.as_directory(request.uri.query());
                let location = value(&format!("{}{target}", self.at));
                let location = [(header::LOCATION, location)];
                return Ok((StatusCode::MOVED_PERMANENTLY, location).into_response());
            }
            Found::Unlisted => return Ok(StatusCode::FORBIDDEN.into_response()),
        };
        if !may_be_kept || form.identity.length > LONGEST {
            return Ok(form.answer(request, self.release));
        }
        let (headers, body) = form.read(self.release).await?;
        self.cache.keep(target, encodings, &headers, &body, looks);
        Ok((headers, body).into_response())
    }

    async fn find(
        &self,
        target: &Target<'_>,
        encodings: Encodings,
        looks: &mut Looks,
    ) -> io::Result<Found> {
        let name = if target.is_directory() {
            target.relative().join("index.html")
        } else {
            target.relative().to_owned()
        };
        let (file, identity) = match self.disk.open(&name, looks).await {
            Ok(Opened::File(file, identity)) => (file, identity),
            Ok(Opened::Directory) if !target.is_directory() => return Ok(Found::Directory),
            Ok(Opened::Directory) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && target.is_directory() => {
                let directory = self.disk.open(target.relative(), looks).await?;
                return match directory {
                    Opened::Directory => Ok(Found::Unlisted),
                    Opened::File(..) => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        let media_type = media_type(&name);
        for encoding in encodings.iter() {
            let mut compressed = OsString::from(&name);
            compressed.push(encoding.suffix());
            let opened = self.disk.open(&PathBuf::from(compressed), looks).await;
            if let Ok(Opened::File(file, identity)) = opened {
                return Ok(Found::File(Form {
                    file,
                    identity,
                    encoding: Some(encoding),
                    media_type,
                }));
            }
        }
        Ok(Found::File(Form {
            file,
            identity,
            encoding: None,
            media_type,
        }))
    }
}

impl Form {
    /// All of a small one, read before its head is sent.
    async fn read(self, release: Option<ReleaseTag>) -> io::Result<(HeaderMap, Bytes)> {
        let mut headers = self.headers(&Validators::new(&self.identity, release));
        let length = self.identity.length;
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::CONTENT_TYPE, self.media_type);
        let body = Content::of_file(self.file, 0, length).bytes().await?;
        Ok((headers, body))
    }

    fn answer(self, request: &Parts, release: Option<ReleaseTag>) -> Response {
        let validators = Validators::new(&self.identity, release);
        let mut headers = self.headers(&validators);
        match validators.check(&request.headers) {
            Verdict::Send => {}
            Verdict::NotModified => return (StatusCode::NOT_MODIFIED, headers).into_response(),
            Verdict::Failed => return StatusCode::PRECONDITION_FAILED.into_response(),
        }
        let length = self.identity.length;
        // RFC 9110, 14.2: a range is for GET only.
        let range = request.headers.get(header::RANGE).filter(|_| {
            request.method == Method::GET && validators.may_be_ranged(&request.headers)
        });
        let asked = range.map_or(Asked::Whole, |range| range::asked(range.as_bytes(), length));
        let (status, media_type, content) = match asked {
            Asked::Whole => {
                let whole = Content::of_file(self.file, 0, length);
                (StatusCode::OK, self.media_type, whole)
            }
            Asked::Nothing => {
                let range = [(header::CONTENT_RANGE, value(&format!("bytes */{length}")))];
                return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
            }
            Asked::Parts(parts) => match &parts[..] {
                [part] => {
                    headers.insert(header::CONTENT_RANGE, value(&content_range(part, length)));
                    let content = Content::of_file(self.file, part.start, part.end - part.start);
                    (StatusCode::PARTIAL_CONTENT, self.media_type, content)
                }
                parts => {
                    let (kind, content) = self.multipart(parts);
                    (StatusCode::PARTIAL_CONTENT, kind, content)
                }
            },
        };
        headers.insert(header::CONTENT_TYPE, media_type);
        headers.insert(header::CONTENT_LENGTH, content.len().into());
        if request.method == Method::HEAD {
            return (status, headers).into_response();
        }
        let mut response = (status, headers).into_response();
        response.extensions_mut().insert(content.clone());
        *response.body_mut() = content.read();
        response
    }

    /// What is said of it whether it is sent or not.
    fn headers(&self, validators: &Validators) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(date) = validators.last_modified() {
            headers.insert(header::LAST_MODIFIED, date);
        }
        headers.insert(header::ETAG, validators.etag());
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if let Some(encoding) = self.encoding {
            let name = HeaderValue::from_static(encoding.name());
            headers.insert(header::CONTENT_ENCODING, name);
        }
        headers
    }

    /// Several parts in one body (RFC 9110, 14.6), and what that is called.
    fn multipart(self, parts: &[Range<u64>]) -> (HeaderValue, Content) {
        let random = || RandomState::new().build_hasher().finish();
        let boundary = format!("{:016x}{:016x}", random(), random());
        let length = self.identity.length;
        let file = Arc::new(self.file);
        let media_type = String::from_utf8_lossy(self.media_type.as_bytes());
        let mut pieces = Vec::with_capacity(2 * parts.len() + 1);
        for part in parts {
            let range = content_range(part, length);
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {range}\r\n\r\n"
            );
            pieces.push(Piece::Text(head.into()));
            pieces.push(Piece::of_file(&file, part.start, part.end - part.start));
        }
        pieces.push(Piece::Text(format!("\r\n--{boundary}--\r\n").into()));
        let kind = value(&format!("multipart/byteranges; boundary={boundary}"));
        (kind, Content::new(pieces))
    }
}

fn content_range(part: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.start, part.end - 1)
}

fn media_type(name: &Path) -> HeaderValue {
    let kind = mime_guess::from_path(name).first_raw();
    kind.map_or(OCTETS, HeaderValue::from_static)
}

/// While it was read: it is another file by now.
fn became_shorter(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

fn status_of(error: &io::Error) -> StatusCode {
    match error.kind() {
        io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

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
        for method in [
            "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW",
        ] {
            let method = method.parse().unwrap();
            let answer = ask(&site.router, method, "/a.txt", &[]).await;
            assert_eq!(answer.status(), 405);
            assert_eq!(header(&answer, "allow"), "GET,HEAD");
        }
        // Its target has no path at all. (nginx has answered so since 1.29.3.)
        let answer = ask(&site.router, Method::CONNECT, "a:80", &[]).await;
        assert_eq!(answer.status(), 405);
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
        assert_eq!(answer.status(), 301);
        assert_eq!(header(&answer, "location"), "/d/?q=1");
        assert_eq!(site.status("/e/").await, 403);
        assert_eq!(site.status("/d/index.html/").await, 404);
        assert_eq!(site.status("/d/index.html/x").await, 404);
    }

    #[tokio::test]
    async fn a_redirect_never_leads_to_another_host() {
        let site = Site::new(&[("docs/index.html", "d")]);
        for uri in ["//docs", "///docs", "http://evil.example/docs"] {
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
        for range in ["items=0-1", "bytes=0-7,1-8"] {
            let answer = site.get("/a.txt", &[("range", range)]).await;
            let answer = (answer.status().as_u16(), answer.body().as_str());
            assert_eq!(answer, (200, "0123456789"), "{range}");
        }
    }

    #[tokio::test]
    async fn several_ranges_are_parts_of_one_body() {
        let site = Site::new(&[("a.txt", "0123456789"), ("a.txt.gz", "abcdefgh")]);
        let ranges = [("range", "bytes=0-1, 4-5,-1")];
        let answer = site.get("/a.txt", &ranges).await;
        assert_eq!(answer.status(), 206);
        let kind = header(&answer, "content-type");
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        let part = |range, text| {
            format!(
                "\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\r\n{text}"
            )
        };
        let whole = part("0-1", "01") + &part("4-5", "45") + &part("9-9", "9");
        assert_eq!(answer.body(), &format!("{whole}\r\n--{boundary}--\r\n"));
        assert_eq!(
            header(&answer, "content-length"),
            answer.body().len().to_string()
        );
        assert_eq!(header(&answer, "content-range"), "");
        let again = site.get("/a.txt", &ranges).await;
        assert_ne!(
            header(&again, "content-type"),
            kind,
            "a boundary is guessed"
        );
        let gzip = [ranges[0], ("accept-encoding", "gzip")];
        let answer = site.get("/a.txt", &gzip).await;
        assert_eq!(header(&answer, "content-encoding"), "gzip");
        assert!(
            answer.body().contains("bytes 4-5/8\r\n\r\nef"),
            "{answer:?}"
        );
    }

    #[tokio::test]
    async fn a_file_of_any_time_is_served() {
        let site = Site::new(&[("a.txt", "hello")]);
        let path = site.dir.path().join("www/a.txt");
        for (seconds, date) in [
            (-300_000_000, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (-1, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (400_000_000_000, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            let times = rustix::fs::Timespec {
                tv_sec: seconds,
                tv_nsec: 5,
            };
            let times = rustix::fs::Timestamps {
                last_access: times,
                last_modification: times,
            };
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty())
                .unwrap();
            let kept = fs::metadata(&path).unwrap();
            if std::os::unix::fs::MetadataExt::mtime(&kept) != seconds {
                // Not every file system can note such a time.
                assert!(seconds > 0, "{seconds}");
                continue;
            }
            let answer = site.get("/a.txt", &[]).await;
            assert_eq!(
                (answer.status().as_u16(), answer.body().as_str()),
                (200, "hello")
            );
            assert_eq!(header(&answer, "last-modified"), date);
            let again = [("if-none-match", header(&answer, "etag"))];
            assert_eq!(site.get("/a.txt", &again).await.status(), 304);
            let again = [("if-modified-since", date)];
            assert_eq!(site.get("/a.txt", &again).await.status(), 304);
        }
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
            let body = answer.body().as_str();
            assert!(
                ["400 Bad Request\n", "404 Not Found\n"].contains(&body),
                "{uri}: {body}"
            );
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
