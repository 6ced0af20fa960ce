//! What an instance prints: line by line into the log, at a bounded rate, and its last lines kept,
//! because they are why it ended.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::sys::runtime;

/// Between why it ended and what it said.
pub(super) const LAST_LINES: &str = "; its last lines:";

/// The last lines of one instance.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

/// So many lines are kept, and of each so many bytes. Ruby says what is wrong before its trace, and
/// gunicorn's workers theirs before gunicorn its own.
const LINES: usize = 60;
const LINE: usize = 300;

/// Lines, and bytes, that may come at once, and every second after that.
const LINES_BURST: f64 = 2000.0;
const LINES_RATE: f64 = 200.0;
const BYTES_BURST: f64 = 1024.0 * 1024.0;
const BYTES_RATE: f64 = 64.0 * 1024.0;

/// How often it is said how many were left out.
const SUMMARY: Duration = Duration::from_secs(1);

/// A line that is longer is cut in several.
const LONGEST: usize = 8 * 1024;

/// For what is still in the pipe when the instance has ended: others may hold it open.
const REST: Duration = Duration::from_millis(200);

impl Tail {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        let end = line.char_indices().map(|(at, _)| at).find(|at| *at >= LINE);
        lines.push_back(line[..end.unwrap_or(line.len())].to_owned());
    }

    /// As an addition to a sentence; empty when it said nothing.
    pub(super) fn said(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            return "; it printed nothing".into();
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        format!("{LAST_LINES}\n  {}", lines.join("\n  "))
    }
}

/// Reads until everybody has closed the pipe.
pub(super) fn read(output: OwnedFd, label: String, tail: Tail) -> io::Result<JoinHandle<()>> {
    let pipe = pipe::Receiver::from_owned_fd(output)?;
    Ok(runtime::spawn(async move {
        let mut log = Log::new(label, tail);
        let mut bytes = Vec::with_capacity(LONGEST);
        let mut pipe = pipe;
        loop {
            match timeout(SUMMARY, pipe.read_buf(&mut bytes)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => log.lines(&mut bytes, Instant::now()),
                Err(_) => log.say_dropped(),
            }
        }
        if !bytes.is_empty() {
            log.line(&bytes, Instant::now());
        }
        log.say_dropped();
    }))
}

/// Waits for what the pipe still has.
pub(super) async fn finish(mut reader: JoinHandle<()>) {
    if timeout(REST, &mut reader).await.is_err() {
        // Somebody else has the pipe too, and nobody reads what that one prints.
        reader.abort();
    }
}

struct Log {
    label: String,
    tail: Tail,
    /// What may be said now.
    lines_left: f64,
    bytes_left: f64,
    counted: Instant,
    dropped: u64,
    /// When it was said last how many.
    said: Instant,
}

impl Log {
    fn new(label: String, tail: Tail) -> Self {
        Self {
            label,
            tail,
            lines_left: LINES_BURST,
            bytes_left: BYTES_BURST,
            counted: Instant::now(),
            dropped: 0,
            said: Instant::now(),
        }
    }

    /// Takes the whole lines out.
    fn lines(&mut self, bytes: &mut Vec<u8>, now: Instant) {
        let mut start = 0;
        while let Some(length) = bytes[start..].iter().position(|byte| *byte == b'\n') {
            self.line(&bytes[start..start + length], now);
            start += length + 1;
        }
        bytes.drain(..start);
        if bytes.len() >= LONGEST {
            self.line(bytes, now);
            bytes.clear();
        }
    }

    fn line(&mut self, line: &[u8], now: Instant) {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        if line.is_empty() {
            return;
        }
        self.tail.push(line);
        if now.saturating_duration_since(self.said) >= SUMMARY {
            self.say_dropped();
            self.said = now;
        }
        if !self.may_say(line.len(), now) {
            self.dropped += 1;
            return;
        }
        tracing::info!(target: "app", "{}: {line}", self.label);
    }

    fn may_say(&mut self, length: usize, now: Instant) -> bool {
        let passed = now.duration_since(self.counted).as_secs_f64();
        self.counted = now;
        self.lines_left = (self.lines_left + passed * LINES_RATE).min(LINES_BURST);
        self.bytes_left = (self.bytes_left + passed * BYTES_RATE).min(BYTES_BURST);
        #[expect(clippy::cast_precision_loss, reason = "at most LONGEST")]
        let length = length as f64;
        if self.lines_left < 1.0 || self.bytes_left < length {
            return false;
        }
        self.lines_left -= 1.0;
        self.bytes_left -= length;
        true
    }

    fn say_dropped(&mut self) {
        match std::mem::take(&mut self.dropped) {
            0 => {}
            n => tracing::warn!(
                "{}: {n} lines are left out, it prints more than {LINES_RATE} or {} KiB a second",
                self.label,
                BYTES_RATE / 1024.0
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_a_flood_is_counted() {
        let tail = Tail::default();
        let mut log = Log::new("app".into(), tail.clone());
        let mut bytes = Vec::new();
        for n in 0..10_000 {
            bytes.extend_from_slice(format!("line {n}\n").as_bytes());
        }
        bytes.extend_from_slice(b"unfinished");
        let now = Instant::now();
        log.lines(&mut bytes, now);
        assert_eq!(bytes, b"unfinished");
        // Two thousand at once, and none in no time; what is left out is said once a second.
        let left_out = |log: &Log| log.dropped;
        assert!((7900..=8000).contains(&left_out(&log)), "{}", log.dropped);
        log.line(b"within the second", now + SUMMARY / 2);
        assert!(left_out(&log) > 7000);
        log.line(b"after it", now + 2 * SUMMARY);
        assert_eq!(left_out(&log), 0);
        let said = tail.said();
        assert!(
            said.ends_with("line 9999\n  within the second\n  after it"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1 + LINES);
    }

    #[test]
    fn a_flood_of_long_lines_is_bounded_in_bytes() {
        let mut log = Log::new("app".into(), Tail::default());
        let flood = |log: &mut Log, now: Instant| {
            let mut bytes = [&[b'x'; LONGEST - 1][..], b"\n"].concat().repeat(190);
            log.dropped = 0;
            log.lines(&mut bytes, now);
            190 - log.dropped
        };
        let now = Instant::now();
        log.said = now + 10 * SUMMARY;
        assert_eq!(flood(&mut log, now), 128);
        assert_eq!(flood(&mut log, now), 0);
        assert_eq!(flood(&mut log, now + Duration::from_secs(1)), 8);
    }

    #[test]
    fn a_line_without_an_end_takes_no_memory() {
        let tail = Tail::default();
        let mut log = Log::new("app".into(), tail.clone());
        let mut bytes = vec![b'x'; LONGEST];
        log.lines(&mut bytes, Instant::now());
        assert!(bytes.is_empty());
        assert!(tail.said().len() < 2 * LINE);
    }
}
