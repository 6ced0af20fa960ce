//! The socket as hyper sees it: bytes that were read before come first, reads stop when the
//! connection is to leave, and every read, write and flush leaves its mark in the [`Gate`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connections::Live;
use super::gate::Gate;
use super::order::Order;
use super::stream::Stream;
use super::ws::Farewell;

/// The wrapper. It owns the connection's [`Live`] guard, because an upgraded connection (a
/// WebSocket) leaves the driver and lives on in the application.
pub(super) struct Gated {
    pub(super) stream: Stream,
    /// Read from the socket, not yet given to hyper.
    pub(super) before: Bytes,
    pub(super) gate: Arc<Gate>,
    pub(super) live: Live,
    /// The application has it.
    pub(super) web_socket: Option<Box<Farewell>>,
}

/// No bytes of the client's.
impl std::fmt::Debug for Gated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gated")
            .field("stream", &self.stream)
            .field("before", &self.before.len())
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.gate.read_closed() {
            self.gate.nothing_to_read();
            // No waker: whatever opens the gate polls hyper again.
            return Poll::Pending;
        }
        let this = &mut *self;
        if let Some(farewell) = &mut this.web_socket {
            if farewell.poll_over(&mut this.stream, cx) {
                return Poll::Ready(Ok(()));
            }
        }
        let start = buf.filled().len();
        if self.before.is_empty() {
            match Pin::new(&mut self.stream).poll_read(cx, buf) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    self.gate.nothing_to_read();
                    return Poll::Pending;
                }
            }
        } else {
            let n = self.before.len().min(buf.remaining());
            buf.put_slice(&self.before[..n]);
            self.before.advance(n);
            if self.before.is_empty() {
                self.before = Bytes::new();
            }
        }
        if buf.filled().len() > start {
            self.gate.was_read();
        } else if self.gate.hold_eof() {
            self.gate.nothing_to_read();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(farewell) = &mut this.web_socket {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return farewell.poll_write(&mut this.stream, cx, first.map_or(&[], |buf| buf));
        }
        this.gate.will_write();
        let n = ready!(this.gate.files.poll_write(&mut this.stream, cx, bufs))?;
        this.gate.has_written();
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.gate.was_flushed();
        if let Some(farewell) = self.gate.becomes_web_socket() {
            self.web_socket = Some(farewell);
        }
        if self.stream.wears_out() && self.gate.order() == Order::Serve {
            self.gate.tell(Order::Last, None);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gate.swallows_shutdown() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
