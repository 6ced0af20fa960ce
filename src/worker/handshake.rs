//! The TLS handshake of one connection: its time, its figures, and what a client hears that does not
//! shake hands.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::context::Worker;
use super::http1::linger::linger;
use super::lock;
use super::stream::Stream;
use super::tls::{self, HandshakeError, SPEAK_TLS, TlsStream};

/// Shakes hands; what was read of the client so far is in the leftover. `None`: it has ended.
pub(super) async fn shake_hands(mut connection: Connection, worker: &Worker) -> Option<Connection> {
    let Some(setup) = &worker.tls else {
        // It came from a generation that had certificates.
        tracing::info!(
            "closing a connection that waits for TLS, which is not configured any longer"
        );
        return None;
    };
    let input = BytesMut::from(std::mem::take(&mut connection.leftover));
    let begun = connection.head_since.unwrap_or_else(Instant::now);
    let gate = Arc::clone(&connection.gate);
    let done = {
        let shaking = tls::shake_hands(&mut connection.stream, input, &setup.config);
        let mut shaking = pin!(timeout_at(begun + worker.http.header_timeout, shaking));
        poll_fn(|cx| {
            gate.register(cx.waker());
            // It leaves when it is done, and does not hold up the others.
            drop(gate.orders.permit());
            shaking.as_mut().poll(cx)
        })
        .await
    };
    match done.unwrap_or(Err(HandshakeError::TimedOut)) {
        Ok((sealed, resumed)) => {
            let mut figures = lock(&worker.connections.figures.tls);
            figures.handshakes.done += 1;
            figures.handshakes.resumed += u64::from(resumed);
            drop(figures);
            let tls = TlsStream::new(connection.stream, sealed);
            connection.stream = Stream::Tls(Box::new(tls));
            connection.leftover = Bytes::new();
            connection.handshake_due = false;
            connection.head_since = None;
            connection.idle_since = Instant::now();
            Some(connection)
        }
        Err(failed) => {
            failed.count(&mut lock(&worker.connections.figures.tls).handshakes);
            tracing::debug!(listener = connection.served.name, "no TLS: {failed}");
            if let HandshakeError::PlainHttp = failed {
                connection.stream.say_last(SPEAK_TLS);
            }
            if let HandshakeError::PlainHttp | HandshakeError::Tls(_) = failed {
                // Closed with bytes unread it would reset, and take our last word with it.
                linger(connection.stream, &gate, worker.http.send_timeout).await;
            }
            None
        }
    }
}
