//! `[upgrade] health`: a path that must answer before the takeover and during the probation.
//!
//! Every worker is asked, over a socket pair of its own: nothing is accepted for it, so a worker
//! that waits for the takeover can be asked too. An answer of 2xx or 3xx is good health.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::input::Input;
use crate::machine::Event;
use crate::sys::runtime;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two questions before the takeover, and in the probation.
const WARMING: Duration = Duration::from_millis(100);
const WATCHING: Duration = Duration::from_secs(1);
/// In the probation so many bad answers in a row are bad health.
const FORGIVEN: u32 = 2;

/// The check under way, if there is one.
#[derive(Debug)]
pub(super) struct Health {
    post: mpsc::Sender<Input>,
    /// Dropped, it ends.
    check: JoinSet<()>,
}

impl Health {
    pub(super) fn new(post: mpsc::Sender<Input>) -> Self {
        let check = JoinSet::new();
        Self { post, check }
    }

    /// Before the takeover: says that the workers are in good health, or, shortly before `limit`, that
    /// they are not.
    pub(super) fn check_once(&mut self, path: Option<&String>, limit: Duration) {
        self.end();
        if let Some(path) = path.cloned() {
            let check = before_takeover(path, limit, self.post.clone());
            self.check.spawn(runtime::task(check));
        }
    }

    /// From now on, while the workers prove themselves.
    pub(super) fn watch(&mut self, path: Option<&String>) {
        self.end();
        if let Some(path) = path.cloned() {
            let check = in_probation(path, self.post.clone());
            self.check.spawn(runtime::task(check));
        }
    }

    pub(super) fn end(&mut self) {
        self.check = JoinSet::new();
    }
}

async fn before_takeover(path: String, limit: Duration, post: mpsc::Sender<Input>) {
    let last = Instant::now() + limit.mul_f32(0.9);
    let event = loop {
        match ask_all(&path, &post).await {
            Ok(()) => break Event::Healthy,
            Err(why) if Instant::now() >= last => {
                break Event::WorkersFailed(format!("health check {path}: {why}"));
            }
            Err(_) => sleep(WARMING).await,
        }
    };
    let _ = post.send(Input::Event(event)).await;
}

async fn in_probation(path: String, post: mpsc::Sender<Input>) {
    let mut bad = 0;
    loop {
        sleep(WATCHING).await;
        match ask_all(&path, &post).await {
            Ok(()) => bad = 0,
            Err(_) if bad < FORGIVEN => bad += 1,
            Err(why) => {
                // Said again while it lasts: a trial begins anew each time.
                bad = 0;
                let why = format!("health check {path}: {why}");
                let _ = post.send(Input::Event(Event::Unhealthy(why))).await;
            }
        }
    }
}

async fn ask_all(path: &str, post: &mpsc::Sender<Input>) -> Result<(), String> {
    let (reply, streams) = oneshot::channel();
    // Dropped with the question when the master is leaving.
    let _ = post.send(Input::Probe(reply)).await;
    let streams: Vec<(u32, StdStream)> = streams
        .await
        .map_err(|_| "the master is leaving".to_owned())?;
    if streams.is_empty() {
        return Err("no worker can be asked".into());
    }
    for (pid, stream) in streams {
        match timeout(PATIENCE, ask(path, stream)).await {
            Ok(Ok(200..=399)) => {}
            Ok(Ok(status)) => return Err(format!("worker {pid} answered {status}")),
            Ok(Err(e)) => return Err(format!("worker {pid}: {e}")),
            Err(_) => return Err(format!("worker {pid} did not answer within {PATIENCE:?}")),
        }
    }
    Ok(())
}

/// The status of the answer.
async fn ask(path: &str, stream: StdStream) -> io::Result<u16> {
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: handover-health\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // The status line is enough, but a client that leaves in the middle is rude.
    stream.take(1024 * 1024).read_to_end(&mut answer).await?;
    let line = answer.split(|b| *b == b'\r').next().unwrap_or_default();
    std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
        .ok_or_else(|| io::Error::other("it answered something that is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bad_health_is_said_again_as_long_as_it_lasts() {
        let (post, mut inbox) = mpsc::channel(8);
        let mut health = Health::new(post);
        health.watch(Some(&"/".to_owned()));
        let (mut asked, mut said) = (0, 0);
        while said < 3 {
            match inbox.recv().await.expect("the check goes on") {
                Input::Probe(reply) => {
                    asked += 1;
                    reply.send(Vec::new()).expect("somebody waits");
                }
                Input::Event(Event::Unhealthy(_)) => said += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(asked, said * (FORGIVEN + 1));
    }
}
