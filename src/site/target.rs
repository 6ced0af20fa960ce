//! Which name below the root a request asks for: percent-encoding, repeated slashes and dot segments
//! end where nginx's static module ends.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A decoded path: it begins with a slash, has no empty, `.` or `..` segment and no NUL, and ends
/// with a slash when a directory is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target<'a>(Cow<'a, [u8]>);

/// The path has no meaning, or leads out of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadTarget;

impl<'a> Target<'a> {
    pub(super) fn parse(path: &'a str) -> Result<Self, BadTarget> {
        let bytes = path.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Err(BadTarget);
        }
        // Nearly every path is what it says.
        let plain =
            !bytes.contains(&b'%') && !bytes.windows(2).any(|two| matches!(two, b"//" | b"/."));
        if plain {
            return Ok(Self(Cow::Borrowed(bytes)));
        }
        Ok(Self(Cow::Owned(normal(&decoded(bytes)?)?)))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Below the root.
    pub(super) fn relative(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0[1..]))
    }

    pub(super) fn is_directory(&self) -> bool {
        self.0.ends_with(b"/")
    }

    /// What a client has to ask for to get the directory of this name.
    pub(super) fn as_directory(&self, query: Option<&str>) -> String {
        let mut location = String::with_capacity(self.0.len() + 1);
        for byte in &*self.0 {
            let plain = byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(byte);
            if plain {
                location.push(char::from(*byte));
            } else {
                let _ = write!(location, "%{byte:02X}");
            }
        }
        location.push('/');
        if let Some(query) = query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

fn decoded(path: &[u8]) -> Result<Vec<u8>, BadTarget> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter();
    while let Some(&byte) = bytes.next() {
        let byte = if byte == b'%' {
            let mut digit = || {
                let digit = char::from(*bytes.next()?).to_digit(16)?;
                u8::try_from(digit).ok()
            };
            let high = digit().ok_or(BadTarget)?;
            high << 4 | digit().ok_or(BadTarget)?
        } else {
            byte
        };
        if byte == 0 {
            return Err(BadTarget);
        }
        decoded.push(byte);
    }
    Ok(decoded)
}

fn normal(path: &[u8]) -> Result<Vec<u8>, BadTarget> {
    let mut normal = Vec::with_capacity(path.len());
    let mut is_directory = true;
    for segment in path.split(|byte| *byte == b'/') {
        is_directory = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => {
                let parent = normal.iter().rposition(|byte| *byte == b'/');
                normal.truncate(parent.ok_or(BadTarget)?);
            }
            name => {
                normal.push(b'/');
                normal.extend_from_slice(name);
            }
        }
    }
    if is_directory {
        normal.push(b'/');
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_name_is_one() {
        for (path, same) in [
            ("/", "/"),
            ("/a", "/a"),
            ("//a///b//", "/a/b/"),
            ("/./a/./b/.", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a%2Fb%2e%2E/..%2f", "/a/"),
            ("/a%2f..%2Fb", "/b"),
            ("/%61%20", "/a "),
            ("/%2561", "/%61"),
            ("/...", "/..."),
            ("/a/..", "/"),
        ] {
            assert_eq!(
                Target::parse(path).unwrap().bytes(),
                same.as_bytes(),
                "{path}"
            );
        }
    }

    #[test]
    fn what_leads_nowhere_or_out_of_the_root_is_refused() {
        for path in [
            "",
            "*",
            "a",
            "/..",
            "/a/../..",
            "/%2e%2e",
            "/..%2fa",
            "/a/%2e%2e/%2e%2e/b",
            "/%",
            "/%4",
            "/%zz",
            "/%4x",
            "/%00",
            "/a%00b",
        ] {
            assert_eq!(Target::parse(path), Err(BadTarget), "{path}");
        }
    }

    #[test]
    fn the_way_to_a_directory_can_be_asked_for_and_stays_on_this_host() {
        for (path, location) in [
            ("/d", "/d/"),
            ("//d", "/d/"),
            ("/a%20b", "/a%20b/"),
            ("/%5cevil.com", "/%5Cevil.com/"),
            ("/a%0d%0aX:1", "/a%0D%0AX:1/"),
            ("/%3f%23", "/%3F%23/"),
        ] {
            assert_eq!(Target::parse(path).unwrap().as_directory(None), location);
        }
        let target = Target::parse("/d").unwrap();
        assert_eq!(target.as_directory(Some("q=1")), "/d/?q=1");
    }
}
