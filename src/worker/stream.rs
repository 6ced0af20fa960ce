//! A client's connection: TCP or Unix, with TLS on it or without, and who is at the other end.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::{TlsInfo, TlsStream};
pub(super) use crate::context::Peer;
use crate::context::UnixPeer;
use crate::machine::link::TLS_WRITES;
use crate::sys::kernel;

/// A connected socket, registered with the runtime.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Over one of the others; its handshake is done.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Takes over a connected socket. Needs a runtime.
    pub(super) fn from_fd(fd: OwnedFd) -> io::Result<(Self, Peer)> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let stream = if sockopt::socket_domain(&fd)? == AddressFamily::UNIX {
            Self::Unix(UnixStream::from_std(fd.into())?)
        } else {
            Self::Tcp(TcpStream::from_std(fd.into())?)
        };
        let peer = stream.peer()?;
        Ok((stream, peer))
    }

    /// Who is at the other end; an error when it has gone already.
    pub(super) fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(s) => s.peer_addr().map(Peer::Tcp),
            Self::Unix(s) => s.peer_cred().map(|cred| {
                Peer::Unix(UnixPeer {
                    pid: cred.pid(),
                    uid: cred.uid(),
                    gid: cred.gid(),
                })
            }),
            Self::Tls(s) => s.socket().peer(),
        }
    }

    /// What the client and we agreed on, where it is TLS.
    pub(super) fn tls(&self) -> Option<Arc<TlsInfo>> {
        match self {
            Self::Tls(s) => s.info(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Whether a worker can go on with it that reads TLS connections up to this version.
    pub(super) fn can_move_to(&self, tls: u32) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Tls(s) => tls >= TLS_WRITES && s.can_move(),
        }
    }

    /// How long what must travel with it is, about.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Tcp(_) | Self::Unix(_) => 0,
            Self::Tls(s) => s.weight(),
        }
    }

    /// Whether it should end soon.
    pub(super) fn wears_out(&self) -> bool {
        matches!(self, Self::Tls(s) if s.wears_out())
    }

    /// Whether something that was written waits for the socket.
    #[cfg(feature = "http2")]
    pub(super) fn has_unwritten(&self) -> bool {
        matches!(self, Self::Tls(s) if s.has_unwritten())
    }

    /// Ready when the socket has bytes, an error or an EOF.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(s) => s.poll_read_ready(cx),
            Self::Unix(s) => s.poll_read_ready(cx),
            Self::Tls(s) => s.poll_readable(cx),
        }
    }

    /// Reads what is there; 0 at the end.
    pub(super) fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            // A short read tells the runtime that there is no more: the next one asks no kernel.
            Self::Tcp(s) => poll_read_into(s, cx, into),
            Self::Unix(s) => poll_read_into(s, cx, into),
            Self::Tls(s) => s.poll_read_some(cx, into),
        }
    }

    /// Writes what the socket takes at once, where no TLS is in between.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.try_write(bytes),
            Self::Unix(s) => s.try_write(bytes),
            Self::Tls(_) => Err(NOT_BELOW_TLS.into()),
        }
    }

    /// Writes what the socket takes at once, where no TLS is in between, and asks the kernel, not the
    /// runtime, whether it does: a stream that was registered just now is writable to the kernel, and
    /// not yet to the runtime.
    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        if let Self::Tls(_) = self {
            return Err(NOT_BELOW_TLS.into());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(rustix::net::send(self, bytes, flags)?)
    }

    /// Writes a last word, and that it is the last, as far as the socket takes it at once.
    pub(super) fn say_last(&mut self, bytes: &[u8]) {
        // Nobody is left to be told that it failed.
        let _ = match self {
            Self::Tls(s) => s.say_last(bytes),
            Self::Tcp(_) | Self::Unix(_) => self.send_now(bytes).map(drop),
        };
        self.say_close();
    }

    /// Calls `write` when the socket takes something, again when it does not after all.
    pub(super) fn poll_when_writable<T>(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&Self) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        use io::ErrorKind::{Interrupted, WouldBlock};
        loop {
            let done = match self {
                Self::Tcp(s) => {
                    ready!(s.poll_write_ready(cx))?;
                    s.try_io(Interest::WRITABLE, || write(self))
                }
                Self::Unix(s) => {
                    ready!(s.poll_write_ready(cx))?;
                    s.try_io(Interest::WRITABLE, || write(self))
                }
                Self::Tls(_) => Err(NOT_BELOW_TLS.into()),
            };
            match done {
                Err(e) if matches!(e.kind(), WouldBlock | Interrupted) => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Writes what the socket takes at once, where no TLS is in between, and lets the kernel know that
    /// more follows.
    pub(super) fn send_more(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Self::Tls(_) = self {
            return Err(NOT_BELOW_TLS.into());
        }
        let more = SendFlags::MORE | SendFlags::NOSIGNAL;
        let sent = rustix::net::sendmsg(self, bufs, &mut SendAncillaryBuffer::default(), more)?;
        Ok(sent)
    }

    /// Says, as far as the protocol has words for it, that nothing more will be written; between two
    /// answers.
    pub(super) fn say_close(&mut self) {
        if let Self::Tls(s) = self {
            s.say_close();
        }
    }

    /// The same, and lets the kernel say it, too.
    pub(super) fn end_writing(&mut self) {
        self.say_close();
        let _ = rustix::net::shutdown(&*self, Shutdown::Write);
    }

    /// Asks the kernel, not the runtime, whether unread bytes are there.
    pub(super) fn has_unread(&self) -> bool {
        if let Self::Tls(s) = self {
            return s.has_unread();
        }
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(self, &mut byte, flags), Ok((n, _)) if n > 0)
    }

    /// How much of what was written the client's kernel does not have yet, as far as ours tells.
    pub(super) fn unacknowledged(&self) -> usize {
        kernel::unacknowledged(self.as_fd()).unwrap_or(0)
    }

    /// Whether a part of a record is here, over TLS, which is no plain text before it is whole.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self, Self::Tls(s) if s.has_begun())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
            Self::Tls(s) => s.socket().as_fd(),
        }
    }
}

/// The bytes of a TLS connection are sealed first.
const NOT_BELOW_TLS: io::ErrorKind = io::ErrorKind::Unsupported;

macro_rules! either {
    ($self:ident, $s:ident => $body:expr) => {
        match $self.get_mut() {
            Stream::Tcp(s) => {
                let $s = Pin::new(s);
                $body
            }
            Stream::Unix(s) => {
                let $s = Pin::new(s);
                $body
            }
            Stream::Tls(s) => {
                let $s = Pin::new(&mut **s);
                $body
            }
        }
    };
}

/// Appends what there is to read.
pub(super) fn poll_read_into(
    from: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    into: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    pin!(from.read_buf(into)).poll(cx)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, s => s.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, s => s.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => s.poll_shutdown(cx))
    }
}
