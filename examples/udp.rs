//! Datagrams come back, through upgrades and rollbacks: all generations share one socket, and who
//! leaves reads no more of it.

use std::process::ExitCode;

use handover::{Context, Service, Socket};
use tokio::net::UdpSocket;

fn main() -> ExitCode {
    Service::new("udp")
        .version(env!("CARGO_PKG_VERSION"))
        .listener("echo", "udp:127.0.0.1:7007", echo)
        .run()
}

async fn echo(socket: Socket, cx: Context) {
    let Socket::Udp(socket) = socket else {
        return;
    };
    let Ok(socket) = UdpSocket::from_std(socket) else {
        return;
    };
    let mut bytes = vec![0; 65536];
    loop {
        tokio::select! {
            _ = cx.draining() => return,
            received = socket.recv_from(&mut bytes) => {
                if let Ok((length, client)) = received {
                    // One that is not taken is lost, as datagrams may be.
                    let _ = socket.send_to(&bytes[..length], client).await;
                }
            }
        }
    }
}
