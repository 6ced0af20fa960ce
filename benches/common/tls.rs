//! TLS of the benches' own clients: certificates are not checked, for the client is not what is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::process;

/// Believes every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client's; TLS 1.3. `protocol`: of HTTP.
pub fn config(protocol: Option<&str>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = protocol
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    config
}

pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// What a server did in a while.
#[derive(Debug, Clone, Copy)]
pub struct Handshakes {
    /// A second.
    pub rate: f64,
    /// Of the server's processes, one request included.
    pub cpu_each: Duration,
}

/// Clients at a time.
const CLIENTS: usize = 16;

/// Connections that shake hands, ask once and end, for so long; all of them resume, or none. Panics when
/// one did otherwise.
pub fn handshakes(address: SocketAddr, resume: bool, time: Duration, pids: &[u32]) -> Handshakes {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (count, cpu) = runtime.block_on(async {
        // Each keeps its own tickets: a server may give no more than one for one. The first ones are for full
        // handshakes.
        let mut connectors = Vec::new();
        for _ in 0..CLIENTS {
            let mut config = config(None);
            if !resume {
                config.resumption = Resumption::disabled();
            }
            let connector = TlsConnector::from(Arc::new(config));
            once(address, &connector).await;
            connectors.push(connector);
        }
        let before = process::cpu_of(pids);
        let end = Instant::now() + time;
        let mut clients = JoinSet::new();
        for connector in connectors {
            clients.spawn(async move {
                let mut count = 0_u32;
                while Instant::now() < end {
                    let kind = once(address, &connector).await;
                    assert_eq!(kind == Some(HandshakeKind::Resumed), resume, "{kind:?}");
                    count += 1;
                }
                count
            });
        }
        let mut count = 0;
        while let Some(client) = clients.join_next().await {
            count += client.expect("a client did not panic");
        }
        (count, process::cpu_of(pids) - before)
    });
    Handshakes {
        rate: f64::from(count) / time.as_secs_f64(),
        cpu_each: cpu / count.max(1),
    }
}

async fn once(address: SocketAddr, connector: &TlsConnector) -> Option<HandshakeKind> {
    let socket = TcpStream::connect(address).await.expect("a server");
    socket.set_nodelay(true).expect("a socket");
    let mut tls = connector.connect(server_name(), socket).await.expect("TLS");
    let ask = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    tls.write_all(ask).await.expect("a server");
    let mut answer = Vec::new();
    // Not every server says that it closes.
    let _ = tls.read_to_end(&mut answer).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{}",
        answer.escape_ascii()
    );
    tls.get_ref().1.handshake_kind()
}
