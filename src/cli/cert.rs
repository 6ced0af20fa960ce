//! `cert NAME…`: a certificate that is its own authority, for a first try of `tls = true`. Clients
//! must be told to trust it; for everybody else there is an authority (ACME: certbot, lego...).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::unistd::{Gid, Group, Uid};

#[cfg(feature = "tls")]
mod signed;
#[cfg(not(feature = "tls"))]
#[path = "cert/without_tls.rs"]
mod signed;

use signed::self_signed;

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// Not a name.
    #[error("cannot make a certificate for {names:?}: {why}")]
    Names {
        /// As typed.
        names: Vec<String>,
        /// Which name, or what else.
        why: String,
    },
    /// The file system.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whether the group can read the key.
    pub shared: bool,
}

/// Makes a certificate for `names` and writes it to `directory`, named after the first of them. What
/// is there is not overwritten. Root lets `group`, the service's, read the key.
///
/// # Errors
/// A name that cannot be in a certificate, a file that is there or cannot be written.
pub fn make(
    names: &[String],
    directory: &Path,
    group: &str,
    now: Timestamp,
) -> Result<Made, CertError> {
    let (certificate_pem, key_pem) = self_signed(names, now).map_err(|why| CertError::Names {
        names: names.to_vec(),
        why,
    })?;
    let first = names.first().map_or("localhost", String::as_str);
    let stem = first.replace("*.", "wildcard.").replace(['/', ':'], "_");
    let group = group_of(group);
    let made = Made {
        shared: group.is_some(),
        certificate: directory.join(format!("{stem}.crt")),
        key: directory.join(format!("{stem}.key")),
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CertError::Write { path, source }
    };
    make_directory(directory, group).map_err(failed(directory))?;
    // The key first: a certificate without one is what `check` would complain of.
    write_new(&made.key, 0o640, group, &key_pem).map_err(failed(&made.key))?;
    let written = write_new(&made.certificate, 0o644, group, &certificate_pem);
    written.map_err(|e| {
        // A key alone, or beside the certificate of another, would be refused.
        let _ = fs::remove_file(&made.key);
        failed(&made.certificate)(e)
    })?;
    Ok(made)
}

/// Whom root lets read what it writes.
fn group_of(name: &str) -> Option<Gid> {
    let root = Uid::effective().is_root();
    let group = root.then(|| Group::from_name(name).ok().flatten());
    group.flatten().map(|group| group.gid)
}

/// One that is there stays as it is.
fn make_directory(directory: &Path, group: Option<Gid>) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    match group {
        Some(_) => share(&File::open(directory)?, 0o750, group),
        None => Ok(()),
    }
}

/// Nothing is left of what cannot be written.
fn write_new(path: &Path, mode: u32, group: Option<Gid>, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    // Without the group what is not for everybody is its owner's alone.
    let mode = match group {
        None if mode & 0o004 == 0 => mode & 0o600,
        _ => mode,
    };
    let written = share(&file, mode, group).and_then(|()| file.write_all(text.as_bytes()));
    written.inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// By descriptor: in another's directory the name may be anything by now.
fn share(file: &File, mode: u32, group: Option<Gid>) -> io::Result<()> {
    nix::unistd::fchown(file, None, group)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_made_is_what_the_configuration_takes() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = make(&names, &tls, "nobody-is-called-so", Timestamp::now()).unwrap();
        let permissions = fs::metadata(&made.key).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600);
        assert!(!made.shared);
        let config = dir.path().join("web.toml");
        let text = "[[listener]]\nname = \"https\"\naddress = \"127.0.0.1:8443\"\ntls = true\n\
                    [tls]\ndirectory = \"tls\"\n";
        fs::write(&config, text).unwrap();
        let loaded = Config::load(Some(&config), "web", Config::default()).unwrap();
        let identities = loaded.config.tls.identities.unwrap();
        assert_eq!(identities.list[0].names, names);
        let now = std::time::SystemTime::now();
        identities.check_dates(now, None).unwrap();
        assert!(!identities.list[0].is_due(now));
    }

    #[test]
    fn a_certificate_that_is_there_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["localhost".to_owned()];
        make(&names, dir.path(), "x", Timestamp::now()).unwrap();
        let again = make(&names, dir.path(), "x", Timestamp::now()).unwrap_err();
        assert!(again.to_string().contains("localhost.key"), "{again}");
    }
}
