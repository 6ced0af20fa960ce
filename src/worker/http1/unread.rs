//! A request body that the application dropped before its end (a 404 to a POST, a handler that
//! does not look at it).
//!
//! hyper would read on once, and close if that was not the end: invisible from outside, and the
//! client loses its connection. So the body is put back here, and the driver reads it over.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Body as _;
use hyper::body::Incoming;

/// A body is read over up to this length; a longer one ends the connection (as in Go).
pub(in crate::worker) const UNREAD_MAX: u64 = 256 * 1024;

/// The rest of a body.
#[derive(Debug)]
pub(in crate::worker) struct Unread {
    body: Incoming,
    /// The number of its request.
    pub(in crate::worker) number: u32,
    left: u64,
}

impl Unread {
    /// The rest of the body of request `number`; `None`: certainly too long.
    pub(in crate::worker) fn new(body: Incoming, number: u32) -> Option<Self> {
        (body.size_hint().lower() <= UNREAD_MAX).then_some(Self {
            body,
            number,
            left: UNREAD_MAX,
        })
    }

    /// Reads on. Ready: it has ended (true), or it is too long or broken.
    pub(in crate::worker) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if self.body.is_end_stream() {
                return Poll::Ready(true);
            }
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(true),
                Some(Err(_)) => return Poll::Ready(false),
                Some(Ok(frame)) => {
                    let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                    match self.left.checked_sub(len) {
                        Some(left) => self.left = left,
                        None => return Poll::Ready(false),
                    }
                }
            }
        }
    }
}
