//! The question for everybody's figures, which `status` and `/metrics` need: every worker and the
//! other master are asked, and it is answered when all have answered, have gone, or soon.

use std::time::Duration;

use tokio::sync::mpsc;

use super::control::Figures;
use super::input::Input;
use super::workers::{Question, Workers};
use crate::api;

/// Workers and the other master get so long to answer.
const PATIENCE: Duration = Duration::from_millis(700);

/// What is being asked, if anything is, and what the other master answered.
#[derive(Debug)]
pub(super) struct Inquiry {
    post: mpsc::Sender<Input>,
    /// Of the one under way, or the last one.
    number: u64,
    by: Vec<Figures>,
    workers: Vec<Question>,
    /// The other master has not answered yet.
    waits: bool,
    other: Option<api::Master>,
}

impl Inquiry {
    pub(super) fn new(post: mpsc::Sender<Input>) -> Self {
        Self {
            post,
            number: 0,
            by: Vec::new(),
            workers: Vec::new(),
            waits: false,
            other: None,
        }
    }

    /// Somebody wants to know; whether it must be asked: whoever asks while others wait is answered
    /// with them.
    pub(super) fn begins(&mut self, asked: Figures) -> bool {
        self.by.push(asked);
        self.by.len() == 1
    }

    /// The workers were asked, and (or not) the other master.
    pub(super) fn asks(&mut self, workers: Vec<Question>, other: bool) {
        self.number += 1;
        self.workers = workers;
        self.waits = other;
        self.other = None;
        Input::StatusDue(self.number).after(PATIENCE, &self.post);
    }

    /// The other master has said how it is.
    pub(super) fn other_answered(&mut self, master: api::Master) {
        self.other = Some(master);
        self.waits = false;
    }

    /// What the other master said.
    pub(super) fn other(&self) -> Option<&api::Master> {
        self.other.as_ref()
    }

    /// Those who wait, when nothing more is to be waited for. `there`: the other master still is.
    pub(super) fn complete(&mut self, workers: &Workers, there: bool) -> Vec<Figures> {
        let answered = |question: &Question| workers.has_answered(question);
        if (self.waits && there) || !self.workers.iter().all(answered) {
            return Vec::new();
        }
        std::mem::take(&mut self.by)
    }

    /// The inquiry of this number has waited long enough.
    pub(super) fn due(&mut self, number: u64) -> Vec<Figures> {
        if self.number == number {
            std::mem::take(&mut self.by)
        } else {
            Vec::new()
        }
    }
}
