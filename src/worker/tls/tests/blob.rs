//! A connection as bytes.

use std::sync::Arc;

use rustls::SupportedCipherSuite;

use super::super::blob::{Blob, BlobError};
use super::super::sealed::Sealed;
use super::{Trio, V13, pair, suites};

fn blob_of(suite: SupportedCipherSuite) -> Vec<u8> {
    let mut trio = Trio::new(suite);
    trio.ours.input.extend_from_slice(&[23, 3, 3, 1]);
    trio.ours.opened.extend_from_slice(b"GET / HT");
    trio.ours.output.push_back(b"unwritten".to_vec());
    trio.ours.into_blob().unwrap().bytes().to_vec()
}

#[test]
fn everything_that_waits_travels_too() {
    for &suite in suites() {
        let back = Sealed::from_blob(Blob::received(&blob_of(suite))).unwrap();
        assert_eq!(&back.input[..], [23, 3, 3, 1]);
        assert_eq!(&back.opened[..], b"GET / HT");
        assert_eq!(back.output, [b"unwritten".to_vec()]);
        let info = &back.info;
        assert_eq!(info.server_name.as_deref(), Some("localhost"));
        assert_eq!(info.alpn.as_deref(), Some("h2"));
        assert_eq!(info.client_certificates, [vec![1; 900], vec![2; 3]]);
        assert_eq!(info.cipher_suite, format!("{:?}", suite.suite()));
    }
}

#[test]
fn a_changed_blob_is_an_error_or_a_connection_and_never_a_panic() {
    let mut rng = fastrand::Rng::with_seed(5);
    for &suite in suites() {
        let whole = blob_of(suite);
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len().min(300));
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(bytes.len() / 2..=bytes.len()));
            let _ = Sealed::from_blob(Blob::received(&bytes));
        }
        let mut bytes = whole.clone();
        bytes[7] = 9;
        let newer = Sealed::from_blob(Blob::received(&bytes)).map(drop);
        assert_eq!(newer, Err(BlobError::Version(9)));
        let mut bytes = whole.clone();
        (bytes[8], bytes[9]) = (0x13, 0x99);
        let unknown = Sealed::from_blob(Blob::received(&bytes)).map(drop);
        assert_eq!(unknown, Err(BlobError::Suite(0x1399)));
    }
}

#[test]
fn a_blob_has_room_for_names_of_any_length() {
    let mut trio = Trio::new(suites()[0]);
    let info = Arc::make_mut(&mut trio.ours.info);
    info.server_name = Some("n".repeat(5000));
    // A debug build panics where it grows: a copy of the keys would stay behind.
    assert!(trio.ours.into_blob().is_ok());
}

/// The bytes of version 1: what is written today must be read by every later build.
#[test]
fn a_blob_of_version_1_is_read_for_ever() {
    let golden = "68544c53 00000001 1301 01 02030401 00000000 00000002 1800 \
        0000000000000007 00000020 1111111111111111111111111111111111111111111111111111111111111111 \
        0000000000000009 00000020 2222222222222222222222222222222222222222222222222222222222222222 \
        00000003 474554 00000002 1703 00000000 00000001 61 00000002 6832 00000002 3082";
    let digits: String = golden.split_whitespace().collect();
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect();
    let read = Sealed::from_blob(Blob::received(&bytes)).unwrap();
    assert_eq!(read.records.memory.message, [24, 0]);
    assert!(read.records.memory.reply_owed && !read.records.memory.update_asked);
    assert_eq!((read.records.tx.seq, read.records.rx.seq), (7, 9));
    assert_eq!(read.records.tx.secret.bytes(), [0x11; 32]);
    assert_eq!(read.info.client_certificates, [vec![0x30, 0x82]]);
    assert!(read.into_blob().unwrap().bytes() == bytes, "and written so");
}

#[test]
fn nothing_secret_is_shown() {
    let (ours, _) = pair(V13);
    let shown = format!("{ours:?}");
    assert!(shown.contains("Secret(..)"), "{shown}");
    let secret = format!("{:?}", ours.tx.secret.bytes());
    assert!(!shown.contains(&secret));
}
