//! An HTTP/1.1 client without mercy: it never retries, and takes nothing but a whole answer.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::worker::{PATIENCE, TestWorker};

/// A connection.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    pub stream: S,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, v) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }

    pub fn says_close(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl Client {
    pub async fn connect(worker: &TestWorker) -> Self {
        let stream = TcpStream::connect(worker.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }

    /// Connects, and waits until the worker has accepted.
    pub async fn accepted(worker: &TestWorker) -> Self {
        let before = worker.report().await.accepted;
        let client = Self::connect(worker).await;
        worker.until(|report| report.accepted > before).await;
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n"))
            .await;
        self.answer().await
    }

    /// One whole answer.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer {
            status,
            head,
            body: Vec::new(),
        };
        if status == 101 || status == 100 || status == 304 {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.chunks().await;
        } else {
            let len = answer.header("content-length").expect("a length");
            let len = len.parse().unwrap();
            answer.body = self.exactly(len).await;
        }
        answer
    }

    /// The head of an answer.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            self.more("a head").await;
        }
    }

    /// So many bytes.
    pub async fn exactly(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            self.more("a body").await;
        }
        self.buffer.drain(..len).collect()
    }

    /// What has come and nobody has asked for.
    pub fn exactly_buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// The rest of a chunked body.
    pub async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                    break self.buffer.drain(..at + 2).collect::<Vec<u8>>();
                }
                self.more("a chunk's length").await;
            };
            let len = std::str::from_utf8(&line).unwrap().trim();
            let len = usize::from_str_radix(len, 16).unwrap();
            let chunk = self.exactly(len + 2).await;
            if len == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..len]);
        }
    }

    async fn more(&mut self, what: &str) {
        let mut bytes = vec![0; 65536];
        let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await;
        match read {
            Err(_) => panic!("no {what} came; so far {:?}", self.seen()),
            Ok(Err(e)) => panic!("lost in {what}: {e}; so far {:?}", self.seen()),
            Ok(Ok(0)) => panic!("EOF in {what}; so far {:?}", self.seen()),
            Ok(Ok(n)) => self.buffer.extend_from_slice(&bytes[..n]),
        }
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(200)]).into_owned()
    }

    /// Waits for a clean end, with nothing before it.
    pub async fn at_eof(&mut self) -> bool {
        let mut byte = [0];
        self.buffer.is_empty()
            && matches!(
                timeout(PATIENCE, self.stream.read(&mut byte)).await,
                Ok(Ok(0))
            )
    }

    /// Whether nothing, not even an end, comes within `time`.
    pub async fn is_silent(&mut self, time: Duration) -> bool {
        let mut byte = [0];
        self.buffer.is_empty() && timeout(time, self.stream.read(&mut byte)).await.is_err()
    }
}
