//! `hello` without the library, for `benches/throughput` and `benches/secure`: hyper with a single-thread
//! runtime, and either the same router (with HTTP/2 as well) or a bare function; or `axum::serve` with a
//! thread a core. `bare 127.0.0.1:8080 router|function|http2|axum [DIRECTORY]`: over TLS, by tokio-rustls,
//! with `localhost.crt` and `localhost.key` of that directory.
//! Asked for a `Service`'s commands instead of an address, it is that router as the library serves it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use axum::serve::ListenerExt as _;
use axum::{Router, routing::get};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn main() -> std::io::Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let Some(address) = args.next().and_then(|a| a.parse().ok()) else {
        let service = handover::Service::new("bare").version(env!("CARGO_PKG_VERSION"));
        return Ok(service.http("http", "127.0.0.1:8080", router()).run());
    };
    let how = args.next().unwrap_or_default();
    if how == "axum" {
        axum_serve(address)?;
        return Ok(ExitCode::SUCCESS);
    }
    let acceptor = args.next().map(|directory| acceptor(Path::new(&directory)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let app = router();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (how, app, acceptor) = (how.clone(), app.clone(), acceptor.clone());
            tokio::spawn(async move {
                let Some(acceptor) = acceptor else {
                    return serve(&how, app, stream).await;
                };
                if let Ok(tls) = acceptor.accept(stream).await {
                    serve(&how, app, tls).await;
                }
            });
        }
    })
}

async fn serve<S>(how: &str, app: Router, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let http1 = http1::Builder::new();
    let service = TowerToHyperService::new(app);
    // A client that goes away is no error of ours.
    let _ = match how {
        "function" => {
            let served = http1.serve_connection(io, service_fn(hello));
            served.with_upgrades().await
        }
        "http2" => {
            let served = http2::Builder::new(TokioExecutor::new());
            served.serve_connection(io, service).await
        }
        _ => http1.serve_connection(io, service).with_upgrades().await,
    };
}

/// TLS as tokio-rustls does it.
fn acceptor(directory: &Path) -> TlsAcceptor {
    let file = |name: &str| directory.join(name);
    let certificate = CertificateDer::from_pem_file(file("localhost.crt")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(file("localhost.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn router() -> Router {
    let large = Bytes::from(vec![b'l'; 1 << 20]);
    Router::new()
        .route("/", get(|| async { "hello\n" }))
        .route("/large", get(|| async move { large }))
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
        axum::serve(listener, router()).await
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
