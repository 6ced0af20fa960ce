//! Proxies that say who the client is: the PROXY protocol, and the fields of a request.

use std::net::SocketAddr;
use std::time::Duration;

use handover::config::{Config, ListenerConfig};
use handover::sys::handoff;

use super::client::Client;
use super::worker::{TestWorker, config};

const LINE: &str = "PROXY TCP4 192.0.2.7 203.0.113.9 4711 443\r\n";
const CLIENT: &str = "192.0.2.7:4711";

/// Behind proxies of these addresses, which begin with the PROXY protocol.
fn behind(proxies: &str) -> Config {
    let mut config = config();
    config.listeners = vec![ListenerConfig {
        proxy_protocol: true,
        ..ListenerConfig::new("http", None)
    }];
    config.http.trusted_proxies = vec![proxies.parse().unwrap()];
    config
}

/// 192.0.2.7:4711 to 203.0.113.9:443.
fn binary() -> Vec<u8> {
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    let addresses = [192, 0, 2, 7, 203, 0, 113, 9, 0x12, 0x67, 1, 0xbb];
    [&head[..], &addresses].concat()
}

async fn own_address(client: &mut Client) -> SocketAddr {
    client.get("/peer").await.text().parse().unwrap()
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client_of_its_connection() {
    let worker = TestWorker::with(behind("127.0.0.0/8")).await;
    for header in [LINE.as_bytes().to_vec(), binary()] {
        let mut client = Client::connect(&worker).await;
        client.send(header).await;
        for _ in 0..2 {
            assert_eq!(client.get("/peer").await.text(), CLIENT);
        }
    }
    // In one write with the request, and byte by byte.
    let mut client = Client::connect(&worker).await;
    client
        .send(format!("{LINE}GET /peer HTTP/1.1\r\nhost: t\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.text(), CLIENT);
    let mut client = Client::connect(&worker).await;
    for byte in binary() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.get("/peer").await.text(), CLIENT);
}

#[tokio::test]
async fn the_name_travels_with_the_connection_and_so_does_half_a_header() {
    let mut old = TestWorker::with(behind("127.0.0.0/8")).await;
    let mut known = Client::accepted(&old).await;
    known.send(LINE).await;
    assert_eq!(known.get("/peer").await.text(), CLIENT);
    let mut halves = Vec::new();
    for header in [LINE.as_bytes().to_vec(), binary()] {
        let mut half = Client::accepted(&old).await;
        half.send(&header[..14]).await;
        halves.push((half, header));
    }
    let mut silent = Client::accepted(&old).await;
    let (sending, receiving) = handoff::pair().unwrap();
    let listener = old.listener.try_clone().unwrap();
    let next = behind("127.0.0.0/8");
    let _new = TestWorker::begin(next, listener, 2, None, Some(receiving)).await;
    old.pass_to(&[&sending]).await;
    assert_eq!(old.drained().await.passed, 4);
    assert_eq!(known.get("/hello").await.text(), "hello from g2");
    assert_eq!(known.get("/peer").await.text(), CLIENT);
    for (half, header) in &mut halves {
        half.send(&header[14..]).await;
        assert_eq!(half.get("/peer").await.text(), CLIENT);
    }
    silent.send(LINE).await;
    assert_eq!(silent.get("/peer").await.text(), CLIENT);
}

#[tokio::test]
async fn who_is_not_trusted_is_who_its_address_says() {
    let worker = TestWorker::with(behind("192.0.2.0/24")).await;
    let mut client = Client::connect(&worker).await;
    assert!(own_address(&mut client).await.ip().is_loopback());
    let mut liar = Client::connect(&worker).await;
    liar.send(LINE).await;
    assert_eq!(liar.answer().await.status, 400);
}

#[tokio::test]
async fn a_trusted_proxy_that_does_not_begin_so_is_not_answered() {
    let mut config = behind("127.0.0.0/8");
    config.http.header_timeout = Duration::from_millis(200);
    let worker = TestWorker::with(config).await;
    for bytes in ["GET / HTTP/1.1\r\nhost: t\r\n\r\n", "PROXY SCTP\r\n", "PRO"] {
        let mut client = Client::connect(&worker).await;
        client.send(bytes).await;
        assert!(client.at_eof().await, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client_of_each_request() {
    let ask =
        |value: &str| format!("GET /peer HTTP/1.1\r\nhost: t\r\nx-forwarded-for: {value}\r\n\r\n");
    let mut trusting = config();
    trusting.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let worker = TestWorker::with(trusting).await;
    let mut client = Client::connect(&worker).await;
    for (value, peer) in [
        ("192.0.2.7", "192.0.2.7:0"),
        ("198.51.100.1, 192.0.2.8, 127.0.0.2", "192.0.2.8:0"),
    ] {
        client.send(ask(value)).await;
        assert_eq!(client.answer().await.text(), peer);
    }
    assert!(own_address(&mut client).await.ip().is_loopback());

    let worker = TestWorker::start().await;
    let mut client = Client::connect(&worker).await;
    client.send(ask("192.0.2.7")).await;
    let peer = client.answer().await.text();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
}
