//! What a load shall do.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;

use super::wire::Target;

/// How the clients of a load behave.
#[derive(Debug, Clone)]
pub enum Traffic {
    /// A connection per request, closed by the client.
    Fresh,
    /// One request after the other on one connection.
    KeepAlive,
    /// Keep-alive, with a random pause between requests.
    Think(RangeInclusive<Duration>),
    /// So many requests are sent before the first answer is read.
    Pipelined(usize),
    /// A request body that trickles.
    Upload(Upload),
    /// Reads a piece of the answer, waits, reads on.
    SlowReader {
        /// Bytes a read.
        piece: usize,
        /// Between two reads.
        gap: Duration,
    },
    /// Everything at random (against the kit's application): pipelining 1 to 8 deep, bytes split anywhere, bodies of all
    /// kinds, pauses.
    Torture,
    /// HTTP/2 with prior knowledge (against the kit's application): the same requests, on so many streams
    /// of one connection, each with a random pause between two.
    Http2 {
        /// At a time.
        streams: usize,
        /// Between two requests of a stream.
        think: RangeInclusive<Duration>,
    },
}

/// A request body that takes its time.
#[derive(Debug, Clone)]
pub struct Upload {
    /// Its length.
    pub bytes: usize,
    /// Sent in so many pieces.
    pub pieces: usize,
    /// Between two pieces.
    pub gap: Duration,
    /// `Transfer-Encoding: chunked` instead of `Content-Length`.
    pub chunked: bool,
}

/// What an answer must be, besides complete.
#[derive(Debug, Clone)]
pub enum Expect {
    /// Complete, with the right status; any body.
    Complete,
    /// Exactly this body.
    Body(Bytes),
    /// What the kit's application (`kit::app`) says: the right body, and our id echoed.
    App,
}

/// A load: so many clients, all of one behaviour.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Whom to ask.
    pub target: Target,
    /// How.
    pub traffic: Traffic,
    /// How many clients, each with one connection at a time.
    pub connections: usize,
    /// The path and query.
    pub path: String,
    /// What must come back.
    pub expect: Expect,
    /// The expected status.
    pub status: u16,
    /// For one request, from its first byte to the answer's last.
    pub timeout: Duration,
    /// Between two requests of a client, so that a load does not eat the machine.
    pub pause: Duration,
    /// The `Host` header.
    pub host: String,
    /// For everything random; printed with every report.
    pub seed: u64,
    /// For stories about several loads.
    pub label: String,
}

impl Spec {
    /// One keep-alive client that asks for `/`, back to back.
    pub fn new(target: impl Into<Target>) -> Self {
        Self {
            target: target.into(),
            traffic: Traffic::KeepAlive,
            connections: 1,
            path: "/".into(),
            expect: Expect::Complete,
            status: 200,
            timeout: Duration::from_secs(10),
            pause: Duration::ZERO,
            host: "kit.test".into(),
            seed: fastrand::u64(..),
            label: "keep-alive".into(),
        }
    }

    /// A connection per request.
    pub fn fresh(self) -> Self {
        self.traffic(Traffic::Fresh).label("fresh")
    }

    /// Back-to-back on one connection.
    pub fn keep_alive(self) -> Self {
        self.traffic(Traffic::KeepAlive).label("keep-alive")
    }

    /// Keep-alive with pauses.
    pub fn think(self, pauses: RangeInclusive<Duration>) -> Self {
        self.traffic(Traffic::Think(pauses)).label("think")
    }

    /// Several requests under way on one connection.
    pub fn pipelined(self, depth: usize) -> Self {
        self.traffic(Traffic::Pipelined(depth)).label("pipelined")
    }

    /// A body with `Content-Length` that takes `pieces` times `gap`.
    pub fn slow_upload(self, bytes: usize, pieces: usize, gap: Duration) -> Self {
        let upload = Upload {
            bytes,
            pieces,
            gap,
            chunked: false,
        };
        self.traffic(Traffic::Upload(upload)).label("upload")
    }

    /// The same, chunked.
    pub fn chunked_upload(self, bytes: usize, pieces: usize, gap: Duration) -> Self {
        let upload = Upload {
            bytes,
            pieces,
            gap,
            chunked: true,
        };
        self.traffic(Traffic::Upload(upload))
            .label("chunked upload")
    }

    /// Reads slowly.
    pub fn slow_reader(self, piece: usize, gap: Duration) -> Self {
        self.traffic(Traffic::SlowReader { piece, gap })
            .label("slow reader")
    }

    /// Everything at random, against the kit's application.
    pub fn torture(self) -> Self {
        let mut spec = self.traffic(Traffic::Torture).label("torture");
        spec.expect = Expect::App;
        spec
    }

    /// HTTP/2, everything at random, against the kit's application.
    pub fn http2(self, streams: usize, think: RangeInclusive<Duration>) -> Self {
        let spec = self.traffic(Traffic::Http2 { streams, think });
        spec.app().label("http2")
    }

    /// Any behaviour.
    pub fn traffic(mut self, traffic: Traffic) -> Self {
        self.traffic = traffic;
        self
    }

    /// How many clients.
    pub fn connections(mut self, n: usize) -> Self {
        self.connections = n;
        self
    }

    /// What is asked for.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// What must come back.
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    /// The target is the kit's application: bodies and identities are checked.
    pub fn app(self) -> Self {
        self.expect(Expect::App)
    }

    /// Exactly this body must come back.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        self.expect(Expect::Body(body.into()))
    }

    /// The expected status.
    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// For one request.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Between two requests.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Repeats what a report's seed did.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// For the story.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }
}
