//! Ending a connection by our own will without losing the answer on its way.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout};

use crate::worker::gate::Gate;
use crate::worker::stream::Stream;

/// How long we read on in all, and how long we wait for more (nginx's `lingering_time` and
/// `lingering_timeout`), when the client has what was said.
const TIME: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(5);

/// How long a client may take in all that acknowledges a little in each `send_timeout`, in those: the
/// kernel holds at most a few megabytes for it.
const SLOW: u32 = 10;

/// Says that this is the end, then reads and forgets what the client still sends until it has seen
/// that. A socket closed with unread bytes in it makes the kernel send a reset, which would destroy
/// our last answer at the client (RFC 9112, 9.6); so does what comes when it is closed, as long as a part
/// of the answer is still in the kernel. For that a client has `send_timeout`, between two pieces. No order
/// is for it any longer: the others do not wait.
pub(in crate::worker) async fn linger(mut stream: Stream, gate: &Gate, send_timeout: Duration) {
    gate.orders.man(false);
    stream.end_writing();
    let mut rest = vec![0; 16 * 1024];
    let begun = Instant::now();
    let (mut left, mut taken_at) = (stream.unacknowledged(), begun);
    while begun.elapsed() < TIME.max(send_timeout.saturating_mul(SLOW)) {
        let read = timeout(SILENCE, stream.read(&mut rest)).await;
        let before = std::mem::replace(&mut left, stream.unacknowledged());
        if left < before {
            taken_at = Instant::now();
        }
        let waits = left > 0 && taken_at.elapsed() < send_timeout;
        let goes_on = match read {
            Ok(Ok(1..)) => waits || taken_at.elapsed() < TIME,
            // An end, which is the client's, or nothing.
            Ok(_) => false,
            Err(_) => waits,
        };
        if !goes_on {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
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
        let mut lingering = std::pin::pin!(linger(stream, &gate, SILENCE));
        assert!(futures_util::poll!(&mut lingering).is_pending());
        assert_eq!(permits.available_permits(), 1, "told before");
        gate.tell(Order::Leave, permit());
        assert_eq!(permits.available_permits(), 1, "told meanwhile");
        drop(theirs);
        lingering.await;
    }

    /// How long it takes with a client that says nothing and keeps its half open.
    async fn silent(takes: bool) -> Duration {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (stream, _) = Stream::from_fd(ours.into()).unwrap();
        assert_eq!(stream.send_now(b"the end").unwrap(), 7);
        if takes {
            theirs.read_exact(&mut [0; 7]).unwrap();
        }
        let begun = Instant::now();
        linger(stream, &Gate::default(), SILENCE * 12).await;
        begun.elapsed()
    }

    /// It acknowledges a piece whenever it would be given up.
    #[tokio::test(start_paused = true)]
    async fn who_takes_a_little_at_a_time_is_not_waited_for_for_ever() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (stream, _) = Stream::from_fd(ours.into()).unwrap();
        for _ in 0..100 {
            assert_eq!(stream.send_now(b"x").unwrap(), 1);
        }
        let begun = Instant::now();
        let slow = async {
            for _ in 0..100 {
                tokio::time::sleep(SILENCE * 11).await;
                theirs.read_exact(&mut [0]).unwrap();
            }
        };
        let gate = Gate::default();
        tokio::select! {
            () = linger(stream, &gate, SILENCE * 12) => {}
            () = slow => panic!("it had all the time that it wanted"),
        }
        let took = begun.elapsed();
        assert!(
            took >= SILENCE * 12 * SLOW && took <= SILENCE * 13 * SLOW,
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_client_has_not_taken_is_waited_for() {
        assert_eq!(silent(true).await.as_secs(), SILENCE.as_secs());
        assert_eq!(silent(false).await.as_secs(), 12 * SILENCE.as_secs());
    }
}
