//! A relay that adds a round-trip time, in user space: between machines a close is on its way for
//! a while, and what was sent in that time is lost. Loopback hides this.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::client::Target;

/// How much may be on its way in one direction.
const IN_FLIGHT: usize = 256;

/// Relays until it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    refused: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What travels.
enum Parcel {
    Bytes(Bytes),
    End,
    Reset,
}

impl Relay {
    /// Listens on a free port; bytes and closes take half of `rtt` each way.
    pub fn start(target: impl Into<Target>, rtt: Duration) -> Self {
        let target = target.into();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        listener.set_nonblocking(true).expect("not blocking");
        let (stop, stopped) = oneshot::channel::<()>();
        let refused = Arc::new(AtomicU64::new(0));
        let counter = refused.clone();
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime for the relay");
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener).expect("a listener");
                    tokio::select! {
                        _ = stopped => {}
                        () = accept(listener, target, rtt / 2, counter) => {}
                    }
                });
            })
            .expect("a thread for the relay");
        Self {
            address,
            refused,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// What the client is to ask.
    pub fn target(&self) -> Target {
        self.address.into()
    }

    /// How often the target refused; the client saw a reset.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, target: Target, delay: Duration, refused: Arc<AtomicU64>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        let target = target.clone();
        let refused = refused.clone();
        tokio::spawn(async move {
            // The handshake takes a whole round trip; its first half is here.
            tokio::time::sleep(delay).await;
            let _ = client.set_nodelay(true);
            let served = match &target {
                Target::Tcp(address) => match TcpStream::connect(address).await {
                    Ok(server) => {
                        let _ = server.set_nodelay(true);
                        let resets = (linger(&client), linger(&server));
                        relay(split(client), split(server), delay, resets).await;
                        Ok(())
                    }
                    Err(e) => Err((e, client)),
                },
                Target::Unix(path) => match UnixStream::connect(path).await {
                    Ok(server) => {
                        let resets = (linger(&client), None);
                        relay(split(client), split(server), delay, resets).await;
                        Ok(())
                    }
                    Err(e) => Err((e, client)),
                },
            };
            if let Err((_, client)) = served {
                refused.fetch_add(1, Ordering::Relaxed);
                let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            }
        });
    }
}

/// A second handle, to turn a close into a reset.
fn linger(stream: &TcpStream) -> Option<socket2::Socket> {
    SockRef::from(stream).try_clone().ok()
}

type Resets = (Option<socket2::Socket>, Option<socket2::Socket>);

async fn relay<C, D, S, T>(client: (C, D), server: (S, T), delay: Duration, resets: Resets)
where
    C: AsyncRead + Unpin,
    D: AsyncWrite + Unpin,
    S: AsyncRead + Unpin,
    T: AsyncWrite + Unpin,
{
    let (to_client, to_server) = resets;
    // A reset ends both directions at once.
    let _ = tokio::try_join!(
        one_way(client.0, server.1, delay, to_server),
        one_way(server.0, client.1, delay, to_client),
    );
}

async fn one_way<R, W>(
    mut from: R,
    mut to: W,
    delay: Duration,
    reset: Option<socket2::Socket>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (sender, mut parcels) = mpsc::channel(IN_FLIGHT);
    let read = async move {
        loop {
            let mut buffer = BytesMut::with_capacity(16 * 1024);
            let parcel = match from.read_buf(&mut buffer).await {
                Ok(0) => Parcel::End,
                Ok(_) => Parcel::Bytes(buffer.freeze()),
                Err(_) => Parcel::Reset,
            };
            let last = !matches!(parcel, Parcel::Bytes(_));
            let due = Instant::now() + delay;
            if sender.send((due, parcel)).await.is_err() || last {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, parcel)) = parcels.recv().await {
            sleep_until(due).await;
            match parcel {
                Parcel::Bytes(bytes) => to.write_all(&bytes).await?,
                Parcel::End => to.shutdown().await?,
                Parcel::Reset => {
                    if let Some(socket) = &reset {
                        socket.set_linger(Some(Duration::ZERO))?;
                    }
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}
