//! Files from the kernel's memory to the socket, without a copy in ours (`sendfile(2)`), under
//! hyper, which knows nothing of that.
//!
//! hyper counts a body's bytes and keeps their order among heads and other bodies, but never looks
//! at them. So a body may give it bytes that are not there: [`Chunk::File`] says its length, and
//! shows a part of one [`placeholder`] for its bytes. What the placeholder stands for waits in the
//! connection's [`Queue`], in the same order. When hyper writes, the IO wrapper tells the
//! placeholder by its address, and has the kernel send the file in its place.
//!
//! Only over plain HTTP/1.1 with vectored writes: elsewhere hyper, or TLS, would look.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use rustix::io::Errno;
use tokio::io::AsyncWrite as _;
use tokio::task::{JoinHandle, spawn_blocking};

use super::gate::Gate;
use super::lock;
use super::stream::Stream;
use crate::content::{Content, FilePart, Piece, became_shorter};

/// What is given to hyper at once. The access log counts it as sent then.
const MOST: usize = 1024 * 1024;

/// Bytes of a body, as hyper gets them.
#[derive(Debug)]
pub(super) enum Chunk {
    Bytes(Bytes),
    /// So many bytes of the files in the [`Queue`].
    File(usize),
}

/// The parts of files that hyper has been given and not written yet.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<VecDeque<FilePart>>);

/// The body of an answer, read, or sent by the kernel.
#[derive(Debug)]
pub(super) enum Sent {
    Read(Body),
    ByKernel(Box<ByKernel>),
}

/// The body of an answer that the kernel sends.
#[derive(Debug)]
pub(super) struct ByKernel {
    gate: Arc<Gate>,
    content: Content,
    /// The next part, being brought into the kernel's memory by a thread: `sendfile` would wait
    /// for the disk, and this thread has other clients.
    loading: Option<(FilePart, JoinHandle<io::Result<()>>)>,
}

/// Memory that is asked for and never used, so that it costs nothing. Nobody else has a slice of it.
fn placeholder() -> &'static [u8] {
    static PLACEHOLDER: LazyLock<&[u8]> = LazyLock::new(|| vec![0; MOST].leak());
    &PLACEHOLDER
}

fn is_placeholder(bytes: &[u8]) -> bool {
    placeholder().as_ptr_range().contains(&bytes.as_ptr())
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.remaining(),
            Self::File(left) => *left,
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.chunk(),
            Self::File(left) => &placeholder()[..*left],
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::File(left) => *left -= count,
        }
    }
}

impl Sent {
    /// An answer over plain HTTP/1.1.
    pub(super) fn new(body: Body, content: Option<Content>, gate: &Arc<Gate>) -> Self {
        match content {
            // What was made of the body on its way here the kernel would not know.
            Some(content) if body.size_hint().exact() == Some(content.len()) => {
                Self::ByKernel(Box::new(ByKernel {
                    gate: Arc::clone(gate),
                    content,
                    loading: None,
                }))
            }
            _ => Self::Read(body),
        }
    }

    /// The next bytes.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, axum::Error>>> {
        match self {
            Self::Read(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| Ok(frame?.map_data(Chunk::Bytes))))
            }
            Self::ByKernel(answer) => {
                let chunk = ready!(answer.poll(cx)).map_err(axum::Error::new)?;
                Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Read(body) => body.is_end_stream(),
            Self::ByKernel(answer) => answer.left() == 0,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Read(body) => body.size_hint(),
            Self::ByKernel(answer) => SizeHint::with_exact(answer.left()),
        }
    }
}

impl ByKernel {
    /// The next piece; `None`: there is no more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        loop {
            let part = if let Some((part, thread)) = &mut self.loading {
                let loaded = ready!(Pin::new(thread).poll(cx));
                let part = part.clone();
                self.loading = None;
                loaded.unwrap_or_else(|e| Err(e.into()))?;
                part
            } else {
                match self.content.split_off(MOST as u64) {
                    None => return Poll::Ready(Ok(None)),
                    Some(Piece::Text(text)) => {
                        return Poll::Ready(Ok(Some(Chunk::Bytes(text))));
                    }
                    Some(Piece::File(part)) if part.is_in_memory() => part,
                    Some(Piece::File(part)) => {
                        let reading = part.clone();
                        self.loading = Some((part, spawn_blocking(move || reading.load())));
                        continue;
                    }
                }
            };
            let length = usize::try_from(part.left()).unwrap_or(MOST);
            self.gate.files.push(part);
            return Poll::Ready(Ok(Some(Chunk::File(length))));
        }
    }

    /// Bytes that hyper has not been given.
    fn left(&self) -> u64 {
        let loading = self.loading.as_ref().map_or(0, |(part, _)| part.left());
        self.content.len() + loading
    }
}

impl Queue {
    fn push(&self, part: FilePart) {
        lock(&self.0).push_back(part);
    }

    /// Writes what hyper wants to have written, files in the place of placeholders.
    pub(super) fn poll_write(
        &self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs.iter().position(|buf| is_placeholder(buf)) {
            None => Pin::new(stream).poll_write_vectored(cx, bufs),
            Some(0) => stream.poll_when_writable(cx, |stream| self.send(stream, bufs[0].len())),
            // What follows at once goes into the same packet.
            Some(n) => stream.poll_when_writable(cx, |stream| stream.send_more(&bufs[..n])),
        }
    }

    fn send(&self, stream: &Stream, most: usize) -> io::Result<usize> {
        let mut parts = lock(&self.0);
        let Some(part) = parts.front_mut() else {
            return Err(io::Error::other("there is no file where one is to be sent"));
        };
        let most = usize::try_from(part.left()).unwrap_or(most).min(most);
        let (file, position) = part.place();
        let sent = match rustix::fs::sendfile(stream, file, Some(&mut position.clone()), most) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                // A file system that can only be read.
                let mut buffer = vec![0; most.min(64 * 1024)];
                let read = file.read_at(&mut buffer, position)?;
                stream.try_write(&buffer[..read])?
            }
            sent => sent?,
        };
        if sent == 0 {
            return Err(became_shorter());
        }
        part.advance(sent as u64);
        if part.left() == 0 {
            parts.pop_front();
        }
        Ok(sent)
    }
}
