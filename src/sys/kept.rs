//! Files that a service keeps: they belong to no process of it. In the runtime directory, which is in
//! memory under systemd, so every worker of every generation finds the same ones, and they outlive each.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

const PREFIX: &str = "kept-";

/// The file of this name; an empty one is made where there is none.
pub fn open(runtime: &Path, name: &str, version: u32) -> io::Result<File> {
    let mut file = String::from(PREFIX);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
            file.push(byte.into());
        } else {
            let _ = write!(file, "%{byte:02x}");
        }
    }
    let _ = write!(file, ".{version}");
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(runtime.join(file))
}

/// The service ends, and they with it.
pub fn forget(runtime: &Path) {
    for entry in fs::read_dir(runtime).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_name_and_a_version_have_one_file_whatever_the_name_is() {
        let runtime = tempfile::tempdir().unwrap();
        let text = |name: &str, version| {
            let mut text = String::new();
            let mut file = open(runtime.path(), name, version).unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        let names = ["a", "../a", "a/b", "a%2fb", "", "ä"];
        for name in names {
            let mut file = open(runtime.path(), name, 1).unwrap();
            file.write_all(name.as_bytes()).unwrap();
        }
        for name in names {
            assert_eq!((&*text(name, 1), &*text(name, 2)), (name, ""));
        }
        fs::write(runtime.path().join("another"), "").unwrap();
        forget(runtime.path());
        let left: Vec<_> = fs::read_dir(runtime.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
