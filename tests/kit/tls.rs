//! TLS for clients that speak none: a relay on loopback that opens one TLS connection for every one
//! that comes to it. It retries nothing and hides nothing: what ends on one side ends on the other.
//! And certificates, good ones and bad ones.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// The relay; it ends with the test.
#[derive(Debug)]
pub struct TlsRelay {
    address: SocketAddr,
    figures: Arc<Figures>,
}

/// Of the relay's TLS side.
#[derive(Debug, Default)]
pub struct Figures {
    /// Handshakes from the beginning.
    pub full: AtomicU64,
    /// Handshakes that resumed.
    pub resumed: AtomicU64,
}

impl TlsRelay {
    /// To `server`, whose certificate is in `authority`; with this version alone.
    pub fn start(
        server: SocketAddr,
        authority: &Path,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        Self::offering(None, server, authority, version)
    }

    /// The same for clients that speak HTTP/2, which the server must agree to.
    pub fn http2(server: SocketAddr, authority: &Path) -> Self {
        Self::offering(Some(b"h2"), server, authority, &rustls::version::TLS13)
    }

    fn offering(
        protocol: Option<&'static [u8]>,
        server: SocketAddr,
        authority: &Path,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(authority).expect("a certificate");
        roots.add(certificate).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocol.iter().map(|name| name.to_vec()).collect();
        let connector = TlsConnector::from(Arc::new(config));
        let figures = Arc::new(Figures::default());
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        socket.set_nonblocking(true).expect("a socket");
        let address = socket.local_addr().expect("an address");
        let counted = Arc::clone(&figures);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(socket).expect("a listener");
                while let Ok((plain, _)) = listener.accept().await {
                    let (connector, figures) = (connector.clone(), Arc::clone(&counted));
                    tokio::spawn(async move {
                        // An end of one side is the client's failure to report.
                        let _ = relay(plain, server, connector, protocol, &figures).await;
                    });
                }
            });
        });
        Self { address, figures }
    }

    /// Where plain clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// So far: full handshakes, and resumed ones.
    pub fn handshakes(&self) -> (u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.figures.full), get(&self.figures.resumed))
    }
}

async fn relay(
    mut plain: TcpStream,
    server: SocketAddr,
    connector: TlsConnector,
    protocol: Option<&'static [u8]>,
    figures: &Figures,
) -> std::io::Result<()> {
    plain.set_nodelay(true)?;
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut tls = connector.connect(name, socket).await?;
    let rustls = tls.get_ref().1;
    assert_eq!(rustls.alpn_protocol(), protocol);
    let kind = rustls.handshake_kind();
    let count = match kind {
        Some(HandshakeKind::Resumed) => &figures.resumed,
        _ => &figures.full,
    };
    count.fetch_add(1, Ordering::Relaxed);
    tokio::io::copy_bidirectional(&mut plain, &mut tls).await?;
    Ok(())
}

/// `NAME.crt` and `NAME.key` for these names, called after the first of them.
pub fn make_certificate(directory: &Path, names: &[&str]) {
    write_signed_by_itself(directory, params(names));
}

/// The same, of a time that is over.
pub fn make_expired(directory: &Path, name: &str) {
    let mut params = params(&[name]);
    params.not_before = rcgen::date_time_ymd(2019, 12, 1);
    params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    write_signed_by_itself(directory, params);
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    CertificateParams::new(names).expect("names")
}

fn write_signed_by_itself(directory: &Path, params: CertificateParams) {
    let name = match params.subject_alt_names.first() {
        Some(rcgen::SanType::DnsName(name)) => name.to_string(),
        other => panic!("a name: {other:?}"),
    };
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    write(directory, &name, &certificate.pem(), &key);
}

fn write(directory: &Path, name: &str, certificate: &str, key: &KeyPair) {
    fs::create_dir_all(directory).expect("a directory");
    let file = |name: String, mode, pem: &str| {
        let file = directory.join(name);
        fs::write(&file, pem).expect("a file of TLS");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("its mode");
    };
    file(format!("{name}.crt"), 0o644, certificate);
    file(format!("{name}.key"), 0o600, &key.serialize_pem());
}

/// Who signs clients' certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one; its certificate is in this file.
    pub fn new(directory: &Path, file: &str) -> Self {
        let mut params = params(&["authority.test"]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let own = CertifiedIssuer::self_signed(params, key).expect("an authority");
        fs::write(directory.join(file), own.pem()).expect("a file of TLS");
        Self(own)
    }

    /// Signs one for a client.
    pub fn client(&self, directory: &Path, name: &str) {
        self.sign(directory, name, params(&[name]));
    }

    /// Signs one that is good until then (to the second).
    pub fn client_until(&self, directory: &Path, name: &str, end: SystemTime) {
        let since = end.duration_since(SystemTime::UNIX_EPOCH).expect("a time");
        let mut params = params(&[name]);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs());
        self.sign(directory, name, params);
    }

    fn sign(&self, directory: &Path, name: &str, mut params: CertificateParams) {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        write(directory, name, &certificate.pem(), &key);
    }
}
