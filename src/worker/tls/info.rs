//! What an application may know of its client's TLS connection.

/// The TLS connection that a request came through, as an extension of the request (behind an
/// [`Arc`](std::sync::Arc)): `Extension<Arc<TlsInfo>>`. A request that came unencrypted has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The name that the client asked for (SNI).
    pub server_name: Option<String>,
    /// The protocol that was agreed on (ALPN): `h2` or `http/1.1`.
    pub alpn: Option<String>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, as the RFCs name it.
    pub cipher_suite: String,
    /// The client's certificate and those that it sent with it, in DER; the first is the client's
    /// own. They were checked against `[tls] client_ca`. Empty when none was asked for.
    pub client_certificates: Vec<Vec<u8>>,
}
