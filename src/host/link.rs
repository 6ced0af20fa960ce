//! One connection to the application. It is driven by whoever waits for its answer: a task of its own
//! would be woken up, and wake that one up, for everything that comes.

use std::future::poll_fn;
use std::io;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::bodies::Upload;
use super::stream::Stream;
use crate::config::Upstream;

/// A connection to the application. It ends when this is dropped.
pub(super) struct Link {
    sender: SendRequest<Upload>,
    /// `None`: it has ended.
    connection: Option<Connection>,
    /// [`let_run`](Self::let_run) was called.
    runs: bool,
    /// How often it was asked.
    requests: u32,
    /// [`Stream::between`].
    between: Arc<AtomicBool>,
    /// Bytes that the other side never read are an error of the next call on a Unix socket, and on
    /// no other one.
    pub(super) tells_unread: bool,
}

/// To the end of the connection; why it ended is in the answer, too.
type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// What hyper may hold of an answer that its reader does not take.
const BUFFER_MAX: usize = 64 * 1024;

/// So many fields may an answer's head have.
const FIELDS_MAX: usize = 256;

impl Link {
    /// A new one.
    pub(super) async fn open(upstream: &Upstream) -> io::Result<Self> {
        let (stream, tells_unread) = match upstream {
            Upstream::Unix(path) => (Stream::unix(UnixStream::connect(path).await?), true),
            Upstream::Port(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await?;
                stream.set_nodelay(true)?;
                (Stream::tcp(stream), false)
            }
        };
        let between = stream.between();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_MAX)
            .max_headers(FIELDS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        Ok(Self {
            sender,
            connection: Some(Box::pin(connection.with_upgrades())),
            runs: false,
            requests: 0,
            between,
            tells_unread,
        })
    }

    /// Asks, and waits until the application begins to answer. The rest of the answer comes as
    /// [`drive`](Self::drive) is called.
    pub(super) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        self.requests += 1;
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            let mut nobody = Context::from_waker(Waker::noop());
            // This task is awake: what drives the connection is not to wake it once more.
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut nobody) {
                return Poll::Ready(answer);
            }
            drive(&mut self.connection, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Reads and writes what there is; wakes the task of `cx` when there is more.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.connection, cx);
    }

    /// From now on it goes on by itself, to the end of this request: what it reads after that could not
    /// be told from an answer to the next one.
    pub(super) fn let_run(&mut self) {
        self.runs = true;
        if let Some(connection) = self.connection.take() {
            let task = AbortOnDropHandle::new(tokio::spawn(connection));
            self.connection = Some(Box::pin(async { task.await.unwrap_or(Ok(())) }));
        }
    }

    /// Until it has ended, as far as HTTP is concerned.
    pub(super) async fn ended(mut self) {
        if let Some(connection) = self.connection.take() {
            let _ = connection.await;
        }
    }

    /// Whether it can be asked now.
    pub(super) fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        !self.runs && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    /// The same after it was kept. What the application said meanwhile would be taken for the next answer.
    pub(super) fn is_untouched(&mut self, cx: &mut Context<'_>) -> bool {
        self.between.store(true, Ordering::Relaxed);
        let ready = self.is_ready(cx);
        self.between.store(false, Ordering::Relaxed);
        ready
    }

    /// It was not asked before its last request.
    pub(super) fn is_new(&self) -> bool {
        self.requests <= 1
    }

    /// How often it was asked.
    pub(super) fn requests(&self) -> u32 {
        self.requests
    }
}

fn drive(connection: &mut Option<Connection>, cx: &mut Context<'_>) {
    if connection
        .as_mut()
        .is_some_and(|one| one.as_mut().poll(cx).is_ready())
    {
        *connection = None;
    }
}
