//! What a trusted proxy says of a client holds for the application, also on a connection that another
//! generation began.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::kit::client::Target;
use crate::kit::service::SOON;
use crate::scene::Scene;

const CLIENT: &str = "192.0.2.7";

/// A connection of the proxy's that stays open.
trait Proxy {
    /// The fields of a request about [`CLIENT`], as the application prints them, and who answered.
    fn ask(&mut self) -> (String, String);
}

struct Http1(TcpStream);

impl Http1 {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(stream)
    }
}

impl Proxy for Http1 {
    fn ask(&mut self) -> (String, String) {
        let request =
            format!("GET /headers HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {CLIENT}\r\n\r\n");
        self.0.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let field = |name: &str| {
            let mut lines = head.lines();
            let value = lines.find_map(|line| line.strip_prefix(name));
            value.unwrap_or_else(|| panic!("{head}")).trim().to_owned()
        };
        let mut body = vec![0; field("content-length:").parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        (String::from_utf8(body).unwrap(), field("server:"))
    }
}

struct Http2 {
    runtime: tokio::runtime::Runtime,
    asks: h2::client::SendRequest<bytes::Bytes>,
}

impl Http2 {
    fn connect(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let asks = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let (asks, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            asks
        });
        Self { runtime, asks }
    }
}

impl Proxy for Http2 {
    fn ask(&mut self) -> (String, String) {
        self.runtime.block_on(async {
            let request = http::Request::get("http://x/headers").header("x-forwarded-for", CLIENT);
            let request = request.body(()).unwrap();
            let mut asks = self.asks.clone().ready().await.expect("the connection");
            let (answer, _) = asks.send_request(request, true).unwrap();
            let answer = answer.await.unwrap();
            let server = answer.headers()["server"].to_str().unwrap().to_owned();
            let mut stream = answer.into_body();
            let mut body = Vec::new();
            while let Some(data) = stream.data().await {
                body.extend(data.unwrap());
            }
            (String::from_utf8(body).unwrap(), server)
        })
    }
}

/// nginx writes one of them, and lets the other one through as the client made it up.
#[test]
fn of_two_fields_that_differ_neither_reaches_the_application() {
    let http = "[http]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let scene = Scene::begin("proxied-differ", "{socket}", http);
    let head =
        "GET /headers HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-forwarded-proto: https\r\n";
    let asked = format!("{head}x-forwarded-for: {CLIENT}\r\nforwarded: for=192.0.2.8\r\n\r\n");
    let fields = scene.ask(&asked).1.to_lowercase();
    assert!(!fields.contains("192.0.2."), "{fields}");
    assert!(fields.contains("x-forwarded-for: 127.0.0.1\n"), "{fields}");
    assert!(fields.contains("x-forwarded-proto: https\n"), "{fields}");
    assert!(!fields.contains("proto=http"), "{fields}");
}

#[test]
fn a_connection_that_moved_comes_from_who_it_came_from() {
    for (proxies, trusted) in [("127.0.0.1", true), ("192.0.2.1", false)] {
        let test = format!("proxied-{trusted}");
        let http = format!("[http]\ntrusted_proxies = [{proxies:?}]\n");
        let scene = Scene::begin(&test, "{socket}", &http);
        scene.release("2", "");
        let Target::Tcp(address) = scene.service.target("http") else {
            panic!("not a TCP listener");
        };
        let mut proxies: [Box<dyn Proxy>; 2] = [
            Box::new(Http1::connect(address)),
            Box::new(Http2::connect(address)),
        ];
        let mut is_told = |release: &str| {
            for proxy in &mut proxies {
                let (fields, server) = proxy.ask();
                assert_eq!(server, format!("app/{release}"));
                let fields = fields.to_lowercase();
                let told = fields
                    .lines()
                    .any(|field| field.starts_with("x-forwarded-for:") && field.contains(CLIENT));
                assert_eq!(told, trusted, "{fields}");
            }
        };
        is_told("1");
        scene.deploy("2").assert_code(0);
        let service = &scene.service;
        service.wait_processes("no worker of g1", |_| service.workers(1).is_empty());
        is_told("2");
    }
}
