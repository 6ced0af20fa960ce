//! What a master says: to the masters before and after it, and of itself in the log.

use super::driver::Driver;
use super::milestone::{self, Milestone};
use super::status;
use crate::machine::message::Message;
use crate::machine::{FromPredecessor, FromSuccessor, Note};

impl Driver {
    pub(super) fn say_to_successor(&mut self, word: FromPredecessor) {
        let message = match word {
            FromPredecessor::Takeover => {
                self.story.takes_over();
                let was_good = self.disk.drop_wanted();
                if let Some(record) = self.story.upgrade_mut() {
                    record.was_good |= was_good;
                }
                Message::Takeover
            }
            FromPredecessor::Ready => Message::Ready,
            FromPredecessor::Commit => Message::Commit,
            FromPredecessor::Release => Message::Release,
            FromPredecessor::Retire(reason) => return self.retire_successor(reason),
        };
        self.successor.say(message, Vec::new());
    }

    pub(super) fn say_to_predecessor(&mut self, word: FromSuccessor) {
        self.tell_predecessor(match word {
            // Said with what it must hold, before there is a machine.
            FromSuccessor::Hello => return,
            FromSuccessor::Ready => Message::Ready,
            FromSuccessor::Heartbeat => Message::Heartbeat,
            FromSuccessor::Commit => Message::Commit,
            FromSuccessor::Yield {
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
            FromSuccessor::Release => Message::Release,
            FromSuccessor::Leaving => Message::Yield {
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
            Note::GoesBack => tracing::warn!(
                handover_upgrade_id = self.story.id(),
                "{} does not stay, and nobody is parked who could take the service back: what is to \
                 serve instead is started from the disk",
                status::who(self)
            ),
        }
    }
}
