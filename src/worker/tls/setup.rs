//! How rustls is set up: the certificates by name, the versions, who must show a certificate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SignatureAlgorithm, SupportedProtocolVersion};

use super::handshake::Catcher;
use super::info::TlsInfo;
use super::provider;
use super::tickets::Tickets;
use crate::config::{Identities, Staple, Tls, TlsVersion};
use crate::machine::tickets::TicketKeys;

/// Why TLS cannot be spoken. The configuration was checked by the master; so this is rare.
#[derive(Debug, thiserror::Error)]
pub(in crate::worker) enum SetupError {
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("cannot set up the check of client certificates: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

/// What a worker needs to shake hands.
#[derive(Debug)]
pub(in crate::worker) struct TlsSetup {
    pub(in crate::worker) config: Arc<ServerConfig>,
    /// `None`: `[tls] tickets = false`.
    pub(in crate::worker) tickets: Option<Arc<Tickets>>,
    /// Checks the certificate that clients must show, where they must.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    min_version: TlsVersion,
}

impl TlsSetup {
    /// As configured, with these certificates and ticket keys.
    pub(in crate::worker) fn new(
        tls: &Tls,
        identities: &Identities,
        ring: Option<Arc<TicketKeys>>,
        http2: bool,
    ) -> Result<Self, SetupError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()));
        let builder = builder.with_protocol_versions(versions(tls.min_version))?;
        let asks_client = !identities.client_ca.is_empty();
        let verifier = asks_client.then(|| verifier(identities)).transpose()?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(identities)?));
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(Catcher);
        // Memory of one process: the ring is everybody's.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if http2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        // Who must show a certificate shows it each time: a session that is resumed would bring along the
        // one of its beginning, which may have been replaced or refused since.
        let wanted = tls.tickets && !asks_client;
        let tickets = ring.filter(|_| wanted).map(Tickets::new).map(Arc::new);
        match &tickets {
            Some(tickets) => config.ticketer = tickets.clone(),
            None => config.send_tls13_tickets = 0,
        }
        Ok(Self {
            config: Arc::new(config),
            tickets,
            verifier,
            min_version: tls.min_version,
        })
    }

    /// Whether a client may be answered whose handshake was with another generation. What was checked
    /// then counts for nothing: the authorities may be other ones now, and certificates expire.
    pub(in crate::worker) fn admits(&self, info: Option<&TlsInfo>) -> bool {
        let Some(verifier) = &self.verifier else {
            return true;
        };
        let certificates = info.map_or(&[][..], |info| info.client_certificates.as_slice());
        let Some((own, others)) = certificates.split_first() else {
            return false;
        };
        let own = CertificateDer::from(own.as_slice());
        let others: Vec<CertificateDer<'_>> = others
            .iter()
            .map(|certificate| CertificateDer::from(certificate.as_slice()))
            .collect();
        let answer = verifier.verify_client_cert(&own, &others, UnixTime::now());
        answer.is_ok()
    }

    /// Whether clients must show a certificate.
    pub(in crate::worker) fn asks_client(&self) -> bool {
        self.verifier.is_some()
    }

    /// Whether a connection of this version would not be made any longer.
    pub(in crate::worker) fn is_too_old(&self, info: &TlsInfo) -> bool {
        self.min_version == TlsVersion::V13 && info.version != "TLSv1.3"
    }
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    match min {
        TlsVersion::V12 => BOTH,
        TlsVersion::V13 => &BOTH[..1],
    }
}

fn verifier(identities: &Identities) -> Result<Arc<dyn ClientCertVerifier>, SetupError> {
    let mut roots = RootCertStore::empty();
    for authority in &identities.client_ca {
        roots.add(CertificateDer::from(authority.as_slice()).into_owned())?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider()));
    Ok(verifier.build()?)
}

/// Certificates by the names that they are for. A name may have several, of different kinds of keys:
/// the first that the client can check is used, those with RSA keys last: they cost more, and
/// in TLS 1.3 a client that names the RSA signatures of TLS 1.2 only seems to take one.
#[derive(Debug)]
struct ByName {
    all: Vec<Arc<CertifiedKey>>,
    /// The same with an answer of OCSP, as long as that is good.
    stapled: HashMap<usize, (Arc<CertifiedKey>, Staple)>,
    names: HashMap<String, Vec<usize>>,
    /// For clients that ask for no name, or for one that nobody has: those for a name of the first one,
    /// then all.
    others: Vec<usize>,
}

impl ByName {
    fn new(identities: &Identities) -> Result<Self, SetupError> {
        let mut all = Vec::new();
        let mut stapled = HashMap::new();
        let mut names: HashMap<String, Vec<usize>> = HashMap::new();
        for (n, identity) in identities.list.iter().enumerate() {
            let chain = identity
                .chain
                .iter()
                .map(|certificate| CertificateDer::from(certificate.clone()))
                .collect();
            let key = PrivateKeyDer::try_from(identity.key.bytes())
                .map_err(|why| rustls::Error::General(why.into()))?;
            // Borrowed: rustls' `KeyProvider` would want a copy of it, which nobody wipes.
            let key = any_supported_type(&key)?;
            let certified = CertifiedKey::new(chain, key);
            stapled.extend(identity.ocsp.clone().map(|staple| {
                let mut with = certified.clone();
                with.ocsp = Some(staple.answer.clone());
                (n, (Arc::new(with), staple))
            }));
            all.push(Arc::new(certified));
            for name in &identity.names {
                names.entry(name.to_ascii_lowercase()).or_default().push(n);
            }
        }
        let is_rsa = |n: &usize| all[*n].key.algorithm() == SignatureAlgorithm::RSA;
        for of_one in names.values_mut() {
            of_one.sort_by_key(is_rsa);
        }
        let first = identities
            .list
            .first()
            .and_then(|first| first.names.first());
        let first = first.and_then(|name| names.get(&name.to_ascii_lowercase()));
        let mut others = first.cloned().unwrap_or_default();
        others.extend(0..all.len());
        Ok(Self {
            all,
            stapled,
            names,
            others,
        })
    }

    fn shown(&self, found: usize, now: SystemTime) -> Arc<CertifiedKey> {
        let stapled = self
            .stapled
            .get(&found)
            .filter(|(_, staple)| staple.is_good(now));
        Arc::clone(stapled.map_or(&self.all[found], |(with, _)| with))
    }

    /// Those for a name: its own ones, then those for all names beside it (`*.example.org`).
    fn of<'n>(&'n self, name: &str) -> impl Iterator<Item = usize> + 'n {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wild = name
            .split_once('.')
            .and_then(|(_, parent)| self.names.get(&format!("*.{parent}")));
        let own = self.names.get(&name);
        own.into_iter().chain(wild).flatten().copied()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |n: &usize| self.all[*n].key.choose_scheme(schemes).is_some();
        let mut named = hello.server_name().map(|name| self.of(name));
        let named = named.as_mut().and_then(|named| named.find(fits));
        // As in nginx: somebody else's certificate says more to a person than no answer.
        let found = named.or_else(|| self.others.iter().copied().find(fits));
        // When none fits, rustls finds nothing in common with any, and says so to the client.
        let found = found.or_else(|| self.others.first().copied())?;
        Some(self.shown(found, SystemTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    type Authority = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Authority {
        let mut params = CertificateParams::new(["authority.test".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn setup(authority: &Authority) -> TlsSetup {
        let identities = Identities {
            client_ca: vec![authority.der().to_vec()],
            ..Identities::default()
        };
        TlsSetup::new(&Tls::default(), &identities, None, true).unwrap()
    }

    fn client(authority: &Authority, last_year: i32) -> TlsInfo {
        let mut params = CertificateParams::new(["client.test".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(last_year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        TlsInfo {
            client_certificates: vec![certificate.der().to_vec()],
            ..TlsInfo::default()
        }
    }

    /// Whichever file comes first.
    #[test]
    fn of_two_certificates_for_a_name_the_one_without_rsa_is_shown_first() {
        let rsa = KeyPair::from_pem(include_str!("rsa-for-tests.pem")).unwrap();
        let identity = |file: &str, key: &KeyPair, name: &str| {
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            crate::config::Identity {
                file: file.into(),
                names: vec![name.into()],
                chain: vec![params.self_signed(key).unwrap().der().to_vec()],
                key: crate::config::SecretBytes::new(key.serialize_der()),
                not_before: 0,
                not_after: 0,
                exposed_key: None,
                ocsp: Some(Staple {
                    answer: file.as_bytes().to_vec(),
                    until: 1000,
                }),
                ocsp_fault: None,
                must_staple: false,
            }
        };
        let ecdsa = KeyPair::generate().unwrap();
        let identities = Identities {
            list: vec![
                identity("a-rsa.crt", &rsa, "a.test"),
                identity("b.crt", &ecdsa, "b.test"),
                identity("c-ecdsa.crt", &ecdsa, "a.test"),
            ],
            ..Identities::default()
        };
        let by_name = ByName::new(&identities).unwrap();
        assert_eq!(by_name.of("A.test.").collect::<Vec<_>>(), [2, 0]);
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let shown = |seconds| by_name.shown(1, at(seconds)).ocsp.clone();
        assert_eq!(shown(999).as_deref(), Some(&b"b.crt"[..]));
        assert_eq!(shown(1000), None);
        // Without a name the first one's is meant.
        assert_eq!(by_name.others[..2], [2, 0]);
    }

    #[test]
    fn a_client_from_elsewhere_is_checked_against_the_authorities_of_today() {
        let (ours, others) = (authority(), authority());
        let setup = setup(&ours);
        assert!(setup.admits(Some(&client(&ours, 2999))));
        assert!(!setup.admits(Some(&client(&ours, 2020))), "expired");
        assert!(!setup.admits(Some(&client(&others, 2999))), "of others");
        assert!(!setup.admits(Some(&TlsInfo::default())), "none");
        assert!(!setup.admits(None), "no TLS at all");
        let nobody = Identities::default();
        let open = TlsSetup::new(&Tls::default(), &nobody, None, true).unwrap();
        assert!(open.admits(None) && open.admits(Some(&TlsInfo::default())));
    }
}
