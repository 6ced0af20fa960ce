//! The socket as the `WebSocket` library sees it: it is given the bytes of one frame and nothing
//! behind it, so that between two messages it holds nothing, and the socket can be taken from it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use crate::worker::connections::Live;
use crate::worker::gate::Gate;
use crate::worker::stream::Stream;

/// Such a socket. It is counted as a connection of the worker as long as it exists.
pub(super) struct Paced {
    pub(super) stream: Stream,
    pub(super) gate: Arc<Gate>,
    pub(super) live: Live,
    /// Read, and not given to the library.
    before: BytesMut,
    given: Frames,
}

/// No bytes of the client's.
impl std::fmt::Debug for Paced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paced")
            .field("stream", &self.stream)
            .field("before", &self.before.len())
            .finish_non_exhaustive()
    }
}

const READ: usize = 4096;

impl Paced {
    pub(super) fn new(stream: Stream, gate: Arc<Gate>, live: Live, before: &[u8]) -> Self {
        Self {
            stream,
            gate,
            live,
            before: before.into(),
            given: Frames::new(),
        }
    }

    /// Whether the library has been given whole messages.
    pub(super) fn between_messages(&self) -> bool {
        self.given.between_messages()
    }

    /// What was read and belongs to the next message.
    pub(super) fn leftover(&self) -> Bytes {
        Bytes::copy_from_slice(&self.before)
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.before.is_empty() {
            let mut bytes = [0; READ];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            this.before.extend_from_slice(read.filled());
        }
        let room = this.before.len().min(buf.remaining());
        let frame = this.given.advance(&this.before[..room]);
        buf.put_slice(&this.before[..frame]);
        this.before.advance(frame);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
