//! What an answer sends of a file, piece by piece. The site makes it; a worker reads it, or gives
//! its pieces to the kernel to send.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::{JoinHandle, spawn_blocking};

/// The pieces of a body in their order.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pieces: VecDeque<Piece>,
}

/// A piece of a body.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Bytes of ours, such as what stands between two ranges.
    Text(Bytes),
    /// Bytes of a file.
    File(FilePart),
}

/// Bytes of an open file that are still to be sent. Their number has been promised in a header: when
/// the file has become shorter that is an error, and what is appended meanwhile is not sent.
#[derive(Debug, Clone)]
pub struct FilePart {
    file: Arc<File>,
    position: u64,
    left: u64,
}

/// What is read at once.
const READ: usize = 64 * 1024;

/// The kernel reads ahead at least so much: if it has the first byte, it most likely has the rest.
const READ_AHEAD: u64 = 128 * 1024;

impl Content {
    /// One part of a file.
    #[must_use]
    pub fn of_file(file: File, position: u64, length: u64) -> Self {
        Self::new([Piece::of_file(&Arc::new(file), position, length)])
    }

    /// Pieces in this order.
    pub fn new(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        Self {
            pieces: pieces.collect(),
        }
    }

    /// Bytes that are left.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The next bytes: a whole text, or at most `most` bytes of a file. `None`: that was all.
    pub fn split_off(&mut self, most: u64) -> Option<Piece> {
        match self.pieces.front_mut()? {
            Piece::File(part) if part.left > most => Some(Piece::File(part.split_to(most))),
            _ => self.pieces.pop_front(),
        }
    }

    /// A body that reads them: what the kernel has in memory at once, the rest in tokio's threads.
    pub fn read(self) -> Body {
        Body::new(self.reader())
    }

    /// All of them, read in the same way.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the file has become shorter.
    pub async fn bytes(self) -> io::Result<Bytes> {
        Ok(self.reader().collect().await?.to_bytes())
    }

    fn reader(self) -> Reader {
        Reader {
            content: self,
            reading: None,
        }
    }
}

impl Piece {
    /// A part of a file.
    #[must_use]
    pub fn of_file(file: &Arc<File>, position: u64, length: u64) -> Self {
        Self::File(FilePart {
            file: Arc::clone(file),
            position,
            left: length,
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File(part) => part.left,
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FilePart {
    /// The file, and where in it the next byte is.
    #[must_use]
    pub fn place(&self) -> (&File, u64) {
        (&self.file, self.position)
    }

    /// Bytes that are left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// So many have been sent.
    pub fn advance(&mut self, sent: u64) {
        self.position += sent;
        self.left -= sent;
    }

    fn split_to(&mut self, length: u64) -> Self {
        let first = Self {
            left: length,
            ..self.clone()
        };
        self.advance(length);
        first
    }

    /// Whether the kernel can give these bytes without waiting for a disk, as far as a few samples
    /// tell.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        let end = self.position + self.left;
        let mut at = self.position;
        while at < end {
            // At the file's end there is nothing to wait for.
            if read_at_once(&self.file, &mut [0], at).is_none() {
                return false;
            }
            at += READ_AHEAD;
        }
        true
    }

    /// Waits until the kernel has these bytes in memory. For a thread that may wait.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn load(&self) -> io::Result<()> {
        let mut buffer = vec![0; READ];
        let mut part = self.clone();
        while part.left > 0 {
            let most = part.most();
            match self.file.read_at(&mut buffer[..most], part.position)? {
                0 => break,
                n => part.advance(n as u64),
            }
        }
        Ok(())
    }

    /// The length of the next read.
    fn most(&self) -> usize {
        usize::try_from(self.left).unwrap_or(READ).min(READ)
    }

    /// Reads the next bytes; waits for the disk.
    fn read(&self) -> io::Result<Bytes> {
        let mut bytes = BytesMut::zeroed(self.most());
        let n = self.file.read_at(&mut bytes, self.position)?;
        bytes.truncate(n);
        Ok(bytes.freeze())
    }

    /// The same without waiting. `None`: it would wait, or this file cannot be read so.
    fn read_at_once(&self) -> Option<io::Result<Bytes>> {
        let mut bytes = BytesMut::zeroed(self.most());
        let read = read_at_once(&self.file, &mut bytes, self.position)?;
        Some(read.map(|n| {
            bytes.truncate(n);
            bytes.freeze()
        }))
    }
}

/// Reads what the kernel has in memory. `None`: it would wait, or this file cannot be read so.
pub fn read_at_once(file: &File, into: &mut [u8], position: u64) -> Option<io::Result<usize>> {
    let mut slices = [io::IoSliceMut::new(into)];
    match preadv2(file, &mut slices, position, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => None,
        read => Some(read.map_err(Into::into)),
    }
}

/// A file became shorter than the answer has said.
#[must_use]
pub fn became_shorter() -> io::Error {
    let why = "the file became shorter while it was sent";
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}

/// See [`Content::read`].
#[derive(Debug)]
struct Reader {
    content: Content,
    /// The thread that reads the next bytes of the first piece.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let part = match this.content.pieces.front_mut() {
            None => return Poll::Ready(None),
            Some(Piece::Text(text)) => {
                let text = std::mem::take(text);
                this.content.pieces.pop_front();
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
            Some(Piece::File(part)) => part,
        };
        let at_once = match this.reading {
            None => part.read_at_once(),
            Some(_) => None,
        };
        let read = if let Some(read) = at_once {
            read
        } else {
            let reading = this.reading.get_or_insert_with(|| {
                let part = part.clone();
                spawn_blocking(move || part.read())
            });
            let read = ready!(Pin::new(reading).poll(cx));
            this.reading = None;
            read.unwrap_or_else(|e| Err(e.into()))
        };
        let bytes = match read {
            Ok(bytes) if bytes.is_empty() => return Poll::Ready(Some(Err(became_shorter()))),
            Ok(bytes) => bytes,
            Err(e) => return Poll::Ready(Some(Err(e))),
        };
        part.advance(bytes.len() as u64);
        if part.left == 0 {
            this.content.pieces.pop_front();
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn bytes() -> Vec<u8> {
        (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    #[tokio::test]
    async fn the_pieces_come_in_their_order_and_no_byte_beside_them() {
        let bytes = bytes();
        let file = Arc::new(file(&bytes));
        let content = Content::new([
            Piece::Text("<".into()),
            Piece::of_file(&file, 70_000, 200_000),
            Piece::Text(Bytes::new()),
            Piece::of_file(&file, 3, 0),
            Piece::Text("|".into()),
            Piece::of_file(&file, 5, 1),
        ]);
        assert_eq!(content.len(), 200_003);
        let whole = [b"<", &bytes[70_000..270_000], b"|", &bytes[5..6]].concat();
        assert!(content.bytes().await.unwrap() == whole);
    }

    #[tokio::test]
    async fn the_bytes_are_the_same_whoever_reads_them() {
        let bytes = bytes();
        let length = bytes.len() as u64;
        for threads_after in [0, 1, 3, usize::MAX] {
            let mut reader = Content::of_file(file(&bytes), 0, length).reader();
            let mut read = Vec::new();
            let mut frames = 0;
            while read.len() < bytes.len() {
                if frames >= threads_after {
                    // As if the next bytes were not in memory.
                    let Some(Piece::File(part)) = reader.content.pieces.front().cloned() else {
                        panic!("a part of a file");
                    };
                    reader.reading = Some(spawn_blocking(move || part.read()));
                }
                let frame = reader.frame().await.unwrap().unwrap();
                read.extend_from_slice(&frame.into_data().unwrap());
                frames += 1;
            }
            assert!(reader.frame().await.is_none());
            assert!(read == bytes, "threads after {threads_after} frames");
        }
    }

    #[tokio::test]
    async fn a_file_that_grows_ends_where_it_did_and_one_that_shrinks_is_an_error() {
        let mut grows = file(b"0123456789");
        let content = Content::of_file(grows.try_clone().unwrap(), 0, 10);
        grows.write_all(b"more").unwrap();
        assert_eq!(content.bytes().await.unwrap(), "0123456789");
        let shrinks = file(b"0123456789");
        let content = Content::of_file(shrinks.try_clone().unwrap(), 0, 10);
        shrinks.set_len(4).unwrap();
        let error = content.bytes().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_was_just_written_is_in_memory() {
        let bytes = bytes();
        let mut content = Content::of_file(file(&bytes), 0, bytes.len() as u64);
        while let Some(Piece::File(part)) = content.split_off(300_000) {
            assert!(part.left() <= 300_000 && part.is_in_memory());
            part.load().unwrap();
        }
        assert!(content.is_empty());
    }
}
