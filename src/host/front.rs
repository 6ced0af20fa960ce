//! One request on its way to the application and back: which connection, how often it is tried, how
//! long it may take.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::bodies::{About, Download, Progress, Upload};
use super::link::Link;
use super::owners::Owners;
use super::pool::{Pool, Turn};
use super::refusal::{Complaints, Refusal};
use super::{FrontContext, fields, tunnel};
use crate::worker::hop_of;

/// The front of one application.
pub(super) struct Front {
    pool: Pool,
    owners: Owners,
    pub(super) limits: Limits,
    pub(super) complaints: Complaints,
}

/// `[app]`'s timeouts.
#[derive(Debug)]
pub(super) struct Limits {
    connect: Duration,
    answer: Duration,
    pub(super) stall: Duration,
    pub(super) tunnel: Duration,
}

/// Between two attempts to connect to an application that is not there.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

impl Front {
    pub(super) fn new(cx: &FrontContext) -> Self {
        Self {
            pool: Pool::new(&cx.upstreams, cx.app.idle_timeout, Arc::clone(&cx.silent)),
            owners: Owners::new(cx),
            limits: Limits {
                connect: cx.app.connect_timeout,
                answer: cx.app.answer_timeout,
                stall: cx.app.stall_timeout,
                tunnel: cx.app.tunnel_timeout,
            },
            complaints: Complaints::new(Arc::clone(&cx.tally)),
        }
    }

    /// Waits while the application is not there: it may be starting again. Where somebody else owns the
    /// service meanwhile, its application does as well.
    async fn connect(
        &self,
        fresh: bool,
        patience: &mut Patience,
        head: &Head,
    ) -> Result<(Link, Turn), Refusal> {
        loop {
            let failed = tokio::select! {
                biased;
                connected = timeout_at(patience.end, self.connect_once(fresh)) => match connected {
                    Ok(Ok(connected)) => return Ok(connected),
                    Ok(Err(e)) => {
                        self.owners.want();
                        e.to_string()
                    }
                    Err(_) => "it does not accept".into(),
                },
                // One that does not accept would hold this one up.
                () = self.owners.told() => continue,
            };
            if !patience.wait().await {
                return Err(Refusal::Unavailable(format!(
                    "cannot connect to the application for {} {} within {} (connect_timeout): {failed}",
                    head.method,
                    head.uri.path(),
                    humantime::format_duration(self.limits.connect)
                )));
            }
        }
    }

    async fn connect_once(&self, fresh: bool) -> io::Result<(Link, Turn)> {
        let ours = self.pool.connect(fresh);
        if !self.owners.is_known() {
            return ours.await;
        }
        let failed = match timeout(LONGEST_PAUSE, ours).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(e)) => e,
            Err(late) => late.into(),
        };
        match self.owners.pool().await {
            Some(owners) => owners.connect(fresh).await,
            None => Err(failed),
        }
    }
}

/// How long a request waits for an application that is not there.
struct Patience {
    end: Instant,
    pause: Duration,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            end: Instant::now() + limit,
            pause: FIRST_PAUSE,
        }
    }

    /// Until the next attempt; `false`: there is none.
    async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause >= self.end {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// What is sent again, should nothing of it have been begun.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    fn request(&self, body: Upload) -> Request<Upload> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    async fn send(
        &self,
        front: &Front,
        link: &mut Link,
        request: Request<Upload>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, Sent> {
        let replay = request.body().is_end_stream() && link.tells_unread;
        let mut answer = std::pin::pin!(link.send(request));
        let limit = front.limits.answer;
        let begun = Instant::now();
        let mut due = begun + limit;
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.map_err(|failed| self.failed(failed, replay)),
                () = sleep_until(due) => {
                    let since = progress.waits_since().max(begun);
                    if since.elapsed() >= limit {
                        return Err(Sent::Failed(Refusal::TimedOut(format!(
                            "the application did not begin to answer {} {} within {} \
                             (answer_timeout)",
                            self.method,
                            self.uri.path(),
                            humantime::format_duration(limit)
                        ))));
                    }
                    due = since + limit;
                }
            }
        }
    }

    fn failed(&self, mut failed: TrySendError<Request<Upload>>, replay: bool) -> Sent {
        let request = failed.take_message();
        let error = failed.into_error();
        match request {
            Some(request) => Sent::Unsent(Box::new(request), cause(&error)),
            None if replay && was_unread(&error) => Sent::Unread(cause(&error)),
            None if error.is_user() => Sent::Failed(Refusal::BadRequest(format!(
                "the body of {} {} broke off",
                self.method,
                self.uri.path()
            ))),
            None => Sent::Failed(self.no_answer(&cause(&error))),
        }
    }

    fn no_answer(&self, why: &str) -> Refusal {
        Refusal::BadGateway(format!(
            "the application gave no answer to {} {}: {why}",
            self.method,
            self.uri.path(),
        ))
    }
}

/// The application's answer to `request`, or ours.
pub(super) async fn answer(front: Arc<Front>, request: Request<Body>) -> Response<Body> {
    match Exchange::new(request) {
        Ok(exchange) => exchange.run(&front).await.unwrap_or_else(|refusal| {
            front.complaints.say(refusal.cause(), &refusal);
            refusal.into_response()
        }),
        Err(refusal) => refusal.into_response(),
    }
}

struct Exchange {
    head: Head,
    body: Option<Body>,
    /// The client's end, should the protocol be switched.
    client: Option<OnUpgrade>,
}

impl Exchange {
    fn new(mut request: Request<Body>) -> Result<Self, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::BadRequest("CONNECT is for proxies".into()));
        }
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let hop = hop_of(request.extensions());
        let (mut head, body) = request.into_parts();
        let wants = fields::to_application(&mut head, hop);
        let body = (!body.is_end_stream()).then_some(body);
        if body.is_some() && !head.headers.contains_key(CONTENT_LENGTH) {
            // hyper believes that a GET has no body unless its head says so.
            let chunked = HeaderValue::from_static("chunked");
            head.headers.insert(TRANSFER_ENCODING, chunked);
        }
        Ok(Self {
            head: Head {
                method: head.method,
                uri: head.uri,
                headers: head.headers,
            },
            body,
            client: upgrade.filter(|_| wants.is_some()),
        })
    }

    /// A request goes out once, unless the application has begun nothing: it came back unsent, or the
    /// application closed a connection that it had kept, with the request unread (which only a Unix socket
    /// tells, and of the whole request only when it has no body). A new connection is closed like that by
    /// one that dies, but also by one that begins with what it has read: what may be repeated (RFC 9110,
    /// 9.2.2) goes out once more.
    async fn run(mut self, front: &Arc<Front>) -> Result<Response<Body>, Refusal> {
        // What was kept may be closed at any moment: fine for what can go out again.
        let mut fresh = self.body.is_some() || self.client.is_some();
        // A program that expects no body takes it for the next request, whosever that is.
        let expected = !matches!(
            self.head.method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE
        );
        let progress = Progress::new(self.body.is_none(), self.body.is_none() || expected);
        let mut patience = Patience::new(front.limits.connect);
        let mut may_repeat = self.head.method.is_idempotent();
        let mut request = match self.body.take() {
            Some(body) => self.head.request(Upload::new(body, &progress)),
            None => self.head.request(Upload::empty()),
        };
        loop {
            let (mut link, turn) = front.connect(fresh, &mut patience, &self.head).await?;
            let why;
            (request, why) = match self.head.send(front, &mut link, request, &progress).await {
                Ok(response) => {
                    turn.is_answered(true);
                    return self.pass_on(front, response, link, turn, progress);
                }
                Err(Sent::Unsent(request, why)) => (*request, why),
                Err(Sent::Unread(why)) => {
                    if link.is_new() && !std::mem::take(&mut may_repeat) {
                        return Err(self.head.no_answer(&why));
                    }
                    fresh = true;
                    (self.head.request(Upload::empty()), why)
                }
                Err(Sent::Failed(refusal)) => {
                    if matches!(refusal, Refusal::TimedOut(_)) {
                        turn.is_answered(false);
                    }
                    return Err(refusal);
                }
            };
            // What was kept ends all the time; a new one should not.
            let again = !link.is_new() || patience.wait().await;
            if !again {
                return Err(self.head.no_answer(&why));
            }
        }
    }

    fn pass_on(
        self,
        front: &Arc<Front>,
        mut response: Response<Incoming>,
        mut link: Link,
        turn: Turn,
        progress: Arc<Progress>,
    ) -> Result<Response<Body>, Refusal> {
        // Between us and the client; hyper does not say more than the client understands.
        *response.version_mut() = Version::HTTP_11;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = self.client else {
                return Err(Refusal::BadGateway(
                    "the application switched protocols unasked".into(),
                ));
            };
            fields::to_client_switching(response.headers_mut());
            let application = hyper::upgrade::on(&mut response);
            let front = Arc::clone(front);
            tokio::spawn(tunnel::carry(client, application, link, turn, front));
            return Ok(response.map(|_| Body::empty()));
        }
        let bodiless = ends_with_its_head(&self.head.method, response.status());
        if let Some(coding) = fields::other_coding(response.headers()).filter(|_| !bodiless) {
            return Err(Refusal::BadGateway(format!(
                "the application's answer to {} {} is coded ({TRANSFER_ENCODING}: {coding}): only chunks \
                 are undone here",
                self.head.method,
                self.head.uri.path()
            )));
        }
        if !progress.is_done() {
            // Its body goes on, whether or not the client takes the answer.
            link.let_run();
        }
        fields::to_client(response.headers_mut());
        if bodiless {
            // Some programs send a body all the same, and whenever they like: nobody is to take it for
            // the answer to the next request, so there is none on this connection.
            return Ok(response.map(|_| Body::empty()));
        }
        let about = About {
            front: Arc::clone(front),
            method: self.head.method,
            uri: self.head.uri,
            upstream: turn.upstream().clone(),
        };
        Ok(response.map(|body| Body::new(Download::new(body, link, turn, progress, about))))
    }
}

/// Whether an answer has no body, whatever its fields say (RFC 9112, 6.3).
fn ends_with_its_head(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Why there is no answer.
enum Sent {
    /// It never went out.
    Unsent(Box<Request<Upload>>, String),
    /// It went out without a body and was never read.
    Unread(String),
    /// Nobody knows what became of it.
    Failed(Refusal),
}

/// Whether the other side closed a Unix socket in which our request lay unread (the read fails), or
/// had closed it before (the write fails). After it had read everything there is an EOF instead.
fn was_unread(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            );
        }
        source = error.source();
    }
    false
}

/// hyper's words and the kernel's.
pub(super) fn cause(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
