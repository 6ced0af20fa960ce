//! How a client of HTTP/2 begins, and how one is sent away where HTTP/2 is not spoken.

use super::Worker;
use super::connection::Connection;
use super::http1::linger::linger;

/// With prior knowledge (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// SETTINGS, and GOAWAY with `HTTP_1_1_REQUIRED` (RFC 9113, 7).
const HTTP1_REQUIRED: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0d";

/// Ends a connection of a client that speaks HTTP/2.
pub(super) async fn refuse(mut connection: Connection, worker: &Worker) {
    connection.stream.say_last(HTTP1_REQUIRED);
    linger(
        connection.stream,
        &connection.gate,
        worker.http.send_timeout,
    )
    .await;
}
