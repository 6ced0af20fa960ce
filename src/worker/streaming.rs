//! Server-sent events in a drain: a stream of an application that takes no part ends after an event,
//! not in the middle of one, and each at another time. Its client asks again, with the number of
//! the last event, and is served by the generation that owns the service.

use std::task;

use axum::body::Body;
use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};

use crate::context::{Context, Ending};

/// A stream of events that is being answered.
#[derive(Debug)]
pub(super) struct Events {
    ending: Ending,
    /// What was sent last.
    tail: [u8; 4],
}

impl Events {
    /// `None`: this answer is something else, or it is compressed and nobody can say where an event
    /// ends.
    pub(super) fn of(response: &Response<Body>, context: &Context) -> Option<Box<Self>> {
        let headers = response.headers();
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)?;
        let events = kind.get(..EVENTS.len())?.eq_ignore_ascii_case(EVENTS);
        (events && !headers.contains_key(CONTENT_ENCODING)).then(|| {
            Box::new(Self {
                ending: context.ending(),
                tail: *b"\n\n\n\n",
            })
        })
    }

    /// Whether the stream ends now: its time has come, and an event has ended.
    pub(super) fn end_here(&mut self, cx: &mut task::Context<'_>) -> bool {
        self.ending.poll(cx).is_ready() && self.between_events()
    }

    /// So much more was sent.
    pub(super) fn sent(&mut self, data: &[u8]) {
        let last = &data[data.len().saturating_sub(self.tail.len())..];
        self.tail.rotate_left(last.len());
        let kept = self.tail.len() - last.len();
        self.tail[kept..].copy_from_slice(last);
    }

    /// An empty line ends an event; a line ends in any of three ways (HTML, 9.2.5).
    fn between_events(&self) -> bool {
        let ends = [&b"\n\n"[..], b"\r\r", b"\r\n\r\n", b"\n\r\n", b"\n\r"];
        ends.iter().any(|end| self.tail.ends_with(end))
    }
}

const EVENTS: &[u8] = b"text/event-stream";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn an_event_ends_with_an_empty_line_however_it_is_cut() {
        let context = Context::new("x".into(), "1".into(), 1, Config::default(), Vec::new());
        let answer = |kind| {
            let response = Response::builder().header(CONTENT_TYPE, kind);
            response.body(Body::empty()).unwrap()
        };
        assert!(Events::of(&answer("text/plain"), &context).is_none());
        let of = Events::of(&answer("text/event-stream; charset=utf-8"), &context);
        let mut events = of.unwrap();
        assert!(events.between_events(), "nothing was sent yet");
        for (data, between) in [
            (&b"data: 1\n"[..], false),
            (b"\n", true),
            (b"data: 2", false),
            (b"\r\n\r", true),
            (b"\n", true),
            (b"", true),
            (b"d", false),
        ] {
            events.sent(data);
            assert_eq!(events.between_events(), between, "{data:?}");
        }
    }
}
