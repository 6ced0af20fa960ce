//! `handoff.sock`: workers that drain ask here who takes their connections, as they ask a master.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};

use super::generation::Taker;
use crate::sys::handoff::{self, HandoffError};

/// Its file in the runtime directory.
pub(super) const SOCKET: &str = "handoff.sock";

/// The socket, for as long as the runtime lives.
#[derive(Debug)]
pub(super) struct Door {
    taker: watch::Sender<Arc<Taker>>,
}

impl Door {
    pub(super) fn open(runtime: &Path, taker: Taker) -> io::Result<Self> {
        let listener = UnixSeqpacketListener::bind(runtime.join(SOCKET))?;
        let (door, taker) = watch::channel(Arc::new(taker));
        tokio::spawn(answer_all(listener, taker));
        Ok(Self { taker: door })
    }

    /// This one takes them from now on.
    pub(super) fn leads_to(&self, taker: Taker) {
        self.taker.send_replace(Arc::new(taker));
    }
}

async fn answer_all(mut listener: UnixSeqpacketListener, taker: watch::Receiver<Arc<Taker>>) {
    while let Ok(accepted) = listener.accept().await {
        let taker = Arc::clone(&taker.borrow());
        tokio::spawn(async move {
            // Who is not answered asks again.
            if let Err(e) = answer(accepted, &taker).await {
                tracing::debug!("a draining worker is not answered: {e}");
            }
        });
    }
}

async fn answer(accepted: UnixSeqpacket, taker: &Taker) -> Result<(), HandoffError> {
    let asker = handoff::hear(accepted).await?;
    asker.answer(&taker.end().await?).await?;
    Ok(())
}
