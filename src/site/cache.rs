//! Answers about small files, kept for a moment so that a file everybody asks for is not opened
//! each time.
//!
//! A kept answer is given only while every look at the disk that led to it would find the same
//! again: the same file with the same times and length, and still nothing where a compressed form
//! would have been taken instead. What is saved is the opening, the reading and the headers. A look
//! counts for a millisecond, so an answer may be that much older than its file: under load the looks
//! would cost as much as all the rest. Two things no look can tell, so what they concern is not kept:
//! a file that was changed so recently that the next change could bear the same time; and after a
//! second everything is read again, for who writes to a file's pages in memory, whose time the
//! kernel changes late.
//!
//! What clients say decides what is kept, never how much: an answer is found under the file's one
//! name and the few kinds of [`Encodings`], and the oldest go when there is no more room.

use std::collections::{HashMap, VecDeque};
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, header};

use super::disk::{Look, Looks};
use super::encoding::Encodings;
use super::target::Target;

/// The longest body that is kept.
pub(super) const LONGEST: u64 = 64 * 1024;

/// All that is kept, in bytes.
const MOST: usize = 4 * 1024 * 1024;

/// And in answers.
const MOST_ANSWERS: usize = 2048;

/// What an answer weighs beside its body, its name and its looks: headers, and places in tables.
const HEAD: usize = 1024;

/// Then it is read again.
const KEPT: Duration = Duration::from_secs(1);

/// So long after a look nothing is looked at again.
const LOOKED: Duration = Duration::from_millis(1);

/// Longer than the steps of any file system's clock.
const SETTLED: Duration = Duration::from_secs(2);

/// The kept answers of one worker.
#[derive(Debug)]
pub(super) struct Cache {
    settled: Duration,
    looked: Duration,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// By what a client takes ([`Encodings::kind`]), then by name.
    answers: [HashMap<Name, Answer>; Encodings::KINDS],
    /// Each of them once, the one that has been here longest first.
    queue: VecDeque<(usize, Name)>,
    weight: usize,
}

type Name = Arc<[u8]>;

#[derive(Debug, Clone)]
struct Answer {
    headers: HeaderMap,
    body: Bytes,
    looks: Arc<[Look]>,
    read_at: Instant,
    looked_at: Instant,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self::with_times(SETTLED, LOOKED)
    }

    fn with_times(settled: Duration, looked: Duration) -> Self {
        Self {
            settled,
            looked,
            kept: Mutex::new(Kept {
                answers: std::array::from_fn(|_| HashMap::new()),
                queue: VecDeque::new(),
                weight: 0,
            }),
        }
    }

    /// Whether the answer to this request depends on nothing but its target and the encodings that
    /// the client takes.
    pub(super) fn is_for(request: &Parts) -> bool {
        request.method == Method::GET
            && !UNUSUAL
                .iter()
                .any(|name| request.headers.contains_key(name))
    }

    /// The answer that was kept, if the disk is as it was.
    pub(super) fn get(&self, target: &Target<'_>, encodings: Encodings) -> Option<Response> {
        let now = Instant::now();
        let answer = self.lock().get(target, encodings)?.clone();
        if now.duration_since(answer.read_at) >= KEPT {
            return None;
        }
        if now.duration_since(answer.looked_at) >= self.looked {
            if !answer.looks.iter().all(Look::is_still) {
                return None;
            }
            // Another request may have kept one meanwhile: these looks say nothing of that.
            let mut kept = self.lock();
            let same = kept
                .get(target, encodings)
                .filter(|kept| Arc::ptr_eq(&kept.looks, &answer.looks));
            if let Some(kept) = same {
                kept.looked_at = now;
            }
        }
        let mut response = Response::new(Body::from(answer.body));
        *response.headers_mut() = answer.headers;
        Some(response)
    }

    /// Keeps an answer, unless what it says may change unnoticed.
    pub(super) fn keep(
        &self,
        target: &Target<'_>,
        encodings: Encodings,
        headers: &HeaderMap,
        body: &Bytes,
        looks: Looks,
    ) {
        let now = SystemTime::now();
        let settled = |look: &Look| look.found.is_settled(now, self.settled);
        if looks.unclear || !looks.taken.iter().all(settled) {
            return;
        }
        let answer = Answer {
            headers: headers.clone(),
            // Not the buffer that it was read into.
            body: Bytes::copy_from_slice(body),
            looks: looks.taken.into(),
            read_at: looks.begun,
            looked_at: looks.begun,
        };
        self.lock().keep(encodings.kind(), target.bytes(), answer);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn get(&mut self, target: &Target<'_>, encodings: Encodings) -> Option<&mut Answer> {
        self.answers[encodings.kind()].get_mut(target.bytes())
    }

    fn keep(&mut self, kind: usize, name: &[u8], answer: Answer) {
        self.weight += answer.weight(name);
        if let Some(before) = self.answers[kind].get_mut(name) {
            // It stays where it is in the queue: one that is asked for still comes back when its
            // turn to go has come.
            self.weight -= before.weight(name);
            *before = answer;
        } else {
            let name = Name::from(name);
            self.queue.push_back((kind, Arc::clone(&name)));
            self.answers[kind].insert(name, answer);
        }
        while self.weight > MOST || self.queue.len() > MOST_ANSWERS {
            let Some((kind, name)) = self.queue.pop_front() else {
                return;
            };
            if let Some(gone) = self.answers[kind].remove(&name) {
                self.weight -= gone.weight(&name);
            }
        }
    }
}

impl Answer {
    /// In bytes.
    fn weight(&self, name: &[u8]) -> usize {
        let look = |look: &Look| size_of::<Look>() + look.path.as_os_str().as_bytes().len();
        HEAD + name.len() + self.body.len() + self.looks.iter().map(look).sum::<usize>()
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
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    use axum::body::to_bytes;
    use axum::extract::Request;
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
            Self::with_times(settled, Duration::ZERO, files)
        }

        fn with_times(settled: Duration, looked: Duration, files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("tick"), "").unwrap();
            for (name, text) in files {
                fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
                fs::write(dir.path().join(name), text).unwrap();
            }
            let directory = Directory::new(dir.path(), Cache::with_times(settled, looked)).into();
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
            let kept = self.has(request());
            let directory = std::sync::Arc::clone(&self.directory);
            let response = directory.answer(request()).await;
            let status = response.status().as_u16();
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap(), kept)
        }

        fn has(&self, request: Request) -> bool {
            let (request, _) = request.into_parts();
            let target = Target::parse(request.uri.path()).unwrap();
            let encodings = Encodings::accepted(&request.headers);
            Cache::is_for(&request) && self.directory.cache.get(&target, encodings).is_some()
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
            assert!(
                site.has(Request::get(uri).body(Body::empty()).unwrap()),
                "{uri}"
            );
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
    async fn a_look_counts_for_as_long_as_that_and_no_longer() {
        let hour = Duration::from_secs(3600);
        let site = Site::with_times(Duration::ZERO, hour, &[("a.txt", "before")]);
        site.keep("/a.txt", &[]).await;
        site.tick("a.txt");
        fs::write(site.path("a.txt"), "behind").unwrap();
        assert_eq!(site.get("/a.txt", &[]).await, (200, "before".into(), true));
        let looked_before = |time| {
            let mut kept = site.directory.cache.lock();
            let answer = kept.answers[0].get_mut(&b"/a.txt"[..]).unwrap();
            answer.looked_at -= time;
        };
        looked_before(hour / 2);
        assert_eq!(site.get("/a.txt", &[]).await, (200, "before".into(), true));
        looked_before(hour / 2);
        assert_eq!(site.get("/a.txt", &[]).await, (200, "behind".into(), false));
    }

    #[tokio::test]
    async fn everything_is_read_again_after_a_second() {
        let site = Site::new(&[("a.txt", "hello")]);
        site.keep("/a.txt", &[]).await;
        site.directory.cache.lock().answers[0]
            .get_mut(&b"/a.txt"[..])
            .unwrap()
            .read_at -= KEPT;
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

    /// What the figures say, counted again.
    fn weighed(site: &Site) -> (usize, usize) {
        let kept = site.directory.cache.lock();
        let all = || kept.answers.iter().flatten();
        let weight: usize = all().map(|(name, answer)| answer.weight(name)).sum();
        assert_eq!((kept.weight, kept.queue.len()), (weight, all().count()));
        assert!(kept.weight <= MOST && kept.queue.len() <= MOST_ANSWERS);
        (weight, kept.queue.len())
    }

    #[tokio::test]
    async fn a_client_cannot_make_it_grow_by_what_it_says() {
        let site = Site::new(&[("a.txt", "hello"), ("d/index.html", "d")]);
        let mut most = 0;
        for n in 0..2000_u32 {
            let slashes = "/".repeat(usize::try_from(n % 50).unwrap() + 1);
            let dots = "x/../".repeat(usize::try_from(n % 7).unwrap());
            let uri = format!("{slashes}{dots}a.tx%7{}?{n}", 4);
            let weights = (n % 10, n / 10 % 10, n / 100 % 10);
            let accepts = format!(
                "x-{n}, gzip;q=0.{}, br;q=0.{}, zstd;q=0.{}",
                weights.0, weights.1, weights.2
            );
            let headers = [
                ("accept-encoding", accepts.as_str()),
                ("cookie", &uri),
                ("accept", &uri),
            ];
            assert_eq!(site.get(&uri, &headers).await.1, "hello");
            most = most.max(weighed(&site).1);
            assert_eq!(site.get(&format!("/missing{n}"), &headers).await.0, 404);
        }
        // The ways to like three forms, or fewer.
        assert_eq!(most, 16);
    }

    #[test]
    fn what_is_kept_counts_with_its_name_and_nothing_else_is_kept_with_it() {
        let cache = Cache::with_times(Duration::ZERO, Duration::ZERO);
        let read = Bytes::from(vec![b'x'; 65_536]);
        // A name is as long as a client likes.
        let name = format!("/{}", "n".repeat(200));
        let target = Target::parse(&name).ok().unwrap();
        let headers = HeaderMap::new();
        let takes = Encodings::accepted(&headers);
        cache.keep(&target, takes, &headers, &read.slice(..5), Looks::begin());
        let mut kept = cache.lock();
        assert_eq!(kept.weight, HEAD + 201 + 5);
        let answer = kept.answers[takes.kind()].remove(&*name.into_bytes());
        let body = answer.unwrap().body.try_into_mut();
        // Not the buffer that it was read into.
        assert_eq!(body.expect("nobody else has it").capacity(), 5);
        drop(read);
    }

    #[tokio::test]
    async fn no_more_is_kept_than_fits_and_the_oldest_goes_first() {
        let long = "x".repeat(usize::try_from(LONGEST).unwrap());
        let longer = long.clone() + "x";
        let names: Vec<_> = (0..70).map(|n| format!("long{n}")).collect();
        let mut files: Vec<_> = names.iter().map(|name| (&**name, &*long)).collect();
        files.push(("longer", &longer));
        let site = Site::new(&files);
        site.get("/longer", &[]).await;
        assert_eq!(site.get("/longer", &[]).await, (200, longer.clone(), false));
        for name in &names {
            site.keep(&format!("/{name}"), &[]).await;
            weighed(&site);
        }
        let (weight, _) = weighed(&site);
        assert!(
            weight + long.len() + 2 * HEAD > MOST,
            "there was room for more"
        );
        assert!(site.get("/long69", &[]).await.2 && !site.get("/long0", &[]).await.2);
        assert!(!site.get("/long1", &[]).await.2, "it went for /long0");
    }

    #[tokio::test]
    async fn no_more_answers_are_kept_than_the_table_is_meant_for() {
        let names: Vec<_> = (0..MOST_ANSWERS + 10).map(|n| format!("f{n}")).collect();
        let files: Vec<_> = names.iter().map(|name| (&**name, "x")).collect();
        let site = Site::new(&files);
        for name in &names {
            site.get(&format!("/{name}"), &[]).await;
        }
        assert_eq!(weighed(&site).1, MOST_ANSWERS);
        // What is read again stays one.
        for answer in site.directory.cache.lock().answers[0].values_mut() {
            answer.read_at -= KEPT;
        }
        site.keep(&format!("/f{MOST_ANSWERS}"), &[]).await;
        assert_eq!(weighed(&site).1, MOST_ANSWERS);
    }
}
