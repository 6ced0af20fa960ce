//! From secrets to ciphers, in any process: every derivation and every cipher is rustls' provider's.
//!
//! TLS 1.3 (RFC 8446, 7.3) keeps a *traffic secret* a direction, from which key and IV follow and
//! which a KeyUpdate replaces. TLS 1.2 keeps key and IV themselves.

use std::cell::RefCell;
use std::sync::LazyLock;

use rustls::crypto::cipher::{AeadKey, Iv, MessageDecrypter, MessageEncrypter};
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::quic;
use rustls::{CipherSuite, ConnectionTrafficSecrets, Error, SupportedCipherSuite};
use rustls::{Tls12CipherSuite, Tls13CipherSuite};
use zeroize::{Zeroize as _, Zeroizing};

/// A suite that we can carry: all that the provider has.
#[derive(Clone, Copy)]
pub(super) enum Suite {
    /// Of TLS 1.2.
    V12(&'static Tls12CipherSuite),
    /// Of TLS 1.3.
    V13(&'static Tls13CipherSuite),
}

/// What the keys of one direction are made of. Wiped when dropped.
///
/// TLS 1.3: the traffic secret. TLS 1.2: the key, then 12 bytes of IV.
pub(super) struct Secret(Zeroizing<Vec<u8>>);

/// In both versions (RFC 8446, 5.3; RFC 5288, 3; RFC 7905, 2).
const IV_LEN: usize = 12;

impl Suite {
    /// By its number (RFC 8446, B.4; RFC 5246, A.5).
    pub(super) fn by_number(number: u16) -> Option<Self> {
        let suites = &super::provider().cipher_suites;
        let found = suites
            .iter()
            .find(|suite| number == u16::from(suite.suite()))?;
        Some(Self::from(*found))
    }

    pub(super) fn number(self) -> u16 {
        self.suite().into()
    }

    pub(super) fn suite(self) -> CipherSuite {
        match self {
            Self::V12(suite) => suite.common.suite,
            Self::V13(suite) => suite.common.suite,
        }
    }

    pub(super) fn is_13(self) -> bool {
        matches!(self, Self::V13(_))
    }

    /// How many records one key may seal.
    pub(super) fn limit(self) -> u64 {
        match self {
            Self::V12(suite) => suite.common.confidentiality_limit,
            Self::V13(suite) => suite.common.confidentiality_limit,
        }
    }

    /// How long the [`Secret`]s of this suite are.
    pub(super) fn secret_len(self) -> usize {
        match self {
            Self::V12(suite) => suite.aead_alg.key_block_shape().enc_key_len + IV_LEN,
            Self::V13(suite) => suite.common.hash_provider.output_len(),
        }
    }

    /// What seals with this secret. `None`: the provider does not know the key's length.
    pub(super) fn sealer(self, secret: &Secret) -> Option<Box<dyn MessageEncrypter>> {
        Some(match self {
            Self::V12(suite) => {
                let shape = suite.aead_alg.key_block_shape();
                let (key, iv) = secret.0.split_at_checked(shape.enc_key_len)?;
                let (fixed, explicit) = iv.split_at_checked(shape.fixed_iv_len)?;
                suite.aead_alg.encrypter(aead_key(key)?, fixed, explicit)
            }
            Self::V13(suite) => {
                let (key, iv) = key_and_iv(suite, secret)?;
                suite.aead_alg.encrypter(key, iv)
            }
        })
    }

    /// What opens with this secret.
    pub(super) fn opener(self, secret: &Secret) -> Option<Box<dyn MessageDecrypter>> {
        Some(match self {
            Self::V12(suite) => {
                let shape = suite.aead_alg.key_block_shape();
                let (key, iv) = secret.0.split_at_checked(shape.enc_key_len)?;
                let fixed = iv.get(..shape.fixed_iv_len)?;
                suite.aead_alg.decrypter(aead_key(key)?, fixed)
            }
            Self::V13(suite) => {
                let (key, iv) = key_and_iv(suite, secret)?;
                suite.aead_alg.decrypter(key, iv)
            }
        })
    }

    /// The secret after a KeyUpdate (RFC 8446, 7.2). `None` in TLS 1.2, which has none.
    pub(super) fn next(self, secret: &Secret) -> Option<Secret> {
        let Self::V13(suite) = self else { return None };
        let mut next = Zeroizing::new(vec![0; secret.0.len()]);
        let current = suite
            .hkdf_provider
            .expander_for_okm(&OkmBlock::new(&secret.0));
        expand(&*current, b"traffic upd", &mut next).ok()?;
        Some(Secret(next))
    }

    /// The secret of one direction when the handshake is over: `extracted` by rustls, `logged` the
    /// traffic secret that it told its key log (TLS 1.3). `None`: they do not belong together.
    pub(super) fn secret(
        self,
        extracted: &ConnectionTrafficSecrets,
        logged: Option<Secret>,
    ) -> Option<Secret> {
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = extracted
        else {
            return None;
        };
        match self {
            Self::V12(_) => {
                let mut both = Zeroizing::new(Vec::with_capacity(self.secret_len()));
                both.extend_from_slice(key.as_ref());
                both.extend_from_slice(iv.as_ref());
                Some(Secret(both)).filter(|secret| secret.0.len() == self.secret_len())
            }
            Self::V13(suite) => {
                let logged = logged.filter(|secret| secret.0.len() == self.secret_len())?;
                let (our_key, our_iv) = key_and_iv(suite, &logged)?;
                let same = our_key.as_ref() == key.as_ref() && our_iv.as_ref() == iv.as_ref();
                same.then_some(logged)
            }
        }
    }
}

impl From<SupportedCipherSuite> for Suite {
    fn from(suite: SupportedCipherSuite) -> Self {
        match suite {
            SupportedCipherSuite::Tls12(suite) => Self::V12(suite),
            SupportedCipherSuite::Tls13(suite) => Self::V13(suite),
        }
    }
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.suite().fmt(f)
    }
}

impl Secret {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// For the blob that travels, and for nothing else.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn key_and_iv(suite: &'static Tls13CipherSuite, secret: &Secret) -> Option<(AeadKey, Iv)> {
    let expander = suite
        .hkdf_provider
        .expander_for_okm(&OkmBlock::new(&secret.0));
    let mut key = Zeroizing::new(vec![0; suite.aead_alg.key_len()]);
    expand(&*expander, b"key", &mut key).ok()?;
    let mut iv = [0; IV_LEN];
    expand(&*expander, b"iv", &mut iv).ok()?;
    Some((aead_key(&key)?, Iv::from(iv)))
}

/// HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
pub(super) fn expand(
    expander: &dyn HkdfExpander,
    label: &[u8],
    out: &mut [u8],
) -> Result<(), OutputLengthError> {
    const PREFIX: &[u8] = b"tls13 ";
    let len = u16::try_from(out.len()).map_err(|_| OutputLengthError)?;
    let label_len = u8::try_from(PREFIX.len() + label.len()).map_err(|_| OutputLengthError)?;
    let info = [&len.to_be_bytes()[..], &[label_len], PREFIX, label, &[0]];
    expander.expand_slice(&info, out)
}

/// rustls 0.23 makes an [`AeadKey`] only of 32 bytes; 0.24 will of 16 as well, and what is below
/// this function goes. Until then a shorter one comes from where rustls makes such keys itself: from
/// its QUIC keys, of a hash that hands through what it is given.
pub(super) fn aead_key(bytes: &[u8]) -> Option<AeadKey> {
    if let Ok(mut whole) = <[u8; 32]>::try_from(bytes) {
        let key = AeadKey::from(whole);
        // The array was copied into it.
        whole.zeroize();
        return Some(key);
    }
    if bytes.len() != SHORT_KEY {
        return None;
    }
    let suite: &'static Tls13CipherSuite = &MAKER;
    drop(quic::Keys::initial(
        quic::Version::V1,
        suite,
        &Catcher,
        bytes,
        rustls::Side::Server,
    ));
    // A rustls that makes them otherwise costs us these connections' moves, never a wrong key.
    CAUGHT.take().filter(|key| key.as_ref() == bytes)
}

/// Of AES-128.
const SHORT_KEY: usize = 16;

thread_local! {
    static CAUGHT: RefCell<Option<AeadKey>> = const { RefCell::new(None) };
}

static MAKER: LazyLock<Tls13CipherSuite> = LazyLock::new(|| {
    let real = match rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls13(suite) => suite,
        SupportedCipherSuite::Tls12(_) => unreachable!("by its name it is of TLS 1.3"),
    };
    Tls13CipherSuite {
        common: rustls::crypto::CipherSuiteCommon {
            suite: real.common.suite,
            hash_provider: real.common.hash_provider,
            confidentiality_limit: real.common.confidentiality_limit,
        },
        hkdf_provider: &HandsThrough,
        aead_alg: real.aead_alg,
        quic: None,
    }
});

struct HandsThrough;
struct Through(Zeroizing<Vec<u8>>);

impl Hkdf for HandsThrough {
    fn extract_from_zero_ikm(&self, _: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        Box::new(Through(Zeroizing::default()))
    }

    fn extract_from_secret(&self, _: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        Box::new(Through(Zeroizing::new(secret.to_vec())))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(Through(Zeroizing::new(okm.as_ref().to_vec())))
    }

    fn hmac_sign(&self, _: &OkmBlock, _: &[u8]) -> rustls::crypto::hmac::Tag {
        rustls::crypto::hmac::Tag::new(&[])
    }
}

impl HkdfExpander for Through {
    fn expand_slice(&self, _: &[&[u8]], out: &mut [u8]) -> Result<(), OutputLengthError> {
        for (out, byte) in out.iter_mut().zip(self.0.iter()) {
            *out = *byte;
        }
        Ok(())
    }

    fn expand_block(&self, _: &[&[u8]]) -> OkmBlock {
        OkmBlock::new(&self.0)
    }

    fn hash_len(&self) -> usize {
        SHORT_KEY
    }
}

/// Catches the key of the packets that nobody will ever send.
struct Catcher;

impl quic::Algorithm for Catcher {
    fn packet_key(&self, key: AeadKey, _: Iv) -> Box<dyn quic::PacketKey> {
        CAUGHT.replace(Some(key));
        Box::new(Nothing)
    }

    fn header_protection_key(&self, _: AeadKey) -> Box<dyn quic::HeaderProtectionKey> {
        Box::new(Nothing)
    }

    fn aead_key_len(&self) -> usize {
        SHORT_KEY
    }
}

struct Nothing;

impl quic::PacketKey for Nothing {
    fn encrypt_in_place(&self, _: u64, _: &[u8], _: &mut [u8]) -> Result<quic::Tag, Error> {
        Err(Error::EncryptError)
    }

    fn decrypt_in_place<'a>(&self, _: u64, _: &[u8], _: &'a mut [u8]) -> Result<&'a [u8], Error> {
        Err(Error::DecryptError)
    }

    fn tag_len(&self) -> usize {
        0
    }

    fn confidentiality_limit(&self) -> u64 {
        0
    }

    fn integrity_limit(&self) -> u64 {
        0
    }
}

impl quic::HeaderProtectionKey for Nothing {
    fn encrypt_in_place(&self, _: &[u8], _: &mut u8, _: &mut [u8]) -> Result<(), Error> {
        Err(Error::EncryptError)
    }

    fn decrypt_in_place(&self, _: &[u8], _: &mut u8, _: &mut [u8]) -> Result<(), Error> {
        Err(Error::DecryptError)
    }

    fn sample_len(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_either_length_is_what_went_in() {
        for len in [SHORT_KEY, 32] {
            let bytes: Vec<u8> = (1..).take(len).collect();
            assert_eq!(aead_key(&bytes).unwrap().as_ref(), bytes);
        }
        assert!(aead_key(&[0; 24]).is_none());
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        assert_eq!(format!("{:?}", Secret::new(&[7; 32])), "Secret(..)");
    }

    /// RFC 8448, section 3: the server's handshake traffic secret and what follows from it.
    #[test]
    fn keys_follow_from_a_secret_as_in_the_example_of_the_rfc() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect()
        };
        let secret = hex("b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38");
        let Some(Suite::V13(suite)) = Suite::by_number(0x1301) else {
            panic!("TLS_AES_128_GCM_SHA256 is there");
        };
        let (key, iv) = key_and_iv(suite, &Secret::new(&secret)).unwrap();
        assert_eq!(key.as_ref(), hex("3fce516009c21727d0f2e4e86ee403bc"));
        assert_eq!(iv.as_ref(), hex("5d313eb2671276ee13000b30"));
    }
}
