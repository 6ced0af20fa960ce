//! The beginning of a `WebSocket`: the handshake of RFC 6455, 4.2.

use std::sync::{Arc, Weak};

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::socket::WebSocket;
use crate::context::Context;
use crate::sys::runtime;
use crate::worker::Worker;
use crate::worker::applications::Applications;
use crate::worker::connection::Connection;
use crate::worker::gated::Gated;

/// A message may be so long unless the application says another thing.
pub(super) const MESSAGE_MAX: usize = 1024 * 1024;

/// A request for a `WebSocket`, as an extractor.
#[derive(Debug)]
pub struct Upgrade {
    context: Context,
    socket: OnUpgrade,
    accept: HeaderValue,
    offered: Vec<String>,
    protocol: Option<HeaderValue>,
}

/// Why a request is none for a `WebSocket`.
type Refused = (StatusCode, &'static str);

impl Upgrade {
    /// Chooses one of the subprotocols that the client offers: the first of these that it does.
    #[must_use]
    pub fn protocols(mut self, ours: &[&str]) -> Self {
        let common = ours
            .iter()
            .find(|ours| self.offered.iter().any(|o| o == *ours));
        self.protocol = common.and_then(|name| HeaderValue::from_str(name).ok());
        self
    }

    /// The answer that makes the `WebSocket`, which then goes to `session`. Messages may have 1 MiB.
    pub fn accept<F, S>(self, session: S) -> Response
    where
        S: FnOnce(WebSocket) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (context, upgrade) = (self.context, self.socket);
        runtime::spawn(async move {
            match socket(&context, upgrade).await {
                Ok(socket) => session(socket).await,
                Err(why) => tracing::debug!("no WebSocket came of a request for one: {why}"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(protocol) = self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// Takes the connection from hyper.
async fn socket(context: &Context, upgrade: OnUpgrade) -> Result<WebSocket, String> {
    let upgraded = upgrade.await.map_err(|e| e.to_string())?;
    let parts = upgraded
        .downcast::<TokioIo<Gated>>()
        .map_err(|_| "it is not served by handover")?;
    let worker = context.kept::<Weak<Worker>>().and_then(|w| w.upgrade());
    let worker: Arc<Worker> = worker.ok_or("its worker has gone")?;
    let gated = parts.io.into_inner();
    let served = context
        .kept::<Arc<Applications>>()
        .zip(context.listener())
        .and_then(|(all, listener)| all.of_connection(listener, &gated.stream));
    let mut leftover = parts.read_buf.to_vec();
    leftover.extend_from_slice(&gated.before);
    let connection = Connection {
        stream: gated.stream,
        leftover: Bytes::from(leftover),
        gate: gated.gate,
        live: gated.live,
        served: served.ok_or("its listener has gone")?,
        peer: context.peer().ok_or("it has no client")?,
        requests: 0,
        idle_since: Instant::now(),
        head_since: None,
        handshake_due: false,
        proxy_header_due: false,
        http2: None,
    };
    Ok(WebSocket::new(connection, &worker, MESSAGE_MAX).await)
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let context = Context::from_request_parts(parts, state).await?;
        let says = |name: HeaderName, token: &str| {
            let values = parts.headers.get_all(name).into_iter();
            values
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .any(|said| said.trim().eq_ignore_ascii_case(token))
        };
        if parts.method != Method::GET
            || !says(CONNECTION, "upgrade")
            || !says(UPGRADE, "websocket")
        {
            return Err((StatusCode::UPGRADE_REQUIRED, "a WebSocket is expected"));
        }
        if !says(SEC_WEBSOCKET_VERSION, "13") {
            return Err((StatusCode::BAD_REQUEST, "WebSockets are of version 13"));
        }
        let key = parts.headers.get(SEC_WEBSOCKET_KEY);
        let key = key.ok_or((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing"))?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
            .map_err(|_| (StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is wrong"))?;
        let offered = parts.headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
        let offered = offered
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|name| name.trim().to_owned())
            .collect();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let upgrade = upgrade.ok_or((StatusCode::BAD_REQUEST, "WebSockets need HTTP/1.1"))?;
        Ok(Self {
            context,
            socket: upgrade,
            accept,
            offered,
            protocol: None,
        })
    }
}
