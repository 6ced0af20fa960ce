//! A request body that the application dropped before its end (a 404 to a POST, a handler that
//! does not look at it).
//!
//! hyper would read on once, and close if that was not the end: invisible from outside, and the
//! client loses its connection. So the body is put back here, and the driver reads it over.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::Body as _;
use hyper::body::Incoming;

/// A body that says that it is longer ends the connection (as in Go), and the answer says so. Of one that
/// does not say, in chunks, nobody knows when the answer begins: as in nginx its time is bounded
/// ([`super::times`]), not its length.
const LENGTH_MAX: u64 = 256 * 1024;

/// The rest of a body.
#[derive(Debug)]
pub(in crate::worker) struct Unread {
    body: Incoming,
    /// The number of its request.
    pub(in crate::worker) number: u32,
}

impl Unread {
    /// The rest of the body of request `number`; `None`: certainly too long.
    pub(in crate::worker) fn new(body: Incoming, number: u32) -> Option<Self> {
        (body.size_hint().lower() <= LENGTH_MAX).then_some(Self { body, number })
    }

    /// Reads on. Ready: it has ended (true), or it is broken.
    pub(in crate::worker) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while !self.body.is_end_stream() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => break,
                Some(Err(_)) => return Poll::Ready(false),
                Some(Ok(_)) => {}
            }
        }
        Poll::Ready(true)
    }
}
