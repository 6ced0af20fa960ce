//! A program that is built without the feature `tls` makes no certificate.

use jiff::Timestamp;

pub(super) fn self_signed(_: &[String], _: Timestamp) -> Result<(String, String), String> {
    Err("this program is built without TLS".into())
}
