//! The application of who owns the service, for a worker that drains: what our own application was not
//! given may go there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::FrontContext;
use super::pool::Pool;
use crate::config::Upstream;
use crate::worker::OwnersApplication;

pub(super) struct Owners {
    application: Arc<OwnersApplication>,
    idle_timeout: Duration,
    /// Where it was when it was last asked for.
    known: Mutex<(Vec<Upstream>, Arc<Pool>)>,
}

impl Owners {
    pub(super) fn new(cx: &FrontContext) -> Self {
        let idle_timeout = cx.app.idle_timeout;
        Self {
            application: Arc::clone(&cx.owners),
            idle_timeout,
            known: Mutex::new((Vec::new(), Arc::new(pool(&[], idle_timeout)))),
        }
    }

    /// Our own application takes nobody.
    pub(super) fn want(&self) {
        self.application.want();
    }

    pub(super) fn is_known(&self) -> bool {
        self.application.is_known()
    }

    /// Until somebody else's is known that was not.
    pub(super) async fn told(&self) {
        if self.is_known() {
            std::future::pending::<()>().await;
        }
        self.application.known().await;
    }

    /// `None`: there is nobody else's now.
    pub(super) async fn pool(&self) -> Option<Arc<Pool>> {
        let at = self.application.now().await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != at {
            let pool = pool(&at, self.idle_timeout);
            *known = (at, Arc::new(pool));
        }
        (!known.0.is_empty()).then(|| Arc::clone(&known.1))
    }
}

/// Which of its instances do not answer is known to its own front.
fn pool(at: &[Upstream], idle_timeout: Duration) -> Pool {
    Pool::new(at, idle_timeout, Arc::default())
}
