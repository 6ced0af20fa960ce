//! Certificates and keys: read, looked at, never trusted further than that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;
use x509_cert::time::Time;
use zeroize::Zeroize as _;

use super::certificate::CertificateError;
use super::ocsp;
use super::secret::SecretBytes;
use super::tls::{Identity, read_file};

impl Identity {
    /// What the two files hold. The flag of an error: the key's file is meant.
    pub(super) fn read(file: &Path, key_file: &Path) -> Result<Self, (bool, CertificateError)> {
        for (path, other) in [(file, key_file), (key_file, file)] {
            // Whoever has put one there has forgotten the other.
            if path.exists() && !other.exists() {
                let (path, other) = (path.into(), other.into());
                return Err((path == *file, CertificateError::NoPartner { path, other }));
            }
        }
        let pem = read_file(file).map_err(|e| (false, e))?;
        let key_pem = read_file(key_file).map_err(|e| (true, e))?;
        let chain = chain(file, &pem).map_err(|e| (false, e))?;
        let key = key(key_file, &key_pem).map_err(|e| (true, e))?;
        let facts = examine(file, &chain).map_err(|e| (false, e))?;
        let (ocsp, ocsp_fault) = match ocsp::read(&file.with_extension("ocsp"), &chain[0]) {
            Ok(staple) => (staple, None),
            Err(why) => (None, Some(why)),
        };
        belong_together((file, &chain), (key_file, &key)).map_err(|e| (true, e))?;
        Ok(Self {
            file: file.into(),
            names: facts.names,
            chain,
            key,
            not_before: facts.not_before,
            not_after: facts.not_after,
            exposed_key: for_everybody(key_file).then(|| key_file.into()),
            ocsp,
            ocsp_fault,
            must_staple: facts.must_staple,
        })
    }
}

/// It was read already: an error means that it has just gone.
fn for_everybody(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|about| about.permissions().mode() & 0o007 != 0)
}

/// What [`examine`] finds.
struct Facts {
    names: Vec<String>,
    /// It says that its server shows an answer of OCSP with it (RFC 7633).
    must_staple: bool,
    not_before: u64,
    not_after: u64,
}

/// The certificates of a file, in DER.
fn chain(path: &Path, pem: &[u8]) -> Result<Vec<Vec<u8>>, CertificateError> {
    let not_pem = |why: String| CertificateError::NotPem {
        path: path.into(),
        expected: "certificate",
        why,
    };
    let chain: Result<Vec<Vec<u8>>, _> = CertificateDer::pem_slice_iter(pem)
        .map(|found| found.map(|der| der.to_vec()))
        .collect();
    let chain = chain.map_err(|e| not_pem(e.to_string()))?;
    if chain.is_empty() {
        return Err(not_pem("there is no BEGIN CERTIFICATE in it".into()));
    }
    Ok(chain)
}

/// The authorities of a file.
pub(super) fn authorities(path: &Path, pem: &[u8]) -> Result<Vec<Vec<u8>>, CertificateError> {
    let authorities = chain(path, pem)?;
    let mut roots = rustls::RootCertStore::empty();
    for der in &authorities {
        let added = roots.add(CertificateDer::from(der.as_slice()));
        added.map_err(|e| malformed(path, &e))?;
    }
    Ok(authorities)
}

/// The key of a file, in DER.
fn key(path: &Path, pem: &[u8]) -> Result<SecretBytes, CertificateError> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(mut der) => {
            let secret = SecretBytes::new(der.secret_der().to_vec());
            der.zeroize();
            Ok(secret)
        }
        Err(e) => {
            let encrypted = pem
                .windows(ENCRYPTED.len())
                .any(|window| window == ENCRYPTED);
            Err(CertificateError::NotPem {
                path: path.into(),
                expected: "private key",
                why: match e {
                    _ if encrypted => "it is encrypted; store it decrypted, readable only by the \
                                       service's user"
                        .into(),
                    pem::Error::NoItemsFound => "there is no BEGIN PRIVATE KEY in it".into(),
                    e => e.to_string(),
                },
            })
        }
    }
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Whether the key can be used and is that of the certificate.
fn belong_together(
    (file, chain): (&Path, &[Vec<u8>]),
    (key_file, key): (&Path, &SecretBytes),
) -> Result<(), CertificateError> {
    let unusable = |why: &dyn std::fmt::Display| CertificateError::Key {
        path: key_file.into(),
        why: why.to_string(),
    };
    let der = PrivateKeyDer::try_from(key.bytes()).map_err(|e| unusable(&e))?;
    let signing = any_supported_type(&der).map_err(|e| unusable(&e))?;
    let chain = chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()).into_owned())
        .collect();
    match CertifiedKey::new(chain, signing).keys_match() {
        Ok(()) => Ok(()),
        Err(rustls::Error::InvalidCertificate(_)) => {
            Err(malformed(file, &"it is no end of a chain"))
        }
        Err(_) => Err(CertificateError::Mismatch {
            key: key_file.into(),
            certificate: file.into(),
        }),
    }
}

/// Names, dates, order and strength.
fn examine(path: &Path, chain: &[Vec<u8>]) -> Result<Facts, CertificateError> {
    let read = |der: &Vec<u8>| Certificate::from_der(der).map_err(|e| malformed(path, &e));
    let certificates: Vec<Certificate> = chain.iter().map(read).collect::<Result<_, _>>()?;
    if let Some(number) = stranger(&certificates) {
        let path = path.into();
        return Err(CertificateError::OutOfOrder { path, number });
    }
    let own = &certificates[0];
    strong(path, own)?;
    let tbs = &own.tbs_certificate;
    Ok(Facts {
        names: names(path, own)?,
        must_staple: tbs
            .extensions
            .iter()
            .flatten()
            .any(|extension| extension.extn_id.to_string() == TLS_FEATURE),
        not_before: seconds(tbs.validity.not_before),
        not_after: seconds(tbs.validity.not_after),
    })
}

/// The first, counted from 1, that is on no way from the server's own to an authority. There may be several
/// ways, as in chains of Let's Encrypt, and clients take them in any order behind the server's own
/// (RFC 8446, 4.4.2).
fn stranger(chain: &[Certificate]) -> Option<usize> {
    let (own, rest) = chain.split_first()?;
    let mut on_a_way = vec![own];
    let mut rest: Vec<_> = (2..).zip(rest).collect();
    loop {
        let before = rest.len();
        rest.retain(|(_, one)| {
            let fits = on_a_way
                .iter()
                .any(|other| *one == *other || signs(one, other));
            if fits {
                on_a_way.push(one);
            }
            !fits
        });
        if rest.len() == before {
            return rest.first().map(|(number, _)| *number);
        }
    }
}

/// Whose only use is that one (RFC 7633, 6).
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";

/// Whether `one` is called as the issuer of `other` is, which is not its own.
fn signs(one: &Certificate, other: &Certificate) -> bool {
    let (one, other) = (&one.tbs_certificate, &other.tbs_certificate);
    other.issuer != other.subject && is_same(&one.subject, &other.issuer)
}

/// Whether two names are the same text. An old authority writes its own in another kind of string than
/// the certificates that it signs.
fn is_same(one: &Name, other: &Name) -> bool {
    let parts = |name: &Name| -> Vec<Vec<(String, Vec<u8>)>> {
        let sets = name.0.iter().map(|set| {
            let parts = set.0.iter().map(|part| {
                let text = part.value.value().to_vec();
                (part.oid.to_string(), text)
            });
            parts.collect()
        });
        sets.collect()
    };
    one == other || parts(one) == parts(other)
}

fn names(path: &Path, certificate: &Certificate) -> Result<Vec<String>, CertificateError> {
    let found = certificate.tbs_certificate.get::<SubjectAltName>();
    let found = found.map_err(|e| malformed(path, &e))?;
    let names: Vec<String> = found
        .iter()
        .flat_map(|(_, names)| &names.0)
        .filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.to_string()),
            GeneralName::IpAddress(address) => address_of(address.as_bytes()),
            _ => None,
        })
        .collect();
    // One of a mesh names a service by URI: its clients look there.
    if names.is_empty() && found.is_none_or(|(_, names)| names.0.is_empty()) {
        return Err(malformed(path, &"it is for no name (no subjectAltName)"));
    }
    Ok(names)
}

fn address_of(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

/// What browsers refuse: RSA below 2048 bits, signatures with MD5 or SHA-1.
fn strong(path: &Path, certificate: &Certificate) -> Result<(), CertificateError> {
    const RSA: &str = "1.2.840.113549.1.1.1";
    const OLD_SIGNATURES: [&str; 3] = [
        "1.2.840.113549.1.1.4",
        "1.2.840.113549.1.1.5",
        "1.2.840.10045.4.1",
    ];
    let weak = |why: String| CertificateError::Weak {
        path: path.into(),
        why,
    };
    let key = &certificate.tbs_certificate.subject_public_key_info;
    if key.algorithm.oid.to_string() == RSA {
        let bits = rsa_bits(key.subject_public_key.raw_bytes())
            .ok_or_else(|| malformed(path, &"its RSA key cannot be read"))?;
        if bits < 2048 {
            return Err(weak(format!(
                "its RSA key has {bits} bits, at least 2048 are needed"
            )));
        }
    }
    let signature = certificate.signature_algorithm.oid.to_string();
    if OLD_SIGNATURES.contains(&signature.as_str()) {
        return Err(weak("it is signed with MD5 or SHA-1".into()));
    }
    Ok(())
}

/// The length of the modulus of an `RSAPublicKey` (RFC 8017, A.1.1).
fn rsa_bits(der: &[u8]) -> Option<usize> {
    use x509_cert::der::asn1::UintRef;
    use x509_cert::der::{Reader as _, SliceReader};
    let mut reader = SliceReader::new(der).ok()?;
    let modulus: UintRef<'_> = reader
        .sequence(|inner| {
            let modulus = inner.decode::<UintRef<'_>>()?;
            inner.decode::<UintRef<'_>>()?;
            Ok(modulus)
        })
        .ok()?;
    let bytes = modulus.as_bytes();
    let zeros = usize::try_from(bytes.first()?.leading_zeros()).ok()?;
    Some(bytes.len() * 8 - zeros)
}

fn seconds(time: Time) -> u64 {
    time.to_unix_duration().as_secs()
}

fn malformed(path: &Path, why: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::Malformed {
        path: path.into(),
        why: why.to_string(),
    }
}
