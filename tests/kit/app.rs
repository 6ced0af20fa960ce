//! An application to ask: every answer is known beforehand, and carries the request's `x-kit-id`.
//!
//! | path | answers |
//! |---|---|
//! | `/` | `hello` |
//! | `/slow?ms=` | `slow`, after so long |
//! | `/block?ms=` | `over`, after so long or never: meanwhile the thread that reads it does nothing else |
//! | `/big?bytes=` | so many bytes of a pattern, with `Content-Length` |
//! | `/stream?chunks=&size=&ms=` | the pattern in chunks, a pause before each |
//! | `/echo` | length and hash of the request's body |
//! | `/ignore` | `ignored`; the request's body is never read |
//! | `/who` | `<pid> <version> <generation>` |
//! | `/peer` | the client's address; on a Unix socket `uid <n>` |
//! | `/left` | the pid of a program that is left running, for a minute |
//! | `/started` | what a program started by the application has for an environment, and which signals blocked |
//! | `/shout` | 101; from then on everything comes back in capitals |
//! | anything else | 404; the request's body is never read |
//!
//! Stands alone, so that an example can include it:
//! `#[path = "../tests/kit/app.rs"] mod app;`.
#![allow(dead_code, reason = "an example needs only the router")]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Who answers; empty fields send no header.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The `Server` header, like `handover/1.2.3`.
    pub server: String,
    /// The `x-generation` header.
    pub generation: String,
}

/// The application.
pub fn router(identity: Identity) -> Router {
    let identity = Arc::new(identity);
    Router::new()
        .route("/", any(async || "hello\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/slow", any(slow))
        .route("/block", any(block))
        .route("/big", any(big))
        .route("/stream", any(streamed))
        .route("/echo", any(echo))
        .route("/ignore", any(async || "ignored\n"))
        .route("/who", get(who))
        .route("/peer", get(peer))
        .route("/left", get(left))
        .route("/started", get(started))
        .route("/shout", get(shout))
        .fallback(async || (StatusCode::NOT_FOUND, "no such page\n"))
        .layer(middleware::from_fn_with_state(identity.clone(), sign))
        .with_state(identity)
}

/// What an answer's body must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Text(Bytes),
    /// So many bytes of the pattern.
    Pattern(u64),
}

impl Content {
    /// In bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Pattern(n) => *n,
        }
    }
}

/// The body that answers a request for `path` with this `body`; `None`: not known beforehand.
pub fn expected(path: &str, body: &[u8]) -> Option<Content> {
    let uri: Uri = path.parse().ok()?;
    let text = |text: &'static str| Some(Content::Text(Bytes::from_static(text.as_bytes())));
    match uri.path() {
        "/" => text("hello\n"),
        "/healthz" => text("ok\n"),
        "/slow" => text("slow\n"),
        "/ignore" => text("ignored\n"),
        "/big" => Some(Content::Pattern(number(&uri, "bytes", 0))),
        "/stream" => {
            let (chunks, size) = shape(&uri);
            Some(Content::Pattern(chunks * size))
        }
        "/echo" => {
            let mut hash = Hash::default();
            hash.add(body);
            Some(Content::Text(hash.text().into()))
        }
        "/who" | "/peer" | "/shout" => None,
        _ => text("no such page\n"),
    }
}

/// `length` bytes of the pattern, as a request's body.
pub fn pattern(length: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let piece = pattern_from(bytes.len() as u64, length - bytes.len());
        bytes.extend_from_slice(&piece);
    }
    bytes.into()
}

/// Whether these are the pattern's bytes from `position` on.
pub fn is_pattern(mut position: u64, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let n = bytes.len().min(PIECE);
        if pattern_from(position, n) != bytes[..n] {
            return false;
        }
        position += n as u64;
        bytes = &bytes[n..];
    }
    true
}

/// FNV-1a, 64 bits, and the length.
struct Hash {
    length: u64,
    value: u64,
}

impl Default for Hash {
    fn default() -> Self {
        Self {
            length: 0,
            value: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        for byte in bytes {
            self.value = (self.value ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn text(&self) -> String {
        format!("{} {:016x}\n", self.length, self.value)
    }
}

async fn sign(State(identity): State<Arc<Identity>>, request: Request, next: Next) -> Response {
    let id = request.headers().get("x-kit-id").cloned();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Some(id) = id {
        headers.insert("x-kit-id", id);
    }
    for (name, value) in [
        (header::SERVER, &identity.server),
        (
            header::HeaderName::from_static("x-generation"),
            &identity.generation,
        ),
    ] {
        if !value.is_empty() {
            let value = HeaderValue::from_str(value).expect("a printable identity");
            headers.insert(name, value);
        }
    }
    response
}

#[allow(clippy::disallowed_methods, reason = "it is what a bad handler does")]
async fn block(uri: Uri) -> &'static str {
    eprintln!("this thread is blocked");
    std::thread::sleep(Duration::from_millis(number(&uri, "ms", u64::MAX)));
    "over\n"
}

async fn slow(uri: Uri) -> &'static str {
    tokio::time::sleep(Duration::from_millis(number(&uri, "ms", 100))).await;
    "slow\n"
}

async fn big(uri: Uri) -> Response {
    let length = number(&uri, "bytes", 1 << 20);
    let pieces = stream::unfold(0, move |position| async move {
        let n = (length - position).min(PIECE as u64);
        let piece = pattern_from(position, usize::try_from(n).expect("a piece"));
        (n > 0).then(|| (Ok::<_, std::io::Error>(piece), position + n))
    });
    (
        [(header::CONTENT_LENGTH, length)],
        Body::from_stream(pieces),
    )
        .into_response()
}

async fn streamed(uri: Uri) -> Body {
    let (chunks, size) = shape(&uri);
    let pause = Duration::from_millis(number(&uri, "ms", 0));
    Body::from_stream(stream::unfold(0, move |chunk| async move {
        if chunk == chunks {
            return None;
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let piece = pattern_from(chunk * size, usize::try_from(size).expect("a chunk"));
        Some((Ok::<_, std::io::Error>(piece), chunk + 1))
    }))
}

async fn echo(request: Request) -> Result<String, StatusCode> {
    let mut hash = Hash::default();
    let mut body = request.into_body().into_data_stream();
    while let Some(piece) = body.next().await {
        hash.add(&piece.map_err(|_| StatusCode::BAD_REQUEST)?);
    }
    Ok(hash.text())
}

async fn left() -> String {
    let mut command = std::process::Command::new("sleep");
    let [input, output, error] = std::array::from_fn(|_| std::process::Stdio::null());
    command.arg("60").stdin(input).stdout(output).stderr(error);
    command.spawn().expect("a program").id().to_string()
}

async fn started() -> String {
    let run = || {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "env; grep Sig /proc/self/status"]);
        command.output().expect("a shell").stdout
    };
    let said = tokio::task::spawn_blocking(run).await.expect("no panic");
    String::from_utf8_lossy(&said).into_owned()
}

async fn who(State(identity): State<Arc<Identity>>) -> String {
    format!(
        "{} {} {}\n",
        std::process::id(),
        identity.server,
        identity.generation
    )
}

async fn peer(request: Request) -> String {
    let extensions = request.extensions();
    if let Some(ConnectInfo(address)) = extensions.get::<ConnectInfo<SocketAddr>>() {
        return address.to_string();
    }
    let peer = extensions.get::<handover::UnixPeer>();
    peer.map_or_else(|| "nobody".into(), |peer| format!("uid {}", peer.uid))
}

async fn shout(mut request: Request) -> Response {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let mut io = hyper_util::rt::TokioIo::new(upgraded);
        let mut bytes = [0; 1024];
        while let Ok(n @ 1..) = io.read(&mut bytes).await {
            if io
                .write_all(&bytes[..n].to_ascii_uppercase())
                .await
                .is_err()
            {
                break;
            }
        }
    });
    let headers = [(header::UPGRADE, "shout"), (header::CONNECTION, "upgrade")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn shape(uri: &Uri) -> (u64, u64) {
    let size = number(uri, "size", 100);
    (number(uri, "chunks", 10), size.min(PIECE as u64))
}

fn number(uri: &Uri, key: &str, default: u64) -> u64 {
    uri.query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(default)
}

/// The longest piece that is made at once.
const PIECE: usize = 64 * 1024;

/// A prime, so that no power of two repeats it.
const PERIOD: usize = 23;

static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    (0..PIECE + PERIOD)
        .map(|i| b'a' + u8::try_from(i % PERIOD).expect("a letter"))
        .collect()
});

fn pattern_from(position: u64, length: usize) -> Bytes {
    let start = usize::try_from(position % PERIOD as u64).expect("less than the period");
    PATTERN.slice(start..start + length.min(PIECE))
}
