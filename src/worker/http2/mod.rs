//! HTTP/2 with prior knowledge (h2c). Such a connection cannot move: its header tables and windows
//! are private to `h2`. GOAWAY ends it without losing a stream.

pub(super) mod streams;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, sleep_until};

use self::streams::Tasks;
use super::http1::linger::linger;
use crate::config::Http;
use crate::worker::Worker;
use crate::worker::connection::Connection;
use crate::worker::exchange::Exchange;
use crate::worker::gated::Gated;
use crate::worker::order::Order;

/// How long a client gets to end a connection without streams after our GOAWAY.
const GOODBYE: Duration = Duration::from_secs(5);

/// How often a client is asked whether it is still there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The header list of one request, as it counts in HTTP/2 (RFC 9113, 6.5.2).
const HEADERS_MAX: u32 = 32 * 1024;

/// Requests that a client has reset before they were answered end its connection when they are so
/// many, and more than half of all (rapid reset, CVE-2023-44487). A client that changes its mind
/// often loses nothing: it gets a GOAWAY.
const RESETS_MAX: u32 = 1000;

/// SETTINGS, and GOAWAY with `HTTP_1_1_REQUIRED` (RFC 9113, 7).
const HTTP1_REQUIRED: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0d";

/// How hyper is set up.
pub(super) fn builder(http: &Http) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(Tasks {
        send_timeout: http.send_timeout,
    });
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(http.max_streams)
        .max_header_list_size(HEADERS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Ends a connection of a client that speaks HTTP/2 where `[http] http2` is off.
pub(super) async fn refuse(mut connection: Connection) {
    connection.stream.say_last(HTTP1_REQUIRED);
    linger(connection.stream).await;
}

/// Serves `connection` to its end.
pub(super) async fn serve(connection: Connection, worker: &Worker) {
    let gate = connection.gate;
    gate.restart();
    let exchange = Exchange {
        router: connection.served.router.clone(),
        context: worker
            .application
            .at(&connection.served.name, connection.peer),
        peer: connection.peer,
        proxies: Arc::clone(&worker.proxies),
        gate: Arc::clone(&gate),
        connections: Arc::clone(&worker.connections),
        multiplexed: true,
        body_timeout: worker.http.body_timeout,
        access: worker.access.clone(),
        tls: connection.stream.tls(),
    };
    let io = TokioIo::new(Gated {
        stream: connection.stream,
        before: connection.leftover,
        gate: Arc::clone(&gate),
        live: connection.live,
        web_socket: None,
    });
    let mut http = pin!(worker.http2.serve_connection(io, exchange));
    let keepalive = worker.http.keepalive_timeout;
    // What moves when something happens on the connection.
    let activity = || (gate.requests(), gate.writes());
    let mut seen = activity();
    let mut idle_since = Instant::now();
    let mut said_goodbye = false;
    let mut timer = pin!(sleep_until(idle_since + keepalive));
    poll_fn(|cx| {
        gate.register(cx.waker());
        let leaves = gate.order() != Order::Serve;
        if leaves {
            drop(gate.orders.permit());
        }
        if (leaves || gate.resets_exceed(RESETS_MAX)) && !said_goodbye {
            said_goodbye = true;
            http.as_mut().graceful_shutdown();
            idle_since = Instant::now();
            timer.as_mut().reset(idle_since + GOODBYE);
        }
        if Pin::new(&mut http).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if gate.streams() > 0 || activity() != seen {
            seen = activity();
            idle_since = Instant::now();
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let due = idle_since + if said_goodbye { GOODBYE } else { keepalive };
            if gate.streams() > 0 {
                timer.as_mut().reset(now + GOODBYE);
            } else if now < due {
                timer.as_mut().reset(due);
            } else if said_goodbye {
                return Poll::Ready(());
            } else {
                said_goodbye = true;
                http.as_mut().graceful_shutdown();
                idle_since = now;
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    })
    .await;
}
