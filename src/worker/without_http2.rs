//! What [`super::http2`] is in a program that is built without the feature `http2`: whoever begins with it
//! is sent away, and a configuration that asks for it is refused before a worker starts.

use super::Worker;
use super::connection::Connection;
use super::order::Word;
use super::preface;
use crate::config::Http;

#[path = "http2/streams.rs"]
pub(super) mod streams;

pub(super) type Builder = streams::Tasks;

pub(super) fn builder(http: &Http) -> Builder {
    Builder {
        send_timeout: http.send_timeout,
    }
}

pub(super) async fn can_move(_: &Builder) -> bool {
    false
}

pub(super) async fn serve(connection: Connection, worker: &Worker, _: Word) -> Option<Connection> {
    preface::refuse(connection, worker).await;
    None
}

/// Another generation has sent a connection all the same.
pub(super) struct Blob;

impl Blob {
    pub(super) fn received(_: &[u8]) -> Self {
        Self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &[]
    }
}
