//! What workers say of themselves: figures for `status` and `/metrics`, an answer for the watchdog,
//! what became of connections in a drain.

use super::{State, Worker, Workers};
use crate::api;
use crate::machine::link::{Report, ToWorker};
use crate::machine::pool;

/// What a worker was asked for its figures.
#[derive(Debug)]
pub struct Question {
    worker: u64,
    number: u64,
}

/// So many questions of the watchdog may be open.
const UNANSWERED: u32 = 2;

impl Workers {
    /// Asks for the watchdog: whether one of those who serve answered one of the last questions.
    pub fn answer_watchdog(&mut self) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        self.deal();
        self.ask();
        self.unanswered <= UNANSWERED
    }

    /// Asks everybody for figures.
    pub fn ask(&mut self) -> Vec<Question> {
        let serve = self.all.values().filter(|w| w.state != State::Draining);
        let serve: Vec<(u64, u16)> = serve.map(|w| (w.set, w.slot)).collect();
        for (set, slot) in serve {
            self.pool_hears(set, slot, pool::Event::Asked);
        }
        let ask = |(id, worker): (&u64, &mut Worker)| {
            worker.line.say(ToWorker::Report, Vec::new());
            worker.questions += 1;
            Question {
                worker: *id,
                number: worker.questions,
            }
        };
        self.all.iter_mut().map(ask).collect()
    }

    /// Whether a worker has answered, or never will.
    pub fn has_answered(&self, question: &Question) -> bool {
        let worker = self.all.get(&question.worker);
        worker.is_none_or(|w| w.answers >= question.number)
    }

    /// For `status`.
    pub fn report(&self) -> Vec<api::Worker> {
        self.all
            .values()
            .map(|w| api::Worker {
                pid: w.process.pid(),
                generation: self.generation,
                state: w.state.as_str().into(),
                connections: w.report.connections,
                requests: w.report.requests,
            })
            .collect()
    }

    /// What became of the connections of workers that have gone since [`Self::count_anew`].
    pub fn tally(&self) -> api::Connections {
        self.tally
    }

    /// A drain begins that is counted by itself.
    pub fn count_anew(&mut self) {
        self.tally = api::Connections::default();
    }

    /// What became of the connections of all workers that drained.
    pub fn all_drained(&self) -> api::Connections {
        drained(&self.served())
    }

    /// The figures of all workers together, those that have gone too.
    pub fn served(&self) -> Report {
        let mut all = self.gone;
        for worker in self.all.values() {
            all += worker.report;
        }
        all
    }
}

pub(super) fn drained(report: &Report) -> api::Connections {
    api::Connections {
        passed: report.passed,
        finished: report.finished,
        cut: report.cut,
        tls: report.tls.connections,
        http2: report.http2,
    }
}
