//! `Range` (RFC 9110, 14.2), read as nginx reads it.

use std::ops::Range;

/// Ranges in one request; one with more is answered with the whole file. nginx has no bound but that
/// of the bytes, so each of ours costs a client more than it costs us.
const MOST: usize = 64;

/// What of a file is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it: no range, one of an unknown unit, or ranges that are together longer than it.
    Whole,
    /// These parts, in the client's order; none is empty, and there is at least one.
    Parts(Vec<Range<u64>>),
    /// Nothing that there is: 416.
    Nothing,
}

/// Reads the header's value for a file of this length.
pub(super) fn asked(value: &[u8], length: u64) -> Asked {
    const UNIT: &[u8] = b"bytes=";
    let Some((unit, ranges)) = value.split_at_checked(UNIT.len()) else {
        return Asked::Whole;
    };
    if !unit.eq_ignore_ascii_case(UNIT) || ranges.is_empty() || length == 0 {
        return Asked::Whole;
    }
    let mut parts = Vec::new();
    let mut bytes = 0;
    for (n, range) in ranges.split(|byte| *byte == b',').enumerate() {
        let Some(part) = one(range, length) else {
            return Asked::Nothing;
        };
        if part.is_empty() {
            continue;
        }
        bytes += part.end - part.start;
        if bytes > length || n >= MOST {
            return Asked::Whole;
        }
        parts.push(part);
    }
    if parts.is_empty() {
        return Asked::Nothing;
    }
    Asked::Parts(parts)
}

/// One range; an empty one is not in the file. `None`: it is no range.
fn one(range: &[u8], length: u64) -> Option<Range<u64>> {
    let dash = range.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (range[..dash].trim_ascii(), range[dash + 1..].trim_ascii());
    if first.is_empty() {
        return Some(length.saturating_sub(number(last)?)..length);
    }
    let start = number(first)?;
    let end = if last.is_empty() {
        length
    } else {
        number(last)?.checked_add(1)?.min(length)
    };
    Some(start..end)
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// nginx 1.22's answers about ten bytes.
    #[test]
    fn ranges_are_read_as_nginx_reads_them() {
        let part = |range: Range<u64>| Asked::Parts(vec![range]);
        for (value, expected) in [
            ("bytes=2-4", part(2..5)),
            ("bytes=7-", part(7..10)),
            ("bytes=-2", part(8..10)),
            ("bytes=-5000", part(0..10)),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-99", part(5..10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=9-", part(9..10)),
            ("bytes=5-4", Asked::Nothing),
            ("bytes=", Asked::Whole),
            ("bytes=-", Asked::Nothing),
            ("bytes=a-b", Asked::Nothing),
            ("bytes=1-2x", Asked::Nothing),
            ("bytes=1", Asked::Nothing),
            ("bytes 1-2", Asked::Whole),
            ("items=0-1", Asked::Whole),
            ("BYTES=1-2", part(1..3)),
            ("bytes = 1-2", Asked::Whole),
            ("bytes= 1 - 2 ", part(1..3)),
            ("bytes=0-1,4-5", Asked::Parts(vec![0..2, 4..6])),
            ("bytes=4-5, 0-1", Asked::Parts(vec![4..6, 0..2])),
            ("bytes=0-1,20-", part(0..2)),
            ("bytes=20-,0-1", part(0..2)),
            ("bytes=20-,30-", Asked::Nothing),
            ("bytes=0-1,,4-5", Asked::Nothing),
            ("bytes=,0-1", Asked::Nothing),
            ("bytes=0-1,", Asked::Nothing),
            ("bytes=0-1,x", Asked::Nothing),
            ("bytes=0-4,2-6", Asked::Parts(vec![0..5, 2..7])),
            ("bytes=0-,0-", Asked::Whole),
            ("bytes=0-5,0-5", Asked::Whole),
            ("bytes=-2,-3", Asked::Parts(vec![8..10, 7..10])),
            ("bytes=0-9", part(0..10)),
            ("bytes=0-99999999999999999999", Asked::Nothing),
            ("bytes=18446744073709551615-", Asked::Nothing),
            ("bytes=0-18446744073709551615", Asked::Nothing),
            ("bytes=+1-2", Asked::Nothing),
            ("bytes=5-4,0-1", part(0..2)),
            ("bytes=0-0;1-1", Asked::Nothing),
        ] {
            assert_eq!(asked(value.as_bytes(), 10), expected, "{value}");
        }
    }

    #[test]
    fn of_an_empty_file_there_are_no_parts() {
        for value in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
            assert_eq!(asked(value.as_bytes(), 0), Asked::Whole, "{value}");
        }
    }

    #[test]
    fn more_ranges_than_anybody_needs_are_the_whole_file() {
        let of = |count: u64| {
            let ranges: Vec<_> = (0..count).map(|n| format!("{n}-{n}")).collect();
            asked(format!("bytes={}", ranges.join(",")).as_bytes(), 1000)
        };
        assert!(matches!(of(64), Asked::Parts(parts) if parts.len() == 64));
        assert_eq!(of(65), Asked::Whole);
    }
}
