//! Which instances do not answer now. One that holds too much memory is ended only while all the others
//! answer: instances with even shares reach their limit at the same time, and nobody would serve.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The numbers of those that do not answer; all instances of a supervisor have the same.
#[derive(Debug, Clone)]
pub(super) struct Down(Arc<Mutex<BTreeSet<usize>>>);

impl Down {
    /// Nobody answers yet.
    pub(super) fn all(count: usize) -> Self {
        Self(Arc::new(Mutex::new((0..count).collect())))
    }

    pub(super) fn answers(&self, number: usize) {
        self.with(|down| down.remove(&number));
    }

    pub(super) fn has_ended(&self, number: usize) {
        self.with(|down| down.insert(number));
    }

    /// Whether all the others answer: then this one counts as one that does not. The error is one that
    /// does not answer either.
    pub(super) fn may_end(&self, number: usize) -> Result<(), usize> {
        self.with(|down| {
            if let Some(other) = down.iter().find(|other| **other != number) {
                return Err(*other);
            }
            down.insert(number);
            Ok(())
        })
    }

    fn with<T>(&self, what: impl FnOnce(&mut BTreeSet<usize>) -> T) -> T {
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
        down.has_ended(1);
        assert_eq!(down.may_end(2), Err(1));
        assert_eq!(Down::all(1).may_end(0), Ok(()));
    }
}
