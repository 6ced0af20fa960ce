//! Whether an instance can serve: it answers.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::Upstream;
use crate::sys::runtime;

/// For one answer, at first.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What it answers to a GET of this path; all of the answer is read.
pub(super) async fn ask(
    upstream: &Upstream,
    path: &str,
    limit: Duration,
) -> io::Result<StatusCode> {
    let asked = async {
        match upstream {
            Upstream::Unix(file) => get(UnixStream::connect(file).await?, path).await,
            Upstream::Port(port) => {
                get(
                    TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await?,
                    path,
                )
                .await
            }
        }
    };
    timeout(limit, asked).await.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        let why = format!("no answer within {limit}");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}

async fn get<S>(stream: S, path: &str) -> io::Result<StatusCode>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(path)
        .header("host", "localhost")
        .header("user-agent", "handover-ready")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = runtime::spawn(connection);
    let answered = async {
        let answer = sender.send_request(request).await?;
        let (head, mut body) = answer.into_parts();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(head.status)
    };
    let status = answered
        .await
        .map_err(|e: hyper::Error| io::Error::other(e));
    driver.abort();
    status
}
