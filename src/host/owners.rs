//! The application of who owns the service, as a worker that drains was told: what our own application
//! was not given may go there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::FrontContext;
use super::pool::Pool;
use crate::config::Upstream;

pub(super) struct Owners {
    told: watch::Receiver<Vec<Upstream>>,
    idle_timeout: Duration,
    /// What we were told of when it was last asked for.
    known: Mutex<(Vec<Upstream>, Arc<Pool>)>,
}

impl Owners {
    pub(super) fn new(cx: &FrontContext) -> Self {
        let idle_timeout = cx.app.idle_timeout;
        Self {
            told: cx.owners.clone(),
            idle_timeout,
            known: Mutex::new((Vec::new(), Arc::new(Pool::new(&[], idle_timeout)))),
        }
    }

    /// Until somebody else's is known that was not.
    pub(super) async fn told(&self) {
        let mut told = self.told.clone();
        let was_known = !told.borrow().is_empty();
        if was_known || told.wait_for(|at| !at.is_empty()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// `None`: nobody else's is known.
    pub(super) fn pool(&self) -> Option<Arc<Pool>> {
        let told = self.told.borrow();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != *told {
            *known = (told.clone(), Arc::new(Pool::new(&told, self.idle_timeout)));
        }
        (!told.is_empty()).then(|| Arc::clone(&known.1))
    }
}
