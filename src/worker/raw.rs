//! Protocols of an application's own: it is given each connection, or the socket where datagrams come
//! in. A drain waits for it as for a request, and counts it.

use std::collections::HashMap;
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;

use super::Worker;
use super::connection::Connection;
use super::proxied;
use super::stream::{Peer, Stream};
use crate::context::Context;
use crate::sys::runtime;

/// What a listener's application is given, non-blocking: `tokio::net::TcpStream::from_std` and the
/// like take it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Socket {
    /// One connection.
    Tcp(TcpStream),
    /// One connection of a process of this host.
    Unix(UnixStream),
    /// Where all datagrams come in: once in every worker. Another generation may have it at the same
    /// time.
    Udp(UdpSocket),
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves one socket.
#[derive(Clone)]
pub struct Handler(Arc<dyn Fn(Socket, Context) -> Serving + Send + Sync>);

/// By the names of their listeners.
pub type Handlers = Arc<HashMap<String, Handler>>;

impl Handler {
    /// Of a function.
    pub fn new<F, S>(serve: F) -> Self
    where
        F: Fn(Socket, Context) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(move |socket, context| {
            Box::pin(serve(socket, context))
        }))
    }
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handler")
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(mut connection: Connection, handler: Handler, worker: Arc<Worker>) {
    if connection.proxy_header_due {
        match proxied::read(&mut connection.stream, worker.http.header_timeout).await {
            Ok(Some(client)) => connection.peer = Peer::Tcp(client),
            Ok(None) => {}
            Err(e) => return proxied::refuse(&connection, &e),
        }
    }
    let Connection {
        stream,
        gate,
        live,
        served,
        peer,
        ..
    } = connection;
    let context = worker.application.at(&served.name, peer);
    match socket(stream) {
        Ok(socket) => (handler.0)(socket, context).await,
        Err(e) => tracing::debug!(listener = served.name, "a connection is lost: {e}"),
    }
    drop((gate, live));
}

fn socket(stream: Stream) -> io::Result<Socket> {
    Ok(match stream {
        Stream::Tcp(stream) => Socket::Tcp(stream.into_std()?),
        Stream::Unix(stream) => Socket::Unix(stream.into_std()?),
        // No such listener speaks TLS.
        Stream::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
    })
}

/// Gives the application the socket of its datagrams. It counts as a connection until it is done.
pub(super) fn serve_datagrams(name: &str, fd: OwnedFd, handler: &Handler, worker: &Arc<Worker>) {
    let counted = worker.connections.enter(false);
    let socket = Socket::Udp(fd.into());
    let serving = (handler.0)(socket, worker.application.on(name));
    runtime::spawn(async move {
        serving.await;
        drop(counted);
    });
}
