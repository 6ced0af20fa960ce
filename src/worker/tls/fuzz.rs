//! What fuzz targets call (`fuzz/`): the decoders of what strangers send.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use rustls::ContentType;

use super::blob::Blob;
use super::keys::{Secret, Suite};
use super::records::{Direction, Memory, Output, Records};
use super::sealed::{Plain, Sealed};

/// A blob of any bytes is a connection or an error, and a connection can be written down again.
pub fn blob(bytes: &[u8]) {
    let Ok(sealed) = Sealed::from_blob(Blob::received(bytes)) else {
        return;
    };
    if let Ok(blob) = sealed.into_blob() {
        let written = blob.bytes().to_vec();
        let again = Sealed::from_blob(blob).expect("our own").into_blob();
        assert!(again.is_ok_and(|again| again.bytes() == written));
    }
}

/// What a client says: records that it has sealed (so the inner decoder sees any bytes), any other bytes,
/// and moves to another worker. The application reads what the client has written, in its order.
pub fn records(bytes: &[u8]) {
    let Some((&first, mut script)) = bytes.split_first() else {
        return;
    };
    let suites = [0x1301, 0x1302, 0x1303, 0xc02b, 0xcca9];
    let number = suites[usize::from(first) % suites.len()];
    let suite = Suite::by_number(number).expect("a suite of rustls'");
    let (down, up) = new_secrets(suite.secret_len());
    let side = |tx: &[u8], rx: &[u8]| {
        let direction = |bytes: &[u8]| Direction {
            seq: 0,
            secret: Secret::new(bytes),
        };
        Records::new(suite, direction(tx), direction(rx), Memory::default()).expect("keys")
    };
    let mut client = side(&up, &down);
    let mut ours = Sealed::new(side(&down, &up), BytesMut::new(), std::sync::Arc::default());
    let (mut written, mut read) = (Vec::new(), Vec::new());
    let mut is_forged = false;
    while let [op, len, rest @ ..] = script {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        script = rest;
        match op % 8 {
            0 => {
                is_forged |= !payload.is_empty();
                ours.input.extend_from_slice(payload);
            }
            1 => match ours.into_blob() {
                Ok(blob) => ours = Sealed::from_blob(blob).expect("our own"),
                Err(_) => return,
            },
            2 => drop(ours.seal(&[std::io::IoSlice::new(payload)])),
            kind => {
                let kind = match kind {
                    3 => ContentType::Handshake,
                    4 => ContentType::Alert,
                    5 => ContentType::from(op / 8),
                    _ => ContentType::ApplicationData,
                };
                let (meant, data) = if suite.is_13() {
                    unpad(kind, payload)
                } else {
                    (kind, payload)
                };
                if meant == ContentType::ApplicationData {
                    written.extend_from_slice(data);
                }
                let mut out = Output::new();
                client.seal_any(kind, payload, &mut out);
                out.iter()
                    .for_each(|record| ours.input.extend_from_slice(record));
            }
        }
        loop {
            match ours.open() {
                Ok(Plain::Some) => read.extend_from_slice(&ours.take(usize::MAX)),
                Ok(Plain::None | Plain::End) => break,
                Err(_) => {
                    // Nothing can be sealed any longer.
                    assert!(ours.seal(&[std::io::IoSlice::new(b"x")]).is_err());
                    return;
                }
            }
        }
        assert!(
            is_forged || written.starts_with(&read),
            "other bytes than were written"
        );
    }
}

/// A type of zero is padding of TLS 1.3, and so are zeros before it: the type is before those.
fn unpad(kind: ContentType, payload: &[u8]) -> (ContentType, &[u8]) {
    if u8::from(kind) != 0 {
        return (kind, payload);
    }
    let zeros = payload.iter().rev().take_while(|byte| **byte == 0).count();
    match payload[..payload.len() - zeros].split_last() {
        Some((kind, data)) => (ContentType::from(*kind), data),
        None => (kind, &[]),
    }
}

/// Of each direction, and no two runs have the same: no number may be used twice with one.
fn new_secrets(len: usize) -> (Vec<u8>, Vec<u8>) {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let secret = |first: u8| {
        let mut bytes: Vec<u8> = run.into_iter().cycle().take(len).collect();
        bytes[0] = first;
        bytes
    };
    (secret(1), secret(2))
}
