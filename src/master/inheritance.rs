//! What a successor inherits: sent by the predecessor after the hello, received before anything
//! else is done.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::line::Line;
use crate::api::exit;
use crate::machine::Failure;
use crate::machine::message::{Hello, Inheritance, Inherited, Message, PROTOCOL};
use crate::sys::channel::{Channel, ChannelError, MAX_FDS};
use crate::sys::listeners::Listener;

/// An inheritance with its descriptors in their places.
#[derive(Debug)]
pub struct Received {
    /// What was said.
    pub inheritance: Inheritance,
    /// The listening sockets.
    pub listeners: Vec<Listener>,
    rest: Vec<(Inherited, OwnedFd)>,
}

impl Received {
    /// The descriptor that is this.
    pub(super) fn take(&mut self, what: &Inherited) -> Option<OwnedFd> {
        let at = self.rest.iter().position(|(is, _)| is == what)?;
        Some(self.rest.swap_remove(at).1)
    }
}

/// Why a successor has nothing to work with.
#[derive(Debug, thiserror::Error)]
pub enum InheritanceError {
    #[error("cannot receive the inheritance: {0}")]
    Channel(#[from] ChannelError),
    #[error("cannot greet the predecessor: {0}")]
    Hello(std::io::Error),
    #[error("the predecessor is gone; start the service again")]
    Gone,
    #[error("expected the inheritance, got {0}")]
    Unexpected(&'static str),
    #[error(
        "the predecessor speaks protocol {0}, this build {ours}: this one step needs a restart",
        ours = PROTOCOL.major
    )]
    Protocol(u16),
}

/// Says hello and receives everything.
pub async fn receive(channel: &Channel, hello: Hello) -> Result<Received, InheritanceError> {
    channel
        .send(&Message::Hello(hello), &[])
        .await
        .map_err(InheritanceError::Hello)?;
    let inheritance = match next(channel).await? {
        (Message::Inheritance(inheritance), _) => *inheritance,
        _ => return Err(InheritanceError::Unexpected("another message")),
    };
    if inheritance.protocol.major != PROTOCOL.major {
        return Err(InheritanceError::Protocol(inheritance.protocol.major));
    }
    let mut fds = Vec::new();
    while fds.len() < inheritance.fds.len() {
        let (Message::Fds { .. }, batch) = next(channel).await? else {
            let other = "another message than descriptors";
            return Err(InheritanceError::Unexpected(other));
        };
        fds.extend(batch);
    }
    let mut received = Received {
        listeners: Vec::new(),
        rest: Vec::new(),
        inheritance,
    };
    for (what, fd) in received.inheritance.fds.iter().zip(fds) {
        match what {
            Inherited::Listener { name, source, slot } => {
                match Listener::from_fd(name.clone(), *source, *slot, fd) {
                    Ok(listener) => received.listeners.push(listener),
                    Err(e) => tracing::error!("cannot use inherited listener {name:?}: {e}"),
                }
            }
            Inherited::Control
            | Inherited::Handoff
            | Inherited::Metrics
            | Inherited::Keeper
            | Inherited::App
            | Inherited::TicketKeys
            | Inherited::Identities => received.rest.push((what.clone(), fd)),
            Inherited::Unknown => {}
        }
    }
    Ok(received)
}

/// The next message. What may come early is passed over: a question, a word of a newer minor version,
/// a ring of ticket keys (a newer one is in the inheritance).
async fn next(channel: &Channel) -> Result<(Message, Vec<OwnedFd>), InheritanceError> {
    loop {
        let received = channel.recv().await?.ok_or(InheritanceError::Gone)?;
        match received.decode()? {
            Message::Retire { .. } => return Err(InheritanceError::Gone),
            Message::Status { .. } | Message::TicketKeys | Message::Unknown => {}
            message => return Ok((message, received.fds)),
        }
    }
}

/// Sends everything.
pub fn send(
    line: &Line<Message>,
    mut inheritance: Inheritance,
    descriptors: Vec<(Inherited, Arc<OwnedFd>)>,
) {
    let (what, fds): (Vec<_>, Vec<_>) = descriptors.into_iter().unzip();
    inheritance.fds = what;
    line.say(Message::Inheritance(Box::new(inheritance)), Vec::new());
    let mut fds = fds.into_iter().peekable();
    while fds.peek().is_some() {
        let batch: Vec<_> = fds.by_ref().take(MAX_FDS).collect();
        line.send(Message::Fds { count: batch.len() }, batch);
    }
}

/// Whether a successor that greets so can be talked to.
pub fn greet(hello: &Hello) -> Result<(), Failure> {
    if hello.protocol.major == PROTOCOL.major {
        return Ok(());
    }
    Err(Failure {
        exit: exit::PROTOCOL,
        reason: format!(
            "the new program {} speaks protocol {}, the running one {}: this one step needs a \
             restart",
            hello.version, hello.protocol.major, PROTOCOL.major
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::machine::message::Identity;

    fn inheritance() -> Inheritance {
        Inheritance {
            protocol: PROTOCOL,
            pid: 1,
            from: Identity {
                generation: 1,
                version: "1.0.0".into(),
                build_id: "a".into(),
            },
            generation: 2,
            upgrade_id: "u".into(),
            hold: false,
            started_at_ms: 0,
            probation_ms: None,
            path: "/bin/x".into(),
            cwd: "/".into(),
            config: None,
            back: false,
            fds: Vec::new(),
            lingering: Vec::new(),
            unit_rev: None,
            drained: crate::api::Connections::default(),
            app: None,
            release: None,
            state: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn a_question_before_the_inheritance_does_not_end_a_start() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from_fd(theirs).unwrap();
        let question = Message::Status { master: None };
        ours.send(&question, &[]).await.unwrap();
        let inheritance = Message::Inheritance(Box::new(inheritance()));
        ours.send(&inheritance, &[]).await.unwrap();
        let hello = Hello {
            protocol: PROTOCOL,
            version: "2.0.0".into(),
            build_id: "b".into(),
            pid: 2,
        };
        let received = receive(&theirs, hello).await.unwrap();
        assert_eq!(received.inheritance.generation, 2);
    }
}
