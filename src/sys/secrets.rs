//! Private keys on their way from one of our processes to another: in memory that only they have (a
//! memfd beside a message), never in a message's text, a file, or a log.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::time::SystemTime;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::machine::tickets::TicketKey;

/// Far more than a thousand certificates.
const MOST: u64 = 64 * 1024 * 1024;

/// Writes them into memory of their own (close-on-exec).
pub fn wrap<T: Serialize>(secrets: &T) -> io::Result<OwnedFd> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, secrets)?;
    if u64::try_from(length.0).is_ok_and(|length| length > MOST) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // Never grown, so that no copy stays behind in a smaller buffer.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *bytes, secrets)?;
    memory(&[&bytes])
}

/// These bytes in memory of their own (close-on-exec), which nobody changes on its way.
pub fn memory(parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let mut file = File::from(empty()?);
    for part in parts {
        file.write_all(part)?;
    }
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

fn empty() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let create = |flags| rustix::fs::memfd_create("handover-secrets", flags);
    match create(flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => Ok(create(flags)?),
        made => Ok(made?),
    }
}

/// Reads what [`wrap`] wrote. The memory goes with its last descriptor.
pub fn unwrap<T: DeserializeOwned>(fd: OwnedFd) -> io::Result<T> {
    let file = File::from(fd);
    let len = file.metadata()?.len();
    if len > MOST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(vec![0; len]);
    // The position is shared with whoever else was given this memory.
    file.read_exact_at(&mut bytes, 0)?;
    // Never its text: it may quote what it does not understand.
    serde_json::from_slice(&bytes).map_err(|e| {
        let (line, column) = (e.line(), e.column());
        let kind = e.classify();
        let text = format!("an unknown form ({kind:?} at {line}:{column})");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// A new key for session tickets.
pub fn ticket_key(now: SystemTime) -> io::Result<TicketKey> {
    let mut random = Zeroizing::new([0; 48]);
    let mut filled = 0;
    while filled < random.len() {
        filled += getrandom(&mut random[filled..], GetRandomFlags::empty())?;
    }
    Ok(TicketKey::new(&random, now))
}

/// Eight letters and digits that nobody else has, for a name.
pub fn word() -> io::Result<String> {
    let mut random = [0; 4];
    getrandom(&mut random, GetRandomFlags::empty())?;
    Ok(format!("{:08x}", u32::from_ne_bytes(random)))
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretBytes;

    #[test]
    fn what_is_wrapped_can_be_read_on_the_other_side_and_again() {
        let secret = SecretBytes::new((0..=255).collect());
        let fd = wrap(&secret).unwrap();
        let copy = fd.try_clone().unwrap();
        for fd in [fd, copy] {
            assert_eq!(unwrap::<SecretBytes>(fd).unwrap(), secret);
        }
    }

    #[test]
    fn an_error_quotes_nothing() {
        let fd = wrap(&"a secret").unwrap();
        let error = unwrap::<Vec<u8>>(fd).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn nobody_changes_what_is_on_its_way() {
        let file = File::from(wrap(&SecretBytes::new(vec![7; 32])).unwrap());
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(1).is_err() && file.set_len(4096).is_err());
    }

    #[test]
    fn no_two_ticket_keys_are_the_same() {
        let now = SystemTime::UNIX_EPOCH;
        let (one, other) = (ticket_key(now).unwrap(), ticket_key(now).unwrap());
        assert_ne!(one.name(), other.name());
        assert_ne!(one.secret(), other.secret());
    }
}
