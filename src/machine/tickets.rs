//! The keys of session tickets: whoever owns the service makes them, and every worker of every
//! generation has them, so that a client that comes back resumes wherever it comes to.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::SecretBytes;

/// How long a ticket is good for: every key is kept for as long after it was the newest.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// How long one key is the newest. What a thief of it could read later is bounded by this.
pub const TICKET_KEY_AGE: Duration = Duration::from_secs(6 * 60 * 60);

/// The newest key and those before it that are still accepted.
const KEPT: usize = 3;

/// The ring.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys {
    /// The newest first.
    keys: Vec<TicketKey>,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey {
    name: [u8; 16],
    secret: SecretBytes,
    /// Unix seconds.
    made_at: u64,
}

impl TicketKey {
    /// Of 48 random bytes.
    #[must_use]
    pub fn new(random: &[u8; 48], now: SystemTime) -> Self {
        let (name, secret) = random.split_at(16);
        Self {
            name: name.try_into().expect("16 bytes"),
            secret: SecretBytes::new(secret.to_vec()),
            made_at: seconds(now),
        }
    }

    /// What a ticket says that was made with it.
    #[must_use]
    pub fn name(&self) -> &[u8; 16] {
        &self.name
    }

    /// What tickets' own keys follow from.
    #[must_use]
    pub fn secret(&self) -> &[u8] {
        self.secret.bytes()
    }
}

impl TicketKeys {
    /// Whether a new key is due: there is none, or the newest has served its time, or it is from a
    /// time that has not come (the clock was set back).
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        self.newest().is_none_or(|newest| {
            let age = seconds(now).checked_sub(newest.made_at);
            age.is_none_or(|age| age >= TICKET_KEY_AGE.as_secs())
        })
    }

    /// With a new key; the oldest goes.
    #[must_use]
    pub fn with(&self, newest: TicketKey) -> Self {
        let mut keys = vec![newest];
        keys.extend(self.keys.iter().take(KEPT - 1).cloned());
        Self { keys }
    }

    /// What new tickets are made with.
    #[must_use]
    pub fn newest(&self) -> Option<&TicketKey> {
        self.keys.first()
    }

    /// The one that a ticket names.
    #[must_use]
    pub fn by_name(&self, name: &[u8]) -> Option<&TicketKey> {
        self.keys.iter().find(|key| key.name == name)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_for_the_lifetime_of_the_last_ticket_made_with_it() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let key = |n: u8, now| TicketKey::new(&[n; 48], now);
        let mut ring = TicketKeys::default();
        assert!(ring.is_due(start));
        ring = ring.with(key(0, start));
        let mut now = start;
        for n in 1..=3 {
            assert!(!ring.is_due(now + TICKET_KEY_AGE - Duration::from_secs(1)));
            now += TICKET_KEY_AGE;
            assert!(ring.is_due(now));
            // The last ticket of key 0 was made at the first change; it is good for a lifetime.
            let good = now < start + TICKET_KEY_AGE + TICKET_LIFETIME;
            assert_eq!(ring.by_name(&[0; 16]).is_some(), good || n == 3);
            ring = ring.with(key(n, now));
        }
        assert_eq!(ring.newest().map(TicketKey::name), Some(&[3; 16]));
        assert!(ring.by_name(&[0; 16]).is_none() && ring.by_name(&[1; 16]).is_some());
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_a_key_for_ever() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let ring = TicketKeys::default().with(TicketKey::new(&[1; 48], start));
        assert!(ring.is_due(start - Duration::from_secs(1)));
    }
}
