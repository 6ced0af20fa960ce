//! Listeners that speak a protocol of their own.

use std::net::SocketAddr;

use handover::testing::Running;
use handover::{Context, Service, Socket};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};

use crate::client::soon;

/// Says its generation after each line or datagram.
fn service() -> Service {
    Service::new("test")
        .version("1")
        .listener("lines", "127.0.0.1:7", lines)
        .listener("datagrams", "udp:127.0.0.1:7", datagrams)
}

async fn lines(socket: Socket, cx: Context) {
    let Socket::Tcp(stream) = socket else {
        return;
    };
    let mut stream = BufReader::new(TcpStream::from_std(stream).unwrap());
    let mut line = String::new();
    loop {
        tokio::select! {
            _ = cx.draining() => break,
            read = stream.read_line(&mut line) => if let Ok(0) | Err(_) = read { return },
        }
        let answer = format!("g{} {line}", cx.generation());
        stream.write_all(answer.as_bytes()).await.unwrap();
        line.clear();
    }
    // It is still there, and goes when its client does.
    stream.write_all(b"bye\n").await.unwrap();
    while let Ok(1..) = stream.read_line(&mut line).await {}
}

async fn datagrams(socket: Socket, cx: Context) {
    let Socket::Udp(socket) = socket else {
        return;
    };
    assert_eq!(cx.listener(), Some("datagrams"));
    let socket = UdpSocket::from_std(socket).unwrap();
    let mut bytes = [0; 100];
    loop {
        tokio::select! {
            _ = cx.draining() => return,
            Ok((_, from)) = socket.recv_from(&mut bytes) => {
                let answer = cx.generation().to_string();
                socket.send_to(answer.as_bytes(), from).await.unwrap();
            }
        }
    }
}

async fn say(stream: &mut TcpStream, line: &str) -> String {
    stream.write_all(line.as_bytes()).await.unwrap();
    let mut answer = vec![0; 100];
    let length = soon(stream.read(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn a_connection_ends_where_its_application_ends_it_and_the_drain_waits_and_counts() {
    let mut running = Running::start(service()).await.unwrap();
    let address = running.address("lines").unwrap();
    let mut old = TcpStream::connect(address).await.unwrap();
    assert_eq!(say(&mut old, "one\n").await, "g1 one\n");
    running.upgrade(service()).await.unwrap();
    // Both accept for a moment.
    let new = loop {
        let mut new = TcpStream::connect(address).await.unwrap();
        if say(&mut new, "one\n").await == "g2 one\n" {
            break new;
        }
    };
    assert_eq!(say(&mut old, "").await, "bye\n");
    drop(old);
    let ended = soon(running.drained()).await;
    assert!(ended.finished >= 2, "connection and datagrams: {ended:?}");
    assert_eq!((ended.passed, ended.cut), (0, 0));
    drop(new);
}

#[tokio::test]
async fn every_datagram_is_answered_by_one_of_the_generations() {
    let mut running = Running::start(service()).await.unwrap();
    let address: SocketAddr = running.address("datagrams").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    let ask = async || {
        client.send(b"?").await.unwrap();
        let mut answer = [0; 10];
        let length = soon(client.recv(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert_eq!(ask().await, "1");
    for n in 0..10 {
        running.upgrade(service()).await.unwrap();
        ask().await;
        if n % 2 == 0 {
            running.rollback().await.unwrap();
            ask().await;
        }
    }
    soon(running.drained()).await;
    assert_eq!(ask().await, "11");
}
