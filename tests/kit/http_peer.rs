//! An honest HTTP server in the test's own process.
//!
//! It reads every request's body before the handler sees it: plain hyper closes a connection,
//! unannounced, when a handler ignored a body that was still on its way.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::sync::oneshot;

use super::client::Target;

/// A server that serves until it is dropped.
#[derive(Debug)]
pub struct Peer {
    /// Where it listens.
    pub target: Target,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Serves `router` on a TCP port that is free.
    pub fn tcp(router: Router) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("not blocking");
        Self::start(address.into(), async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, router.layer(middleware::from_fn(read_all))).await
        })
    }

    /// Serves `router` on a Unix socket.
    pub fn unix(path: PathBuf, router: Router) -> Self {
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a new socket");
        listener.set_nonblocking(true).expect("not blocking");
        Self::start(path.into(), async move {
            let listener = tokio::net::UnixListener::from_std(listener).expect("a listener");
            axum::serve(listener, router.layer(middleware::from_fn(read_all))).await
        })
    }

    fn start(
        target: Target,
        serve: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("peer".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime for the peer");
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        served = serve => served.expect("the peer serves for ever"),
                    }
                });
            })
            .expect("a thread for the peer");
        Self {
            target,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn read_all(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(bytes) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}
