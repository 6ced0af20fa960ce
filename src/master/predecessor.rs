//! The predecessor: the line to it, its process, and what it says.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal as Os;
use tokio::sync::mpsc;

use super::input::Input;
use super::line::{Heard, Line, Said, Side};
use crate::machine::Event;
use crate::machine::message::{Identity, Message};
use crate::sys::process::Other;

/// The predecessor, until its process is gone and what it said last was heard.
#[derive(Debug)]
pub(super) struct Predecessor {
    pid: u32,
    identity: Identity,
    /// `None`: it has gone.
    process: Option<Arc<Other>>,
    line: Option<Line<Message>>,
}

impl Predecessor {
    /// `process`: `None` when it has gone already.
    pub(super) fn new(
        pid: u32,
        identity: Identity,
        process: Option<Other>,
        line: Line<Message>,
        post: &mpsc::Sender<Input>,
    ) -> Self {
        let process = process.map(Arc::new);
        Input::PredecessorExited.when_gone(process.clone(), post);
        Self {
            pid,
            identity,
            process,
            line: Some(line),
        }
    }

    /// What something that came on its channel means.
    pub(super) fn heard(heard: Heard) -> Said {
        match heard {
            Heard::Message(received) => Said::of(Side::Before, received).unwrap_or_else(|e| {
                tracing::error!("the generation before said what this program cannot read: {e}");
                Said::Nothing
            }),
            Heard::Closed => Said::Event(Event::PredecessorClosed),
            Heard::Broken(e) => {
                tracing::error!("the channel to the generation before broke: {e}");
                Said::Event(Event::PredecessorClosed)
            }
        }
    }

    pub(super) fn say(&self, message: Message) {
        if let Some(line) = &self.line {
            line.say(message, Vec::new());
        }
    }

    pub(super) fn line(&self) -> Option<&Line<Message>> {
        self.line.as_ref()
    }

    /// The channel ends; the process may still drain.
    pub(super) fn close(&mut self) -> Option<(Arc<Other>, Identity)> {
        self.line = None;
        Some((self.process.clone()?, self.identity.clone()))
    }

    /// EOF, when what is queued is sent.
    pub(super) async fn goodbye(&mut self, limit: Duration) {
        if let Some(line) = self.line.take() {
            line.close(limit).await;
        }
    }

    /// Its process has gone. What it said before may still be on its way.
    pub(super) fn exited(&mut self) {
        self.process = None;
    }

    /// The pid of one from which nothing more comes: it may be anybody's by now.
    pub(super) fn gone(there: &mut Option<Self>) -> Option<u32> {
        let is_over = |one: &mut Self| one.process.is_none() && one.line.is_none();
        there.take_if(is_over).map(|one| one.pid)
    }

    /// It does not let go of the channel.
    pub(super) fn kill(&self) {
        if let Err(e) = self
            .process
            .as_ref()
            .map_or(Ok(()), |p| p.signal(Os::SIGKILL))
        {
            tracing::error!("cannot kill master {}: {e}", self.pid);
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it is still on the channel.
    pub(super) fn listens(&self) -> bool {
        self.line.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::FromPredecessor;
    use crate::sys::channel::Channel;

    /// The end of a process is seen by another descriptor than what it said last.
    #[tokio::test]
    async fn what_it_said_before_its_end_is_heard_after_its_end() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from_fd(theirs).unwrap();
        let (post, mut inbox) = mpsc::channel(9);
        let hear = post.clone();
        let line = Line::new(ours, move |heard| {
            let post = hear.clone();
            async move { drop(post.send(Input::Predecessor(heard)).await) }
        });
        let who = Identity {
            generation: 1,
            version: "1".into(),
            build_id: "a".into(),
        };
        let mut predecessor = Predecessor::new(9, who, None, line, &post);
        let Some(Input::PredecessorExited) = inbox.recv().await else {
            panic!("its end is heard first");
        };
        predecessor.exited();
        let mut there = Some(predecessor);
        assert_eq!(Predecessor::gone(&mut there), None);
        let mut predecessor = there.expect("its last words are on their way");
        assert!(predecessor.listens());
        theirs.send(&Message::Commit, &[]).await.unwrap();
        drop(theirs);
        for expected in [
            Event::Predecessor(FromPredecessor::Commit),
            Event::PredecessorClosed,
        ] {
            let Some(Input::Predecessor(heard)) = inbox.recv().await else {
                panic!("no {expected:?}");
            };
            let Said::Event(event) = Predecessor::heard(heard) else {
                panic!("no {expected:?}");
            };
            assert_eq!(event, expected);
        }
        assert!(predecessor.close().is_none(), "nobody is left who drains");
        assert_eq!(Predecessor::gone(&mut Some(predecessor)), Some(9));
    }
}
