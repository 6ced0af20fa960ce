//! TLS (RFC 8446, RFC 5246). rustls shakes hands; from then on the records are ours, because an
//! established connection must be able to go on in another process, and rustls' own cannot.
//!
//! ```text
//! socket ─▶ handshake (rustls) ─▶ sealed (records, keys) ─▶ stream ─▶ hyper
//!                                   │        ▲
//!                                   ▼        │
//!                                  blob: to and from another worker
//! ```
//!
//! What touches rustls' own types beyond plain configuration is in `keys` and `handshake`.
//!
//! # For a reviewer
//!
//! Everything that could use a nonce twice, believe a forged record or show a key is in five files.
//! Read them in this order, with RFC 8446 sections 4.6.3, 5 and 6 beside them (RFC 5246 sections 6
//! and 7.2 for TLS 1.2); none has `unsafe`, a socket or a clock. What each must keep:
//!
//! | file | to check |
//! |---|---|
//! | `keys` | no cryptography of ours: key, IV and next secret come from rustls' provider by HKDF-Expand-Label; a [`keys::Secret`] is wiped when it is dropped and has no `Clone` and no `Debug` that shows it; `aead_key` gives back what it was given or nothing |
//! | `records` | `seal_one` is the only place that seals, and spends the number before it uses it; `update_keys` is the only one that sets a sending number back, and only together with the next secret; nothing is sealed after `failed` or (but for an alert) after `close_sent`; one record that cannot be opened ends the connection; every limit (length, empty records, updates, warnings, the key's own) is checked before its cost |
//! | `sealed` | bytes keep their order: socket, `input`, `opened`, application, and back through `output`; nothing is lost between two records |
//! | `blob` | [`sealed::Sealed::into_blob`] consumes the ciphers, `from_blob` consumes the blob; a blob has no `Clone`; every field that decides what is sealed next is in it; what cannot be right is refused |
//! | `worker/handoff/mod.rs` | `pack` comes before `send`, and after a `send` that succeeded the blob is dropped and nothing of it is used; after one that failed nobody else has it |
//!
//! `tests` compares every byte with rustls (all suites, both directions, key updates, alerts, ends)
//! with moves in between, and a debug build panics when a number is used twice with one key.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

mod blob;
#[cfg(fuzzing)]
pub(super) mod fuzz;
mod handshake;
mod info;
mod keys;
mod records;
mod sealed;
mod setup;
#[cfg(fuzzing)]
pub(super) mod shim;
mod stream;
#[cfg(test)]
mod tests;
mod tickets;

use crate::machine::link::TLS_READS;

pub(super) use blob::Blob;
pub(super) use handshake::{HandshakeError, SPEAK_TLS, shake_hands};
pub use info::TlsInfo;
pub(super) use setup::{SetupError, TlsSetup};
pub(super) use stream::TlsStream;

/// The newest form of a connection that is gone on with.
pub(super) const READS: u32 = TLS_READS;

/// All cryptography is ring's: it builds with nothing but a C compiler, and its ciphers take any
/// record number. (aws-lc's count for themselves from the first one: they would need care in
/// `records`.)
fn provider() -> &'static Arc<CryptoProvider> {
    static RING: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &RING
}
