//! The streams of an HTTP/2 connection: how many there are, which of them were reset, and an end for
//! one whose client takes nothing of its answer.
//!
//! hyper gives an answer's next piece to h2 only when the client has granted room for the one before.
//! A client that grants none would keep the answer, and the file behind it, for as long as it likes.
//! The task of a stream is ours to make (hyper asks an executor for it): here it ends when a piece was
//! not taken in `[http] send_timeout`, and h2 then resets the stream. As in nginx the time is that
//! between two pieces, not that of the whole answer.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::sys::runtime::{self, Task};
use crate::worker::gate::Gate;

/// A stream that is being answered.
#[derive(Debug)]
pub(in crate::worker) struct Stream {
    gate: Arc<Gate>,
    /// Odd: a piece was given to h2 and it has not come back for more; the client's turn. Even: the
    /// application's. Grows with every change.
    turns: AtomicU32,
    /// The request's body stopped coming.
    body_late: AtomicBool,
}

thread_local! {
    /// The stream whose request was just given to the application. hyper makes its task next, in the
    /// same call.
    static NEWEST: Cell<Option<Arc<Stream>>> = const { Cell::new(None) };
}

impl Stream {
    pub(in crate::worker) fn begin(gate: &Arc<Gate>) -> Arc<Self> {
        gate.stream_begins();
        let stream = Arc::new(Self {
            gate: Arc::clone(gate),
            turns: AtomicU32::new(0),
            body_late: AtomicBool::new(false),
        });
        NEWEST.set(Some(Arc::clone(&stream)));
        stream
    }

    /// Whether the next piece of the answer was there when h2 wanted it.
    pub(in crate::worker) fn is_offered(&self, offered: bool) {
        let turns = self.turns.load(Ordering::Relaxed);
        let step = if (turns % 2 == 1) == offered { 2 } else { 1 };
        self.turns
            .store(turns.wrapping_add(step), Ordering::Relaxed);
    }

    /// `whole`: its answer was given to h2 to the end.
    pub(in crate::worker) fn end(&self, whole: bool) {
        self.gate.stream_ends(whole);
    }

    pub(in crate::worker) fn body_late(&self) {
        self.body_late.store(true, Ordering::Relaxed);
    }

    pub(in crate::worker) fn is_body_late(&self) -> bool {
        self.body_late.load(Ordering::Relaxed)
    }
}

/// Makes the tasks of streams.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Tasks {
    /// `[http] send_timeout`.
    pub(super) send_timeout: Duration,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        match NEWEST.take() {
            Some(stream) => runtime::spawn(Watched {
                task: runtime::task(task),
                stream,
                seen: 0,
                send_timeout: self.send_timeout,
                timer: None,
            }),
            // What an upgraded stream needs.
            None => runtime::spawn(task),
        };
    }
}

/// The task of one stream.
struct Watched {
    task: Task<()>,
    stream: Arc<Stream>,
    /// Its turns at the last look.
    seen: u32,
    send_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Future for Watched {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.task.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let turns = self.stream.turns.load(Ordering::Relaxed);
        if turns % 2 == 0 {
            // The application's turn: it may take its time.
            self.timer = None;
            return Poll::Pending;
        }
        if turns != self.seen || self.timer.is_none() {
            self.seen = turns;
            let due = Instant::now() + self.send_timeout;
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(due),
                None => self.timer = Some(Box::pin(sleep_until(due))),
            }
        }
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
        }
        tracing::debug!("a stream is reset: its client takes nothing");
        Poll::Ready(())
    }
}
