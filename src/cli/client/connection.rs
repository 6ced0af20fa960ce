//! One request to the control socket: HTTP/1.1, with a deadline for the connection and the first
//! byte, and an answer that is read line by line.
//!
//! What is read here may come from anybody who took the socket's place. It is looked at who answers
//! ([`Answerer`]), no answer is longer than a limit, and every string of it is made printable here,
//! where it enters.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::Patience;
use super::answerer::{Answerer, Seen, Stranger};
use super::running::{self, Running};
use crate::api::{Event, Status, Verdict, exit};
use crate::cli::places::Places;
use crate::cli::text;
use crate::sys::runtime;
use crate::sys::walk;

/// Connects to the socket itself, and says who owns its directory: no link of the service's user leads
/// root's question to another service.
async fn connect(socket: &Path) -> io::Result<(UnixStream, u32)> {
    let (file, owner) = walk::socket(socket)?;
    let file = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok((UnixStream::connect(file).await?, owner))
}

/// The control socket of a service.
#[derive(Debug)]
pub(super) struct Control {
    places: Places,
    /// Our user.
    us: u32,
    socket: PathBuf,
    patience: Patience,
    has_ordered: AtomicBool,
}

impl Control {
    pub(super) fn new(places: Places, us: u32, patience: Patience) -> Self {
        Self {
            socket: places.socket(),
            places,
            us,
            patience,
            has_ordered: AtomicBool::new(false),
        }
    }

    /// Whether somebody may have heard an order of ours.
    pub(super) fn has_ordered(&self) -> bool {
        self.has_ordered.load(Ordering::Relaxed)
    }

    /// `GET /v1/status`.
    pub(super) async fn status(&self) -> Result<Status, Trouble> {
        Ok(self.status_and_who().await?.0)
    }

    /// `GET /v1/status`, and who says it.
    pub(super) async fn status_and_who(&self) -> Result<(Status, Answerer), Trouble> {
        let (document, who) = self.document().await?;
        let status = text::understand(&document).map_err(|e| self.not_ours(&e))?;
        Ok((status, who))
    }

    /// `GET /v1/status`, word for word but for what could command a terminal.
    pub(super) async fn status_document(&self) -> Result<String, Trouble> {
        let (document, _) = self.document().await?;
        let value: Value = serde_json::from_slice(&document).map_err(|e| self.not_ours(&e))?;
        if !value.is_object() {
            return Err(self.not_ours(&"it answers with no status"));
        }
        Ok(text::printable_json(&String::from_utf8_lossy(&document)))
    }

    async fn document(&self) -> Result<(Bytes, Answerer), Trouble> {
        let answer = self.ask(Method::GET, "/v1/status", Bytes::new()).await?;
        let deadline = Instant::now() + self.patience.answer;
        let Answer { response, who, .. } = answer;
        let document = timeout_at(deadline, document(response))
            .await
            .map_err(|_| self.silent())??;
        Ok((document.ok_or_else(|| self.ended())?, who))
    }

    /// `GET /v1/events`.
    pub(super) async fn events(&self) -> Result<Lines, Trouble> {
        let answer = self.ask(Method::GET, "/v1/events", Bytes::new()).await?;
        Ok(answer.lines(None))
    }

    /// `POST /v1/<verb>`.
    pub(super) async fn order(&self, verb: &str, body: Bytes) -> Result<Lines, Trouble> {
        let path = format!("/v1/{verb}");
        self.has_ordered.store(true, Ordering::Relaxed);
        let answer = self.ask(Method::POST, &path, body).await?;
        Ok(answer.lines(Some(STORY)))
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
        let (stream, who) = self.connect().await?;
        let deadline = Instant::now() + self.patience.answer;
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
        task.spawn(runtime::task(async move {
            let _ = connection.await;
        }));
        let response = timeout_at(deadline, sender.send_request(request))
            .await
            .map_err(|_| self.silent())?
            .map_err(|_| self.ended())?;
        match response.status() {
            StatusCode::OK => Ok(Answer {
                response,
                who,
                _task: task,
            }),
            status => Err(self.refusal(status, response).await),
        }
    }

    /// A connection to the service. One that runs but has no socket makes it again within seconds,
    /// so it is waited for; so is one that does not accept (a full queue, EAGAIN).
    async fn connect(&self) -> Result<(UnixStream, Answerer), Trouble> {
        let mut deadline = Instant::now() + self.patience.answer;
        let mut runs: Option<Running> = None;
        let mut asked = false;
        let mut unseen = false;
        loop {
            let socket = self.socket.clone();
            let trouble = match timeout_at(deadline, connect(&self.socket)).await {
                Err(_) if unseen => self.unseen(),
                Err(_) => self.silent(),
                Ok(Ok((stream, owner))) => {
                    match Answerer::of(&stream, owner, &self.places, self.us) {
                        Ok(Seen::Service(who)) => return Ok((stream, who)),
                        // Its owner has gone, and the next one is about to listen.
                        Ok(Seen::Ended) => {
                            if !unseen {
                                unseen = true;
                                deadline = Instant::now() + self.patience.gap;
                            }
                            self.unseen()
                        }
                        Err(who) => return Err(Trouble::Stranger { socket, who }),
                    }
                }
                Ok(Err(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.silent(),
                    io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NotADirectory => {
                        if !asked {
                            asked = true;
                            runs = running::find(&self.places).await;
                            if runs.is_some() {
                                deadline = Instant::now() + self.patience.gap;
                            }
                        }
                        match runs.clone() {
                            Some(running) => Trouble::NoSocket { socket, running },
                            None => return Err(Trouble::NotRunning { socket }),
                        }
                    }
                    io::ErrorKind::PermissionDenied => return Err(Trouble::NotAllowed { socket }),
                    _ => {
                        let source = error;
                        return Err(Trouble::Connect { socket, source });
                    }
                },
            };
            if Instant::now() >= deadline {
                return Err(trouble);
            }
            sleep(AGAIN).await;
        }
    }

    async fn refusal(&self, status: StatusCode, response: Response<Incoming>) -> Trouble {
        let again = response.headers().contains_key(header::RETRY_AFTER);
        if status == StatusCode::SERVICE_UNAVAILABLE && again {
            return Trouble::HandedOver;
        }
        let deadline = Instant::now() + self.patience.answer;
        let said = timeout_at(deadline, document(response)).await;
        let said = said.ok().and_then(Result::ok).flatten();
        match said.and_then(|said| text::understand(&said).ok()) {
            Some(verdict) => Trouble::Refused(verdict),
            None => self.not_ours(&format_args!("it answers {status}")),
        }
    }

    fn not_ours(&self, what: &dyn std::fmt::Display) -> Trouble {
        Trouble::NotOurs {
            socket: self.socket.clone(),
            what: what.to_string(),
        }
    }

    fn silent(&self) -> Trouble {
        Trouble::Silent {
            socket: self.socket.clone(),
            waited: self.patience.answer,
        }
    }

    fn unseen(&self) -> Trouble {
        Trouble::Unseen {
            socket: self.socket.clone(),
            waited: self.patience.gap,
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
    who: Answerer,
    _task: JoinSet<()>,
}

impl Answer {
    /// `most`: so many bytes in all.
    fn lines(self, most: Option<usize>) -> Lines {
        Lines {
            answer: self,
            buffer: Vec::new(),
            left: most,
            junk: 0,
        }
    }
}

/// The whole of an answer; `None` when it was cut off.
async fn document(response: Response<Incoming>) -> Result<Option<Bytes>, Trouble> {
    match Limited::new(response.into_body(), DOCUMENT).collect().await {
        Ok(whole) => Ok(Some(whole.to_bytes())),
        Err(e) if e.is::<LengthLimitError>() => Err(Trouble::Endless),
        Err(_) => Ok(None),
    }
}

/// An answer of one event a line.
pub(super) struct Lines {
    answer: Answer,
    buffer: Vec<u8>,
    /// So many bytes more are read.
    left: Option<usize>,
    /// Bytes that were no event.
    junk: usize,
}

impl Lines {
    /// The next event; `None` when the connection has ended, properly or not. A line that is no
    /// event we know is of a newer version and passed over. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Trouble> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Ok(event) = text::understand(&line) {
                    return Ok(Some(event));
                }
                self.junk += line.len();
            }
            if self.junk + self.buffer.len() > STORY {
                return Err(Trouble::Endless);
            }
            if self.buffer.contains(&b'\n') {
                continue;
            }
            let Some(Ok(frame)) = self.answer.response.body_mut().frame().await else {
                return Ok(None);
            };
            if let Some(data) = frame.data_ref() {
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(data.len()).ok_or(Trouble::Endless)?;
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
    #[error(
        "{running}, but nobody answers on {}: it makes its socket again within some seconds where \
         it may write there; should it not, `systemctl restart` does (clients wait, none is refused)",
        socket.display()
    )]
    NoSocket { socket: PathBuf, running: Running },
    #[error("{} is not believed: {who}", socket.display())]
    Stranger { socket: PathBuf, who: Stranger },
    #[error("the answer does not end: it is not read any further and nothing is done about it")]
    Endless,
    #[error("not allowed to connect to {}: become root or the service's user, or ask for its control group", socket.display())]
    NotAllowed { socket: PathBuf },
    #[error("no answer on {} within {}", socket.display(), crate::cli::text::duration(*waited))]
    Silent { socket: PathBuf, waited: Duration },
    #[error(
        "it cannot be seen who answers on {}: the process that listened there has ended, and nobody \
         has listened anew for {}",
        socket.display(),
        crate::cli::text::duration(*waited)
    )]
    Unseen { socket: PathBuf, waited: Duration },
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
    #[error("cannot signal process {pid}: {source}")]
    Signal { pid: u32, source: io::Error },
    #[error("cannot put {} in place: {reason}", file.display())]
    Install { file: PathBuf, reason: String },
    #[error(
        "{} was not put in place: this client belongs to {}, but the service runs {}; use that \
         installation's own client",
        file.display(), ours.display(), theirs.display()
    )]
    OtherProgram {
        file: PathBuf,
        ours: PathBuf,
        theirs: PathBuf,
    },
}

impl Trouble {
    /// The client's exit code.
    pub(super) fn exit(&self) -> u8 {
        match self {
            Self::NotRunning { .. } => exit::UNAVAILABLE,
            Self::NotAllowed { .. } | Self::Stranger { .. } => exit::DENIED,
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
            Self::NotRunning { .. }
                | Self::NoSocket { .. }
                | Self::Silent { .. }
                | Self::Unseen { .. }
                | Self::Ended { .. }
        )
    }
}

/// So often the socket may change hands while one question is asked.
const HAND_OVERS: usize = 5;
/// Between two tries to connect.
const AGAIN: Duration = Duration::from_millis(10);
/// The longest answer to a question.
const DOCUMENT: usize = 8 * 1024 * 1024;
/// The longest answer to an order, and so much that is no event.
const STORY: usize = 1024 * 1024;
