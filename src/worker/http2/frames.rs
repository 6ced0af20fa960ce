//! Frames of HTTP/2 (RFC 9113, 4.1) as seen from outside: their heads, and a walk along a stream of
//! bytes from one to the next. Nothing here fails: what a frame says is for [`super::ledger`] to judge.

use zeroize::Zeroizing;

/// How long a frame's head is.
pub(super) const HEAD: usize = 9;

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
#[cfg(test)]
pub(super) const PRIORITY: u8 = 0x2;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

/// Of SETTINGS and PING.
pub(super) const ACK: u8 = 0x1;
/// Of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const WITH_PRIORITY: u8 = 0x20;

/// What is in front of a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the payload; 24 bits.
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// 31 bits.
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(bytes: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            len: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    /// Of the frame that begins here, when it is here whole.
    pub(super) fn of_whole(bytes: &[u8]) -> Option<(Self, usize)> {
        let head = Self::parse(bytes.first_chunk()?);
        let len = HEAD + head.payload();
        (bytes.len() >= len).then_some((head, len))
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn payload(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }
}

/// A frame with a short payload.
pub(super) fn write(out: &mut impl Extend<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    debug_assert!(len < 1 << 24);
    out.extend(len.to_be_bytes().into_iter().skip(1));
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload.iter().copied());
}

/// Who wants to know of frames.
pub(super) trait Watch {
    /// Whether the payload is needed, too.
    fn wants(&self, head: &Head) -> bool;
    /// A frame has ended. Its payload is empty where it is not wanted.
    fn frame(&mut self, head: Head, payload: &[u8]);
}

/// A place in a stream of frames.
#[derive(Default)]
pub(super) struct Scanner {
    head: [u8; HEAD],
    /// So much of the head has been seen; all of it: the frame's payload comes.
    have: usize,
    /// So much of the payload is still to come.
    rest: usize,
    /// The payload so far, where it is wanted and did not come in one piece.
    gathered: Zeroizing<Vec<u8>>,
    wanted: bool,
}

/// A wanted payload that is longer is reported without it: nobody may send us such a frame.
const WANTED_MAX: usize = 64 * 1024;

/// No payload: it may be a request's fields.
impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner")
            .field("have", &self.have)
            .field("rest", &self.rest)
            .field("gathered", &self.gathered.len())
            .finish_non_exhaustive()
    }
}

/// Puts `more` behind what is there. Where that must be moved for it, no copy stays behind.
pub(super) fn append(to: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    let len = to.len() + more.len();
    if len > to.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(len.max(2 * to.capacity())));
        larger.extend_from_slice(to);
        *to = larger;
    }
    to.extend_from_slice(more);
}

impl Scanner {
    /// Between two frames.
    pub(super) fn at_boundary(&self) -> bool {
        self.have == 0
    }

    /// So many bytes at least until the frame ends that has begun.
    pub(super) fn needed(&self) -> usize {
        match self.have {
            0 => 0,
            HEAD => self.rest,
            have => HEAD - have,
        }
    }

    /// The next bytes of the stream.
    pub(super) fn walk(&mut self, mut bytes: &[u8], watch: &mut impl Watch) {
        while !bytes.is_empty() {
            if self.have < HEAD {
                let n = bytes.len().min(HEAD - self.have);
                let (now, later) = bytes.split_at(n);
                self.head[self.have..self.have + n].copy_from_slice(now);
                self.have += n;
                bytes = later;
                if self.have < HEAD {
                    return;
                }
                let head = Head::parse(&self.head);
                self.rest = head.payload();
                self.wanted = self.rest <= WANTED_MAX && watch.wants(&head);
            }
            let n = bytes.len().min(self.rest);
            let (now, later) = bytes.split_at(n);
            bytes = later;
            self.rest -= n;
            if self.wanted && (self.rest > 0 || !self.gathered.is_empty()) {
                append(&mut self.gathered, now);
            }
            if self.rest > 0 {
                return;
            }
            let head = Head::parse(&self.head);
            self.have = 0;
            if !self.wanted {
                watch.frame(head, &[]);
            } else if self.gathered.is_empty() {
                watch.frame(head, now);
            } else {
                watch.frame(head, &self.gathered);
                self.gathered = Zeroizing::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<(Head, Vec<u8>)>);

    impl Watch for Seen {
        fn wants(&self, head: &Head) -> bool {
            head.kind != DATA
        }

        fn frame(&mut self, head: Head, payload: &[u8]) {
            self.0.push((head, payload.to_vec()));
        }
    }

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, SETTINGS, 0, 0, b"012345");
        write(&mut bytes, SETTINGS, ACK, 0, b"");
        write(&mut bytes, DATA, END_STREAM, 7, &[1; 300]);
        write(&mut bytes, PING, 0, 0, b"01234567");
        bytes
    }

    #[test]
    fn what_is_gathered_is_not_shown() {
        let mut bytes = Vec::new();
        write(&mut bytes, HEADERS, END_HEADERS, 1, b"secret");
        let mut scanner = Scanner::default();
        scanner.walk(&bytes[..12], &mut Seen::default());
        let secret = format!("{:?}", b"sec");
        assert!(!format!("{scanner:?}").contains(secret.trim_matches(['[', ']'])));
        assert_eq!(*scanner.gathered, b"sec");
    }

    #[test]
    fn frames_are_the_same_however_their_bytes_come() {
        let bytes = stream();
        let mut whole = Seen::default();
        Scanner::default().walk(&bytes, &mut whole);
        let kinds: Vec<_> = whole
            .0
            .iter()
            .map(|(head, p)| (head.kind, p.len()))
            .collect();
        assert_eq!(kinds, [(SETTINGS, 6), (SETTINGS, 0), (DATA, 0), (PING, 8)]);
        assert_eq!(whole.0[2].0.stream, 7);
        for step in 1..40 {
            let (mut scanner, mut seen) = (Scanner::default(), Seen::default());
            for piece in bytes.chunks(step) {
                scanner.walk(piece, &mut seen);
            }
            assert!(scanner.at_boundary());
            assert_eq!(seen.0, whole.0, "{step} bytes at a time");
        }
    }

    #[test]
    fn inside_a_frame_the_scanner_knows_how_much_is_missing() {
        let bytes = stream();
        let ends: Vec<usize> = [15, 9, 309, 17]
            .iter()
            .scan(0, |end, len| {
                *end += len;
                Some(*end)
            })
            .collect();
        for cut in 0..bytes.len() {
            let (mut scanner, mut seen) = (Scanner::default(), Seen::default());
            scanner.walk(&bytes[..cut], &mut seen);
            let inside = cut != 0 && !ends.contains(&cut);
            assert_eq!(scanner.at_boundary(), !inside, "{cut}");
            let mut at = cut;
            while !scanner.at_boundary() {
                let n = scanner.needed();
                scanner.walk(&bytes[at..at + n], &mut seen);
                at += n;
            }
            if inside {
                assert_eq!(ends.iter().find(|&&end| end > cut), Some(&at));
            }
        }
    }
}
