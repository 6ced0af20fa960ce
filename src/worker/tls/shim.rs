//! What `fuzz/bogo.rs` calls: a server as a worker is one, for a suite that others wrote. Its connections
//! move all the time, where that is wanted, as to another worker.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt as _;

use super::blob::Blob;
use super::handshake::{HandshakeError, shake_hands};
use super::sealed::{Plain, Sealed};
use super::setup::TlsSetup;
use super::stream::TlsStream;
use crate::config::{Identities, Identity, SecretBytes, Tls, TlsVersion};
use crate::machine::tickets::{TicketKey, TicketKeys};
use crate::worker::stream::Stream;

/// One certificate, and tickets.
#[derive(Debug)]
pub struct Setup(TlsSetup);

impl Setup {
    /// Certificates and key in DER.
    pub fn new(chain: Vec<Vec<u8>>, key: Vec<u8>, only_13: bool) -> Result<Self, String> {
        let identity = Identity {
            file: "bogo.crt".into(),
            names: vec!["test".into()],
            chain,
            key: SecretBytes::new(key),
            not_before: 0,
            not_after: u64::MAX,
            exposed_key: None,
            ocsp: None,
            ocsp_fault: None,
            must_staple: false,
        };
        let identities = Identities {
            list: vec![identity],
            ..Identities::default()
        };
        let tls = Tls {
            min_version: if only_13 {
                TlsVersion::V13
            } else {
                TlsVersion::V12
            },
            ..Tls::default()
        };
        let ring = TicketKeys::default().with(TicketKey::new(&[7; 48], SystemTime::now()));
        let setup = TlsSetup::new(&tls, &identities, Some(Arc::new(ring)), true);
        setup.map(Self).map_err(|why| why.to_string())
    }
}

/// A connection.
#[derive(Debug)]
pub struct Server {
    stream: Option<TlsStream>,
    moves: bool,
}

impl Server {
    /// Shakes hands. `moves`: before each few bytes of the client's, and before each answer.
    pub async fn accept(
        socket: std::net::TcpStream,
        setup: &Setup,
        moves: bool,
    ) -> Result<Self, String> {
        let (mut socket, _) = Stream::from_fd(socket.into()).map_err(|e| e.to_string())?;
        let shaken = shake_hands(&mut socket, BytesMut::new(), &setup.0.config).await;
        let (sealed, _) = shaken.map_err(|why: HandshakeError| why.to_string())?;
        let stream = Some(TlsStream::new(socket, sealed));
        Ok(Self { stream, moves })
    }

    /// What the client says next; nothing when it has said that it ends.
    pub async fn read(&mut self) -> io::Result<Vec<u8>> {
        while self.moves {
            let Some((mut socket, mut sealed)) = self.take_apart() else {
                break;
            };
            let opened = sealed.open();
            let plain = sealed.take(usize::MAX).to_vec();
            let mut read = Ok(1);
            if opened == Ok(Plain::None) {
                let mut few = BytesMut::with_capacity(1 + sealed.input.len() / 8);
                read = poll_fn(|cx| socket.poll_read_some(cx, &mut few)).await;
                sealed.input.extend_from_slice(&few);
            }
            let stream = self.stream.insert(TlsStream::new(socket, sealed));
            stream.flush().await?;
            if read? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if opened? != Plain::None {
                return Ok(plain);
            }
        }
        let stream = self.stream.as_mut().expect(WHOLE);
        let mut plain = BytesMut::with_capacity(512);
        poll_fn(|cx| stream.poll_read_some(cx, &mut plain)).await?;
        Ok(plain.to_vec())
    }

    /// Answers.
    pub async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let moved = self.moves.then(|| self.take_apart()).flatten();
        if let Some((socket, sealed)) = moved {
            self.stream = Some(TlsStream::new(socket, sealed));
        }
        let stream = self.stream.as_mut().expect(WHOLE);
        stream.write_all(data).await?;
        stream.flush().await
    }

    /// Takes the next keys (TLS 1.3).
    pub fn update_keys(&mut self) {
        let (socket, mut sealed) = self.take_apart().expect("it can move");
        let Sealed {
            records, output, ..
        } = &mut sealed;
        records.update_keys(false, output).expect("keys");
        self.stream = Some(TlsStream::new(socket, sealed));
    }

    /// Says that no more follows.
    pub async fn close(&mut self) -> io::Result<()> {
        let stream = self.stream.as_mut().expect(WHOLE);
        poll_fn(|cx| tokio::io::AsyncWrite::poll_shutdown(Pin::new(stream), cx)).await
    }

    /// Through a blob, if it can move.
    fn take_apart(&mut self) -> Option<(Stream, Sealed)> {
        match self.stream.take().expect(WHOLE).into_parts() {
            Ok((socket, blob)) => {
                let there = Blob::received(blob.bytes());
                Some((socket, Sealed::from_blob(there).expect("our own")))
            }
            Err(stays) => {
                self.stream = Some(*stays);
                None
            }
        }
    }
}

/// Nobody has it while it moves.
const WHOLE: &str = "a connection is whole between two calls";
