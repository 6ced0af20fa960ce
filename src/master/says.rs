//! What a master says: to the masters before and after it, and of itself in the log.

use super::driver::Driver;
use super::milestone::{self, Milestone};
use super::status;
use crate::machine::message::Message;
use crate::machine::{Note, ToPredecessor, ToSuccessor};

impl Driver {
    pub(super) fn say_to_successor(&mut self, word: ToSuccessor) {
        let message = match word {
            ToSuccessor::Takeover => {
                self.story.takes_over();
                Message::Takeover
            }
            ToSuccessor::Ready => Message::Ready,
            ToSuccessor::Commit => Message::Commit,
            ToSuccessor::Release => Message::Release,
            ToSuccessor::Retire(reason) => return self.retire_successor(reason),
        };
        self.successor.say(message, Vec::new());
    }

    pub(super) fn say_to_predecessor(&mut self, word: ToPredecessor) {
        self.tell_predecessor(match word {
            ToPredecessor::Ready => Message::Ready,
            ToPredecessor::Heartbeat => Message::Heartbeat,
            ToPredecessor::Commit => Message::Commit,
            ToPredecessor::Yield {
                reason,
                retire,
                then,
            } => {
                Milestone {
                    reason: Some(&reason),
                    ..self.milestone(milestone::GIVEN_BACK)
                }
                .warn(format_args!(
                    "{} gives the service back: {reason}",
                    status::who(self)
                ));
                Message::Yield {
                    reason,
                    retire,
                    leaving: false,
                    then,
                }
            }
            ToPredecessor::Release => Message::Release,
            ToPredecessor::Leaving => Message::Yield {
                reason: "told to leave by a signal".into(),
                retire: true,
                leaving: true,
                then: None,
            },
        });
    }

    pub(super) fn tell_predecessor(&self, message: Message) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.say(message);
        }
    }

    pub(super) fn note(&self, note: &Note) {
        match note {
            Note::SignalRefused(signal, why) => {
                tracing::warn!("SIG{} is refused: {why}", signal.as_str());
            }
            Note::SignalRemembered(signal) => tracing::info!(
                "SIG{} waits until the other generation accepts",
                signal.as_str()
            ),
            Note::SignalCarriedOut(signal) => {
                tracing::info!("SIG{} is carried out now", signal.as_str());
            }
            Note::SignalDropped(signal) => {
                tracing::warn!("SIG{} is dropped: its moment did not come", signal.as_str());
            }
            Note::WorkersFail(why) => Milestone {
                reason: Some(why),
                ..self.milestone(milestone::WORKERS_FAIL)
            }
            .error(why),
            Note::OldestEnded(pid) => tracing::warn!(
                "master {pid}, the oldest generation that drains, is ended: what it holds is cut \
                 when [drain] stop_timeout is over"
            ),
            Note::CommittedByAccident => tracing::warn!(
                handover_upgrade_id = self.story.id(),
                "the generation before has ended without a word: {} serves alone, and nobody is \
                 parked to take the service back",
                status::who(self)
            ),
        }
    }
}
