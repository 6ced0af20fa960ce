//! When a connection that is to leave is frozen, for how long, and when it is given up. Frozen it takes
//! no new streams, so its client waits: only for streams that are about to end, and not for long.

use std::time::Duration;

use tokio::time::Instant;

/// How long new streams are held at most, and how old an open stream may be beside which they are.
const HOLD: Duration = Duration::from_millis(200);

/// Before the next try, when what was held had to go to `h2` at once.
const AGAIN: Duration = Duration::from_millis(50);

/// How long before the drain's end a connection is frozen whatever its streams are: a part of the time it
/// had, and at most so much.
const LAST_PART: u32 = 8;
const LAST_MOST: Duration = Duration::from_secs(5);

/// One leaving.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Since when it is frozen, and until when at most.
    frozen: Option<Instant>,
    /// Not frozen again before.
    not_before: Option<Instant>,
    /// It has been, or is being, frozen whatever its streams are.
    last: bool,
}

/// How a connection is.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) frozen: bool,
    /// Since when the oldest open stream is open.
    pub(super) oldest: Option<Instant>,
    /// Since when it is to leave, and until when it must have ended.
    pub(super) drain: Option<(Instant, Instant)>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Freeze,
    Thaw,
    /// It does not move: GOAWAY.
    GiveUp,
    /// Nothing before then, or before a stream ends.
    Wait(Option<Instant>),
}

impl Leaving {
    /// The next step of a connection that is not quiet.
    pub(super) fn step(&mut self, view: View, now: Instant) -> Step {
        let last_from = view.drain.map(|(since, until)| {
            let whole = until.saturating_duration_since(since);
            let part = (whole / LAST_PART).min(LAST_MOST);
            (until.checked_sub(part).unwrap_or(until), part / 2)
        });
        if let Some(until) = self.frozen {
            if !view.frozen {
                // What was held had to go on.
                self.frozen = None;
                self.not_before = Some(now + AGAIN);
            } else if now < until {
                return Step::Wait(Some(until));
            } else {
                self.frozen = None;
                self.not_before = Some(now + HOLD);
                return if self.last { Step::GiveUp } else { Step::Thaw };
            }
        }
        if self.last {
            return Step::GiveUp;
        }
        let last = last_from.filter(|(from, _)| *from <= now);
        if let Some((_, hold)) = last {
            self.last = true;
            self.frozen = Some(now + hold);
            return Step::Freeze;
        }
        let wait = |until: Option<Instant>| {
            let last = last_from.map(|(from, _)| from);
            Step::Wait(until.into_iter().chain(last).min())
        };
        if let Some(not_before) = self.not_before.filter(|&then| now < then) {
            return wait(Some(not_before));
        }
        if view
            .oldest
            .is_some_and(|since| now.saturating_duration_since(since) >= HOLD)
        {
            return wait(None);
        }
        self.frozen = Some(now + HOLD);
        Step::Freeze
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn view(frozen: bool, oldest: Option<Instant>) -> View {
        View {
            frozen,
            oldest,
            drain: None,
        }
    }

    #[test]
    fn it_is_frozen_for_200_ms_and_not_beside_an_older_stream() {
        let now = Instant::now();
        let mut leaving = Leaving::default();
        assert_eq!(leaving.step(view(false, Some(now)), now), Step::Freeze);
        let until = now + HOLD;
        assert_eq!(
            leaving.step(view(true, Some(now)), now + MS),
            Step::Wait(Some(until))
        );
        assert_eq!(leaving.step(view(true, Some(now)), until), Step::Thaw);
        // The stream it waited for is as old by now; whatever began in between is not the point.
        let later = until + HOLD;
        assert_eq!(
            leaving.step(view(false, Some(now)), later),
            Step::Wait(None)
        );
        assert_eq!(
            leaving.step(view(false, Some(later)), later),
            Step::Freeze,
            "it has ended"
        );
    }

    #[test]
    fn what_had_to_go_on_is_not_held_again_at_once() {
        let now = Instant::now();
        let mut leaving = Leaving::default();
        assert_eq!(leaving.step(view(false, None), now), Step::Freeze);
        let then = now + MS;
        let again = Step::Wait(Some(then + AGAIN));
        assert_eq!(leaving.step(view(false, Some(now)), then), again);
        assert_eq!(
            leaving.step(view(false, Some(now)), then + AGAIN),
            Step::Freeze
        );
    }

    #[test]
    fn near_the_end_it_is_frozen_once_for_longer_and_then_given_up() {
        let since = Instant::now();
        let until = since + Duration::from_secs(16);
        let mut leaving = Leaving::default();
        let view = |frozen| View {
            frozen,
            oldest: Some(since),
            drain: Some((since, until)),
        };
        let from = until - Duration::from_secs(2);
        assert_eq!(
            leaving.step(view(false), since + HOLD),
            Step::Wait(Some(from))
        );
        assert_eq!(leaving.step(view(false), from), Step::Freeze);
        let end = from + Duration::from_secs(1);
        assert_eq!(leaving.step(view(true), from + HOLD), Step::Wait(Some(end)));
        assert_eq!(leaving.step(view(true), end), Step::GiveUp);
        let mut full = Leaving::default();
        assert_eq!(full.step(view(false), from), Step::Freeze);
        assert_eq!(
            full.step(view(false), from + MS),
            Step::GiveUp,
            "too much came"
        );
    }
}
