//! What [`super::tls`] is in a program that is built without the feature `tls`: the same names, of which
//! there is never a value. A configuration with `tls = true` is refused before a worker starts.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;
use crate::config::{Identities, Tls};
use crate::machine::link::Handshakes;
use crate::machine::tickets::TicketKeys;

#[path = "tls/info.rs"]
mod info;

pub use info::TlsInfo;

/// No connection of another generation is gone on with.
pub(super) const READS: u32 = 0;

pub(super) const SPEAK_TLS: &[u8] = b"";

#[derive(Debug, thiserror::Error)]
#[error("this program is built without TLS")]
pub(super) struct SetupError;

#[derive(Debug)]
pub(super) struct TlsSetup {
    pub(super) config: Infallible,
    pub(super) tickets: Option<Arc<Tickets>>,
}

impl TlsSetup {
    pub(super) fn new(
        _: &Tls,
        _: &Identities,
        _: Option<Arc<TicketKeys>>,
        _: bool,
    ) -> Result<Self, SetupError> {
        Err(SetupError)
    }

    pub(super) fn admits(&self, _: Option<&TlsInfo>) -> bool {
        match self.config {}
    }

    pub(super) fn asks_client(&self) -> bool {
        match self.config {}
    }

    pub(super) fn is_too_old(&self, _: &TlsInfo) -> bool {
        match self.config {}
    }
}

#[derive(Debug)]
pub(super) struct Tickets(Infallible);

impl Tickets {
    pub(super) fn renew(&self, _: Arc<TicketKeys>) {
        match self.0 {}
    }
}

#[derive(Debug, thiserror::Error)]
#[expect(dead_code, reason = "nobody shakes hands")]
pub(super) enum HandshakeError {
    #[error("the handshake took too long")]
    TimedOut,
    #[error("the client speaks plain HTTP to a TLS port")]
    PlainHttp,
    #[error("{0}")]
    Tls(Infallible),
}

impl HandshakeError {
    pub(super) fn count(&self, _: &mut Handshakes) {}
}

pub(super) async fn shake_hands(
    _: &mut Stream,
    _: BytesMut,
    setup: &Infallible,
) -> Result<(Infallible, bool), HandshakeError> {
    match *setup {}
}

/// Another generation has sent a connection all the same.
pub(super) struct Blob;

impl Blob {
    pub(super) fn received(_: &[u8]) -> Self {
        Self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &[]
    }
}

#[derive(Debug)]
pub(super) struct TlsStream(Infallible);

impl TlsStream {
    pub(super) fn new(_: Stream, sealed: Infallible) -> Self {
        match sealed {}
    }

    pub(super) fn from_blob(_: Stream, _: Blob) -> Result<Self, SetupError> {
        Err(SetupError)
    }

    pub(super) fn into_parts(self) -> Result<(Stream, Blob), Box<Self>> {
        match self.0 {}
    }

    pub(super) fn can_move(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn weight(&self) -> usize {
        match self.0 {}
    }

    pub(super) fn info(&self) -> Option<Arc<TlsInfo>> {
        match self.0 {}
    }

    pub(super) fn wears_out(&self) -> bool {
        match self.0 {}
    }

    #[cfg(feature = "http2")]
    pub(super) fn has_unwritten(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn socket(&self) -> &Stream {
        match self.0 {}
    }

    pub(super) fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    pub(super) fn has_unread(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn has_begun(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn poll_read_some(
        &mut self,
        _: &mut Context<'_>,
        _: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    pub(super) fn say_last(&mut self, _: &[u8]) -> io::Result<()> {
        match self.0 {}
    }

    pub(super) fn say_close(&mut self) {
        match self.0 {}
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}
