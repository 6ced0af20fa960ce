//! What must be off, as scanners ask for it (testssl.sh, sslyze): old versions, weak suites, compression,
//! heartbeat. By hand, because no library of today says such things.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::{LONG, begin, server};

/// What a server says first: an alert's description, or its choice.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Alert(u8),
    Hello {
        suite: u16,
        compression: u8,
        extensions: Vec<u16>,
    },
    Closed,
}

const PROTOCOL_VERSION: Answer = Answer::Alert(70);

/// `handshake_failure`, `protocol_version`.
fn is_refused(answer: &Answer) -> bool {
    matches!(answer, Answer::Alert(40 | 70))
}

const HEARTBEAT: u16 = 15;
const RENEGOTIATION_INFO: u16 = 0xff01;
const EXTENDED_MASTER_SECRET: u16 = 23;

/// ECDHE with AES-GCM: ECDSA, RSA.
const GOOD: &[u16] = &[0xc02b, 0xc02f];

fn list(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A `ClientHello` (RFC 5246, 7.4.1.2) for `localhost`.
fn hello(version: [u8; 2], suites: &[u16], compression: &[u8], more: &[(u16, &[u8])]) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, data: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        list(&mut extensions, data);
    };
    extension(0, b"\0\x0c\0\0\x09localhost");
    // Curves x25519 and P-256, uncompressed points; ECDSA and RSA with SHA-256 and SHA-1.
    extension(10, &[0, 4, 0, 29, 0, 23]);
    extension(11, &[1, 0]);
    extension(13, &[0, 10, 4, 3, 8, 4, 4, 1, 2, 3, 2, 1]);
    extension(RENEGOTIATION_INFO, &[0]);
    for (kind, data) in more {
        extension(*kind, data);
    }
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    let suites: Vec<u8> = suites
        .iter()
        .flat_map(|suite| suite.to_be_bytes())
        .collect();
    list(&mut body, &suites);
    body.push(u8::try_from(compression.len()).expect("short"));
    body.extend_from_slice(compression);
    list(&mut body, &extensions);
    let mut message = vec![1, 0];
    list(&mut message, &body);
    // The record's own version is 3.0 for SSL 3 and 3.1 for all others.
    let mut record = vec![22, 3, version[1].min(1)];
    list(&mut record, &message);
    record
}

fn ask(server: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(server).expect("the service");
    stream.set_read_timeout(Some(LONG)).expect("a socket");
    stream.write_all(bytes).expect("the service");
    let mut head = [0; 5];
    if stream.read_exact(&mut head).is_err() {
        return Answer::Closed;
    }
    let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut record).expect("a record");
    let number = |at: usize| u16::from_be_bytes([record[at], record[at + 1]]);
    match (head[0], &record[..]) {
        (21, [2, description]) => Answer::Alert(*description),
        (22, [2, ..]) => {
            // Type, length, version, random; then the session's id.
            let suite = 4 + 2 + 32 + 1 + usize::from(record[38]);
            let mut extensions = Vec::new();
            let mut at = suite + 5;
            let end = 4 + usize::from(number(2));
            while at + 4 <= end {
                extensions.push(number(at));
                at += 4 + usize::from(number(at + 2));
            }
            Answer::Hello {
                suite: number(suite),
                compression: record[suite + 2],
                extensions,
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_scanners_look_for_is_off() {
    let service = begin("tls-off");
    let server = server(&service);
    let ask = |bytes: &[u8]| ask(server, bytes);

    // Versions: SSL 3.0, TLS 1.0, TLS 1.1, with suites that they have.
    for minor in 0..=2 {
        let suites = [0xc009, 0xc013, 0x002f, 0x0035, 0x000a];
        let answer = ask(&hello([3, minor], &suites, &[0], &[]));
        assert!(is_refused(&answer), "3.{minor}: {answer:?}");
        let answer = ask(&hello([3, minor], GOOD, &[0], &[]));
        assert_eq!(answer, PROTOCOL_VERSION, "3.{minor}");
    }
    // SSL 2's own first message (RFC 6101, E).
    let answer = ask(b"\x80\x1c\x01\0\x02\0\x03\0\0\0\x10\x01\0\x80abcdefghijklmnop");
    assert!(!matches!(answer, Answer::Hello { .. }), "{answer:?}");

    // Suites: no encryption, export, RC4, DES, 3DES, nobody's identity, CBC, and keys that can be had
    // from the server's own key later (RSA, static DH) or are weak often (DHE).
    let weak: &[u16] = &[
        0x0001, 0x0002, 0x003b, 0xc006, 0xc010, // NULL
        0x0003, 0x0006, 0x0008, 0x0014, // export
        0x0004, 0x0005, 0xc007, 0xc011, // RC4
        0x0009, 0x000a, 0x0016, 0xc008, 0xc012, // DES, 3DES
        0x0018, 0x0034, 0x006c, 0xc018, // anonymous
        0x002f, 0x0035, 0x003c, 0x003d, 0xc009, 0xc00a, 0xc013, 0xc014, 0xc023, 0xc027, // CBC
        0x009c, 0x009d, 0x0031, 0x00a0, // RSA and DH of the certificate
        0x0033, 0x0039, 0x0067, 0x009e, 0x009f, 0xccaa, // DHE
        0x0041, 0x0084, 0x0096, 0x0007, // Camellia, SEED, IDEA
        0x008c, 0x00a8, // PSK
    ];
    for suite in weak {
        let answer = ask(&hello([3, 3], &[*suite], &[0], &[]));
        assert!(is_refused(&answer), "{suite:#06x}: {answer:?}");
    }
    let answer = ask(&hello([3, 3], weak, &[0], &[]));
    assert!(is_refused(&answer), "{answer:?}");

    // Compression (CRIME) and heartbeat (Heartbleed) are not chosen, whoever offers them; renegotiation
    // is known to be safe (RFC 5746), and the keys are those of this handshake (RFC 7627).
    let more: &[(u16, &[u8])] = &[(HEARTBEAT, &[1]), (EXTENDED_MASTER_SECRET, &[])];
    match ask(&hello([3, 3], GOOD, &[1, 0], more)) {
        Answer::Hello {
            suite,
            compression,
            extensions,
        } => {
            assert!(GOOD.contains(&suite));
            assert_eq!(compression, 0);
            assert!(!extensions.contains(&HEARTBEAT), "{extensions:?}");
            for wanted in [RENEGOTIATION_INFO, EXTENDED_MASTER_SECRET] {
                assert!(extensions.contains(&wanted), "{extensions:?}");
            }
        }
        answer => panic!("{answer:?}"),
    }
    let answer = ask(&hello([3, 3], GOOD, &[1], &[]));
    assert!(matches!(answer, Answer::Alert(_)), "{answer:?}");
}
