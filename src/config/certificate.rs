//! What is wrong with certificates and keys.

use std::path::PathBuf;

/// What is wrong with a certificate or a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The feature `tls` is not there.
    #[error("this program is built without TLS")]
    NotBuilt,
    /// A listener speaks TLS and there is no certificate.
    #[error(
        "a listener has `tls = true`, but there is no certificate: name a `directory` or a \
         `[[tls.certificate]]`; `cert NAME` makes one for a first try"
    )]
    NoCertificate,
    /// There is a directory for certificates, and nothing in it.
    #[error(
        "{} holds no certificate: put NAME.crt and NAME.key there; `cert NAME` makes them for a first try",
        .0.display()
    )]
    Empty(PathBuf),
    /// The file cannot be read.
    #[error("cannot read {}: {why}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// One half of a pair.
    #[error("{} has no {} beside it", .path.display(), .other.display())]
    NoPartner {
        /// What is there.
        path: PathBuf,
        /// What is not.
        other: PathBuf,
    },
    /// It holds something else.
    #[error("{} holds no {expected} in PEM: {why}", .path.display())]
    NotPem {
        /// Which.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate that cannot be understood.
    #[error("{} cannot be understood as a certificate: {why}", .path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key of a kind that is not supported.
    #[error("the key in {} cannot be used: {why}", .path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Somebody else's key.
    #[error("the key in {} is not the one of the certificate in {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
    },
    /// Clients could not follow it.
    #[error(
        "the certificates in {} are out of order: number {number} signed none of the others; the \
         server's own comes first, then those that signed it", .path.display()
    )]
    OutOfOrder {
        /// Which.
        path: PathBuf,
        /// From 1.
        number: usize,
    },
    /// No client believes it.
    #[error("the certificate in {} is too weak: {why}", .path.display())]
    Weak {
        /// Which.
        path: PathBuf,
        /// What of it.
        why: String,
    },
    /// Its time is over.
    #[error("the certificate in {} expired on {}", .path.display(), day(*.since))]
    Expired {
        /// Which.
        path: PathBuf,
        /// Unix seconds.
        since: u64,
    },
    /// Its time has not come.
    #[error("the certificate in {} is not valid before {}", .path.display(), day(*.from))]
    NotYet {
        /// Which.
        path: PathBuf,
        /// Unix seconds.
        from: u64,
    },
}

fn day(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "another age".into(), |t| t.to_string())
}
