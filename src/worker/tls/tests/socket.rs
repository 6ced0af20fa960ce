//! The stream over a socket, and what the connection above asks it.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::poll;
use rustls::ClientConnection;
use tokio::time::Instant;

use super::super::stream::TlsStream;
use super::{Trio, V12, V13, hear, said_by, suite_of};
use crate::context::Ending;
use crate::worker::connection::{Connection, Served};
use crate::worker::connections::Connections;
use crate::worker::rooms::Rooms;
use crate::worker::stream::{Peer, Stream};
use crate::worker::ws::{CLOSE, Farewell};

/// Our end of the connection over a socket, the client, and its end.
fn over_a_socket(trio: Trio) -> (TlsStream, ClientConnection, UnixStream) {
    let Trio { client, ours, .. } = trio;
    let (socket, theirs) = UnixStream::pair().unwrap();
    let (socket, _) = Stream::from_fd(socket.into()).unwrap();
    (TlsStream::new(socket, ours), client, theirs)
}

#[tokio::test]
async fn the_end_that_a_client_has_said_can_be_read_again() {
    let (mut ours, mut client, mut theirs) = over_a_socket(Trio::new(suite_of(V13)));
    client.send_close_notify();
    theirs.write_all(&said_by(&mut client)).unwrap();
    let mut bytes = BytesMut::with_capacity(9);
    let end = poll_fn(|cx| ours.poll_read_some(cx, &mut bytes)).await;
    assert_eq!(end.unwrap(), 0);
    // It sends no more, and has not closed its socket.
    let readable = poll!(poll_fn(|cx| ours.poll_readable(cx)));
    assert!(readable.is_ready());
}

#[tokio::test]
async fn a_request_that_has_begun_in_half_a_record_gets_the_time_of_a_head() {
    let (stream, mut client, mut theirs) = over_a_socket(Trio::new(suite_of(V13)));
    let (gate, live) = Connections::new(None, 1, Rooms::new(1, 1)).enter(true);
    let served = Served {
        name: "https".into(),
        router: axum::Router::new(),
        raw: None,
        tls: true,
        proxy_protocol: false,
    };
    let mut now = Instant::now();
    let mut connection = Connection {
        stream: Stream::Tls(Box::new(stream)),
        leftover: Bytes::new(),
        gate,
        live,
        served: Arc::new(served),
        peer: Peer::Tcp(([127, 0, 0, 1], 1).into()),
        requests: 1,
        idle_since: now,
        head_since: None,
        handshake_due: false,
        proxy_header_due: false,
        http2: None,
    };
    let most = Duration::from_secs(10);
    assert!(connection.brings_nothing(most, now));
    client.writer().write_all(b"GET").unwrap();
    let record = said_by(&mut client);
    theirs.write_all(&record[..9]).unwrap();
    let mut bytes = BytesMut::with_capacity(9);
    poll_fn(|cx| connection.stream.poll_readable(cx))
        .await
        .unwrap();
    let stream = &mut connection.stream;
    let nothing = poll!(poll_fn(|cx| stream.poll_read_some(cx, &mut bytes)));
    assert!(nothing.is_pending());
    assert!(!connection.brings_nothing(most, now));
    now += most / 2;
    assert!(!connection.brings_nothing(most, now));
    now += most / 2;
    assert!(connection.brings_nothing(most, now));
    theirs.write_all(&record[9..]).unwrap();
    assert!(!connection.brings_nothing(most, now), "the kernel has it");
}

#[tokio::test]
async fn a_web_socket_over_tls_1_2_is_told_to_come_again_before_its_keys_are_worn_out() {
    let mut trio = Trio::new(suite_of(V12));
    trio.ours.records.limit_to(10);
    let (stream, mut client, mut theirs) = over_a_socket(trio);
    let mut stream = Stream::Tls(Box::new(stream));
    let mut farewell = Farewell::new(Ending::never());
    let message = b"\x81\x01x";
    for _ in 0..6 {
        let said = poll_fn(|cx| farewell.poll_write(&mut stream, cx, message)).await;
        assert_eq!(said.unwrap(), message.len());
    }
    let mut heard = vec![0; 4096];
    let len = theirs.read(&mut heard).unwrap();
    let heard = hear(&mut client, &heard[..len]);
    assert_eq!(heard, [&message.repeat(4)[..], CLOSE].concat());
}
