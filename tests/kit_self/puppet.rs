//! A process that does what the test says, over a Unix socket: this test program, run again.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::kit::manager::notify;

/// Accepts the puppets of one test.
pub struct Theatre {
    listener: UnixListener,
    path: PathBuf,
}

/// One puppet's strings.
pub struct Puppet {
    pub pid: u32,
    strings: BufReader<UnixStream>,
}

impl Theatre {
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("theatre");
        let listener = UnixListener::bind(&path).expect("a new socket");
        Self { listener, path }
    }

    /// Arguments and a variable that make this test program a puppet.
    pub fn args() -> Vec<OsString> {
        ["--exact", "puppet::play", "--ignored", "--nocapture"]
            .map(OsString::from)
            .to_vec()
    }

    pub fn env(&self) -> (OsString, OsString) {
        ("PUPPET".into(), self.path.clone().into())
    }

    /// The next puppet that enters.
    #[track_caller]
    pub fn enter(&self) -> Puppet {
        self.listener.set_nonblocking(true).expect("not blocking");
        let end = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            if let Ok((stream, _)) = self.listener.accept() {
                break stream;
            }
            assert!(Instant::now() < end, "no puppet enters");
            std::thread::sleep(Duration::from_millis(1));
        };
        stream.set_nonblocking(false).expect("blocking");
        let mut strings = BufReader::new(stream);
        let mut pid = String::new();
        strings.read_line(&mut pid).expect("a pid");
        Puppet {
            pid: pid.trim().parse().expect("a pid"),
            strings,
        }
    }
}

impl Puppet {
    /// Has a command carried out; the puppet's answer.
    pub fn does(&mut self, command: &str) -> String {
        self.tell(command);
        let mut answer = String::new();
        self.strings.read_line(&mut answer).expect("an answer");
        answer.trim().to_owned()
    }

    /// Says a command that has no answer (`exit 3`).
    pub fn tell(&mut self, command: &str) {
        let line = format!("{}\n", command.replace('\n', "\\n"));
        let stream = self.strings.get_mut();
        stream.write_all(line.as_bytes()).expect("a puppet");
    }
}

#[test]
#[ignore = "no test: the puppet's side, run by other tests"]
fn play() {
    let Some(path) = std::env::var_os("PUPPET") else {
        return;
    };
    let mut stream = UnixStream::connect(path).expect("a theatre");
    writeln!(stream, "{}", std::process::id()).expect("somebody who listens");
    let lines = BufReader::new(stream.try_clone().expect("a descriptor"));
    for line in lines.lines() {
        let line = line.expect("a command").replace("\\n", "\n");
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = act(verb, rest);
        writeln!(stream, "{answer}").expect("somebody who listens");
    }
}

#[expect(
    clippy::zombie_processes,
    reason = "a parent that never reaps is what the tests need"
)]
fn act(verb: &str, rest: &str) -> String {
    let socket = || std::env::var("NOTIFY_SOCKET").expect("NOTIFY_SOCKET");
    match verb {
        "notify" => {
            notify(&socket(), rest, &[]).expect("sent");
            "ok".into()
        }
        // A listening socket of its own, kept open.
        "store" => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let fd = OwnedFd::from(listener);
            let text = format!("FDSTORE=1\nFDNAME={rest}");
            notify(&socket(), &text, &[&fd]).expect("sent");
            notify(&socket(), &text, &[&fd]).expect("sent twice");
            std::mem::forget(fd);
            "ok".into()
        }
        // One end of a pipe whose other end is closed at once.
        "store-pipe" => {
            let (read, write) = rustix::pipe::pipe().expect("a pipe");
            let text = format!("FDSTORE=1\nFDNAME={rest}");
            notify(&socket(), &text, &[&write]).expect("sent");
            drop(read);
            "ok".into()
        }
        "barrier" => {
            let (read, write) = rustix::pipe::pipe().expect("a pipe");
            notify(&socket(), &format!("BARRIER=1{rest}"), &[&write]).expect("sent");
            drop(write);
            let mut byte = [0];
            rustix::io::read(&read, &mut byte).expect("end of file");
            "closed".into()
        }
        "env" => std::env::var(rest).unwrap_or_else(|_| "unset".into()),
        // A child puppet; `deaf` ones ignore TERM.
        "spawn" => {
            let script = if rest == "deaf" {
                "trap '' TERM; exec \"$@\""
            } else {
                "exec \"$@\""
            };
            let child = Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(std::env::current_exe().expect("a program"))
                .args(Theatre::args())
                .spawn()
                .expect("a child");
            child.id().to_string()
        }
        "exit" => std::process::exit(rest.parse().expect("a code")),
        _ => panic!("the puppet does not know {verb:?}"),
    }
}
