//! The socket as `h2` sees it: [`Shim`] over a stream. The driver has the other handle, and takes the
//! stream back when the connection leaves.
//!
//! `h2` flushes after every frame of DATA. What is small is put together here and written when `h2` has
//! nothing more to say, so it is polled by [`Wire::poll_h2`]: many answers cost one system call (and
//! over TLS one record).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::Instant;

use super::blob::Blob;
use super::shim::Shim;
use crate::worker::lock;
use crate::worker::stream::{Stream, poll_read_into};

/// A handle.
#[derive(Debug)]
pub(super) struct Wire<S>(Arc<Mutex<Core<S>>>);

/// What both handles share.
#[derive(Debug)]
pub(super) struct Core<S> {
    /// `None`: the connection has left.
    pub(super) stream: Option<S>,
    pub(super) shim: Shim,
    /// `h2` has written this, and believes that the socket has it. Goes before what is ours.
    batch: BytesMut,
    /// The last read of `h2` found nothing.
    has_read_all: bool,
    /// `h2` has written since it flushed.
    is_dirty: bool,
    end: End,
    /// There is something to read for an `h2` that was told there is not.
    is_woken: bool,
    /// Writes that brought something to the socket (wraps).
    pub(super) writes: u32,
    /// Reads that brought something from it (wraps).
    pub(super) reads: u32,
}

/// Whether the client has closed its half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It may send more.
    Open,
    /// It has, and waits for what it has asked for. `h2` must not know yet: it would drop that.
    Held,
    /// `h2` knows, or may know.
    Told,
}

/// One read of our own.
const READ: usize = 16 * 1024;

/// So much is put together: what fits into one TLS record. What is more than half of it is not copied.
const BATCH: usize = 16 * 1024;

/// A stream that may hold back what was written to it.
pub(super) trait Holds {
    /// Whether it has something that the socket has not taken.
    fn holds(&self) -> bool;
}

impl Holds for Stream {
    fn holds(&self) -> bool {
        self.has_unwritten()
    }
}

impl Holds for DuplexStream {
    fn holds(&self) -> bool {
        false
    }
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, shim: Shim) -> Self {
        Self(Arc::new(Mutex::new(Core::new(stream, shim))))
    }

    /// The other one.
    pub(super) fn handle(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core<S>> {
        lock(&self.0)
    }
}

impl<S: AsyncRead + AsyncWrite + Holds + Unpin> Wire<S> {
    /// Polls `h2`, and writes what it has said. Ready: the connection is over; `None`: it broke off.
    pub(super) fn poll_h2<E>(
        &self,
        h2: Pin<&mut impl Future<Output = Result<(), E>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<()>> {
        if let Poll::Ready(done) = h2.poll(cx) {
            return Poll::Ready(done.ok());
        }
        match self.lock().poll_out(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => Poll::Pending,
        }
    }
}

impl<S> Core<S> {
    fn new(stream: S, shim: Shim) -> Self {
        Self {
            stream: Some(stream),
            shim,
            batch: BytesMut::new(),
            has_read_all: false,
            is_dirty: false,
            end: End::Open,
            is_woken: false,
            writes: 0,
            reads: 0,
        }
    }

    /// `h2` gets what was held.
    pub(super) fn thaw(&mut self) {
        self.shim.thaw(Instant::now());
        self.is_woken = true;
    }
}

impl<S: Holds> Core<S> {
    /// Whether `h2` must be polled again though nothing has woken it.
    pub(super) fn is_woken(&mut self) -> bool {
        if self.end == End::Held && !self.waits_for_answers() {
            self.tell_end();
        }
        std::mem::take(&mut self.is_woken)
    }

    /// The client has closed its half, and it has asked for all that is not at its end.
    fn waits_for_answers(&mut self) -> bool {
        self.shim.has_all_requests() && self.owes()
    }

    /// The client has closed its half, which `h2` does not know.
    pub(super) fn holds_end(&self) -> bool {
        self.end == End::Held
    }

    /// `h2` learns that the client has closed its half.
    pub(super) fn tell_end(&mut self) {
        self.end = End::Told;
        self.is_woken = true;
    }

    /// Whether the client has not taken all that was said to it.
    pub(super) fn has_unwritten(&mut self) -> bool {
        let holds = self.stream.as_ref().is_some_and(Holds::holds);
        holds || !self.batch.is_empty() || !self.shim.out().is_empty()
    }

    /// Nothing is under way, neither here nor in `h2`. To be asked when it was polled and has nothing
    /// more to do: it reads and writes until it cannot, so it holds nothing then.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.stream.is_some()
            && self.has_read_all
            && !self.is_dirty
            && self.end == End::Open
            && !self.has_unwritten()
            && self.shim.is_quiet()
    }

    /// The client has not taken everything: the socket does not, its windows have no room, or a stream is
    /// open.
    pub(super) fn owes(&mut self) -> bool {
        self.is_dirty
            || self.has_unwritten()
            || self.shim.is_waiting()
            || self.shim.oldest().is_some()
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

impl<S: AsyncRead + AsyncWrite + Holds + Unpin> Core<S> {
    /// Writes what was put together, and what is ours to write. Ready: the socket has all of it.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let next: &[u8] = match &*self.batch {
                [] => self.shim.out(),
                batch => batch,
            };
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(match next {
                    [] => Ok(()),
                    _ => Err(io::ErrorKind::NotConnected.into()),
                });
            };
            let stream = Pin::new(stream);
            if next.is_empty() {
                return stream.poll_flush(cx);
            }
            let n = ready!(stream.poll_write(cx, next))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if self.batch.is_empty() {
                self.shim.sent(n);
            } else {
                self.batch.advance(n);
            }
            if self.batch.is_empty() {
                // An idle connection holds no buffers.
                self.batch = BytesMut::new();
            }
            self.writes = self.writes.wrapping_add(1);
        }
    }

    /// Writes all there is. For `h2`, which closes now and reads no more, the end of an answer that waits
    /// for the client's window has been written: what the client allows is read here.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_out(cx))?;
            if !self.shim.is_waiting() || self.end != End::Open {
                return Poll::Ready(Ok(()));
            }
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(Ok(()));
            };
            let inbox = self.shim.inbox();
            inbox.reserve(READ);
            if ready!(poll_read_into(stream, cx, inbox))? == 0 {
                self.end = End::Told;
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
            if self.end == End::Held && self.waits_for_answers() {
                self.has_read_all = true;
                // No waker: the driver looks whether it still waits.
                return Poll::Pending;
            }
            if self.end != End::Open {
                self.end = End::Told;
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
                if read.is_empty() && buf.remaining() > 0 {
                    self.end = End::Held;
                    continue;
                }
                self.reads = self.reads.wrapping_add(1);
                self.shim.read(read, Instant::now());
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
            let read = poll_read_into(stream, cx, inbox);
            if let Poll::Ready(Ok(0)) = read {
                // Everything it has said is to be answered.
                self.end = End::Held;
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
                self.shim.read_nothing();
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
        if self.stream.is_none() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if self.shim.writes_directly() {
            let small = len <= BATCH / 2;
            if !small || self.batch.len() + len > BATCH {
                ready!(self.poll_out(cx))?;
            }
            let n = if small {
                for buf in bufs {
                    self.batch.extend_from_slice(buf);
                }
                len
            } else {
                let Some(stream) = &mut self.stream else {
                    return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
                };
                let n = ready!(Pin::new(stream).poll_write_vectored(cx, bufs))?;
                self.writes = self.writes.wrapping_add(1);
                n
            };
            self.shim.written(bufs, n);
            return Poll::Ready(Ok(n));
        }
        if self.shim.is_full() {
            return Poll::Pending;
        }
        for buf in bufs {
            self.shim.write(buf);
        }
        match self.poll_out(cx) {
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            _ => Poll::Ready(Ok(len)),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It may say more yet.
        if self.batch.is_empty() || !self.shim.writes_directly() {
            ready!(self.poll_out(cx))?;
        }
        self.is_dirty = false;
        self.is_woken |= self.shim.flushed();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Holds + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.lock().poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Holds + Unpin> AsyncWrite for Wire<S> {
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::frames;
    use super::super::settings::CONNECTION_WINDOW;
    use super::*;
    use crate::worker::preface::PREFACE;

    /// Takes `room` bytes; so many writes.
    #[derive(Debug, Default)]
    struct Socket {
        taken: Vec<u8>,
        room: usize,
        writes: u32,
    }

    impl Holds for Socket {
        fn holds(&self) -> bool {
            false
        }
    }

    impl AsyncRead for Socket {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.room);
            if n == 0 {
                return Poll::Pending;
            }
            self.room -= n;
            self.writes += 1;
            self.taken.extend(&buf[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn core(room: usize) -> Core<Socket> {
        let socket = Socket {
            room,
            ..Socket::default()
        };
        let mut core = Core::new(socket, Shim::new(PREFACE, CONNECTION_WINDOW));
        // Until the preface has gone to `h2` nothing is direct.
        while core.shim.give(<[u8]>::len) {}
        assert!(core.shim.writes_directly());
        core
    }

    fn data(len: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        frames::write(&mut frame, frames::DATA, 0, 1, &vec![7; len]);
        frame
    }

    #[test]
    fn small_answers_are_one_write_and_large_ones_are_not_copied() {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut core = core(usize::MAX);
        let mut said = Vec::new();
        let mut say = |core: &mut Core<Socket>, cx: &mut Context<'_>, len: usize| {
            let frame = data(len);
            let written = core.poll_write(cx, &[IoSlice::new(&frame)]);
            assert!(matches!(written, Poll::Ready(Ok(n)) if n == frame.len()));
            assert!(core.poll_flush(cx).is_ready());
            said.extend(frame);
        };
        for _ in 0..14 {
            say(&mut core, cx, 1024);
        }
        assert_eq!(core.stream.as_ref().unwrap().writes, 0);
        assert!(core.has_unwritten());
        assert!(core.poll_out(cx).is_ready());
        assert_eq!(core.stream.as_ref().unwrap().writes, 1);
        assert!(!core.has_unwritten());
        // In order, whatever waits.
        say(&mut core, cx, 1024);
        say(&mut core, cx, BATCH);
        assert_eq!(core.stream.as_ref().unwrap().writes, 3);
        assert_eq!(core.stream.unwrap().taken, said);
    }

    /// Else a client that takes nothing would never be idle.
    #[test]
    fn what_the_socket_does_not_take_is_no_progress() {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut core = core(0);
        let frame = data(BATCH);
        for _ in 0..2 {
            assert!(core.poll_write(cx, &[IoSlice::new(&frame)]).is_pending());
            assert_eq!(core.writes, 0);
        }
    }

    /// It kept what one read may bring, 16 KiB, from its first move on.
    #[test]
    fn a_connection_that_waits_for_its_client_holds_no_buffer_for_it() {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut core = core(usize::MAX);
        core.shim.freeze();
        let mut buf = [0; 8];
        assert!(core.poll_read(cx, &mut ReadBuf::new(&mut buf)).is_pending());
        assert_eq!(core.shim.inbox().capacity(), 0);
    }

    #[test]
    fn what_the_socket_does_not_take_is_not_forgotten_and_not_much() {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut core = core(100);
        let frame = data(1024);
        let mut taken = 0;
        while let Poll::Ready(written) = core.poll_write(cx, &[IoSlice::new(&frame)]) {
            taken += written.unwrap();
            assert!(core.poll_flush(cx).is_ready());
        }
        assert!(taken <= BATCH + 100, "{taken}");
        assert!(core.poll_out(cx).is_pending() && core.has_unwritten() && !core.is_quiet());
        core.stream.as_mut().unwrap().room = usize::MAX;
        assert!(core.poll_out(cx).is_ready() && !core.has_unwritten());
        assert_eq!(core.stream.unwrap().taken.len(), taken);
    }
}
