//! Slots: a TCP address of our own has one listening socket a worker, so that the kernel deals the
//! connections out and a connection wakes one worker. (Workers that share a socket are all woken,
//! and even out what they take through [`crate::sys::board`].)
//!
//! * The master opens them (`SO_REUSEPORT`) and keeps them; slot i is inherited by every
//!   generation, over upgrades, rollbacks, reloads and, through systemd's store, crashes. A worker
//!   never binds, and needs no right to.
//! * They are opened only by a master that is alone: at a cold start, on an address that is new with
//!   this generation, and in `Serving`. Anybody else might have to give the service back to a
//!   master that does not hold the new ones, and what is in their queues would be lost.
//! * **None is closed while its address is served.** The kernel resets what is queued on a listening
//!   socket that is closed, and whoever is about to be, and there is no portable way to tell it to
//!   queue nothing more. When there are fewer workers than slots, the surplus is accepted on by
//!   those that are there; when there are more again, it is there.
//! * With fewer slots than workers (before `Serving`, or because one cannot be opened) all of an
//!   address's sockets are shared by all workers, as are systemd's sockets, Unix sockets and
//!   datagrams.
//!
//! Hence one rule, [`home`], says whose a socket is, and one, [`accepts`], who accepts on it: its
//! own worker alone, and while that is missing (dead, starting, hung, full) all others in turn.

/// The worker whose alone a socket is, if it is anybody's: number `slot` of an address's `slots`.
///
/// Every worker gets the same number of them; what is left over when they do not divide evenly is
/// everybody's.
pub fn home(slot: Option<u16>, slots: u16, workers: u16) -> Option<u16> {
    let workers = workers.max(1);
    let dealt = slots - slots % workers;
    slot.filter(|slot| *slot < dealt).map(|slot| slot % workers)
}

/// How a worker accepts on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// Nobody else does.
    Alone,
    /// In turn with others.
    Shared,
}

/// Whether and how `worker` accepts on a socket with this [`home`].
pub fn accepts(home: Option<u16>, worker: u16, missing: impl Fn(u16) -> bool) -> Option<Accepts> {
    match home {
        Some(home) if home == worker => Some(Accepts::Alone),
        // Who cannot serve his own is no help with another's.
        Some(home) => (missing(home) && !missing(worker)).then_some(Accepts::Shared),
        None => Some(Accepts::Shared),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn homes(slots: u16, workers: u16) -> Vec<Option<u16>> {
        (0..slots).map(|s| home(Some(s), slots, workers)).collect()
    }

    #[test]
    fn every_worker_has_as_many_sockets_of_its_own_and_the_rest_is_everybodys() {
        assert_eq!(homes(2, 2), [Some(0), Some(1)]);
        assert_eq!(homes(4, 1), [Some(0); 4]);
        assert_eq!(homes(4, 3), [Some(0), Some(1), Some(2), None]);
        assert_eq!(
            homes(5, 2),
            [Some(0), Some(1), Some(0), Some(1), None],
            "a slot keeps its worker however many there are of both"
        );
        assert_eq!(homes(2, 3), [None, None], "too few for everybody");
        assert_eq!(home(None, 4, 2), None, "a socket of systemd");
        for slots in 1..40 {
            for workers in 1..40 {
                let homes = homes(slots, workers);
                let of = |w| homes.iter().filter(|h| **h == Some(w)).count();
                assert!((1..workers).all(|w| of(w) == of(0)));
                assert!(homes.iter().filter(|h| h.is_none()).count() < usize::from(workers));
            }
        }
    }

    #[test]
    fn somebody_accepts_on_every_socket_as_long_as_anybody_is_there() {
        let workers = 3;
        for gone in 0..(1_u16 << workers) - 1 {
            let missing = |w: u16| gone >> w & 1 == 1;
            for home in [None, Some(0), Some(1), Some(2)] {
                let there: Vec<_> = (0..workers)
                    .filter(|w| !missing(*w))
                    .filter_map(|w| accepts(home, w, missing))
                    .collect();
                assert!(!there.is_empty(), "{home:?} without {gone:b}");
                let alone = home.is_some_and(|home| !missing(home));
                let expected = if alone {
                    vec![Accepts::Alone]
                } else {
                    vec![Accepts::Shared; there.len()]
                };
                assert_eq!(there, expected, "{home:?} without {gone:b}");
            }
        }
    }
}
