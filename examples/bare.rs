//! `hello` without the library, for `benches/throughput`: hyper with a single-thread runtime, and
//! either the same router or a bare function; or `axum::serve` with a thread a core.
//! `bare 127.0.0.1:8080 router|function|axum`.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::serve::ListenerExt as _;
use axum::{Router, routing::get};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let address: SocketAddr = args
        .next()
        .and_then(|a| a.parse().ok())
        .expect("an address");
    let how = args.next().unwrap_or_default();
    if how == "axum" {
        return axum_serve(address);
    }
    let routed = how == "router";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let app = hello_router();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let io = TokioIo::new(stream);
            if routed {
                let service = TowerToHyperService::new(app.clone());
                tokio::spawn(
                    http1::Builder::new()
                        .serve_connection(io, service)
                        .with_upgrades(),
                );
            } else {
                let service = service_fn(hello);
                tokio::spawn(
                    http1::Builder::new()
                        .serve_connection(io, service)
                        .with_upgrades(),
                );
            }
        }
    })
}

fn hello_router() -> Router {
    Router::new().route("/", get(|| async { "hello\n" }))
}

fn axum_serve(address: SocketAddr) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "what the library is measured against"
        )]
        axum::serve(listener, hello_router()).await
    })
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"hello\n")));
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, plain);
    Ok(response)
}
