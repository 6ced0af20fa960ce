//! Files of `NAME=value` lines, as systemd's `EnvironmentFile=` and most languages' `.env` have
//! them: comments with `#`, an optional `export`, values in single or double quotes.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Why there is no environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    /// It cannot be read.
    #[error("{0}")]
    Read(String),
    /// A line that is no assignment.
    #[error("line {0}: expected NAME=value")]
    Line(usize),
    /// A quote that is opened and not closed in its line.
    #[error("line {0}: the quote is not closed")]
    Quote(usize),
}

/// The variables of a file, in its order.
///
/// # Errors
/// When it cannot be read, or a line is no assignment. The values are not shown: they are secrets.
pub fn read_env_file(path: &Path) -> Result<Vec<(String, String)>, EnvFileError> {
    let cannot = |e: &dyn std::fmt::Display| EnvFileError::Read(e.to_string());
    let bytes = read_small(path).map_err(|e| cannot(&e))?;
    parse(&String::from_utf8(bytes).map_err(|_| cannot(&"it is not UTF-8"))?)
}

/// A file of an application's or its operator's. Whatever they put there (a pipe, a device, a huge
/// file), nobody waits for it, nor fills their memory with it.
///
/// # Errors
/// When it cannot be read, is no file, or has more than 1 MiB.
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    Ok(bytes)
}

/// Opens what must be a file. Nothing else is opened: that alone does something to a device, and waits
/// for a pipe's other end.
pub(super) fn open_file(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !found.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    fs::File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// More of a file is not read.
const MOST: u64 = 1 << 20;

fn parse(text: &str) -> Result<Vec<(String, String)>, EnvFileError> {
    let mut variables = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = line.split_once('=').ok_or(EnvFileError::Line(number))?;
        if !is_name(name) {
            return Err(EnvFileError::Line(number));
        }
        let value = unquote(value.trim()).ok_or(EnvFileError::Quote(number))?;
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `None`: a quote is open at the end. What follows a quote, and ` #` after a bare word, is a
/// comment.
fn unquote(value: &str) -> Option<String> {
    match value.chars().next() {
        Some('\'') => {
            let (inside, _) = value[1..].split_once('\'')?;
            Some(inside.to_owned())
        }
        Some('"') => {
            let mut inside = String::new();
            let mut rest = value[1..].chars();
            loop {
                match rest.next()? {
                    '"' => return Some(inside),
                    '\\' => match rest.next()? {
                        'n' => inside.push('\n'),
                        't' => inside.push('\t'),
                        other => inside.push(other),
                    },
                    other => inside.push(other),
                }
            }
        }
        _ => {
            let bare = value.split_once(" #").map_or(value, |(bare, _)| bare);
            Some(bare.trim_end().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_as_people_write_them() {
        let text = "# secrets\n\nA=1\nexport B = no\n";
        assert_eq!(parse(text), Err(EnvFileError::Line(4)));
        let text = "A=1\nexport B=two words # why\nC='it''s'\nD=\"a\\\"b\\n\"\nE=\n; old\nF=x#y\n";
        let pairs = |all: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
            all.iter().map(owned).collect()
        };
        assert_eq!(
            parse(text).unwrap(),
            pairs(&[
                ("A", "1"),
                ("B", "two words"),
                ("C", "it"),
                ("D", "a\"b\n"),
                ("E", ""),
                ("F", "x#y"),
            ])
        );
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("env");
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::unistd::mkfifo(&pipe, mode).unwrap();
        let read = |path: &Path| read_env_file(path).unwrap_err().to_string();
        assert_eq!(read(&pipe), "it is not a file");
        assert_eq!(read(Path::new("/dev/zero")), "it is not a file");
        let big = dir.path().join("big");
        fs::File::create(&big).unwrap().set_len(MOST + 1).unwrap();
        assert_eq!(read(&big), "it has more than 1 MiB");
        fs::write(&big, b"A=\xff\n").unwrap();
        assert_eq!(read(&big), "it is not UTF-8");
    }

    #[test]
    fn what_is_no_assignment_is_named_by_its_line_and_not_by_what_it_says() {
        for (text, error) in [
            ("A=1\nsecret", EnvFileError::Line(2)),
            ("1A=2", EnvFileError::Line(1)),
            ("=2", EnvFileError::Line(1)),
            ("A-B=2", EnvFileError::Line(1)),
            ("A='open", EnvFileError::Quote(1)),
            ("A=\"open\\\"", EnvFileError::Quote(1)),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
