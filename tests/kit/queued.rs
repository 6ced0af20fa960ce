//! Clients that wait in a listener's queue.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::service::SOON;

/// Clients that have connected and asked; nobody has answered yet, perhaps.
pub struct Queued(Vec<TcpStream>);

impl Queued {
    pub fn ask(address: SocketAddr, number: usize) -> Self {
        let ask = |_| {
            let mut stream = TcpStream::connect(address).expect("nobody is refused");
            stream.set_read_timeout(Some(SOON)).expect("a timeout");
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: kit.test\r\nConnection: close\r\n\r\n")
                .expect("a request");
            stream
        };
        Self((0..number).map(ask).collect())
    }

    /// Everybody is served in full.
    #[track_caller]
    pub fn assert_served(self) {
        for mut stream in self.0 {
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer);
            assert!(read.is_ok(), "{read:?} after {answer:?}");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        }
    }
}
