//! Room for answers: each may open a file, so no more are made at a time than there are descriptors for.
//!
//! One answer of each connection is among the first ones. HTTP/2 makes others beside it; these share what
//! is set aside for them, so that a few connections do not take what the others need.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;
use tokio::time::timeout;

/// All there is in a worker.
#[derive(Debug)]
pub(super) struct Rooms {
    first: Arc<Semaphore>,
    more: Arc<Semaphore>,
}

/// Whether an answer of a connection is among the first ones. Over HTTP/1.1 there is one at a time, and
/// nothing to know.
#[derive(Debug, Clone)]
pub(super) struct Own(Option<Arc<Semaphore>>);

/// Room for one answer, as long as this exists.
#[derive(Debug)]
pub(super) struct Room {
    _room: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

impl Rooms {
    /// For so many answers.
    pub(super) fn new(first: usize, more: usize) -> Self {
        let permits = |n: usize| Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)));
        Self {
            first: permits(first),
            more: permits(more),
        }
    }

    /// Room for one more answer of a connection, if there is some.
    pub(super) fn take(&self, own: &Own) -> Option<Room> {
        // A runtime that wants its turn back would make it look as if there were none.
        unconstrained(self.room(own)).now_or_never().flatten()
    }

    /// Waits for it: until an answer ends whose room it may have, but not for ever.
    pub(super) async fn wait(&self, own: &Own, most: Duration) -> Option<Room> {
        timeout(most, self.room(own)).await.ok().flatten()
    }

    async fn room(&self, own: &Own) -> Option<Room> {
        let first = async {
            let own = match &own.0 {
                Some(own) => Some(Arc::clone(own).acquire_owned().await.ok()?),
                None => None,
            };
            let room = Arc::clone(&self.first).acquire_owned().await.ok()?;
            Some((room, own))
        };
        let more = async { Arc::clone(&self.more).acquire_owned().await };
        let (room, own) = tokio::select! {
            biased;
            first = first => first?,
            more = more => (more.ok()?, None),
        };
        Some(Room {
            _room: room,
            _own: own,
        })
    }
}

impl Own {
    /// Of a connection; `multiplexed`: it is HTTP/2.
    pub(super) fn new(multiplexed: bool) -> Self {
        Self(multiplexed.then(|| Arc::new(Semaphore::new(1))))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::config::Config;
    use crate::context::Context;
    use crate::worker::connections::Connections;
    use crate::worker::exchange::Exchange;
    use crate::worker::gate::Gate;
    use crate::worker::stream::Peer;

    const MOST: Duration = Duration::from_secs(60);

    #[test]
    fn answers_beside_each_other_leave_room_for_those_of_other_connections() {
        let rooms = Rooms::new(2, 3);
        let (many, other) = (Own::new(true), Own::new(true));
        let held: Vec<_> = (0..4).map(|_| rooms.take(&many)).collect();
        assert!(held.iter().all(Option::is_some) && rooms.take(&many).is_none());
        let first = rooms.take(&other);
        assert!(first.is_some() && rooms.take(&other).is_none());
        assert!(rooms.take(&Own::new(false)).is_none());
        drop(first);
        assert!(rooms.take(&Own::new(false)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whose_first_answer_has_ended_goes_on_with_the_next_one() {
        let rooms = Rooms::new(2, 1);
        let (ours, theirs) = (Own::new(true), Own::new(true));
        let first = rooms.take(&ours);
        let (_long, _others) = (rooms.take(&theirs), rooms.take(&theirs));
        let mut waits = std::pin::pin!(rooms.wait(&ours, MOST));
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(first);
        assert!(waits.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let rooms = Rooms::new(1, 1);
        let own = Own::new(true);
        let _held = (rooms.take(&own), rooms.take(&own));
        let begun = tokio::time::Instant::now();
        assert!(rooms.wait(&own, MOST).await.is_none());
        assert!(begun.elapsed() < 2 * MOST);
        assert!(rooms.wait(&Own::new(false), MOST).await.is_none());
    }

    /// A request over HTTP/1.1 that finds no room.
    #[tokio::test(start_paused = true)]
    async fn who_gets_no_room_is_told_so() {
        let exchange = Exchange {
            router: Router::new(),
            context: Context::new("x".into(), "1".into(), 1, Config::default(), Vec::new()),
            peer: Peer::Tcp(SocketAddr::from(([127, 0, 0, 1], 1))),
            proxies: Arc::new([]),
            gate: Arc::new(Gate::default()),
            connections: Connections::new(None, 1, Rooms::new(0, 0)),
            multiplexed: false,
            own: Own::new(false),
            body_timeout: MOST,
            send_timeout: MOST,
            access: None,
            tls: None,
        };
        let (mut client, ours) = tokio::io::duplex(4096);
        let http = crate::worker::http1::builder();
        tokio::spawn(http.serve_connection(TokioIo::new(ours), exchange));
        let request = b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
}
