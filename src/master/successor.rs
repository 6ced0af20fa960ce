//! The successor: its start, the line to it, its process, and what it says.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal as Os;
use tokio::sync::{mpsc, oneshot};

use super::inheritance;
use super::input::Input;
use super::launch::{self, Launched, Plan};
use super::line::{Heard, Line, Said, Side};
use super::workers::ended;
use crate::machine::message::{Hello, Identity, Message};
use crate::machine::{Event, Failure};
use crate::sys::process::Process;
use crate::sys::runtime;

/// The successor there is, or the start of one.
#[derive(Debug)]
pub(super) struct Successor {
    post: mpsc::Sender<Input>,
    link: Option<Link>,
    start: Option<Start>,
    launches: u64,
    /// The number of the successor, or of the one there was last.
    generation: u64,
}

/// A start under way. Dropped, it is given up, and so are its processes.
#[derive(Debug)]
struct Start {
    number: u64,
    _wanted: oneshot::Sender<()>,
}

/// A successor's process, until it is reaped.
#[derive(Debug)]
pub(super) struct Link {
    number: u64,
    pub(super) process: Process,
    line: Option<Line<Message>>,
    hello: Option<Hello>,
    heard: Flood,
}

impl Successor {
    /// None yet, of the generation with this number.
    pub(super) fn new(ours: u64, post: mpsc::Sender<Input>) -> Self {
        Self {
            generation: ours + 1,
            post,
            link: None,
            start: None,
            launches: 0,
        }
    }

    /// Where tasks about a successor report.
    pub(super) fn post(&self) -> mpsc::Sender<Input> {
        self.post.clone()
    }

    /// Starts one, which will have this number among the generations.
    pub(super) fn launch(&mut self, generation: u64, plan: Result<Plan, Failure>) {
        self.generation = generation;
        self.launches += 1;
        let (number, post) = (self.launches, self.post.clone());
        let (wanted, given_up) = oneshot::channel();
        self.start = Some(Start {
            number,
            _wanted: wanted,
        });
        runtime::spawn(async move {
            let result = tokio::select! {
                biased;
                _ = given_up => return,
                result = async { launch::launch(plan?).await } => result,
            };
            let _ = post.send(Input::Launch(number, result)).await;
        });
    }

    /// The start is given up: its pre-flight ends, and a master that was started already is killed
    /// when the result comes.
    pub(super) fn cancel(&mut self) {
        self.start = None;
    }

    /// A start came to its end; `None`: nobody wants it any more.
    pub(super) fn launched(
        &mut self,
        number: u64,
        result: Result<Box<Launched>, Failure>,
    ) -> Option<Result<(u32, String), Failure>> {
        if self.start.as_ref().is_none_or(|s| s.number != number) {
            if let Ok(launched) = result {
                let mut process = launched.process;
                let _ = process.signal(Os::SIGKILL);
                tokio::task::spawn_blocking(move || process.reap());
            }
            return None;
        }
        self.start = None;
        Some(result.map(|launched| {
            let (pid, build) = (launched.process.pid(), launched.build_id.clone());
            self.take(number, *launched);
            (pid, build)
        }))
    }

    fn take(&mut self, number: u64, launched: Launched) {
        let process = Arc::new(launched.process.handle());
        let (post, ended) = (self.post.clone(), Arc::clone(&process));
        let line = Line::new(launched.channel, move |heard| {
            let (post, ended) = (post.clone(), Arc::clone(&ended));
            async move {
                if !matches!(heard, Heard::Message(_)) {
                    // Most often it is the end of the process: then say how it ended.
                    let soon = Duration::from_millis(100);
                    let _ = tokio::time::timeout(soon, ended.gone()).await;
                }
                let _ = post.send(Input::Successor(number, heard)).await;
            }
        });
        Input::SuccessorExited(number).when_gone(Some(process), &self.post);
        self.link = Some(Link {
            number,
            process: launched.process,
            line: Some(line),
            hello: None,
            heard: Flood::new(),
        });
    }

    /// It said something, or its channel ended; `when` completes a sentence about its end.
    pub(super) fn heard(&mut self, number: u64, heard: Heard, when: &str) -> Said {
        // What was on its way when we stopped listening does not count.
        let listening = |s: &&mut Link| s.number == number && s.line.is_some();
        let Some(link) = self.link.as_mut().filter(listening) else {
            return Said::Nothing;
        };
        let received = match heard {
            Heard::Message(_) if link.heard.too_much() => {
                return link.broken("the new master floods the channel".into());
            }
            Heard::Message(received) => received,
            Heard::Closed => {
                let how = match link.process.peek() {
                    Some(exit) => format!("the new master {exit}{when}"),
                    None => format!("the new master closed its channel{when}"),
                };
                return Said::Event(Event::SuccessorClosed(Failure::new(how)));
            }
            Heard::Broken(e) => {
                return link.broken(format!("the new master broke the protocol: {e}"));
            }
        };
        match Said::of(Side::After, received) {
            Ok(Said::Hello(hello)) => link.greeted(hello),
            Ok(said) => said,
            Err(e) => link.broken(format!("the new master broke the protocol: {e}")),
        }
    }

    /// Its process has ended; how, when it is the successor and not one before it.
    pub(super) fn exited(&self, number: u64) -> Option<String> {
        let link = self.link.as_ref().filter(|s| s.number == number)?;
        Some(ended(link.process.peek()))
    }

    pub(super) fn say(&self, message: Message, fds: Vec<OwnedFd>) {
        if let Some(line) = self.link.as_ref().and_then(|s| s.line.as_ref()) {
            line.say(message, fds);
        }
    }

    /// The line, for the inheritance.
    pub(super) fn line(&self) -> Option<&Line<Message>> {
        self.link.as_ref().and_then(|s| s.line.as_ref())
    }

    /// EOF. Whoever waits for what was queued has the line.
    pub(super) fn close(&mut self) -> Option<Line<Message>> {
        self.link.as_mut().and_then(|s| s.line.take())
    }

    pub(super) fn signal(&self, signal: Os) {
        let Some(link) = &self.link else { return };
        let pid = link.process.pid();
        tracing::warn!("{signal} to master {pid}, which shall leave");
        if let Err(e) = link.process.signal(signal) {
            tracing::error!("cannot signal master {pid}: {e}");
        }
        // A stopped one must hear it.
        let _ = link.process.signal(Os::SIGCONT);
    }

    /// It has ended, and nobody needs its zombie any more.
    pub(super) fn reap(&mut self) {
        if let Some(mut link) = self.link.take() {
            let how = link.process.reap();
            tracing::info!("master {} {how}", link.process.pid());
        }
    }

    /// It only drains from now on: somebody else looks after its process.
    pub(super) fn let_go(&mut self) -> Option<(Link, Identity)> {
        let mut link = self.link.take()?;
        link.line = None;
        let identity = self.identity_of(&link);
        Some((link, identity))
    }

    pub(super) fn process(&self) -> Option<&Process> {
        self.link.as_ref().map(|link| &link.process)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process().map(Process::pid)
    }

    /// Whether there is one, or the start of one.
    pub(super) fn is_there(&self) -> bool {
        self.link.is_some()
    }

    /// Whether it can be asked something: before its hello it expects the inheritance, nothing else.
    pub(super) fn can_be_asked(&self) -> bool {
        let greeted = |s: &Link| s.line.is_some() && s.hello.is_some();
        self.link.as_ref().is_some_and(greeted)
    }

    /// Who it is, as far as we know.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.link.as_ref().map(|link| self.identity_of(link))
    }

    /// What it said of itself.
    pub(super) fn version(&self) -> Option<&str> {
        let hello = self.link.as_ref()?.hello.as_ref();
        hello.map(|hello| hello.version.as_str())
    }

    fn identity_of(&self, link: &Link) -> Identity {
        let hello = link.hello.as_ref();
        Identity {
            generation: self.generation,
            version: hello.map_or_else(String::new, |h| h.version.clone()),
            build_id: hello.map_or_else(String::new, |h| h.build_id.clone()),
        }
    }

    /// The number of the successor, or of the one there was last.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }
}

impl Link {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Nothing more is heard from it.
    fn broken(&mut self, reason: String) -> Said {
        self.line = None;
        Said::Event(Event::SuccessorClosed(Failure::new(reason)))
    }

    /// It introduces itself, once.
    fn greeted(&mut self, hello: Hello) -> Said {
        if let Err(failure) = inheritance::greet(&hello) {
            self.line = None;
            return Said::Event(Event::SuccessorClosed(failure));
        }
        if self.hello.is_some() {
            return Said::Nothing;
        }
        self.hello = Some(hello.clone());
        Said::Hello(hello)
    }
}

/// How much was said lately.
#[derive(Debug)]
struct Flood {
    since: std::time::Instant,
    messages: u32,
}

/// No master has more to say in a second.
const MOST_MESSAGES: u32 = 1000;

impl Flood {
    fn new() -> Self {
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
