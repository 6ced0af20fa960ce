//! A socket on which the owner answers, and only the owner: a master begins when it owns the service, and
//! stops when another one does. A successor has a copy of the socket, so what waits in it meanwhile is
//! answered by that one.

use std::io;

use tokio::task::JoinSet;

use crate::sys::once::Once;
use crate::sys::runtime;

/// Whoever answers on one socket.
#[derive(Debug)]
pub(super) struct Answers {
    /// Nobody does when this is dropped.
    task: JoinSet<()>,
    refused: Once,
    /// What is said when it cannot be done.
    cannot: &'static str,
}

impl Answers {
    /// Nobody yet.
    pub(super) fn new(cannot: &'static str) -> Self {
        Self {
            task: JoinSet::new(),
            refused: Once::default(),
            cannot,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.task.is_empty()
    }

    /// Answers by what `serve` makes, from when it is wanted until it is not.
    pub(super) fn follow<F>(&mut self, wanted: bool, serve: impl FnOnce() -> io::Result<F>)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match (wanted, self.is_open()) {
            (false, _) => self.stop(),
            (true, true) => {}
            (true, false) => match serve() {
                Ok(serve) => {
                    self.refused.over(self.cannot);
                    self.task.spawn(runtime::task(serve));
                }
                Err(e) => self.refused.failed(self.cannot, &e),
            },
        }
    }

    pub(super) fn stop(&mut self) {
        self.task = JoinSet::new();
    }
}
