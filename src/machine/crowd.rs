//! The generations that only drain: former predecessors, and successors that were rejected. Each has a
//! deadline, and hears it when the service stops.

use std::time::{Duration, Instant};

use super::event::Signal;

/// How much of a hurry it was told to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Hurry {
    No,
    /// TERM: it has the time of a stop.
    Soon,
    /// INT: what it holds is cut.
    Now,
}

impl Hurry {
    /// What a signal to leave means to the others.
    pub(super) fn of(how: Signal) -> Self {
        match how {
            Signal::Quit => Self::No,
            Signal::Int => Self::Now,
            _ => Self::Soon,
        }
    }
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Drainer {
    /// Its master.
    pid: u32,
    /// When it is killed if it is there still; `None`: no limit.
    ends: Option<Instant>,
    hurry: Hurry,
    /// It said its last word: it is only on its way out.
    done: bool,
    /// It was given more time when its master and this one had slept.
    waited: bool,
}

impl Drainer {
    /// Neither on its way out, nor told to hurry.
    fn counts(&self) -> bool {
        !self.done && self.hurry == Hurry::No
    }

    /// Whether this is news to it.
    fn hurry(&mut self, hurry: Hurry, by: Instant) -> bool {
        self.ends = Some(self.ends.map_or(by, |ends| ends.min(by)));
        let news = self.hurry < hurry;
        self.hurry = self.hurry.max(hurry);
        news
    }
}

/// All that this master knows, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Crowd(Vec<Drainer>);

impl Crowd {
    pub(super) fn join(&mut self, pid: u32, ends: Option<Instant>, hurry: Hurry) {
        if self.0.iter().all(|d| d.pid != pid) {
            self.0.push(Drainer {
                pid,
                ends,
                hurry,
                done: false,
                waited: false,
            });
        }
    }

    pub(super) fn done(&mut self, pid: u32) {
        for one in self.0.iter_mut().filter(|d| d.pid == pid) {
            one.done = true;
        }
    }

    pub(super) fn gone(&mut self, pid: u32) {
        self.0.retain(|d| d.pid != pid);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that count: not on their way out, and not told to hurry.
    pub(super) fn draining(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter(|d| d.counts()).map(|d| d.pid)
    }

    /// When it is killed if it is there still.
    pub(super) fn ends(&self, pid: u32) -> Option<Instant> {
        self.0.iter().find(|d| d.pid == pid)?.ends
    }

    /// Whether it was told to hurry.
    pub(super) fn hurried(&self, pid: u32) -> bool {
        self.0.iter().any(|d| d.pid == pid && d.hurry > Hurry::No)
    }

    /// All are told to hurry, and end by then. Returns those to whom that is news.
    pub(super) fn hurry(&mut self, hurry: Hurry, by: Instant) -> Vec<u32> {
        let news = |d: &mut Drainer| d.hurry(hurry, by).then_some(d.pid);
        self.0.iter_mut().filter_map(news).collect()
    }

    /// The oldest that counts is told to hurry, and ends by then.
    pub(super) fn hurry_oldest(&mut self, by: Instant) -> Option<u32> {
        let oldest = self.0.iter_mut().find(|d| d.counts())?;
        oldest.hurry(Hurry::Soon, by);
        Some(oldest.pid)
    }

    /// The next deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(|d| d.ends).min()
    }

    /// Whose deadline has passed while all slept has not had the time to leave by itself: it gets this
    /// much, once.
    pub(super) fn give_more(&mut self, now: Instant, more: Duration) {
        for one in &mut self.0 {
            let late = one.ends.is_some_and(|ends| ends <= now);
            if late && !std::mem::replace(&mut one.waited, true) {
                one.ends = Some(now + more);
            }
        }
    }

    /// Those whose deadline has passed; they are killed once.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<u32> {
        let mut pids = Vec::new();
        for one in &mut self.0 {
            if one.ends.take_if(|ends| *ends <= now).is_some() {
                pids.push(one.pid);
            }
        }
        pids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_killed_once_at_its_deadline() {
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut crowd = Crowd::default();
        crowd.join(1, None, Hurry::No);
        crowd.join(2, Some(at(9)), Hurry::No);
        crowd.join(3, Some(at(60)), Hurry::No);
        assert_eq!(crowd.draining().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(crowd.deadline(), Some(at(9)));
        assert_eq!(crowd.hurry_oldest(at(20)), Some(1));
        assert_eq!(crowd.draining().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(crowd.hurry(Hurry::Soon, at(10)), [2, 3]);
        assert!(crowd.hurry(Hurry::Soon, at(10)).is_empty());
        assert_eq!(crowd.hurry(Hurry::Now, at(10)), [1, 2, 3]);
        assert!(crowd.overdue(at(8)).is_empty());
        assert_eq!(crowd.overdue(at(10)), [1, 2, 3]);
        assert_eq!((crowd.overdue(at(99)), crowd.deadline()), (vec![], None));
        crowd.gone(1);
        crowd.done(2);
        assert!(!crowd.is_empty());
        for pid in [2, 3] {
            crowd.gone(pid);
        }
        assert!(crowd.is_empty());
    }
}
