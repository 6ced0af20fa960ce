//! What each frame changes, and which ones are refused.

use super::*;
use crate::worker::http2::frames::*;

struct Client<'l>(&'l mut Ledger);
struct Us<'l>(&'l mut Ledger);

impl Watch for Client<'_> {
    fn wants(&self, head: &Head) -> bool {
        wants_of_client(head)
    }

    fn frame(&mut self, head: Head, payload: &[u8]) {
        self.0.client_frame(head, payload, Instant::now());
    }
}

impl Watch for Us<'_> {
    fn wants(&self, head: &Head) -> bool {
        wants_of_ours(head)
    }

    fn frame(&mut self, head: Head, payload: &[u8]) {
        self.0.our_frame(head, payload);
    }
}

fn client(ledger: &mut Ledger, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let mut bytes = Vec::new();
    write(&mut bytes, kind, flags, stream, payload);
    Scanner::default().walk(&bytes, &mut Client(ledger));
}

fn us(ledger: &mut Ledger, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let mut bytes = Vec::new();
    write(&mut bytes, kind, flags, stream, payload);
    Scanner::default().walk(&bytes, &mut Us(ledger));
}

/// After both sides' SETTINGS.
fn begun() -> Ledger {
    let mut ledger = Ledger::new();
    us(&mut ledger, frames::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    client(&mut ledger, frames::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    client(&mut ledger, frames::SETTINGS, frames::ACK, 0, &[]);
    us(&mut ledger, frames::SETTINGS, frames::ACK, 0, &[]);
    assert!(ledger.is_complete());
    ledger
}

/// `:method: GET`.
const GET: &[u8] = &[0x82];

const ALL: u8 = frames::END_HEADERS | frames::END_STREAM;

#[test]
fn a_stream_is_open_until_both_sides_have_ended_it_or_one_has_reset_it() {
    let mut ledger = begun();
    client(&mut ledger, frames::HEADERS, frames::END_HEADERS, 1, GET);
    assert!(!ledger.is_complete() && ledger.oldest().is_some());
    us(
        &mut ledger,
        frames::HEADERS,
        frames::END_HEADERS,
        1,
        &[0x88],
    );
    client(
        &mut ledger,
        frames::DATA,
        frames::END_STREAM,
        1,
        b"0123456789",
    );
    assert!(!ledger.is_complete());
    us(&mut ledger, frames::DATA, frames::END_STREAM, 1, b"01234");
    assert!(ledger.is_complete() && !ledger.late);
    assert_eq!(
        (ledger.highest, ledger.receive, ledger.send),
        (1, 65_525, 65_530)
    );

    client(&mut ledger, frames::HEADERS, ALL, 3, GET);
    client(&mut ledger, frames::RST_STREAM, 0, 3, &[0; 4]);
    assert!(ledger.is_complete() && !ledger.late);

    client(&mut ledger, frames::HEADERS, ALL, 5, GET);
    us(&mut ledger, frames::RST_STREAM, 0, 5, &[0; 4]);
    assert!(
        ledger.is_complete() && !ledger.late,
        "nothing more can come"
    );

    client(&mut ledger, frames::HEADERS, frames::END_HEADERS, 7, GET);
    us(&mut ledger, frames::HEADERS, ALL, 7, &[0x88]);
    us(&mut ledger, frames::RST_STREAM, 0, 7, &[0; 4]);
    assert!(
        ledger.is_complete() && ledger.late,
        "its body may be on its way"
    );
}

#[test]
fn windows_are_what_was_allowed_less_what_was_sent_with_its_padding() {
    let mut ledger = begun();
    client(&mut ledger, frames::HEADERS, frames::END_HEADERS, 1, GET);
    client(
        &mut ledger,
        frames::DATA,
        frames::PADDED,
        1,
        &[3, b'x', 0, 0, 0],
    );
    assert_eq!(ledger.receive, WINDOW - 5);
    us(
        &mut ledger,
        frames::WINDOW_UPDATE,
        0,
        0,
        &1000_u32.to_be_bytes(),
    );
    us(
        &mut ledger,
        frames::WINDOW_UPDATE,
        0,
        1,
        &9_u32.to_be_bytes(),
    );
    assert_eq!(ledger.receive, WINDOW + 995);
    client(
        &mut ledger,
        frames::WINDOW_UPDATE,
        0,
        0,
        &7_u32.to_be_bytes(),
    );
    client(
        &mut ledger,
        frames::WINDOW_UPDATE,
        0,
        1,
        &9_u32.to_be_bytes(),
    );
    us(&mut ledger, frames::DATA, 0, 1, b"01");
    assert_eq!(ledger.send, WINDOW + 5);
    assert_eq!(ledger.refusal(), None);
}

#[test]
fn settings_are_merged_and_the_smallest_table_is_remembered() {
    let mut ledger = begun();
    let tables = |value: u32| {
        let mut setting = vec![0, 1];
        setting.extend(value.to_be_bytes());
        setting
    };
    client(&mut ledger, frames::SETTINGS, 0, 0, &tables(200));
    let twice = [tables(100), tables(8192)].concat();
    client(&mut ledger, frames::SETTINGS, 0, 0, &twice);
    assert_eq!(ledger.client_settings, [(3, 100), (1, 8192)]);
    assert_eq!(ledger.smallest_table, Some(100));
}

#[test]
fn what_we_wait_for_is_counted() {
    let mut ledger = Ledger::new();
    us(&mut ledger, frames::SETTINGS, 0, 0, &[]);
    us(&mut ledger, frames::PING, 0, 0, b"01234567");
    us(&mut ledger, frames::PING, 0, 0, BARRIER);
    assert_eq!((ledger.unacknowledged, ledger.unanswered), (1, 1));
    client(&mut ledger, frames::PING, 0, 0, b"76543210");
    client(&mut ledger, frames::PING, frames::ACK, 0, BARRIER);
    assert_eq!(ledger.unanswered, 1);
    client(&mut ledger, frames::PING, frames::ACK, 0, b"01234567");
    client(&mut ledger, frames::SETTINGS, frames::ACK, 0, &[]);
    assert_eq!((ledger.unacknowledged, ledger.unanswered), (0, 0));
}

#[test]
fn a_block_is_whole_with_its_last_frame() {
    let mut ledger = begun();
    // Padding and priority belong to the first frame alone.
    let flags = frames::PADDED | frames::WITH_PRIORITY | frames::END_STREAM;
    let first = [&[2][..], &[0, 0, 0, 9, 200], &[0x40, 1, b'a'], &[0, 0]].concat();
    client(&mut ledger, frames::HEADERS, flags, 1, &first);
    us(&mut ledger, frames::HEADERS, ALL, 1, &[0x88]);
    assert!(ledger.in_block() && !ledger.is_complete());
    client(&mut ledger, frames::CONTINUATION, 0, 1, &[1]);
    client(
        &mut ledger,
        frames::CONTINUATION,
        frames::END_HEADERS,
        1,
        b"b",
    );
    assert!(ledger.is_complete());
    let mut expected = Mirror::new(TABLE);
    expected.walk(&[0x40, 1, b'a', 1, b'b']).unwrap();
    assert_eq!(*ledger.mirror.priming(), *expected.priming());
}

#[test]
fn what_cannot_move_or_is_not_understood_is_refused() {
    let refused = |break_it: &dyn Fn(&mut Ledger)| {
        let mut ledger = begun();
        client(&mut ledger, frames::HEADERS, ALL, 1, GET);
        us(&mut ledger, frames::HEADERS, ALL, 1, &[0x88]);
        assert!(ledger.is_complete());
        break_it(&mut ledger);
        assert!(ledger.refusal().is_none() || !ledger.is_complete());
        ledger.refusal()
    };
    let by_client = |kind, flags, stream, payload: &[u8]| {
        refused(&|ledger| client(ledger, kind, flags, stream, payload))
    };
    let by_us = |kind, flags, stream, payload: &[u8]| {
        refused(&|ledger| us(ledger, kind, flags, stream, payload))
    };
    assert_eq!(by_client(GOAWAY, 0, 0, &[0; 8]), Some(Refusal::GoAway));
    assert_eq!(by_us(GOAWAY, 0, 0, &[0; 8]), Some(Refusal::GoAway));
    assert_eq!(by_us(PUSH_PROMISE, 4, 1, &[0; 8]), Some(Refusal::Push));
    assert_eq!(by_client(PUSH_PROMISE, 4, 1, &[0; 8]), Some(Refusal::Push));
    assert_eq!(by_client(HEADERS, ALL, 3, &[0x80]), Some(Refusal::Block));
    assert_eq!(by_client(HEADERS, ALL, 4, GET), Some(Refusal::Frame));
    assert_eq!(
        by_client(HEADERS, ALL, HIGHEST + 1, GET),
        Some(Refusal::Streams)
    );
    assert_eq!(
        by_client(HEADERS, ALL | PADDED, 3, &[9, 0x82]),
        Some(Refusal::Frame)
    );
    let itself = [0x80, 0, 0, 3, 0, 0x82];
    assert_eq!(
        by_client(HEADERS, ALL | WITH_PRIORITY, 3, &itself),
        Some(Refusal::Block)
    );
    assert_eq!(
        by_client(CONTINUATION, END_HEADERS, 1, GET),
        Some(Refusal::Frame)
    );
    assert_eq!(by_client(DATA, 0, 0, b"x"), Some(Refusal::Frame));
    assert_eq!(by_client(DATA, 0, 9, b"x"), Some(Refusal::Frame));
    assert_eq!(by_client(SETTINGS, 0, 0, &[0; 5]), Some(Refusal::Frame));
    assert_eq!(
        by_client(SETTINGS, ACK, 0, &[]),
        Some(Refusal::Frame),
        "of what?"
    );
    assert_eq!(
        by_client(WINDOW_UPDATE, 0, 0, &[0; 4]),
        Some(Refusal::Frame)
    );
    assert_eq!(
        by_client(WINDOW_UPDATE, 0, 0, &[0; 3]),
        Some(Refusal::Frame)
    );
    assert_eq!(by_us(SETTINGS, 0, 0, &[]), Some(Refusal::Settings));

    let many: Vec<u8> = (0..17_u8).flat_map(|id| [0, id, 0, 0, 0, 1]).collect();
    assert_eq!(by_client(SETTINGS, 0, 0, &many), Some(Refusal::Settings));

    let too_much = refused(&|ledger| {
        client(ledger, HEADERS, END_HEADERS, 3, GET);
        for _ in 0..5 {
            client(ledger, DATA, 0, 3, &[0; 16_384]);
        }
    });
    assert_eq!(too_much, Some(Refusal::Frame));
    let between = refused(&|ledger| {
        client(ledger, HEADERS, 0, 3, GET);
        client(ledger, PING, 0, 0, &[0; 8]);
    });
    assert_eq!(between, Some(Refusal::Frame));
    let long = refused(&|ledger| {
        client(ledger, HEADERS, 0, 3, GET);
        for _ in 0..33 {
            client(ledger, CONTINUATION, 0, 3, &[0x82; 8192]);
        }
    });
    assert_eq!(long, Some(Refusal::Block));
    // What nobody knows, and what says nothing.
    assert_eq!(by_client(0x77, 0, 0, b"grease"), None);
    assert_eq!(by_client(PRIORITY, 0, 9, &[0, 0, 0, 0, 1]), None);
    assert_eq!(
        by_client(WINDOW_UPDATE, 0, 1, &[0; 4]),
        None,
        "a stream's error"
    );
}

#[test]
fn behind_a_goaway_streams_are_followed_to_their_end() {
    let mut ledger = begun();
    client(&mut ledger, HEADERS, ALL, 1, GET);
    us(&mut ledger, GOAWAY, 0, 0, &[0; 8]);
    // In the air when it was said.
    client(&mut ledger, HEADERS, ALL, 3, GET);
    us(&mut ledger, DATA, END_STREAM, 1, b"x");
    assert!(ledger.oldest().is_some());
    us(&mut ledger, RST_STREAM, 0, 3, &[0; 4]);
    assert_eq!(ledger.oldest(), None);
    assert!(!ledger.is_complete());
    // Nothing is believed of what is not understood.
    client(&mut ledger, HEADERS, ALL, 5, GET);
    client(&mut ledger, SETTINGS, 0, 0, &[0; 5]);
    client(&mut ledger, HEADERS, ALL, 7, GET);
    assert_eq!(ledger.oldest(), None);
    assert_eq!(ledger.refusal(), Some(Refusal::Frame));
}

#[test]
fn no_bytes_make_it_panic() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut ledger = Ledger::new();
        let mut scanner = Scanner::default();
        for _ in 0..200 {
            let mut bytes = Vec::new();
            let payload: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            let (kind, flags) = (random.u8(..12), random.u8(..));
            write(&mut bytes, kind, flags, random.u32(..6), &payload);
            scanner.walk(&bytes, &mut Client(&mut ledger));
        }
        assert!(!ledger.is_complete());
    }
}

#[test]
fn one_that_is_idle_holds_no_room_for_the_streams_it_had() {
    let mut ledger = begun();
    for id in (1..200).step_by(2) {
        client(&mut ledger, frames::HEADERS, ALL, id, GET);
    }
    assert!(ledger.open.capacity() >= 100);
    for id in (1..200).step_by(2) {
        us(&mut ledger, frames::HEADERS, ALL, id, &[0x88]);
    }
    assert!(ledger.is_complete());
    assert!(
        ledger.open.capacity() <= OPEN_KEPT,
        "{}",
        ledger.open.capacity()
    );
}
