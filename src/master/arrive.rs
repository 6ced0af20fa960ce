//! What reaches the driver, told to the part that it is about; what comes of it for the machine.

use super::control::Figures;
use super::driver::Driver;
use super::handoff;
use super::line::Said;
use super::milestone;
use super::predecessor::Predecessor;
use super::{input::Input, metrics, status};
use crate::machine::link::Drained;
use crate::machine::message::Message;
use crate::machine::{Event, FromPredecessor, FromSuccessor};
use crate::sys::handoff::{Asker, Targets};

impl Driver {
    /// One input, and what follows.
    pub(super) async fn arrived(&mut self, input: Input) {
        if input.ends_a_master() {
            self.control.claim_again();
        }
        for event in self.events_of(input) {
            self.happen(event).await;
        }
        let there = self.successor.line().is_some()
            || self.predecessor.as_ref().is_some_and(Predecessor::listens);
        let answered = self.inquiry.complete(&self.workers, there);
        self.answer_figures(answered);
    }

    fn events_of(&mut self, input: Input) -> Vec<Event> {
        match input {
            Input::Worker(id, heard) => return self.workers.heard(id, heard),
            Input::WorkerExited(id) => return self.workers.exited(id),
            Input::WorkerOverdue(id) => self.workers.overdue(id),
            Input::Launch(number, result) => {
                let launched = self.successor.launched(number, result);
                return launched.map(|l| self.launched(l)).into_iter().collect();
            }
            Input::Successor(number, heard) => {
                let when = self.machine.phase().of_a_successors_end();
                let said = self.successor.heard(number, heard, when);
                let back = |me: &Self, message| me.successor.say(message, Vec::new());
                return self.said(said, back).into_iter().collect();
            }
            Input::SuccessorExited(number) => {
                if let Some(how) = self.successor.exited(number) {
                    return vec![Event::SuccessorExited(how)];
                }
                if let Some(pid) = self.drainers.rejected_exited(number) {
                    self.generation_gone(pid);
                    return vec![Event::DrainerGone(pid)];
                }
            }
            Input::Predecessor(heard) => {
                let said = Predecessor::heard(heard);
                return self
                    .said(said, Self::tell_predecessor)
                    .into_iter()
                    .collect();
            }
            Input::PredecessorExited => {
                if let Some(predecessor) = &mut self.predecessor {
                    predecessor.exited();
                }
                self.let_predecessor_go();
                return vec![Event::PredecessorExited];
            }
            Input::DrainerExited(pid) => {
                self.generation_gone(pid);
                return vec![Event::DrainerGone(pid)];
            }
            Input::Looked(looked) => self.looked(*looked),
            Input::Disk(done) => self.disk_done(done),
            Input::DiskAgain => self.disk.again(self.machine.phase().rests()),
            Input::TellNews => self.tell_news(),
            Input::StatusDue(number) => {
                let due = self.inquiry.due(number);
                self.answer_figures(due);
            }
            Input::Probe(reply) => {
                let listener = self.configured.config.listeners.first();
                let listener = listener.map_or("", |l| l.name.as_str());
                let _ = reply.send(self.workers.probe(listener));
            }
            Input::Drainer(asker) => return self.drainer_asks(asker),
            Input::DrainerGone(pid) => self.workers.drainer_gone(pid),
            Input::Application(number, heard) => return self.application_said(number, heard),
            Input::StartApplication => return self.start_application_again(),
            Input::Event(event) => return vec![event],
        }
        Vec::new()
    }

    fn launched(&mut self, launched: Result<(u32, String), crate::machine::Failure>) -> Event {
        match launched {
            Ok((pid, build)) => {
                if let Some(record) = self.story.upgrade_mut() {
                    record.to_build = Some(build);
                    record.new_pid = Some(pid);
                }
                self.milestone(milestone::MASTER_STARTED).info(format_args!(
                    "the new program runs as master {pid} and gets ready"
                ));
                Event::Launched(pid)
            }
            Err(failure) => Event::LaunchFailed(failure),
        }
    }

    /// `back` tells it something.
    fn said(&mut self, said: Said, back: impl FnOnce(&Self, Message)) -> Option<Event> {
        match said {
            Said::Nothing => {}
            Said::Event(event) => {
                if event == Event::PredecessorClosed {
                    self.predecessor_drains();
                }
                return Some(event);
            }
            Said::Hello(hello) => {
                if let Some(record) = self.story.upgrade_mut() {
                    record.to = Some(hello.version);
                }
                return Some(Event::Successor(FromSuccessor::Hello));
            }
            Said::Retire(reason, disk) => {
                self.disk.differs_elsewhere(disk);
                return Some(Event::Predecessor(FromPredecessor::Retire(reason)));
            }
            Said::Drained(ms, connections) => {
                self.drainers.count(connections);
                self.story.drain_came_to(ms, connections);
            }
            Said::Wakes => self.wake(),
            Said::Awake(reason) => self.awake(reason),
            Said::TicketKeys(ring) => self.take_ticket_keys(ring),
            Said::Asks => {
                let master = Some(Box::new(status::me(self)));
                back(self, Message::Status { master });
            }
            Said::Answers(master) => self.inquiry.other_answered(master),
        }
        None
    }

    /// The predecessor let its channel go, or we did; its process may still drain.
    pub(super) fn predecessor_drains(&mut self) {
        // What to go back with is written down by now.
        self.state.read_again();
        let drains = self.predecessor.as_mut().and_then(Predecessor::close);
        if let Some((process, identity)) = drains {
            self.drainers.add(process, identity);
        }
        self.let_predecessor_go();
    }

    fn let_predecessor_go(&mut self) {
        if let Some(pid) = Predecessor::gone(&mut self.predecessor) {
            self.generation_gone(pid);
        }
    }

    fn generation_gone(&mut self, pid: u32) {
        self.drainers.gone(pid);
        self.workers.forget_master(pid);
    }

    /// A draining worker asks who takes its connections, or its master tells how it goes.
    fn drainer_asks(&mut self, asker: Asker) -> Vec<Event> {
        if let Some(news) = asker.request.news.as_deref() {
            let news = news.clone();
            if let Some(drained) = &news.drained {
                self.story.drained(drained);
            }
            let ours = [
                self.successor.pid(),
                self.predecessor.as_ref().map(Predecessor::pid),
            ];
            let done = news.drained.as_ref().map(|_| news.master.pid);
            self.drainers.heard(news, |pid| ours.contains(&Some(pid)));
            handoff::tell(asker, Targets::default());
            return done.into_iter().map(Event::DrainerDone).collect();
        }
        if !self.machine.receives() {
            // The service changed hands at this moment: it asks again, and the owner answers.
            return Vec::new();
        }
        let upstreams = self.applications.upstreams();
        if asker.request.application {
            let targets = Targets {
                upstreams,
                ..Targets::default()
            };
            handoff::tell(asker, targets);
            return Vec::new();
        }
        let mut targets = if self.configured.config.drain.pass_connections {
            self.workers.receive_from(asker.pid())
        } else {
            Targets::default()
        };
        targets.upstreams = upstreams;
        self.handoff.answer(asker, targets);
        Vec::new()
    }

    /// Our last worker has gone. While there is a channel the successor learns it there, otherwise
    /// the owner at our end.
    pub(super) fn drain_ended(&mut self) {
        let Some(drained) = self.drain.ended(self.workers.tally()) else {
            return;
        };
        let Drained {
            upgrade_id,
            ms,
            connections,
        } = &drained;
        let mut milestone = self.milestone(milestone::DRAINED);
        milestone.cast.id = Some(upgrade_id.clone());
        milestone.connections = Some(*connections);
        milestone.info(format_args!(
            "{} has drained in {ms} ms; {connections}",
            status::who(self)
        ));
        if self.successor.line().is_some() {
            let (ms, connections) = (*ms, *connections);
            self.story.drain_came_to(ms, connections);
            self.successor
                .say(Message::Drained { ms, connections }, Vec::new());
        } else {
            self.drain.keep_for_the_end(drained);
        }
    }

    /// The drain goes on without a channel.
    pub(super) fn tell_news(&mut self) {
        if self.machine.drains_aside() {
            // What they answer is told the next time.
            self.workers.ask();
            self.drain.tell(status::me(self));
        }
    }

    /// Asks everybody for figures.
    pub(super) fn ask_figures(&mut self, asked: Figures) {
        if !self.inquiry.begins(asked) {
            return;
        }
        let successor = self.successor.can_be_asked();
        let predecessor = self.predecessor.as_ref().is_some_and(Predecessor::listens);
        let question = || Message::Status { master: None };
        if successor {
            self.successor.say(question(), Vec::new());
        }
        if predecessor {
            self.tell_predecessor(question());
        }
        let workers = self.workers.ask();
        self.inquiry.asks(workers, successor || predecessor);
        let answered = self.inquiry.complete(&self.workers, true);
        self.answer_figures(answered);
    }

    fn answer_figures(&self, asked: Vec<Figures>) {
        let mut document = None;
        for asked in asked {
            match asked {
                Figures::Status(reply) => {
                    let document = document.get_or_insert_with(|| status::document(self));
                    let _ = reply.send(document.clone());
                }
                Figures::Metrics(reply) => {
                    let _ = reply.send(metrics::text(self));
                }
            }
        }
    }
}
