//! All open connections of a worker, and its figures.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::gate::Gate;
use super::lock;
use super::order::Order;
use super::rooms::Rooms;
use super::tally::Tally;
use crate::machine::link::{Fates, Report, TlsReport};
use crate::sys::board::Board;

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<Open>,
    /// What the other workers hold.
    board: Option<Board>,
    /// So many are accepted.
    max: usize,
    full: watch::Sender<bool>,
    ended: Notify,
    pub(super) rooms: Rooms,
    pub(super) figures: Figures,
}

#[derive(Debug)]
struct Open {
    next: u64,
    /// What a new one is told.
    order: Order,
    accepts: bool,
    full: bool,
    ends: Ends,
    /// How many of them are over TLS.
    tls: usize,
    /// How many of them speak HTTP/2.
    http2: usize,
    gates: HashMap<u64, Arc<Gate>>,
}

/// What an end means for the figures.
#[derive(Debug, PartialEq, Eq)]
enum Ends {
    /// The client or its application wanted it.
    Usual,
    /// Within the drain.
    Finished,
    /// All that were open have been counted.
    Cut,
}

/// Counted since the worker's start.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) accepted: AtomicU64,
    pub(super) accept_errors: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) passed: AtomicU64,
    pub(super) received: AtomicU64,
    finished: AtomicU64,
    cut: AtomicU64,
    pub(super) disagreements: AtomicU64,
    pub(super) unparsed: AtomicU64,
    pub(super) unanswered: Arc<Tally>,
    pub(super) tls: Mutex<TlsReport>,
    http2: Mutex<Fates>,
}

/// A connection counts as open as long as this exists.
#[derive(Debug)]
pub(super) struct Live {
    of: Arc<Connections>,
    id: u64,
    tls: bool,
    http2: bool,
    passed: bool,
}

/// Tells when a worker is full, and when it has room again: what comes to its sockets then is for
/// others.
#[derive(Debug)]
pub(super) struct Fullness(watch::Receiver<bool>);

impl Fullness {
    /// The next change.
    pub(super) async fn changed(&mut self) -> bool {
        if self.0.changed().await.is_err() {
            return std::future::pending().await;
        }
        *self.0.borrow_and_update()
    }
}

impl Connections {
    /// `max`: connections.
    pub(super) fn new(board: Option<Board>, max: usize, rooms: Rooms) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::new(Open {
                next: 0,
                order: Order::Serve,
                accepts: false,
                full: false,
                ends: Ends::Usual,
                tls: 0,
                http2: 0,
                gates: HashMap::new(),
            }),
            board,
            max,
            full: watch::Sender::new(false),
            ended: Notify::new(),
            rooms,
            figures: Figures::default(),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, over TLS or not; it is told what the others were told.
    pub(super) fn enter(self: &Arc<Self>, tls: bool) -> (Arc<Gate>, Live) {
        let gate = Arc::new(Gate::default());
        let mut open = self.open();
        let id = open.next;
        open.next += 1;
        open.tls += usize::from(tls);
        gate.tell(open.order, None);
        open.gates.insert(id, Arc::clone(&gate));
        self.tell_others(&open);
        if open.gates.len() >= self.max {
            self.say_full(&mut open, true);
        }
        drop(open);
        let live = Live {
            of: Arc::clone(self),
            id,
            tls,
            http2: false,
            passed: false,
        };
        (gate, live)
    }

    /// This worker accepts, or does so no longer.
    pub(super) fn accepting(&self, accepts: bool) {
        let mut open = self.open();
        open.accepts = accepts;
        self.tell_others(&open);
    }

    /// For whoever tells the master.
    pub(super) fn fullness(&self) -> Fullness {
        Fullness(self.full.subscribe())
    }

    fn say_full(&self, open: &mut Open, full: bool) {
        if open.full != full {
            open.full = full;
            self.full.send_replace(full);
        }
    }

    fn tell_others(&self, open: &Open) {
        if let Some(board) = &self.board {
            let count = open.accepts.then_some(open.gates.len() as u64);
            if let Err(e) = board.say(count) {
                tracing::debug!("cannot write to the board: {e}");
            }
        }
    }

    /// Whether this worker holds no more than its share of what all together hold, near enough.
    pub(super) fn has_a_fair_share(&self) -> bool {
        let Some(Ok(shares)) = self.board.as_ref().map(Board::shares) else {
            return true;
        };
        let mean = shares.connections / shares.workers.max(1);
        self.count() as u64 <= mean + mean / 8 + 2
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.open().gates.len()
    }

    /// A drain begins: what ends from now on is counted. To be called before anybody hears of it.
    pub(super) fn drain(&self) {
        self.open().ends = Ends::Finished;
    }

    /// What every later one is told; returns those that are open now, to be told one by one.
    pub(super) fn order(&self, order: Order) -> Vec<Arc<Gate>> {
        let mut open = self.open();
        open.order = order;
        open.gates.values().map(Arc::clone).collect()
    }

    /// Waits until at most `count` are open.
    pub(super) async fn at_most(&self, count: usize) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.count() <= count {
                return;
            }
            ended.await;
        }
    }

    /// Waits until one more has ended.
    pub(super) async fn one_ended(&self) {
        self.ended.notified().await;
    }

    /// Everything that is open now is about to be cut.
    pub(super) fn cut(&self) {
        let mut open = self.open();
        open.ends = Ends::Cut;
        self.figures
            .cut
            .fetch_add(open.gates.len() as u64, Ordering::Relaxed);
        lock(&self.figures.tls).connections.cut += open.tls as u64;
        lock(&self.figures.http2).cut += open.http2 as u64;
    }

    /// The figures now.
    pub(super) fn report(&self) -> Report {
        let f = &self.figures;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Report {
            connections: self.count() as u64,
            accepted: get(&f.accepted),
            requests: get(&f.requests),
            passed: get(&f.passed),
            received: get(&f.received),
            finished: get(&f.finished),
            cut: get(&f.cut),
            disagreements: get(&f.disagreements),
            accept_errors: get(&f.accept_errors),
            unparsed: get(&f.unparsed),
            unanswered: f.unanswered.now(),
            tls: *lock(&f.tls),
            http2: *lock(&f.http2),
        }
    }
}

impl Live {
    /// It speaks HTTP/2.
    pub(super) fn is_http2(&mut self) {
        if !std::mem::replace(&mut self.http2, true) {
            self.of.open().http2 += 1;
        }
    }

    /// It goes on in another worker.
    pub(super) fn passed(mut self) {
        self.passed = true;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut open = self.of.open();
        open.gates.remove(&self.id);
        open.tls -= usize::from(self.tls);
        open.http2 -= usize::from(self.http2);
        self.of.tell_others(&open);
        // Not with every one that ends, or a worker at its limit would do nothing but say so.
        if open.gates.len() + self.of.max / 8 < self.of.max {
            self.of.say_full(&mut open, false);
        }
        // Before anybody can see that it has gone.
        let figures = &self.of.figures;
        if self.passed {
            figures.passed.fetch_add(1, Ordering::Relaxed);
            lock(&figures.tls).connections.passed += u64::from(self.tls);
            lock(&figures.http2).passed += u64::from(self.http2);
        } else if open.ends == Ends::Finished {
            figures.finished.fetch_add(1, Ordering::Relaxed);
            lock(&figures.tls).connections.finished += u64::from(self.tls);
            lock(&figures.http2).finished += u64::from(self.http2);
        }
        drop(open);
        self.of.ended.notify_waiters();
    }
}
