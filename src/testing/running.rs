//! A service that runs in this process: its masters' part, played by one thread.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use super::generation::Generation;
use super::handoff::Door;
use crate::context::DrainReason;
use crate::machine::link::Report;
use crate::service::Service;

/// A service under test. Its generations are threads; dropping it ends them.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<(String, SocketAddr)>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    /// Dropped to say that nobody waits any longer.
    alive: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What became of the connections of generations that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Passed on to the next generation, live.
    pub passed: u64,
    /// Ended by themselves.
    pub finished: u64,
    /// Cut when the time was up.
    pub cut: u64,
}

/// Why a test cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// The kernel refused something.
    #[error("cannot run a service in this process: {0}")]
    Io(#[from] io::Error),
    /// The new generation is not ready; the one before serves on.
    #[error("the new generation is not ready: {0}")]
    NotReady(String),
    /// There is no generation to go back to.
    #[error("there is no generation before this one")]
    NothingBefore,
    /// [`Context::irreversible`](crate::Context::irreversible).
    #[error("the application says that there is no way back: {0}")]
    Irreversible(String),
    /// The configuration or the arguments of [`started_with`].
    #[error("{0}")]
    Start(String),
    /// All generations have ended.
    #[error("the service has stopped")]
    Stopped,
}

/// A service as if it had been started with this text for its configuration file and with these
/// arguments: `started_with(service(), "[application]\ngreeting = \"hi\"", &["--loud"])`.
///
/// # Errors
/// What `check` would say.
pub fn started_with(
    service: Service,
    configuration: &str,
    arguments: &[&str],
) -> Result<Service, TestError> {
    let directory = temporary_directory()?;
    let file = directory.join("test.toml");
    let service = std::fs::write(&file, configuration)
        .map_err(TestError::Io)
        .and_then(|()| {
            let started = service.started_with(&file, arguments);
            started.map_err(|e| TestError::Start(e.to_string()))
        });
    let _ = std::fs::remove_dir_all(&directory);
    service
}

fn free_port(datagrams: bool) -> io::Result<(OwnedFd, SocketAddr)> {
    const ANY: &str = "127.0.0.1:0";
    if datagrams {
        let socket = UdpSocket::bind(ANY)?;
        let address = socket.local_addr()?;
        return Ok((socket.into(), address));
    }
    let socket = TcpListener::bind(ANY)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok((socket.into(), address))
}

fn temporary_directory() -> io::Result<PathBuf> {
    let template = std::env::temp_dir().join("handover-test-XXXXXX");
    Ok(nix::unistd::mkdtemp(&template)?)
}

enum Order {
    Upgrade(Box<Service>, oneshot::Sender<Result<u64, TestError>>),
    Rollback(oneshot::Sender<Result<u64, TestError>>),
    Drained(oneshot::Sender<Ended>),
    Stop(oneshot::Sender<Ended>),
}

impl Running {
    /// Starts the first generation; returns when it accepts. Every listener is at a free port of
    /// 127.0.0.1, whatever its address is; no configuration file is read.
    ///
    /// # Errors
    /// The service's own: an application that could not be made.
    pub async fn start(service: Service) -> Result<Self, TestError> {
        let mut listeners: Vec<(String, OwnedFd)> = Vec::new();
        let mut addresses = Vec::new();
        for listener in &service.defaults.listeners {
            let address = listener.address.as_deref().unwrap_or_default();
            let (socket, address) = free_port(address.starts_with("udp:"))?;
            addresses.push((listener.name.clone(), address));
            listeners.push((listener.name.clone(), socket));
        }
        let directory = temporary_directory()?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let (answer, started) = oneshot::channel();
        let (alive, dropped) = oneshot::channel();
        let _ = orders.send(Order::Upgrade(Box::new(service), answer));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name("master".into())
            .spawn(move || {
                runtime.block_on(live(listeners, directory, inbox, dropped));
            })?;
        let running = Self {
            addresses,
            orders: Some(orders),
            alive: Some(alive),
            thread: Some(thread),
        };
        started.await.unwrap_or(Err(TestError::Stopped))?;
        Ok(running)
    }

    /// Where a listener listens.
    #[must_use]
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        let found = self.addresses.iter().find(|(name, _)| name == listener);
        found.map(|(_, address)| *address)
    }

    /// A next generation starts, takes over, and the one before drains: as `upgrade` does. It may be
    /// the same program. Returns its number when it accepts; the drain goes on.
    ///
    /// # Errors
    /// [`TestError::NotReady`] when its application cannot be made; nothing has changed then.
    pub async fn upgrade(&mut self, next: Service) -> Result<u64, TestError> {
        self.ask(|answer| Order::Upgrade(Box::new(next), answer))
            .await
            .unwrap_or(Err(TestError::Stopped))
    }

    /// The generation before starts workers again, takes the service back, and the newest one
    /// drains: as `rollback` does. Returns the number of the one that serves now.
    ///
    /// # Errors
    /// [`TestError::NothingBefore`], [`TestError::Irreversible`]; or its application cannot be made a second time.
    pub async fn rollback(&mut self) -> Result<u64, TestError> {
        self.ask(Order::Rollback)
            .await
            .unwrap_or(Err(TestError::Stopped))
    }

    /// Waits until nobody drains any longer. What became of the connections of all that have ended
    /// so far.
    pub async fn drained(&mut self) -> Ended {
        self.ask(Order::Drained).await.unwrap_or_default()
    }

    /// Drains the generation that serves and waits for its end and all others'.
    pub async fn stop(self) -> Ended {
        self.ask(Order::Stop).await.unwrap_or_default()
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.orders.as_ref()?.send(order(answer)).ok()?;
        answered.await.ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.orders = None;
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upgrade(..) => "Upgrade",
            Self::Rollback(_) => "Rollback",
            Self::Drained(_) => "Drained",
            Self::Stop(_) => "Stop",
        })
    }
}

/// The generations there are.
struct Masters {
    /// Where their locks are.
    runtime: PathBuf,
    listeners: Vec<(String, OwnedFd)>,
    serving: Option<Generation>,
    /// Numbers and programs of those that a rollback can go to.
    before: Vec<(u64, Arc<Service>)>,
    draining: Vec<Generation>,
    door: Option<Door>,
    newest: u64,
    ended: Ended,
}

async fn live(
    listeners: Vec<(String, OwnedFd)>,
    runtime: PathBuf,
    mut inbox: mpsc::UnboundedReceiver<Order>,
    mut dropped: oneshot::Receiver<()>,
) {
    let mut masters = Masters {
        runtime,
        listeners,
        serving: None,
        before: Vec::new(),
        draining: Vec::new(),
        door: None,
        newest: 0,
        ended: Ended::default(),
    };
    while let Some(order) = inbox.recv().await {
        tokio::select! {
            biased;
            // Nobody waits for anything any longer.
            _ = &mut dropped => break,
            () = masters.obey(order) => {}
        }
    }
    masters.end().await;
}

impl Masters {
    async fn obey(&mut self, order: Order) {
        // That nobody waits for an answer any longer changes nothing.
        match order {
            Order::Upgrade(next, answer) => {
                let _ = answer.send(self.upgrade(Arc::new(*next)).await);
            }
            Order::Rollback(answer) => {
                let _ = answer.send(self.rollback().await);
            }
            Order::Drained(answer) => {
                let _ = answer.send(self.drained().await);
            }
            Order::Stop(answer) => {
                if let Some(last) = self.serving.take() {
                    let _ = last.drain(DrainReason::Stop).await;
                    self.draining.push(last);
                }
                let _ = answer.send(self.drained().await);
            }
        }
    }

    async fn upgrade(&mut self, next: Arc<Service>) -> Result<u64, TestError> {
        self.newest += 1;
        let next = Generation::start(self.newest, next, &self.listeners, &self.runtime).await?;
        if let Some(before) = &self.serving {
            let parked = (before.number, Arc::clone(&before.service));
            self.before.push(parked);
        }
        self.take_over(next, DrainReason::Upgrade).await
    }

    async fn rollback(&mut self) -> Result<u64, TestError> {
        let serving = self.serving.as_ref();
        if let Some(reason) = serving.and_then(|g| g.irreversible.borrow().clone()) {
            return Err(TestError::Irreversible(reason));
        }
        let (number, service) = self.before.last().ok_or(TestError::NothingBefore)?;
        let back =
            Generation::start(*number, Arc::clone(service), &self.listeners, &self.runtime).await?;
        self.before.pop();
        self.take_over(back, DrainReason::Rollback).await
    }

    /// As masters do: the new one accepts before the other one stops, and takes the connections of
    /// all that drain.
    async fn take_over(&mut self, new: Generation, reason: DrainReason) -> Result<u64, TestError> {
        new.accept().await?;
        let number = new.number;
        match &self.door {
            Some(door) => door.leads_to(new.taker()).await,
            None => self.door = Some(Door::open(&self.runtime, new.taker())?),
        }
        if let Some(old) = self.serving.take() {
            old.drain(reason).await?;
            self.draining.push(old);
        }
        self.serving = Some(new);
        Ok(number)
    }

    async fn drained(&mut self) -> Ended {
        for generation in std::mem::take(&mut self.draining) {
            let report: Report = generation.drained().await;
            self.ended.passed += report.passed;
            self.ended.finished += report.finished;
            self.ended.cut += report.cut;
        }
        self.ended
    }

    async fn end(mut self) {
        for generation in self.serving.take().into_iter().chain(self.draining) {
            generation.end().await;
        }
        let _ = std::fs::remove_dir_all(&self.runtime);
    }
}
