//! One connection of a client, and what a test waits for.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longer than anything here takes.
pub const SOON: Duration = Duration::from_secs(20);

/// A keep-alive connection.
pub struct Client(SendRequest<Body>);

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self(sender)
    }

    /// The answer's head.
    pub async fn ask(&mut self, method: &str, path: &str) -> Response<Incoming> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("host", "test").body(Body::empty()).unwrap();
        soon(self.0.send_request(request)).await.unwrap()
    }

    pub async fn get(&mut self, path: &str) -> String {
        let answer = self.ask("GET", path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        text(answer).await
    }
}

pub async fn text(answer: Response<Incoming>) -> String {
    let bytes = soon(answer.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub async fn soon<F: Future>(what: F) -> F::Output {
    let in_time = tokio::time::timeout(SOON, what).await;
    in_time.expect("it takes too long")
}
