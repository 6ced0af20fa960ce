//! The other master: the line to it, its process, and what it says as events.

use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::inheritance;
use super::input::Input;
use super::launch::Launched;
use super::line::{Heard, Line};
use super::story;
use super::workers::ended;
use crate::machine::message::{Hello, Identity, Message};
use crate::machine::{Event, Failure, FromPredecessor, FromSuccessor, Phase};
use crate::sys::process::{Other, Process};

/// The successor, from its exec until it is reaped.
#[derive(Debug)]
pub(super) struct SuccessorLink {
    pub(super) number: u64,
    pub(super) process: Process,
    pub(super) line: Option<Line<Message>>,
    pub(super) hello: Option<Hello>,
    pub(super) heard: Flood,
}

/// The predecessor, until its process is gone.
#[derive(Debug)]
pub(super) struct PredecessorLink {
    pub(super) pid: u32,
    pub(super) identity: Identity,
    pub(super) process: Option<Arc<Other>>,
    pub(super) line: Option<Line<Message>>,
}

/// How much was said lately.
#[derive(Debug)]
pub(super) struct Flood {
    since: std::time::Instant,
    messages: u32,
}

/// No master has more to say in a second.
const MOST_MESSAGES: u32 = 1000;

impl Flood {
    pub(super) fn new() -> Self {
        Self {
            since: std::time::Instant::now(),
            messages: 0,
        }
    }

    fn too_much(&mut self) -> bool {
        let now = std::time::Instant::now();
        if now.duration_since(self.since) > Duration::from_secs(1) {
            self.since = now;
            self.messages = 0;
        }
        self.messages += 1;
        self.messages > MOST_MESSAGES
    }
}

impl Driver {
    /// The start of a successor came to an end.
    pub(super) fn launched(
        &mut self,
        attempt: u64,
        result: Result<Box<Launched>, Failure>,
    ) -> Vec<Event> {
        if self
            .launch
            .as_ref()
            .is_none_or(|(number, _)| *number != attempt)
        {
            // It was given up in the meantime.
            if let Ok(launched) = result {
                let mut process = launched.process;
                let _ = process.signal(nix::sys::signal::Signal::SIGKILL);
                tokio::task::spawn_blocking(move || process.reap());
            }
            return Vec::new();
        }
        self.launch = None;
        match result {
            Ok(launched) => {
                self.take_successor(attempt, *launched);
                vec![Event::Launched]
            }
            Err(failure) => vec![Event::LaunchFailed(failure)],
        }
    }

    fn take_successor(&mut self, number: u64, launched: Launched) {
        let pid = launched.process.pid();
        if let Some(record) = &mut self.upgrade {
            record.to_build = Some(launched.build_id);
            record.new_pid = Some(pid);
        }
        self.milestone(story::MASTER_STARTED)
            .info(format_args!("master {pid} started"));
        let post = self.post.clone();
        let line = Line::new(launched.channel, move |heard| {
            let post = post.clone();
            async move {
                if !matches!(heard, Heard::Message(_)) {
                    // Most often it is the end of the process: then say how it ended.
                    if let Ok(Some(process)) = Other::open(pid) {
                        let soon = Duration::from_millis(100);
                        let _ = tokio::time::timeout(soon, process.gone()).await;
                    }
                }
                let _ = post.send(Input::Successor(number, heard)).await;
            }
        });
        let post = self.post.clone();
        tokio::spawn(async move {
            if let Ok(Some(process)) = Other::open(pid) {
                let _ = process.gone().await;
            }
            let _ = post.send(Input::SuccessorExited(number)).await;
        });
        self.successor = Some(SuccessorLink {
            number,
            process: launched.process,
            line: Some(line),
            hello: None,
            heard: Flood::new(),
        });
    }

    pub(super) fn successor_said(&mut self, number: u64, heard: Heard) -> Vec<Event> {
        // What was on its way when we stopped listening does not count.
        let listening = |s: &&mut SuccessorLink| s.number == number && s.line.is_some();
        let Some(link) = self.successor.as_mut().filter(listening) else {
            return Vec::new();
        };
        let received = match heard {
            Heard::Message(_) if link.heard.too_much() => {
                link.line = None;
                return vec![Event::SuccessorClosed(Failure::new(
                    "the new master floods the channel",
                ))];
            }
            Heard::Message(received) => received,
            Heard::Closed => {
                let how = match link.process.peek() {
                    Some(exit) => format!("the new master {exit}"),
                    None => "the new master closed its channel".into(),
                };
                return vec![Event::SuccessorClosed(Failure::new(self.when(&how)))];
            }
            Heard::Broken(e) => {
                link.line = None;
                let reason = format!("the new master broke the protocol: {e}");
                return vec![Event::SuccessorClosed(Failure::new(reason))];
            }
        };
        let message = match received.decode::<Message>() {
            Ok(message) => message,
            Err(e) => {
                link.line = None;
                let reason = format!("the new master broke the protocol: {e}");
                return vec![Event::SuccessorClosed(Failure::new(reason))];
            }
        };
        let said = match message {
            Message::Hello(hello) => {
                if let Err(failure) = inheritance::greet(&hello) {
                    link.line = None;
                    return vec![Event::SuccessorClosed(failure)];
                }
                if link.hello.is_some() {
                    return Vec::new();
                }
                if let Some(record) = &mut self.upgrade {
                    record.to = Some(hello.version.clone());
                }
                link.hello = Some(hello);
                FromSuccessor::Hello
            }
            Message::Ready => FromSuccessor::Ready,
            Message::Heartbeat => FromSuccessor::Heartbeat,
            Message::Commit => FromSuccessor::Commit,
            Message::Yield { leaving: true, .. } => FromSuccessor::Leaving,
            Message::Yield {
                reason,
                retire,
                then,
                ..
            } => FromSuccessor::Yield {
                reason,
                retire,
                then,
            },
            Message::TicketKeys => {
                let ring = received.fds.into_iter().next();
                self.take_ticket_keys(ring);
                return Vec::new();
            }
            Message::Release => FromSuccessor::Release,
            Message::Status { master: None } => {
                let master = Some(Box::new(self.describe_me()));
                self.tell_successor(Message::Status { master });
                return Vec::new();
            }
            Message::Status { master: Some(m) } => {
                self.peer_answered(*m);
                return Vec::new();
            }
            Message::Inheritance(_)
            | Message::Fds { .. }
            | Message::Takeover
            | Message::Retire { .. }
            | Message::Drained { .. }
            | Message::Unknown => return Vec::new(),
        };
        vec![Event::Successor(said)]
    }

    fn when(&self, how: &str) -> String {
        match self.machine.phase() {
            Phase::Launching => format!("{how} before it was ready"),
            Phase::Parked => format!("{how} while it owned the service"),
            _ => how.to_owned(),
        }
    }

    pub(super) fn successor_exited(&mut self, number: u64) -> Vec<Event> {
        let Some(link) = self.successor.as_ref().filter(|s| s.number == number) else {
            self.rejected_exited(number);
            return Vec::new();
        };
        if self.machine.phase() == Phase::Draining && !self.machine.stopping() {
            self.ask_who_owns(number);
            return Vec::new();
        }
        vec![Event::SuccessorExited(ended(link.process.peek()))]
    }

    pub(super) fn tell_successor(&self, message: Message) {
        if let Some(line) = self.successor.as_ref().and_then(|s| s.line.as_ref()) {
            line.say(message, Vec::new());
        }
    }

    pub(super) fn predecessor_said(&mut self, heard: Heard) -> Vec<Event> {
        let received = match heard {
            Heard::Message(received) => received,
            Heard::Closed => {
                self.predecessor_lingers();
                return vec![Event::PredecessorClosed];
            }
            Heard::Broken(e) => {
                tracing::error!("the predecessor's channel: {e}");
                self.predecessor_lingers();
                return vec![Event::PredecessorClosed];
            }
        };
        let said = match received.decode::<Message>() {
            Ok(Message::Takeover) => FromPredecessor::Takeover,
            Ok(Message::Ready) => FromPredecessor::Ready,
            Ok(Message::Commit) => FromPredecessor::Commit,
            Ok(Message::Release) => FromPredecessor::Release,
            Ok(Message::Retire { reason, disk }) => {
                self.orders.disk_elsewhere = disk;
                FromPredecessor::Retire(reason)
            }
            Ok(Message::TicketKeys) => {
                self.take_ticket_keys(received.fds.into_iter().next());
                return Vec::new();
            }
            Ok(Message::Drained { ms, connections }) => {
                self.others_drained += connections;
                if let Some(record) = &mut self.upgrade {
                    record.drained = Some((ms, connections));
                }
                return Vec::new();
            }
            Ok(Message::Status { master: None }) => {
                let master = Some(Box::new(self.describe_me()));
                self.tell_predecessor(Message::Status { master });
                return Vec::new();
            }
            Ok(Message::Status { master: Some(m) }) => {
                self.peer_answered(*m);
                return Vec::new();
            }
            Ok(_) => return Vec::new(),
            Err(e) => {
                tracing::error!("the predecessor said something strange: {e}");
                return Vec::new();
            }
        };
        vec![Event::Predecessor(said)]
    }

    pub(super) fn predecessor_exited(&mut self) -> Vec<Event> {
        let pid = self.predecessor.take().map(|p| p.pid);
        if let Some(pid) = pid {
            self.lingers_no_more(pid);
        }
        vec![Event::PredecessorExited]
    }

    pub(super) fn tell_predecessor(&self, message: Message) {
        if let Some(line) = self.predecessor.as_ref().and_then(|p| p.line.as_ref()) {
            line.say(message, Vec::new());
        }
    }
}
