//! The operator's door: HTTP over `<runtime>/control.sock`.
//!
//! Three parts: [`router`] turns requests into [`Request`]s, `serve` accepts connections and
//! learns who is at the other end, [`Access`] decides who may give orders. The driver holds the
//! [`Desk`], where the requests arrive; everybody else holds clones of the [`Handle`].
//!
//! Deliberately absent: any decision about the service. An order that makes no sense now is
//! answered by the driver, with a [`Verdict`].

mod access;
mod routes;
mod serve;
mod socket;

use tokio::sync::{broadcast, mpsc, oneshot};

use super::state::{ASKED, State};
use crate::api::{Event, Status, UpgradeOrder, Verdict, exit};

pub use access::{Access, AccessError, Denied, Peer, operators};
pub use routes::{metrics_router, router};
pub use serve::{Limits, serve};
pub use socket::{ControlSocket, SOCKET};

/// What an operator asks of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Run what is on disk now.
    Upgrade(UpgradeOrder),
    /// Make what is on disk be what runs.
    Apply(UpgradeOrder),
    /// Make it final.
    Commit,
    /// Go back.
    Rollback,
    /// Configuration only.
    Reload,
    /// Drain and leave.
    Stop,
}

impl Order {
    /// Whether what it does depends on the program on disk.
    #[must_use]
    pub fn looks_at_disk(&self) -> bool {
        match self {
            Self::Upgrade(_) | Self::Apply(_) | Self::Rollback => true,
            Self::Commit | Self::Reload | Self::Stop => false,
        }
    }

    /// The word of the command line and of the path.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Upgrade(_) => "upgrade",
            Self::Apply(_) => "apply",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Reload => "reload",
            Self::Stop => "stop",
        }
    }
}

/// Who wants to know how the service is.
#[derive(Debug)]
pub enum Figures {
    /// `GET /v1/status`.
    Status(oneshot::Sender<Status>),
    /// `GET /metrics`: Prometheus text.
    Metrics(oneshot::Sender<String>),
}

/// What arrives at the [`Desk`].
#[derive(Debug)]
pub enum Request {
    /// For figures.
    Figures(Figures),
    /// `POST /v1/<verb>` from somebody who may.
    Order {
        /// What is asked.
        order: Order,
        /// Who asks, for the journal.
        peer: Peer,
        /// Where the story goes.
        answer: Answer,
    },
}

/// The line to the client who gave an order. Sending never waits and never fails: a client that
/// leaves changes nothing about an order that was begun.
///
/// Dropped without [`end`](Self::end), the client sees its connection end without a verdict, asks
/// again by upgrade id, and says so.
#[derive(Debug, Clone)]
pub struct Answer(mpsc::UnboundedSender<Event>);

impl Answer {
    /// Something happened on the way.
    pub fn step(&self, event: Event) {
        let _ = self.0.send(event);
    }

    /// It is not done.
    pub fn refuse(self, message: String) {
        self.end(Verdict {
            exit: exit::REFUSED,
            message,
            id: None,
        });
    }

    /// The last line. What is sent afterwards is not read.
    pub fn end(self, verdict: Verdict) {
        let _ = self.0.send(Event::Result(verdict));
    }
}

/// The driver's end.
#[derive(Debug)]
pub struct Desk {
    requests: mpsc::Receiver<Request>,
    events: broadcast::Sender<Event>,
}

impl Desk {
    /// The next request. Pends for ever once all [`Handle`]s are gone, so that it can stand in a
    /// `select!` unguarded. Cancel-safe.
    ///
    /// An order whose client is known to have left by now was never begun and is passed over.
    pub async fn next(&mut self) -> Request {
        loop {
            match self.requests.recv().await {
                Some(Request::Order { answer, .. }) if answer.0.is_closed() => {}
                Some(request) => return request,
                None => std::future::pending().await,
            }
        }
    }

    /// Tells everybody who follows `GET /v1/events`. A follower that is too slow misses lines.
    pub fn publish(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

/// The way to the driver, as the control socket's connections use it.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<Event>,
    /// What an end says is written down there first.
    state: Option<State>,
}

/// A desk and the way to it.
#[must_use]
pub fn desk() -> (Handle, Desk) {
    let (requests, arriving) = mpsc::channel(QUEUE);
    let (events, _) = broadcast::channel(EVENTS);
    let handle = Handle {
        requests,
        events: events.clone(),
        state: None,
    };
    let desk = Desk {
        requests: arriving,
        events,
    };
    (handle, desk)
}

impl Handle {
    /// The end of a story is told when the state directory has it, or takes too long.
    pub(super) fn after(mut self, state: State) -> Self {
        self.state = Some(state);
        self
    }

    /// What another master has written is known before anything is asked that may depend on it.
    async fn known(&self) {
        if let Some(state) = &self.state {
            state.known(ASKED).await;
        }
    }

    async fn written(&self, event: &Event) {
        if let (Event::Result(_) | Event::Ended(_), Some(state)) = (event, &self.state) {
            state.written().await;
        }
    }

    /// The document of `status --json`.
    pub async fn status(&self) -> Result<Status, Gone> {
        self.known().await;
        self.figures(Figures::Status).await
    }

    /// Prometheus text.
    pub async fn metrics(&self) -> Result<String, Gone> {
        self.figures(Figures::Metrics).await
    }

    async fn figures<T>(
        &self,
        which: impl FnOnce(oneshot::Sender<T>) -> Figures,
    ) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Figures(which(reply))).await?;
        answer.await.map_err(|_| Gone)
    }

    /// Places an order; the story ends with [`Event::Result`], or without one when the driver
    /// cannot say what came of it.
    pub async fn order(
        &self,
        order: Order,
        peer: Peer,
    ) -> Result<mpsc::UnboundedReceiver<Event>, Gone> {
        self.known().await;
        let (send, story) = mpsc::unbounded_channel();
        let answer = Answer(send);
        self.ask(Request::Order {
            order,
            peer,
            answer,
        })
        .await?;
        Ok(story)
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn ask(&self, request: Request) -> Result<(), Gone> {
        self.requests.send(request).await.map_err(|_| Gone)
    }
}

/// The driver has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this master is leaving and answers no more")]
pub struct Gone;

/// Requests waiting for the driver; more of them wait in their connections.
const QUEUE: usize = 64;
/// Lines a follower may lag behind before it misses some.
const EVENTS: usize = 256;

#[cfg(test)]
mod tests;
