//! The control socket against those who do not mean well, or do not know what they mean.

mod kit;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use kit::service::{SOON, Service};

fn begin(test: &str) -> Service {
    let service = Service::setup(test).config("workers = 2\n").start();
    service.wait_owner(1, "serving");
    service
}

fn connect(service: &Service) -> UnixStream {
    let stream = UnixStream::connect(service.runtime.join("control.sock")).expect("a connection");
    let patience = Some(SOON);
    stream.set_read_timeout(patience).expect("a deadline");
    stream
}

/// What comes until the end.
fn rest(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn silent_and_slow_clients_are_dropped_after_a_deadline() {
    let service = begin("silent");
    let before = service.census();
    let began = Instant::now();
    let mute = connect(&service);
    let mut half = connect(&service);
    half.write_all(b"POST /v1/upgrade HTTP/1.1\r\nHo")
        .expect("sent");
    let mut bodyless = connect(&service);
    bodyless
        .write_all(b"POST /v1/upgrade HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        .expect("sent");
    for stream in [mute, half, bodyless] {
        rest(stream);
        assert!(began.elapsed() < Duration::from_secs(12), "dropped in time");
    }
    service.wait_census(&before);
    service.cli(&["reload"]).assert_code(0);
    service.wait_owner(1, "serving");
}

/// As `nobody`; `None`: this test cannot be somebody else.
fn as_nobody(service: &Service, args: &[&str]) -> Option<(i32, String)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return None;
    }
    let program = kit::build::own();
    let copy = service.dir().join("client");
    kit::service::install(&program, &copy);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&copy)
        .arg("--runtime-dir")
        .arg(&service.runtime)
        .arg("--state-dir")
        .arg(&service.state)
        .args(args)
        .env_clear()
        .output()
        .expect("setpriv runs");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Some((output.status.code().unwrap_or(-1), text))
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

const ORDERS: [&str; 6] = ["upgrade", "apply", "commit", "rollback", "reload", "stop"];

#[test]
fn another_user_may_look_but_not_order() {
    let service = begin("look");
    open_to_all(service.dir(), 0o755);
    for verb in ORDERS {
        let Some((code, text)) = as_nobody(&service, &[verb]) else {
            return;
        };
        assert_eq!(code, 77, "{verb}: {text}");
    }
    let (code, text) = as_nobody(&service, &["status"]).expect("root");
    assert_eq!(code, 0, "{text}");
    service.wait_owner(1, "serving");
}

#[test]
fn members_of_the_control_group_may_order() {
    let service = Service::setup("group")
        .config("workers = 1\n[control]\ngroup = \"nogroup\"\n")
        .prepare();
    let known = |name: &str| matches!(nix::unistd::Group::from_name(name), Ok(Some(_)));
    if !known("nogroup") || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root and a group `nogroup`");
        return;
    }
    service.start();
    service.wait_owner(1, "serving");
    open_to_all(service.dir(), 0o755);
    let (code, text) = as_nobody(&service, &["reload"]).expect("root");
    assert_eq!(code, 0, "{text}");
    service.wait_owner(1, "serving");
}

#[test]
fn a_hundred_idle_connections_do_not_lock_root_out() {
    let service = begin("idle");
    let before = service.census();
    let idle: Vec<UnixStream> = (0..100).map(|_| connect(&service)).collect();
    // Those of this test may order, too: even the reserve is taken. Each is dropped in time.
    let end = Instant::now() + SOON;
    loop {
        let output = service.cli(&["reload"]);
        if output.code == 0 {
            break;
        }
        // Turned away: 75, or 1 when the socket is closed while the request is on its way.
        assert!([1, 75].contains(&output.code), "{output}");
        assert!(Instant::now() < end, "locked out");
    }
    drop(idle);
    service.wait_census(&before);
}

#[test]
fn a_hundred_idle_connections_of_somebody_else_do_not_delay_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let service = begin("crowd");
    open_to_all(service.dir(), 0o755);
    let socket = service.runtime.join("control.sock");
    let script = format!(
        "import socket,sys,time\n\
         all=[]\n\
         for _ in range(100):\n    s=socket.socket(socket.AF_UNIX); s.connect('{}'); all.append(s)\n\
         print('there', flush=True); time.sleep(60)\n",
        socket.display()
    );
    let crowd = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .args(["python3", "-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut crowd) = crowd else {
        eprintln!("skipped: no setpriv");
        return;
    };
    let mut word = [0; 5];
    let there = crowd.stdout.take().expect("piped").read_exact(&mut word);
    if there.is_ok() {
        for verb in ["reload", "status"] {
            let output = service.cli(&[verb]);
            output.assert_code(0);
            // Who waits for one of them to speak waits 5 s.
            assert!(output.took < Duration::from_millis(4900), "{output}");
        }
    } else {
        eprintln!("skipped: no python3");
    }
    let _ = crowd.kill();
    let _ = crowd.wait();
}

#[test]
fn everybody_may_ask_and_nobody_else_takes_connections_or_writes_pid_files() {
    let service = begin("modes");
    let mode = |name: &str| {
        let meta = fs::metadata(service.runtime.join(name)).expect("there");
        meta.permissions().mode() & 0o777
    };
    assert_eq!(mode("control.sock"), 0o666);
    assert_eq!(
        mode("handover.pid") & 0o022,
        0,
        "nobody else writes pid files"
    );
    if service.runtime_files().contains(&"handoff.sock".to_owned()) {
        assert_eq!(mode("handoff.sock") & 0o077, 0);
    }
}
