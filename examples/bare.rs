//! `hello` without the library, for `benches/throughput`: hyper with the same runtime, and either
//! the same router or a bare function. `bare 127.0.0.1:8080 router|function`.

use std::convert::Infallible;
use std::net::SocketAddr;

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
    let routed = args.next().is_some_and(|how| how == "router");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let app = Router::new().route("/", get(|| async { "hello\n" }));
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

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"hello\n")));
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, plain);
    Ok(response)
}
