//! The control socket as a client sees it: real Unix sockets, a fake driver behind the desk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::*;
use crate::api::{Until, exit};

/// A served socket.
struct Door {
    dir: tempfile::TempDir,
    desk: Desk,
    close: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl Door {
    fn open(limits: Limits, refuse: impl Fn(u32) -> bool + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        let (handle, desk) = desk();
        let (close, closing) = watch::channel(false);
        let access = Arc::new(Access::new(None).but_not(refuse));
        let served = tokio::spawn(serve(listener, router(handle), access, limits, closing));
        Self {
            dir,
            desk,
            close,
            served,
        }
    }

    fn friendly() -> Self {
        Self::open(Limits::default(), |_| false)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    /// Sends `request` and gives the connection back.
    async fn send(&self, request: &str) -> UnixStream {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn ask(&self, request: &str) -> String {
        rest(self.send(request).await).await
    }
}

/// Everything until the end of the connection, within a deadline.
async fn rest(mut stream: UnixStream) -> String {
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    let _ = within(read).await;
    String::from_utf8(text).unwrap()
}

async fn until(stream: &mut UnixStream, needle: &str) -> String {
    let mut text = Vec::new();
    within(async {
        while !String::from_utf8_lossy(&text).contains(needle) {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "{text:?}");
        }
    })
    .await;
    String::from_utf8(text).unwrap()
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), what)
        .await
        .expect("within 5 s")
}

fn post(verb: &str, body: &str) -> String {
    let length = body.len();
    format!("POST /v1/{verb} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")
}

fn step(message: &str) -> Event {
    Event::Step {
        id: None,
        generation: 7,
        phase: "launching".into(),
        message: message.into(),
    }
}

fn verdict(exit: u8, message: &str) -> Verdict {
    Verdict {
        exit,
        message: message.into(),
        id: None,
    }
}

async fn next_order(desk: &mut Desk) -> (Order, Answer) {
    match within(desk.next()).await {
        Request::Order { order, answer, .. } => (order, answer),
        other @ Request::Figures(_) => panic!("{other:?}"),
    }
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").expect("a body").1
}

#[tokio::test]
async fn an_order_is_told_line_by_line_as_it_happens() {
    let mut door = Door::friendly();
    let mut client = door.send(&post("upgrade", r#"{"hold":true}"#)).await;
    let (order, answer) = next_order(&mut door.desk).await;
    let Order::Upgrade(upgrade) = order else {
        panic!("{order:?}")
    };
    assert!(upgrade.hold);
    assert_eq!(upgrade.until, Until::Takeover);

    answer.step(step("first"));
    let head = until(&mut client, "first").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("application/x-ndjson"), "{head}");
    answer.end(verdict(exit::OK, "done"));
    let tail = rest(client).await;
    assert!(
        tail.contains(r#"{"event":"result","exit":0,"message":"done"}"#),
        "{tail}"
    );
}

#[tokio::test]
async fn the_head_of_an_answer_comes_before_its_first_line() {
    let mut door = Door::friendly();
    let mut client = door.send(&post("commit", "")).await;
    let (order, _answer) = next_order(&mut door.desk).await;
    assert_eq!(order, Order::Commit);
    until(&mut client, "\r\n\r\n").await;

    let mut follower = door.send(&get("/v1/events")).await;
    until(&mut follower, "\r\n\r\n").await;
}

#[tokio::test]
async fn every_verb_is_an_order() {
    let mut door = Door::friendly();
    for (verb, expected) in [
        ("upgrade", Order::Upgrade(UpgradeOrder::default())),
        ("apply", Order::Apply(UpgradeOrder::default())),
        ("commit", Order::Commit),
        ("rollback", Order::Rollback),
        ("reload", Order::Reload),
        ("stop", Order::Stop),
    ] {
        for body in ["", "{}"] {
            let client = door.send(&post(verb, body)).await;
            let (order, answer) = next_order(&mut door.desk).await;
            assert_eq!(order.verb(), verb);
            assert_eq!(order, expected);
            answer.end(verdict(0, verb));
            assert!(rest(client).await.contains(verb));
        }
    }
}

#[tokio::test]
async fn an_order_that_is_not_understood_is_refused_with_64() {
    let door = Door::friendly();
    for (request, status, says) in [
        (
            post("upgrade", r#"{"path":"/tmp/x"}"#),
            400,
            "unknown field `path`",
        ),
        (
            post("commit", r#"{"force":true}"#),
            400,
            "unknown field `force`",
        ),
        (post("upgrade", r#"{"id":"xyz"}"#), 400, "32 lower-case hex"),
        (post("upgrade", "rubbish"), 400, "not understood"),
        (post("explode", ""), 404, "no order"),
        (get("/v1/upgrade"), 404, "there is no GET /v1/upgrade"),
        (get("/"), 404, "GET /v1/status"),
        (post("status", ""), 404, "there is no POST /v1/status"),
        (
            post("upgrade", &"x".repeat(70_000)),
            413,
            "longer than 65536",
        ),
    ] {
        let answer = door.ask(&request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        let verdict: Verdict = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(verdict.exit, exit::USAGE);
        assert!(verdict.message.contains(says), "{answer}");
    }
}

#[tokio::test]
async fn who_may_not_order_gets_77_and_may_still_read() {
    let me = std::process::id();
    let mut door = Door::open(Limits::default(), move |pid| pid == me);
    let answer = door.ask(&post("rollback", "")).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let verdict: Verdict = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(verdict.exit, exit::DENIED);
    assert!(verdict.message.contains(&me.to_string()), "{verdict:?}");

    let client = door.send(&get("/metrics")).await;
    match within(door.desk.next()).await {
        Request::Figures(Figures::Metrics(reply)) => reply.send("up 1\n".into()).unwrap(),
        other => panic!("the order reached the driver: {other:?}"),
    }
    let answer = rest(client).await;
    assert!(answer.contains("version=0.0.4"), "{answer}");
    assert_eq!(body(&answer), "up 1\n");
}

#[tokio::test]
async fn the_driver_learns_who_asks() {
    let mut door = Door::friendly();
    let _client = door.send(&post("stop", "")).await;
    match within(door.desk.next()).await {
        Request::Order { peer, .. } => {
            assert_eq!(peer.pid, std::process::id());
            assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        }
        other @ Request::Figures(_) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_dropped_without_a_verdict_ends_the_connection() {
    let mut door = Door::friendly();
    let client = door.send(&post("upgrade", "")).await;
    let (_, answer) = next_order(&mut door.desk).await;
    answer.step(step("one"));
    drop(answer);
    let text = rest(client).await;
    assert!(text.contains("one") && !text.contains("result"), "{text}");
}

#[tokio::test]
async fn followers_hear_what_is_published_until_the_socket_is_handed_over() {
    let mut door = Door::friendly();
    let mut follower = door.send(&get("/v1/events")).await;
    until(&mut follower, "\r\n\r\n").await;
    door.desk.publish(step("hello"));
    until(&mut follower, "hello").await;
    door.desk.publish(step("last words"));
    door.close.send(true).unwrap();
    let end = rest(follower).await;
    assert!(end.contains("last words"), "{end}");
    within(&mut door.served).await.unwrap();
}

#[tokio::test]
async fn after_the_hand_over_orders_are_finished_and_new_requests_sent_back() {
    let mut door = Door::friendly();
    let client = door.send(&post("upgrade", "")).await;
    let (_, answer) = next_order(&mut door.desk).await;
    let mut early = door.connect().await;
    // Both connections have been accepted: the second one's neighbour is answered.
    let probe = door.send(&get("/metrics")).await;
    let _ = within(door.desk.next()).await;

    door.close.send(true).unwrap();
    early.write_all(get("/v1/status").as_bytes()).await.unwrap();
    let sent_back = rest(early).await;
    assert!(sent_back.starts_with("HTTP/1.1 503"), "{sent_back}");
    assert!(sent_back.contains("retry-after"), "{sent_back}");
    drop(probe);

    assert!(!door.served.is_finished());
    answer.end(verdict(0, "it is final"));
    assert!(rest(client).await.contains("it is final"));
    within(&mut door.served).await.unwrap();
    UnixStream::connect(door.path()).await.unwrap_err();
}

#[tokio::test]
async fn an_order_of_a_client_that_gave_up_waiting_is_not_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // Nobody accepts: the owner hangs. One client gives up, one has said all it has to say.
    let mut gone = UnixStream::connect(&path).await.unwrap();
    gone.write_all(post("rollback", "").as_bytes())
        .await
        .unwrap();
    drop(gone);
    let mut there = UnixStream::connect(&path).await.unwrap();
    there
        .write_all(post("commit", "").as_bytes())
        .await
        .unwrap();

    let (handle, mut desk) = desk();
    let (_close, closing) = watch::channel(false);
    let access = Arc::new(Access::new(None));
    let limits = Limits::default();
    tokio::spawn(serve(listener, router(handle), access, limits, closing));
    assert_eq!(next_order(&mut desk).await.0, Order::Commit);
}

#[tokio::test]
async fn who_has_said_all_it_has_to_say_is_still_there_and_who_has_closed_is_not() {
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let (_close, closing) = watch::channel(false);
    let caller = super::serve::Caller {
        peer: Peer {
            pid: 1,
            uid: 0,
            groups: Vec::new(),
        },
        may_order: Ok(()),
        limits: Limits::default(),
        line: Arc::new(near.into()),
        closing,
    };
    assert!(!caller.has_left());
    far.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(!caller.has_left());
    drop(far);
    assert!(caller.has_left());

    let (handle, mut desk) = desk();
    let mut request = http::Request::post("/v1/rollback")
        .body(axum::body::Body::empty())
        .unwrap();
    request.extensions_mut().insert(caller);
    let answer = router(handle.clone()).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 403);
    drop(handle);
    assert!(desk.requests.recv().await.is_none());
}

#[tokio::test]
async fn an_order_nobody_waits_for_any_more_is_passed_over_at_the_desk() {
    let (handle, mut desk) = desk();
    let peer = Peer {
        pid: 1,
        uid: 0,
        groups: Vec::new(),
    };
    drop(handle.order(Order::Rollback, peer.clone()).await.unwrap());
    let _story = handle.order(Order::Commit, peer).await.unwrap();
    assert_eq!(next_order(&mut desk).await.0, Order::Commit);
}

#[tokio::test]
async fn a_dropped_sender_closes_as_well() {
    let door = Door::friendly();
    drop(door.close);
    within(door.served).await.unwrap();
}

#[tokio::test]
async fn who_sends_nothing_or_half_or_rubbish_is_dropped_at_the_deadline() {
    let limits = Limits {
        head: Duration::from_millis(50),
        body: Duration::from_millis(50),
        ..Limits::default()
    };
    let door = Door::open(limits, |_| false);
    let nothing = door.connect().await;
    assert_eq!(rest(nothing).await, "");
    let half = door.send("GET /v1/status HT").await;
    assert!(!rest(half).await.contains("200 OK"));
    let rubbish = door.send("\x16\x03\x01\x02rubbish\r\n\r\n").await;
    assert!(!rest(rubbish).await.contains("200 OK"));
    let slow = "POST /v1/upgrade HTTP/1.1\r\nhost: h\r\ncontent-length: 90\r\n\r\n{";
    let slow = door.ask(slow).await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
}

#[tokio::test]
async fn too_many_connections_are_told_so_and_who_may_order_still_gets_in() {
    let limits = Limits {
        connections: 2,
        reserved: 0,
        ..Limits::default()
    };
    let door = Door::open(limits, |_| false);
    let mut first = door.send(&get("/v1/events")).await;
    until(&mut first, "\r\n\r\n").await;
    let mut second = door.send(&get("/v1/events")).await;
    until(&mut second, "\r\n\r\n").await;
    let turned_away = rest(door.connect().await).await;
    assert!(turned_away.starts_with("HTTP/1.1 503"), "{turned_away}");
    let verdict: Verdict = serde_json::from_str(body(&turned_away)).unwrap();
    assert_eq!(verdict.exit, exit::REFUSED);
    let length = format!("content-length: {}\r\n", body(&turned_away).len());
    assert!(turned_away.contains(&length), "{turned_away}");

    // A follower that leaves makes room.
    drop(first);
    within(async {
        loop {
            let mut third = door.send(&get("/v1/events")).await;
            let mut start = [0; 12];
            let _ = third.read_exact(&mut start).await;
            if &start == b"HTTP/1.1 200" {
                break;
            }
        }
    })
    .await;

    let limits = Limits {
        connections: 0,
        reserved: 1,
        ..Limits::default()
    };
    let mut door = Door::open(limits, |_| false);
    let _client = door.send(&post("rollback", "")).await;
    assert_eq!(next_order(&mut door.desk).await.0, Order::Rollback);
}

#[tokio::test]
async fn when_the_driver_has_ended_the_client_is_told_69() {
    let door = Door::friendly();
    drop(door.desk);
    let mut stream = UnixStream::connect(door.dir.path().join("control.sock"))
        .await
        .unwrap();
    stream.write_all(post("stop", "").as_bytes()).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains(r#""exit":69"#), "{answer}");
}
