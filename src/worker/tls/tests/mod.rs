//! Our records beside rustls': the same handshake and the same secrets.

use std::io::{IoSlice, Read as _, Write as _};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ContentType, KeyLog, RootCertStore, ServerConfig,
    ServerConnection, SupportedCipherSuite, SupportedProtocolVersion,
};

use super::blob::Blob;
use super::info::TlsInfo;
use super::keys::{Secret, Suite};
use super::provider;
use super::records::{Direction, Failure, Memory, Opened, Output, Records};
use super::sealed::{Plain, Sealed};

mod blob;
mod limits;
mod said;
mod same_bytes;
mod socket;

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
const RSA: &str = include_str!("../rsa-for-tests.pem");

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

fn suite_of(number: u16) -> SupportedCipherSuite {
    let known = suites().iter().find(|s| u16::from(s.suite()) == number);
    *known.unwrap()
}
