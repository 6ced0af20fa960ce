//! `handoff.sock`: workers that drain ask here who takes their connections, as they ask a master.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};

use super::generation::Taker;
use crate::sys::handoff::{self, HandoffError};

/// Its file in the runtime directory.
pub(super) const SOCKET: &str = "handoff.sock";

/// The socket, for as long as the runtime lives.
#[derive(Debug)]
pub(super) struct Door {
    taker: Arc<Mutex<Taker>>,
}

impl Door {
    pub(super) fn open(runtime: &Path, taker: Taker) -> io::Result<Self> {
        let listener = UnixSeqpacketListener::bind(runtime.join(SOCKET))?;
        let taker = Arc::new(Mutex::new(taker));
        tokio::spawn(answer_all(listener, Arc::clone(&taker)));
        Ok(Self { taker })
    }

    /// This one takes them from now on. Whoever was told of the one before, that one has heard of: a worker
    /// that drains takes nothing that it hears of later.
    pub(super) async fn leads_to(&self, taker: Taker) {
        *self.taker.lock().await = taker;
    }
}

async fn answer_all(mut listener: UnixSeqpacketListener, taker: Arc<Mutex<Taker>>) {
    while let Ok(accepted) = listener.accept().await {
        let taker = Arc::clone(&taker);
        tokio::spawn(async move {
            // Who is not answered asks again.
            if let Err(e) = answer(accepted, &taker).await {
                tracing::debug!("a draining worker is not answered: {e}");
            }
        });
    }
}

async fn answer(accepted: UnixSeqpacket, taker: &Mutex<Taker>) -> Result<(), HandoffError> {
    let asker = handoff::hear(accepted).await?;
    let targets = taker.lock().await.end().await?;
    asker.answer(&targets).await?;
    Ok(())
}
