//! Where the application of the service's owner listens, in a worker that drains: our front sends there
//! what our own application was not given. It is asked for when it is needed: the owner may have gone
//! since, and where its application listened somebody else may by now.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::config::Upstream;

/// What the owner said last, and whether somebody wants to know.
#[derive(Debug, Default)]
pub struct OwnersApplication {
    told: watch::Sender<Told>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Told {
    at: Vec<Upstream>,
    when: Option<Instant>,
}

/// What was said is true for so long.
const FRESH: Duration = Duration::from_secs(1);

/// The answer is waited for so long; whoever waits has other things to try.
const ANSWER: Duration = Duration::from_millis(100);

impl OwnersApplication {
    /// The owner's word; empty when there is none.
    pub fn tell(&self, at: Vec<Upstream>) {
        let when = Some(Instant::now());
        self.told.send_replace(Told { at, when });
    }

    /// Our own application takes nobody.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Until [`want`](Self::want) was called.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether there was a place when we were told last.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.told.borrow().at.is_empty()
    }

    /// Until there is one.
    pub async fn known(&self) {
        let mut told = self.told.subscribe();
        // The other end is ours.
        let _ = told.wait_for(|told| !told.at.is_empty()).await;
    }

    /// Where it listens now, as far as the owner answers.
    pub async fn now(&self) -> Vec<Upstream> {
        let mut told = self.told.subscribe();
        let fresh = |told: &Told| told.when.is_some_and(|when| when.elapsed() < FRESH);
        if !fresh(&told.borrow()) {
            self.want();
        }
        match timeout(ANSWER, told.wait_for(fresh)).await {
            Ok(Ok(told)) => told.at.clone(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_the_owner_said_a_while_ago_is_asked_for_again() {
        let owners = OwnersApplication::default();
        let at = |port: u16| vec![Upstream::Port(port)];
        assert!(!owners.is_known());
        assert_eq!(owners.now().await, []);
        owners.tell(at(1));
        assert_eq!(owners.now().await, at(1));
        owners.wanted().await;
        tokio::time::advance(FRESH).await;
        // Nobody answers: that port may be anybody's.
        assert_eq!(owners.now().await, []);
        let answers = async {
            owners.wanted().await;
            owners.tell(at(2));
        };
        assert_eq!(tokio::join!(owners.now(), answers).0, at(2));
    }
}
