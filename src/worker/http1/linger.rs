//! Ending a connection by our own will without losing the answer on its way.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::worker::stream::Stream;

/// How long we read on in all, and how long we wait for more (nginx's `lingering_time` and
/// `lingering_timeout`).
const TIME: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(5);

/// Says that this is the end, then reads and forgets what the client still sends until it has seen
/// that. A socket closed with unread bytes in it makes the kernel send a reset, which would destroy
/// our last answer at the client (RFC 9112, 9.6).
pub(in crate::worker) async fn linger(mut stream: Stream) {
    stream.end_writing();
    let mut rest = vec![0; 16 * 1024];
    let _ = timeout(TIME, async {
        while let Ok(Ok(1..)) = timeout(SILENCE, stream.read(&mut rest)).await {}
    })
    .await;
}
