//! What can be under way on a connection when its worker is told to leave, each through an upgrade
//! and through its rollback.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use handover::api::Phase;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::kit::app::{self, Content};
use crate::kit::build;
use crate::kit::client::Target;
use crate::kit::service::{SOON, Service};
use crate::raw::{Raw, get};

/// Puts something under way, in the generation that serves now.
pub type Case = fn(&Service) -> Rest;

/// What is to happen after the move: nothing was lost, and this generation goes on with it.
pub type Rest = Box<dyn FnOnce(&Service, u64)>;

/// All that may happen beside each other.
pub const CASES: &[Case] = &[
    accepted_but_not_read,
    half_a_head,
    pipelined,
    upload,
    chunked_upload,
    chunked_download,
    slow_reader,
    expects_continue,
    half_closed,
    ignored_body,
    vanishes,
    upgraded,
    http2,
    unix_socket,
    peer_and_options,
];

/// `workbench`, on TCP and on a Unix socket.
pub fn begin(test: &str, config: &str) -> Service {
    // Built before anybody connects: no client has to wait for a compiler.
    build::other_version_of_example("workbench", "2.0.0");
    let image = build::other_version_of_example("workbench", "1.0.0");
    let service = Service::setup(test)
        .name("workbench")
        .image(image)
        .config(config)
        .tcp("http")
        .unix("local")
        .start();
    service.wait_owner(1, "serving");
    service
}

/// A loaded machine may take longer than a client has by default, until all that is under way has begun.
pub const PATIENT: &str = "workers = 2\n[upgrade]\nprobation = \"10m\"\n[http]\nheader_timeout = \"10m\"\n\
    body_timeout = \"10m\"\nsend_timeout = \"10m\"\nkeepalive_timeout = \"10m\"\n";

pub fn upgrade(service: &Service) {
    let new = build::other_version_of_example("workbench", "2.0.0");
    service.replace(&new);
    service.cli(&["upgrade"]).assert_code(0);
}

/// hyper never disagreed about a connection, and nobody was cut.
#[track_caller]
pub fn nothing_was_wrong(service: &Service) {
    let metrics = service.control("/metrics").expect("metrics");
    let metrics = String::from_utf8(metrics).expect("text");
    for name in ["disagreements_total", "cut_total"] {
        let line = format!("handover_{name} 0\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    let status = service.status().expect("a status");
    assert_eq!(status.warnings, [""; 0]);
}

fn through_upgrade_and_rollback(test: &str, case: Case) {
    let service = begin(test, PATIENT);
    let rest = case(&service);
    upgrade(&service);
    rest(&service, 2);
    let rest = case(&service);
    service.cli(&["rollback"]).assert_code(0);
    rest(&service, 1);
    let status = service.wait_status("the end of the rollback", |s| {
        s.phase == Phase::Serving && s.upgrade.is_none()
    });
    let last = status.last.expect("an upgrade");
    assert_eq!(last.connections.cut, 0, "{last:?}");
    nothing_was_wrong(&service);
}

macro_rules! each {
    ($($test:ident: $case:ident,)*) => {$(
        #[test]
        fn $test() {
            through_upgrade_and_rollback(stringify!($case), $case);
        }
    )*};
}

each! {
    a_connection_that_was_never_read_goes_on: accepted_but_not_read,
    half_a_head_travels_along: half_a_head,
    pipelined_requests_are_answered_in_order: pipelined,
    a_large_upload_in_flight_is_taken_whole: upload,
    a_chunked_upload_in_flight_is_taken_whole: chunked_upload,
    a_chunked_download_in_flight_comes_whole: chunked_download,
    a_slow_reader_gets_everything: slow_reader,
    who_waits_for_100_continue_goes_on: expects_continue,
    a_half_closed_client_gets_its_answer: half_closed,
    a_body_that_nobody_reads_is_never_a_request: ignored_body,
    clients_that_vanish_in_the_middle_leave_nothing_behind: vanishes,
    an_upgraded_connection_is_served_on: upgraded,
    an_http2_connection_goes_on_when_its_streams_have_ended: http2,
    connections_of_a_unix_socket_go_on: unix_socket,
    the_client_s_address_and_the_socket_s_options_are_kept: peer_and_options,
}

/// The same connection, the next request: it is with a worker of the generation that serves.
fn goes_on(raw: &mut Raw, service: &Service, generation: u64) {
    raw.wait_moved(service, generation);
    let answer = raw.get("/who");
    assert_eq!(answer.generation(), format!("g{generation}"));
    assert_eq!(answer.header("connection"), None);
}

fn accepted_but_not_read(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "http");
    Box::new(move |service, generation| goes_on(&mut raw, service, generation))
}

fn half_a_head(service: &Service) -> Rest {
    let mut fresh = Raw::connect(service, "http");
    let mut used = Raw::connect(service, "http");
    used.get("/");
    for raw in [&mut fresh, &mut used] {
        raw.send_and_read("GET /wh");
    }
    Box::new(move |service, generation| {
        for raw in [&mut fresh, &mut used] {
            raw.wait_moved(service, generation);
            raw.send("o HTTP/1.1\r\nHost: t\r\n\r\n");
            assert_eq!(raw.answer().generation(), format!("g{generation}"));
            goes_on(raw, service, generation);
        }
    })
}

fn pipelined(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "http");
    let all = [
        get("/slow?ms=700"),
        get("/big?bytes=10"),
        get("/big?bytes=20"),
        "GET /big?by".into(),
    ];
    raw.send_and_read(all.concat());
    Box::new(move |service, generation| {
        assert_eq!(raw.answer().text(), "slow\n");
        assert_eq!(raw.answer().body.len(), 10);
        assert_eq!(raw.answer().body.len(), 20);
        raw.send("tes=30 HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(raw.answer().body.len(), 30);
        goes_on(&mut raw, service, generation);
    })
}

fn echo_of(body: &[u8]) -> Vec<u8> {
    match app::expected("/echo", body) {
        Some(Content::Text(text)) => text.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn upload(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "http");
    let body = app::pattern(5_000_000);
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    raw.send(head);
    raw.send(&body[..2_000_000]);
    Box::new(move |service, generation| {
        raw.send(&body[2_000_000..]);
        assert_eq!(raw.answer().body, echo_of(&body));
        goes_on(&mut raw, service, generation);
    })
}

fn chunked_upload(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "http");
    raw.send_and_read(
        "POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n8\r\nwor",
    );
    Box::new(move |service, generation| {
        // And the next request right behind it.
        raw.send("ld, a\r\n0\r\n\r\nGET /big?bytes=7 HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(raw.answer().body, echo_of(b"helloworld, a"));
        assert_eq!(raw.answer().body.len(), 7);
        goes_on(&mut raw, service, generation);
    })
}

fn chunked_download(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "http");
    raw.send(get("/stream?chunks=30&size=5000&ms=40"));
    let head = raw.head();
    assert!(head.contains("chunked"), "{head}");
    Box::new(move |service, generation| {
        let body = raw.chunks();
        assert_eq!(body.len(), 150_000);
        assert!(app::is_pattern(0, &body));
        goes_on(&mut raw, service, generation);
    })
}

fn slow_reader(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "http");
    raw.send_and_read(get("/big?bytes=20000000"));
    Box::new(move |service, generation| {
        let body = raw.answer().body;
        assert_eq!(body.len(), 20_000_000);
        assert!(app::is_pattern(0, &body));
        goes_on(&mut raw, service, generation);
    })
}

fn expects_continue(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "http");
    raw.send("POST /echo HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(raw.answer().status, 100);
    Box::new(move |service, generation| {
        raw.send("hello");
        assert_eq!(raw.answer().body, echo_of(b"hello"));
        goes_on(&mut raw, service, generation);
    })
}

fn half_closed(service: &Service) -> Rest {
    let Target::Tcp(address) = service.target("http") else {
        panic!("TCP");
    };
    let socket = std::net::TcpStream::connect(address).expect("a listener");
    let mut raw = Raw::of(&socket);
    raw.send(get("/slow?ms=700"));
    socket.shutdown(Shutdown::Write).expect("half a close");
    Box::new(move |_, _| {
        assert_eq!(raw.answer().text(), "slow\n");
        assert!(raw.at_end());
    })
}

fn ignored_body(service: &Service) -> Rest {
    let smuggled = get("/who");
    let mut raw = Raw::connect(service, "http");
    let length = 40 + smuggled.len();
    raw.send(format!(
        "POST /ignore HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"
    ));
    assert_eq!(raw.answer().text(), "ignored\n");
    raw.send_and_read([b'x'; 20]);
    Box::new(move |service, generation| {
        raw.send([b'x'; 20]);
        raw.send(smuggled);
        raw.send(get("/big?bytes=7"));
        let answer = raw.answer();
        assert_eq!(answer.body.len(), 7, "{answer:?}");
        goes_on(&mut raw, service, generation);
    })
}

/// Twenty go one by one while everything moves.
#[expect(clippy::disallowed_methods, reason = "to make load")]
fn vanishes(service: &Service) -> Rest {
    let mut all: Vec<_> = (0..20).map(|_| Raw::connect(service, "http")).collect();
    for raw in all.iter_mut().skip(10) {
        raw.send(get("/slow?ms=300"));
    }
    let thread = std::thread::spawn(move || {
        for raw in all {
            std::thread::sleep(Duration::from_millis(7));
            drop(raw);
        }
    });
    Box::new(move |_, _| thread.join().expect("no panic"))
}

fn upgraded(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "http");
    raw.send("GET /shout HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n");
    assert_eq!(raw.answer().status, 101);
    raw.send("before");
    assert_eq!(raw.exactly(6), b"BEFORE");
    Box::new(move |_, _| {
        for word in ["after", "and again"] {
            raw.send(word);
            assert_eq!(raw.exactly(word.len()), word.to_uppercase().as_bytes());
        }
    })
}

/// One long stream, and short ones beside it and behind it: all on one connection, which goes on when the
/// long one has ended.
fn http2(service: &Service) -> Rest {
    let Target::Tcp(address) = service.target("http") else {
        panic!("TCP");
    };
    let (began, beginning) = std::sync::mpsc::channel();
    let (goal, ask) = tokio::sync::oneshot::channel::<u64>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let socket = tokio::net::TcpStream::connect(address)
                .await
                .expect("a listener");
            let (mut client, connection) = http2::handshake::<_, _, Empty<bytes::Bytes>>(
                TokioExecutor::new(),
                TokioIo::new(socket),
            )
            .await
            .expect("a handshake");
            let connection = tokio::spawn(connection);
            let request = |path: &str| {
                http::Request::get(format!("http://t{path}"))
                    .body(Empty::new())
                    .expect("a request")
            };
            let mut long = client
                .send_request(request("/stream?chunks=30&size=1000&ms=40"))
                .await
                .expect("an answer");
            let before = long.headers()["x-generation"].clone();
            let first = long.body_mut().frame().await;
            let first = first.expect("a frame").expect("a frame");
            let first = first.data_ref().expect("data").len();
            began.send(()).expect("somebody waits");
            let rest = tokio::spawn(long.into_body().collect());
            let generation = ask.await.expect("a generation");
            let end = Instant::now() + SOON;
            loop {
                assert!(Instant::now() < end, "it does not move");
                client.ready().await.expect("one connection");
                let answer = client.send_request(request("/who")).await;
                let answer = answer.expect("no stream fails");
                let served_by = answer.headers()["x-generation"].clone();
                answer.into_body().collect().await.expect("a body");
                if served_by == format!("g{generation}") {
                    let finished = rest.is_finished();
                    // After a reload the generation is the same.
                    assert!(
                        finished || served_by == before,
                        "the long stream comes first"
                    );
                    if finished {
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let body = rest.await.expect("no panic").expect("a whole stream");
            assert_eq!(first + body.to_bytes().len(), 30_000);
            drop(client);
            connection.await.expect("no panic").expect("a clean end");
        });
    });
    beginning.recv_timeout(SOON).expect("the stream begins");
    Box::new(move |_, generation| {
        goal.send(generation).expect("a client");
        thread.join().expect("no stream failed");
    })
}

fn unix_socket(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "local");
    let us = format!("uid {}", rustix::process::geteuid().as_raw());
    assert_eq!(raw.get("/peer").text(), us);
    raw.send("GET /pe");
    Box::new(move |_, generation| {
        raw.send("er HTTP/1.1\r\nHost: t\r\n\r\n");
        assert_eq!(raw.answer().text(), us);
        // Which process has a Unix socket cannot be seen from outside: it is asked until it moved.
        let end = Instant::now() + SOON;
        loop {
            let answer = raw.get("/peer");
            assert_eq!(answer.text(), us);
            assert_eq!(answer.header("connection"), None);
            if answer.generation() == format!("g{generation}") {
                break;
            }
            assert!(Instant::now() < end, "{answer:?}");
        }
    })
}

fn peer_and_options(service: &Service) -> Rest {
    let mut raw = Raw::connect(service, "http");
    let before = raw.get("/peer").text().to_owned();
    let (ours, _) = raw.ends.expect("TCP");
    assert_eq!(before, ours.to_string());
    let inode = raw.server_side().expect("a server").inode;
    Box::new(move |service, generation| {
        raw.wait_moved(service, generation);
        let answer = raw.get("/peer");
        assert_eq!(answer.text(), before);
        assert_eq!(answer.generation(), format!("g{generation}"));
        // Not another connection behind a proxy: the very same socket, with all its options.
        assert_eq!(raw.server_side().expect("a server").inode, inode);
    })
}
