//! Answers about small files, kept for a moment so that a file everybody asks for is not opened
//! each time.
//!
//! A kept answer is given only while every look at the disk that led to it would find the same
//! again: the same file with the same times and length, and still nothing where a precompressed
//! one, or one in its place, would have been taken instead. That is asked anew for each request;
//! what is saved is the opening, the reading and the headers. Two things no such look can tell, so
//! what they concern is not kept: a file that was changed so recently that the next change could
//! bear the same time; and after a second everything is read again, for who writes to a file's
//! pages in memory, whose time the kernel changes late.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use super::disk::Disk;

/// The longest body that is kept.
pub(super) const LONGEST: u64 = 64 * 1024;

/// All that is kept, in bytes.
const MOST: usize = 4 * 1024 * 1024;

/// What an answer weighs beside its body.
const HEAD: usize = 1024;

/// Then it is read again.
const KEPT: Duration = Duration::from_secs(1);

/// Longer than the steps of any file system's clock.
const SETTLED: Duration = Duration::from_secs(2);

/// What a look at the disk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    File(Identity),
}

/// Which file, in which state. The last change (`ctime`) is the kernel's own and cannot be set
/// back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A look at the disk, to be taken again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) path: PathBuf,
    pub(super) found: Found,
}

/// The looks that one answer is made of.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    looks: Vec<Look>,
    /// One of them failed, or two were not the same.
    unclear: bool,
}

/// The kept answers of one worker.
#[derive(Debug)]
pub(super) struct Cache {
    settled: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By path; then by what encodings the client takes.
    answers: HashMap<Box<str>, Vec<(Option<HeaderValue>, Answer)>>,
    weight: usize,
}

#[derive(Debug, Clone)]
struct Answer {
    headers: HeaderMap,
    body: Bytes,
    looks: std::sync::Arc<[Look]>,
    read_at: Instant,
}

impl Found {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Self {
        if metadata.is_dir() {
            return Self::Directory;
        }
        Self::File(Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether its last change lies so far back that the next one will bear another time.
    fn is_settled(&self, now: SystemTime, settled: Duration) -> bool {
        let Self::File(identity) = self else {
            return true;
        };
        let (Ok(seconds), Ok(nanos)) = (
            u64::try_from(identity.changed.0),
            u32::try_from(identity.changed.1),
        ) else {
            return false;
        };
        let changed = UNIX_EPOCH + Duration::new(seconds, nanos);
        changed + settled <= now
    }
}

impl Looks {
    /// Notes a look. `None`: it failed, and says nothing.
    pub(super) fn note(&self, path: PathBuf, found: Option<Found>) {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = found else {
            taken.unclear = true;
            return;
        };
        match taken.looks.iter().find(|look| look.path == path) {
            Some(before) => taken.unclear |= before.found != found,
            None => taken.looks.push(Look { path, found }),
        }
    }

    /// All of them; `None` when they do not explain the answer.
    fn take(&self) -> Option<Vec<Look>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = std::mem::take(&mut taken.looks);
        (!taken.unclear && !looks.is_empty()).then_some(looks)
    }
}

impl Cache {
    pub(super) fn new() -> Self {
        Self::with_settled(SETTLED)
    }

    fn with_settled(settled: Duration) -> Self {
        Self {
            settled,
            kept: Mutex::default(),
        }
    }

    /// Whether the answer to this request depends on nothing but its path and the encodings that
    /// the client takes.
    pub(super) fn is_for(request: &Request) -> bool {
        let headers = request.headers();
        request.method() == Method::GET
            && !UNUSUAL.iter().any(|name| headers.contains_key(name))
            && headers.get_all(header::ACCEPT_ENCODING).iter().count() <= 1
    }

    /// The answer that was kept, if the disk is as it was.
    pub(super) fn get(&self, request: &Request) -> Option<Response> {
        let encodings = request.headers().get(header::ACCEPT_ENCODING);
        let answer = {
            let kept = self.lock();
            let answers = kept.answers.get(request.uri().path())?;
            let mut of_path = answers.iter();
            let (_, answer) = of_path.find(|(of, _)| of.as_ref() == encodings)?;
            answer.clone()
        };
        let fresh = answer.read_at.elapsed() < KEPT && answer.looks.iter().all(Disk::is_still);
        fresh.then(|| {
            let mut response = Response::new(Body::from(answer.body));
            *response.headers_mut() = answer.headers;
            response
        })
    }

    /// Keeps an answer to this request, unless what it says may change unnoticed.
    pub(super) fn keep(
        &self,
        path: &str,
        encodings: Option<HeaderValue>,
        headers: &HeaderMap,
        body: &Bytes,
        looks: &Looks,
    ) {
        let Some(looks) = looks.take() else { return };
        let now = SystemTime::now();
        if !looks
            .iter()
            .all(|look| look.found.is_settled(now, self.settled))
        {
            return;
        }
        let answer = Answer {
            headers: headers.clone(),
            body: body.clone(),
            looks: looks.into(),
            read_at: Instant::now(),
        };
        let mut kept = self.lock();
        kept.drop_one(path, encodings.as_ref());
        let weight = body.len() + HEAD;
        if kept.weight + weight > MOST {
            kept.drop_old();
        }
        if kept.weight + weight <= MOST {
            kept.weight += weight;
            let answers = kept.answers.entry(path.into()).or_default();
            answers.push((encodings, answer));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn drop_one(&mut self, path: &str, encodings: Option<&HeaderValue>) {
        if let Some(answers) = self.answers.get_mut(path) {
            let weight = &mut self.weight;
            answers.retain(|(of, answer)| {
                let another = of.as_ref() != encodings;
                if !another {
                    *weight -= answer.body.len() + HEAD;
                }
                another
            });
        }
    }

    fn drop_old(&mut self) {
        let mut weight = 0;
        self.answers.retain(|_, answers| {
            answers.retain(|(_, answer)| {
                let young = answer.read_at.elapsed() < KEPT;
                weight += usize::from(young) * (answer.body.len() + HEAD);
                young
            });
            !answers.is_empty()
        });
        self.weight = weight;
    }
}

/// With one of these an answer is made for one client.
const UNUSUAL: [header::HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use axum::body::to_bytes;
    use tempfile::TempDir;

    use super::super::files::Directory;
    use super::*;

    /// A directory with a cache that keeps what has just been written, too.
    struct Site {
        dir: TempDir,
        directory: std::sync::Arc<Directory>,
    }

    impl Site {
        fn new(files: &[(&str, &str)]) -> Self {
            Self::settled_after(Duration::ZERO, files)
        }

        fn settled_after(settled: Duration, files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("tick"), "").unwrap();
            for (name, text) in files {
                fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
                fs::write(dir.path().join(name), text).unwrap();
            }
            let directory = Directory::new(dir.path(), Cache::with_settled(settled)).into();
            Self { dir, directory }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.dir.path().join(name)
        }

        /// The answer, and whether it was a kept one.
        async fn get(&self, uri: &str, headers: &[(&str, &str)]) -> (u16, String, bool) {
            let request = || {
                let request = Request::get(uri);
                let request = headers.iter().fold(request, |r, (n, v)| r.header(*n, *v));
                request.body(Body::empty()).unwrap()
            };
            let cache = &self.directory.cache;
            let kept = Cache::is_for(&request()) && cache.get(&request()).is_some();
            let directory = std::sync::Arc::clone(&self.directory);
            let response = directory.answer(request()).await;
            let status = response.status().as_u16();
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap(), kept)
        }

        /// Returns when the next change will bear a later time than that file's last one.
        fn tick(&self, name: &str) {
            let changed = |path: &Path| {
                let metadata = fs::metadata(path).unwrap();
                (metadata.ctime(), metadata.ctime_nsec())
            };
            let before = changed(&self.path(name));
            while changed(&self.path("tick")) <= before {
                fs::write(self.path("tick"), "").unwrap();
            }
        }

        /// It is kept from now on.
        async fn keep(&self, uri: &str, headers: &[(&str, &str)]) {
            self.get(uri, headers).await;
            assert!(self.get(uri, headers).await.2, "{uri} is not kept");
        }
    }

    fn times(path: &Path) -> fs::FileTimes {
        let metadata = fs::metadata(path).unwrap();
        fs::FileTimes::new()
            .set_modified(metadata.modified().unwrap())
            .set_accessed(metadata.accessed().unwrap())
    }

    const BR: [(&str, &str); 1] = [("accept-encoding", "br")];

    #[tokio::test]
    async fn what_is_kept_is_given_with_the_same_headers() {
        let site = Site::new(&[("a.txt", "hello"), ("d/index.html", "index")]);
        for uri in ["/a.txt", "/a.txt?x=1", "/d/", "/%61.txt"] {
            let ask = || {
                let request = Request::get(uri).body(Body::empty()).unwrap();
                std::sync::Arc::clone(&site.directory).answer(request)
            };
            let first = ask().await;
            let request = Request::get(uri).body(Body::empty()).unwrap();
            let cache = &site.directory.cache;
            assert!(cache.get(&request).is_some(), "{uri}");
            let second = ask().await;
            assert_eq!(first.status(), second.status());
            assert_eq!(first.headers(), second.headers());
        }
    }

    #[tokio::test]
    async fn a_change_is_seen_at_once_whatever_its_times_say() {
        let site = Site::new(&[("a.txt", "before")]);
        site.keep("/a.txt", &[]).await;
        let kept = times(&site.path("a.txt"));
        site.tick("a.txt");
        fs::write(site.path("a.txt"), "behind").unwrap();
        let file = fs::File::options().write(true).open(site.path("a.txt"));
        file.unwrap().set_times(kept).unwrap();
        assert_eq!(site.get("/a.txt", &[]).await, (200, "behind".into(), false));
    }

    #[tokio::test]
    async fn another_file_under_the_name_is_seen_at_once() {
        let site = Site::new(&[("a.txt", "one"), ("b.txt", "two"), ("c.txt", "six")]);
        symlink("b.txt", site.path("link.txt")).unwrap();
        for (uri, before) in [("/a.txt", "one"), ("/link.txt", "two")] {
            site.keep(uri, &[]).await;
            assert_eq!(site.get(uri, &[]).await, (200, before.into(), true));
        }
        symlink("c.txt", site.path("new.txt")).unwrap();
        fs::rename(site.path("new.txt"), site.path("link.txt")).unwrap();
        fs::rename(site.path("b.txt"), site.path("a.txt")).unwrap();
        assert_eq!(site.get("/a.txt", &[]).await, (200, "two".into(), false));
        assert_eq!(site.get("/link.txt", &[]).await.1, "six");
        fs::remove_file(site.path("a.txt")).unwrap();
        assert_eq!(site.get("/a.txt", &[]).await.0, 404);
    }

    #[tokio::test]
    async fn a_precompressed_file_that_comes_or_goes_is_seen_at_once() {
        let site = Site::new(&[("a.txt", "plain")]);
        site.keep("/a.txt", &BR).await;
        site.keep("/a.txt", &[]).await;
        fs::write(site.path("a.txt.br"), "small").unwrap();
        assert_eq!(site.get("/a.txt", &BR).await.1, "small");
        assert_eq!(site.get("/a.txt", &[]).await, (200, "plain".into(), true));
        site.keep("/a.txt", &BR).await;
        fs::remove_file(site.path("a.txt.br")).unwrap();
        assert_eq!(site.get("/a.txt", &BR).await.1, "plain");
    }

    #[tokio::test]
    async fn an_index_that_becomes_unreadable_or_a_directory_is_seen_at_once() {
        let site = Site::new(&[("d/index.html", "index")]);
        site.keep("/d/", &[]).await;
        fs::remove_file(site.path("d/index.html")).unwrap();
        fs::create_dir(site.path("d/index.html")).unwrap();
        assert_eq!(site.get("/d/", &[]).await.0, 404);
    }

    #[tokio::test]
    async fn what_has_just_been_changed_is_not_kept() {
        let site = Site::settled_after(SETTLED, &[("a.txt", "new")]);
        for _ in 0..2 {
            let answer = site.get("/a.txt", &[]).await;
            assert_eq!(answer, (200, "new".into(), false));
        }
    }

    #[tokio::test]
    async fn everything_is_read_again_after_a_second() {
        let site = Site::new(&[("a.txt", "hello")]);
        site.keep("/a.txt", &[]).await;
        {
            let mut kept = site.directory.cache.lock();
            let (_, answer) = &mut kept.answers.get_mut("/a.txt").unwrap()[0];
            answer.read_at -= KEPT;
        }
        assert!(!site.get("/a.txt", &[]).await.2);
        assert!(site.get("/a.txt", &[]).await.2);
    }

    #[tokio::test]
    async fn an_answer_for_one_client_is_not_kept() {
        let site = Site::new(&[("a.txt", "hello")]);
        site.keep("/a.txt", &[]).await;
        for (name, value, status, body) in [
            ("range", "bytes=1-2", 206, "el"),
            ("if-none-match", "*", 304, ""),
            (
                "if-modified-since",
                "Fri, 01 Jan 2100 00:00:00 GMT",
                304,
                "",
            ),
            (
                "if-unmodified-since",
                "Thu, 01 Jan 1970 00:00:00 GMT",
                412,
                "",
            ),
            ("if-match", "\"x\"", 412, ""),
        ] {
            let answer = site.get("/a.txt", &[(name, value)]).await;
            assert_eq!(answer, (status, body.into(), false), "{name}");
        }
        assert_eq!(site.get("/a.txt", &[]).await, (200, "hello".into(), true));
        assert_eq!(site.get("/missing", &[]).await.0, 404);
        assert!(!site.get("/missing", &[]).await.2);
    }

    #[tokio::test]
    async fn no_more_is_kept_than_fits() {
        let long = "x".repeat(usize::try_from(LONGEST).unwrap());
        let longer = long.clone() + "x";
        let site = Site::new(&[("a", &long), ("b", &longer)]);
        site.get("/b", &[]).await;
        assert_eq!(site.get("/b", &[]).await, (200, longer, false));
        let weight = || site.directory.cache.lock().weight;
        for n in 0..100 {
            let encoding = format!("x-{n}");
            let encoding = [("accept-encoding", &*encoding)];
            assert_eq!(site.get("/a", &encoding).await.1, long);
            assert!(weight() <= MOST);
        }
        let kept = weight() / (long.len() + HEAD);
        assert_eq!(kept, MOST / (long.len() + HEAD));
        for answers in site.directory.cache.lock().answers.values_mut() {
            for (_, answer) in answers {
                answer.read_at -= KEPT;
            }
        }
        site.keep("/a", &[]).await;
        assert_eq!(weight(), long.len() + HEAD);
    }
}
