//! A worker in a thread of this process, and its master's side of the channel.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::routing::{any, get, post};
use handover::config::Config;
use handover::machine::link::{FromWorker, Report, Start, ToWorker, WorkerListener};
use handover::sys::channel::Channel;
use handover::worker;

/// A running worker.
#[derive(Debug)]
pub struct TestWorker {
    pub channel: Option<Channel>,
    pub address: SocketAddr,
    pub listener: std::net::TcpListener,
    thread: Option<JoinHandle<ExitCode>>,
}

/// The configuration most tests use.
pub fn config() -> Config {
    Config::default()
}

impl TestWorker {
    /// Starts one that accepts.
    pub async fn start() -> Self {
        Self::with(config()).await
    }

    pub async fn with(config: Config) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut worker = Self::beside(config, listener, 1).await;
        worker.accept().await;
        worker
    }

    /// Starts one over an existing listener; it does not accept yet.
    pub async fn beside(config: Config, listener: std::net::TcpListener, generation: u64) -> Self {
        let (channel, theirs) = Channel::pair().unwrap();
        let thread = std::thread::spawn(move || {
            worker::run(theirs, move |start| {
                Box::pin(async move {
                    let router = application(start.generation);
                    Ok(HashMap::from([("http".to_owned(), router)]))
                })
            })
        });
        let start = Start {
            name: "test".into(),
            generation,
            slot: 0,
            version: "1".into(),
            config,
            listeners: 1,
            handoff: None,
            receives: false,
        };
        channel
            .send(&ToWorker::Start(Box::new(start)), &[])
            .await
            .unwrap();
        let name = WorkerListener {
            name: "http".into(),
            address: "x".into(),
        };
        channel
            .send(
                &ToWorker::Listeners {
                    listeners: vec![name],
                },
                &[listener.as_fd()],
            )
            .await
            .unwrap();
        let worker = Self {
            channel: Some(channel),
            address: listener.local_addr().unwrap(),
            listener,
            thread: Some(thread),
        };
        assert_eq!(worker.hear().await, FromWorker::Ready);
        worker
    }

    pub async fn tell(&self, message: &ToWorker, fds: &[&OwnedFd]) {
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let channel = self.channel.as_ref().unwrap();
        channel.send(message, &fds).await.unwrap();
    }

    pub async fn hear(&self) -> FromWorker {
        let channel = self.channel.as_ref().unwrap();
        let received = channel.recv().await.unwrap().expect("the worker speaks");
        received.decode().unwrap()
    }

    pub async fn accept(&mut self) {
        self.tell(&ToWorker::Accept, &[]).await;
    }

    /// Its figures; also proves that it has heard everything before.
    pub async fn report(&self) -> Report {
        self.tell(&ToWorker::Report, &[]).await;
        match self.hear().await {
            FromWorker::Report(report) => report,
            other => panic!("{other:?}"),
        }
    }

    /// Orders the drain and waits until it has begun.
    pub async fn drain(&self, limit: Option<Duration>) {
        let timeout_ms = limit.map(|l| u64::try_from(l.as_millis()).unwrap());
        self.tell(&ToWorker::Drain { timeout_ms }, &[]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Waits for its last word and its end.
    pub async fn drained(&mut self) -> Report {
        let report = loop {
            match self.hear().await {
                FromWorker::Drained(report) => break report,
                FromWorker::Report(_) => {}
                other => panic!("{other:?}"),
            }
        };
        self.gone().await;
        report
    }

    /// Waits until its thread has ended.
    pub async fn gone(&mut self) {
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap())
            .await
            .unwrap();
    }
}

/// What the workers serve. Every answer names the generation.
pub fn application(generation: u64) -> Router {
    let hello = move || async move { format!("hello from g{generation}") };
    Router::new().route("/hello", get(hello))
}
