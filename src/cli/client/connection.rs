//! One request to the control socket: HTTP/1.1, with a deadline for the connection and the first
//! byte, and an answer that is read line by line.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::Patience;
use crate::api::{Event, Status, Verdict, exit};

/// The control socket of a service.
#[derive(Debug)]
pub(super) struct Control {
    socket: PathBuf,
    patience: Patience,
}

impl Control {
    pub(super) fn new(socket: PathBuf, patience: Patience) -> Self {
        Self { socket, patience }
    }

    /// `GET /v1/status`: as it came, and what it says.
    pub(super) async fn status(&self) -> Result<Status, Trouble> {
        let document = self.status_document().await?;
        serde_json::from_slice(&document).map_err(|source| Trouble::NotOurs {
            socket: self.socket.clone(),
            what: source.to_string(),
        })
    }

    /// `GET /v1/status`, word for word.
    pub(super) async fn status_document(&self) -> Result<Bytes, Trouble> {
        let answer = self.ask(Method::GET, "/v1/status", Bytes::new()).await?;
        let deadline = Instant::now() + self.patience.answer;
        timeout_at(deadline, answer.document())
            .await
            .map_err(|_| self.silent())?
            .ok_or_else(|| self.ended())
    }

    /// `GET /v1/events`.
    pub(super) async fn events(&self) -> Result<Lines, Trouble> {
        let answer = self.ask(Method::GET, "/v1/events", Bytes::new()).await?;
        Ok(answer.lines())
    }

    /// `POST /v1/<verb>`.
    pub(super) async fn order(&self, verb: &str, body: Bytes) -> Result<Lines, Trouble> {
        let path = format!("/v1/{verb}");
        Ok(self.ask(Method::POST, &path, body).await?.lines())
    }

    /// Asks again where the socket changed hands at this very moment: nothing was done then.
    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Trouble> {
        for _ in 0..HAND_OVERS {
            match self.ask_once(method.clone(), path, body.clone()).await {
                Err(Trouble::HandedOver) => {}
                other => return other,
            }
        }
        Err(self.ended())
    }

    async fn ask_once(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Trouble> {
        let deadline = Instant::now() + self.patience.answer;
        let stream = timeout_at(deadline, self.connect())
            .await
            .map_err(|_| self.silent())??;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .expect("method, path and headers are ours");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| self.ended())?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _ = connection.await;
        });
        let response = timeout_at(deadline, sender.send_request(request))
            .await
            .map_err(|_| self.silent())?
            .map_err(|_| self.ended())?;
        let answer = Answer {
            response,
            _task: task,
        };
        match answer.response.status() {
            StatusCode::OK => Ok(answer),
            status => Err(self.refusal(status, answer).await),
        }
    }

    /// A full queue (EAGAIN) is an owner that does not accept: tried again until the deadline.
    async fn connect(&self) -> Result<UnixStream, Trouble> {
        loop {
            let socket = self.socket.clone();
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => sleep(FULL_QUEUE).await,
                    io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NotADirectory => return Err(Trouble::NotRunning { socket }),
                    io::ErrorKind::PermissionDenied => return Err(Trouble::NotAllowed { socket }),
                    _ => {
                        let source = error;
                        return Err(Trouble::Connect { socket, source });
                    }
                },
            }
        }
    }

    async fn refusal(&self, status: StatusCode, answer: Answer) -> Trouble {
        let again = answer.response.headers().contains_key(header::RETRY_AFTER);
        if status == StatusCode::SERVICE_UNAVAILABLE && again {
            return Trouble::HandedOver;
        }
        let deadline = Instant::now() + self.patience.answer;
        let said = timeout_at(deadline, answer.document()).await.ok().flatten();
        match said.and_then(|said| serde_json::from_slice(&said).ok()) {
            Some(verdict) => Trouble::Refused(verdict),
            None => Trouble::NotOurs {
                socket: self.socket.clone(),
                what: format!("it answers {status}"),
            },
        }
    }

    fn silent(&self) -> Trouble {
        Trouble::Silent {
            socket: self.socket.clone(),
            waited: self.patience.answer,
        }
    }

    fn ended(&self) -> Trouble {
        Trouble::Ended {
            socket: self.socket.clone(),
        }
    }
}

/// An answer whose head has come. The connection ends with it.
struct Answer {
    response: Response<Incoming>,
    _task: JoinSet<()>,
}

impl Answer {
    /// The whole of it; `None` when it was cut off or is absurdly long.
    async fn document(self) -> Option<Bytes> {
        let body = Limited::new(self.response.into_body(), DOCUMENT);
        Some(body.collect().await.ok()?.to_bytes())
    }

    fn lines(self) -> Lines {
        Lines {
            answer: self,
            buffer: Vec::new(),
        }
    }
}

/// An answer of one event a line.
pub(super) struct Lines {
    answer: Answer,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event; `None` when the connection has ended, properly or not. A line that is no
    /// event we know is of a newer version and passed over. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(event) => return Some(event),
                    Err(_) => continue,
                }
            }
            let frame = self.answer.response.body_mut().frame().await?.ok()?;
            if let Some(data) = frame.data_ref() {
                if self.buffer.len() + data.len() > DOCUMENT {
                    return None;
                }
                self.buffer.extend_from_slice(data);
            }
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("nothing is running at {}", socket.display())]
    NotRunning { socket: PathBuf },
    #[error("not allowed to connect to {}: become root or the service's user, or ask for its control group", socket.display())]
    NotAllowed { socket: PathBuf },
    #[error("no answer on {} within {}", socket.display(), crate::cli::text::duration(*waited))]
    Silent { socket: PathBuf, waited: Duration },
    #[error("the connection to {} ended without an answer: see `status`", socket.display())]
    Ended { socket: PathBuf },
    #[error("cannot connect to {}: {source}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("{} is not a control socket of this program: {what}", socket.display())]
    NotOurs { socket: PathBuf, what: String },
    #[error("{}", .0.message)]
    Refused(Verdict),
    #[error("the socket changed hands")]
    HandedOver,
    #[error("cannot signal pid {pid}: {source}")]
    Signal { pid: u32, source: io::Error },
    #[error("cannot put {} in place: {reason}", file.display())]
    Install { file: PathBuf, reason: String },
}

impl Trouble {
    /// The client's exit code.
    pub(super) fn exit(&self) -> u8 {
        match self {
            Self::NotRunning { .. } => exit::UNAVAILABLE,
            Self::NotAllowed { .. } => exit::DENIED,
            Self::Refused(verdict) => verdict.exit,
            Self::Signal { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                exit::DENIED
            }
            _ => exit::FAILED,
        }
    }

    /// Whether another try may find somebody: the owner died or changed, and the next one is not
    /// there yet.
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NotRunning { .. } | Self::Silent { .. } | Self::Ended { .. }
        )
    }
}

/// So often the socket may change hands while one question is asked.
const HAND_OVERS: usize = 5;
/// Between two tries when the socket's queue is full.
const FULL_QUEUE: Duration = Duration::from_millis(10);
/// The longest answer, and the longest line of one.
const DOCUMENT: usize = 8 * 1024 * 1024;
