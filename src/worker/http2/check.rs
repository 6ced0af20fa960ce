//! Whether the `h2` that this program was built with takes part: one connection is moved in memory when
//! a worker starts. It relies on no more than what RFC 9113 asks of every implementation, but a
//! connection that came from another worker must not be the first one to find out.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::time::timeout;

use super::frames::{self, Head};
use super::ledger::Ledger;
use super::settings::{Builder, CONNECTION_WINDOW};
use super::shim::Shim;
use super::wire::Wire;
use crate::worker::http2::blob::Blob;

/// It takes a millisecond; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether connections can be moved.
pub(in crate::worker) async fn can_move(builder: &Builder) -> bool {
    matches!(timeout(PATIENCE, adopts(builder)).await, Ok(Some(())))
}

/// What an `h2` tells its client first.
async fn told(builder: &Builder) -> Option<Box<[u8]>> {
    let (mut client, server) = duplex(4096);
    let service = service_fn(answer);
    let connection = builder.serve_connection(TokioIo::new(server), service);
    let read = async {
        let mut head = [0; frames::HEAD];
        client.read_exact(&mut head).await.ok()?;
        let head = Head::parse(&head);
        let mut payload = vec![0; head.payload()];
        client.read_exact(&mut payload).await.ok()?;
        (head.kind == frames::SETTINGS).then(|| payload.into_boxed_slice())
    };
    tokio::select! {
        told = read => told,
        _ = connection => None,
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    // `x-moved: yes` is nowhere but in the table that was moved.
    let moved = request
        .headers()
        .get("x-moved")
        .is_some_and(|value| value == "yes");
    let mut response = Response::new(Empty::new());
    if !moved {
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

/// Moves a connection that has had streams, and asks something by an entry of its header table.
async fn adopts(builder: &Builder) -> Option<()> {
    let mut ledger = Ledger::new();
    ledger.our_settings = Some(told(builder).await?);
    ledger.highest = 7;
    ledger.receive = 100_000;
    ledger.send = 65_000;
    ledger.client_settings = vec![(4, 32_768)];
    ledger
        .mirror
        .walk(b"\x40\x07x-moved\x03yes\x41\x09localhost")
        .ok()?;
    let blob = Blob::of(&ledger, CONNECTION_WINDOW)?;
    // GET http://localhost/, with both entries.
    let mut asked = Vec::new();
    let flags = frames::END_STREAM | frames::END_HEADERS;
    frames::write(
        &mut asked,
        frames::HEADERS,
        flags,
        9,
        b"\x82\x86\x84\xbe\xbf",
    );
    let shim = Shim::from_blob(&blob, &asked).ok()?;
    let (mut client, server) = duplex(4096);
    let wire = Wire::new(server, shim);
    let io = TokioIo::new(wire.handle());
    let mut connection = std::pin::pin!(builder.serve_connection(io, service_fn(answer)));
    let ours = std::future::poll_fn(|cx| {
        loop {
            if wire.poll_h2(connection.as_mut(), cx).is_ready() {
                return std::task::Poll::Ready(());
            }
            if !wire.lock().is_woken() {
                return std::task::Poll::Pending;
            }
        }
    });
    let read = async {
        loop {
            let mut head = [0; frames::HEAD];
            client.read_exact(&mut head).await.ok()?;
            let head = Head::parse(&head);
            let mut payload = vec![0; head.payload()];
            client.read_exact(&mut payload).await.ok()?;
            match head.kind {
                // What the client does not have yet.
                frames::WINDOW_UPDATE => {}
                // `:status: 200` is the static table's.
                frames::HEADERS if head.stream == 9 => {
                    return (payload.first() == Some(&0x88)).then_some(());
                }
                _ => return None,
            }
        }
    };
    let adopted = tokio::select! {
        adopted = read => adopted,
        () = ours => None,
    };
    client.shutdown().await.ok()?;
    adopted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Http;

    #[tokio::test]
    async fn the_h2_of_this_build_takes_part() {
        assert!(can_move(&super::super::settings::builder(&Http::default())).await);
    }

    #[tokio::test]
    async fn one_that_ends_a_connection_for_the_header_block_does_not() {
        // No stream may be reset for an error of the client's: as if `h2` went its own way.
        let mut builder = super::super::settings::builder(&Http::default());
        builder.max_local_error_reset_streams(0);
        assert!(!can_move(&builder).await);
    }
}
