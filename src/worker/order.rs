//! What is asked of a connection, and whether somebody is there to hear it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::OwnedSemaphorePermit;

use super::lock;

/// What is asked of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Serve.
    Serve,
    /// Leave for another worker at the next boundary.
    Leave,
    /// Nobody takes it: end politely (one more answer, or a grace time without a request).
    Last,
}

/// An [`Order`], told apart from the same one given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(u32);

impl Word {
    pub(super) fn order(self) -> Order {
        match self.0 & 3 {
            0 => Order::Serve,
            1 => Order::Leave,
            _ => Order::Last,
        }
    }
}

/// The orders to one connection.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// How many there were, and in the last two bits the newest one.
    word: AtomicU32,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Held while a connection is on its way from its driver into a message (pacing).
    permit: Option<OwnedSemaphorePermit>,
    /// Whether a task of ours has the connection (the application has upgraded ones).
    manned: bool,
}

impl Orders {
    /// The newest one.
    pub(super) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Another one. `permit` comes back when it has been dealt with.
    pub(super) fn tell(&self, order: Order, permit: Option<OwnedSemaphorePermit>) {
        let mut slot = lock(&self.slot);
        slot.permit = permit.filter(|_| slot.manned);
        let before = self.word.load(Ordering::Acquire);
        let word = (before | 3).wrapping_add(1) | order as u32;
        self.word.store(word, Ordering::Release);
    }

    /// The permit of the last order: dropped by a connection that cannot leave yet.
    pub(super) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        lock(&self.slot).permit.take()
    }

    /// A task of ours has the connection, or has it no longer.
    pub(super) fn man(&self, manned: bool) {
        let mut slot = lock(&self.slot);
        slot.manned = manned;
        if !manned {
            slot.permit = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn the_same_order_again_is_another_word() {
        let orders = Orders::default();
        assert_eq!(orders.word().order(), Order::Serve);
        for order in [Order::Leave, Order::Leave, Order::Last, Order::Serve] {
            let before = orders.word();
            orders.tell(order, None);
            assert_eq!(orders.word().order(), order);
            assert_ne!(orders.word(), before);
        }
    }

    #[test]
    fn nobody_keeps_a_permit_who_is_not_there_to_use_it() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = || Arc::clone(&permits).try_acquire_owned().ok();
        let orders = Orders::default();
        orders.tell(Order::Leave, permit());
        assert_eq!(permits.available_permits(), 1, "nobody is there");
        orders.man(true);
        orders.tell(Order::Leave, permit());
        assert_eq!(permits.available_permits(), 0);
        orders.man(false);
        assert_eq!(permits.available_permits(), 1, "it has gone");
    }
}
