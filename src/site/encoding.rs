//! Which of the compressed forms of a file that lie beside it a client takes, and likes best.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// A compressed form, the best one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Zstd,
    Brotli,
    Gzip,
}

/// What a client takes, the form that it likes best first. However many ways there are to say it,
/// there are only [`Encodings::KINDS`] of these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Encodings([Option<Encoding>; 3]);

const ALL: [Encoding; 3] = [Encoding::Zstd, Encoding::Brotli, Encoding::Gzip];

impl Encoding {
    /// As `Content-Encoding` calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// Behind the file's name.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::Brotli => ".br",
            Self::Gzip => ".gz",
        }
    }

    fn is_called(self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.name())
            || self == Self::Gzip && name.eq_ignore_ascii_case("x-gzip")
    }
}

impl Encodings {
    /// How many different ones there can be.
    pub(super) const KINDS: usize = 4 * 4 * 4;

    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let mut named = [None; 3];
        let mut others = None;
        let lists = headers.get_all(ACCEPT_ENCODING).into_iter();
        for one in lists
            .filter_map(|list| list.to_str().ok())
            .flat_map(|list| list.split(','))
        {
            let (name, weight) = match one.split_once(';') {
                Some((name, parameter)) => (name, weight(parameter)),
                None => (one, 1000),
            };
            let name = name.trim();
            if name == "*" {
                others = Some(weight);
            }
            for (encoding, named) in ALL.into_iter().zip(&mut named) {
                if encoding.is_called(name) {
                    *named = Some(weight);
                }
            }
        }
        let mut taken: Vec<(u16, Encoding)> = ALL
            .into_iter()
            .zip(named)
            .filter_map(|(encoding, named)| Some((named.or(others)?, encoding)))
            .filter(|(weight, _)| *weight > 0)
            .collect();
        // The sort is stable: what is liked the same stays in our order.
        taken.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        let mut encodings = Self::default();
        for (slot, (_, encoding)) in encodings.0.iter_mut().zip(taken) {
            *slot = Some(encoding);
        }
        encodings
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Encoding> {
        self.0.into_iter().flatten()
    }

    /// Its number, less than [`Self::KINDS`].
    pub(super) fn kind(self) -> usize {
        self.0.iter().fold(0, |number, slot| {
            number * 4 + slot.map_or(0, |encoding| encoding as usize + 1)
        })
    }
}

/// Thousandths (RFC 9110, 12.4.2); what is no weight is none.
fn weight(parameter: &str) -> u16 {
    let Some((name, value)) = parameter.split_once('=') else {
        return 1000;
    };
    let value: f32 = match value.trim().parse() {
        Ok(value) if name.trim().eq_ignore_ascii_case("q") => value,
        _ => return 1000,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000"
    )]
    let thousandths = (value.clamp(0.0, 1.0) * 1000.0) as u16;
    thousandths
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn accepted(text: &str) -> Encodings {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, text.parse().unwrap());
        Encodings::accepted(&headers)
    }

    #[test]
    fn a_client_gets_what_it_likes_best_and_nothing_that_it_refuses() {
        for (text, names) in [
            ("", ""),
            ("identity", ""),
            ("gzip", "gzip"),
            ("X-GZIP", "gzip"),
            ("gzip, deflate, br, zstd", "zstd br gzip"),
            ("gzip;q=0.9, br;q=0.5", "gzip br"),
            ("gzip;q=0.5, br ; q=0.9, zstd;q=0", "br gzip"),
            ("*", "zstd br gzip"),
            ("*;q=0.1, gzip", "gzip zstd br"),
            ("*, gzip;q=0", "zstd br"),
            ("gzip;q=0.001", "gzip"),
            ("gzip;q=0.0", ""),
            ("gzip;q=nan", ""),
        ] {
            let got: Vec<_> = accepted(text).iter().map(Encoding::name).collect();
            assert_eq!(got.join(" "), names, "{text}");
        }
    }

    #[test]
    fn there_are_few_kinds_and_each_has_a_number_of_its_own() {
        let mut kinds = HashSet::new();
        for q in 0..1000 {
            let (a, b, c) = (q % 10, q / 10 % 10, q / 100);
            let kind = accepted(&format!("gzip;q=0.{a}, br;q=0.{b}, zstd;q=0.{c}, x{q}"));
            assert!(kind.kind() < Encodings::KINDS);
            kinds.insert(kind.kind());
        }
        assert_eq!(kinds.len(), 16);
    }
}
