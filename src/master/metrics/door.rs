//! What `[metrics] address` listens on, and who answers there.
//!
//! The owner answers. The socket is opened by the first generation and handed over, as the control socket
//! is, so a scrape during an upgrade waits for an instant and is answered by whoever owns the service
//! then. A generation with another address opens its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;

use crate::config::ListenerConfig;
use crate::machine::message::ListenerSource;
use crate::master::answers::Answers;
use crate::master::control;
use crate::sys::listeners::{self, ListenError, Listener, address_matches};
use crate::sys::once::Once;
use crate::sys::runtime;

/// What `[metrics] address` listens on.
#[derive(Debug)]
pub(in crate::master) struct MetricsSocket(Listener);

/// The socket, and who answers on it while this master owns the service.
#[derive(Debug)]
pub(in crate::master) struct MetricsDoor {
    socket: Option<MetricsSocket>,
    handle: control::Handle,
    answers: Answers,
}

/// What is said of it.
const CANNOT: &str = "cannot answer on [metrics] address";
/// A scrape that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Out of descriptors, or the like.
const PAUSE: Duration = Duration::from_millis(100);
/// Scrapes at a time.
const MOST: usize = 16;

impl MetricsSocket {
    /// Opens it, or takes the inherited one if it listens there. `None`: no address, no socket.
    pub(in crate::master) fn open(
        address: &str,
        inherited: Option<OwnedFd>,
    ) -> Result<Option<Self>, ListenError> {
        if address.is_empty() {
            return Ok(None);
        }
        let source = ListenerSource::Own;
        let inherited = inherited
            .and_then(|fd| Listener::from_fd("metrics".into(), source, None, fd).ok())
            .filter(|listener| address_matches(listener, address));
        if let Some(listener) = inherited {
            return Ok(Some(Self(listener)));
        }
        let config = ListenerConfig::new("metrics", Some(address));
        listeners::bind(&config).map(|listener| Some(Self(listener)))
    }

    /// A copy, for a successor.
    pub(in crate::master) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.clone().into_fd()
    }
}

impl MetricsDoor {
    pub(in crate::master) fn new(socket: Option<MetricsSocket>, handle: control::Handle) -> Self {
        Self {
            socket,
            handle,
            answers: Answers::new(CANNOT),
        }
    }

    /// What a configuration with this address listens on.
    pub(in crate::master) fn socket_for(
        &self,
        address: &str,
    ) -> Result<Option<MetricsSocket>, ListenError> {
        let ours = self.socket.as_ref().and_then(|m| m.try_clone().ok());
        MetricsSocket::open(address, ours)
    }

    /// A copy, for a successor.
    pub(in crate::master) fn copy(&self) -> io::Result<Option<OwnedFd>> {
        self.socket
            .as_ref()
            .map(MetricsSocket::try_clone)
            .transpose()
    }

    /// A new configuration counts.
    pub(in crate::master) fn change(&mut self, socket: Option<MetricsSocket>) {
        self.answers.stop();
        self.socket = socket;
    }

    /// Answers on the socket while this master owns the service.
    pub(in crate::master) fn follow(&mut self, owns: bool) {
        let Some(socket) = &self.socket else { return };
        self.answers.follow(owns, || {
            let router = control::metrics_router(self.handle.clone());
            Ok(serve(Accepting::new(socket)?, router))
        });
    }
}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Accepting {
    fn new(socket: &MetricsSocket) -> io::Result<Self> {
        let fd = socket.try_clone()?;
        let unix =
            rustix::net::sockopt::socket_domain(fd.as_fd())? == rustix::net::AddressFamily::UNIX;
        Ok(if unix {
            Self::Unix(UnixListener::from_std(fd.into())?)
        } else {
            Self::Tcp(TcpListener::from_std(fd.into())?)
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn serve(accepting: Accepting, router: Router) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MOST));
    let mut refused = Once::default();
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let router = router.clone();
        // What is accepted is answered, whoever owns the service by then.
        match accepting.accept().await {
            Ok(stream) => {
                refused.over(CANNOT);
                runtime::spawn(async move {
                    scrape(stream, router).await;
                    drop(place);
                });
            }
            Err(e) => {
                refused.failed(CANNOT, &e);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One request: the next one may have to go to another master.
async fn scrape(stream: Box<dyn Stream>, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let _ = timeout(PATIENCE * 2, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_inherited_socket_is_used_while_the_address_stays() {
        let first = MetricsSocket::open("127.0.0.1:0", None).unwrap().unwrap();
        let address = first.0.address().to_string();
        let kept = MetricsSocket::open(&address, first.try_clone().ok()).unwrap();
        assert_eq!(kept.unwrap().0.inode(), first.0.inode());
        let other = MetricsSocket::open("127.0.0.2:0", first.try_clone().ok()).unwrap();
        assert_ne!(other.unwrap().0.inode(), first.0.inode());
        assert!(
            MetricsSocket::open("", first.try_clone().ok())
                .unwrap()
                .is_none()
        );
        let taken = MetricsSocket::open(&address, None);
        assert!(taken.unwrap_err().to_string().contains(&address));
    }
}
