//! An open file as a stream of bytes: what the kernel has in memory is read here, the rest by
//! tokio's threads.

use std::fs::{File, Metadata};
use std::future::{Ready, ready};
use std::io::{self, IoSliceMut, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs as serve;

/// A regular file with the length that it had when it was opened: an answer has said it, so what is
/// appended meanwhile is not read.
#[derive(Debug)]
pub(super) struct Opened {
    file: tokio::fs::File,
    metadata: Metadata,
    position: u64,
    way: Way,
}

/// How the next bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Without waiting.
    Here,
    /// The first that would have waited: tokio's file is sent to `position`, and stays the way.
    Seeking,
    /// By a thread that may wait.
    Elsewhere,
}

impl Opened {
    pub(super) fn new(file: File, metadata: Metadata) -> Self {
        Self {
            file: tokio::fs::File::from_std(file),
            metadata,
            position: 0,
            way: Way::Here,
        }
    }

    /// As it was when it was opened.
    pub(super) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Gives `None` when it would wait, or this file cannot be read so.
    fn read_here(&self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let mut slices = [IoSliceMut::new(buf)];
        match preadv2(
            &self.file,
            &mut slices,
            self.position,
            ReadWriteFlags::NOWAIT,
        ) {
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                None
            }
            read => Some(read.map_err(Into::into)),
        }
    }
}

impl AsyncRead for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let left = this.metadata.len().saturating_sub(this.position);
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buf.remaining());
        if most == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.way == Way::Here {
            if let Some(read) = this.read_here(buf.initialize_unfilled_to(most)) {
                let read = read?;
                buf.advance(read);
                this.position += read as u64;
                return Poll::Ready(Ok(()));
            }
            Pin::new(&mut this.file).start_seek(SeekFrom::Start(this.position))?;
            this.way = Way::Seeking;
        }
        if this.way == Way::Seeking {
            ready!(Pin::new(&mut this.file).poll_complete(cx))?;
            this.way = Way::Elsewhere;
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.file).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        this.position += read as u64;
        Poll::Ready(Ok(()))
    }
}

/// From the start only, and before anything is read: all that an answer about a range needs.
impl AsyncSeek for Opened {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        match (position, self.way) {
            (SeekFrom::Start(position), Way::Here) => {
                self.position = position;
                Ok(())
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}

impl serve::File for Opened {
    type Metadata = Metadata;
    type MetadataFuture<'a> = Ready<io::Result<Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.metadata.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::{AsyncReadExt, AsyncSeekExt};

    use super::*;

    fn opened(bytes: &[u8]) -> (File, Opened) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let metadata = file.metadata().unwrap();
        (file.try_clone().unwrap(), Opened::new(file, metadata))
    }

    fn bytes() -> Vec<u8> {
        (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    #[tokio::test]
    async fn the_bytes_are_the_same_whoever_reads_them() {
        let bytes = bytes();
        for (start, here) in [(0, usize::MAX), (0, 0), (70_000, 0), (70_000, 3)] {
            let (_, mut opened) = opened(&bytes);
            opened.seek(SeekFrom::Start(start)).await.unwrap();
            let start = usize::try_from(start).unwrap();
            let mut read = Vec::new();
            for _ in 0..here {
                if opened.read_buf(&mut read).await.unwrap() == 0 {
                    break;
                }
            }
            if here != usize::MAX {
                // As if the next bytes were not in memory.
                let position = SeekFrom::Start(opened.position);
                Pin::new(&mut opened.file).start_seek(position).unwrap();
                opened.way = Way::Seeking;
            }
            opened.read_to_end(&mut read).await.unwrap();
            assert!(read == bytes[start..], "{start} {here}");
        }
    }

    #[tokio::test]
    async fn what_is_in_memory_is_read_without_a_thread() {
        let (_, mut opened) = opened(&bytes());
        let mut read = Vec::new();
        opened.read_to_end(&mut read).await.unwrap();
        assert_eq!(opened.way, Way::Here);
    }

    #[tokio::test]
    async fn a_file_that_grows_ends_where_it_did_and_one_that_shrinks_ends_sooner() {
        for way in [Way::Here, Way::Seeking] {
            let (mut file, mut opened) = opened(b"0123456789");
            file.write_all(b"more").unwrap();
            Pin::new(&mut opened.file)
                .start_seek(SeekFrom::Start(0))
                .unwrap();
            opened.way = way;
            let mut read = Vec::new();
            opened.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"0123456789");
        }
        let (file, mut opened) = opened(b"0123456789");
        file.set_len(4).unwrap();
        let mut read = Vec::new();
        opened.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"0123");
    }
}
