//! Idle connections by the ten thousand, in processes of their own: one process may have too few
//! descriptors, and one address too few ports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections a process: ports of one address, and descriptors, suffice.
const EACH: usize = 12_500;

/// The first argument of such a process.
const ROLE: &str = "hold-connections";

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
    pub fn open(address: SocketAddr, count: usize) -> Self {
        let mut processes = Vec::new();
        let mut left = count;
        while left > 0 {
            let here = left.min(EACH);
            left -= here;
            processes.push(Holding::start(address, here, processes.len()));
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
    fn start(address: SocketAddr, count: usize, number: usize) -> Self {
        let source = Ipv4Addr::new(127, 0, 0, u8::try_from(number + 2).expect("a few"));
        let mut child = Command::new(std::env::current_exe().expect("our own program"))
            .args([ROLE, &address.to_string(), &count.to_string()])
            .arg(source.to_string())
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
    let mut open: Vec<Option<TcpStream>> = (0..count)
        .map(|_| {
            let mut stream = connect(address, source);
            assert!(ask(&mut stream), "no first answer");
            Some(stream)
        })
        .collect();
    println!("{count}");
    for _ in std::io::stdin().lines() {
        let mut kept = 0;
        for slot in &mut open {
            if slot.as_mut().is_some_and(ask) {
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
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
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

/// One request; false when there is no whole answer.
fn ask(stream: &mut TcpStream) -> bool {
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
