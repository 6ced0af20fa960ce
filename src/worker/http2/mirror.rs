//! What the client's HPACK encoder believes our table to hold (RFC 7541), in the form in which it
//! came: header blocks are walked, and no string in them is decoded. Another `h2` that is given
//! [`Mirror::priming`] as a header block holds the same table afterwards.
//!
//! The walk is total: each byte is looked at a bounded number of times, and copied once. What is not
//! understood is an error, after which the mirror says nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use zeroize::{Zeroize as _, Zeroizing};

/// The table of a decoder. It takes no more memory than the table counts (RFC 7541, 4.1), as long as
/// strings are not longer on the wire than they are.
pub(super) struct Mirror {
    /// The newest first.
    entries: VecDeque<Entry>,
    /// Their values as they came, one behind the other, the oldest first; and before them what is gone.
    values: Zeroizing<Vec<u8>>,
    gone: usize,
    /// Of all entries (RFC 7541, 4.1).
    size: usize,
    /// The encoder's choice.
    max: usize,
    /// Ours: `SETTINGS_HEADER_TABLE_SIZE`.
    limit: usize,
}

struct Entry {
    name: Name,
    /// How long it is on the wire.
    value: u32,
    /// See [`Mirror::size`].
    size: u32,
}

#[derive(Clone)]
enum Name {
    /// Of the static table.
    Static(u8),
    /// Entries share it: two bytes of a client's make an entry of a name that is in the table, which must
    /// not cost us the name.
    Literal(Arc<Literal>),
}

struct Literal {
    /// As it came.
    wire: Zeroizing<Box<[u8]>>,
    /// How long it is.
    len: usize,
}

/// No strings, and no lengths of them: they are known from nowhere else.
impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror")
            .field("entries", &self.entries.len())
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}

/// A header block that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUnderstood;

/// What a table may hold when nothing else was said (RFC 9113, 6.5.2).
pub(super) const TABLE: usize = 4096;

/// An entry's size beside its strings (RFC 7541, 4.1).
const ENTRY: usize = 32;

/// Entries of the static table (RFC 7541, A).
const STATIC: usize = 61;

/// `connection: x`, which no request may have (RFC 9113, 8.2.2), as a literal that is not indexed.
const MALFORMED: &[u8] = b"\0\x0aconnection\x01x";

impl Mirror {
    /// The table of a new connection. `limit`: how large the client may make it.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            values: Zeroizing::default(),
            gone: 0,
            size: 0,
            max: TABLE,
            limit,
        }
    }

    /// How large the client may make the table.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// A header block of the client's.
    pub(super) fn walk(&mut self, block: &[u8]) -> Result<(), NotUnderstood> {
        let mut at = Reader(block);
        let mut begun = false;
        while let Some(&first) = at.0.first() {
            if first & 0xe0 == 0x20 {
                // Only at the beginning (RFC 7541, 4.2).
                let max = at.integer(5)?;
                if begun || max > self.limit {
                    return Err(NotUnderstood);
                }
                self.max = max;
                self.evict(0);
                continue;
            }
            begun = true;
            if first & 0x80 != 0 {
                let index = at.integer(7)?;
                self.check(index)?;
            } else if first & 0x40 != 0 {
                self.push(&mut at)?;
            } else {
                match at.integer(4)? {
                    0 => {
                        at.string()?;
                    }
                    index => self.check(index)?,
                }
                at.string()?;
            }
        }
        Ok(())
    }

    /// A header block that makes the table what it is, and is no request: an `h2` that is given it
    /// decodes it, resets its stream, and tells nobody.
    pub(super) fn priming(&self) -> Zeroizing<Vec<u8>> {
        let names = self.entries.iter().map(|entry| match &entry.name {
            Name::Static(_) => 1,
            Name::Literal(name) => 1 + name.wire.len(),
        });
        let room = names.sum::<usize>() + self.values.len() - self.gone;
        // Never grown, so that no copy of a secret stays behind in a smaller buffer.
        let mut block = Zeroizing::new(Vec::with_capacity(room + 8 + MALFORMED.len()));
        if self.max != TABLE {
            write_integer(&mut block, 0x20, 5, self.max);
        }
        let mut values = &self.values[self.gone..];
        for (n, entry) in self.entries.iter().enumerate().rev() {
            match &entry.name {
                Name::Static(index) => block.push(0x40 | index),
                Name::Literal(name) => {
                    // Of an entry that has it already: it is shared there, too.
                    let index = self.distance(n, name).map_or(0, |behind| STATIC + behind);
                    write_integer(&mut block, 0x40, 6, index);
                    if index == 0 {
                        block.extend_from_slice(&name.wire);
                    }
                }
            }
            let (value, rest) = values.split_at(entry.value as usize);
            block.extend_from_slice(value);
            values = rest;
        }
        debug_assert!(block.len() <= room + 8);
        block.extend_from_slice(MALFORMED);
        block
    }

    /// How far behind entry `n` the next one is that shares its name.
    fn distance(&self, n: usize, name: &Arc<Literal>) -> Option<usize> {
        if Arc::strong_count(name) == 1 {
            return None;
        }
        let mut older = self.entries.iter().skip(n + 1);
        let found = older.position(
            |entry| matches!(&entry.name, Name::Literal(other) if Arc::ptr_eq(name, other)),
        );
        found.map(|n| n + 1)
    }

    fn check(&self, index: usize) -> Result<(), NotUnderstood> {
        if index == 0 || index > STATIC + self.entries.len() {
            return Err(NotUnderstood);
        }
        Ok(())
    }

    /// A literal with incremental indexing.
    fn push(&mut self, at: &mut Reader<'_>) -> Result<(), NotUnderstood> {
        let index = at.integer(6)?;
        let name = match (index.checked_sub(STATIC + 1), u8::try_from(index)) {
            (Some(n), _) => self.entries.get(n).ok_or(NotUnderstood)?.name.clone(),
            (None, Ok(index @ 1..)) => Name::Static(index),
            (None, _) => Name::Literal(Arc::new(Literal::read(at)?)),
        };
        let value = at.0;
        let value_len = decoded_len(&at.string()?)?;
        let value = &value[..value.len() - at.0.len()];
        let size = name.len() + value_len + ENTRY;
        // One that is too large leaves nothing (RFC 7541, 4.4).
        self.evict(size);
        if size <= self.max {
            self.size += size;
            self.append(value);
            let (value, size) = (narrow(value.len())?, narrow(size)?);
            if self.entries.len() == self.entries.capacity() {
                self.entries.reserve_exact(4 + self.entries.len() / 4);
            }
            self.entries.push_front(Entry { name, value, size });
        }
        debug_assert!(self.size <= self.max);
        Ok(())
    }

    /// Puts a value behind the others. Where they must be moved for it, no copy stays behind, and nothing
    /// of what is gone.
    fn append(&mut self, value: &[u8]) {
        if self.values.len() + value.len() > self.values.capacity() {
            let live = &self.values[self.gone..];
            let len = live.len() + value.len();
            let mut moved = Zeroizing::new(Vec::with_capacity(len + (len / 4).max(64)));
            moved.extend_from_slice(live);
            (self.values, self.gone) = (moved, 0);
        }
        self.values.extend_from_slice(value);
    }

    /// Makes room for so much.
    fn evict(&mut self, room: usize) {
        while self.size + room > self.max {
            let Some(entry) = self.entries.pop_back() else {
                return;
            };
            self.size -= entry.size as usize;
            let end = self.gone + entry.value as usize;
            self.values[self.gone..end].zeroize();
            self.gone = end;
        }
    }
}

impl Name {
    fn len(&self) -> usize {
        match self {
            Self::Static(index) => STATIC_NAMES[usize::from(*index) - 1],
            Self::Literal(name) => name.len,
        }
    }
}

impl Literal {
    fn read(at: &mut Reader<'_>) -> Result<Self, NotUnderstood> {
        let begin = at.0;
        let len = decoded_len(&at.string()?)?;
        if len == 0 {
            // `h2` does not put it into its table (RFC 9110, 5.1: there is no such name).
            return Err(NotUnderstood);
        }
        let wire = begin[..begin.len() - at.0.len()].into();
        Ok(Self {
            wire: Zeroizing::new(wire),
            len,
        })
    }
}

/// Of what is in a table: none is so large.
fn narrow(len: usize) -> Result<u32, NotUnderstood> {
    len.try_into().map_err(|_| NotUnderstood)
}

/// A string literal as it came.
struct Text<'b> {
    bytes: &'b [u8],
    huffman: bool,
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    /// An integer whose first byte has so many bits of it (RFC 7541, 5.1); of at most five bytes, as
    /// `h2` reads them.
    fn integer(&mut self, bits: u32) -> Result<usize, NotUnderstood> {
        let (&first, mut rest) = self.0.split_first().ok_or(NotUnderstood)?;
        let mask = (1_usize << bits) - 1;
        let mut value = usize::from(first) & mask;
        if value == mask {
            for shift in (0..).step_by(7).take(4) {
                let (&next, more) = rest.split_first().ok_or(NotUnderstood)?;
                rest = more;
                value += usize::from(next & 0x7f) << shift;
                if next & 0x80 == 0 {
                    self.0 = rest;
                    return Ok(value);
                }
            }
            return Err(NotUnderstood);
        }
        self.0 = rest;
        Ok(value)
    }

    fn string(&mut self) -> Result<Text<'b>, NotUnderstood> {
        let huffman = self.0.first().is_some_and(|first| first & 0x80 != 0);
        let len = self.integer(7)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(NotUnderstood)?;
        self.0 = rest;
        Ok(Text { bytes, huffman })
    }
}

fn write_integer(out: &mut Vec<u8>, first: u8, bits: u32, mut value: usize) {
    let mask = (1_usize << bits) - 1;
    let low = |value: usize| u8::try_from(value & 0xff).unwrap_or_default();
    if value < mask {
        out.push(first | low(value));
        return;
    }
    out.push(first | low(mask));
    value -= mask;
    while value >= 0x80 {
        out.push(low(value & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(low(value));
}

/// How long a string is when it is decoded.
fn decoded_len(text: &Text<'_>) -> Result<usize, NotUnderstood> {
    if !text.huffman {
        return Ok(text.bytes.len());
    }
    let mut symbols = 0;
    // The code is canonical: codes of one length follow each other, and the first of the next length
    // is the last one's successor, a bit longer. So a code is told by its length alone.
    let (mut code, mut first, mut len) = (0_u32, 0_u32, 0_usize);
    let mut ones = true;
    for &byte in text.bytes {
        for bit in (0..8).rev() {
            let bit = u32::from(byte >> bit & 1);
            code = code << 1 | bit;
            first <<= 1;
            ones &= bit == 1;
            let count = u32::from(*CODES.get(len).ok_or(NotUnderstood)?);
            len += 1;
            if code < first + count {
                // The last code is the end of the string, which is never sent (RFC 7541, 5.2).
                if code == EOS && len == CODES.len() {
                    return Err(NotUnderstood);
                }
                symbols += 1;
                (code, first, len, ones) = (0, 0, 0, true);
            } else {
                first += count;
            }
        }
    }
    // What is left is the beginning of the last code, and no whole byte.
    if len > 7 || !ones {
        return Err(NotUnderstood);
    }
    Ok(symbols)
}

/// How many codes of 1, 2, ... bits there are (RFC 7541, B).
const CODES: [u8; 30] = [
    0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29,
    0, 4,
];

const EOS: u32 = 0x3fff_ffff;

/// How long the names of the static table are (RFC 7541, A).
const STATIC_NAMES: [usize; STATIC] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];

#[cfg(test)]
mod tests;
