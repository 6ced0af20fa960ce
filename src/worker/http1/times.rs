//! The times of a connection inside hyper: what is due next when the client does nothing.
//!
//! hyper's own timer is not used. It is one timer for heads and for idleness, and it starts anew in
//! every worker: a slow client could ride through upgrades for ever.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::Http;
use crate::worker::gate::Gate;

/// An idle connection leaves hyper (and its 8 KiB buffer) after this. To come back costs a request
/// that follows later some microseconds; buffers kept longer are memory that ten thousand clients
/// who come within a second would take for good.
const PARK_AFTER: Duration = Duration::from_millis(30);

/// How long a client that has closed its half gets for an answer that makes no progress. hyper
/// would abort at once; nobody at all would leave a vanished client's handler running for ever.
pub(in crate::worker) const HALF_CLOSED: Duration = Duration::from_secs(10);

/// What to do when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Let hyper know that the client has closed its half.
    HalfClosed,
    /// Read an ignored request body no further.
    IgnoredBody,
    /// No whole head came in time.
    Head,
    /// The client takes nothing of what is to be written, or hyper does not end what it must.
    Stuck,
    /// It has been idle: wait without hyper.
    Park,
}

/// What has been since when.
#[derive(Debug)]
pub(super) struct Times {
    requests: u32,
    /// Since when it waits for a request.
    pub(super) idle_since: Instant,
    /// Since when an unfinished head is there.
    pub(super) head_since: Option<Instant>,
    /// Since when the client has closed its half and nothing was written, and the writes then.
    half_closed: Option<(Instant, u32)>,
    /// Since when the client takes nothing of what is to be written, and the writes then.
    stalled: Option<(Instant, u32)>,
    timer: Pin<Box<Sleep>>,
}

impl Times {
    pub(super) fn new(
        gate: &Gate,
        idle_since: Instant,
        head_since: Option<Instant>,
        now: Instant,
    ) -> Self {
        Self {
            requests: gate.requests(),
            idle_since,
            head_since,
            half_closed: None,
            stalled: None,
            timer: Box::pin(sleep_until(now + PARK_AFTER)),
        }
    }

    /// Notes what has happened since the last look.
    pub(super) fn look(&mut self, gate: &Gate, now: Instant) {
        let requests = gate.requests();
        if requests != self.requests {
            self.requests = requests;
            self.head_since = None;
            self.idle_since = now;
        } else if gate.in_flight() {
            self.idle_since = now;
        }
        if gate.head_begun() {
            self.head_since.get_or_insert(now);
        }
        let writes = gate.writes();
        self.half_closed = without_progress(self.half_closed, gate.eof_held(), writes, now);
        self.stalled = without_progress(self.stalled, gate.blocked(), writes, now);
    }

    /// What is due now; otherwise `cx` is woken when something is. There is one timer, and it is
    /// only moved forward when it fires, not with every request.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        gate: &Gate,
        http: &Http,
        now: Instant,
    ) -> Option<Due> {
        let next = self.next(gate, http);
        if next.is_none() && gate.in_flight() {
            // A request comes and goes without a move of the timer.
            return None;
        }
        if let Some((at, _)) = next {
            if at < self.timer.deadline() {
                self.timer.as_mut().reset(at);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let at = match next {
                Some((at, due)) if at <= now => {
                    // Whatever comes after it sets the timer anew.
                    self.timer.as_mut().reset(now + HALF_CLOSED);
                    return Some(due);
                }
                Some((at, _)) => at,
                None => now + HALF_CLOSED,
            };
            self.timer.as_mut().reset(at);
        }
        None
    }

    fn next(&self, gate: &Gate, http: &Http) -> Option<(Instant, Due)> {
        if let Some((since, _)) = self.half_closed {
            Some((since + HALF_CLOSED, Due::HalfClosed))
        } else if let Some((since, _)) = self.stalled {
            Some((since + http.send_timeout, Due::Stuck))
        } else if gate.in_flight() {
            None
        } else if gate.body_pending() {
            // One that the application still has is the application's business.
            let due = (self.idle_since + http.header_timeout, Due::IgnoredBody);
            gate.unread().then_some(due)
        } else if let Some(since) = self.head_since {
            Some((since + http.header_timeout, Due::Head))
        } else if gate.quiet() {
            let after = PARK_AFTER.min(http.keepalive_timeout);
            Some((self.idle_since + after, Due::Park))
        } else {
            Some((self.idle_since + http.send_timeout, Due::Stuck))
        }
    }
}

/// Since when something lasts without a write, and the writes then.
pub(in crate::worker) fn without_progress(
    before: Option<(Instant, u32)>,
    lasts: bool,
    writes: u32,
    now: Instant,
) -> Option<(Instant, u32)> {
    match before {
        _ if !lasts => None,
        Some((since, seen)) if seen == writes => Some((since, seen)),
        _ => Some((now, writes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_due_follows_what_the_connection_does() {
        let http = Http::default();
        let now = Instant::now();
        let gate = Gate::default();
        let mut times = Times::new(&gate, now, None, now);
        let mut next = |gate: &Gate, at: Instant| {
            times.look(gate, at);
            times.next(gate, &http)
        };
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(next(&gate, now), Some((now + PARK_AFTER, Due::Park)));
        gate.was_read();
        assert_eq!(next(&gate, after(1)), Some((after(31), Due::Head)));
        gate.was_read();
        assert_eq!(next(&gate, after(2)), Some((after(31), Due::Head)));
        gate.begin(false, false);
        assert_eq!(next(&gate, after(3)), None);
        gate.will_write();
        assert_eq!(next(&gate, after(4)), Some((after(64), Due::Stuck)));
        gate.has_written();
        assert_eq!(next(&gate, after(5)), Some((after(65), Due::Stuck)));
        gate.was_flushed();
        assert!(gate.hold_eof());
        assert_eq!(next(&gate, after(6)), Some((after(16), Due::HalfClosed)));
        gate.release_eof();
        assert_eq!(next(&gate, after(16)), None);
        gate.answered();
        gate.was_flushed();
        let parked = after(16) + PARK_AFTER;
        assert_eq!(next(&gate, after(17)), Some((parked, Due::Park)));
    }
}
