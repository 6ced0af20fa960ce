//! What we tell every client of HTTP/2, and what one of another worker's was told: settings are for a
//! connection's life. A client may use what it was allowed before it hears of a smaller value.

use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;

use super::ledger::settings;
use super::streams::Tasks;
use super::{HEADERS_MAX, PING_EVERY, PING_TIMEOUT};
use crate::config::Http;

/// How much a client may send on all streams, and on one, before we have read it. What nobody reads of
/// some uploads is not to keep the client from sending others.
pub(super) const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
const STREAM_WINDOW: u32 = 256 * 1024;
// `h2` raises a window at once only by half of it or more; a smaller one would let the client send more
// than the next worker's `h2` believes (see `super::arrive`).
const _: () = assert!(CONNECTION_WINDOW >= 2 * 65_535);

/// What `h2` lets a client give up before it was looked at, when nobody says otherwise.
const RESETS: u32 = 20;

pub(in crate::worker) type Builder = http2::Builder<Tasks>;

/// How hyper is set up.
pub(in crate::worker) fn builder(http: &Http) -> Builder {
    let mut builder = http2::Builder::new(Tasks {
        send_timeout: http.send_timeout,
    });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(http.max_streams)
        // What was held for a move comes at once: as many as may be open may have been given up by
        // then. (`RESETS_MAX` bounds how many a client gives up.)
        .max_pending_accept_reset_streams(http.max_streams.max(RESETS) as usize)
        .max_header_list_size(HEADERS_MAX)
        // Never `adaptive_window`: it tells other settings later.
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// The same for a connection whose client was told `told`. `None`: it was told what we cannot tell.
pub(super) fn for_life(builder: &Builder, told: &[u8], window: u32) -> Option<Builder> {
    let mut builder = builder.clone();
    builder
        .initial_connection_window_size(window)
        .max_concurrent_streams(None);
    for (id, value) in settings(told)? {
        // By RFC 9113, 6.5.2, and RFC 8441, 3.
        match id {
            1 => builder.header_table_size(value),
            // We push nothing, and it says so.
            2 if value == 0 => &mut builder,
            3 => builder.max_concurrent_streams(value),
            4 => builder.initial_stream_window_size(value),
            5 if (16_384..1 << 24).contains(&value) => builder.max_frame_size(value),
            6 => builder.max_header_list_size(value),
            8 if value == 1 => builder.enable_connect_protocol(),
            _ => return None,
        };
    }
    Some(builder)
}
