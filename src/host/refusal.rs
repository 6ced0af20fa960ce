//! What a client gets when the application gives no answer: a number, a word, and the reason in our
//! log alone.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use tokio::time::Instant;

use crate::worker::Tally;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The client's own mistake.
    BadRequest(String),
    /// The application answers, but not in HTTP, or not to the end.
    BadGateway(String),
    /// It takes no connection.
    Unavailable(String),
    /// It does not answer in time.
    TimedOut(String),
}

impl Refusal {
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::BadRequest(_) => Cause::Request,
            Self::BadGateway(_) => Cause::NoAnswer,
            Self::Unavailable(_) => Cause::Unavailable,
            Self::TimedOut(_) => Cause::TooLate,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::BadGateway(_) => StatusCode::BAD_GATEWAY,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The answer.
    pub(super) fn into_response(self) -> Response<Body> {
        let status = self.status();
        let mut response = Response::new(Body::from(format!("{status}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, text);
        if matches!(self, Self::Unavailable(_)) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::BadRequest(reason)
        | Self::BadGateway(reason)
        | Self::Unavailable(reason)
        | Self::TimedOut(reason)) = self;
        write!(f, "{}: {reason}", self.status().as_u16())
    }
}

/// What went wrong, as far as the log tells causes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A request that makes no sense.
    Request,
    /// 502
    NoAnswer,
    /// 503
    Unavailable,
    /// 504
    TooLate,
    /// An answer that broke off, or stood still.
    Cut,
    /// A tunnel.
    Tunnel,
}

/// Says why, at most once a second for each cause: an application that is down has many clients, and
/// their number is not to hide another cause. Counts all of them.
#[derive(Debug)]
pub(super) struct Complaints {
    said: Mutex<[Said; 6]>,
    tally: Arc<Tally>,
}

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    /// Since then.
    unsaid: u64,
}

const EVERY: Duration = Duration::from_secs(1);

impl Complaints {
    pub(super) fn new(tally: Arc<Tally>) -> Self {
        Self {
            said: Mutex::default(),
            tally,
        }
    }

    pub(super) fn say(&self, cause: Cause, what: &impl fmt::Display) {
        let counter = match cause {
            Cause::NoAnswer => Some(&self.tally.no_answer),
            Cause::Unavailable => Some(&self.tally.no_connection),
            Cause::TooLate => Some(&self.tally.timed_out),
            Cause::Cut => Some(&self.tally.broken_off),
            Cause::Request | Cause::Tunnel => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = &mut all[cause as usize];
        if said.last.is_some_and(|last| last.elapsed() < EVERY) {
            said.unsaid += 1;
            return;
        }
        said.last = Some(Instant::now());
        match std::mem::take(&mut said.unsaid) {
            0 => tracing::warn!("{what}"),
            more => tracing::warn!("{what} (and {more} more since it was last said)"),
        }
    }
}
