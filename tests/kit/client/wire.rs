//! One connection: bytes out, checked answers in.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::body::BodyCheck;
use super::failure::{Fault, Kind};

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

impl From<PathBuf> for Target {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl From<&str> for Target {
    /// As in the configuration: `127.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock`.
    fn from(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(text.parse().expect("an address with a port")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What an answer's head said.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `Server:`.
    pub server: String,
    /// `x-generation:`, when there is one.
    pub generation: String,
    /// `x-kit-id:`, the request's identity.
    pub id: String,
    /// The server will close.
    pub close: bool,
    /// Bytes of the body.
    pub body: u64,
}

enum Framing {
    Length(u64),
    Chunked,
}

/// How the answer is read.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes a read.
    pub piece: usize,
    /// Between two reads.
    pub gap: Duration,
}

impl Pace {
    pub const FAST: Self = Self {
        piece: 64 * 1024,
        gap: Duration::ZERO,
    };
}

/// A connection and what was read from it, too early to be used.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    /// Our end, for the story.
    pub local: String,
}

/// The receiving half's state, apart from the socket so that one task can write and read at once.
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: BytesMut,
    /// Received since the connection was opened.
    pub total: u64,
}

impl Wire {
    /// `slow`: with a small receive buffer, so that a slow reader is felt at the other end.
    pub async fn connect(target: &Target, slow: bool) -> io::Result<Self> {
        let (stream, local) = match target {
            Target::Tcp(address) => {
                let socket = match address {
                    SocketAddr::V4(_) => TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => TcpSocket::new_v6()?,
                };
                if slow {
                    socket.set_recv_buffer_size(16 * 1024)?;
                }
                let stream = socket.connect(*address).await?;
                stream.set_nodelay(true)?;
                let local = stream.local_addr()?.to_string();
                (Stream::Tcp(stream), local)
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                (Stream::Unix(stream), "unix".into())
            }
        };
        Ok(Self { stream, local })
    }

    /// The socket of TCP itself.
    pub fn into_tcp(self) -> TcpStream {
        match self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Unix(_) => panic!("a Unix socket"),
        }
    }

    /// Writes all of it; `sent` is right even when this fails.
    pub async fn write(&self, mut bytes: &[u8], sent: &Cell<u64>) -> io::Result<()> {
        while !bytes.is_empty() {
            let tried = match &self.stream {
                Stream::Tcp(s) => s.try_write(bytes),
                Stream::Unix(s) => s.try_write(bytes),
            };
            match tried {
                Ok(n) => {
                    add(sent, n);
                    bytes = &bytes[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match &self.stream {
                    Stream::Tcp(s) => s.writable().await?,
                    Stream::Unix(s) => s.writable().await?,
                },
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether the server has closed or spoken while nothing was asked.
    pub fn idle_check(&self, inbox: &mut Inbox) -> Result<(), Fault> {
        if !inbox.buffer.is_empty() {
            return Err(unsolicited(&inbox.buffer));
        }
        match self.try_read(&mut inbox.buffer, 4096) {
            Ok(0) => Err(Fault::new(Kind::DroppedIdle, "end of file")),
            Ok(n) => {
                inbox.total += n as u64;
                Err(unsolicited(&inbox.buffer))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(Fault::new(Kind::DroppedIdle, e.to_string())),
        }
    }

    /// Ends only when the server closes or speaks though nothing was asked.
    pub async fn idle_watch(&self, inbox: &mut Inbox) -> Fault {
        loop {
            if let Err(fault) = self.idle_check(inbox) {
                return fault;
            }
            if let Err(e) = self.readable().await {
                return Fault::new(Kind::DroppedIdle, e.to_string());
            }
        }
    }

    /// Reads one answer to its end. `seen` counts its bytes.
    pub async fn answer(
        &self,
        inbox: &mut Inbox,
        pace: Pace,
        bodyless: bool,
        check: &mut BodyCheck,
        seen: &Cell<u64>,
    ) -> Result<Answer, Fault> {
        let (mut answer, framing) = loop {
            match parse_head(&inbox.buffer)? {
                Some((head, _, length)) if head.status < 200 => {
                    add(seen, length);
                    inbox.buffer.advance(length);
                }
                Some((head, framing, length)) => {
                    add(seen, length);
                    inbox.buffer.advance(length);
                    break (head, framing);
                }
                None => {
                    let had = inbox.buffer.len();
                    let so_far = seen.get() + had as u64;
                    self.fill(inbox, pace, "in the head", so_far)
                        .await
                        .inspect_err(|_| add(seen, had))?;
                }
            }
        };
        match framing {
            _ if bodyless => {}
            Framing::Length(length) => {
                self.exactly(inbox, pace, check, length, seen).await?;
                answer.body = length;
            }
            Framing::Chunked => answer.body = self.chunks(inbox, pace, check, seen).await?,
        }
        Ok(answer)
    }

    async fn exactly(
        &self,
        inbox: &mut Inbox,
        pace: Pace,
        check: &mut BodyCheck,
        length: u64,
        seen: &Cell<u64>,
    ) -> Result<(), Fault> {
        let mut left = length;
        while left > 0 {
            if inbox.buffer.is_empty() {
                let place = format!("in the body, {left} bytes missing");
                self.fill(inbox, pace, &place, seen.get()).await?;
            }
            let n = inbox
                .buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            check.feed(&inbox.buffer[..n]);
            inbox.buffer.advance(n);
            add(seen, n);
            left -= n as u64;
        }
        Ok(())
    }

    async fn chunks(
        &self,
        inbox: &mut Inbox,
        pace: Pace,
        check: &mut BodyCheck,
        seen: &Cell<u64>,
    ) -> Result<u64, Fault> {
        let mut body = 0;
        loop {
            let line = self.line(inbox, pace, seen).await?;
            let digits = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(digits, 16)
                .map_err(|_| Fault::new(Kind::BadFraming, format!("chunk size {line:?}")))?;
            if size == 0 {
                // Trailers end with an empty line.
                while !self.line(inbox, pace, seen).await?.is_empty() {}
                return Ok(body);
            }
            self.exactly(inbox, pace, check, size, seen).await?;
            body += size;
            let end = self.line(inbox, pace, seen).await?;
            if !end.is_empty() {
                return Err(Fault::new(
                    Kind::BadFraming,
                    format!("a chunk is followed by {end:?}"),
                ));
            }
        }
    }

    async fn line(&self, inbox: &mut Inbox, pace: Pace, seen: &Cell<u64>) -> Result<String, Fault> {
        loop {
            if let Some(end) = inbox.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = inbox.buffer.split_to(end + 2);
                add(seen, line.len());
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if inbox.buffer.len() > 1024 {
                return Err(Fault::new(Kind::BadFraming, "no end of line in a chunk"));
            }
            self.fill(inbox, pace, "in a chunked body", seen.get())
                .await?;
        }
    }

    async fn fill(
        &self,
        inbox: &mut Inbox,
        pace: Pace,
        place: &str,
        seen: u64,
    ) -> Result<(), Fault> {
        if !pace.gap.is_zero() {
            tokio::time::sleep(pace.gap).await;
        }
        loop {
            match self.try_read(&mut inbox.buffer, pace.piece) {
                Ok(0) if seen == 0 => {
                    return Err(Fault::new(Kind::Eof, "before the answer's first byte"));
                }
                Ok(0) => return Err(Fault::new(Kind::Eof, place)),
                Ok(n) => {
                    inbox.total += n as u64;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.readable().await.map_err(|e| Fault::io(&e))?;
                }
                Err(e) => return Err(Fault::io(&e)),
            }
        }
    }

    fn try_read(&self, buffer: &mut BytesMut, limit: usize) -> io::Result<usize> {
        use bytes::BufMut;
        buffer.reserve(limit.min(16 * 1024));
        let mut limited = buffer.limit(limit);
        match &self.stream {
            Stream::Tcp(s) => s.try_read_buf(&mut limited),
            Stream::Unix(s) => s.try_read_buf(&mut limited),
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(s) => s.readable().await,
            Stream::Unix(s) => s.readable().await,
        }
    }
}

fn add(counter: &Cell<u64>, n: usize) {
    counter.set(counter.get() + n as u64);
}

fn unsolicited(bytes: &[u8]) -> Fault {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    Fault::new(
        Kind::Unsolicited,
        format!("{} bytes: {start:?}", bytes.len()),
    )
}

/// The head, how the body ends, and how long the head is.
fn parse_head(buffer: &[u8]) -> Result<Option<(Answer, Framing, usize)>, Fault> {
    let bad = |what: String| Fault::new(Kind::BadFraming, what);
    if buffer.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(e) => {
            let start = String::from_utf8_lossy(&buffer[..buffer.len().min(60)]).into_owned();
            return Err(bad(format!("{e}: {start:?}")));
        }
    };
    let mut answer = Answer {
        status: head.code.unwrap_or(0),
        // HTTP/1.0 closes unless it says otherwise.
        close: head.version == Some(0),
        ..Answer::default()
    };
    let mut content_length = None;
    let mut chunked = false;
    for header in head.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "server" => value.clone_into(&mut answer.server),
            "x-generation" => value.clone_into(&mut answer.generation),
            "x-kit-id" => value.clone_into(&mut answer.id),
            "connection" => {
                for word in value.split(',') {
                    match word.trim().to_ascii_lowercase().as_str() {
                        "close" => answer.close = true,
                        "keep-alive" => answer.close = false,
                        _ => {}
                    }
                }
            }
            "content-length" => {
                let n: u64 = value
                    .parse()
                    .map_err(|_| bad(format!("content-length {value:?}")))?;
                if content_length.is_some_and(|before| before != n) {
                    return Err(bad("two different content-lengths".into()));
                }
                content_length = Some(n);
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => chunked = true,
            "transfer-encoding" => return Err(bad(format!("transfer-encoding {value:?}"))),
            _ => {}
        }
    }
    let framing = match (chunked, content_length) {
        (true, Some(_)) => return Err(bad("both chunked and content-length".into())),
        (true, None) => Framing::Chunked,
        _ if answer.status < 200 || answer.status == 204 || answer.status == 304 => {
            Framing::Length(0)
        }
        (false, Some(n)) => Framing::Length(n),
        (false, None) => return Err(bad("only a close would end the body".into())),
    };
    Ok(Some((answer, framing, length)))
}
