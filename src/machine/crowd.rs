//! The generations that only drain: former predecessors, and successors that were rejected. Each has a
//! deadline, and hears it when the service stops.

use std::time::Instant;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Drainer {
    /// Its master.
    pid: u32,
    /// When it is killed if it is there still; `None`: no limit.
    ends: Option<Instant>,
    /// It was told to hurry.
    told: bool,
    /// It said its last word: it is only on its way out.
    done: bool,
}

/// All that this master knows, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Crowd(Vec<Drainer>);

impl Crowd {
    pub(super) fn join(&mut self, pid: u32, ends: Option<Instant>) {
        if self.0.iter().all(|d| d.pid != pid) {
            self.0.push(Drainer {
                pid,
                ends,
                told: false,
                done: false,
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
    pub(super) fn draining(&self) -> usize {
        self.0.iter().filter(|d| !d.done && !d.told).count()
    }

    /// All are told to hurry, and end by then. Returns those who had not been told.
    pub(super) fn hurry(&mut self, by: Instant) -> Vec<u32> {
        let mut pids = Vec::new();
        for one in &mut self.0 {
            one.ends = Some(one.ends.map_or(by, |ends| ends.min(by)));
            if !std::mem::replace(&mut one.told, true) {
                pids.push(one.pid);
            }
        }
        pids
    }

    /// The oldest that counts is told to hurry, and ends by then.
    pub(super) fn hurry_oldest(&mut self, by: Instant) -> Option<u32> {
        let oldest = self.0.iter_mut().find(|d| !d.done && !d.told)?;
        oldest.told = true;
        oldest.ends = Some(oldest.ends.map_or(by, |ends| ends.min(by)));
        Some(oldest.pid)
    }

    /// The next deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(|d| d.ends).min()
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
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_is_told_once_and_killed_once_at_its_deadline() {
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut crowd = Crowd::default();
        crowd.join(1, None);
        crowd.join(2, Some(at(9)));
        crowd.join(3, Some(at(60)));
        assert_eq!((crowd.draining(), crowd.deadline()), (3, Some(at(9))));
        assert_eq!(crowd.hurry_oldest(at(20)), Some(1));
        assert_eq!(crowd.draining(), 2);
        assert_eq!(crowd.hurry(at(10)), [2, 3]);
        assert!(crowd.hurry(at(10)).is_empty());
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
