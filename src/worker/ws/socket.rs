//! A `WebSocket` in the hands of an application that takes part in drains.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_util::{Sink, Stream as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Utf8Bytes};

use super::CLOSE;
use super::paced::Paced;
use crate::context::{self, Ending};
use crate::worker::Worker;
use crate::worker::connection::{Connection, Served};
use crate::worker::handoff::{BLOB_MAX, Session};
use crate::worker::order::{Order, Word};
use crate::worker::stream::Peer;

/// One `WebSocket`. Pings are answered by itself.
///
/// Dropped, it says goodbye to its client with code 1000; with 1011 when its task panics, and with
/// 1012 when it was taken over from another worker and not used.
pub struct WebSocket {
    /// `None`: it has gone to another worker.
    socket: Option<WebSocketStream<Paced>>,
    worker: Arc<Worker>,
    served: Arc<Served>,
    peer: Peer,
    ending: Ending,
    /// The last order that was dealt with.
    heard: Option<Word>,
    /// Back when the next ones may leave.
    permit: Option<OwnedSemaphorePermit>,
    /// A close frame was sent; the other side has so long for its own.
    closing: Option<Pin<Box<Sleep>>>,
    /// Nothing was said or heard here since it came from another worker.
    untouched: bool,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

/// What happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The client said something.
    Message(Message),
    /// This worker leaves, and the socket stands between two messages: now is the moment for
    /// [`WebSocket::pass_on`]. It may also be used on; it is ended some time before the drain's end.
    Drain,
    /// It is over.
    Closed,
}

/// Nothing can be sent any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the WebSocket is closed")]
pub struct Closed;

/// For the client's close frame.
const PATIENCE: Duration = Duration::from_secs(5);

impl WebSocket {
    pub(super) fn new(
        connection: Connection,
        worker: &Arc<Worker>,
        limit: usize,
    ) -> impl Future<Output = Self> + use<> {
        let Connection {
            stream,
            leftover,
            gate,
            live,
            served,
            peer,
            ..
        } = connection;
        let worker = Arc::clone(worker);
        gate.orders.man(true);
        let paced = Paced::new(stream, gate, live, &leftover);
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .write_buffer_size(0)
            .max_message_size(Some(limit))
            .max_frame_size(Some(limit));
        async move {
            let socket = WebSocketStream::from_raw_socket(paced, Role::Server, Some(config));
            Self {
                socket: Some(socket.await),
                ending: worker.application.ending(),
                worker,
                served,
                peer,
                heard: None,
                permit: None,
                closing: None,
                untouched: false,
            }
        }
    }

    /// It was passed on; this worker has heard so much already.
    pub(super) fn taken_over(mut self, heard: Option<Word>) -> Self {
        self.untouched = true;
        self.heard = heard;
        self
    }

    /// Waits for the next thing. Dropping the future loses nothing, so it can stand in a `select!`.
    pub async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(Event::Closed);
        };
        // Not dealt with: it does not hold up the others.
        self.permit = None;
        let gate = Arc::clone(&socket.get_ref().gate);
        gate.register(cx.waker());
        loop {
            let word = gate.orders.word();
            let between = socket.get_ref().between_messages() && self.closing.is_none();
            if word.order() == Order::Leave && self.heard != Some(word) && between {
                self.heard = Some(word);
                self.permit = gate.orders.permit();
                self.untouched = false;
                return Poll::Ready(Event::Drain);
            }
            drop(gate.orders.permit());
            let worn_out = socket.get_ref().stream.wears_out();
            if between && (worn_out || self.ending.poll(cx).is_ready()) {
                self.closing = Some(Box::pin(sleep(PATIENCE)));
                // It fails only when all is over, which the next lines find out.
                let restart = close_frame(CloseCode::Restart, "service restart");
                let _ = Pin::new(&mut *socket).start_send(restart);
            }
            if let Some(patience) = &mut self.closing {
                let _ = Pin::new(&mut *socket).poll_flush(cx);
                if patience.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Closed);
                }
            }
            let Some(Ok(message)) = ready!(Pin::new(&mut *socket).poll_next(cx)) else {
                return Poll::Ready(Event::Closed);
            };
            self.untouched = false;
            let message = match message {
                tungstenite::Message::Text(text) => Message::Text(text.as_str().into()),
                tungstenite::Message::Binary(bytes) => Message::Binary(bytes.into()),
                // The library answers it when it is polled again, and then says that it is over.
                tungstenite::Message::Close(_)
                | tungstenite::Message::Ping(_)
                | tungstenite::Message::Pong(_)
                | tungstenite::Message::Frame(_) => continue,
            };
            return Poll::Ready(Event::Message(message));
        }
    }

    /// Sends a message; returns when the socket has taken it.
    ///
    /// # Errors
    /// [`Closed`], by either side.
    pub async fn send(&mut self, message: impl Into<Message>) -> Result<(), Closed> {
        let message = match message.into() {
            Message::Text(text) => tungstenite::Message::Text(text.into()),
            Message::Binary(bytes) => tungstenite::Message::Binary(bytes.into()),
        };
        self.untouched = false;
        self.send_raw(message).await
    }

    async fn send_raw(&mut self, message: tungstenite::Message) -> Result<(), Closed> {
        let mut message = Some(message);
        poll_fn(|cx| {
            let socket = self.socket.as_mut().ok_or(Closed)?;
            let mut socket = Pin::new(socket);
            ready!(socket.as_mut().poll_ready(cx)).map_err(|_| Closed)?;
            if let Some(message) = message.take() {
                socket.as_mut().start_send(message).map_err(|_| Closed)?;
            }
            socket.poll_flush(cx).map_err(|_| Closed)
        })
        .await
    }

    /// Ends it, with a code (RFC 6455, 7.4) and a reason of at most 123 bytes. Waits for the client's
    /// answer, but not for long.
    pub async fn close(mut self, code: u16, reason: &str) {
        let _ = self.send_raw(close_frame(code.into(), reason)).await;
        let _ = timeout(PATIENCE, async {
            while self.next().await != Event::Closed {}
        })
        .await;
        // Said already.
        self.socket = None;
    }

    /// After [`Event::Drain`]: the socket goes to a worker of the generation that owns the service,
    /// and what [`Context::resume`](crate::Context::resume) names so there goes on with it and with
    /// `blob` (at most 64 KiB). No byte of either side is lost.
    ///
    /// When nobody there knows the name, or `blob` is too large, or this is not the moment (a
    /// message is half read), the client is told to come again (code 1012). When nobody takes
    /// connections any longer, it goes on in this worker in the same way.
    pub async fn pass_on(mut self, name: &str, blob: impl Into<Vec<u8>>) {
        let session = Session {
            name: name.into(),
            blob: blob.into(),
            heard: self.heard,
        };
        let flushed = timeout(
            PATIENCE,
            poll_fn(|cx| match &mut self.socket {
                Some(socket) => Pin::new(socket).poll_flush(cx),
                None => Poll::Pending,
            }),
        );
        if !matches!(flushed.await, Ok(Ok(()))) {
            return;
        }
        let between = self.socket.as_ref().map(|s| s.get_ref().between_messages());
        let problem = match between {
            _ if session.blob.len() > BLOB_MAX => "its state is larger than 64 KiB",
            Some(true) if self.closing.is_none() => "",
            _ => "a message is half read",
        };
        if !problem.is_empty() {
            tracing::error!("a session {name:?} cannot be passed on: {problem}");
            return self
                .close(CloseCode::Restart.into(), "service restart")
                .await;
        }
        let Some(socket) = self.socket.take() else {
            return;
        };
        let paced = socket.into_inner();
        let leftover = paced.leftover();
        let connection = Connection {
            stream: paced.stream,
            leftover,
            gate: paced.gate,
            live: paced.live,
            served: Arc::clone(&self.served),
            peer: self.peer,
            requests: 0,
            idle_since: Instant::now(),
            head_since: None,
            handshake_due: false,
            proxy_header_due: false,
            http2: None,
        };
        if let Err(kept) = self
            .worker
            .give_session(connection, session, self.permit.take())
        {
            let (connection, session) = *kept;
            session.resume(connection, &self.worker);
        }
    }

    /// As the worker that has it knows it.
    #[must_use]
    pub fn context(&self) -> context::Context {
        self.worker.application.at(&self.served.name, self.peer)
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        if self.untouched {
            // The library has nothing of its own to say.
            socket.get_mut().stream.say_last(CLOSE);
        } else if self.closing.is_none() {
            let (code, reason) = if std::thread::panicking() {
                (CloseCode::Error, "the service failed")
            } else {
                (CloseCode::Normal, "")
            };
            // What the socket does not take at once is lost with it.
            let mut socket = Pin::new(socket);
            let _ = socket.as_mut().start_send(close_frame(code, reason));
            let _ = socket.poll_flush(&mut Context::from_waker(Waker::noop()));
        }
    }
}

fn close_frame(code: CloseCode, reason: &str) -> tungstenite::Message {
    tungstenite::Message::Close(Some(CloseFrame {
        code,
        reason: Utf8Bytes::from(reason),
    }))
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Message {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes)
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("listener", &self.served.name)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}
