//! One request: its bytes, what must come back, and whether it did.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;

use super::body::BodyCheck;
use super::failure::{Fault, Kind};
use super::spec::{Expect, Spec};
use super::wire::Answer;
use crate::kit::app;

/// A request and its expectations.
#[derive(Debug)]
pub struct Request {
    /// Method and path, for the story.
    pub asked: String,
    /// The head's bytes.
    pub head: Vec<u8>,
    /// The body's bytes as they go over the wire.
    pub body: Body,
    /// What must come back.
    pub check: BodyCheck,
    /// A HEAD: the answer announces a body and sends none.
    pub bodyless: bool,
    status: u16,
    /// Must be echoed.
    id: Option<String>,
}

/// A request's body.
#[derive(Debug, Clone)]
pub enum Body {
    /// There is none.
    None,
    /// With `Content-Length`.
    Plain(Bytes),
    /// In chunks of at most so many bytes.
    Chunked(Bytes, usize),
}

impl Body {
    fn content(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Plain(bytes) | Self::Chunked(bytes, _) => bytes,
        }
    }

    /// In pieces, as they go over the wire.
    pub fn pieces(&self, count: usize) -> Vec<Bytes> {
        match self {
            Self::None => Vec::new(),
            Self::Plain(bytes) => split(bytes, bytes.len().div_ceil(count.max(1))),
            Self::Chunked(bytes, size) => split(bytes, *size)
                .iter()
                .map(|piece| {
                    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"]
                        .concat()
                        .into()
                })
                .chain([Bytes::from_static(b"0\r\n\r\n")])
                .collect(),
        }
    }
}

fn split(bytes: &Bytes, size: usize) -> Vec<Bytes> {
    let size = size.max(1);
    (0..bytes.len())
        .step_by(size)
        .map(|start| bytes.slice(start..bytes.len().min(start + size)))
        .collect()
}

impl Request {
    /// A request for `path`, as the spec wants it checked.
    pub fn new(spec: &Spec, path: &str, body: Body, number: &str, status: u16) -> Self {
        let method = if matches!(body, Body::None) {
            "GET"
        } else {
            "POST"
        };
        let mut head = String::with_capacity(160);
        let _ = write!(
            head,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nx-kit-id: {number}\r\n",
            spec.host
        );
        match &body {
            Body::None => {}
            Body::Plain(bytes) => {
                let _ = write!(head, "Content-Length: {}\r\n", bytes.len());
            }
            Body::Chunked(..) => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        let (check, id) = match &spec.expect {
            Expect::Complete => (BodyCheck::any(), None),
            Expect::Body(bytes) => (BodyCheck::exactly(bytes.clone()), None),
            Expect::App => (
                app::expected(path, body.content()).map_or_else(BodyCheck::any, BodyCheck::content),
                Some(number.to_owned()),
            ),
        };
        Self {
            asked: format!("{method} {path}"),
            head: head.into_bytes(),
            body,
            check,
            bodyless: false,
            status,
            id,
        }
    }

    /// Offers to speak HTTP/2 from here on (RFC 7540, 3.2), as curl's `--http2` and Java's client do; an
    /// answer without 101 declines.
    pub fn offer_http2(&mut self) {
        self.head.truncate(self.head.len() - "\r\n".len());
        self.head.extend_from_slice(
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        );
    }

    /// A HEAD request for `path`.
    pub fn head(spec: &Spec, path: &str, number: &str) -> Self {
        let mut request = Self::new(spec, path, Body::None, number, 200);
        request.head.splice(..3, *b"HEAD");
        request.asked = format!("HEAD {path}");
        request.check = BodyCheck::exactly(Bytes::new());
        request.bodyless = true;
        request
    }

    /// Whether the complete answer is the right one. Identity comes first: the answer to another
    /// request explains a wrong body, not the other way round.
    pub fn judge(&self, answer: &Answer, check: BodyCheck) -> Result<(), Fault> {
        if let Some(id) = &self.id {
            if answer.id != *id && !(answer.id.is_empty() && answer.status != self.status) {
                return Err(Fault::new(
                    Kind::WrongIdentity,
                    format!("asked as {id}, answered to {:?}", answer.id),
                ));
            }
        }
        if answer.status != self.status {
            return Err(Fault::new(
                Kind::BadStatus,
                format!("{} instead of {}", answer.status, self.status),
            ));
        }
        check
            .finish()
            .map_err(|wrong| Fault::new(Kind::BadBody, wrong))
    }
}

/// Requests that go out together, their bytes in the pieces in which they are written.
#[derive(Debug)]
pub struct Batch {
    pub requests: Vec<Request>,
    pub pieces: Vec<Piece>,
    /// How long to keep the connection idle afterwards.
    pub idle: Duration,
    /// Where each request begins.
    offsets: Vec<u64>,
}

/// Bytes that are written at once.
#[derive(Debug)]
pub struct Piece {
    /// The pause before.
    pub after: Duration,
    pub bytes: Bytes,
}

impl Batch {
    /// All of it in one write.
    pub fn at_once(requests: Vec<Request>, idle: Duration) -> Self {
        let mut bytes = Vec::new();
        let mut offsets = Vec::with_capacity(requests.len());
        for request in &requests {
            offsets.push(bytes.len() as u64);
            bytes.extend_from_slice(&request.head);
            for piece in request.body.pieces(1) {
                bytes.extend_from_slice(&piece);
            }
        }
        let piece = Piece {
            after: Duration::ZERO,
            bytes: bytes.into(),
        };
        Self {
            requests,
            pieces: vec![piece],
            idle,
            offsets,
        }
    }

    /// The head, then the body in pieces.
    pub fn trickled(request: Request, pieces: usize, gap: Duration, idle: Duration) -> Self {
        let head = Piece {
            after: Duration::ZERO,
            bytes: request.head.clone().into(),
        };
        let body = request.body.pieces(pieces);
        let pieces = body.into_iter().map(|bytes| Piece { after: gap, bytes });
        Self {
            pieces: [head].into_iter().chain(pieces).collect(),
            requests: vec![request],
            idle,
            offsets: vec![0],
        }
    }

    /// How many requests the server has heard of when so many bytes were sent.
    pub fn begun(&self, sent: u64) -> usize {
        self.offsets.iter().take_while(|at| **at < sent).count()
    }

    /// How many of the sent bytes belong to a request.
    pub fn sent_of(&self, request: usize, sent: u64) -> u64 {
        let end = self.offsets.get(request + 1).copied().unwrap_or(u64::MAX);
        sent.min(end).saturating_sub(self.offsets[request])
    }
}
