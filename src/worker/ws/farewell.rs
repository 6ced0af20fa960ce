//! A WebSocket whose application takes no part in a drain: when its time has come, it is sent a
//! close frame with code 1012 (service restart) between two messages. The client's own close frame
//! goes to the application like any other, so it ends as if the client had closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};

use super::frames::Frames;
use crate::context::Ending;
use crate::worker::stream::Stream;

/// The end of one WebSocket.
#[derive(Debug)]
pub(in crate::worker) struct Farewell {
    ending: Ending,
    /// What the application has sent.
    sent: Frames,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Its time has not come.
    Open,
    /// It has, and the application is in the middle of a message.
    Due,
    /// So much of the close frame is not written; when all of it is, TLS may still have it.
    Saying(&'static [u8]),
    /// The client has so long for its own.
    Said(Pin<Box<Sleep>>),
    /// It has ended for the application.
    Over,
}

/// Final, close, 17 bytes: 1012 and a reason (RFC 6455, 5.5.1 and 11.7).
pub(in crate::worker) const CLOSE: &[u8] = b"\x88\x11\x03\xf4service restart";

/// For the client's answer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Farewell {
    pub(in crate::worker) fn new(ending: Ending) -> Self {
        Self {
            ending,
            sent: Frames::new(),
            stage: Stage::Open,
        }
    }

    /// Before the application reads. Returns whether all is over: it reads an end.
    pub(in crate::worker) fn poll_over(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> bool {
        loop {
            match &mut self.stage {
                Stage::Open => {
                    if self.ending.poll(cx).is_pending() && !stream.wears_out() {
                        return false;
                    }
                    self.stage = Stage::Due;
                }
                Stage::Due => {
                    if !self.sent.between_messages() {
                        return false;
                    }
                    self.stage = Stage::Saying(CLOSE);
                }
                Stage::Saying([]) => match Pin::new(&mut *stream).poll_flush(cx) {
                    Poll::Pending => return false,
                    Poll::Ready(Ok(())) => self.stage = Stage::Said(Box::pin(sleep(PATIENCE))),
                    Poll::Ready(Err(_)) => self.stage = Stage::Over,
                },
                Stage::Saying(rest) => match Pin::new(&mut *stream).poll_write(cx, rest) {
                    Poll::Pending => return false,
                    Poll::Ready(Ok(n @ 1..)) => *rest = &rest[n..],
                    Poll::Ready(Ok(0) | Err(_)) => self.stage = Stage::Over,
                },
                Stage::Said(patience) => {
                    if patience.as_mut().poll(cx).is_pending() {
                        return false;
                    }
                    self.stage = Stage::Over;
                }
                Stage::Over => return true,
            }
        }
    }

    /// The application writes. What it says after the close frame goes nowhere.
    pub(in crate::worker) fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !matches!(self.stage, Stage::Open | Stage::Due) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let n = ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
        self.sent.pass(&bytes[..n]);
        if matches!(self.stage, Stage::Due) || stream.wears_out() {
            self.poll_over(stream, cx);
        }
        Poll::Ready(Ok(n))
    }
}
