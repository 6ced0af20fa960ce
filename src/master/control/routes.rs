//! The paths: what each one asks of the driver, and how its answer is written down.
//!
//! An order's answer is `application/x-ndjson`, one [`Event`] a line as it happens, the last one
//! [`Event::Result`]. Whatever is refused before it reaches the driver is a [`Verdict`] with the
//! client's exit code, so that a client needs no table of HTTP status codes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio::time::Instant;

use super::serve::Caller;
use super::{Denied, Gone, Handle, Order};
use crate::api::{Event, UpgradeOrder, Verdict, exit};

/// All paths of the control socket. Orders are taken only from connections that
/// `serve` accepted.
pub fn router(handle: Handle) -> Router {
    let desk = Desk {
        handle,
        followers: Arc::new(Semaphore::new(FOLLOWERS)),
        strangers: Arc::default(),
    };
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/{verb}", post(order))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(middleware::from_fn(only_the_owner_answers))
        .with_state(desk)
}

/// `/metrics` alone: for strangers.
pub fn metrics_router(handle: Handle) -> Router {
    let desk = Desk {
        handle,
        followers: Arc::new(Semaphore::new(0)),
        strangers: Arc::default(),
    };
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(desk)
}

#[derive(Clone)]
struct Desk {
    handle: Handle,
    /// Who follows the events stays connected for days: they may not use up the connections.
    followers: Arc<Semaphore>,
    strangers: Arc<Mutex<Strangers>>,
}

/// Orders of those who may give none. Everybody on the host can connect, and nobody shall fill the
/// journal: one is told in [`Self::PAUSE`], the others are counted.
#[derive(Debug, Default)]
struct Strangers {
    told: Option<Instant>,
    untold: u64,
}

impl Strangers {
    const PAUSE: Duration = Duration::from_secs(10);

    /// One more. When it is to be told: how many before it were not.
    fn again(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.told.is_some_and(|told| now - told < Self::PAUSE) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl Desk {
    fn stranger(&self, verb: &str, why: &Denied) {
        let mut strangers = self
            .strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // As many letters as an order has.
        let verb: String = verb.chars().take(8).collect();
        match strangers.again() {
            None => {}
            Some(0) => tracing::warn!("{verb} refused: {why}"),
            Some(n) => tracing::warn!("{verb} refused: {why} ({n} others were refused before it)"),
        }
    }
}

/// A connection that was accepted before the socket was handed over, but asks after it, is sent
/// back: nothing was done, so asking again is safe.
async fn only_the_owner_answers(request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.is_closing() => {
            let mut response = refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                exit::REFUSED,
                "the service was handed over at this moment: ask again",
            );
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, header::HeaderValue::from_static("0"));
            response
        }
        _ => next.run(request).await,
    }
}

async fn status(State(desk): State<Desk>) -> Result<Response, Gone> {
    Ok(Json(desk.handle.status().await?).into_response())
}

async fn metrics(State(desk): State<Desk>) -> Result<Response, Gone> {
    let text = desk.handle.metrics().await?;
    Ok(([(header::CONTENT_TYPE, PROMETHEUS)], text).into_response())
}

async fn events(State(desk): State<Desk>, request: Request) -> Response {
    let Ok(permit) = desk.followers.clone().try_acquire_owned() else {
        let why = format!("{FOLLOWERS} clients follow the events already");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, exit::REFUSED, why);
    };
    let follower = Follower {
        events: desk.handle.events(),
        handle: desk.handle,
        caller: request.extensions().get::<Caller>().cloned(),
        _permit: permit,
    };
    lines(stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        follower.handle.written(&event).await;
        Some((event, follower))
    }))
}

struct Follower {
    events: broadcast::Receiver<Event>,
    handle: Handle,
    caller: Option<Caller>,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// `None` once another master owns the service: the follower connects again, to that one.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let event = match &mut self.caller {
                Some(caller) => tokio::select! {
                    // What was published before the end is still told.
                    biased;
                    event = self.events.recv() => event,
                    _ = caller.closing.wait_for(|closing| *closing) => return None,
                },
                None => self.events.recv().await,
            };
            match event {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

async fn order(
    State(desk): State<Desk>,
    Path(verb): Path<String>,
    request: Request,
) -> Result<Response, Gone> {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return Ok(denied(&Denied::Unknown));
    };
    if let Err(why) = &caller.may_order {
        desk.stranger(&verb, why);
        return Ok(denied(why));
    }
    let order = match read_order(&verb, &caller, request.into_body()).await {
        Ok(order) => order,
        Err(bad) => return Ok(bad.into_response()),
    };
    if caller.has_left() {
        tracing::warn!("{verb} not carried out: {} has left", caller.peer);
        return Ok(denied(&Denied::Left));
    }
    let story = desk.handle.order(order, caller.peer.clone()).await?;
    let begin = Some((story, desk.handle));
    Ok(lines(stream::unfold(begin, |story| async move {
        let (mut story, handle): (mpsc::UnboundedReceiver<Event>, Handle) = story?;
        let event = story.recv().await?;
        handle.written(&event).await;
        let rest = (!matches!(event, Event::Result(_))).then_some((story, handle));
        Some((event, rest))
    })))
}

async fn read_order(verb: &str, caller: &Caller, body: Body) -> Result<Order, BadOrder> {
    let limits = caller.limits;
    let body = tokio::time::timeout(limits.body, Limited::new(body, limits.body_bytes).collect())
        .await
        .map_err(|_| BadOrder::Slow)?
        .map_err(|e| match e.downcast::<LengthLimitError>() {
            Ok(_) => BadOrder::Long(limits.body_bytes),
            Err(e) => BadOrder::Broken(e.to_string()),
        })?
        .to_bytes();
    Ok(match verb {
        "upgrade" => Order::Upgrade(upgrade_order(&body)?),
        "apply" => Order::Apply(upgrade_order(&body)?),
        "commit" => parse(&body).map(|Nothing {}| Order::Commit)?,
        "rollback" => parse(&body).map(|Nothing {}| Order::Rollback)?,
        "reload" => parse(&body).map(|Nothing {}| Order::Reload)?,
        "stop" => parse(&body).map(|Nothing {}| Order::Stop)?,
        other => return Err(BadOrder::Verb(other.into())),
    })
}

fn upgrade_order(body: &[u8]) -> Result<UpgradeOrder, BadOrder> {
    let order: UpgradeOrder = parse(body)?;
    let hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    match &order.id {
        Some(id) if id.len() != 32 || !id.as_bytes().iter().all(hex) => Err(BadOrder::Id),
        _ => Ok(order),
    }
}

/// No body at all is the order without particulars: `curl -X POST .../commit`.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadOrder> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(BadOrder::Json)
}

/// The body of an order without particulars.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, thiserror::Error)]
enum BadOrder {
    #[error(
        "there is no order {0:?}: upgrade, apply, commit, rollback, reload and stop are orders"
    )]
    Verb(String),
    #[error("the order is not understood: {0}")]
    Json(serde_json::Error),
    #[error("the order's id is not 32 lower-case hex digits")]
    Id,
    #[error("the order did not arrive in time")]
    Slow,
    #[error("the order is longer than {0} bytes")]
    Long(usize),
    #[error("the order did not arrive: {0}")]
    Broken(String),
}

impl IntoResponse for BadOrder {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Verb(_) => StatusCode::NOT_FOUND,
            Self::Json(_) | Self::Id | Self::Broken(_) => StatusCode::BAD_REQUEST,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Long(_) => StatusCode::PAYLOAD_TOO_LARGE,
        };
        refuse(status, exit::USAGE, self.to_string())
    }
}

impl IntoResponse for Gone {
    fn into_response(self) -> Response {
        refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            exit::UNAVAILABLE,
            self.to_string(),
        )
    }
}

async fn unknown(request: Request) -> Response {
    let why = format!(
        "there is no {} {}: GET /v1/status, /v1/events, /metrics; POST /v1/<order>",
        request.method(),
        request.uri().path()
    );
    refuse(StatusCode::NOT_FOUND, exit::USAGE, why)
}

fn denied(why: &Denied) -> Response {
    refuse(StatusCode::FORBIDDEN, exit::DENIED, why.to_string())
}

fn refuse(status: StatusCode, exit: u8, message: impl Into<String>) -> Response {
    let verdict = Verdict {
        exit,
        message: message.into(),
        id: None,
    };
    (status, Json(verdict)).into_response()
}

fn lines(events: impl stream::Stream<Item = Event> + Send + 'static) -> Response {
    use futures_util::StreamExt;
    let body = events.map(|event| {
        serde_json::to_vec(&event).map(|mut line| {
            line.push(b'\n');
            Bytes::from(line)
        })
    });
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(body)).into_response()
}

const NDJSON: &str = "application/x-ndjson";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Clients that may follow the events at once.
const FOLLOWERS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_fill_the_journal() {
        let mut strangers = Strangers::default();
        assert_eq!(strangers.again(), Some(0));
        for _ in 0..1000 {
            assert_eq!(strangers.again(), None);
        }
        tokio::time::advance(Strangers::PAUSE).await;
        assert_eq!(strangers.again(), Some(1000));
    }
}
