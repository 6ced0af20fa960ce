//! HTTP/2, over TLS and with prior knowledge: such a connection moves between two streams, and its client
//! does not notice. It is `h2`'s; it repeats nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use handover::api::Connections;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::kit::service::Service;
use crate::kit::wait::wait_until;
use crate::{begin, begin_with, metric, roll_back, server, upgrade};

/// What all clients have seen.
#[derive(Debug, Default)]
struct Seen {
    stop: AtomicBool,
    answered: AtomicU64,
    /// The server has said that it did not begin with it.
    refused: AtomicU64,
    /// Asked, and not answered whole.
    failed: AtomicU64,
    connections: AtomicU64,
}

/// Streams that one client has open at a time.
const STREAMS: u64 = 8;
const CLIENTS: usize = 4;

/// How a client agrees on TLS.
fn connector(authority: PathBuf) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(authority).expect("a certificate");
    roots.add(certificate).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// A client, over TLS or without; a new connection only when the one before takes no more streams.
async fn client(service: SocketAddr, connector: Option<TlsConnector>, seen: Arc<Seen>) {
    while !seen.stop.load(Relaxed) {
        let socket = TcpStream::connect(service).await.expect("the service");
        seen.connections.fetch_add(1, Relaxed);
        let Some(connector) = &connector else {
            one_connection(socket, &seen).await;
            continue;
        };
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = connector.connect(name, socket).await.expect("TLS");
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        one_connection(tls, &seen).await;
    }
}

async fn one_connection<S>(stream: S, seen: &Arc<Seen>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (asks, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    // Its end is what the streams see.
    let driver = tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for n in 0..STREAMS {
        streams.spawn(ask(n, asks.clone(), Arc::clone(seen)));
    }
    drop(asks);
    while streams.join_next().await.is_some() {}
    drop(driver.await);
}

/// One request after the other, until the connection takes no more.
async fn ask(n: u64, asks: h2::client::SendRequest<bytes::Bytes>, seen: Arc<Seen>) {
    for count in n.. {
        let Ok(mut ready) = asks.clone().ready().await else {
            return;
        };
        if seen.stop.load(Relaxed) {
            return;
        }
        let path = match count % 3 {
            0 => "/",
            1 => "/slow?ms=20",
            _ => "/big?bytes=50000",
        };
        let request = http::Request::get(format!("https://localhost{path}"));
        let request = request.body(()).expect("a request");
        let Ok((answer, _)) = ready.send_request(request, true) else {
            // Nothing was sent.
            return;
        };
        let result = match whole(answer).await {
            Ok(()) => &seen.answered,
            Err(e) if e.is_go_away() && e.is_remote() => &seen.refused,
            Err(_) => &seen.failed,
        };
        result.fetch_add(1, Relaxed);
    }
}

async fn whole(answer: h2::client::ResponseFuture) -> Result<(), h2::Error> {
    let answer = answer.await?;
    assert_eq!(answer.status(), 200);
    let length = answer.headers().get("content-length").cloned();
    let mut body = answer.into_body();
    let mut len = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        len += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    assert_eq!(length, Some(len));
    Ok(())
}

#[test]
fn over_tls_nothing_is_lost_and_nobody_connects_again_in_ten_upgrades_and_ten_rollbacks() {
    let service = begin("tls-h2");
    let authority = service.dir().join("tls/localhost.crt");
    let last = ten_and_ten(&service, Some(&connector(authority)));
    assert_eq!(last.http2.passed, last.tls.passed);
}

#[test]
fn without_tls_nothing_is_lost_and_nobody_connects_again_in_ten_upgrades_and_ten_rollbacks() {
    let service = begin_with("h2c", false);
    let last = ten_and_ten(&service, None);
    assert_eq!(last.tls.passed, 0);
}

/// Ten upgrades, each taken back, under clients that ask all the time; what the last one did with the
/// connections.
fn ten_and_ten(service: &Service, connector: Option<&TlsConnector>) -> Connections {
    let seen = Arc::new(Seen::default());
    let (to, kept) = (server(service), Arc::clone(&seen));
    let connector = connector.cloned();
    let clients = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..CLIENTS {
                clients.spawn(client(to, connector.clone(), Arc::clone(&kept)));
            }
            while let Some(client) = clients.join_next().await {
                client.expect("a client");
            }
        });
    });
    let more = |what: &str| {
        let before = seen.answered.load(Relaxed);
        wait_until(what, || seen.answered.load(Relaxed) > before + 200);
    };
    more("the first answers");
    for round in 0..10 {
        for (change, name) in [
            (upgrade as fn(&Service), "upgrade"),
            (roll_back, "rollback"),
        ] {
            let before = passed(service);
            change(service);
            more(&format!("answers after {name} {round}"));
            // All of them, and none twice.
            let all = before + CLIENTS as u64;
            wait_until(&format!("moves of {name} {round}"), || {
                passed(service) >= all
            });
            assert_eq!(passed(service), all, "{name} {round}");
        }
    }
    seen.stop.store(true, Relaxed);
    clients.join().expect("the clients");
    assert_eq!(seen.failed.load(Relaxed), 0, "{seen:?}");
    // The first GOAWAY leaves time for what is on its way.
    assert_eq!(seen.refused.load(Relaxed), 0, "{seen:?}");
    // Nobody was told to come again.
    let opened = seen.connections.load(Relaxed);
    assert_eq!(opened, CLIENTS as u64, "{seen:?}");
    let status = service.status().expect("a status");
    status.last.expect("an upgrade").connections
}

/// HTTP/2 connections that were passed on so far, by all generations.
fn passed(service: &Service) -> u64 {
    metric(service, "handover_http2_drained_total{result=\"passed\"}")
}
