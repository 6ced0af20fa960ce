//! A number of bytes as systemd writes one: "512M".

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// So many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

/// Not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size such as \"512M\" or \"2G\"")]
pub struct SizeError(String);

/// To the base 1024, as systemd.exec(5) has them.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let unit = UNITS.iter().find(|(name, _)| text.ends_with(*name));
        let (digits, shift) = match unit {
            Some((name, shift)) => (&text[..text.len() - name.len_utf8()], *shift),
            None => (text, 0),
        };
        let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse::<u64>().ok().filter(|_| all_digits);
        let bytes = number.and_then(|n| n.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| SizeError(text.into()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: &u32| self.0 != 0 && self.0 % (1 << shift) == 0;
        match UNITS.iter().find(|(_, shift)| whole(shift)) {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => self.0.fmt(f),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = SizeError;

    fn try_from(text: String) -> Result<Self, SizeError> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_written_as_it_is_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1023", 1023),
            ("1K", 1024),
            ("512M", 512 << 20),
            ("1G", 1 << 30),
            ("3T", 3 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!("1024M".parse(), Ok(Size(1 << 30)));
        for bad in ["", "M", "-1", "+1", "1.5G", "1m", "1MM", "1 M", "99999999T"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}
