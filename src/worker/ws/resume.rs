//! What goes on with sessions that come from another worker, by their names.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use super::CLOSE;
use super::socket::WebSocket;
use super::upgrade::MESSAGE_MAX;
use crate::context::Context;
use crate::sys::runtime;
use crate::worker::connection::Connection;
use crate::worker::handoff::Session;
use crate::worker::{Worker, lock};

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
type Resume = Arc<dyn Fn(Resumed) -> Running + Send + Sync>;
type Known = Arc<Mutex<HashMap<String, Resume>>>;

/// A session that was passed on by another worker.
#[derive(Debug)]
#[non_exhaustive]
pub struct Resumed {
    /// What the worker before said about it.
    pub blob: Vec<u8>,
    /// Its client, who has noticed nothing.
    pub socket: WebSocket,
}

impl Context {
    /// What to do with sessions of this name that come from another worker: of the generation
    /// before after an upgrade, of the newer one after a rollback. Say it where the application is
    /// made; of two of one name the last one counts.
    ///
    /// One that cannot go on (the blob is of a version that it does not know) drops the socket, and
    /// its client is told to come again: code 1012.
    pub fn resume<F, R>(&self, name: &str, resume: F)
    where
        F: Fn(Resumed) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let resume: Resume = Arc::new(move |session| Box::pin(resume(session)));
        lock(&self.keep(Known::default)).insert(name.into(), resume);
    }
}

/// Gives a session to the application.
pub(in crate::worker) fn resume(
    session: Session,
    mut connection: Connection,
    worker: &Arc<Worker>,
) {
    let known = worker.application.keep(Known::default);
    let Some(resume) = lock(&known).get(&session.name).cloned() else {
        tracing::warn!(
            "a session {:?} is ended: this program does not know it",
            session.name
        );
        // Its client stands between two messages.
        connection.stream.say_last(CLOSE);
        return;
    };
    let socket = WebSocket::new(connection, worker, MESSAGE_MAX);
    runtime::spawn(async move {
        let socket = socket.await.taken_over(session.heard);
        let blob = session.blob;
        resume(Resumed { blob, socket }).await;
    });
}
