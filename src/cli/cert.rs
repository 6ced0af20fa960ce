//! `cert NAME…`: a certificate that is its own authority, for a first try of `tls = true`. Clients
//! must be told to trust it; for everybody else there is an authority (ACME: certbot, lego...).

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use nix::unistd::{Group, Uid};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// Not a name.
    #[error("cannot make a certificate for {names:?}: {why}")]
    Names {
        /// As typed.
        names: Vec<String>,
        /// What rcgen says.
        why: rcgen::Error,
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
}

/// As long as a real one.
const DAYS: i64 = 90;

/// Makes a certificate for `names` and writes it to `directory`, named after the first of them. What
/// is there is not overwritten. Root lets the group of the service read the key.
///
/// # Errors
/// A name that cannot be in a certificate, a file that is there or cannot be written.
pub fn make(
    names: &[String],
    directory: &Path,
    service: &str,
    now: Timestamp,
) -> Result<Made, CertError> {
    let (certificate_pem, key_pem) = self_signed(names, now).map_err(|why| CertError::Names {
        names: names.to_vec(),
        why,
    })?;
    let first = names.first().map_or("localhost", String::as_str);
    let stem = first.replace("*.", "wildcard.").replace(['/', ':'], "_");
    let made = Made {
        certificate: directory.join(format!("{stem}.crt")),
        key: directory.join(format!("{stem}.key")),
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CertError::Write { path, source }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    // The key first: a certificate without one is what `check` would complain of.
    write_new(&made.key, 0o600, key_pem.as_bytes()).map_err(failed(&made.key))?;
    share(&made.key, service).map_err(failed(&made.key))?;
    write_new(&made.certificate, 0o644, certificate_pem.as_bytes())
        .map_err(failed(&made.certificate))?;
    Ok(made)
}

/// Certificate and key in PEM.
fn self_signed(names: &[String], now: Timestamp) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    let part = |n: i8| u8::try_from(n).unwrap_or(1);
    let day = |date: Date| {
        let year = i32::from(date.year());
        rcgen::date_time_ymd(year, part(date.month()), part(date.day()))
    };
    let today = now.to_zoned(TimeZone::UTC).date();
    params.not_before = day(today);
    params.not_after = day(today.saturating_add(DAYS.days()));
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, names.first().map_or("localhost", |n| n));
    params.distinguished_name = name;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)
}

/// What root writes the service must be able to read, and nobody else.
fn share(key: &Path, service: &str) -> io::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let Ok(Some(group)) = Group::from_name(service) else {
        return Ok(());
    };
    nix::unistd::chown(key, None, Some(group.gid))?;
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    fs::set_permissions(key, readable)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
