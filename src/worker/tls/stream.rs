//! An established TLS connection as a stream: [`Sealed`] over its socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::blob::{Blob, BlobError};
use super::info::TlsInfo;
use super::sealed::{Plain, Sealed};
use crate::worker::stream::Stream;

/// The stream. Dropped, it says nothing: `close_notify` in the middle of an answer would make a cut one
/// look whole. Whoever ends it between two answers calls [`Self::say_close`].
#[derive(Debug)]
pub(in crate::worker) struct TlsStream(Option<Parts>);

#[derive(Debug)]
struct Parts {
    /// Of TCP or Unix.
    socket: Stream,
    sealed: Sealed,
}

impl TlsStream {
    /// `socket` is where the handshake was.
    pub(in crate::worker) fn new(socket: Stream, sealed: Sealed) -> Self {
        Self(Some(Parts { socket, sealed }))
    }

    /// A connection that another worker had.
    pub(in crate::worker) fn from_blob(socket: Stream, blob: Blob) -> Result<Self, BlobError> {
        Ok(Self::new(socket, Sealed::from_blob(blob)?))
    }

    /// The end of this stream here: its socket and everything else. `Err`: it cannot move.
    pub(in crate::worker) fn into_parts(mut self) -> Result<(Stream, Blob), Box<Self>> {
        let Some(Parts { socket, sealed }) = self.0.take() else {
            return Err(Box::new(self));
        };
        match sealed.into_blob() {
            Ok(blob) => Ok((socket, blob)),
            Err(sealed) => Err(Box::new(Self::new(socket, *sealed))),
        }
    }

    /// Whether [`Self::into_parts`] would do.
    pub(in crate::worker) fn can_move(&self) -> bool {
        self.0.as_ref().is_some_and(|parts| parts.sealed.can_move())
    }

    /// See [`Sealed::weight`].
    pub(in crate::worker) fn weight(&self) -> usize {
        self.0.as_ref().map_or(0, |parts| parts.sealed.weight())
    }

    /// What was agreed on.
    pub(in crate::worker) fn info(&self) -> Option<Arc<TlsInfo>> {
        self.0.as_ref().map(|parts| Arc::clone(&parts.sealed.info))
    }

    /// Its keys will soon have sealed all they may (TLS 1.2).
    pub(in crate::worker) fn wears_out(&self) -> bool {
        let worn = |parts: &Parts| parts.sealed.records.wears_out();
        self.0.as_ref().is_some_and(worn)
    }

    /// Whether sealed bytes wait for the socket.
    pub(in crate::worker) fn has_unwritten(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|parts| parts.sealed.has_output())
    }

    /// The socket below, for what asks the kernel.
    pub(in crate::worker) fn socket(&self) -> &Stream {
        &self.0.as_ref().expect(WHOLE).socket
    }

    fn parts(&mut self) -> &mut Parts {
        self.0.as_mut().expect(WHOLE)
    }

    /// Ready when a read may bring something, an error or an EOF.
    pub(in crate::worker) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let parts = self.0.as_ref().expect(WHOLE);
        if parts.sealed.has_plain() || parts.sealed.records.memory.close_seen {
            return Poll::Ready(Ok(()));
        }
        parts.socket.poll_readable(cx)
    }

    /// Whether plain text, or what may become plain text, is here.
    pub(in crate::worker) fn has_unread(&self) -> bool {
        let parts = self.0.as_ref().expect(WHOLE);
        parts.sealed.has_plain() || parts.socket.has_unread()
    }

    /// Whether a part of a record is here.
    pub(in crate::worker) fn has_begun(&self) -> bool {
        let begun = |parts: &Parts| !parts.sealed.input.is_empty();
        self.0.as_ref().is_some_and(begun)
    }

    /// Reads what is there; 0 at the end.
    pub(in crate::worker) fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let room = into.capacity() - into.len();
        let plain = ready!(self.parts().poll_plain(cx, room.max(1)))?;
        into.extend_from_slice(&plain);
        Poll::Ready(Ok(plain.len()))
    }

    /// Seals a last word, and writes it as far as the socket takes it at once.
    pub(in crate::worker) fn say_last(&mut self, bytes: &[u8]) -> io::Result<()> {
        let parts = self.parts();
        parts.sealed.seal(&[IoSlice::new(bytes)])?;
        parts.write_now();
        Ok(())
    }

    /// Says that no more data follows, as far as the socket takes it at once.
    pub(in crate::worker) fn say_close(&mut self) {
        if let Some(parts) = &mut self.0 {
            parts.sealed.close();
            parts.write_now();
        }
    }
}

impl Parts {
    /// [`Sealed::open`]; what must be said at once is said as far as the socket takes it.
    fn open(&mut self) -> io::Result<Plain> {
        let said = self.sealed.output.len();
        let opened = self.sealed.open();
        if self.sealed.output.len() > said {
            self.write_now();
        }
        Ok(opened?)
    }

    /// So much of the client's words at most; nothing at their end.
    fn poll_plain(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<BytesMut>> {
        loop {
            match self.open()? {
                Plain::Some => return Poll::Ready(Ok(self.sealed.take(most))),
                Plain::End => return Poll::Ready(Ok(BytesMut::new())),
                Plain::None => {}
            }
            // Before there is something to read there is no buffer for it.
            ready!(self.socket.poll_readable(cx))?;
            let wanted = self.sealed.wanted();
            self.sealed.input.reserve(wanted);
            let read = self.socket.poll_read_some(cx, &mut self.sealed.input);
            if !matches!(read, Poll::Ready(Ok(1..))) {
                self.sealed.read_nothing();
            }
            if ready!(read)? == 0 {
                // No close_notify: it may be cut short (RFC 8446, 6.1).
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Writes what waits, as far as the socket takes it at once.
    fn write_now(&mut self) {
        while self.sealed.has_output() {
            let Some(first) = self.sealed.output().first().map(|slice| slice.to_vec()) else {
                return;
            };
            match self.socket.send_now(&first) {
                Ok(n @ 1..) => self.sealed.written(n),
                _ => return,
            }
        }
    }

    /// Writes what waits. Ready: the socket has taken all of it.
    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sealed.has_output() {
            let slices = self.sealed.output();
            let socket = Pin::new(&mut self.socket);
            let n = ready!(socket.poll_write_vectored(cx, &slices))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sealed.written(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Seals what fits and writes what the socket takes; the rest is written by the next call.
    fn poll_seal(&mut self, cx: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_all(cx))?;
        let sealed = self.sealed.seal(data);
        match self.poll_write_all(cx) {
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            _ => Poll::Ready(Ok(sealed?)),
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let plain = ready!(self.get_mut().parts().poll_plain(cx, buf.remaining()))?;
        buf.put_slice(&plain);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().parts().poll_seal(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().parts().poll_seal(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let parts = self.get_mut().parts();
        ready!(parts.poll_write_all(cx))?;
        Pin::new(&mut parts.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let parts = self.get_mut().parts();
        parts.sealed.close();
        ready!(parts.poll_write_all(cx))?;
        Pin::new(&mut parts.socket).poll_shutdown(cx)
    }
}

/// Nobody has it while it is taken apart.
const WHOLE: &str = "a stream is whole until its end";
