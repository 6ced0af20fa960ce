//! Session tickets by the key ring that all workers of all generations share, so that a client that
//! comes back resumes wherever it comes to (RFC 8446, 2.2; RFC 5077).
//!
//! A ticket is the key's name, a salt, and what rustls wants kept, sealed with a key of its own: both
//! follow from the ring's key and the salt. So no number has to be counted, not even over processes.
//! It holds rustls' own encoding, so the key also depends on rustls' version: when that changes,
//! clients shake hands anew. rustls asks nothing when it resumes, so whoever must show a certificate
//! gets no ticket ([`super::setup`]).

use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::cipher::{InboundOpaqueMessage, Iv, OutboundPlainMessage};
use rustls::crypto::tls13::OkmBlock;
use rustls::server::ProducesTickets;
use rustls::{ContentType, ProtocolVersion, SupportedCipherSuite, Tls13CipherSuite};
use zeroize::Zeroizing;

use super::keys::{aead_key, expand};
use crate::machine::tickets::{TICKET_LIFETIME, TicketKey, TicketKeys};

/// The worker's view of the ring.
pub(in crate::worker) struct Tickets {
    ring: RwLock<Arc<TicketKeys>>,
}

const NAME: usize = 16;
const SALT: usize = 32;
/// Of a TLS record.
const HEAD: usize = 5;

/// No ticket of ours is longer: the client's certificates are in it.
const TICKET_MAX: usize = 16 * 1024;

/// rustls' encoding may change with its minor version.
const ENCODING: &[u8] = b"handover ticket, rustls 0.23";

impl Tickets {
    pub(super) fn new(ring: Arc<TicketKeys>) -> Self {
        Self {
            ring: RwLock::new(ring),
        }
    }

    /// The master has newer keys.
    pub(in crate::worker) fn renew(&self, ring: Arc<TicketKeys>) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
    }

    fn ring(&self) -> Arc<TicketKeys> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Key and IV of one ticket.
    fn keys(key: &TicketKey, salt: &[u8]) -> Option<(Zeroizing<[u8; 32]>, Iv)> {
        let suite = suite();
        let prk = suite
            .hkdf_provider
            .extract_from_secret(Some(ENCODING), key.secret());
        let own = prk.expand_block(&[b"ticket", salt]);
        let own = suite
            .hkdf_provider
            .expander_for_okm(&OkmBlock::new(own.as_ref()));
        let mut key = Zeroizing::new([0; 32]);
        expand(&*own, b"key", &mut *key).ok()?;
        let mut iv = [0; 12];
        expand(&*own, b"iv", &mut iv).ok()?;
        Some((key, Iv::from(iv)))
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(TICKET_LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.ring();
        let ring_key = ring.newest()?;
        let mut salt = [0; SALT];
        super::provider().secure_random.fill(&mut salt).ok()?;
        let (key, iv) = Self::keys(ring_key, &salt)?;
        let mut sealer = suite().aead_alg.encrypter(aead_key(&*key)?, iv);
        let record = OutboundPlainMessage {
            typ: ContentType::ApplicationData,
            version: ProtocolVersion::TLSv1_2,
            payload: plain.into(),
        };
        let record = sealer.encrypt(record, 0).ok()?.encode();
        let mut ticket = Vec::with_capacity(NAME + SALT + record.len());
        ticket.extend_from_slice(ring_key.name());
        ticket.extend_from_slice(&salt);
        ticket.extend_from_slice(record.get(HEAD..)?);
        (ticket.len() <= TICKET_MAX).then_some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_MAX {
            return None;
        }
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (salt, sealed) = rest.split_at_checked(SALT)?;
        let ring = self.ring();
        let (key, iv) = Self::keys(ring.by_name(name)?, salt)?;
        let mut opener = suite().aead_alg.decrypter(aead_key(&*key)?, iv);
        let mut sealed = sealed.to_vec();
        let record = InboundOpaqueMessage::new(
            ContentType::ApplicationData,
            ProtocolVersion::TLSv1_2,
            &mut sealed,
        );
        let plain = opener.decrypt(record, 0).ok()?;
        (plain.typ == ContentType::ApplicationData).then(|| plain.payload.to_vec())
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets(..)")
    }
}

/// What tickets are sealed with: its keys are 32 bytes long.
fn suite() -> &'static Tls13CipherSuite {
    match rustls::crypto::ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256 {
        SupportedCipherSuite::Tls13(suite) => suite,
        SupportedCipherSuite::Tls12(_) => unreachable!("by its name it is of TLS 1.3"),
    }
}
