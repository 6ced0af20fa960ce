//! The strict client's HTTP/2, with prior knowledge: streams of one connection that ask at random, each
//! request like one of the torture of HTTP/1.1. The client is `h2`, which repeats nothing. That a connection
//! ends before the load does is a failure, however politely it ends.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::exchange::{Body, Request};
use super::failure::{Failure, Fault, Kind};
use super::load::{AFTER_FAILURE, lock};
use super::spec::{Spec, Traffic};
use super::tally::Tally;
use super::torture;
use super::wire::{Answer, Wire};

/// What all streams of a client share.
pub(super) struct Client {
    pub spec: Arc<Spec>,
    pub tally: Arc<Mutex<Tally>>,
    pub stop: watch::Receiver<bool>,
    pub connecting: Arc<Semaphore>,
    pub index: usize,
}

/// Many smaller pieces are an attack to `h2` (`too_many_data_frames`).
const PIECE_MIN: usize = 512;

/// So many requests of a connection follow each other at once. Each puts its name, 60 bytes, into the header
/// table at the server, which is full then (4,096 bytes; RFC 7541) and takes no more memory.
pub const FILLING: u64 = 80;

/// Whose failure it is.
struct Place {
    connection: u64,
    local: String,
}

/// One in so many requests is given up when its answer begins.
const ABANDONED: u64 = 16;

impl Client {
    /// Until the load ends; a new connection only when the one before has ended.
    pub async fn run(self) {
        let client = Arc::new(self);
        let mut opened = 0;
        while !*client.stop.borrow() {
            let tried = client.connect().await;
            opened += u64::from(tried.is_ok());
            let mut place = Place {
                connection: opened,
                local: String::new(),
            };
            let ended = match tried {
                Ok((wire, local)) => {
                    place.local = local;
                    client.converse(wire, Arc::new(place)).await;
                    continue;
                }
                Err(fault) => fault,
            };
            client.fail(ended, &place, "", 0);
            sleep(AFTER_FAILURE).await;
        }
    }

    async fn connect(&self) -> Result<(tokio::net::TcpStream, String), Fault> {
        let _permit = self.connecting.acquire().await.expect("never closed");
        let tried = timeout(self.spec.timeout, Wire::connect(&self.spec.target, false)).await;
        let wire = match tried {
            Ok(Ok(wire)) => wire,
            Ok(Err(e)) => {
                let fault = Fault::io(&e);
                return Err(Fault::new(fault.kind, format!("connect: {}", fault.detail)));
            }
            Err(_) => return Err(Fault::new(Kind::Timeout, "connect")),
        };
        lock(&self.tally).now().opened += 1;
        let local = wire.local.clone();
        Ok((wire.into_tcp(), local))
    }

    /// All that is asked on one connection.
    async fn converse(self: &Arc<Self>, socket: tokio::net::TcpStream, place: Arc<Place>) {
        let Traffic::Http2 { streams, .. } = self.spec.traffic else {
            unreachable!("the load starts no other client here");
        };
        let (asks, connection) = match h2::client::handshake(socket).await {
            Ok(both) => both,
            Err(e) => return self.fail(fault(&e), &place, "the preface", 0),
        };
        let driver = tokio::task::spawn_local(connection);
        let mut all = JoinSet::new();
        for stream in 0..streams {
            let (client, asks, place) = (Arc::clone(self), asks.clone(), Arc::clone(&place));
            all.spawn_local(async move { client.ask_on(stream, streams, asks, &place).await });
        }
        while let Some(stream) = all.join_next().await {
            stream.expect("a stream did not panic");
        }
        // It has ended, or the streams had no other reason to return. Without a handle it may end.
        let early = driver.is_finished() || !*self.stop.borrow();
        drop(asks);
        let ended = driver.await.expect("the connection did not panic");
        if early {
            let fault = Fault::new(Kind::DroppedIdle, format!("it ended: {ended:?}"));
            self.fail(fault, &place, "", 0);
            sleep(AFTER_FAILURE).await;
        }
    }

    /// One request after the other, until the connection takes no more.
    async fn ask_on(&self, stream: usize, of: usize, asks: SendRequest<Bytes>, place: &Place) {
        let Traffic::Http2 { think, .. } = &self.spec.traffic else {
            unreachable!("the load starts no other client here");
        };
        let name = self.index * of + stream;
        let mut rng = fastrand::Rng::with_seed(self.spec.seed.wrapping_add(name as u64));
        let mut stop = self.stop.clone();
        // Connections that come one after the other must not give a name twice.
        let first = place.connection << 32;
        for asked in first.. {
            let Ok(ready) = asks.clone().ready().await else {
                return;
            };
            if *stop.borrow() {
                return;
            }
            let filling = asked - first < FILLING / of as u64;
            let id = torture::identity(&self.spec, name, asked);
            let request = torture::request(&mut rng, &self.spec, &id);
            let abandons = rng.u64(..ABANDONED) == 0;
            let asking = self.ask(ready, &request, &id, abandons);
            let asked = timeout(self.spec.timeout, asking).await;
            let (seen, result) = asked.unwrap_or((0, Err(Fault::new(Kind::Timeout, ""))));
            if let Err(fault) = result {
                self.fail(fault, place, &request.asked, seen);
            }
            let (low, high) = (think.start().as_micros(), think.end().as_micros());
            let pause = Duration::from_micros(rng.u64(low as u64..=high as u64));
            if !filling && !pause.is_zero() {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }

    /// One request: how many bytes of its answer were seen, and what was wrong.
    async fn ask(
        &self,
        mut ready: SendRequest<Bytes>,
        request: &Request,
        id: &str,
        abandons: bool,
    ) -> (u64, Result<(), Fault>) {
        let (method, path) = request.asked.split_once(' ').expect("a method and a path");
        let head = http::Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.spec.host))
            .header("x-kit-id", id)
            .body(())
            .expect("a request");
        let bodyless = matches!(request.body, Body::None);
        let began = Instant::now();
        let Ok((answer, body)) = ready.send_request(head, bodyless) else {
            // Nothing was sent: the connection takes no more.
            return (0, Ok(()));
        };
        lock(&self.tally).now().requests += 1;
        let mut answer = std::pin::pin!(self.answer(answer, request, abandons));
        let sent = async {
            if !bodyless {
                send(body, &request.body).await;
            }
            std::future::pending::<()>().await;
        };
        // An answer may come before the request was sent: the server may say that it wants no more.
        let (seen, result) = tokio::select! {
            biased;
            answered = &mut answer => answered,
            () = sent => unreachable!("it is pending for ever"),
        };
        let judged = match result {
            Ok(Some(answer)) => {
                lock(&self.tally).answered(&answer, began, Instant::now());
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(fault) => Err(fault),
        };
        (seen, judged)
    }

    /// Reads one answer, and looks at it; `None`: it was abandoned half-way, on purpose.
    async fn answer(
        &self,
        answer: ResponseFuture,
        request: &Request,
        abandons: bool,
    ) -> (u64, Result<Option<Answer>, Fault>) {
        let mut seen = 0;
        let head = match answer.await {
            Ok(head) => head,
            Err(e) => return (seen, Err(fault(&e))),
        };
        let text = |name: &str| {
            let value = head.headers().get(name);
            value.map_or_else(String::new, |v| {
                String::from_utf8_lossy(v.as_bytes()).into()
            })
        };
        let mut answer = Answer {
            status: head.status().as_u16(),
            server: text("server"),
            generation: text("x-generation"),
            id: text("x-kit-id"),
            ..Answer::default()
        };
        let mut check = request.check.clone();
        let mut body = head.into_body();
        if abandons {
            return (seen, Ok(None));
        }
        while let Some(data) = body.data().await {
            let data = match data {
                Ok(data) => data,
                Err(e) => return (seen, Err(fault(&e))),
            };
            check.feed(&data);
            seen += data.len() as u64;
            if let Err(e) = body.flow_control().release_capacity(data.len()) {
                return (seen, Err(fault(&e)));
            }
        }
        if let Err(fault) = ended(&mut body).await {
            return (seen, Err(fault));
        }
        answer.body = seen;
        let judged = request.judge(&answer, check);
        (seen, judged.map(|()| Some(answer)))
    }

    fn fail(&self, fault: Fault, place: &Place, asked: &str, seen: u64) {
        let mut tally = lock(&self.tally);
        let failure = Failure {
            kind: fault.kind,
            detail: fault.detail,
            at: tally.start.elapsed(),
            phase: tally.phase_name().to_owned(),
            label: self.spec.label.clone(),
            client: self.index,
            connection: place.connection,
            local: place.local.clone(),
            request: 0,
            asked: asked.to_owned(),
            sent: 0,
            seen,
            last_server: String::new(),
        };
        tally.failed(failure);
    }
}

/// Whether the stream ended in order, behind its last data.
async fn ended(body: &mut RecvStream) -> Result<(), Fault> {
    match body.trailers().await {
        Ok(None) => Ok(()),
        Ok(Some(trailers)) => Err(Fault::new(Kind::BadFraming, format!("{trailers:?}"))),
        Err(e) => Err(fault(&e)),
    }
}

/// Sends a body in its pieces, as far as the server wants it: a chunked one as slowly as it goes.
async fn send(mut stream: SendStream<Bytes>, body: &Body) {
    let (Body::Plain(bytes) | Body::Chunked(bytes, _)) = body else {
        return;
    };
    let size = match body {
        Body::Chunked(_, size) => (*size).max(PIECE_MIN),
        _ => bytes.len(),
    };
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len().min(size));
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let piece = rest.split_to(room.min(rest.len()));
        if stream.send_data(piece, false).is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    let _ = stream.send_data(Bytes::new(), true);
    // Dropped before its end had left, the stream would be reset.
    let _: Result<Reason, _> = poll_fn(|cx| stream.poll_reset(cx)).await;
}

fn fault(error: &h2::Error) -> Fault {
    let kind = if error.is_io() {
        Kind::Eof
    } else if error.is_go_away() || error.is_reset() {
        Kind::Reset
    } else {
        Kind::BadFraming
    };
    Fault::new(kind, error.to_string())
}
