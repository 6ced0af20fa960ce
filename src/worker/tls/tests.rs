//! Our records beside rustls': the same handshake, the same secrets, and every byte compared.

use std::future::poll_fn;
use std::io::{IoSlice, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::poll;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, ContentType, KeyLog, RootCertStore,
    ServerConfig, ServerConnection, SupportedCipherSuite, SupportedProtocolVersion,
};
use tokio::time::Instant;

use super::blob::{Blob, BlobError};
use super::info::TlsInfo;
use super::keys::{Secret, Suite};
use super::provider;
use super::records::{Direction, Failure, Memory, Opened, Output, Records};
use super::sealed::{Plain, Sealed};
use super::stream::TlsStream;
use crate::context::Ending;
use crate::worker::connection::{Connection, Served};
use crate::worker::connections::Connections;
use crate::worker::rooms::Rooms;
use crate::worker::stream::{Peer, Stream};
use crate::worker::ws::{CLOSE, Farewell};

/// What rustls tells its key log: label, the client's random, the secret.
type Told = (String, Vec<u8>, Vec<u8>);

#[derive(Debug, Default)]
struct Tells(Mutex<Vec<Told>>);

impl KeyLog for Tells {
    fn log(&self, label: &str, random: &[u8], secret: &[u8]) {
        let told = (label.to_owned(), random.to_vec(), secret.to_vec());
        self.0.lock().unwrap().push(told);
    }
}

/// A client, its server by rustls, and the same server by us.
struct Trio {
    client: ClientConnection,
    rustls: ServerConnection,
    ours: Sealed,
    /// The client again, to say what rustls' would not. It does not know what the other one says.
    rude: Records,
}

/// Of TLS 1.3 first, then of 1.2: AES-256, AES-128, ChaCha20 each.
fn suites() -> &'static [SupportedCipherSuite] {
    let all = &provider().cipher_suites;
    assert_eq!(all.len(), 9, "a suite that no test knows");
    all
}

/// A key of RSA, which rcgen cannot make. It is for these tests and for nothing else.
const RSA: &str = include_str!("rsa-for-tests.pem");

fn configs(suite: SupportedCipherSuite) -> (ClientConfig, ServerConfig) {
    let key = match suite.suite() {
        suite if format!("{suite:?}").contains("RSA") => KeyPair::from_pem(RSA),
        _ => KeyPair::generate(),
    };
    let key = key.unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let versions: &[&SupportedProtocolVersion] = &[suite.version()];
    let only = Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        ..CryptoProvider::clone(provider())
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&only))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(only)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    (client, server)
}

impl Trio {
    fn new(suite: SupportedCipherSuite) -> Self {
        let (client, mut server) = configs(suite);
        let told = Arc::new(Tells::default());
        server.key_log = Arc::clone(&told) as Arc<dyn KeyLog>;
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut rustls = ServerConnection::new(Arc::new(server)).unwrap();
        rustls.set_buffer_limit(None);
        client.set_buffer_limit(None);
        let mut hello = Vec::new();
        while client.is_handshaking() || rustls.is_handshaking() || rustls.wants_write() {
            let said = said_by(&mut client);
            hear(&mut rustls, &said);
            let said = said_by(&mut rustls);
            if hello.is_empty() {
                hello.clone_from(&said);
            }
            hear(&mut client, &said);
        }
        let suite = Suite::from(suite);
        let told = told.0.lock().unwrap();
        let secret = |label: &str| &told.iter().find(|(l, ..)| l == label).unwrap().2;
        let (tx, rx, seq) = match suite {
            // Tickets went out in one record already; in TLS 1.2 it was Finished, both ways.
            Suite::V13(_) => (
                Secret::new(secret("SERVER_TRAFFIC_SECRET_0")),
                Secret::new(secret("CLIENT_TRAFFIC_SECRET_0")),
                (1, 0),
            ),
            Suite::V12(suite) => {
                // Record head, message head, version; then the random.
                let random = &hello[11..43];
                let (_, client_random, master) = &told[0];
                let shape = suite.aead_alg.key_block_shape();
                let (k, f, e) = (
                    shape.enc_key_len,
                    shape.fixed_iv_len,
                    shape.explicit_nonce_len,
                );
                let mut block = vec![0; 2 * (k + f) + e];
                let seed = [random, client_random].concat();
                suite
                    .prf_provider
                    .for_secret(&mut block, master, b"key expansion", &seed);
                let explicit = &block[2 * (k + f)..];
                let of = |n: usize| {
                    let (key, iv) = (&block[n * k..][..k], &block[2 * k + n * f..][..f]);
                    Secret::new(&[key, iv, explicit].concat())
                };
                (of(1), of(0), (1, 1))
            }
        };
        let from_server = || Direction {
            seq: seq.0,
            secret: Secret::new(tx.bytes()),
        };
        let from_client = || Direction {
            seq: seq.1,
            secret: Secret::new(rx.bytes()),
        };
        let server = Records::new(suite, from_server(), from_client(), Memory::default());
        let rude = Records::new(suite, from_client(), from_server(), Memory::default());
        let info = Arc::new(TlsInfo {
            server_name: Some("localhost".into()),
            alpn: Some("h2".into()),
            client_certificates: vec![vec![1; 900], vec![2; 3]],
            ..TlsInfo::of(suite)
        });
        let ours = Sealed::new(server.unwrap(), BytesMut::new(), info);
        drop(told);
        Self {
            client,
            rustls,
            ours,
            rude: rude.unwrap(),
        }
    }

    /// Both servers send it; the bytes are the same, and the client reads what was sent.
    fn send(&mut self, parts: &[&[u8]]) {
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let whole = parts.concat();
        let mut sent = 0;
        let mut ours = Vec::new();
        // We take 64 KiB at a time; rustls fragments the same way, beginning at each call.
        while sent < whole.len() {
            let n = if sent == 0 {
                self.ours.seal(&slices).unwrap()
            } else {
                self.ours.seal(&[IoSlice::new(&whole[sent..])]).unwrap()
            };
            ours.extend(written(&mut self.ours));
            self.rustls.writer().write_all(&whole[sent..][..n]).unwrap();
            sent += n;
        }
        let rustls = said_by(&mut self.rustls);
        assert!(ours == rustls, "{} and {} bytes", ours.len(), rustls.len());
        assert!(hear(&mut self.client, &ours) == whole);
    }

    /// Both servers hear it, in pieces, and read the same. `moves`: through a blob in between.
    fn hear(&mut self, said: &[u8], rng: &mut fastrand::Rng, moves: bool) -> Vec<u8> {
        let mut ours = Vec::new();
        let mut rest = said;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rng.usize(1..=rest.len()));
            rest = later;
            self.ours.input.extend_from_slice(now);
            if moves {
                self.go_round();
            }
            while self.ours.open().unwrap() == Plain::Some {
                // Sometimes not all of it is taken before the next move.
                let most = rng.usize(1..=20_000);
                ours.extend_from_slice(&self.ours.take(most));
                if moves && rng.u8(..) < 30 {
                    self.go_round();
                }
            }
        }
        assert!(ours == hear(&mut self.rustls, said));
        ours
    }

    /// Both servers want the client's next keys, and say so before this.
    fn ask_for_keys(&mut self, data: &[u8]) {
        let memory = &self.ours.records.memory;
        let seq = self.ours.records.rx.seq;
        if memory.reply_owed || memory.update_asked || seq == 0 {
            return;
        }
        self.ours.records.limit_to(2 * seq);
        self.ours.seal(&[IoSlice::new(data)]).unwrap();
        self.ours.records.limit_to(self.ours.records.suite.limit());
        self.rustls.refresh_traffic_keys().unwrap();
        self.rustls.writer().write_all(data).unwrap();
        let ours = written(&mut self.ours);
        assert!(self.ours.records.memory.update_asked);
        assert!(ours == said_by(&mut self.rustls));
        assert!(hear(&mut self.client, &ours) == data);
    }

    /// Both servers hear the same, which is the end of it: what each of them says last.
    fn end_both(&mut self, said: &[u8]) -> (Vec<u8>, Vec<u8>) {
        self.ours.input.extend_from_slice(said);
        while let Ok(Plain::Some) = self.ours.open() {
            self.ours.take(usize::MAX);
        }
        let mut rest = said;
        while !rest.is_empty() {
            self.rustls.read_tls(&mut rest).unwrap();
            if self.rustls.process_new_packets().is_err() {
                break;
            }
            let _ = self.rustls.reader().read_to_end(&mut Vec::new());
        }
        (written(&mut self.ours), said_by(&mut self.rustls))
    }

    /// Through a blob, as to another process.
    fn go_round(&mut self) {
        let before = Trio::new_placeholder(&self.ours);
        let ours = std::mem::replace(&mut self.ours, before);
        let blob = ours.into_blob().expect("it can move");
        self.ours = Sealed::from_blob(Blob::received(blob.bytes())).unwrap();
    }

    /// Something to stand in the place of a connection that is away.
    fn new_placeholder(ours: &Sealed) -> Sealed {
        let suite = ours.records.suite;
        let direction = || Direction {
            seq: 0,
            secret: Secret::new(&vec![0; suite.secret_len()]),
        };
        let records = Records::new(suite, direction(), direction(), Memory::default()).unwrap();
        Sealed::new(records, BytesMut::new(), Arc::clone(&ours.info))
    }
}

fn said_by<S>(connection: &mut rustls::ConnectionCommon<S>) -> Vec<u8> {
    let mut said = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut said).unwrap();
    }
    said
}

/// What is plain text of it.
fn hear<S: rustls::SideData>(
    connection: &mut rustls::ConnectionCommon<S>,
    mut said: &[u8],
) -> Vec<u8> {
    let mut plain = Vec::new();
    while !said.is_empty() {
        connection.read_tls(&mut said).unwrap();
        connection.process_new_packets().unwrap();
        // WouldBlock at its end; nothing more when it is closed.
        let _ = connection.reader().read_to_end(&mut plain);
    }
    plain
}

fn written(ours: &mut Sealed) -> Vec<u8> {
    std::mem::take(&mut ours.output)
        .into_iter()
        .flatten()
        .collect()
}

fn random_bytes(rng: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let len = if rng.bool() {
        rng.usize(1..=200.min(most))
    } else {
        rng.usize(1..=most)
    };
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

#[test]
fn what_we_send_is_byte_for_byte_what_rustls_sends_and_what_we_read_too() {
    for (n, suite) in suites().iter().enumerate() {
        let mut rng = fastrand::Rng::with_seed(0x7105 + n as u64);
        let mut trio = Trio::new(*suite);
        let updates = suite.tls13().is_some();
        for _ in 0..120 {
            match rng.u8(0..8) {
                0 | 1 => {
                    let data = random_bytes(&mut rng, 70_000);
                    let cut = rng.usize(..data.len());
                    let (head, body) = data.split_at(cut);
                    trio.send(&[head, body]);
                }
                2 | 3 => {
                    let data = random_bytes(&mut rng, 40_000);
                    trio.client.writer().write_all(&data).unwrap();
                    let said = said_by(&mut trio.client);
                    let moves = rng.bool();
                    assert!(trio.hear(&said, &mut rng, moves) == data);
                }
                4 if updates => {
                    trio.client.refresh_traffic_keys().unwrap();
                    // Behind the update, so that it is not the only thing in the message.
                    trio.client.writer().write_all(b"x").unwrap();
                    let said = said_by(&mut trio.client);
                    trio.hear(&said, &mut rng, true);
                    if rng.bool() {
                        trio.send(&[b"the reply goes before this"]);
                    }
                }
                5 if updates => trio.ask_for_keys(b"with other keys"),
                _ => trio.go_round(),
            }
        }
        // A reply that is owed goes before the last word, too.
        if updates {
            trio.client.refresh_traffic_keys().unwrap();
            let said = said_by(&mut trio.client);
            trio.hear(&said, &mut rng, true);
        }
        trio.ours.close();
        trio.rustls.send_close_notify();
        let ours = written(&mut trio.ours);
        assert_eq!(ours, said_by(&mut trio.rustls), "{:?}", suite.suite());
        hear(&mut trio.client, &ours);
        let end = trio.client.reader().read(&mut [0]);
        assert_eq!(end.unwrap(), 0, "the client has understood it");
        trio.client.send_close_notify();
        trio.ours
            .input
            .extend_from_slice(&said_by(&mut trio.client));
        assert_eq!(trio.ours.open(), Ok(Plain::End));
        assert!(!trio.ours.can_move(), "what is closed stays");
    }
}

/// A server of ours, and a client that may say anything.
fn pair(number: u16) -> (Records, Records) {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let suite = Suite::by_number(number).unwrap();
    let seed = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut secret = || -> Vec<u8> {
        std::iter::repeat_with(|| rng.u8(..))
            .take(suite.secret_len())
            .collect()
    };
    let (down, up) = (secret(), secret());
    let side = |tx: &[u8], rx: &[u8]| {
        let direction = |bytes: &[u8]| Direction {
            seq: 0,
            secret: Secret::new(bytes),
        };
        Records::new(suite, direction(tx), direction(rx), Memory::default()).unwrap()
    };
    (side(&down, &up), side(&up, &down))
}

const V13: u16 = 0x1301;
const V12: u16 = 0xc02b;

/// What our server makes of these records of a client, the last one's outcome.
fn says(
    (ours, client): &mut (Records, Records),
    kind: ContentType,
    payload: &[u8],
) -> Result<Opened, Failure> {
    let (mut sent, mut out) = (Output::new(), Output::new());
    client.seal_any(kind, payload, &mut sent);
    let mut record = sent.pop_back().unwrap();
    let len = ours.whole(&record, &mut out)?.unwrap();
    assert_eq!(len, record.len());
    ours.open(&mut record, &mut out)
}

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

fn suite_of(number: u16) -> SupportedCipherSuite {
    let known = suites().iter().find(|s| u16::from(s.suite()) == number);
    *known.unwrap()
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

/// Our end of the connection over a socket, the client, and its end.
fn over_a_socket(trio: Trio) -> (TlsStream, ClientConnection, UnixStream) {
    let Trio { client, ours, .. } = trio;
    let (socket, theirs) = UnixStream::pair().unwrap();
    let (socket, _) = Stream::from_fd(socket.into()).unwrap();
    (TlsStream::new(socket, ours), client, theirs)
}

#[tokio::test]
async fn the_end_that_a_client_has_said_can_be_read_again() {
    let (mut ours, mut client, mut theirs) = over_a_socket(Trio::new(suite_of(V13)));
    client.send_close_notify();
    theirs.write_all(&said_by(&mut client)).unwrap();
    let mut bytes = BytesMut::with_capacity(9);
    let end = poll_fn(|cx| ours.poll_read_some(cx, &mut bytes)).await;
    assert_eq!(end.unwrap(), 0);
    // It sends no more, and has not closed its socket.
    let readable = poll!(poll_fn(|cx| ours.poll_readable(cx)));
    assert!(readable.is_ready());
}

#[tokio::test]
async fn a_request_that_has_begun_in_half_a_record_gets_the_time_of_a_head() {
    let (stream, mut client, mut theirs) = over_a_socket(Trio::new(suite_of(V13)));
    let (gate, live) = Connections::new(None, 1, Rooms::new(1, 1)).enter(true);
    let served = Served {
        name: "https".into(),
        router: axum::Router::new(),
        raw: None,
        tls: true,
        proxy_protocol: false,
    };
    let mut now = Instant::now();
    let mut connection = Connection {
        stream: Stream::Tls(Box::new(stream)),
        leftover: Bytes::new(),
        gate,
        live,
        served: Arc::new(served),
        peer: Peer::Tcp(([127, 0, 0, 1], 1).into()),
        requests: 1,
        idle_since: now,
        head_since: None,
        handshake_due: false,
        proxy_header_due: false,
        http2: None,
    };
    let most = Duration::from_secs(10);
    assert!(connection.brings_nothing(most, now));
    client.writer().write_all(b"GET").unwrap();
    let record = said_by(&mut client);
    theirs.write_all(&record[..9]).unwrap();
    let mut bytes = BytesMut::with_capacity(9);
    poll_fn(|cx| connection.stream.poll_readable(cx))
        .await
        .unwrap();
    let stream = &mut connection.stream;
    let nothing = poll!(poll_fn(|cx| stream.poll_read_some(cx, &mut bytes)));
    assert!(nothing.is_pending());
    assert!(!connection.brings_nothing(most, now));
    now += most / 2;
    assert!(!connection.brings_nothing(most, now));
    now += most / 2;
    assert!(connection.brings_nothing(most, now));
    theirs.write_all(&record[9..]).unwrap();
    assert!(!connection.brings_nothing(most, now), "the kernel has it");
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

#[tokio::test]
async fn a_web_socket_over_tls_1_2_is_told_to_come_again_before_its_keys_are_worn_out() {
    let mut trio = Trio::new(suite_of(V12));
    trio.ours.records.limit_to(10);
    let (stream, mut client, mut theirs) = over_a_socket(trio);
    let mut stream = Stream::Tls(Box::new(stream));
    let mut farewell = Farewell::new(Ending::never());
    let message = b"\x81\x01x";
    for _ in 0..6 {
        let said = poll_fn(|cx| farewell.poll_write(&mut stream, cx, message)).await;
        assert_eq!(said.unwrap(), message.len());
    }
    let mut heard = vec![0; 4096];
    let len = theirs.read(&mut heard).unwrap();
    let heard = hear(&mut client, &heard[..len]);
    assert_eq!(heard, [&message.repeat(4)[..], CLOSE].concat());
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

#[test]
fn nothing_secret_is_shown() {
    let (ours, _) = pair(V13);
    let shown = format!("{ours:?}");
    assert!(shown.contains("Secret(..)"), "{shown}");
    let secret = format!("{:?}", ours.tx.secret.bytes());
    assert!(!shown.contains(&secret));
}
