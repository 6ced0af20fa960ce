//! The client against real Unix sockets: our own server with a scripted driver behind it, and
//! servers that hang, die or talk nonsense.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::api::{Event, Last, Outcome, Status, Until, UpgradeOrder};
use crate::cli::args::{Upgrade, Wait};
use crate::cli::status::tests::{ended, probation, serving};
use crate::master::control::{self, Access, Answer, Figures, Limits, Order, Peer, Request};
use crate::sys::helper;

mod followed;
mod hostile;
mod ordered;
mod shown;
mod silent;

/// A service's directories, and what a client printed.
struct Place {
    dir: tempfile::TempDir,
    out: Buffer,
    err: Buffer,
    patience: Patience,
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const PATIENCE: Patience = Patience {
    answer: Duration::from_secs(5),
    gap: Duration::from_millis(200),
    learn: Duration::from_millis(300),
    retry: Duration::from_millis(10),
    look: Duration::from_secs(60),
    reclaim: Duration::from_secs(5),
};

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            out: Buffer::default(),
            err: Buffer::default(),
            patience: PATIENCE,
        }
    }

    /// With an owner that does not answer.
    fn hasty() -> Self {
        let mut place = Self::new();
        place.patience.answer = Duration::from_millis(500);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn listener(&self) -> std::os::unix::net::UnixListener {
        let listener = std::os::unix::net::UnixListener::bind(self.path("control.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    /// What the client's exit code is.
    async fn ask(&self, ask: Ask) -> u8 {
        self.ask_with(ask, &|_| panic!("nothing to install")).await
    }

    async fn ask_with(&self, ask: Ask, put: &Put<'_>) -> u8 {
        let globals = Globals {
            runtime_dir: Some(self.dir.path().to_owned()),
            state_dir: Some(self.dir.path().to_owned()),
            ..Globals::default()
        };
        let env = Env::default();
        let client = Client::new("handover", "handover", &globals, &env, installation(put))
            .patience(self.patience);
        let mut screen = Screen::to(
            "handover",
            Box::new(self.out.clone()),
            Box::new(self.err.clone()),
        );
        within(client.perform(&ask, &mut screen)).await
    }

    fn record(&self, last: &Last) {
        let line = serde_json::to_string(last).unwrap() + "\n";
        std::fs::write(self.path("history.jsonl"), line).unwrap();
    }
}

fn installation<'a>(put: &'a Put<'a>) -> Installation<'a> {
    Installation {
        program: "/usr/lib/handover/bin/handover".into(),
        put,
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .expect("within 10 s")
}

/// A master that answers on the socket.
struct Owner {
    status: watch::Sender<Status>,
    orders: Arc<Mutex<Vec<Order>>>,
    publish: tokio::sync::mpsc::UnboundedSender<Event>,
    served: JoinHandle<()>,
    close: watch::Sender<bool>,
    /// How often the status was asked for.
    asked: watch::Receiver<usize>,
}

impl Owner {
    /// Answers with `status`; `carry_out` gets the orders.
    fn start(
        listener: std::os::unix::net::UnixListener,
        status: Status,
        mut carry_out: impl FnMut(Order, Answer) + Send + 'static,
    ) -> Self {
        let (handle, mut desk) = control::desk();
        let (close, closing) = watch::channel(false);
        let access = Arc::new(Access::new(None));
        let listener = UnixListener::from_std(listener).unwrap();
        let router = control::router(handle);
        let served = control::serve(listener, router, access, Limits::default(), closing);
        let (status, current) = watch::channel(status);
        let (publish, mut published) = tokio::sync::mpsc::unbounded_channel();
        let orders = Arc::new(Mutex::new(Vec::new()));
        let log = orders.clone();
        let (count, asked) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(event) = published.recv() => desk.publish(event),
                    request = desk.next() => match request {
                        Request::Figures(Figures::Status(reply)) => {
                            let status: Status = current.borrow().clone();
                            let _ = reply.send(status);
                            count.send_modify(|n| *n += 1);
                        }
                        Request::Figures(Figures::Metrics(reply)) => drop(reply),
                        Request::Order { order, answer, .. } => {
                            log.lock().unwrap().push(order.clone());
                            carry_out(order, answer);
                        }
                    }
                }
            }
        });
        Self {
            status,
            orders,
            publish,
            served: tokio::spawn(served),
            close,
            asked,
        }
    }

    async fn asked(&self, times: usize) {
        let mut asked = self.asked.clone();
        within(asked.wait_for(|&n| n >= times)).await.unwrap();
    }

    fn deaf(listener: std::os::unix::net::UnixListener, status: Status) -> Self {
        Self::start(listener, status, |order, _| panic!("{order:?}"))
    }

    /// The id the client gave its order.
    fn id(&self) -> String {
        match &self.orders.lock().unwrap()[0] {
            Order::Upgrade(order) | Order::Apply(order) => order.id.clone().unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

fn step(message: &str) -> Event {
    Event::Step {
        id: None,
        generation: 8,
        phase: "launching".into(),
        message: message.into(),
    }
}

fn upgrade(until: Until) -> Ask {
    let mut upgrade = Upgrade::default();
    upgrade.order.until = until;
    Ask::Upgrade(upgrade)
}

fn wait(id: Option<&str>) -> Ask {
    Ask::Wait(Wait {
        id: id.map(str::to_owned),
        ..Wait::default()
    })
}

fn id_of(order: &Order) -> String {
    match order {
        Order::Upgrade(order) | Order::Apply(order) => order.id.clone().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Answers every connection with these bytes, one after the other, the last one for ever.
fn speaking(listener: std::os::unix::net::UnixListener, answers: Vec<&'static str>) {
    let listener = UnixListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let answer = answers[number.min(answers.len() - 1)];
            let _ = stream.write_all(answer.as_bytes()).await;
            number += 1;
        }
    });
}
