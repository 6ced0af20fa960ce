//! The strict client: an honest server is clean, every kind of rogue is caught as what it is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use crate::kit::app::{self, Identity};
use crate::kit::client::{Kind, Load, Report, Spec};
use crate::kit::http_peer::Peer;
use crate::kit::relay::Relay;

const SOON: Duration = Duration::from_secs(10);

fn honest() -> Peer {
    Peer::tcp(app::router(Identity {
        server: "peer/1".into(),
        generation: "g1".into(),
    }))
}

/// Runs a load until it has so many right answers.
fn until(spec: Spec, answers: u64) -> Report {
    let load = Load::start(spec);
    load.wait_answers(answers, SOON);
    load.stop()
}

/// A server whose every connection is treated by `behave`.
fn rogue(behave: impl Fn(TcpStream, usize) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let behave = behave.clone();
            let stream = stream.expect("a connection");
            std::thread::spawn(move || behave(stream, number));
        }
    });
    address
}

/// Reads one head; false at the end of the connection.
fn read_request(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

fn say(stream: &mut TcpStream, answer: &str) {
    let _ = stream.write_all(answer.as_bytes());
}

/// Runs a load against a rogue until something fails.
fn caught(spec: Spec) -> Report {
    let load = Load::start(spec);
    let end = std::time::Instant::now() + SOON;
    while load.report().failed() == 0 {
        assert!(std::time::Instant::now() < end, "nothing was caught");
        std::thread::sleep(Duration::from_millis(1));
    }
    load.stop()
}

#[track_caller]
fn only(report: &Report, kind: Kind) {
    assert!(report.count(kind) > 0, "no {kind}\n{report}");
    assert_eq!(report.failed(), report.count(kind), "{report}");
    assert_eq!(
        report.total.requests,
        report.total.ok + report.failed()
            - report.count(Kind::DroppedIdle)
            - report.count(Kind::Unsolicited)
            - report.count(Kind::Refused),
        "every request is accounted for\n{report}"
    );
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn an_honest_server_is_clean_with_every_kind_of_traffic() {
    let peer = honest();
    let ms = Duration::from_millis;
    let base = || Spec::new(peer.target.clone()).app().connections(2);
    for (spec, answers) in [
        (base().fresh(), 50),
        (base().keep_alive(), 200),
        (base().think(ms(0)..=ms(5)), 20),
        (base().pipelined(8).path("/big?bytes=70000"), 50),
        (base().slow_upload(50_000, 5, ms(3)).path("/echo"), 4),
        (base().chunked_upload(50_000, 5, ms(3)).path("/echo"), 4),
        (base().slow_upload(5000, 5, ms(3)).path("/ignore"), 4),
        (base().slow_reader(8192, ms(1)).path("/big?bytes=300000"), 4),
        (base().path("/stream?chunks=10&size=100&ms=2"), 4),
        (base().path("/nowhere").status(404), 20),
        (base().torture(), 100),
    ] {
        let fresh = spec.label == "fresh";
        let report = until(spec, answers);
        report.assert_clean();
        assert_eq!(report.servers.keys().collect::<Vec<_>>(), ["peer/1"]);
        assert_eq!(report.generations.keys().collect::<Vec<_>>(), ["g1"]);
        assert_eq!(report.total.requests, report.total.ok, "{report}");
        if fresh {
            assert_eq!(report.total.opened, report.total.requests, "{report}");
        } else {
            report.assert_kept();
        }
    }
}

#[test]
fn a_unix_socket_and_a_relay_are_as_good() {
    let dir = tempfile::tempdir().expect("a directory");
    let peer = Peer::unix(dir.path().join("s"), app::router(Identity::default()));
    until(Spec::new(peer.target.clone()).app(), 50).assert_clean();

    let relay = Relay::start(peer.target.clone(), Duration::from_millis(20));
    let report = until(Spec::new(relay.target()).torture().connections(4), 50);
    report.assert_clean().assert_kept();
    let report = until(Spec::new(relay.target()).app(), 10);
    let fastest = report.total.latency.percentile(0.0);
    assert!(fastest >= Duration::from_millis(20), "{fastest:?}");
}

#[test]
fn phases_are_told_apart() {
    let peer = honest();
    let load = Load::start(Spec::new(peer.target.clone()).app());
    load.wait_answers(10, SOON);
    load.mark("after");
    load.wait_answers(20, SOON);
    let report = load.stop();
    let (before, after) = (report.phase("start"), report.phase("after"));
    assert!(before.ok >= 10 && after.ok >= 20, "{report}");
    assert_eq!(before.ok + after.ok, report.total.ok);
    assert_eq!(before.opened, 1);
    assert_eq!(after.opened, 0);
    assert_eq!(report.total.latency.count(), report.total.ok);
}

#[test]
fn nobody_listening_is_refused() {
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port that nobody listens on");
    only(&caught(Spec::new(address)), Kind::Refused);
    let nowhere = std::path::Path::new("/nonexistent/kit.sock");
    only(&caught(Spec::new(nowhere)), Kind::Refused);
}

#[test]
fn a_close_of_an_idle_connection_is_dropped_idle() {
    let address = rogue(|mut stream, _| {
        read_request(&mut stream);
        say(&mut stream, OK);
    });
    let pause = Duration::from_millis(50);
    let report = caught(Spec::new(address).pause(pause));
    only(&report, Kind::DroppedIdle);
    assert_eq!(report.total.requests, report.total.ok, "{report}");
}

#[test]
fn a_reset_of_an_idle_connection_is_dropped_idle() {
    let address = rogue(|mut stream, _| {
        read_request(&mut stream);
        say(&mut stream, OK);
        std::thread::sleep(Duration::from_millis(10));
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    let pause = Duration::from_millis(100);
    only(&caught(Spec::new(address).pause(pause)), Kind::DroppedIdle);
}

#[test]
fn a_close_instead_of_an_answer_is_eof() {
    let address = rogue(|mut stream, _| {
        read_request(&mut stream);
    });
    let report = caught(Spec::new(address));
    only(&report, Kind::Eof);
    let failure = &report.failures[0];
    assert_eq!(failure.seen, 0);
    assert!(failure.sent > 0, "{failure}");
    assert_eq!(failure.request, 1, "{failure}");
}

#[test]
fn truncated_bodies_and_heads_are_eof_with_the_bytes_seen() {
    for (answer, seen) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1234", 43),
        ("HTTP/1.1 200 OK\r\nContent-Le", 27),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
            54,
        ),
    ] {
        let address = rogue(move |mut stream, _| {
            read_request(&mut stream);
            say(&mut stream, answer);
        });
        let report = caught(Spec::new(address));
        only(&report, Kind::Eof);
        assert_eq!(report.failures[0].seen, seen, "{report}");
    }
}

#[test]
fn a_reset_with_a_request_under_way_is_reset() {
    let address = rogue(|mut stream, _| {
        read_request(&mut stream);
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    only(&caught(Spec::new(address)), Kind::Reset);
    let relay = Relay::start(address, Duration::from_millis(2));
    only(&caught(Spec::new(relay.target())), Kind::Reset);
}

#[test]
fn silence_is_a_timeout() {
    let address = rogue(|mut stream, _| {
        read_request(&mut stream);
        read_request(&mut stream);
    });
    let spec = Spec::new(address).timeout(Duration::from_secs(1));
    only(&caught(spec), Kind::Timeout);
}

#[test]
fn wrong_status_body_and_framing_are_told_apart() {
    for (answer, kind) in [
        (
            "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
            Kind::BadStatus,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nko",
            Kind::BadBody,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\no",
            Kind::BadBody,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nok", Kind::BadFraming),
        ("SMTP ready\r\n\r\n", Kind::BadFraming),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok",
            Kind::BadFraming,
        ),
    ] {
        let address = rogue(move |mut stream, _| {
            while read_request(&mut stream) {
                say(&mut stream, answer);
            }
        });
        only(&caught(Spec::new(address).body("ok")), kind);
    }
}

#[test]
fn bytes_behind_an_answer_are_unsolicited() {
    let address = rogue(|mut stream, _| {
        while read_request(&mut stream) {
            say(
                &mut stream,
                &format!("{OK}HTTP/1.1 400 Bad Request\r\n\r\n"),
            );
        }
    });
    let pause = Duration::from_millis(20);
    only(&caught(Spec::new(address).pause(pause)), Kind::Unsolicited);
}

#[test]
fn swapped_pipelined_answers_are_of_wrong_identity() {
    // Knows the ids of the first batch and answers it in the wrong order.
    let address = rogue(|mut stream, _| {
        for _ in 0..2 {
            read_request(&mut stream);
        }
        for id in ["7-0-2", "7-0-1"] {
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nx-kit-id: {id}\r\n\r\nhello\n");
            say(&mut stream, &answer);
        }
        read_request(&mut stream);
        read_request(&mut stream);
    });
    let spec = Spec::new(address).app().pipelined(2).seed(7);
    let report = caught(spec.timeout(Duration::from_secs(1)));
    assert!(report.count(Kind::WrongIdentity) >= 2, "{report}");
    assert!(
        report.failures[0].detail.contains("7-0-2"),
        "the story tells whose answer it was: {report}"
    );
}

#[test]
fn a_polite_close_is_no_failure_and_counts_as_reopened() {
    let address = rogue(|mut stream, _| {
        read_request(&mut stream);
        say(&mut stream, OK);
        read_request(&mut stream);
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        );
    });
    let report = until(Spec::new(address).body("ok"), 20);
    report.assert_clean();
    let total = &report.total;
    assert!(total.closed_politely >= 10, "{report}");
    assert!(total.reopened >= 9, "{report}");
    assert_eq!(total.opened, total.reopened + 1, "{report}");
}

#[test]
fn requests_behind_a_polite_close_are_told() {
    let address = rogue(|mut stream, _| {
        read_request(&mut stream);
        say(
            &mut stream,
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        );
        while read_request(&mut stream) {}
    });
    only(&caught(Spec::new(address).pipelined(3)), Kind::AfterClose);
}

#[test]
fn an_upload_that_is_cut_off_is_a_failure() {
    let address = rogue(|mut stream, _| {
        read_request(&mut stream);
        let mut some = [0; 100];
        let _ = stream.read(&mut some);
    });
    let spec = Spec::new(address).slow_upload(100_000, 10, Duration::from_millis(5));
    let report = caught(spec);
    let lost = report.count(Kind::Reset) + report.count(Kind::Eof);
    assert!(lost > 0 && lost == report.failed(), "{report}");
}

#[test]
fn torture_notices_a_server_that_loses_a_body() {
    // The second application answers /echo with another hash.
    let router = axum::Router::new().fallback(async || "hello\n");
    let peer = Peer::tcp(router);
    let report = caught(Spec::new(peer.target.clone()).torture());
    assert!(report.count(Kind::WrongIdentity) > 0, "{report}");
    assert!(report.to_string().contains("seed"), "{report}");
}

#[test]
fn a_close_behind_an_early_answer_is_the_connection_s_failure_not_the_request_s() {
    let address = rogue(|mut stream, _| {
        read_request(&mut stream);
        say(&mut stream, OK);
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    });
    let spec = Spec::new(address).slow_upload(100_000, 20, Duration::from_millis(5));
    let report = caught(spec);
    only(&report, Kind::DroppedIdle);
    assert_eq!(report.total.requests, report.total.ok, "{report}");
}
