//! The front against an application that is played word by word: every way in which one can be
//! wrong is bounded, told, and never the client's riddle.

mod again;
mod bad;
mod instances;
mod passed_on;

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
