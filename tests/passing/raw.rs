//! One connection, by hand: half a request is no request to a client library.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::kit::client::Target;
use crate::kit::proc;
use crate::kit::service::{SOON, Service};

/// A socket of either kind.
pub trait Socket: Read + Write + Send {}
impl<S: Read + Write + Send> Socket for S {}

/// A connection that takes nothing but what was asked for.
pub struct Raw {
    socket: Box<dyn Socket>,
    buffer: Vec<u8>,
    /// Ours and theirs, of TCP.
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn generation(&self) -> &str {
        self.header("x-generation").unwrap_or_default()
    }
}

impl Raw {
    /// Connects, and waits until a worker has accepted.
    pub fn connect(service: &Service, listener: &str) -> Self {
        let raw = Self::hasty(&service.target(listener));
        if raw.ends.is_some() {
            raw.wait_read("accepted", |tcp| tcp.accepted);
        }
        raw
    }

    /// Over a socket of the caller's, who can do more with it.
    pub fn of(socket: &TcpStream) -> Self {
        let socket = socket.try_clone().expect("a copy");
        socket.set_read_timeout(Some(SOON)).expect("an option");
        Self {
            socket: Box::new(socket),
            buffer: Vec::new(),
            ends: None,
        }
    }

    /// Connects.
    pub fn hasty(target: &Target) -> Self {
        match target {
            Target::Tcp(address) => {
                let socket = TcpStream::connect(address).expect("a listener");
                socket.set_nodelay(true).expect("an option");
                socket.set_read_timeout(Some(SOON)).expect("an option");
                let ours = socket.local_addr().expect("an address");
                Self {
                    ends: Some((ours, *address)),
                    socket: Box::new(socket),
                    buffer: Vec::new(),
                }
            }
            Target::Unix(path) => {
                let socket = UnixStream::connect(path).expect("a listener");
                socket.set_read_timeout(Some(SOON)).expect("an option");
                Self {
                    ends: None,
                    socket: Box::new(socket),
                    buffer: Vec::new(),
                }
            }
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).expect("sent");
    }

    /// Sends, and waits until the worker has read it.
    pub fn send_and_read(&mut self, bytes: impl AsRef<[u8]>) {
        self.send(bytes);
        self.wait_read("read", |tcp| tcp.unread == 0);
    }

    #[expect(clippy::disallowed_methods, reason = "between two looks")]
    fn wait_read(&self, what: &str, done: impl Fn(&Tcp) -> bool) {
        let end = Instant::now() + SOON;
        while !self.server_side().as_ref().is_some_and(&done) {
            assert!(Instant::now() < end, "waited {SOON:?} until it is {what}");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Waits until a worker that accepts, of this generation, has the connection.
    #[expect(clippy::disallowed_methods, reason = "between two looks")]
    pub fn wait_moved(&self, service: &Service, generation: u64) {
        let end = Instant::now() + SOON;
        let inode = self.server_side().expect("a server").inode;
        let socket = format!("socket:[{inode}]");
        loop {
            let status = service.status();
            let masters = status.iter().flat_map(|s| &s.masters);
            let workers = masters
                .filter(|m| m.generation == generation)
                .flat_map(|m| &m.workers);
            let mut accepting = workers.filter(|w| w.state == "accepting");
            if accepting.any(|w| proc::fds(w.pid).iter().any(|(_, what)| *what == socket)) {
                return;
            }
            assert!(
                Instant::now() < end,
                "waited {SOON:?} until a worker of g{generation} has it: {status:#?}"
            );
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }

    /// The other end, as the kernel knows it.
    pub fn server_side(&self) -> Option<Tcp> {
        let (ours, theirs) = self.ends?;
        let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
        let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let wanted = port(fields[1])? == theirs.port() && port(fields[2])? == ours.port();
            let unread = u64::from_str_radix(fields[4].split_once(':')?.1, 16).ok()?;
            let inode = fields[9].parse().ok()?;
            wanted.then_some(Tcp {
                // Before accept(2) it has no inode.
                accepted: inode != 0,
                unread,
                inode,
            })
        })
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send(get(path));
        self.answer()
    }

    /// Whether there is a whole answer.
    pub fn try_get(&mut self, path: &str) -> std::io::Result<Vec<u8>> {
        self.socket.write_all(get(path).as_bytes())?;
        let mut bytes = vec![0; 4096];
        match self.socket.read(&mut bytes)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => Ok(bytes[..n].to_vec()),
        }
    }

    /// One whole answer.
    pub fn answer(&mut self) -> Answer {
        let head = self.head();
        let mut answer = Answer {
            status: head[9..12].parse().expect("a status"),
            head,
            body: Vec::new(),
        };
        if answer.status < 200 {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = self.chunks();
        } else {
            let length = answer.header("content-length").expect("a length");
            answer.body = self.exactly(length.parse().expect("a number"));
        }
        answer
    }

    pub fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = self.buffer.drain(..at + 4).collect();
                return String::from_utf8(head).expect("a head");
            }
            self.more();
        }
    }

    pub fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            self.more();
        }
        self.buffer.drain(..length).collect()
    }

    /// The rest of a chunked body.
    pub fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                    break self.buffer.drain(..at + 2).collect::<Vec<u8>>();
                }
                self.more();
            };
            let text = std::str::from_utf8(&line).expect("a length").trim();
            let length = usize::from_str_radix(text, 16).expect("a length");
            let chunk = self.exactly(length + 2);
            if length == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }

    fn more(&mut self) {
        let mut bytes = vec![0; 64 * 1024];
        let n = self.socket.read(&mut bytes);
        let seen = String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(200)]);
        match n {
            Ok(0) => panic!("the connection ended after {seen:?}"),
            Ok(n) => self.buffer.extend_from_slice(&bytes[..n]),
            Err(e) => panic!("{e}, after {seen:?}"),
        }
    }

    /// The end, and nothing before it.
    pub fn at_end(&mut self) -> bool {
        let mut byte = [0];
        self.buffer.is_empty() && matches!(self.socket.read(&mut byte), Ok(0))
    }
}

/// The server's end of a TCP connection.
#[derive(Debug)]
pub struct Tcp {
    pub accepted: bool,
    pub unread: u64,
    pub inode: u64,
}

/// A request.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n")
}
