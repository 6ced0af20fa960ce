//! Which instances answer now. One that holds too much memory is ended only while others answer and none
//! is on its way back: instances with even shares reach their limit at the same time, and nobody would
//! serve. One that could not be started again is not waited for: it would put the limit off for the rest.

use std::sync::{Arc, Mutex, PoisonError};

/// All instances of a supervisor, by their numbers; they share it.
#[derive(Debug, Clone)]
pub(super) struct Down(Arc<Mutex<Vec<State>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Answers,
    /// It ends, or starts and may soon answer.
    Starts,
    /// The last time that it was started it did not come to answer; or it hangs.
    Fails,
}

impl Down {
    /// Nobody answers yet.
    pub(super) fn all(count: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![State::Starts; count])))
    }

    pub(super) fn answers(&self, number: usize) {
        self.with(|all| all[number] = State::Answers);
    }

    /// Whether it had come to answer.
    pub(super) fn has_ended(&self, number: usize, answered: bool) {
        let state = if answered {
            State::Starts
        } else {
            State::Fails
        };
        self.with(|all| all[number] = state);
    }

    /// Whether nobody is missed: then this one counts as one that does not answer. The error is the one to
    /// wait for.
    pub(super) fn may_end(&self, number: usize) -> Result<(), usize> {
        self.with(|all| {
            let others = || all.iter().enumerate().filter(|(other, _)| *other != number);
            let is = |state| move |(_, other): &(usize, &State)| **other == state;
            let starts = others().find(is(State::Starts));
            let last = others()
                .next()
                .filter(|_| !others().any(|other| is(State::Answers)(&other)));
            if let Some((other, _)) = starts.or(last) {
                return Err(other);
            }
            all[number] = State::Starts;
            Ok(())
        })
    }

    fn with<T>(&self, what: impl FnOnce(&mut Vec<State>) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ends_when_all_others_answer() {
        let down = Down::all(3);
        down.answers(0);
        down.answers(1);
        assert_eq!(down.may_end(0), Err(2));
        down.answers(2);
        assert_eq!(down.may_end(0), Ok(()));
        assert_eq!(down.may_end(1), Err(0));
        assert_eq!(down.may_end(2), Err(0));
        down.answers(0);
        down.has_ended(1, true);
        assert_eq!(down.may_end(2), Err(1));
        assert_eq!(Down::all(1).may_end(0), Ok(()));
    }

    #[test]
    fn one_that_cannot_be_started_again_is_not_waited_for_while_another_answers() {
        let down = Down::all(3);
        (0..3).for_each(|number| down.answers(number));
        down.has_ended(0, true);
        down.has_ended(0, false);
        assert_eq!(down.may_end(1), Ok(()));
        assert_eq!(down.may_end(2), Err(1));
        down.has_ended(1, false);
        assert_eq!(down.may_end(2), Err(0), "it is the last one that answers");
    }
}
