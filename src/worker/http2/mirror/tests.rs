//! The examples of RFC 7541, and what no encoder says.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(u8::is_ascii_hexdigit)
        .map(|digit| u8::try_from(char::from(digit).to_digit(16).unwrap()).unwrap())
        .collect();
    digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
}

/// Entries and their size.
fn table(mirror: &Mirror) -> (usize, usize) {
    (mirror.entries.len(), mirror.size)
}

fn walked(mirror: &mut Mirror, block: &str) -> (usize, usize) {
    mirror.walk(&hex(block)).unwrap();
    table(mirror)
}

#[test]
fn the_examples_of_rfc_7541() {
    // C.2.1 to C.2.4: each on its own.
    let alone = |block: &str| walked(&mut Mirror::new(TABLE), block);
    assert_eq!(
        alone("400a637573746f6d2d6b65790d637573746f6d2d686561646572"),
        (1, 55)
    );
    assert_eq!(alone("040c2f73616d706c652f70617468"), (0, 0));
    assert_eq!(alone("100870617373776f726406736563726574"), (0, 0));
    assert_eq!(alone("82"), (0, 0));
    // C.3: requests without, C.4: with Huffman coding; the same tables.
    let plain = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ];
    let coded = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];
    for blocks in [plain, coded] {
        let mut mirror = Mirror::new(TABLE);
        let tables = blocks.map(|block| walked(&mut mirror, block));
        assert_eq!(tables, [(1, 57), (2, 110), (3, 164)]);
    }
    // C.5 and C.6: answers, in a table of 256 bytes, with evictions.
    let plain = [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
    ];
    let coded = [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ];
    for blocks in [plain, coded] {
        let mut mirror = Mirror::new(TABLE);
        mirror.max = 256;
        let tables = blocks.map(|block| walked(&mut mirror, block));
        assert_eq!(tables, [(4, 222), (4, 222), (3, 215)]);
    }
}

#[test]
fn the_code_is_complete() {
    let part = |(n, &count): (usize, &u8)| u64::from(count) << (29 - n);
    assert_eq!(CODES.iter().enumerate().map(part).sum::<u64>(), 1 << 30);
    assert_eq!(
        CODES.iter().map(|&count| u32::from(count)).sum::<u32>(),
        257
    );
}

#[test]
fn a_mirror_that_is_primed_is_the_same_mirror() {
    let mut mirror = Mirror::new(TABLE);
    // A size update, names from the static table, from an entry, and literal; never indexed.
    let block =
        "3fe107 8286 418cf1e3c2e5f23a6ba0ab90f4ff 5886a8eb10649cbf 7e0161 40016101 62 1001610163";
    mirror.walk(&hex(block)).unwrap();
    assert_eq!(mirror.max, 1024);
    let mut primed = Mirror::new(TABLE);
    primed.walk(&mirror.priming()).unwrap();
    assert_eq!(table(&primed), table(&mirror));
    assert_eq!(*primed.priming(), *mirror.priming());
    assert_eq!(table(&mirror).0, 4);
}

/// Two bytes of a client's make an entry with the name of another one: such a block cost 4 KB of copying
/// for each of them.
#[test]
fn a_name_that_entries_share_is_copied_once() {
    let mut mirror = Mirror::new(TABLE);
    let mut block = b"\x40\x7f\xe9\x06".to_vec();
    block.extend([b'n'; 1000]);
    block.extend(b"\x01v");
    // Name of entry 62, and no value.
    block.extend(b"\x7e\x00".repeat(1000));
    mirror.walk(&block).unwrap();
    assert_eq!(table(&mirror), (3, 3 * 1032));
    let shared = |mirror: &Mirror| match &mirror.entries[0].name {
        Name::Literal(name) => Arc::strong_count(name),
        Name::Static(_) => 0,
    };
    assert_eq!(shared(&mirror), 3);
    // So is it behind a move, and on the way.
    let priming = mirror.priming();
    assert!(priming.len() < 1_100, "{}", priming.len());
    let mut primed = Mirror::new(TABLE);
    primed.walk(&priming).unwrap();
    assert_eq!(table(&primed), table(&mirror));
    assert_eq!(shared(&primed), 3);
}

/// Memory that a mirror holds.
fn weight(mirror: &Mirror) -> usize {
    let mut names = std::collections::BTreeMap::new();
    for entry in &mirror.entries {
        if let Name::Literal(name) = &entry.name {
            // Counted twice, the name, and what an allocation has beside it.
            names.insert(
                Arc::as_ptr(name),
                16 + size_of::<Literal>() + 16 + name.wire.len() + 16,
            );
        }
    }
    mirror.entries.capacity() * size_of::<Entry>()
        + mirror.values.capacity()
        + names.values().sum::<usize>()
}

/// A table that clients fill took four times what it counts, in each of thousands of connections.
#[test]
fn a_full_table_takes_no_more_than_it_counts() {
    // An id in each request.
    let mut ids = Mirror::new(TABLE);
    ids.walk(b"\x40\x08x-kit-id\x03000").unwrap();
    // Paths and authorities, which change each time.
    let mut paths = Mirror::new(TABLE);
    for n in 0..2000 {
        let id = format!("\x7e\x0d{n:013}");
        ids.walk(id.as_bytes()).unwrap();
        let path = format!("\x44\x13/path/{n:013}\x41\x09localhost");
        paths.walk(path.as_bytes()).unwrap();
        assert!(weight(&ids) <= TABLE + 512, "{}: {}", n, weight(&ids));
        assert!(weight(&paths) <= TABLE + 512, "{}: {}", n, weight(&paths));
    }
    assert!(ids.size > TABLE - 64 && paths.size > TABLE - 64);
    for mirror in [ids, paths] {
        let mut primed = Mirror::new(TABLE);
        primed.walk(&mirror.priming()).unwrap();
        assert_eq!(*primed.priming(), *mirror.priming());
        assert!(weight(&primed) <= TABLE, "{}", weight(&primed));
    }
}

#[test]
fn what_is_too_large_empties_the_table() {
    let mut mirror = Mirror::new(TABLE);
    mirror.walk(&hex("2041016101 62")).unwrap_err();
    let mut mirror = Mirror::new(TABLE);
    assert_eq!(walked(&mut mirror, "3f09 4001610162"), (1, 34));
    assert_eq!(walked(&mut mirror, "400161086262626262626262"), (0, 0));
    assert_eq!(walked(&mut mirror, "4001610162"), (1, 34));
    assert_eq!(walked(&mut mirror, "20"), (0, 0));
}

#[test]
fn what_is_not_understood_is_an_error() {
    let bad = [
        "80",               // index 0
        "be",               // no such entry
        "ff80808080808001", // an integer that does not end
        "ff8080808001",     // the same, of six bytes
        "7e0161",           // a name from nowhere
        "4001",             // a string that is cut
        "40016182ffff",     // padding of a whole byte
        "4001618100",       // padding that is not of ones
        "40016184ffffffff", // the end of the string in a string
        "8220",             // a size update behind a field
        "3fe21f",           // one beyond the limit
        "40000178",         // a name of no length
        "00",               // nothing where a name should be
    ];
    for block in bad {
        assert_eq!(
            Mirror::new(TABLE).walk(&hex(block)),
            Err(NotUnderstood),
            "{block}"
        );
    }
    assert!(
        Mirror::new(TABLE).walk(&hex("3fe11f")).is_ok(),
        "the limit itself"
    );
}

#[test]
fn no_bytes_make_it_panic() {
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut mirror = Mirror::new(TABLE);
        for _ in 0..20 {
            let block: Vec<u8> = (0..random.usize(..60)).map(|_| random.u8(..)).collect();
            if mirror.walk(&block).is_err() {
                break;
            }
        }
        assert!(mirror.size <= mirror.max);
    }
}
