//! Server-sent events: at a drain the stream ends after an event, and its client asks again with the
//! number of the last one (every browser does), so it misses none.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::{Stream, stream};
use handover::Service;
use handover::axum::http::HeaderMap;
use handover::axum::response::sse::{Event, Sse};
use handover::axum::{Router, routing::get};

fn main() -> ExitCode {
    Service::new("events")
        .version(env!("CARGO_PKG_VERSION"))
        .http(
            "http",
            "127.0.0.1:8080",
            Router::new().route("/events", get(events)),
        )
        // Streams end one after the other in this time, so not all clients come back at once.
        .defaults(|settings| settings.drain.timeout = Duration::from_secs(2))
        .run()
}

/// Counts, from where the client was.
async fn events(headers: HeaderMap) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let next = last.map_or(0, |last| last + 1);
    Sse::new(stream::unfold(next, async |number| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let event = Event::default()
            .id(number.to_string())
            .data(format!("event {number}"));
        Some((Ok(event), number + 1))
    }))
}
