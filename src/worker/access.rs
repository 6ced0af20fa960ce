//! `[log] access`: a line an answer, in the combined format and a little more.
//!
//! ```text
//! 192.0.2.7 - - [25/Nov/2026:04:31:39 +0000] "GET / HTTP/1.1" 200 1234 "referer" "agent" 0.003 g7
//! ```
//!
//! After the user agent: seconds from the request's head to the answer's end, and the generation.
//! The bytes are those of the body that were given to the connection; times are UTC; a client on a
//! Unix socket is `unix:`; what is not printable, and quotes, are `\xHH`, as nginx writes them.
//!
//! A worker never waits for the disk: lines go into a bounded buffer, a thread writes them. What
//! finds no room is lost, counted and said. Each write holds whole lines and appends, so the workers
//! of all generations may write to one file.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use http::header::{REFERER, USER_AGENT};
use http::{HeaderName, Request};

use super::guarded::Vital;
use super::lock;
use super::stream::Peer;

/// The log of one worker.
#[derive(Debug)]
pub(super) struct AccessLog {
    generation: u64,
    path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something is to be done.
    wake: Condvar,
    /// Something was done.
    done: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<u8>,
    /// Instead of the file that is open.
    reopened: Option<File>,
    /// Lines that found no room since it was last said.
    lost: u64,
    /// Write at once.
    hurry: bool,
    /// The thread is writing.
    busy: bool,
}

/// One answer, from its request's head on.
#[derive(Debug)]
pub(super) struct Entry {
    log: Arc<AccessLog>,
    begun: Instant,
    /// Client, time and request line.
    line: String,
    /// Referer and user agent.
    agent: String,
    pub(super) status: u16,
    bytes: AtomicU64,
}

/// What may wait for the disk.
const ROOM: usize = 1024 * 1024;
/// Lines are collected for so long: a write for each would cost more than the answer.
const COLLECT: Duration = Duration::from_millis(100);
/// The buffer is written before that when it is as full as this.
const FULL: usize = 64 * 1024;
/// The last lines get so long when the worker leaves.
const GOODBYE: Duration = Duration::from_secs(1);
/// Of one header.
const HEADER_MAX: usize = 1024;

impl AccessLog {
    /// Opens it, unless it is off.
    pub(super) fn open(path: &str, generation: u64) -> io::Result<Option<Arc<Self>>> {
        if path == "off" {
            return Ok(None);
        }
        let path = PathBuf::from(path);
        let file = append_to(&path)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("access log".into())
            .spawn(move || write(&writer, file))?;
        Ok(Some(Arc::new(Self {
            generation,
            path,
            shared,
        })))
    }

    /// After a rotation: lines go to the file that is at the path now.
    pub(super) fn reopen(&self) {
        match append_to(&self.path) {
            Ok(file) => {
                let mut queue = lock(&self.shared.queue);
                queue.reopened = Some(file);
                queue.hurry = true;
                self.shared.wake.notify_one();
            }
            Err(e) => tracing::error!(
                "cannot open {} again, the old file is written on: {e}",
                self.path.display()
            ),
        }
    }

    /// Writes what waits; gives a disk that hangs a second, and no more.
    pub(super) fn flush(&self) {
        let end = Instant::now() + GOODBYE;
        let mut queue = lock(&self.shared.queue);
        while !queue.lines.is_empty() || queue.busy {
            queue.hurry = true;
            self.shared.wake.notify_one();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!("the last lines of {} are lost", self.path.display());
                return;
            }
            queue = match self.shared.done.wait_timeout(queue, left) {
                Ok((queue, _)) => queue,
                Err(_) => return,
            };
        }
    }

    /// A request's head is here.
    pub(super) fn begin<B>(self: &Arc<Self>, request: &Request<B>, peer: Peer) -> Entry {
        let mut line = String::with_capacity(160);
        match peer {
            Peer::Tcp(address) => _ = write!(line, "{}", address.ip().to_canonical()),
            Peer::Unix(_) => line.push_str("unix:"),
        }
        let now = jiff::Timestamp::now().strftime("%d/%b/%Y:%H:%M:%S +0000");
        let _ = write!(line, " - - [{now}] \"");
        escape(request.method().as_str().as_bytes(), &mut line);
        line.push(' ');
        let target = request.uri().path_and_query();
        let target = target.map_or_else(|| request.uri().path(), |t| t.as_str());
        escape(target.as_bytes(), &mut line);
        let _ = write!(line, " {:?}\"", request.version());
        let mut agent = String::with_capacity(64);
        for name in [REFERER, USER_AGENT] {
            header(request, &name, &mut agent);
        }
        Entry {
            log: Arc::clone(self),
            begun: Instant::now(),
            line,
            agent,
            status: 499,
            bytes: AtomicU64::new(0),
        }
    }

    fn add(&self, line: &str) {
        let mut queue = lock(&self.shared.queue);
        if queue.lines.len() + line.len() > ROOM {
            queue.lost += 1;
            return;
        }
        let first = queue.lines.is_empty();
        queue.lines.extend_from_slice(line.as_bytes());
        if queue.lines.len() >= FULL {
            queue.hurry = true;
        }
        if first || queue.hurry {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Entry {
    /// So much of the answer's body was given to the connection.
    pub(super) fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Self {
            line,
            agent,
            status,
            bytes,
            ..
        } = self;
        let took = self.begun.elapsed();
        let _ = writeln!(
            line,
            " {status} {}{agent} {}.{:03} g{}",
            bytes.get_mut(),
            took.as_secs(),
            took.subsec_millis(),
            self.log.generation
        );
        self.log.add(line);
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

fn header<B>(request: &Request<B>, name: &HeaderName, to: &mut String) {
    to.push_str(" \"");
    match request.headers().get(name) {
        Some(value) => {
            let bytes = value.as_bytes();
            escape(&bytes[..bytes.len().min(HEADER_MAX)], to);
        }
        None => to.push('-'),
    }
    to.push('"');
}

/// What a client says must not look like another line, or like the end of its own quotes.
fn escape(bytes: &[u8], to: &mut String) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => _ = write!(to, "\\x{byte:02X}"),
            _ => to.push(char::from(*byte)),
        }
    }
}

/// The thread; it lives as long as the process.
fn write(shared: &Shared, mut file: File) {
    let _vital = Vital("the access log");
    let mut lines = Vec::new();
    loop {
        let mut queue = lock(&shared.queue);
        queue.busy = false;
        shared.done.notify_all();
        while queue.lines.is_empty() && queue.reopened.is_none() {
            let Ok(woken) = shared.wake.wait(queue) else {
                return;
            };
            queue = woken;
        }
        let end = Instant::now() + COLLECT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if queue.hurry || left.is_zero() {
                break;
            }
            queue = match shared.wake.wait_timeout(queue, left) {
                Ok((queue, _)) => queue,
                Err(_) => return,
            };
        }
        queue.hurry = false;
        queue.busy = true;
        std::mem::swap(&mut queue.lines, &mut lines);
        let lost = std::mem::take(&mut queue.lost);
        let reopened = queue.reopened.take();
        drop(queue);
        if lost > 0 {
            tracing::warn!("{lost} lines of the access log were lost: the disk is too slow");
        }
        // What was answered before the rotation may stand on either side of it; here it stands
        // where it was waited for.
        if let Err(e) = file.write_all(&lines) {
            tracing::error!("cannot write the access log: {e}");
        }
        lines.clear();
        lines.shrink_to(FULL);
        if let Some(new) = reopened {
            file = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::Tcp("[::ffff:192.0.2.7]:4711".parse().unwrap())
    }

    fn open(path: &Path) -> Arc<AccessLog> {
        AccessLog::open(path.to_str().unwrap(), 7).unwrap().unwrap()
    }

    fn ask(log: &Arc<AccessLog>, request: http::request::Builder) -> Entry {
        log.begin(&request.body(()).unwrap(), peer())
    }

    #[test]
    fn a_line_is_the_combined_one_with_time_and_generation_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = open(&path);
        let request = Request::get("http://h/a?b=1").header("user-agent", "curl/8");
        let mut entry = ask(&log, request);
        entry.status = 206;
        entry.sent(1000);
        entry.sent(24);
        drop(entry);
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let (client, rest) = text.split_once(" - - [").unwrap();
        assert_eq!(client, "192.0.2.7");
        let (time, rest) = rest.split_once("] ").unwrap();
        assert!(time.ends_with(" +0000") && time.len() == 26, "{time}");
        let (line, took) = rest.split_once(" 0.").unwrap();
        assert_eq!(line, "\"GET /a?b=1 HTTP/1.1\" 206 1024 \"-\" \"curl/8\"");
        assert!(took.ends_with(" g7\n"), "{took}");
    }

    #[test]
    fn a_client_cannot_write_a_line_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = open(&path);
        let agent = http::HeaderValue::from_bytes(b"a\" \\ \xff\t\" 200").unwrap();
        drop(ask(&log, Request::get("/").header("user-agent", agent)));
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains(r#""a\x22 \x5C \xFF\x09\x22 200""#), "{text}");
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let log = open(&path);
        drop(ask(&log, Request::get("/before")));
        std::fs::rename(&path, &old).unwrap();
        log.reopen();
        log.flush();
        drop(ask(&log, Request::get("/after")));
        log.flush();
        assert!(std::fs::read_to_string(&old).unwrap().contains("/before"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("/after") && !text.contains("/before"),
            "{text}"
        );
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_lines_and_never_time() {
        // A pipe that nobody reads hangs like a disk.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let _other_end = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let log = open(&path);
        let much = format!("/{}", "x".repeat(4000));
        for _ in 0..1000 {
            drop(ask(&log, Request::get(&much)));
        }
        assert!(lock(&log.shared.queue).lost > 0);
        assert!(lock(&log.shared.queue).lines.len() <= ROOM);
    }
}
