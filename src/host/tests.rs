//! The front against an application that is played word by word: every way in which one can be
//! wrong is bounded, told, and never the client's riddle.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::Request;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::front::{Front, answer};
use super::{FrontContext, router};
use crate::config::{App, Upstream};
use crate::worker::{OwnersApplication, Tally};

const SOON: Duration = Duration::from_secs(10);

/// For an application that answers.
const PATIENT: Duration = Duration::from_secs(5);

/// For one that does not.
const QUICK: Duration = Duration::from_millis(300);

/// An application of our making, and the front before it.
struct Scene {
    _dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
    app: App,
    /// Connections that the application has accepted.
    accepted: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
    tally: Arc<Tally>,
    owners: Arc<OwnersApplication>,
}

impl Scene {
    fn new(instances: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = (0..instances).map(|n| dir.path().join(format!("{n}.sock")));
        Self {
            paths: paths.collect(),
            _dir: dir,
            app: App {
                connect_timeout: PATIENT,
                answer_timeout: PATIENT,
                stall_timeout: PATIENT,
                ..App::default()
            },
            accepted: Arc::default(),
            tasks: Vec::new(),
            tally: Arc::default(),
            owners: Arc::default(),
        }
    }

    /// The instance plays this on every connection, which it is given the number of.
    fn plays<F, Fut>(&mut self, instance: usize, script: F)
    where
        F: Fn(usize, UnixStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = UnixListener::bind(&self.paths[instance]).unwrap();
        let accepted = Arc::clone(&self.accepted);
        self.tasks.push(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(script(number, stream));
            }
        }));
    }

    /// With one instance that says this to every request, whatever it is.
    fn saying(answer: &'static str) -> Self {
        let mut scene = Self::new(1);
        scene.plays(0, move |_, mut stream| async move {
            while request(&mut stream).await.is_some() {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        scene
    }

    fn context(&self) -> FrontContext {
        FrontContext {
            tally: Arc::clone(&self.tally),
            silent: Arc::default(),
            app: self.app.clone(),
            upstreams: self.paths.iter().cloned().map(Upstream::Unix).collect(),
            owners: Arc::clone(&self.owners),
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// A client's connection through the front, served as the worker does it.
    fn client(&self) -> Client {
        self.clients(1).remove(0)
    }

    /// Several through the same front.
    fn clients(&self, count: usize) -> Vec<Client> {
        let front = router(&self.context());
        let connect = |_| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let service = TowerToHyperService::new(front.clone());
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(theirs), service)
                    .with_upgrades(),
            );
            Client(ours)
        };
        (0..count).map(connect).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Client(UnixStream);

impl Client {
    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until it has this.
    async fn until(&mut self, end: &str) -> String {
        let mut all = Vec::new();
        let read = async {
            while !String::from_utf8_lossy(&all).contains(end) {
                let n = self.0.read_buf(&mut all).await.unwrap();
                assert!(n > 0, "no {end:?} in {:?}", String::from_utf8_lossy(&all));
            }
        };
        let in_time = timeout(SOON, read).await;
        let all = String::from_utf8(all).unwrap();
        assert!(in_time.is_ok(), "no {end:?} in {all:?}");
        all
    }

    /// Reads until the connection ends.
    async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _ = timeout(SOON, self.0.read_to_end(&mut all)).await.unwrap();
        String::from_utf8(all).unwrap()
    }

    /// Asks for and gets an answer that says so.
    async fn ok(&mut self) {
        self.send(GET).await;
        let answer = self.until("ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    /// The first line of the answer to a plain request.
    async fn status(&mut self) -> String {
        self.send(GET).await;
        let head = self.until("\r\n\r\n").await;
        head.lines().next().unwrap().to_owned()
    }
}

const GET: &str = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// What an attacker lets an application say.
const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";

/// A whole request, its body included; `None`: the front went away.
async fn request(stream: &mut UnixStream) -> Option<String> {
    let mut all = Vec::new();
    loop {
        if stream.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&all).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |n| n.parse().unwrap());
        let chunked = head.contains("transfer-encoding: chunked");
        if (chunked && body.ends_with("\r\n\r\n")) || (!chunked && body.len() >= length) {
            return Some(text);
        }
    }
}

/// What the application is told, as its answer.
fn echoing() -> Scene {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        while let Some(text) = request(&mut stream).await {
            let length = text.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}<end>");
            stream
                .write_all(answer.replace("<end>", "").as_bytes())
                .await
                .unwrap();
        }
    });
    scene
}

#[tokio::test]
async fn requests_of_all_clients_share_what_connections_are_kept() {
    let scene = Scene::saying(OK);
    for client in &mut scene.clients(3) {
        for _ in 0..3 {
            client.ok().await;
        }
    }
    assert_eq!(scene.accepted(), 1);
}

#[tokio::test]
async fn the_application_sees_the_path_as_it_was_typed_and_the_host() {
    let scene = echoing();
    let mut client = scene.client();
    client
        .send("GET /a/../b%2Fc?d=%20&e HTTP/1.1\r\nHost: shop.example\r\nX-A: 1\r\n\r\n")
        .await;
    let told = client.until("proto=http").await;
    assert!(
        told.contains("GET /a/../b%2Fc?d=%20&e HTTP/1.1\r\n"),
        "{told}"
    );
    assert!(told.contains("host: shop.example\r\n"), "{told}");
    assert!(told.contains("x-a: 1\r\n"), "{told}");
}

#[tokio::test]
async fn a_body_is_passed_on_in_the_length_or_the_chunks_it_came_in() {
    let scene = echoing();
    let mut client = scene.client();
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
        .await;
    let told = client.until("hello").await;
    assert!(told.contains("content-length: 5\r\n"), "{told}");
    client
        .send(
            "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
        .await;
    let told = client.until("0\r\n\r\n").await;
    assert!(told.contains("3\r\nabc\r\n"), "{told}");
    assert_eq!(
        scene.accepted(),
        2,
        "a request with a body has a new connection"
    );
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_from_us() {
    let scene = echoing();
    let mut client = scene.client();
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        .await;
    let word = client.until("\r\n\r\n").await;
    assert_eq!(word, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello").await;
    let told = client.until("hello").await;
    assert!(!told.contains("expect"), "{told}");
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        let text = request(&mut stream).await.unwrap();
        let came = text.contains("0\r\nx-sum: 7\r\n");
        let sum = if came { "seen" } else { "lost" };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             2\r\nok\r\n0\r\nx-sum: {sum}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut client = scene.client();
    client
        .send(
            "POST / HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n\
             transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 7\r\n\r\n",
        )
        .await;
    let answer = client.until("0\r\nx-sum: seen\r\n\r\n").await;
    assert!(answer.contains("trailer: x-sum\r\n"), "{answer}");
}

#[tokio::test]
async fn an_answer_to_head_says_a_length_and_has_none() {
    let scene = Scene::saying("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    let mut client = scene.client();
    client.send("HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.contains("content-length: 1000\r\n"), "{head}");
}

/// gunicorn 23 writes the body of an answer to HEAD, after the head and on its own.
#[tokio::test]
async fn a_body_after_an_answer_that_has_none_is_nobodys_answer() {
    for (method, status) in [
        ("HEAD", "200 OK"),
        ("GET", "204 No Content"),
        ("GET", "304 Not Modified"),
    ] {
        let mut scene = Scene::new(1);
        scene.plays(0, move |number, mut stream| async move {
            request(&mut stream).await;
            let head = format!("HTTP/1.1 {status}\r\n\r\n");
            let first = if number == 0 { &head } else { OK };
            stream.write_all(first.as_bytes()).await.unwrap();
            if request(&mut stream).await.is_some() {
                stream.write_all(EVIL.as_bytes()).await.unwrap();
            }
        });
        let mut client = scene.client();
        client
            .send(&format!("{method} / HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let head = client.until("\r\n\r\n").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        client.ok().await;
    }
}

/// Nothing wakes us up between what it says and our next request.
#[tokio::test]
async fn what_comes_on_a_kept_connection_ends_it() {
    let mut scene = Scene::new(1);
    let (gives, mut kept) = tokio::sync::mpsc::unbounded_channel();
    scene.plays(0, move |_, mut stream| {
        let gives = gives.clone();
        async move {
            request(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            gives.send(stream).unwrap();
        }
    });
    let front = Arc::new(Front::new(&scene.context()));
    let ask = async || {
        let request = Request::get("/").body(Body::empty()).unwrap();
        let answer = answer(Arc::clone(&front), request).await;
        to_bytes(answer.into_body(), 100).await.unwrap()
    };
    assert_eq!(ask().await, "ok");
    let stream = kept.recv().await.unwrap();
    stream.try_write(EVIL.as_bytes()).unwrap();
    assert_eq!(ask().await, "ok");
    assert_eq!(scene.accepted(), 2);
}

#[tokio::test]
async fn a_trailer_does_not_say_who_the_client_is() {
    let scene = echoing();
    let mut client = scene.client();
    client
        .send(
            "POST / HTTP/1.1\r\nhost: x\r\ntrailer: x-forwarded-for, x-real-ip, x_sum, x-sum\r\n\
             transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-forwarded-for: 192.0.2.6\r\n\
             x-real-ip: 192.0.2.6\r\nx_sum: 192.0.2.6\r\nx-sum: 7\r\n\r\n",
        )
        .await;
    let told = client.until("x-sum: 7\r\n\r\n").await;
    assert!(!told.contains("192.0.2.6"), "{told}");
}

#[tokio::test]
async fn an_answer_may_have_many_fields() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        let fields: Vec<_> = (0..250).map(|n| format!("x-{n}: {n}\r\n")).collect();
        let answer = OK.replace("\r\n\r\n", &format!("\r\n{}\r\n", fields.concat()));
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut client = scene.client();
    client.send(GET).await;
    let answer = client.until("\r\n\r\nok").await;
    assert!(answer.contains("x-249: 249\r\n"), "{answer}");
}

#[tokio::test]
async fn an_old_application_that_closes_after_every_answer_costs_the_client_nothing() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await.unwrap();
        let answer = b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nall of it";
        stream.write_all(answer).await.unwrap();
    });
    let mut client = scene.client();
    for _ in 0..2 {
        client.send(GET).await;
        let answer = client.until("0\r\n\r\n").await;
        assert!(answer.contains("all of it"), "{answer}");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(!answer.contains("connection"), "{answer}");
    }
    assert_eq!(scene.accepted(), 2);
}

/// What the client still sends is not swallowed.
#[tokio::test]
async fn a_tunnel_to_an_application_that_has_gone_ends() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await.unwrap();
        let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                        upgrade: websocket\r\n\r\n";
        stream.write_all(switched.as_bytes()).await.unwrap();
    });
    let mut client = scene.client();
    let ask = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    client.send(ask).await;
    client.rest().await;
    let sends = async {
        while client.0.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, sends).await.expect("the tunnel stays");
}

/// Of `POST`, when the head is there: the beginning of the answer, and the end after the last byte.
async fn answers_early(mut stream: UnixStream) {
    let mut all = Vec::new();
    let mut read_to = async |end: &[u8], stream: &mut UnixStream| {
        while !all.ends_with(end) {
            if !matches!(stream.read_buf(&mut all).await, Ok(1..)) {
                return false;
            }
        }
        true
    };
    assert!(read_to(b"\r\n\r\n", &mut stream).await);
    let begins = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegin\r\n";
    stream.write_all(begins.as_bytes()).await.unwrap();
    if read_to(b"z", &mut stream).await {
        let _ = stream.write_all(b"3\r\nend\r\n0\r\n\r\n").await;
    }
}

const SLOW_POST: &str = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\n\r\n";

#[tokio::test]
async fn an_answer_that_waits_for_a_slow_request_does_not_stand_still() {
    let mut scene = Scene::new(1);
    scene.app.stall_timeout = Duration::from_secs(1);
    scene.plays(0, |_, stream| answers_early(stream));
    let mut client = scene.client();
    client.send(SLOW_POST).await;
    client.until("begin").await;
    for _ in 0..12 {
        tokio::time::sleep(scene.app.stall_timeout / 4).await;
        client.send("x").await;
    }
    client.send("z").await;
    client.until("end").await;
}

#[tokio::test]
async fn a_client_that_leaves_in_its_request_is_not_the_applications_fault() {
    let mut scene = Scene::new(1);
    let (gone, all_gone) = tokio::sync::oneshot::channel();
    let gone = std::sync::Mutex::new(Some(gone));
    scene.plays(0, move |_, stream| {
        let gone = gone.lock().unwrap().take();
        async move {
            answers_early(stream).await;
            gone.unwrap().send(()).unwrap();
        }
    });
    let mut client = scene.client();
    client.send(SLOW_POST).await;
    client.until("begin").await;
    drop(client);
    timeout(SOON, all_gone).await.unwrap().unwrap();
    assert_eq!(scene.tally.broken_off.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_to_its_end() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        let text = request(&mut stream).await.unwrap();
        assert!(
            text.contains("connection: upgrade\r\nupgrade: websocket\r\n"),
            "{text}"
        );
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                  upgrade: websocket\r\nsec-websocket-accept: k\r\n\r\nfirst",
            )
            .await
            .unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
    });
    let mut client = scene.client();
    client
        .send(
            "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-key: k\r\n\r\n",
        )
        .await;
    let head = client.until("first").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: k\r\n"), "{head}");
    client.send("ping").await;
    assert_eq!(client.rest().await, "ping");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_bad_answer() {
    let scene = Scene::saying("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n");
    assert_eq!(scene.client().status().await, "HTTP/1.1 502 Bad Gateway");
}

#[tokio::test]
async fn an_answer_in_a_coding_that_nobody_undoes_is_a_502() {
    let scene = Scene::saying(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    assert_eq!(scene.client().status().await, "HTTP/1.1 502 Bad Gateway");
}

#[tokio::test]
async fn garbage_is_a_502() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 999999 what\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ] {
        let scene = Scene::saying(garbage);
        let status = scene.client().status().await;
        assert_eq!(status, "HTTP/1.1 502 Bad Gateway", "{garbage}");
        assert_eq!(scene.accepted(), 1, "asked again after {garbage}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_the_clients_connection_so_that_it_knows() {
    for (answer, whole) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "abc"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "3\r\nabc\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
            "3\r\nabc\r\n",
        ),
    ] {
        let mut scene = Scene::new(1);
        scene.plays(0, move |_, mut stream| async move {
            request(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let mut client = scene.client();
        client.send(GET).await;
        let got = client.rest().await;
        assert!(got.starts_with("HTTP/1.1 200 OK"), "{got}");
        assert!(got.ends_with(whole), "{got}");
    }
}

#[tokio::test]
async fn what_comes_after_the_announced_length_is_nobodys_answer() {
    let scene =
        Scene::saying("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 EVIL\r\n\r\n");
    let mut client = scene.client();
    for _ in 0..3 {
        client.send(GET).await;
        let answer = client.until("ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(!answer.contains("EVIL"), "{answer}");
    }
}

#[tokio::test]
async fn one_that_hangs_before_its_answer_is_a_504() {
    let mut scene = Scene::new(1);
    scene.app.answer_timeout = QUICK;
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        // The front lets go of it.
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    });
    let status = scene.client().status().await;
    assert_eq!(status, "HTTP/1.1 504 Gateway Timeout");
}

#[tokio::test]
async fn one_that_hangs_in_its_answer_ends_it() {
    let mut scene = Scene::new(1);
    scene.app.stall_timeout = QUICK;
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
        stream.write_all(begin).await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    });
    let mut client = scene.client();
    client.send(GET).await;
    assert!(client.rest().await.ends_with("abc"));
}

#[tokio::test]
async fn one_that_never_reads_the_request_takes_no_memory_and_is_a_504() {
    let mut scene = Scene::new(1);
    scene.app.answer_timeout = QUICK;
    scene.plays(0, |_, stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    });
    let mut client = scene.client();
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
        .await;
    let (mut reader, mut writer) = client.0.into_split();
    let upload = tokio::spawn(async move {
        let chunk = vec![b'x'; 64 * 1024];
        let mut sent = 0;
        while writer.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let mut head = vec![0; 64];
    timeout(SOON, reader.read_exact(&mut head))
        .await
        .unwrap()
        .unwrap();
    assert!(head.starts_with(b"HTTP/1.1 504 "));
    drop(reader);
    upload.abort();
    if let Ok(sent) = upload.await {
        assert!(sent < 4 << 20, "{sent} bytes are somewhere");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_application_up_and_not_our_memory() {
    let mut scene = Scene::new(1);
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    scene.app.stall_timeout = Duration::from_secs(60);
    scene.plays(0, move |_, mut stream| {
        let told = told.clone();
        async move {
            request(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let chunk = vec![b'x'; 64 * 1024];
            while stream.write_all(&chunk).await.is_ok() {
                let _ = told.send(chunk.len());
            }
        }
    });
    let mut client = scene.client();
    client.send(GET).await;
    client.until("\r\n\r\n").await;
    let mut flood = 0;
    while let Ok(Some(n)) = timeout(Duration::from_millis(300), hears.recv()).await {
        flood += n;
        assert!(flood < 8 << 20, "{flood} bytes are somewhere");
    }
    assert!(flood > 0);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_kept_is_not_a_502() {
    let mut scene = Scene::new(1);
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    });
    let mut client = scene.client();
    for _ in 0..20 {
        client.ok().await;
    }
    assert_eq!(scene.accepted(), 20);
}

#[tokio::test]
async fn a_request_that_was_never_read_goes_out_again() {
    let mut scene = Scene::new(1);
    // The kept connection is closed the moment the next request is there, unread.
    scene.plays(0, |number, mut stream| async move {
        request(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        if number == 0 {
            stream.readable().await.unwrap();
            while stream.try_read(&mut []).is_err() {
                stream.readable().await.unwrap();
            }
        } else {
            request(&mut stream).await;
        }
    });
    let mut client = scene.client();
    for _ in 0..2 {
        client.ok().await;
    }
    assert_eq!(scene.accepted(), 2);
}

#[tokio::test]
async fn a_request_that_was_read_never_goes_out_again() {
    for request_text in [
        "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab",
    ] {
        let mut scene = Scene::new(1);
        scene.plays(0, |_, mut stream| async move {
            request(&mut stream).await;
        });
        let mut client = scene.client();
        client.send(request_text).await;
        let answer = client.until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
        assert_eq!(scene.accepted(), 1);
    }
}

#[tokio::test]
async fn a_body_that_was_begun_never_goes_out_again() {
    let mut scene = Scene::new(1);
    // Unread bytes are left: of a request with a body that proves nothing.
    scene.plays(0, |_, mut stream| async move {
        stream.read_exact(&mut [0; 60]).await.unwrap();
    });
    let mut client = scene.client();
    client
        .send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200\r\n\r\n")
        .await;
    client.send(&"x".repeat(200)).await;
    let answer = client.until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
    assert_eq!(scene.accepted(), 1);
}

/// That something of a request was unread does not say that nothing was read.
#[tokio::test]
async fn what_a_new_connection_was_closed_on_goes_out_again_once_if_it_may_be_repeated() {
    for (method, times) in [("GET", 2), ("DELETE", 2), ("POST", 1)] {
        let mut scene = Scene::new(1);
        scene.plays(0, |_, mut stream| async move {
            stream.read_exact(&mut [0; 10]).await.unwrap();
        });
        let mut client = scene.client();
        client
            .send(&format!("{method} / HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let answer = client.until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway"), "{answer}");
        assert_eq!(scene.accepted(), times, "{method}");
    }
}

/// As many as are kept: each of them could have begun.
#[tokio::test]
async fn what_was_unread_on_one_kept_connection_is_not_tried_on_the_next_one() {
    let mut scene = Scene::new(1);
    let begun = Arc::new(AtomicUsize::new(0));
    let all = Arc::new(tokio::sync::Barrier::new(4));
    let count = Arc::clone(&begun);
    scene.plays(0, move |number, mut stream| {
        let (count, all) = (Arc::clone(&count), Arc::clone(&all));
        async move {
            request(&mut stream).await;
            if number < 4 {
                all.wait().await;
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
            if stream.read_exact(&mut [0; 10]).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut clients = scene.clients(4);
    for client in &mut clients {
        client.send(GET).await;
    }
    for client in &mut clients {
        client.until("ok").await;
    }
    clients[0].ok().await;
    assert_eq!(begun.load(Ordering::Relaxed), 1);
    assert_eq!(scene.accepted(), 5);
}

#[tokio::test]
async fn clients_wait_for_an_application_that_starts_again() {
    let mut scene = Scene::new(1);
    let mut client = scene.client();
    let asked = tokio::spawn(async move { client.status().await });
    tokio::task::yield_now().await;
    scene.plays(0, |_, mut stream| async move {
        request(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
    });
    assert_eq!(asked.await.unwrap(), "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn one_that_does_not_come_back_is_a_503_that_says_when_to_ask_again() {
    let mut scene = Scene::new(1);
    scene.app.connect_timeout = QUICK;
    let mut client = scene.client();
    client.send(GET).await;
    let answer = client.until("\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 503 Service Unavailable"),
        "{answer}"
    );
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
}

/// It was read by a task of its own, which may not have run since something came.
#[tokio::test]
async fn a_connection_whose_answer_began_before_the_request_had_ended_is_not_used_again() {
    let mut scene = Scene::new(1);
    scene.plays(0, |number, mut stream| async move {
        if number == 0 {
            let begins = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no";
            stream.read_exact(&mut [0; 10]).await.unwrap();
            stream.write_all(begins).await.unwrap();
            let mut all = Vec::new();
            while !all.ends_with(b"zz") {
                stream.read_buf(&mut all).await.unwrap();
            }
            stream.write_all(b"k").await.unwrap();
        }
        while request(&mut stream).await.is_some() {
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    let mut client = scene.client();
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n";
    client.send(head).await;
    client.until("\r\n\r\no").await;
    client.send("zz").await;
    client.until("k").await;
    client.ok().await;
    assert_eq!(scene.accepted(), 2);
}

#[tokio::test]
async fn an_instance_that_is_away_is_left_out() {
    let mut scene = Scene::new(3);
    for instance in [0, 2] {
        scene.plays(instance, |_, mut stream| async move {
            while request(&mut stream).await.is_some() {
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        });
    }
    for mut client in scene.clients(12) {
        assert_eq!(client.status().await, "HTTP/1.1 200 OK");
    }
}

#[tokio::test]
async fn an_instance_that_does_not_answer_is_left_out_for_a_while() {
    let mut scene = Scene::new(2);
    // Long enough for the one that answers.
    scene.app.answer_timeout = 5 * QUICK;
    scene.plays(0, |_, mut stream| async move {
        while request(&mut stream).await.is_some() {}
    });
    scene.plays(1, |_, mut stream| async move {
        while request(&mut stream).await.is_some() {
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    let mut client = scene.client();
    let mut late = 0;
    for _ in 0..6 {
        let status = client.status().await;
        late += usize::from(status == "HTTP/1.1 504 Gateway Timeout");
    }
    assert_eq!(late, 1);
}

#[tokio::test]
async fn requests_are_dealt_evenly_by_what_each_instance_has() {
    let mut scene = Scene::new(3);
    scene.app.answer_timeout = SOON;
    let counts: [Arc<AtomicUsize>; 3] = Default::default();
    for (instance, count) in counts.iter().enumerate() {
        let count = Arc::clone(count);
        scene.plays(instance, move |_, mut stream| {
            let count = Arc::clone(&count);
            async move {
                request(&mut stream).await;
                count.fetch_add(1, Ordering::Relaxed);
                // Never answered: each request is one more that the instance has.
                let _ = stream.read(&mut [0; 1]).await;
            }
        });
    }
    let mut clients = scene.clients(30);
    for client in &mut clients {
        client.send(GET).await;
    }
    let dealt = || counts.each_ref().map(|n| n.load(Ordering::Relaxed));
    let all = async {
        while dealt().iter().sum::<usize>() < 30 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, all).await.unwrap();
    assert_eq!(dealt(), [10, 10, 10]);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let mut scene = Scene::new(1);
    scene.app.answer_timeout = SOON;
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    scene.plays(0, move |_, mut stream| {
        let told = told.clone();
        async move {
            request(&mut stream).await;
            let _ = told.send("read");
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
            let _ = told.send("gone");
        }
    });
    let mut client = scene.client();
    client.send(GET).await;
    assert_eq!(timeout(SOON, hears.recv()).await.unwrap(), Some("read"));
    drop(client);
    assert_eq!(timeout(SOON, hears.recv()).await.unwrap(), Some("gone"));
}

#[tokio::test]
async fn connect_is_refused() {
    let scene = Scene::saying(OK);
    let mut client = scene.client();
    client
        .send("CONNECT other:443 HTTP/1.1\r\nhost: other:443\r\n\r\n")
        .await;
    let answer = client.until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request"), "{answer}");
    assert_eq!(scene.accepted(), 0);
}

/// In a worker that drains: where it is told to go.
#[tokio::test]
async fn what_an_application_was_not_given_goes_to_the_owners() {
    let told = |scene: &Scene, owners: &Scene| {
        let at = owners.paths.iter().cloned().map(Upstream::Unix).collect();
        scene.owners.tell(at);
    };
    let owners = Scene::saying(OK);
    let dead = Scene::new(1);
    // One that takes nobody, with its queue full.
    let full = Scene::new(1);
    let listener = std::os::unix::net::UnixListener::bind(&full.paths[0]).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _queued = std::os::unix::net::UnixStream::connect(&full.paths[0]).unwrap();
    for mut scene in [dead, full] {
        scene.app.connect_timeout = 6 * SOON;
        let mut clients = scene.clients(2);
        let (before, after) = clients.split_at_mut(1);
        before[0].send(GET).await;
        let waits = timeout(Duration::from_millis(50), before[0].until("ok")).await;
        assert!(waits.is_err(), "{waits:?}");
        told(&scene, &owners);
        before[0].until("ok").await;
        after[0].ok().await;
    }
    // Nobody goes there whose own application answers.
    let accepted = owners.accepted();
    let scene = Scene::saying(OK);
    told(&scene, &owners);
    scene.client().ok().await;
    assert_eq!((scene.accepted(), owners.accepted()), (1, accepted));
}
