//! Ending a connection by our own will without losing the answer on its way.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::worker::gate::Gate;
use crate::worker::stream::Stream;

/// How long we read on in all, and how long we wait for more (nginx's `lingering_time` and
/// `lingering_timeout`).
const TIME: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(5);

/// Says that this is the end, then reads and forgets what the client still sends until it has seen
/// that. A socket closed with unread bytes in it makes the kernel send a reset, which would destroy
/// our last answer at the client (RFC 9112, 9.6). No order is for it any longer: the others do not wait.
pub(in crate::worker) async fn linger(mut stream: Stream, gate: &Gate) {
    gate.orders.man(false);
    stream.end_writing();
    let mut rest = vec![0; 16 * 1024];
    let _ = timeout(TIME, async {
        while let Ok(Ok(1..)) = timeout(SILENCE, stream.read(&mut rest)).await {}
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::worker::order::Order;

    #[tokio::test]
    async fn a_drain_does_not_wait_for_it() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = || Arc::clone(&permits).try_acquire_owned().ok();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (stream, _) = Stream::from_fd(ours.into()).unwrap();
        let gate = Gate::default();
        gate.orders.man(true);
        gate.tell(Order::Leave, permit());
        let mut lingering = std::pin::pin!(linger(stream, &gate));
        assert!(futures_util::poll!(&mut lingering).is_pending());
        assert_eq!(permits.available_permits(), 1, "told before");
        gate.tell(Order::Leave, permit());
        assert_eq!(permits.available_permits(), 1, "told meanwhile");
        drop(theirs);
        lingering.await;
    }
}
