//! Idle connections by the ten thousand, in processes of their own: one process may have too few
//! descriptors, and one address too few ports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::tls;

/// Connections a process: ports of one address, and descriptors, suffice.
const EACH: usize = 12_500;

/// The first argument of such a process.
const ROLE: &str = "hold-connections";

/// What is spoken on them; TLS is 1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Tls,
    Http2,
    Http2Tls,
}

impl Protocol {
    pub const ALL: [Self; 4] = [Self::Http1, Self::Tls, Self::Http2, Self::Http2Tls];

    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Tls => "HTTP/1.1, TLS",
            Self::Http2 => "HTTP/2",
            Self::Http2Tls => "HTTP/2, TLS",
        }
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Http2Tls)
    }

    fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Http2Tls)
    }
}

/// Idle keep-alive connections, each of which has had one answer.
#[derive(Debug)]
pub struct Idle {
    processes: Vec<Holding>,
}

#[derive(Debug)]
struct Holding {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What became of the connections.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    /// Still answer.
    pub kept: usize,
    /// Closed by the server.
    pub dropped: usize,
}

impl Idle {
    /// Opens them, asks once on each.
    pub fn open(address: SocketAddr, count: usize, protocol: Protocol) -> Self {
        let mut processes = Vec::new();
        let mut left = count;
        while left > 0 {
            let here = left.min(EACH);
            left -= here;
            processes.push(Holding::start(address, here, processes.len(), protocol));
        }
        for process in &mut processes {
            process.answer();
        }
        Self { processes }
    }

    /// Asks once more on each.
    pub fn ask(&mut self) -> Kept {
        let mut all = Kept::default();
        for process in &mut self.processes {
            let orders = process.orders.as_mut().expect("not closed yet");
            writeln!(orders, "ask").expect("the holder listens");
            let numbers = process.answer();
            all.kept += numbers[0];
            all.dropped += numbers[1];
        }
        all
    }
}

impl Holding {
    fn start(address: SocketAddr, count: usize, number: usize, protocol: Protocol) -> Self {
        let source = Ipv4Addr::new(127, 0, 0, u8::try_from(number + 2).expect("a few"));
        let mut child = Command::new(std::env::current_exe().expect("our own program"))
            .args([ROLE, &address.to_string(), &count.to_string()])
            .arg(source.to_string())
            .arg(protocol.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("our own program runs");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self {
            child,
            orders,
            answers,
        }
    }

    fn answer(&mut self) -> Vec<usize> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a line");
        assert!(
            !line.is_empty(),
            "a process that holds connections has failed"
        );
        let numbers = line.split_whitespace().map(|n| n.parse().expect("numbers"));
        numbers.collect()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays the part when this process was started for it. Call it first in `main`.
pub fn play() -> Option<ExitCode> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) != Some(ROLE) {
        return None;
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let address = args[2].parse().expect("an address");
    let count: usize = args[3].parse().expect("a number");
    let source = args[4].parse().expect("an address");
    let named = Protocol::ALL.into_iter().find(|p| p.name() == args[5]);
    let protocol = named.expect("a protocol");
    let alpn = protocol.is_http2().then_some("h2");
    let config = Arc::new(tls::config(alpn));
    let mut open: Vec<Option<Held>> = (0..count)
        .map(|_| {
            let mut held = Held::open(connect(address, source), protocol, &config);
            assert!(held.ask(), "no first answer");
            Some(held)
        })
        .collect();
    println!("{count}");
    for _ in std::io::stdin().lines() {
        let mut kept = 0;
        for slot in &mut open {
            if slot.as_mut().is_some_and(Held::ask) {
                kept += 1;
            } else {
                *slot = None;
            }
        }
        println!("{kept} {}", count - kept);
    }
    Some(ExitCode::SUCCESS)
}

fn connect(address: SocketAddr, source: Ipv4Addr) -> TcpStream {
    let socket =
        Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::TCP)).expect("a socket");
    // Closed by a reset, so that no port waits for its last packets while the next bench needs it.
    socket
        .set_linger(Some(Duration::ZERO))
        .expect("a TCP socket");
    socket
        .bind(&SocketAddr::from((source, 0)).into())
        .expect("a loopback address");
    socket.connect(&address.into()).expect("a server");
    let stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    stream
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// One connection.
struct Held {
    stream: Box<dyn Stream>,
    /// HTTP/2: the next stream's number.
    next: Option<u32>,
}

impl Held {
    fn open(socket: TcpStream, protocol: Protocol, config: &Arc<rustls::ClientConfig>) -> Self {
        let mut stream: Box<dyn Stream> = Box::new(socket);
        if protocol.is_tls() {
            let rustls = ClientConnection::new(Arc::clone(config), tls::server_name());
            stream = Box::new(StreamOwned::new(rustls.expect("a client"), stream));
        }
        let mut next = None;
        if protocol.is_http2() {
            // The preface, and SETTINGS without any.
            let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            stream.write_all(begin).expect("a server");
            next = Some(1);
        }
        Self { stream, next }
    }

    /// One request; false when there is no whole answer.
    fn ask(&mut self) -> bool {
        match &mut self.next {
            None => ask(&mut self.stream),
            Some(next) => {
                let stream = *next;
                *next += 2;
                ask_http2(&mut self.stream, stream).is_ok()
            }
        }
    }
}

/// One request on a stream of HTTP/2 (RFC 9113, 4.1; RFC 7541, A).
fn ask_http2(stream: &mut impl Stream, number: u32) -> std::io::Result<()> {
    // GET, https, /, and `:authority`.
    let block = b"\x82\x87\x84\x01\x08kit.test";
    let mut request = frame(0x1, 0x5, number, block);
    stream.write_all(&request)?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(len).expect("a frame")];
        stream.read_exact(&mut payload)?;
        let (kind, flags) = (head[3], head[4]);
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match (kind, flags) {
            // DATA or HEADERS with the end of the stream.
            (0x0 | 0x1, flags) if of == number && flags & 0x1 != 0 => return Ok(()),
            // SETTINGS and PING want to be acknowledged.
            (0x4, 0) => request = frame(0x4, 0x1, 0, b""),
            (0x6, 0) => request = frame(0x6, 0x1, 0, &payload),
            (0x3 | 0x7, _) => return Err(std::io::ErrorKind::ConnectionReset.into()),
            _ => continue,
        }
        stream.write_all(&request)?;
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len())
        .expect("a short frame")
        .to_be_bytes();
    let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// One request; false when there is no whole answer.
fn ask(stream: &mut impl Stream) -> bool {
    let request = b"GET / HTTP/1.1\r\nHost: kit.test\r\n\r\n";
    if stream.write_all(request).is_err() {
        return false;
    }
    let mut buffer = [0; 4096];
    let mut have = 0;
    loop {
        match stream.read(&mut buffer[have..]) {
            Ok(0) | Err(_) => return false,
            Ok(n) => have += n,
        }
        if let Some(whole) = length(&buffer[..have]) {
            return have == whole;
        }
    }
}

/// Of the answer that begins here, once its head is there.
fn length(bytes: &[u8]) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(start)) = head.parse(bytes) else {
        return None;
    };
    let header = head
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let body: usize = std::str::from_utf8(header.value).ok()?.parse().ok()?;
    (bytes.len() >= start + body).then_some(start + body)
}
