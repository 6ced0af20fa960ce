//! The socket as `h2` sees it: [`Shim`] over a stream. The driver has the other handle, and takes the
//! stream back when the connection leaves.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::blob::Blob;
use super::shim::Shim;
use crate::worker::lock;

/// A handle.
#[derive(Debug)]
pub(super) struct Wire<S>(Arc<Mutex<Core<S>>>);

/// What both handles share.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and all combinations occur"
)]
pub(super) struct Core<S> {
    /// `None`: the connection has left.
    pub(super) stream: Option<S>,
    pub(super) shim: Shim,
    /// The last read of `h2` found nothing.
    has_read_all: bool,
    /// `h2` has written since it flushed.
    is_dirty: bool,
    /// The client sends no more.
    has_ended: bool,
    /// There is something to read for an `h2` that was told there is not.
    is_woken: bool,
    /// Writes that brought something to the socket (wraps).
    pub(super) writes: u32,
    /// Reads that brought something from it (wraps).
    pub(super) reads: u32,
}

/// One read of our own.
const READ: usize = 16 * 1024;

impl<S> Wire<S> {
    pub(super) fn new(stream: S, shim: Shim) -> Self {
        Self(Arc::new(Mutex::new(Core {
            stream: Some(stream),
            shim,
            has_read_all: false,
            is_dirty: false,
            has_ended: false,
            is_woken: false,
            writes: 0,
            reads: 0,
        })))
    }

    /// The other one.
    pub(super) fn handle(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core<S>> {
        lock(&self.0)
    }
}

impl<S> Core<S> {
    /// Whether `h2` must be polled again though nothing has woken it.
    pub(super) fn is_woken(&mut self) -> bool {
        std::mem::take(&mut self.is_woken)
    }

    /// Nothing is under way, neither here nor in `h2`. To be asked when it was polled and has nothing
    /// more to do: it reads and writes until it cannot, so it holds nothing then.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.stream.is_some()
            && self.has_read_all
            && !self.is_dirty
            && !self.has_ended
            && self.shim.is_quiet()
    }

    /// The client has not taken everything: the socket does not, its windows have no room, or a stream is
    /// open.
    pub(super) fn owes(&self) -> bool {
        self.is_dirty || self.shim.is_waiting() || self.shim.oldest().is_some()
    }

    /// `h2` gets what was held.
    pub(super) fn thaw(&mut self) {
        self.shim.thaw(Instant::now());
        self.is_woken = true;
    }

    /// The end of this connection here, when it is quiet and nothing late can come.
    pub(super) fn leave(&mut self) -> Option<(S, Blob, BytesMut)> {
        if !self.is_quiet() {
            return None;
        }
        let (blob, leftover) = self.shim.leave()?;
        Some((self.stream.take()?, blob, leftover))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Core<S> {
    /// Writes what is ours to write. Ready: the socket has all of it.
    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.shim.out().is_empty() {
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let n = ready!(Pin::new(stream).poll_write(cx, self.shim.out()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.shim.sent(n);
            self.writes = self.writes.wrapping_add(1);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all there is. For `h2`, which closes now and reads no more, the end of an answer that waits
    /// for the client's window has been written: what the client allows is read here.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_out(cx))?;
            if !self.shim.is_waiting() || self.has_ended {
                return Poll::Ready(Ok(()));
            }
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Ok(()));
            };
            let inbox = self.shim.inbox();
            inbox.reserve(READ);
            if ready!(poll_read_buf(Pin::new(stream), cx, inbox))? == 0 {
                self.has_ended = true;
            }
            self.reads = self.reads.wrapping_add(1);
            self.shim.pump(Instant::now());
            while self.shim.give(<[u8]>::len) {}
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            self.has_read_all = false;
            let given = self.shim.give(|bytes| {
                let n = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..n]);
                n
            });
            if given {
                return Poll::Ready(Ok(()));
            }
            if self.shim.is_gated() {
                self.has_read_all = true;
                // No waker: `poll_flush` opens the gate.
                return Poll::Pending;
            }
            if self.has_ended {
                return Poll::Ready(Ok(()));
            }
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            if self.shim.reads_directly() {
                let before = buf.filled().len();
                let polled = Pin::new(stream).poll_read(cx, buf);
                self.has_read_all = polled.is_pending();
                ready!(polled)?;
                let read = &buf.filled()[before..];
                if !read.is_empty() {
                    self.reads = self.reads.wrapping_add(1);
                    self.shim.read(read, Instant::now());
                }
                return Poll::Ready(Ok(()));
            }
            // What came with a move is here already.
            let now = Instant::now();
            self.shim.pump(now);
            if self.shim.has_for_h2() || self.shim.reads_directly() {
                continue;
            }
            let inbox = self.shim.inbox();
            inbox.reserve(READ);
            let read = poll_read_buf(Pin::new(stream), cx, inbox);
            if let Poll::Ready(Ok(0)) = read {
                // Everything it has said is to be answered.
                self.has_ended = true;
                self.shim.thaw(now);
                continue;
            }
            let nothing = read.is_pending();
            if let Poll::Ready(read) = read {
                read?;
                self.reads = self.reads.wrapping_add(1);
                self.shim.pump(now);
            }
            if let Poll::Ready(Err(e)) = self.poll_out(cx) {
                return Poll::Ready(Err(e));
            }
            if nothing {
                self.has_read_all = true;
                return Poll::Pending;
            }
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_dirty = true;
        if !self.shim.writes_directly() {
            if let Poll::Ready(Err(e)) = self.poll_out(cx) {
                return Poll::Ready(Err(e));
            }
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if self.shim.writes_directly() {
            let n = ready!(Pin::new(stream).poll_write_vectored(cx, bufs))?;
            self.shim.written(bufs, n);
            self.writes = self.writes.wrapping_add(1);
            return Poll::Ready(Ok(n));
        }
        if self.shim.is_full() {
            return Poll::Pending;
        }
        for buf in bufs {
            self.shim.write(buf);
        }
        let len = bufs.iter().map(|buf| buf.len()).sum();
        match self.poll_out(cx) {
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            _ => Poll::Ready(Ok(len)),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        if let Some(stream) = &mut self.stream {
            ready!(Pin::new(stream).poll_flush(cx))?;
        }
        self.is_dirty = false;
        self.is_woken |= self.shim.flushed();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.lock().poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut core = self.lock();
        ready!(core.poll_end(cx))?;
        match &mut core.stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}
