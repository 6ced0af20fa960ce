//! The handshake: rustls', fed record by record, so that not a byte behind its end is lost in
//! rustls' buffers. What it leaves are the secrets, from which [`super::records`] goes on.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustls::server::ServerConnection;
use rustls::{Error, HandshakeKind, KeyLog, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::info::TlsInfo;
use super::keys::{Secret, Suite};
use super::records::{Direction, HEAD, Memory, Records};
use super::sealed::Sealed;
use crate::machine::link::Handshakes;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(in crate::worker) enum HandshakeError {
    /// The client went away, or the socket failed.
    #[error("the connection ended in the handshake: {0}")]
    Io(#[from] io::Error),
    /// It was not done in time.
    #[error("the handshake took too long")]
    TimedOut,
    /// It speaks plain HTTP.
    #[error("the client speaks plain HTTP to a TLS port")]
    PlainHttp,
    /// rustls says no.
    #[error("{0}")]
    Tls(#[from] Error),
    /// rustls' secrets are not what we expect of it.
    #[error("the keys of the connection cannot be had from rustls")]
    Secrets,
}

impl HandshakeError {
    /// Counts it where it belongs.
    pub(in crate::worker) fn count(&self, report: &mut Handshakes) {
        let place = match self {
            Self::Io(_) => &mut report.closed,
            Self::TimedOut => &mut report.timed_out,
            Self::Tls(Error::AlertReceived(_)) => &mut report.refused_by_client,
            Self::Tls(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => {
                &mut report.bad_client_certificate
            }
            Self::Tls(Error::PeerIncompatible(_)) => &mut report.nothing_in_common,
            Self::PlainHttp | Self::Tls(_) | Self::Secrets => &mut report.broken,
        };
        *place += 1;
    }
}

/// Shakes hands on `socket`, of which `input` has been read already. The flag: the client resumed an
/// earlier session.
pub(in crate::worker) async fn shake_hands<S>(
    socket: &mut S,
    mut input: BytesMut,
    config: &Arc<ServerConfig>,
) -> Result<(Sealed, bool), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut rustls = Box::new(ServerConnection::new(Arc::clone(config))?);
    let mut logged = Logged::default();
    loop {
        let fed = feed(&mut rustls, &mut input, &mut logged);
        let mut out = Vec::new();
        while rustls.wants_write() {
            rustls.write_tls(&mut out)?;
        }
        // Its last word, too: an alert says what was wrong.
        socket.write_all(&out).await?;
        fed?;
        if !rustls.is_handshaking() {
            break;
        }
        input.reserve(FIRST_READ);
        if socket.read_buf(&mut input).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    let resumed = rustls.handshake_kind() == Some(HandshakeKind::Resumed);
    Ok((take_over(*rustls, logged, input)?, resumed))
}

/// Gives rustls one whole record after the other, until the one that ends the handshake.
fn feed(
    rustls: &mut ServerConnection,
    input: &mut BytesMut,
    logged: &mut Logged,
) -> Result<(), HandshakeError> {
    while rustls.is_handshaking() {
        if is_plain_http(input) {
            return Err(HandshakeError::PlainHttp);
        }
        let Some(len) = next_part(input) else {
            return Ok(());
        };
        let mut part = &input[..len];
        while !part.is_empty() {
            if rustls.read_tls(&mut part)? == 0 {
                // It takes no more: the client has said that it ends.
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            CAUGHT.set(Logged::default());
            let processed = rustls.process_new_packets();
            logged.add(CAUGHT.take());
            processed?;
        }
        input.advance(len);
    }
    Ok(())
}

/// One record; all that is there when it is none, so that rustls refuses it now and does not wait
/// for the rest of it.
fn next_part(input: &[u8]) -> Option<usize> {
    let head = input.first_chunk::<HEAD>()?;
    let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
    let is_record = (20..=23).contains(&head[0]) && head[1] == 3 && len <= RECORD_MAX;
    if !is_record {
        return Some(input.len());
    }
    (HEAD + len <= input.len()).then_some(HEAD + len)
}

/// A record begins with a byte below 32, a method with a letter.
fn is_plain_http(input: &[u8]) -> bool {
    input.len() >= HEAD && input[..3].iter().all(u8::is_ascii_uppercase)
}

/// What nginx answers too.
pub(in crate::worker) const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain\r\nconnection: close\r\ncontent-length: 54\r\n\r\n\
    This port speaks HTTPS: the address begins with https.";

fn take_over(
    rustls: ServerConnection,
    logged: Logged,
    input: BytesMut,
) -> Result<Sealed, HandshakeError> {
    let suite = rustls
        .negotiated_cipher_suite()
        .ok_or(Error::HandshakeNotComplete)?;
    let suite = Suite::from(suite);
    let certificates = rustls.peer_certificates().unwrap_or_default();
    let info = TlsInfo {
        server_name: rustls.server_name().map(str::to_owned),
        alpn: rustls
            .alpn_protocol()
            .map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
        client_certificates: certificates.iter().map(|der| der.to_vec()).collect(),
        ..TlsInfo::of(suite)
    };
    let secrets = rustls.dangerous_extract_secrets()?;
    let direction = |(seq, secret): &(u64, _), logged| {
        let secret = suite
            .secret(secret, logged)
            .ok_or(HandshakeError::Secrets)?;
        Ok::<_, HandshakeError>(Direction { seq: *seq, secret })
    };
    let tx = direction(&secrets.tx, logged.server)?;
    let rx = direction(&secrets.rx, logged.client)?;
    let records = Records::new(suite, tx, rx, Memory::default()).ok_or(HandshakeError::Secrets)?;
    Ok(Sealed::new(records, input, Arc::new(info)))
}

impl TlsInfo {
    /// Of a connection with this suite.
    pub(super) fn of(suite: Suite) -> Self {
        Self {
            version: if suite.is_13() { "TLSv1.3" } else { "TLSv1.2" },
            cipher_suite: format!("{suite:?}"),
            ..Self::default()
        }
    }
}

/// The traffic secrets of TLS 1.3, which rustls tells its key log and nobody else.
#[derive(Debug, Default)]
struct Logged {
    client: Option<Secret>,
    server: Option<Secret>,
}

impl Logged {
    fn add(&mut self, more: Self) {
        self.client = more.client.or(self.client.take());
        self.server = more.server.or(self.server.take());
    }
}

thread_local! {
    /// Handed over while rustls processes what one connection was fed.
    static CAUGHT: RefCell<Logged> = RefCell::default();
}

/// The key log that writes nothing down.
#[derive(Debug)]
pub(super) struct Catcher;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

impl KeyLog for Catcher {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        CAUGHT.with_borrow_mut(|caught| match label {
            CLIENT => caught.client = Some(Secret::new(secret)),
            SERVER => caught.server = Some(Secret::new(secret)),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT | SERVER)
    }
}

/// Room for the usual `ClientHello`.
const FIRST_READ: usize = 4096;

/// The longest record of either version (RFC 5246, 6.2.3).
const RECORD_MAX: usize = 16 * 1024 + 2048;
