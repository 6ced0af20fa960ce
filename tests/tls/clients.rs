//! Clients that others wrote keep one connection each through upgrades, rollbacks and reloads, with
//! another certificate after each of them: curl and OpenSSL, which also changes keys when it is told
//! to, and Python.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::kit::service::Service;
use crate::kit::tls::make_certificate;
use crate::kit::wait::wait_until;
use crate::moving::changed;
use crate::{begin, passed_and_cut, roll_back, server, upgrade};

/// A client: what it has printed so far, and its standard input.
pub struct Client {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    printed: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    asked: usize,
}

impl Client {
    fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {name}: {e}"));
        let mut stdout = child.stdout.take().expect("a pipe");
        let printed = Arc::new(Mutex::new(String::new()));
        let text = Arc::clone(&printed);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 16 * 1024];
            while let Ok(n @ 1..) = stdout.read(&mut bytes) {
                let more = String::from_utf8_lossy(&bytes[..n]);
                text.lock().expect("the text").push_str(&more);
            }
        });
        Self {
            name: name.to_owned(),
            stdin: child.stdin.take(),
            child,
            printed,
            reader: Some(reader),
            asked: 0,
        }
    }

    fn count(&self, what: &str) -> usize {
        self.printed.lock().expect("the text").matches(what).count()
    }

    fn type_in(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("it is not finished");
        let typed = stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush());
        typed.unwrap_or_else(|e| panic!("{} has gone: {e}", self.name));
    }

    /// OpenSSL: one more request on its connection, and its answer.
    pub fn ask(&mut self) {
        self.asked += 1;
        self.type_in("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let what = format!("answer {} of {}", self.asked, self.name);
        wait_until(&what, || self.count("hello\n") >= self.asked);
    }

    /// OpenSSL: a letter on a line of its own is an order. It looks at what it has read at a time, so
    /// the order must have been obeyed before the next line is typed.
    fn order(&mut self, letter: &str) {
        let updates = self.count("KEYUPDATE");
        self.type_in(&format!("{letter}\n"));
        let what = format!("order {letter} of {}", self.name);
        wait_until(&what, || self.count("KEYUPDATE") > updates);
    }

    /// The server ends its connection, between two answers.
    pub fn turned_away(mut self) {
        let (asked, name) = (self.asked, self.name.clone());
        let what = format!("the server's end of {name}");
        wait_until(&what, || matches!(self.child.try_wait(), Ok(Some(_))));
        let printed = self.end();
        assert_eq!(printed.matches("hello\n").count(), asked, "{name}");
    }

    /// Its whole output, when it has ended.
    pub fn end(mut self) -> String {
        drop(self.stdin.take());
        let what = format!("the end of {}", self.name);
        wait_until(&what, || matches!(self.child.try_wait(), Ok(Some(_))));
        self.read()
    }

    /// What it has printed, of one that would go on.
    fn stopped(mut self) -> String {
        let ended = self.child.try_wait().expect("our own child");
        assert_eq!(ended, None, "{} has ended by itself", self.name);
        self.child.kill().expect("our own child");
        self.read()
    }

    fn read(&mut self) -> String {
        let reader = self.reader.take().expect("not joined yet");
        reader.join().expect("a reader");
        self.printed.lock().expect("the text").clone()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn openssl(service: &Service, authority: &Path, version: &str) -> Client {
    openssl_with(service, authority, version, &[])
}

/// With more options.
pub fn openssl_with(service: &Service, authority: &Path, version: &str, more: &[&str]) -> Client {
    let mut command = Command::new("sh");
    // `s_client` says on standard error that it changes keys.
    command
        .args(["-c", "exec openssl s_client \"$@\" 2>&1", "s_client"])
        .args(["-connect", &server(service).to_string()])
        .args(["-servername", "localhost", "-verify_return_error", version])
        .arg("-CAfile")
        .arg(authority)
        .args(more);
    Client::start(&format!("s_client {version}"), &mut command)
}

/// One connection for requests without an end, each of which takes a while.
fn curl(service: &Service, authority: &Path, version: &[&str]) -> Client {
    let address = server(service);
    let port = address.port();
    let mut command = Command::new("sh");
    // Standard error is no buffer's, which would be lost with the client.
    command
        .args(["-c", "exec curl \"$@\" 2>&1", "curl"])
        .args(["--silent", "--show-error", "--http1.1", "--cacert"])
        .arg(authority)
        .args(version)
        .args(["--resolve", &format!("localhost:{port}:{}", address.ip())])
        .args(["--output", "/dev/null"])
        .arg("--write-out")
        .arg("%{stderr}%{http_code} %{num_connects} %{exitcode}\\n")
        .arg(format!("https://localhost:{port}/slow?ms=20&n=[1-1000000]"));
    Client::start(&format!("curl {version:?}"), &mut command)
}

/// Asks without a pause until its standard input ends; then says how often, and how often it
/// connected.
const PYTHON: &str = r#"
import http.client, select, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
context.maximum_version = getattr(ssl.TLSVersion, sys.argv[3])
class Connection(http.client.HTTPSConnection):
    opened = 0
    def connect(self):
        Connection.opened += 1
        super().connect()
connection = Connection("localhost", int(sys.argv[1]), context=context, timeout=30)
count = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    body = bytes([count % 256]) * (count * 997 % 60000)
    connection.request("POST", "/echo", body)
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == 200 and text.startswith(str(len(body))), text
    connection.request("GET", "/big?bytes=50000")
    assert len(connection.getresponse().read()) == 50000
    count += 2
    if count == 2:
        print("begun", flush=True)
print("opened", Connection.opened, "asked", count)
"#;

fn python(service: &Service, authority: &Path, version: &str) -> Client {
    let port = server(service).port().to_string();
    let mut command = Command::new("python3");
    command
        .args(["-c", PYTHON, &port])
        .arg(authority)
        .arg(version);
    Client::start(&format!("Python {version}"), &mut command)
}

#[test]
fn clients_of_others_keep_their_connection_through_upgrades_rollbacks_and_new_certificates() {
    let service = begin("tls-clients");
    let directory = service.dir().join("tls");
    let authority = service.dir().join("first.crt");
    fs::copy(directory.join("localhost.crt"), &authority).expect("a copy");
    let renew = || {
        fs::remove_dir_all(&directory).expect("the certificates");
        make_certificate(&directory, &["localhost"]);
    };

    let mut openssl = [
        openssl(&service, &authority, "-tls1_3"),
        openssl(&service, &authority, "-tls1_2"),
    ];
    let curls = [
        curl(&service, &authority, &[]),
        curl(&service, &authority, &["--tls-max", "1.2"]),
    ];
    let pythons = [
        python(&service, &authority, "TLSv1_3"),
        python(&service, &authority, "TLSv1_2"),
    ];
    for python in &pythons {
        wait_until("Python's first answer", || python.count("begun") == 1);
    }
    let mut steps = 0;
    let mut step = |change: &dyn Fn()| {
        renew();
        change();
        steps += 1;
        for client in &mut openssl {
            client.ask();
        }
        // Key changes on both sides of a move: of the client's keys, then of both.
        for letter in ["k", "K", "K"] {
            openssl[0].order(letter);
            openssl[0].ask();
        }
    };
    step(&|| ());
    for _ in 0..4 {
        step(&|| changed(&service, || upgrade(&service)));
        step(&|| changed(&service, || roll_back(&service)));
        step(&|| {
            changed(&service, || {
                service.cli(&["reload"]).assert_code(0);
            });
        });
    }
    assert_eq!(steps, 13);

    for client in openssl {
        let (asked, name) = (client.asked, client.name.clone());
        let printed = client.end();
        // One process of OpenSSL is one connection.
        assert_eq!(printed.matches("hello\n").count(), asked, "{name}");
    }
    for client in pythons {
        let name = client.name.clone();
        let printed = client.end();
        let end = printed.lines().last().unwrap_or_default();
        let asked = end.strip_prefix("opened 1 asked ");
        let asked: u64 = asked.and_then(|n| n.parse().ok()).unwrap_or_default();
        assert!(asked > 100, "{name}: {printed}");
    }
    for client in curls {
        let name = client.name.clone();
        let printed = client.stopped();
        // It may have been stopped in the middle of a line.
        let (lines, _) = printed.rsplit_once('\n').expect("an answer");
        let answers: Vec<&str> = lines.lines().collect();
        let (first, later) = answers.split_first().expect("an answer");
        assert_eq!(*first, "200 1 0", "{name}");
        let other = later.iter().find(|answer| **answer != "200 0 0");
        assert_eq!(other, None, "{name} failed, or connected again");
    }
    wait_until("the figures of all that left", || {
        passed_and_cut(&service).0 >= 6 * 12
    });
    assert_eq!(passed_and_cut(&service).1, 0, "cut");
}
