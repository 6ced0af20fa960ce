//! Whose turn it is to accept, where several workers share a listening socket: one that holds more
//! than its share leaves a new connection to the others for a moment.

use std::time::Duration;

use tokio::time::sleep;

use super::connections::Connections;

/// The turns on one listening socket.
#[derive(Debug)]
pub(super) struct Turns {
    shared: bool,
    /// Connections to be taken without a look at the others.
    free: u32,
}

/// One wait. The others have been woken with us and need a fraction of it.
const WAIT: Duration = Duration::from_millis(1);

/// So many at most: no connection is left lying because of a worker that hangs.
const WAITS: u32 = 10;

/// What is taken without waiting once the others have left a connection lying for so long.
const FREE: u32 = 16;

impl Turns {
    pub(super) fn new(shared: bool) -> Self {
        Self { shared, free: 0 }
    }

    /// A connection is there: returns when we may take it if it still is. True: our turn has not
    /// come, but the others leave it lying.
    pub(super) async fn come(&mut self, connections: &Connections) -> bool {
        if !self.shared || self.free > 0 {
            self.free = self.free.saturating_sub(1);
            return false;
        }
        for _ in 0..WAITS {
            if connections.has_a_fair_share() {
                return false;
            }
            sleep(WAIT).await;
        }
        true
    }

    /// It still was there.
    pub(super) fn took_one(&mut self, waited: bool) {
        if waited {
            self.free = FREE;
        }
    }
}
