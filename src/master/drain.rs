//! Our own drain, when another generation serves: what it comes to, and who is told. Without a channel
//! the owner hears it on `handoff.sock`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::driver::Constants;
use super::handoff::SOCKET;
use super::input::Input;
use super::record::millis;
use crate::api::{self, Connections};
use crate::machine::Event;
use crate::machine::link::{Drained, News};
use crate::sys::handoff::{self, HandoffError};
use crate::sys::runtime;

/// The drain that an upgrade caused, and its last word.
#[derive(Debug)]
pub(super) struct OwnDrain {
    fixed: Arc<Constants>,
    post: mpsc::Sender<Input>,
    /// The upgrade that caused it, and since when.
    begun: Option<(String, Instant)>,
    /// What it came to, for the owner at our end.
    last_word: Option<Drained>,
}

/// How long we wait for the owner's answer, and until we ask again.
const OWNER: Duration = Duration::from_millis(500);
/// How often the owner hears of a drain that lasts.
const EVERY: Duration = Duration::from_secs(2);

impl OwnDrain {
    pub(super) fn new(fixed: Arc<Constants>, post: mpsc::Sender<Input>) -> Self {
        Self {
            fixed,
            post,
            begun: None,
            last_word: None,
        }
    }

    /// Our workers are about to drain. False: they do already, and are only hurried.
    pub(super) fn begins(&mut self, upgrade: Option<&str>) -> bool {
        if self.begun.is_some() {
            return false;
        }
        self.begun = upgrade.map(|id| (id.to_owned(), Instant::now()));
        true
    }

    /// It is taken back before it was over; whether there was one.
    pub(super) fn given_up(&mut self) -> bool {
        self.begun.take().is_some()
    }

    /// Our last worker has gone.
    pub(super) fn ended(&mut self, connections: Connections) -> Option<Drained> {
        let (upgrade_id, since) = self.begun.take()?;
        Some(Drained {
            upgrade_id,
            ms: millis(since.elapsed()),
            connections,
        })
    }

    /// There is no channel to the one who serves: it hears this when we leave.
    pub(super) fn keep_for_the_end(&mut self, drained: Drained) {
        self.last_word = Some(drained);
    }

    /// The drain goes on without a channel; the owner hears how, and again in a while.
    pub(super) fn tell(&self, me: api::Master) {
        let (told, post) = (self.say(me, None), self.post.clone());
        runtime::spawn(async move {
            if let Err(e) = told.await {
                tracing::debug!("the owner does not hear how we drain: {e}");
            }
            Input::TellNews.after(EVERY, &post);
        });
    }

    /// Whether there is an owner: it is the one who answers. Asked again for as long as `patience` says:
    /// who takes the service back does not answer yet.
    pub(super) fn ask_owner(&self, me: api::Master, patience: Duration) {
        let (fixed, post) = (Arc::clone(&self.fixed), self.post.clone());
        runtime::spawn(async move {
            let last = Instant::now() + patience;
            let owned = loop {
                let told = say(&fixed, me.clone(), None);
                let next = tokio::time::sleep(OWNER);
                if matches!(tokio::time::timeout(OWNER, told).await, Ok(Ok(()))) {
                    break true;
                }
                if Instant::now() >= last {
                    break false;
                }
                next.await;
            };
            let _ = post.send(Input::Event(Event::OwnerAnswered(owned))).await;
        });
    }

    /// The last word.
    pub(super) async fn say_last_word(&mut self, me: api::Master) {
        let drained = self.last_word.take();
        if drained.is_some() {
            if let Err(e) = self.say(me, drained).await {
                tracing::info!("nobody hears what our drain came to: {e}");
            }
        }
    }

    fn say(
        &self,
        master: api::Master,
        drained: Option<Drained>,
    ) -> impl Future<Output = Result<(), HandoffError>> + use<> {
        say(&self.fixed, master, drained)
    }
}

fn say(
    fixed: &Constants,
    master: api::Master,
    drained: Option<Drained>,
) -> impl Future<Output = Result<(), HandoffError>> + use<> {
    let path = fixed.setup.runtime.join(SOCKET);
    let generation = fixed.me.generation;
    let news = News { master, drained };
    async move { handoff::tell(&path, generation, news).await }
}
