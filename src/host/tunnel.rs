//! A connection whose protocol was switched (WebSockets): bytes both ways, until both sides have ended, or
//! the client has and the application is silent, or nobody has sent a byte for `tunnel_timeout`: a phone
//! that went away says nothing. The worker counts it as the client's connection until then.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::front::Front;
use super::link::Link;
use super::pool::Turn;
use super::refusal::Cause;

/// For what the application has to say yet when the client has ended. Many a server never ends its side.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Carries bytes until that is over.
pub(super) async fn carry(
    client: OnUpgrade,
    application: OnUpgrade,
    link: Link,
    turn: Turn,
    front: Arc<Front>,
) {
    // hyper lets go of the application's connection: the tunnel is the only one who has it.
    link.ended().await;
    let both = tokio::try_join!(client, application);
    let (client, application) = match both {
        Ok(both) => both,
        Err(e) => {
            let why = format!("a switch of protocols came to nothing: {e}");
            return front.complaints.say(Cause::Tunnel, &why);
        }
    };
    let last = Last::now();
    let ended = Notify::new();
    let mut client = Watched(TokioIo::new(client), last.clone(), Some(&ended));
    let mut application = Watched(TokioIo::new(application), last.clone(), None);
    tokio::select! {
        // That one of them went away is how tunnels end.
        _ = tokio::io::copy_bidirectional(&mut client, &mut application) => {}
        () = last.is_old_behind(&ended) => {}
        () = last.is_old(front.limits.tunnel) => {
            let limit = humantime::format_duration(front.limits.tunnel);
            let why = format!("a tunnel carried nothing for {limit} (tunnel_timeout): it is closed");
            front.complaints.say(Cause::Tunnel, &why);
        }
    }
    drop(turn);
}

/// When a byte came last from either side, or went, in milliseconds since the tunnel began.
#[derive(Debug, Clone)]
struct Last {
    begun: Instant,
    ms: Arc<AtomicU64>,
}

impl Last {
    fn now() -> Self {
        Self {
            begun: Instant::now(),
            ms: Arc::default(),
        }
    }

    fn byte(&self) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.ms.store(ms, Ordering::Relaxed);
    }

    /// It has ended, and there was no byte for a while since.
    async fn is_old_behind(&self, ended: &Notify) {
        ended.notified().await;
        self.byte();
        self.is_old(LAST_WORDS).await;
    }

    async fn is_old(&self, limit: Duration) {
        loop {
            let last = self.begun + Duration::from_millis(self.ms.load(Ordering::Relaxed));
            let Some(left) = limit
                .checked_sub(last.elapsed())
                .filter(|left| !left.is_zero())
            else {
                return;
            };
            sleep(left).await;
        }
    }
}

/// One side, with who is told of its end.
struct Watched<'a, T>(T, Last, Option<&'a Notify>);

impl<T: AsyncRead + Unpin> AsyncRead for Watched<'_, T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.0).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.1.byte();
        } else if let (Poll::Ready(Ok(())), Some(ended)) = (&read, this.2) {
            ended.notify_one();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<'_, T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.0).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(1..))) {
            this.1.byte();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
