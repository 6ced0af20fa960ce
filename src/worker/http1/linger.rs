//! Ending a connection by our own will without losing the answer on its way.

use std::time::Duration;

use rustix::net::Shutdown;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::worker::stream::Stream;

/// How long we read on.
const TIME: Duration = Duration::from_secs(1);

/// The most that is read.
const MOST: usize = 1024 * 1024;

/// Says that this is the end, then reads and forgets what the client still sends until it has seen
/// that. A socket closed with unread bytes in it makes the kernel send a reset, which would destroy
/// our last answer at the client (RFC 9112, 9.6).
pub(super) async fn linger(mut stream: Stream) {
    let _ = rustix::net::shutdown(&stream, Shutdown::Write);
    let mut rest = vec![0; 4096];
    let mut left = MOST;
    let _ = timeout(TIME, async {
        while let Ok(n @ 1..) = stream.read(&mut rest).await {
            left = left.saturating_sub(n);
            if left == 0 {
                break;
            }
        }
    })
    .await;
}
