//! The question for everybody's figures, which `status` and `/metrics` need: every worker and the
//! other master are asked, and it is answered when all have answered, have gone, or soon.

use std::time::Duration;

use tokio::sync::oneshot;

use super::driver::Driver;
use super::input::Input;
use super::peers::SuccessorLink;
use super::workers::Question;
use crate::api;
use crate::machine::message::Message;

/// Workers and the other master get so long to answer.
const PATIENCE: Duration = Duration::from_millis(700);

/// Who wants to know.
#[derive(Debug)]
pub(super) enum Asked {
    Status(oneshot::Sender<api::Status>),
    Metrics(oneshot::Sender<String>),
}

/// What is being asked, if anything is.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    /// Of the one under way, or the last one.
    number: u64,
    by: Vec<Asked>,
    workers: Vec<Question>,
    /// The other master has not answered yet.
    peer: bool,
}

impl Driver {
    /// Asks everybody. Whoever asks while others wait is answered with them.
    pub(super) fn ask_figures(&mut self, asked: Asked) {
        self.inquiry.by.push(asked);
        if self.inquiry.by.len() > 1 {
            return;
        }
        self.peer_status = None;
        // A successor that has not said hello expects its inheritance, and nothing else.
        let greeted = |s: &SuccessorLink| s.line.is_some() && s.hello.is_some();
        let successor = self.successor.as_ref().is_some_and(greeted);
        let predecessor = self.predecessor.as_ref().is_some_and(|p| p.line.is_some());
        if successor {
            self.tell_successor(Message::Status { master: None });
        }
        if predecessor {
            self.tell_predecessor(Message::Status { master: None });
        }
        self.inquiry.number += 1;
        self.inquiry.workers = self.workers.ask();
        self.inquiry.peer = successor || predecessor;
        self.answer_if_complete();
        if self.inquiry.by.is_empty() {
            return;
        }
        let (post, number) = (self.post.clone(), self.inquiry.number);
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            let _ = post.send(Input::StatusDue(number)).await;
        });
    }

    /// The other master has said how it is.
    pub(super) fn peer_answered(&mut self, master: api::Master) {
        self.peer_status = Some(master);
        self.inquiry.peer = false;
    }

    /// After anything that may have been the last answer, or the end of somebody who was asked.
    pub(super) fn answer_if_complete(&mut self) {
        if self.inquiry.by.is_empty() {
            return;
        }
        let answered = |question: &Question| self.workers.has_answered(question);
        let there = self.successor.as_ref().is_some_and(|s| s.line.is_some())
            || self.predecessor.as_ref().is_some_and(|p| p.line.is_some());
        if !(self.inquiry.peer && there) && self.inquiry.workers.iter().all(answered) {
            self.answer_inquiry();
        }
    }

    /// The inquiry of this number has waited long enough, if it is not answered yet.
    pub(super) fn answer_by_now(&mut self, number: u64) {
        if self.inquiry.number == number {
            self.answer_inquiry();
        }
    }

    fn answer_inquiry(&mut self) {
        let mut status = None;
        for asked in std::mem::take(&mut self.inquiry.by) {
            match asked {
                Asked::Status(reply) => {
                    let status = status.get_or_insert_with(|| self.describe());
                    let _ = reply.send(status.clone());
                }
                Asked::Metrics(reply) => {
                    let _ = reply.send(self.metrics_text());
                }
            }
        }
    }
}
