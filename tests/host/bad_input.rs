//! An application that answers wrongly, late, or not at all: its client learns it in time, the log
//! says why, and the next request is answered.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::kit::client::Target;
use crate::kit::service::SOON;
use crate::scene::{Scene, pid};

const SOCKET: &str = "{socket}";

/// Two seconds each for what takes a minute by default.
const QUICK: &str = "answer_timeout = \"2s\"\nstall_timeout = \"2s\"\nconnect_timeout = \"2s\"\n";

/// What a client sees that asks for `path` once.
fn seen(scene: &Scene, request: &str) -> String {
    let mut stream = connect(scene);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // Cut off, the connection may end with an error.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn connect(scene: &Scene) -> TcpStream {
    let Target::Tcp(address) = scene.service.target("http") else {
        panic!("not a TCP listener");
    };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

/// Asked in this order: nothing that one of them left behind reaches the next.
#[test]
fn a_wrong_answer_reaches_its_own_client_alone() {
    for listens in [SOCKET, "{port}"] {
        let scene = Scene::begin("wrong", listens, QUICK);
        for (fault, status, words) in [
            ("garbage", "502", "gave no answer to GET /bad/garbage"),
            ("nothing", "502", "gave no answer to GET /bad/nothing"),
            (
                "endless-head",
                "502",
                "gave no answer to GET /bad/endless-head",
            ),
            (
                "two-lengths",
                "502",
                "gave no answer to GET /bad/two-lengths",
            ),
            ("switch", "502", "switched protocols unasked"),
            ("too-short", "200", "the application's answer broke off"),
            ("cut-chunk", "200", "the application's answer broke off"),
            ("stands-still", "200", "stood still for 2s (stall_timeout)"),
            (
                "late",
                "504",
                "did not begin to answer GET /bad/late within 2s",
            ),
        ] {
            let end = Instant::now() + SOON;
            // A reason is logged once a second at most, by each worker.
            while !scene.service.log_text().contains(words) {
                assert!(Instant::now() < end, "{fault}: the log never has {words:?}");
                let answer = seen(&scene, &get(&format!("/bad/{fault}")));
                let head = format!("HTTP/1.1 {status} ");
                assert!(answer.starts_with(&head), "{fault}: {answer}");
                // No client takes a part for the whole.
                assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{fault}: {answer}");
                assert_eq!(scene.get("/"), "1", "after {fault}");
            }
        }
    }
}

#[test]
fn what_it_says_beyond_its_length_reaches_nobody() {
    let scene = Scene::begin("beyond", SOCKET, QUICK);
    for _ in 0..20 {
        let answer = seen(&scene, &get("/bad/too-long"));
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        assert_eq!(scene.get("/"), "1");
    }
}

#[test]
fn one_that_never_reads_a_request_gets_no_more_of_it() {
    let scene = Scene::begin("deaf", SOCKET, QUICK);
    let mut stream = connect(&scene);
    let length = 64 << 20;
    let head = format!("POST /bad/deaf HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let sent = std::thread::spawn(move || {
        stream.set_write_timeout(Some(SOON)).unwrap();
        let part = vec![b'x'; 1 << 16];
        (0..length / part.len())
            .take_while(|_| stream.write_all(&part).is_ok())
            .count()
    });
    let mut answer = Vec::new();
    let _ = reader.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    let _ = reader.shutdown(Shutdown::Both);
    // What is on its way is in sockets' buffers, not in our memory.
    let parts = sent.join().unwrap();
    assert!(parts < 512, "{parts} parts of 64 KiB were taken");
    scene.wait_log("did not begin to answer POST /bad/deaf within 2s");
    assert_eq!(scene.get("/"), "1");
}

#[test]
fn uploads_that_are_not_read_do_not_hold_up_others_of_their_connection() {
    let patient = QUICK.replace("answer_timeout = \"2s\"", "answer_timeout = \"60s\"");
    let scene = Scene::begin("deaf-streams", SOCKET, &patient);
    let Target::Tcp(address) = scene.service.target("http") else {
        panic!("not a TCP listener");
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut asks, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut post = async |path: &str, length: usize| {
            let request = http::Request::post(format!("http://x{path}"));
            let request = request.header("content-length", length).body(()).unwrap();
            asks = asks.clone().ready().await.unwrap();
            let (answer, mut body) = asks.send_request(request, false).unwrap();
            body.send_data(vec![b'x'; length].into(), true).unwrap();
            (answer, body)
        };
        let mut unread = Vec::new();
        for _ in 0..8 {
            unread.push(post("/bad/deaf", 8 << 20).await);
        }
        let (answer, _body) = post("/", 1000).await;
        let answer = tokio::time::timeout(SOON, answer).await;
        let answer = answer.expect("an answer beside them").unwrap();
        assert_eq!(answer.status(), 200);
    });
}

/// A GET seldom has a body; one of unknown length is an application's like any other.
#[test]
fn the_chunks_of_a_get_reach_the_application() {
    let scene = Scene::begin("get-body", SOCKET, QUICK);
    let head = "GET /body HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let chunks = "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let answer = seen(&scene, &format!("{head}{chunks}"));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nabcde"), "{answer}");
}

/// This application reads no body of a GET. What a client puts there is no request of another's.
#[test]
fn what_an_application_leaves_unread_reaches_nobody_else() {
    let scene = Scene::begin("unread", SOCKET, QUICK);
    let hidden = "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n";
    let length = hidden.len();
    let pid = scene.get("/pid");
    for _ in 0..3 {
        let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
        let answer = seen(
            &scene,
            &format!("{head}content-length: {length}\r\n\r\n{hidden}"),
        );
        assert!(answer.ends_with("\r\n\r\n1"), "{answer}");
        // Not the answer to what was hidden, which comes a second later.
        assert_eq!(scene.get("/pid"), pid);
    }
}

/// Most of the body is on its way when the application closes.
#[test]
fn a_large_upload_that_is_refused_early_gets_the_refusal() {
    for listens in [SOCKET, "{port}"] {
        let scene = Scene::begin("early", listens, QUICK);
        for round in 0..20 {
            let mut stream = connect(&scene);
            let length = 10 << 20;
            let head =
                format!("POST /bad/early HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let mut reader = stream.try_clone().unwrap();
            let sent = std::thread::spawn(move || {
                let part = vec![b'x'; 1 << 16];
                // Nobody has to take all of it.
                let _ = (0..length / part.len()).try_for_each(|_| stream.write_all(&part));
            });
            let mut answer = Vec::new();
            let _ = reader.read_to_end(&mut answer);
            sent.join().unwrap();
            let answer = String::from_utf8_lossy(&answer);
            let at = format!("{listens}, round {round}: {answer:.300}");
            assert!(answer.starts_with("HTTP/1.1 413 "), "{at}");
            assert!(answer.ends_with(&"too large".repeat(1000)), "{at}");
        }
        assert_eq!(scene.get("/"), "1");
    }
}

#[test]
fn a_tunnel_that_carries_nothing_is_closed() {
    let app = format!("{QUICK}tunnel_timeout = \"2s\"\n");
    let scene = Scene::begin("silent-tunnel", SOCKET, &app);
    let mut stream = connect(&scene);
    let head = "GET /echo HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let begun = Instant::now();
    let mut all = Vec::new();
    // Whoever speaks keeps it.
    let mut part = [0; 4096];
    while begun.elapsed() < Duration::from_secs(4) {
        stream.write_all(b"x").unwrap();
        let read = stream.read(&mut part).unwrap();
        assert_ne!(read, 0, "closed after {:?}", begun.elapsed());
        all.extend_from_slice(&part[..read]);
    }
    assert!(all.starts_with(b"HTTP/1.1 101 "));
    let _ = stream.read_to_end(&mut all);
    scene.wait_log("carried nothing for 2s (tunnel_timeout)");
}

#[test]
fn an_endless_answer_ends_with_its_client() {
    let scene = Scene::begin("endless", SOCKET, QUICK);
    let mut stream = connect(&scene);
    stream.write_all(get("/bad/endless").as_bytes()).unwrap();
    let mut some = vec![0; 1 << 20];
    stream.read_exact(&mut some).unwrap();
    drop(stream);
    scene.wait_log("its client is gone");
    assert_eq!(scene.get("/"), "1");
}

/// It accepts, and does nothing more: clients get an answer, and the next release takes over.
#[test]
fn one_that_hangs_with_its_socket_open_is_replaced() {
    // It does not hear its stop signal either.
    let app = format!("{QUICK}stop_timeout = \"1s\"\n");
    let scene = Scene::begin("hangs", SOCKET, &app);
    scene.release("2", "");
    let hung = pid(&scene);
    scene.service.signal(hung, Signal::STOP);
    let (status, _) = scene.ask(&get("/"));
    assert_eq!(status, 504);
    let begun = Instant::now();
    scene.deploy("2").assert_code(0);
    assert_eq!(scene.get("/"), "2");
    assert!(begun.elapsed() < Duration::from_secs(30));
    scene.service.cli(&["commit"]).assert_code(0);
    crate::scene::wait_gone(hung);
}

#[test]
fn a_new_release_that_fails_while_it_is_warmed_is_refused() {
    let app = "warmup = [\"/\", \"/slow\"]\n";
    let scene = Scene::begin("warm", SOCKET, app);
    for (fault, limit, words) in [
        ("hangs-up", "20s", "the application exited with code 9"),
        (
            "slower",
            "5s",
            "was not warm in time: /slow is not answered",
        ),
    ] {
        scene.configure_with(limit, SOCKET, app);
        scene.service.cli(&["reload"]).assert_code(0);
        scene.release(fault, fault);
        let refused = scene.deploy(fault);
        assert_eq!(refused.code, 1, "{fault}: {refused}");
        assert!(refused.stderr.contains(words), "{fault}: {refused}");
        assert_eq!(scene.get("/"), "1");
    }
}
