//! HTTP/2 with prior knowledge (h2c). Such a connection cannot move: its header tables and windows
//! are private to `h2`. GOAWAY ends it without losing a stream.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, sleep_until};

use crate::worker::Worker;
use crate::worker::connection::Connection;
use crate::worker::exchange::Exchange;
use crate::worker::gated::Gated;
use crate::worker::order::Order;

/// How long a client gets to end a connection without streams after our GOAWAY.
const GOODBYE: Duration = Duration::from_secs(5);

/// How hyper is set up.
pub(super) fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    builder
}

/// Serves `connection` to its end.
pub(super) async fn serve(connection: Connection, worker: &Worker) {
    let gate = connection.gate;
    gate.restart();
    let exchange = Exchange {
        router: connection.served.router.clone(),
        peer: connection.peer,
        gate: Arc::clone(&gate),
        connections: Arc::clone(&worker.connections),
        multiplexed: true,
        access: worker.access.clone(),
    };
    let io = TokioIo::new(Gated {
        stream: connection.stream,
        before: connection.leftover,
        gate: Arc::clone(&gate),
        live: connection.live,
    });
    let mut http = pin!(worker.http2.serve_connection(io, exchange));
    let keepalive = worker.http.keepalive_timeout;
    let mut idle_since = Instant::now();
    let mut seen = gate.requests();
    let mut said_goodbye = false;
    let mut timer = pin!(sleep_until(idle_since + keepalive));
    poll_fn(|cx| {
        gate.register(cx.waker());
        if gate.order() != Order::Serve {
            drop(gate.orders.permit());
            if !said_goodbye {
                said_goodbye = true;
                http.as_mut().graceful_shutdown();
                idle_since = Instant::now();
                timer.as_mut().reset(idle_since + GOODBYE);
            }
        }
        if Pin::new(&mut http).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if gate.streams() > 0 || gate.requests() != seen {
            seen = gate.requests();
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
