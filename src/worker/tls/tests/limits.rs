//! How often one key is used, and how often a client may ask for others.

use std::io::{IoSlice, Write as _};

use rustls::{AlertDescription, ContentType};

use super::super::keys::Secret;
use super::super::records::{Direction, Failure, Memory, Opened, Output, Records};
use super::super::sealed::Plain;
use super::{Trio, V12, V13, hear, pair, said_by, says, suite_of, written};

#[test]
fn more_updates_than_anybody_needs_end_the_connection() {
    let mut pair = pair(V13);
    for n in 1..=33 {
        let update = says(&mut pair, ContentType::Handshake, &[24, 0, 0, 1, 0]);
        let next = pair.1.suite.next(&pair.1.tx.secret).unwrap();
        if n > 32 {
            let alert = Failure::Ours(AlertDescription::UnexpectedMessage);
            assert_eq!(update, Err(alert));
            return;
        }
        assert_eq!(update, Ok(Opened::Nothing), "{n}");
        // The client goes on with its next keys.
        let tx = Direction {
            seq: 0,
            secret: next,
        };
        let rx = Direction {
            seq: 0,
            secret: Secret::new(pair.1.rx.secret.bytes()),
        };
        pair.1 = Records::new(pair.1.suite, tx, rx, Memory::default()).unwrap();
    }
}

#[test]
fn a_key_is_renewed_long_before_its_limit_and_a_client_of_rustls_follows() {
    let mut trio = Trio::new(suite_of(V13));
    trio.ours.records.limit_to(10);
    for n in 0..100_u32 {
        let data = n.to_be_bytes();
        trio.ours.seal(&[IoSlice::new(&data)]).unwrap();
        assert!(trio.ours.records.tx.seq <= 6);
        assert_eq!(hear(&mut trio.client, &written(&mut trio.ours)), data);
        // What the client sends wears its own key: it is asked for another one.
        trio.client.writer().write_all(b"ask").unwrap();
        let said = said_by(&mut trio.client);
        trio.ours.input.extend_from_slice(&said);
        while trio.ours.open().unwrap() == Plain::Some {
            trio.ours.take(usize::MAX);
        }
        assert!(
            trio.ours.records.rx.seq < 10,
            "the client was asked in time"
        );
    }
}

#[test]
fn a_connection_of_tls_1_2_says_when_it_wears_out_and_fails_at_the_limit() {
    let mut trio = Trio::new(suite_of(V12));
    trio.ours.records.limit_to(10);
    let mut sealed = 1;
    while trio.ours.seal(&[IoSlice::new(b"x")]).is_ok() {
        sealed += 1;
        assert_eq!(trio.ours.records.wears_out(), sealed >= 5);
    }
    assert_eq!(sealed, 10);
    let said = written(&mut trio.ours);
    let mut said = &said[..];
    trio.client.read_tls(&mut said).unwrap();
    // What was cut short must not look whole.
    let heard = trio.client.process_new_packets().unwrap_err();
    let alert = rustls::Error::AlertReceived(AlertDescription::InternalError);
    assert_eq!(heard, alert);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "sealed twice with one key")]
fn a_number_that_is_used_twice_is_noticed() {
    let (ours, _) = pair(V13);
    let again = Direction {
        seq: ours.tx.seq,
        secret: Secret::new(ours.tx.secret.bytes()),
    };
    let rx = Direction {
        seq: 0,
        secret: Secret::new(ours.rx.secret.bytes()),
    };
    let mut twin = Records::new(ours.suite, again, rx, Memory::default()).unwrap();
    let mut ours = ours;
    let mut out = Output::new();
    ours.seal(b"one"[..].into(), &mut out).unwrap();
    twin.seal(b"two"[..].into(), &mut out).unwrap();
}
