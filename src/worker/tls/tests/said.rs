//! What a client may say behind the handshake, and what it may not: our answer beside rustls'.

use rustls::{AlertDescription, ContentType};

use super::super::records::{Failure, Opened, Output};
use super::{Trio, V12, V13, pair, random_bytes, says, suite_of};

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn everything_that_a_client_may_not_say_ends_in_the_right_alert() {
    use AlertDescription as A;
    use ContentType as C;
    use Rustls::{Same, Says, Silent};
    /// A version, what a client says, the alert that it gets for the last of it, and rustls' answer.
    type Case<'s> = (u16, &'s [(C, &'s [u8])], A, Rustls);
    let cases: &[Case<'_>] = &[
        (
            V13,
            &[(C::Handshake, &[24, 0, 0, 1, 2])],
            A::IllegalParameter,
            Same,
        ),
        (
            V13,
            &[(C::Handshake, &[24, 0, 0, 1, 0, 0])],
            A::UnexpectedMessage,
            Same,
        ),
        (
            V13,
            &[(C::Handshake, &[24, 0, 0, 2, 0, 0])],
            A::DecodeError,
            Same,
        ),
        (V13, &[(C::Handshake, &[24, 0, 0, 0])], A::DecodeError, Same),
        (
            V13,
            &[(C::Handshake, &[1, 0, 0, 1, 0])],
            A::UnexpectedMessage,
            Says(A::DecodeError),
        ),
        (
            V13,
            &[(C::Handshake, &[4, 0, 0, 1, 0])],
            A::UnexpectedMessage,
            Says(A::DecodeError),
        ),
        (V13, &[(C::Handshake, &[])], A::UnexpectedMessage, Silent),
        (
            V13,
            &[(C::Handshake, &[24, 0]), (C::ApplicationData, b"x")],
            A::UnexpectedMessage,
            Silent,
        ),
        (
            V13,
            &[(C::Handshake, &[24, 0]), (C::Alert, &[1, 0])],
            A::UnexpectedMessage,
            Silent,
        ),
        (
            V13,
            &[(C::ChangeCipherSpec, &[1])],
            A::UnexpectedMessage,
            Same,
        ),
        (
            V13,
            &[(C::Alert, &[])],
            A::UnexpectedMessage,
            Says(A::DecodeError),
        ),
        (V13, &[(C::Alert, &[1])], A::DecodeError, Same),
        (V13, &[(C::Alert, &[1, 0, 0])], A::DecodeError, Same),
        (V13, &[(C::Alert, &[1, 41])], A::DecodeError, Same),
        (V13, &[(C::Alert, &[3, 90])], A::IllegalParameter, Same),
        (V13, &[(C::Alert, &[1, 90][..]); 5], A::DecodeError, Silent),
        (
            V13,
            &[(C::ApplicationData, &[][..]); 33],
            A::UnexpectedMessage,
            Silent,
        ),
        (
            V13,
            &[(C::Unknown(99), &[1])],
            A::UnexpectedMessage,
            Says(A::DecodeError),
        ),
        (V12, &[(C::Alert, &[1, 41][..]); 5], A::DecodeError, Silent),
        (
            V12,
            &[(C::Handshake, &[20, 0, 0, 1, 0])],
            A::UnexpectedMessage,
            Same,
        ),
        (
            V12,
            &[(C::Handshake, &[1, 0])],
            A::UnexpectedMessage,
            Silent,
        ),
        (
            V12,
            &[(C::Handshake, &[1, 0, 0, 1, 0, 0])],
            A::UnexpectedMessage,
            Says(A::DecodeError),
        ),
        (
            V12,
            &[(C::Handshake, &[1, 1, 0, 0, 0])],
            A::UnexpectedMessage,
            Silent,
        ),
        (
            V12,
            &[(C::Handshake, &[1, 0, 0, 2, 0]), (C::ApplicationData, b"x")],
            A::UnexpectedMessage,
            Silent,
        ),
        (
            V12,
            &[
                (C::Handshake, &[1, 0, 0, 1, 0]),
                (C::Handshake, &[1, 0, 0, 1, 0]),
            ],
            A::UnexpectedMessage,
            Says(A::DecodeError),
        ),
        (
            V12,
            &[(C::ApplicationData, &[][..]); 33],
            A::UnexpectedMessage,
            Silent,
        ),
    ];
    for (n, (version, said, alert, rustls)) in cases.iter().enumerate() {
        let mut trio = Trio::new(suite_of(*version));
        let mut records = Output::new();
        for (kind, payload) in *said {
            trio.rude.seal_any(*kind, payload, &mut records);
        }
        let records: Vec<u8> = records.into_iter().flatten().collect();
        let answer = trio.end_both(&records);
        assert_eq!(trio.compare(answer), *rustls, "case {n}: {said:?}");
        let mut pair = pair(*version);
        let (last, before) = said.split_last().unwrap();
        for (kind, payload) in before {
            assert_eq!(says(&mut pair, *kind, payload), Ok(Opened::Nothing), "{n}");
        }
        let end = says(&mut pair, last.0, last.1);
        assert_eq!(end, Err(Failure::Ours(*alert)), "case {n}: {said:?}");
        assert!(pair.0.memory.failed);
        let again = says(&mut pair, ContentType::ApplicationData, b"x");
        assert_eq!(again, Err(Failure::Ended), "case {n}");
    }
}

/// What rustls' server answers where ours ends a connection with an alert.
#[derive(Debug, PartialEq, Eq)]
enum Rustls {
    /// The same in every byte.
    Same,
    /// It reads a message before it asks whether one may come, or opens a record before it looks at
    /// its head: another alert.
    Says(AlertDescription),
    /// It has no such limit, or ends without a word.
    Silent,
}

impl Trio {
    fn compare(&mut self, (ours, rustls): (Vec<u8>, Vec<u8>)) -> Rustls {
        assert!(!ours.is_empty(), "ours always says why");
        match *self.alerts(&rustls) {
            _ if ours == rustls => Rustls::Same,
            [] => Rustls::Silent,
            [alert] => Rustls::Says(alert),
            ref more => panic!("{more:?}"),
        }
    }

    /// The alerts in what a server has said.
    fn alerts(&mut self, mut said: &[u8]) -> Vec<AlertDescription> {
        let mut alerts = Vec::new();
        let mut out = Output::new();
        while let Ok(Some(len)) = self.rude.whole(said, &mut out) {
            let (record, rest) = said.split_at(len);
            said = rest;
            if let Err(Failure::Peers(alert)) = self.rude.open(&mut record.to_vec(), &mut out) {
                alerts.push(alert);
            }
        }
        alerts
    }
}

#[test]
fn a_fatal_alert_of_the_client_is_not_answered_and_a_close_ends_the_reading() {
    let mut broken = pair(V13);
    let end = says(&mut broken, ContentType::Alert, &[2, 20]);
    assert_eq!(end, Err(Failure::Peers(AlertDescription::BadRecordMac)));
    for level in [1, 2] {
        let mut closed = pair(V12);
        let end = says(&mut closed, ContentType::Alert, &[level, 0]);
        assert_eq!(end, Ok(Opened::Close));
        let more = says(&mut closed, ContentType::ApplicationData, b"x");
        assert_eq!(more, Err(Failure::Ended));
        let mut out = Output::new();
        closed
            .0
            .seal(b"we may still answer"[..].into(), &mut out)
            .unwrap();
    }
}

#[test]
fn a_first_attempt_to_renegotiate_is_told_no_however_it_is_cut() {
    let mut pair = pair(V12);
    for part in [&[1, 0, 0, 5, 9][..], &[9, 9], &[9, 9]] {
        assert_eq!(
            says(&mut pair, ContentType::Handshake, part),
            Ok(Opened::Nothing)
        );
    }
    // The warning has taken one number.
    assert_eq!(pair.0.tx.seq, 1);
    let data = says(&mut pair, ContentType::ApplicationData, b"go on");
    assert!(matches!(data, Ok(Opened::Data(range)) if range.len() == 5));
}

#[test]
fn a_record_that_is_too_long_or_of_a_wrong_kind_is_refused_by_its_head() {
    use AlertDescription as A;
    for (version, head, alert, of_rustls) in [
        (V13, [22, 3, 3, 0, 1], A::UnexpectedMessage, A::BadRecordMac),
        (V13, [21, 3, 3, 0, 2], A::UnexpectedMessage, A::BadRecordMac),
        (V13, [20, 3, 3, 0, 1], A::UnexpectedMessage, A::DecodeError),
        (
            V13,
            [71, 69, 84, 32, 47],
            A::UnexpectedMessage,
            A::DecodeError,
        ),
        (V13, [23, 3, 1, 0, 1], A::ProtocolVersion, A::BadRecordMac),
        (V13, [23, 3, 3, 65, 1], A::RecordOverflow, A::BadRecordMac),
        (V12, [20, 3, 3, 0, 1], A::UnexpectedMessage, A::DecodeError),
        (V12, [23, 3, 3, 72, 1], A::RecordOverflow, A::DecodeError),
    ] {
        let (mut ours, _) = pair(version);
        let mut out = Output::new();
        assert_eq!(
            ours.whole(&head, &mut out),
            Err(Failure::Ours(alert)),
            "{head:?}"
        );
        assert_eq!(out.len(), 1, "the alert");
        // Whole, with bytes that nobody has sealed.
        let mut record = head.to_vec();
        record.resize(5 + usize::from(u16::from_be_bytes([head[3], head[4]])), 7);
        let mut trio = Trio::new(suite_of(version));
        let answer = trio.end_both(&record);
        let rustls = trio.compare(answer);
        assert_eq!(rustls, Rustls::Says(of_rustls), "{head:?}");
    }
    for (version, head) in [(V13, [23, 3, 3, 65, 0]), (V12, [23, 3, 3, 72, 0])] {
        let (mut ours, _) = pair(version);
        assert_eq!(ours.whole(&head, &mut Output::new()), Ok(None));
    }
}

#[test]
fn a_record_with_any_bit_changed_ends_the_connection() {
    let mut rng = fastrand::Rng::with_seed(3);
    for number in [V13, 0x1303, V12, 0xcca9] {
        for _ in 0..100 {
            let (mut ours, mut client) = pair(number);
            let (mut sent, mut out) = (Output::new(), Output::new());
            client.seal_any(ContentType::ApplicationData, b"some bytes", &mut sent);
            let mut record = sent.pop_back().unwrap();
            let at = rng.usize(5..record.len());
            record[at] ^= 1 << rng.u8(0..8);
            let opened = ours.open(&mut record, &mut out);
            let alert = Failure::Ours(AlertDescription::BadRecordMac);
            assert_eq!(opened, Err(alert));
        }
        // rustls says the same, in the same bytes.
        let mut trio = Trio::new(suite_of(number));
        let mut sent = Output::new();
        trio.rude
            .seal_any(ContentType::ApplicationData, b"some bytes", &mut sent);
        let mut record = sent.pop_back().unwrap();
        *record.last_mut().unwrap() ^= 1;
        let (ours, rustls) = trio.end_both(&record);
        assert!(!ours.is_empty() && ours == rustls, "{number:#06x}");
    }
}

#[test]
fn records_of_any_bytes_are_read_without_a_panic() {
    let mut rng = fastrand::Rng::with_seed(4);
    for number in [V13, V12] {
        for _ in 0..500 {
            let mut trio = pair(number);
            let kind = ContentType::from(rng.u8(19..26));
            let payload = random_bytes(&mut rng, 12);
            let _ = says(&mut trio, kind, &payload);
        }
    }
}
