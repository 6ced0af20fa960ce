//! The record layer of an established connection, server's side: what is between plain text and the
//! bytes of the socket from the last handshake message on (RFC 8446, 5; RFC 5246, 6).
//!
//! Pure: bytes in, bytes out; no socket, no clock. Framing, sequence numbers, alerts and KeyUpdate
//! are here. All cryptography is behind rustls' provider traits ([`super::keys`]). What is not here:
//! the handshake (rustls'), which ends before the first byte comes here, and 0-RTT, which is off.
//!
//! Everything that one process must know to go on where another one stopped is in [`Direction`] and
//! [`Memory`]; who has the [`Records`] has the keys, and nobody has a copy.
//!
//! To review: the module above says what must hold. Begin at `seal_one` and `update_keys` (sending),
//! then `measure`, `decrypt`, `look` and what `look` calls (receiving).

use std::collections::VecDeque;
use std::ops::Range;

use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::{AlertDescription, ContentType, Error, ProtocolVersion};

use super::keys::{Secret, Suite};

/// Whole records, to be written to the socket in this order.
pub(super) type Output = VecDeque<Vec<u8>>;

/// The record layer.
pub(super) struct Records {
    pub(super) suite: Suite,
    pub(super) tx: Direction,
    pub(super) rx: Direction,
    pub(super) memory: Memory,
    sealer: Box<dyn MessageEncrypter>,
    opener: Box<dyn MessageDecrypter>,
    /// How many records a key may seal: the suite's.
    limit: u64,
}

/// The keys of one direction, and the number of its next record.
#[derive(Debug)]
pub(super) struct Direction {
    pub(super) seq: u64,
    pub(super) secret: Secret,
}

/// What was said and seen.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; any of them may hold with any other"
)]
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// The peer wants our next keys: said before the next data.
    pub(super) reply_owed: bool,
    /// We want the peer's next keys and have said so.
    pub(super) update_asked: bool,
    pub(super) close_sent: bool,
    pub(super) close_seen: bool,
    /// A fatal alert was sent or seen, or what came cannot be opened.
    pub(super) failed: bool,
    /// KeyUpdates since the last data.
    pub(super) updates: u8,
    /// Empty records since the last data.
    pub(super) empty: u8,
    /// Warnings.
    pub(super) warnings: u8,
    /// TLS 1.2: attempts to shake hands anew.
    pub(super) renegotiations: u8,
    /// TLS 1.3: the first bytes of a KeyUpdate that is cut across records; fewer than five.
    pub(super) message: Vec<u8>,
    /// TLS 1.2: what is still to come of a `ClientHello` that is not answered.
    pub(super) skip: u32,
}

/// What a record held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Plain text, so many bytes from there in the record's own buffer.
    Data(Range<usize>),
    /// Nothing for the application.
    Nothing,
    /// `close_notify`: nothing more comes.
    Close,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The peer broke the protocol; this alert tells it.
    #[error("the client broke the protocol: {0:?}")]
    Ours(AlertDescription),
    /// The peer said so.
    #[error("the client said {0:?}")]
    Peers(AlertDescription),
    /// The key has sealed what it may, and there is no other (TLS 1.2).
    #[error("the connection has sealed as many records as one key may")]
    Worn,
    /// It has ended before.
    #[error("the connection has ended")]
    Ended,
}

/// A record's head: type, version, length.
pub(super) const HEAD: usize = 5;

/// Plain text in one record (RFC 8446, 5.1).
pub(super) const PLAIN_MAX: usize = 16 * 1024;

/// So many without data between end the connection (as in rustls and BoringSSL).
const UPDATES_MAX: u8 = 32;
const EMPTY_MAX: u8 = 32;
const WARNINGS_MAX: u8 = 4;

/// Handshake messages (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE: u8 = 24;
/// Type and length of one.
const MESSAGE_HEAD: usize = 4;
/// The longest `ClientHello` that is read over.
const HELLO_MAX: u32 = 0xffff;

/// Alert levels (RFC 8446, 6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// A number that no record ever gets: far below where it would wrap.
pub(super) const SEQ_MAX: u64 = u64::MAX >> 1;

impl Records {
    /// Goes on from there. `None`: the provider has no such ciphers.
    pub(super) fn new(suite: Suite, tx: Direction, rx: Direction, memory: Memory) -> Option<Self> {
        Some(Self {
            limit: suite.limit(),
            sealer: suite.sealer(&tx.secret)?,
            opener: suite.opener(&rx.secret)?,
            suite,
            tx,
            rx,
            memory,
        })
    }

    // --- out ---

    /// Seals data.
    pub(super) fn seal(
        &mut self,
        data: OutboundChunks<'_>,
        out: &mut Output,
    ) -> Result<(), Failure> {
        if self.memory.failed || self.memory.close_sent {
            return Err(Failure::Ended);
        }
        let mut rest = data;
        while !rest.is_empty() {
            self.renew(out)?;
            let (first, later) = rest.split_at(PLAIN_MAX);
            self.seal_one(ContentType::ApplicationData, first, out)?;
            rest = later;
        }
        Ok(())
    }

    /// Says that no more data follows. Does nothing the second time.
    pub(super) fn close(&mut self, out: &mut Output) {
        if !self.memory.failed && !self.memory.close_sent {
            self.memory.close_sent = true;
            self.alert(WARNING, AlertDescription::CloseNotify, out);
        }
    }

    /// Whether the connection should end soon: half of what one key may seal is sealed, and TLS 1.2
    /// has no other.
    pub(super) fn wears_out(&self) -> bool {
        !self.suite.is_13() && self.tx.seq >= self.limit / 2
    }

    /// The KeyUpdate that is due before more data, if one is.
    fn renew(&mut self, out: &mut Output) -> Result<(), Failure> {
        if !self.suite.is_13() {
            if self.tx.seq >= self.limit {
                // No close_notify: what was being said is cut short.
                self.fail(AlertDescription::InternalError, out);
                return Err(Failure::Worn);
            }
            return Ok(());
        }
        let half = self.limit / 2;
        let asks = self.rx.seq >= half && !self.memory.update_asked;
        if !(self.memory.reply_owed || asks || self.tx.seq >= half) {
            return Ok(());
        }
        self.update_keys(asks, out)
    }

    /// Says KeyUpdate with the old key, and goes on with the next one.
    pub(super) fn update_keys(&mut self, asks: bool, out: &mut Output) -> Result<(), Failure> {
        let message = [KEY_UPDATE, 0, 0, 1, u8::from(asks)];
        self.seal_one(ContentType::Handshake, message[..].into(), out)?;
        let next = self.suite.next(&self.tx.secret);
        let sealer = next.as_ref().and_then(|next| self.suite.sealer(next));
        let (Some(next), Some(sealer)) = (next, sealer) else {
            // The client has heard that other keys follow: nothing more is sealed with these.
            self.memory.failed = true;
            return Err(Failure::Ended);
        };
        self.sealer = sealer;
        self.tx = Direction {
            seq: 0,
            secret: next,
        };
        self.memory.reply_owed = false;
        self.memory.update_asked |= asks;
        Ok(())
    }

    /// As in rustls, a reply that is owed goes before it.
    fn alert(&mut self, level: u8, what: AlertDescription, out: &mut Output) {
        let message = [level, what.into()];
        // What cannot be sealed is not sent: the connection ends all the same.
        if !self.memory.reply_owed || self.update_keys(false, out).is_ok() {
            let _ = self.seal_one(ContentType::Alert, message[..].into(), out);
        }
    }

    /// The only place where a number is used to seal; it is spent before.
    fn seal_one(
        &mut self,
        kind: ContentType,
        payload: OutboundChunks<'_>,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let seq = self.tx.seq;
        if seq >= SEQ_MAX {
            return Err(Failure::Worn);
        }
        self.tx.seq = seq + 1;
        #[cfg(debug_assertions)]
        once::first_use(&self.tx.secret, seq);
        let sealed = self.sealer.encrypt(plain(kind, payload), seq);
        let Ok(sealed) = sealed else {
            self.memory.failed = true;
            return Err(Failure::Ended);
        };
        out.push_back(sealed.encode());
        Ok(())
    }

    // --- in ---

    /// How long the record at the beginning of `bytes` is, head included. `None`: not enough of it
    /// is there to know, or it is not all there.
    pub(super) fn whole(
        &mut self,
        bytes: &[u8],
        out: &mut Output,
    ) -> Result<Option<usize>, Failure> {
        match self.measure(bytes) {
            Ok(len) => Ok(len.filter(|len| *len <= bytes.len())),
            Err(alert) => Err(self.fail(alert, out)),
        }
    }

    fn measure(&self, bytes: &[u8]) -> Result<Option<usize>, AlertDescription> {
        let Some((&[kind, major, minor, high, low], _)) = bytes.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let payload = usize::from(u16::from_be_bytes([high, low]));
        // RFC 8446, 5.2; RFC 5246, 6.2.3. In TLS 1.3 the type is that of data, always.
        let (known, more) = if self.suite.is_13() {
            (kind == 23, 256)
        } else {
            ((21..=23).contains(&kind), 2048)
        };
        if !known {
            return Err(AlertDescription::UnexpectedMessage);
        }
        if (major, minor) != (3, 3) {
            return Err(AlertDescription::ProtocolVersion);
        }
        if payload > PLAIN_MAX + more {
            return Err(AlertDescription::RecordOverflow);
        }
        Ok(Some(HEAD + payload))
    }

    /// Opens one record, as long as [`Self::whole`] said, in place. What must be said at once is in
    /// `out`, a last alert too.
    pub(super) fn open(&mut self, record: &mut [u8], out: &mut Output) -> Result<Opened, Failure> {
        if self.memory.failed || self.memory.close_seen {
            return Err(Failure::Ended);
        }
        let opened = self.decrypt(record);
        let opened = opened.and_then(|(kind, range)| self.look(kind, range, record, out));
        opened.map_err(|failure| match failure {
            Failure::Ours(alert) => self.fail(alert, out),
            other => {
                self.memory.failed = true;
                other
            }
        })
    }

    /// Ends it, and says why.
    pub(super) fn fail(&mut self, alert: AlertDescription, out: &mut Output) -> Failure {
        if !self.memory.failed {
            self.memory.failed = true;
            if !self.memory.close_sent {
                self.alert(FATAL, alert, out);
            }
        }
        Failure::Ours(alert)
    }

    /// What is inside, and where in the record.
    fn decrypt(&mut self, record: &mut [u8]) -> Result<(ContentType, Range<usize>), Failure> {
        let seq = self.rx.seq;
        if seq >= SEQ_MAX {
            return Err(Failure::Worn);
        }
        self.rx.seq = seq + 1;
        let start = record.as_ptr().addr();
        let (head, payload) = record
            .split_first_chunk_mut::<HEAD>()
            .ok_or(Failure::Ours(AlertDescription::DecodeError))?;
        let kind = ContentType::from(head[0]);
        let sealed = InboundOpaqueMessage::new(kind, ProtocolVersion::TLSv1_2, payload);
        let plain = self.opener.decrypt(sealed, seq).map_err(|e| {
            Failure::Ours(match e {
                Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
                Error::PeerMisbehaved(_) => AlertDescription::UnexpectedMessage,
                _ => AlertDescription::BadRecordMac,
            })
        })?;
        let range = if plain.payload.is_empty() {
            0..0
        } else {
            // Not always right behind the head: aws-lc and the explicit nonces of TLS 1.2.
            let from = plain.payload.as_ptr().addr() - start;
            from..from + plain.payload.len()
        };
        Ok((plain.typ, range))
    }

    fn look(
        &mut self,
        kind: ContentType,
        range: Range<usize>,
        record: &[u8],
        out: &mut Output,
    ) -> Result<Opened, Failure> {
        let memory = &mut self.memory;
        let unexpected = Err(Failure::Ours(AlertDescription::UnexpectedMessage));
        let in_a_message = !memory.message.is_empty() || memory.skip > 0;
        if in_a_message && kind != ContentType::Handshake {
            return unexpected;
        }
        let payload = &record[range.clone()];
        match kind {
            ContentType::ApplicationData if payload.is_empty() => {
                memory.empty = memory.empty.saturating_add(1);
                if memory.empty > EMPTY_MAX {
                    return unexpected;
                }
                Ok(Opened::Nothing)
            }
            ContentType::ApplicationData => {
                memory.empty = 0;
                memory.updates = 0;
                Ok(Opened::Data(range))
            }
            ContentType::Alert => match *payload {
                [level, what] => self.hear(level, what.into()),
                [] => unexpected,
                _ => Err(Failure::Ours(AlertDescription::DecodeError)),
            },
            ContentType::Handshake if payload.is_empty() => unexpected,
            ContentType::Handshake if self.suite.is_13() => self.update(payload),
            ContentType::Handshake => self.refuse_renegotiation(payload, out),
            _ => unexpected,
        }
    }

    /// An alert (RFC 8446, 6; RFC 5246, 7.2).
    fn hear(&mut self, level: u8, what: AlertDescription) -> Result<Opened, Failure> {
        let memory = &mut self.memory;
        match level {
            WARNING | FATAL if what == AlertDescription::CloseNotify => {
                memory.close_seen = true;
                Ok(Opened::Close)
            }
            WARNING => {
                memory.warnings = memory.warnings.saturating_add(1);
                let known = !self.suite.is_13() || what == AlertDescription::UserCanceled;
                if known && memory.warnings <= WARNINGS_MAX {
                    Ok(Opened::Nothing)
                } else {
                    Err(Failure::Ours(AlertDescription::DecodeError))
                }
            }
            FATAL => Err(Failure::Peers(what)),
            _ => Err(Failure::Ours(AlertDescription::IllegalParameter)),
        }
    }

    /// TLS 1.3: the only handshake message that may come is KeyUpdate (RFC 8446, 4.6.3), alone in
    /// its records: what follows it is under other keys.
    fn update(&mut self, part: &[u8]) -> Result<Opened, Failure> {
        let wrong = |alert| Err(Failure::Ours(alert));
        let mut message = std::mem::take(&mut self.memory.message);
        message.extend(part.iter().take(MESSAGE_HEAD + 2));
        if message[0] != KEY_UPDATE {
            return wrong(AlertDescription::UnexpectedMessage);
        }
        let head = [KEY_UPDATE, 0, 0, 1];
        let known = message.len().min(MESSAGE_HEAD);
        if message[..known] != head[..known] {
            return wrong(AlertDescription::DecodeError);
        }
        let asks = match message[known..] {
            [] => {
                self.memory.message = message;
                return Ok(Opened::Nothing);
            }
            [0] => false,
            [1] => true,
            [_] => return wrong(AlertDescription::IllegalParameter),
            _ => return wrong(AlertDescription::UnexpectedMessage),
        };
        self.memory.updates = self.memory.updates.saturating_add(1);
        if self.memory.updates > UPDATES_MAX {
            return wrong(AlertDescription::UnexpectedMessage);
        }
        let next = self.suite.next(&self.rx.secret).ok_or(Failure::Ended)?;
        self.opener = self.suite.opener(&next).ok_or(Failure::Ended)?;
        self.rx = Direction {
            seq: 0,
            secret: next,
        };
        self.memory.update_asked = false;
        self.memory.reply_owed |= asks;
        Ok(Opened::Nothing)
    }

    /// TLS 1.2: a client may ask to shake hands anew, and is told no (RFC 5746, 4.4); once.
    fn refuse_renegotiation(&mut self, part: &[u8], out: &mut Output) -> Result<Opened, Failure> {
        let memory = &mut self.memory;
        let mut rest = part;
        if memory.skip == 0 {
            let (head, body) = part
                .split_first_chunk::<MESSAGE_HEAD>()
                .ok_or(Failure::Ours(AlertDescription::UnexpectedMessage))?;
            memory.skip = u32::from_be_bytes([0, head[1], head[2], head[3]]);
            memory.renegotiations = memory.renegotiations.saturating_add(1);
            let welcome = head[0] == CLIENT_HELLO && memory.renegotiations == 1;
            if !welcome || memory.skip > HELLO_MAX {
                return Err(Failure::Ours(AlertDescription::UnexpectedMessage));
            }
            rest = body;
        }
        let left = u32::try_from(rest.len())
            .ok()
            .and_then(|len| memory.skip.checked_sub(len));
        // Something behind it.
        memory.skip = left.ok_or(Failure::Ours(AlertDescription::UnexpectedMessage))?;
        if memory.skip == 0 && !memory.close_sent {
            self.alert(WARNING, AlertDescription::NoRenegotiation, out);
        }
        Ok(Opened::Nothing)
    }

    /// Seals anything, as no server does, so that a test can be a client of any kind.
    #[cfg(any(test, fuzzing))]
    pub(super) fn seal_any(&mut self, kind: ContentType, payload: &[u8], out: &mut Output) {
        self.seal_one(kind, payload.into(), out)
            .expect("a number is left");
    }

    /// Lowers the limit, so that a test sees what happens there.
    #[cfg(test)]
    pub(super) fn limit_to(&mut self, limit: u64) {
        self.limit = limit;
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records")
            .field("suite", &self.suite)
            .field("tx", &self.tx)
            .field("rx", &self.rx)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// The version is that of TLS 1.2 on every record (RFC 8446, 5.1).
fn plain(typ: ContentType, payload: OutboundChunks<'_>) -> OutboundPlainMessage<'_> {
    OutboundPlainMessage {
        typ,
        version: ProtocolVersion::TLSv1_2,
        payload,
    }
}

/// Debug builds: no number is used twice with one secret, in this process.
#[cfg(debug_assertions)]
mod once {
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, RandomState};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::Secret;

    type Used = (RandomState, HashSet<(u64, u64)>);
    static USED: LazyLock<Mutex<Used>> = LazyLock::new(Mutex::default);

    /// Forgotten when there are so many: a debug build that runs for long is no test.
    const MOST: usize = 1 << 20;

    /// Panics at the second use.
    pub(super) fn first_use(secret: &Secret, seq: u64) {
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        let (hasher, numbers) = &mut *used;
        if numbers.len() >= MOST {
            numbers.clear();
        }
        let new = numbers.insert((hasher.hash_one(secret.bytes()), seq));
        drop(used);
        assert!(new, "record number {seq} was sealed twice with one key");
    }
}
