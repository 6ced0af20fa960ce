//! The shim of BoringSSL's test runner ("BoGo", `ssl/test/PORTING.md` there): it says how to build the
//! runner. Build this with `RUSTFLAGS="--cfg fuzzing" cargo build --bin bogo`, and run
//! `runner.test -shim-path .../bogo -allow-unimplemented -loose-errors -pipe`, with
//! `-shim-extra-flags=-moves` for connections that move all the time, `-shim-extra-flags=-rustls` for
//! rustls' own server beside it. What we do not have ends with 89.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;

use handover::worker::fuzz::{Server, Setup};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the runner wants.
#[derive(Debug, Default)]
struct Wanted {
    port: u16,
    ipv6: bool,
    id: u64,
    server: bool,
    certificate: String,
    key: String,
    only_13: bool,
    resumes: usize,
    writes_first: bool,
    shuts_down: bool,
    checks_close: bool,
    updates_keys: bool,
    updates_before_read: bool,
    is_rustls: bool,
    moves: bool,
}

impl Wanted {
    /// `None`: something that we do not have.
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut wanted = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_default();
            match arg.as_str() {
                "-port" => wanted.port = value().parse().ok()?,
                "-shim-id" => wanted.id = value().parse().ok()?,
                "-ipv6" => wanted.ipv6 = true,
                "-server" => wanted.server = true,
                "-cert-file" => wanted.certificate = value(),
                "-key-file" => wanted.key = value(),
                "-resume-count" => wanted.resumes = value().parse().ok()?,
                "-shim-writes-first" => wanted.writes_first = true,
                "-shim-shuts-down" => wanted.shuts_down = true,
                "-check-close-notify" => wanted.checks_close = true,
                "-key-update" => wanted.updates_keys = true,
                "-key-update-before-read" => wanted.updates_before_read = true,
                "-min-version" => match value().as_str() {
                    "769" | "770" | "771" => {}
                    "772" => wanted.only_13 = true,
                    _ => return None,
                },
                "-max-version" if value() == "772" => {}
                "-no-tls12" => wanted.only_13 = true,
                "-trust-cert" => drop(value()),
                // Nothing else is known here, and no socket waits.
                "-no-ssl3" | "-no-tls1" | "-no-tls11" | "-async" => {}
                "-rustls" => wanted.is_rustls = true,
                "-moves" => wanted.moves = true,
                _ => return None,
            }
        }
        wanted.server.then_some(wanted)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut socket = if self.ipv6 {
            TcpStream::connect((Ipv6Addr::LOCALHOST, self.port))?
        } else {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?
        };
        socket.write_all(&self.id.to_le_bytes())?;
        Ok(socket)
    }
}

/// What both servers do.
trait Speaks {
    /// Nothing at the end that the client has said.
    async fn read(&mut self) -> io::Result<Vec<u8>>;
    async fn write(&mut self, data: &[u8]) -> io::Result<()>;
    async fn close(&mut self) -> io::Result<()>;
    fn update_keys(&mut self);
}

impl Speaks for Server {
    async fn read(&mut self) -> io::Result<Vec<u8>> {
        Server::read(self).await
    }

    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        Server::write(self, data).await
    }

    async fn close(&mut self) -> io::Result<()> {
        Server::close(self).await
    }

    fn update_keys(&mut self) {
        Server::update_keys(self);
    }
}

impl Speaks for StreamOwned<ServerConnection, TcpStream> {
    async fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = [0; 512];
        let len = io::Read::read(self, &mut bytes)?;
        Ok(bytes[..len].to_vec())
    }

    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.write_all(data)?;
        self.flush()
    }

    async fn close(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()
    }

    fn update_keys(&mut self) {
        self.conn.refresh_traffic_keys().expect("keys");
    }
}

/// As BoringSSL's own shim goes on behind the handshake.
async fn exchange(server: &mut impl Speaks, wanted: &Wanted) -> io::Result<()> {
    if wanted.writes_first {
        server.write(b"hello").await?;
    }
    while !wanted.shuts_down {
        if wanted.updates_before_read {
            server.update_keys();
            server.write(b"").await?;
        }
        let mut heard = match server.read().await {
            // Whoever checks does it below.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && !wanted.checks_close => break,
            heard => heard?,
        };
        if heard.is_empty() {
            break;
        }
        if wanted.updates_keys {
            server.update_keys();
        }
        heard.iter_mut().for_each(|byte| *byte ^= 0xff);
        server.write(&heard).await?;
    }
    if !wanted.checks_close {
        return Ok(());
    }
    server.close().await?;
    while wanted.shuts_down && !server.read().await?.is_empty() {}
    Ok(())
}

fn rustls_config(chain: &[Vec<u8>], key: PrivateKeyDer<'static>) -> Arc<ServerConfig> {
    let chain = chain.iter().map(|der| CertificateDer::from(der.clone()));
    let config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key);
    Arc::new(config.expect("a certificate and its key"))
}

async fn run(wanted: &Wanted) -> Result<(), String> {
    let chain: Vec<Vec<u8>> = CertificateDer::pem_file_iter(&wanted.certificate)
        .map_err(|e| e.to_string())?
        .map(|der| der.expect("PEM").to_vec())
        .collect();
    let key = PrivateKeyDer::from_pem_file(&wanted.key).map_err(|e| e.to_string())?;
    let setup = Setup::new(chain.clone(), key.secret_der().to_vec(), wanted.only_13)?;
    let plain = rustls_config(&chain, key);
    for _ in 0..=wanted.resumes {
        let socket = wanted.connect().map_err(|e| e.to_string())?;
        let kept = socket.try_clone().map_err(|e| e.to_string())?;
        let done = if wanted.is_rustls {
            let connection = ServerConnection::new(plain.clone()).map_err(|e| e.to_string())?;
            let mut server = StreamOwned::new(connection, socket);
            exchange(&mut server, wanted)
                .await
                .map_err(|e| e.to_string())
        } else {
            match Server::accept(socket, &setup, wanted.moves).await {
                Ok(mut server) => exchange(&mut server, wanted)
                    .await
                    .map_err(|e| e.to_string()),
                Err(why) => Err(why),
            }
        };
        drain(kept);
        done?;
    }
    Ok(())
}

/// The runner reads what we have said before it hears of a reset.
fn drain(mut socket: TcpStream) {
    let _ = socket.set_nonblocking(false);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let _ = socket.read_to_end(&mut Vec::new());
}

fn main() -> ExitCode {
    if std::env::args().any(|arg| arg == "-is-handshaker-supported") {
        println!("No");
        return ExitCode::SUCCESS;
    }
    let Some(wanted) = Wanted::parse(std::env::args().skip(1)) else {
        return ExitCode::from(89);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(run(&wanted)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
