//! A connection to the application as hyper reads and writes it. An application that refuses a large
//! body early (413, 401) answers and closes, with the body unread: then a write fails although the
//! answer is there to be read. So a failed write takes nothing away from what is read; what was to be
//! written is dropped, and the failure is told if no answer comes.
//!
//! Between two requests the application has nothing to say. Whether it did is asked of the kernel, not of
//! what the runtime last heard.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

#[derive(Debug)]
pub(super) struct Stream {
    io: Io,
    /// The other side takes no more, and has said nothing since.
    refused: Option<io::ErrorKind>,
    /// The other side takes no more.
    closed: bool,
    /// The other side says no more.
    ended: bool,
    /// Whether the other side has nothing to say now.
    between: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Io {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub(super) fn unix(stream: UnixStream) -> Self {
        Self::new(Io::Unix(stream))
    }

    pub(super) fn tcp(stream: TcpStream) -> Self {
        Self::new(Io::Tcp(stream))
    }

    fn new(io: Io) -> Self {
        Self {
            io,
            refused: None,
            closed: false,
            ended: false,
            between: Arc::default(),
        }
    }

    /// Is set while a byte, or an end, that is there is a failure.
    pub(super) fn between(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.between)
    }

    /// What is to be written to a side that takes no more: there may be an answer of it to be read.
    fn dropped(&self, all: usize) -> Poll<io::Result<usize>> {
        Poll::Ready(if self.ended {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(all)
        })
    }

    fn wrote(&mut self, written: io::Result<usize>, all: usize) -> io::Result<usize> {
        match written {
            Err(e) if is_closed(e.kind()) => {
                self.closed = true;
                self.refused = Some(e.kind());
                Ok(all)
            }
            written => written,
        }
    }
}

fn is_closed(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(kind, BrokenPipe | ConnectionReset)
}

impl Io {
    /// Bytes, an end or a failure, which a read would give now.
    fn has_something(&self) -> bool {
        let fd: BorrowedFd<'_> = match self {
            Self::Unix(s) => s.as_fd(),
            Self::Tcp(s) => s.as_fd(),
        };
        let peeked = recv(fd, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Err(Errno::AGAIN | Errno::INTR))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        let read = match &mut this.io {
            Io::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Io::Tcp(s) => Pin::new(s).poll_read(cx, buf),
        };
        if read.is_pending() && this.between.load(Ordering::Relaxed) && this.io.has_something() {
            let unasked = "the application said something that nobody had asked for, or closed";
            return Poll::Ready(Err(io::Error::other(unasked)));
        }
        let read = ready!(read);
        let came = buf.filled().len() > before;
        if came {
            this.refused = None;
        } else if room {
            this.ended = true;
        }
        Poll::Ready(match (read, this.refused) {
            (Ok(()), Some(kind)) if room && !came => Err(kind.into()),
            (read, _) => read,
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closed {
            return this.dropped(buf.len());
        }
        let written = match &mut this.io {
            Io::Unix(s) => Pin::new(s).poll_write(cx, buf),
            Io::Tcp(s) => Pin::new(s).poll_write(cx, buf),
        };
        let written = ready!(written);
        Poll::Ready(this.wrote(written, buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let all = bufs.iter().map(|buf| buf.len()).sum();
        if this.closed {
            return this.dropped(all);
        }
        let written = match &mut this.io {
            Io::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Io::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        };
        let written = ready!(written);
        Poll::Ready(this.wrote(written, all))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Io::Tcp(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
